// x @ weight.T for bfloat16 and a weight of packed panels: what a decoding step spends most of its time on.
//
// A decoding step reads every weight once, in order, and the rows of x share what was read, so that verifying a tree costs
// hardly more than one token. A row's result does not depend on how many others are computed with it.
#pragma once
#include "panel.h"

namespace aerie::AERIE_ISA {

template <int panels>
static inline void linear_panels(const LinearArgs& a, int64_t panel, int64_t last) {
  const bf16* weight = a.weight + panel * panel_width * a.in;
  const bf16* next = panel + 2 * panels <= last ? weight + panels * panel_width * a.in : nullptr;
  multiply_panels<panels>(a.rows, a.x, a.x_stride, weight, a.in, next, [&](int64_t row, int v, Floats sums) {
    const int64_t column = panel * panel_width + v * lanes;
    bf16* out = a.out + row * a.out_width + column;
    for (int i = 0; i < lanes; ++i) store(out + i, sums[i] + (a.bias ? a.bias[column + i] : 0.f));
  });
}

static void linear(const LinearArgs& a, int64_t first, int64_t last) {
  int64_t panel = first;
  for (; panel + tile_panels <= last; panel += tile_panels) linear_panels<tile_panels>(a, panel, last);
  for (; panel < last; ++panel) linear_panels<1>(a, panel, last);
}

}  // namespace aerie::AERIE_ISA
