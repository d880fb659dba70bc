// SwiGLU's silu(gate) * up; a row of `in` holds the gate, then the up projection.
#pragma once
#include "scalar.h"

namespace aerie::AERIE_ISA {

template <typename T>
static void silu_and_mul(const T* in, T* out, int64_t width, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row) {
    const T* gate = in + row * 2 * width;
    const T* up = gate + width;
    T* o = out + row * width;
    for (int64_t i = 0; i < width; ++i) {
      const float g = load(gate + i);
      store(o + i, g / (1.f + exp_f32(-g)) * load(up + i));
    }
  }
}

}  // namespace aerie::AERIE_ISA
