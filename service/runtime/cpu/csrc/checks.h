// What the ops demand of their arguments, and how a dtype picks a kernel. Included by bindings.cpp only.
#pragma once
#include <ATen/ATen.h>

#include <algorithm>
#include <optional>
#include <type_traits>

#include "kernels.h"

namespace aerie {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

template <typename F>
void by_dtype(const char* op, const Tensor& t, F&& body) {
  if (t.scalar_type() == at::kFloat) return body(float{});
  TORCH_CHECK_NOT_IMPLEMENTED(t.scalar_type() == at::kBFloat16, op, ": Aerie's CPU runtime serves float32 and bfloat16, not ",
                              t.scalar_type(), "; start SGLang with --dtype bfloat16");
  body(bf16{});
}

template <typename T, typename A, typename B>
auto pick(A f32, B bf16_version) {
  if constexpr (std::is_same_v<T, float>) return f32;
  else return bf16_version;
}

template <typename T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

void check_same_dtype(const char* op, const Tensor& a, const Tensor& b) {
  TORCH_CHECK(a.scalar_type() == b.scalar_type(), op, ": dtypes differ, ", a.scalar_type(), " and ", b.scalar_type());
}

Tensor indices(const char* op, const Tensor& t, int64_t count) {
  TORCH_CHECK(t.dim() == 1 && t.numel() == count, op, ": an index tensor has shape ", t.sizes(), ", expected [", count, "]");
  TORCH_CHECK(t.scalar_type() == at::kLong || t.scalar_type() == at::kInt, op, ": an index tensor is ", t.scalar_type());
  return t.to(at::kLong).contiguous();
}

// Elements of work that are worth waking a thread for.
constexpr int64_t grain_elements = 32768;

int64_t grain(int64_t width) { return std::max<int64_t>(1, grain_elements / std::max<int64_t>(1, width)); }

// ---- attention -------------------------------------------------------------------------------------------------

struct Batch {
  const char* op;
  const Tensor &q, &out, &k_cache, &v_cache, &req_to_token;
  double scale, logit_cap;
};

void check_batch(const Batch& b) {
  TORCH_CHECK(b.q.dim() == 3 && b.out.dim() == 3 && b.k_cache.dim() == 3 && b.v_cache.dim() == 3, b.op, ": rank 3 expected");
  TORCH_CHECK_NOT_IMPLEMENTED(b.k_cache.sizes() == b.v_cache.sizes() && b.q.size(2) == b.k_cache.size(2) && b.q.sizes() == b.out.sizes(),
      b.op, ": Aerie's CPU runtime serves dense Llama-type models (K and V heads of one size, no MLA); use a GPU profile for this model");
  TORCH_CHECK_NOT_IMPLEMENTED(b.q.size(2) % 2 == 0, b.op, ": Aerie's CPU runtime serves even head sizes, not ", b.q.size(2));
  TORCH_CHECK(b.k_cache.size(1) > 0 && b.q.size(1) % b.k_cache.size(1) == 0, b.op, ": ", b.q.size(1), " query heads for ",
              b.k_cache.size(1), " KV heads");
  for (const Tensor* t : {&b.out, &b.k_cache, &b.v_cache}) {
    TORCH_CHECK_NOT_IMPLEMENTED(t->scalar_type() == b.q.scalar_type(), b.op, ": query is ", b.q.scalar_type(), ", cache or output ",
                                t->scalar_type(), "; start SGLang without --kv-cache-dtype");
    TORCH_CHECK(t->numel() == 0 || t->stride(2) == 1, b.op, ": heads must be contiguous");
  }
  TORCH_CHECK(b.q.numel() == 0 || b.q.stride(2) == 1, b.op, ": query heads must be contiguous");
  TORCH_CHECK(b.req_to_token.dim() == 2 && b.req_to_token.scalar_type() == at::kInt && b.req_to_token.stride(1) == 1, b.op,
              ": req_to_token must be an int32 matrix");
}

// The request's slot list, with every slot that will be read checked against the cache.
const int32_t* request_slots(const Batch& b, int64_t request, int64_t length) {
  TORCH_CHECK(request >= 0 && request < b.req_to_token.size(0), b.op, ": request ", request, " is not in req_to_token");
  TORCH_CHECK(length >= 0 && length <= b.req_to_token.size(1), b.op, ": sequence length ", length, " exceeds req_to_token");
  const int32_t* slots = data<int32_t>(b.req_to_token) + request * b.req_to_token.stride(0);
  const int64_t capacity = b.k_cache.size(0);
  for (int64_t i = 0; i < length; ++i) TORCH_CHECK(slots[i] >= 0 && slots[i] < capacity, b.op, ": slot ", slots[i], " is not in the cache");
  return slots;
}

void check_supported(const char* op, bool is_cross_attn, const OptionalTensor& encoder_lens, const OptionalTensor& sinks) {
  TORCH_CHECK_NOT_IMPLEMENTED(!is_cross_attn && !encoder_lens && !sinks, op,
      ": cross attention, encoder lengths and attention sinks are not supported by Aerie's CPU runtime; use a GPU profile");
}

}  // namespace
}  // namespace aerie
