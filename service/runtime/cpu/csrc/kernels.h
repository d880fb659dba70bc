// What one instruction-set variant offers: plain functions over plain pointers, no torch, no threads, no allocation.
//
// variant.cpp is compiled once per instruction set; dispatch.cpp picks one table when the library is loaded. Every
// function works on the half-open range of items [first, last), so bindings.cpp can spread items over threads.
// Nothing here may come from a std template: such functions are emitted as weak symbols, the linker keeps a single copy
// for all variants, and a machine without AVX-512 would run the AVX-512 copy. (A test looks for weak symbols.)
#pragma once
#include <cstdint>

namespace aerie {

struct bf16 {
  uint16_t bits;
};

// x @ weight.T + bias; weight is packed (linear.h), items are its panels of panel_width outputs.
constexpr int panel_width = 16;

struct LinearArgs {
  const bf16* x;  // [rows, in], rows x_stride apart
  const bf16* weight;
  const float* bias;  // [out_width] or nullptr
  bf16* out;          // [rows, out_width]
  int64_t rows, in, x_stride, out_width;
};

// RMS norm over rows of `width`; residual != nullptr: residual += x first, x is then norm(residual) in place.
template <typename T>
struct NormArgs {
  const T* x;
  T* residual;
  const T* weight;
  T* out;
  int64_t width;
  float eps;
  float* scratch;  // [width]
};

template <typename T>
struct RotaryArgs {
  const T* in;  // [tokens, heads * head_size], rows `in_stride` apart
  T* out;       // the same, contiguous
  int64_t in_stride, heads, head_size, rotary_dim;
  const int64_t* positions;
  const T* cos_sin;  // [max_position, rotary_dim]: cosines, then sines
  bool neox;         // rotate halves (Llama) instead of neighbouring pairs
};

// One query token; its keys are slots[from .. to), of which tree_mask (if any) hides some from `prefix` on.
struct Query {
  const int32_t* slots;
  int64_t token, from, to, prefix;
  const bool* tree_mask;
};

// Attention of `count` queries that share a slot list, for the `group` query heads of one KV head.
template <typename T>
struct AttentionArgs {
  const T* q;
  int64_t q_token_stride, q_head_stride;
  T* out;
  int64_t out_token_stride, out_head_stride;
  const T* k_cache;
  const T* v_cache;
  int64_t k_slot_stride, v_slot_stride;
  const Query* queries;
  int64_t count, group, head_size;
  float scale, logit_cap;  // logit_cap 0: none
  float* scratch;          // attention_scratch(...) floats; head_size is even
};

inline int64_t padded(int64_t keys) { return (keys + panel_width - 1) / panel_width * panel_width; }

inline int64_t attention_scratch(int64_t count, int64_t group, int64_t head_size, int64_t keys) {
  return panel_width * head_size + count * group * (2 * head_size + padded(keys));
}

// What of a distribution may be drawn; see sampling.h.
struct Filters {
  int64_t top_k;
  float top_p, min_p;
};

// One request's draw from its probabilities; see sampling.h.
struct DrawArgs {
  const float* probs;
  int64_t vocab;
  Filters filters;
  uint64_t seed;
  uint32_t position;
  int32_t* heap;  // [vocab]
};

// A draft model's proposal from one row of its logits; see sampling.h.
struct ProposeArgs {
  const bf16* logits;
  const int64_t* token_ids;  // [vocab], what the noise of a column hangs on
  int64_t vocab, count;
  float temperature;  // 0: no noise
  Filters filters;
  uint64_t seed;
  uint32_t position;
  float *scores, *weights;  // [vocab], the latter for filters
  int32_t* heap;            // [vocab], likewise
  float* probs;             // [count]
  int64_t* ids;             // [count]
};

struct Kernels {
  const char* isa;
  void (*linear)(const LinearArgs&, int64_t first, int64_t last);
  void (*rms_norm_f32)(const NormArgs<float>&, int64_t first, int64_t last);
  void (*rms_norm_bf16)(const NormArgs<bf16>&, int64_t first, int64_t last);
  void (*silu_and_mul_f32)(const float* in, float* out, int64_t width, int64_t first, int64_t last);
  void (*silu_and_mul_bf16)(const bf16* in, bf16* out, int64_t width, int64_t first, int64_t last);
  void (*rotary_f32)(const RotaryArgs<float>&, int64_t first, int64_t last);
  void (*rotary_bf16)(const RotaryArgs<bf16>&, int64_t first, int64_t last);
  void (*attention_f32)(const AttentionArgs<float>&);
  void (*attention_bf16)(const AttentionArgs<bf16>&);
  void (*murmur_hash)(uint64_t seed, uint32_t position, const int64_t* columns, uint32_t* out, int64_t count);
  void (*draw_noise)(uint64_t seed, uint32_t position, const int64_t* columns, float* out, int64_t count);
  void (*softmax_f32)(const float* logits, float temperature, float* probs, int64_t count);
  void (*softmax_bf16)(const bf16* logits, float temperature, float* probs, int64_t count);
  int64_t (*argmax_f32)(const float* x, int64_t count);
  int64_t (*argmax_bf16)(const bf16* x, int64_t count);
  void (*propose)(const ProposeArgs&);
  int32_t (*draw_token)(const DrawArgs&);
};

// The table chosen for this machine and AERIE_CPU_ISA; throws std::runtime_error when that cannot be honoured.
const Kernels& kernels();

}  // namespace aerie
