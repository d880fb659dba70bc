// Scalar building blocks the compiler vectorises: bf16 conversion, exp, dot product.
#pragma once
#include <math.h>

#include "kernels.h"

namespace aerie::AERIE_ISA {

static inline float from_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

static inline uint32_t to_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float load(const float* p) { return *p; }
static inline float load(const bf16* p) { return from_bits(uint32_t(p->bits) << 16); }
static inline void store(float* p, float value) { *p = value; }

// Round to nearest, ties to even; NaN stays NaN (rounding its mantissa could carry into the exponent).
static inline void store(bf16* p, float value) {
  const uint32_t bits = to_bits(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  p->bits = uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

template <typename T>
static inline void load_row(const T* in, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = load(in + i);
}

// The reduction's order is ours to choose, so it is spelled out here instead of asking for -fassociative-math everywhere.
static inline float dot(const float* a, const float* b, int64_t n) {
  float sum = 0.f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// e^x to about 1e-7 relative, branch-free (libm's expf is not vectorised). Cephes' polynomial; the integer part of
// x / ln 2 is read out of the low mantissa bits after adding 1.5 * 2^23. Saturates near FLT_MIN and FLT_MAX; NaN stays NaN.
static inline float exp_f32(float x) {
  x = x < -87.f ? -87.f : x;
  x = x > 88.f ? 88.f : x;
  const float shifted = x * 1.44269504f + 12582912.f;
  const float n = shifted - 12582912.f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float poly = 1.9875691500e-4f;
  poly = poly * r + 1.3981999507e-3f;
  poly = poly * r + 8.3334519073e-3f;
  poly = poly * r + 4.1665795894e-2f;
  poly = poly * r + 1.6666665459e-1f;
  poly = poly * r + 5.0000001201e-1f;
  return (poly * r * r + r + 1.f) * from_bits((to_bits(shifted) + 127u) << 23);
}

// ln of 1 + z for z in (-0.3, 0.42), to about 1e-7 relative: Cephes' polynomial.
static inline float log1p_small(float z) {
  float poly = 7.0376836292e-2f;
  poly = poly * z - 1.1514610310e-1f;
  poly = poly * z + 1.1676998740e-1f;
  poly = poly * z - 1.2420140846e-1f;
  poly = poly * z + 1.4249322787e-1f;
  poly = poly * z - 1.6668057665e-1f;
  poly = poly * z + 2.0000714765e-1f;
  poly = poly * z - 2.4999993993e-1f;
  poly = poly * z + 3.3333331174e-1f;
  return z - 0.5f * z * z + z * z * z * poly;
}

// ln x of a normal positive x, branch-free (libm's logf is not vectorised).
static inline float log_f32(float x) {
  const uint32_t bits = to_bits(x) - 0x3f3504f3u;  // of sqrt(1/2): the rest is in [sqrt(1/2), sqrt(2))
  const float exponent = float(int32_t(bits) >> 23);
  const float rest = from_bits((bits & 0x7fffffu) + 0x3f3504f3u);
  return log1p_small(rest - 1.f) + exponent * 0.693147181f;
}

}  // namespace aerie::AERIE_ISA
