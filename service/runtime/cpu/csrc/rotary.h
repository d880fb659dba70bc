// Rotary position embedding, both pairings; dimensions past rotary_dim are copied.
#pragma once
#include "scalar.h"

namespace aerie::AERIE_ISA {

template <typename T>
static void rotary(const RotaryArgs<T>& a, int64_t first, int64_t last) {
  const int64_t half = a.rotary_dim / 2;
  const int64_t step = a.neox ? 1 : 2, partner = a.neox ? half : 1;
  for (int64_t token = first; token < last; ++token) {
    const T* cos = a.cos_sin + a.positions[token] * a.rotary_dim;
    const T* sin = cos + half;
    for (int64_t head = 0; head < a.heads; ++head) {
      const T* in = a.in + token * a.in_stride + head * a.head_size;
      T* out = a.out + (token * a.heads + head) * a.head_size;
      for (int64_t i = 0; i < half; ++i) {
        const float x = load(in + i * step), y = load(in + i * step + partner);
        const float c = load(cos + i), s = load(sin + i);
        store(out + i * step, x * c - y * s);
        store(out + i * step + partner, y * c + x * s);
      }
      for (int64_t i = a.rotary_dim; i < a.head_size; ++i) out[i] = in[i];
    }
  }
}

}  // namespace aerie::AERIE_ISA
