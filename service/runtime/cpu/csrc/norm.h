// RMS norm, plain and fused with the residual addition.
#pragma once
#include "scalar.h"

namespace aerie::AERIE_ISA {

template <typename T>
static void rms_norm(const NormArgs<T>& a, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row) {
    const T* x = a.x + row * a.width;
    T* out = a.out + row * a.width;
    if (a.residual) {
      T* residual = a.residual + row * a.width;
      for (int64_t i = 0; i < a.width; ++i) {
        a.scratch[i] = load(x + i) + load(residual + i);
        store(residual + i, a.scratch[i]);
      }
    } else {
      load_row(x, a.scratch, a.width);
    }
    const float inv_rms = 1.f / sqrtf(dot(a.scratch, a.scratch, a.width) / float(a.width) + a.eps);
    for (int64_t i = 0; i < a.width; ++i) store(out + i, a.scratch[i] * inv_rms * load(a.weight + i));
  }
}

}  // namespace aerie::AERIE_ISA
