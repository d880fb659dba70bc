// Attention over a paged KV cache, for a few queries of one request at a time.
//
// Each K and V row is read once and used by all queries of the block and all query heads of the KV head: at decode that
// is the GQA group, at verification group * num_draft_tokens. Keys are taken 16 at a time, as a panel.
#pragma once
#include "panel.h"

namespace aerie::AERIE_ISA {

// Asks for the rows of keys (or values) that are a few panels ahead: they lie wherever the cache had room, which is
// beyond what the hardware foresees.
template <typename T>
static inline void prefetch_rows(const T* cache, int64_t stride, int64_t size, const int32_t* slots, int64_t first, int64_t keys) {
  constexpr int64_t ahead = 2 * panel_width, line = 64 / sizeof(T);
  const int64_t last = first + ahead + panel_width < keys ? first + ahead + panel_width : keys;
  for (int64_t key = first + ahead; key < last; ++key)
    for (int64_t i = 0; i < size; i += line) __builtin_prefetch(cache + int64_t(slots[key]) * stride + i);
}

// Products of the rows of q with all keys, scaled and capped: scores [rows, row_size], of which `keys` are written.
template <typename T>
static void score_keys(const AttentionArgs<T>& a, const T* q, int64_t rows, T* panel, float* scores, int64_t row_size,
                       const int32_t* slots, int64_t keys) {
  for (int64_t first = 0; first < keys; first += panel_width) {
    prefetch_rows(a.k_cache, a.k_slot_stride, a.head_size, slots, first, keys);
    const T* key[panel_width];
    for (int64_t i = 0; i < panel_width; ++i)  // the last panel is filled up with the last key
      key[i] = a.k_cache + int64_t(slots[first + i < keys ? first + i : keys - 1]) * a.k_slot_stride;
    pack_panel(key, a.head_size, panel);
    multiply_panels<1>(rows, q, a.head_size, panel, a.head_size, static_cast<const T*>(nullptr), [&](int64_t row, int v, Floats products) {
      store_vector(scores + row * row_size + first + v * lanes, products * a.scale);
    });
  }
  if (a.logit_cap > 0.f)
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = row * row_size; i < row * row_size + keys; ++i) scores[i] = a.logit_cap * tanhf(scores[i] / a.logit_cap);
}

// -inf for what the query does not see of the keys begin .. begin + row_size, of which the last may be no keys at all.
// What a tree's query sees is moved up to where it will lie in the text: with gaps its sum would have other bits.
static void hide_keys(const Query& query, float* scores, int64_t begin, int64_t row_size) {
  for (int64_t key = begin; key < query.from; ++key) scores[key - begin] = -INFINITY;
  int64_t to = query.to - begin;
  if (query.tree_mask) {
    to = query.prefix - begin;
    for (int64_t key = query.prefix; key < query.to; ++key)
      if (query.tree_mask[key - query.prefix]) scores[to++] = scores[key - begin];
  }
  for (; to < row_size; ++to) scores[to] = -INFINITY;
}

// The weights of a tree's query back to the keys they are for; 0 for those it does not see.
static void reopen_gaps(const Query& query, float* weights, int64_t begin) {
  int64_t from = query.prefix - begin;
  for (int64_t i = 0; i < query.to - query.prefix; ++i) from += query.tree_mask[i];
  for (int64_t key = query.to - 1; key >= query.prefix; --key)
    weights[key - begin] = query.tree_mask[key - query.prefix] ? weights[--from] : 0.f;
}

// scores[row_size] of one query and head -> weights; returns their sum. Hidden keys have a score of -inf and weight 0.
// Whole panels, so that a vector's lane sums up the same keys however many hidden ones follow: a token that is verified
// after its prefix and one that is decoded there have the same sum, to the bit.
static float softmax_in_place(float* scores, int64_t row_size) {
  float top = -INFINITY, sum = 0.f;
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < row_size; ++i) top = scores[i] > top ? scores[i] : top;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < row_size; ++i) {
    const float weight = scores[i] == -INFINITY ? 0.f : exp_f32(scores[i] - top);
    scores[i] = weight;
    sum += weight;
  }
  return sum;
}

