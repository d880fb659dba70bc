// Attention over a paged KV cache, for a few queries of one request at a time.
//
// Each K and V row is converted to float once and used by all queries of the block and all query heads of the KV head:
// at decode that is the GQA group, at verification group * num_draft_tokens.
#pragma once
#include "scalar.h"

namespace aerie::AERIE_ISA {

static inline bool visible(const Query& query, int64_t key) {
  return key >= query.from && key < query.to &&
         (!query.tree_mask || key < query.prefix || query.tree_mask[key - query.prefix]);
}

// scores[keys] of one query and head -> weights; returns their sum. Hidden keys have a score of -inf and weight 0.
static float softmax_in_place(float* scores, int64_t keys) {
  float top = -INFINITY, sum = 0.f;
  for (int64_t i = 0; i < keys; ++i) top = scores[i] > top ? scores[i] : top;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < keys; ++i) {
    const float weight = scores[i] == -INFINITY ? 0.f : exp_f32(scores[i] - top);
    scores[i] = weight;
    sum += weight;
  }
  return sum;
}

template <typename T>
static void score_keys(const AttentionArgs<T>& a, const float* q, float* row, float* scores, int64_t begin, int64_t keys) {
  for (int64_t j = 0; j < keys; ++j) {
    load_row(a.k_cache + int64_t(a.queries[0].slots[begin + j]) * a.k_slot_stride, row, a.head_size);
    for (int64_t i = 0; i < a.count; ++i) {
      const bool seen = visible(a.queries[i], begin + j);
      for (int64_t h = i * a.group; h < (i + 1) * a.group; ++h) {
        const float score = seen ? dot(q + h * a.head_size, row, a.head_size) : -INFINITY;
        scores[h * keys + j] = a.logit_cap > 0.f ? a.logit_cap * tanhf(score / a.logit_cap) : score;
        if (!seen) scores[h * keys + j] = -INFINITY;
      }
    }
  }
}

template <typename T>
static void mix_values(const AttentionArgs<T>& a, float* acc, float* row, const float* weights, int64_t begin, int64_t keys) {
  for (int64_t j = 0; j < keys; ++j) {
    load_row(a.v_cache + int64_t(a.queries[0].slots[begin + j]) * a.v_slot_stride, row, a.head_size);
    for (int64_t h = 0; h < a.count * a.group; ++h) {
      // A hidden key must not contribute even if its V row is inf or NaN (stale cache contents).
      if (weights[h * keys + j] != 0.f) add_scaled(acc + h * a.head_size, row, weights[h * keys + j], a.head_size);
    }
  }
}

template <typename T>
static void attention(const AttentionArgs<T>& a) {
  int64_t begin = a.queries[0].from, end = a.queries[0].to;
  for (int64_t i = 1; i < a.count; ++i) {
    begin = a.queries[i].from < begin ? a.queries[i].from : begin;
    end = a.queries[i].to > end ? a.queries[i].to : end;
  }
  const int64_t keys = end - begin, rows = a.count * a.group, size = rows * a.head_size;
  float* row = a.scratch;          // [head_size]
  float* q = row + a.head_size;    // [rows, head_size], scaled
  float* acc = q + size;           // [rows, head_size]
  float* scores = acc + size;      // [rows, keys]
  float* sums = scores + rows * keys;  // [rows]
  for (int64_t h = 0; h < rows; ++h) {
    const T* in = a.q + a.queries[h / a.group].token * a.q_token_stride + h % a.group * a.q_head_stride;
    for (int64_t d = 0; d < a.head_size; ++d) q[h * a.head_size + d] = load(in + d) * a.scale;
  }
  score_keys(a, q, row, scores, begin, keys);
  for (int64_t h = 0; h < rows; ++h) sums[h] = softmax_in_place(scores + h * keys, keys);
  for (int64_t i = 0; i < size; ++i) acc[i] = 0.f;
  mix_values(a, acc, row, scores, begin, keys);
  for (int64_t h = 0; h < rows; ++h) {
    T* out = a.out + a.queries[h / a.group].token * a.out_token_stride + h % a.group * a.out_head_stride;
    for (int64_t d = 0; d < a.head_size; ++d) store(out + d, acc[h * a.head_size + d] / sums[h]);
  }
}

}  // namespace aerie::AERIE_ISA
