// What the ops demand of their arguments, and how a dtype picks a kernel.
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

// The same, every one of them in [0, limit).
Tensor indices_below(const char* op, const char* what, const Tensor& t, int64_t count, int64_t limit) {
  const Tensor checked = indices(op, t, count);
  const int64_t* at = data<int64_t>(checked);
  for (int64_t i = 0; i < count; ++i) TORCH_CHECK(at[i] >= 0 && at[i] < limit, op, ": ", what, " ", at[i], " is outside [0, ", limit, ")");
  return checked;
}

// Elements of work that are worth waking a thread for.
constexpr int64_t grain_elements = 32768;

int64_t grain(int64_t width) { return std::max<int64_t>(1, grain_elements / std::max<int64_t>(1, width)); }

// Whether convert_weight_packed packs a weight of this shape and dtype; others are kept as they are.
bool is_packed(const Tensor& weight) {
  return weight.dim() == 2 && weight.scalar_type() == at::kBFloat16 && weight.size(0) % panel_width == 0 && weight.size(1) % 2 == 0;
}

}  // namespace
}  // namespace aerie