// acc[vectors * lanes] += weights[count] @ values ([count, row_size]). A hidden key must not contribute even if its
// values are inf or NaN (stale cache contents).
template <int vectors>
static inline void mix_columns(float* acc, const float* values, int64_t row_size, const float* weights, int64_t count) {
  Floats sums[vectors];
  for (int v = 0; v < vectors; ++v) sums[v] = load_vector<Floats>(acc + v * lanes);
  for (int64_t i = 0; i < count; ++i)
    if (weights[i] != 0.f)
      for (int v = 0; v < vectors; ++v) sums[v] += weights[i] * load_vector<Floats>(values + i * row_size + v * lanes);
  for (int v = 0; v < vectors; ++v) store_vector(acc + v * lanes, sums[v]);
}

// acc [rows, head_size] += weights [rows, row_size] @ the values of all keys, as many of them at a time as a panel has.
template <typename T>
static void mix_values(const AttentionArgs<T>& a, float* acc, int64_t rows, float* values, const float* weights, int64_t row_size,
                       const int32_t* slots, int64_t keys) {
  const int64_t size = a.head_size;
  for (int64_t first = 0; first < keys; first += panel_width) {
    const int64_t count = keys - first < panel_width ? keys - first : panel_width;
    prefetch_rows(a.v_cache, a.v_slot_stride, size, slots, first, keys);
    for (int64_t i = 0; i < count; ++i) load_row(a.v_cache + int64_t(slots[first + i]) * a.v_slot_stride, values + i * size, size);
    for (int64_t row = 0; row < rows; ++row) {
      const float* weight = weights + row * row_size + first;
      float* sums = acc + row * size;
      int64_t column = 0;
      for (; column + 4 * lanes <= size; column += 4 * lanes) mix_columns<4>(sums + column, values + column, size, weight, count);
      for (; column + lanes <= size; column += lanes) mix_columns<1>(sums + column, values + column, size, weight, count);
      for (; column < size; ++column)
        for (int64_t i = 0; i < count; ++i)
          if (weight[i] != 0.f) sums[column] += weight[i] * values[i * size + column];
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
  const int64_t keys = end - begin, rows = a.count * a.group, size = a.head_size, row_size = padded(keys);
  const int32_t* slots = a.queries[0].slots + begin;
  float* block = a.scratch;                       // 16 keys (as T) or values: [16, head_size]
  float* acc = block + panel_width * size;        // [rows, head_size]
  float* scores = acc + rows * size;              // [rows, row_size]
  T* q = reinterpret_cast<T*>(scores + rows * row_size);  // [rows, head_size]
  for (int64_t row = 0; row < rows; ++row) {
    const T* in = a.q + a.queries[row / a.group].token * a.q_token_stride + row % a.group * a.q_head_stride;
    for (int64_t i = 0; i < size; ++i) q[row * size + i] = in[i];
  }
  score_keys(a, q, rows, reinterpret_cast<T*>(block), scores, row_size, slots, keys);
  for (int64_t i = 0; i < rows * size; ++i) acc[i] = 0.f;
  for (int64_t row = 0; row < rows; ++row) hide_keys(a.queries[row / a.group], scores + row * row_size, begin, row_size);
  for (int64_t row = 0; row < rows; ++row) {
    // Divided out here rather than at the end: weights of one row sum to 1 whatever the keys' number.
    float* weights = scores + row * row_size;
    const float share = 1.f / softmax_in_place(weights, row_size);
    for (int64_t i = 0; i < keys; ++i) weights[i] *= share;
    if (a.queries[row / a.group].tree_mask) reopen_gaps(a.queries[row / a.group], weights, begin);
  }
  mix_values(a, acc, rows, block, scores, row_size, slots, keys);
  for (int64_t row = 0; row < rows; ++row) {
    T* out = a.out + a.queries[row / a.group].token * a.out_token_stride + row % a.group * a.out_head_stride;
    for (int64_t i = 0; i < size; ++i) store(out + i, acc[row * size + i]);
  }
}

}  // namespace aerie::AERIE_ISA
