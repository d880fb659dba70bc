// Products with 16 rows at a time ("panels"): of a weight's outputs (linear.h) or of a KV cache's keys (attention.h).
//
// A panel of bfloat16 is [in / 2][16][2], of float32 [in][16]: one 32-bit word of each of the 16 rows side by side, two
// neighbouring values a word in bfloat16, which is what AVX-512's vdpbf16ps multiplies with a pair of x.
#pragma once
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include "scalar.h"

namespace aerie::AERIE_ISA {

// A vector register's 32-bit lanes, and how many rows of x and how many panels one pass over the inputs keeps in registers.
#if defined(__AVX512F__)
constexpr int lanes = 16, tile_rows = 8, tile_panels = 2;
#elif defined(__AVX2__)
constexpr int lanes = 8, tile_rows = 4, tile_panels = 1;
#else
constexpr int lanes = 4, tile_rows = 2, tile_panels = 1;
#endif
constexpr int panel_vectors = panel_width / lanes;

typedef float Floats __attribute__((vector_size(4 * lanes)));
typedef uint32_t Words __attribute__((vector_size(4 * lanes)));

template <typename V>
static inline V load_vector(const void* p) {
  V value;
  __builtin_memcpy(&value, p, sizeof value);
  return value;
}

template <typename V>
static inline void store_vector(void* p, V value) {
  __builtin_memcpy(p, &value, sizeof value);
}

template <typename T>
constexpr int word_values = sizeof(uint32_t) / sizeof(T);

// acc[i] += the products of x's and w[i]'s values in one word.
static inline Floats multiply_add(Floats acc, const float* x, Words w) { return acc + (Floats)w * *x; }

static inline Floats multiply_add(Floats acc, const bf16* x, Words w) {
#ifdef __AVX512BF16__
  int32_t pair;
  __builtin_memcpy(&pair, x, sizeof pair);
  return (Floats)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)w);
#else
  acc += (Floats)(w << 16) * load(x);
  return acc + (Floats)(w & 0xffff0000u) * load(x + 1);
#endif
}

// What a pass over the inputs asks for ahead: with every word, `step` bytes more from each of these places on.
template <int panels>
struct Ahead {
  const char* from[panels];
  int64_t step;
};

// out(r, v, sums): for row r of x ([rows, in], x_stride apart), its products with the panels' rows v * lanes .. + lanes.
// The order of additions is that of the inputs, however many rows there are.
template <int rows, int panels, typename T, typename Out>
static inline void multiply_tile(const T* x, int64_t x_stride, const T* panel, int64_t in, Ahead<panels> ahead, Out&& out) {
  constexpr int vectors = panels * panel_vectors;
  Floats acc[rows][vectors] = {};
  for (int64_t i = 0; i < in; i += word_values<T>) {
    for (int p = 0; p < panels; ++p) __builtin_prefetch(ahead.from[p]), ahead.from[p] += ahead.step;
    for (int v = 0; v < vectors; ++v) {
      const T* at = panel + v / panel_vectors * panel_width * in + panel_width * i + v % panel_vectors * lanes * word_values<T>;
      const Words words = load_vector<Words>(at);
      for (int r = 0; r < rows; ++r) acc[r][v] = multiply_add(acc[r][v], x + r * x_stride + i, words);
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v) out(r, v, acc[r][v]);
}

template <int rows, int panels, typename T, typename Out>
static inline void multiply_at_most(int64_t count, const T* x, int64_t x_stride, const T* panel, int64_t in, const Ahead<panels>& ahead,
                                    Out&& out) {
  if constexpr (rows > 0) {
    if (count >= rows) return multiply_tile<rows, panels>(x, x_stride, panel, in, ahead, out);
    multiply_at_most<rows - 1, panels>(count, x, x_stride, panel, in, ahead, out);
  }
}

// The same for any number of rows. A single pass asks for its own panels a little ahead (the hardware's prefetching ends
// with every 4 KB page). Of several passes, which compute for longer than the panels take to come, each asks for its share
// of the panels that are `next`, if any, so that memory is never idle.
template <int panels, typename T, typename Out>
static inline void multiply_panels(int64_t count, const T* x, int64_t x_stride, const T* panel, int64_t in, const T* next, Out&& out) {
  constexpr int64_t word_bytes = panel_width * sizeof(uint32_t), near = 2048;
  const int64_t passes = (count + tile_rows - 1) / tile_rows, panel_bytes = in / word_values<T> * word_bytes;
  for (int64_t row = 0; row < count; row += tile_rows) {
    Ahead<panels> ahead{{}, passes == 1 ? word_bytes : next ? word_bytes / passes : 0};
    for (int p = 0; p < panels; ++p)
      ahead.from[p] = passes == 1 ? reinterpret_cast<const char*>(panel) + p * panel_bytes + near
                                  : reinterpret_cast<const char*>(next ? next : panel) + (row / tile_rows * panels + p) * panel_bytes / passes;
    multiply_at_most<tile_rows, panels>(count - row, x + row * x_stride, x_stride, panel, in, ahead,
                                        [&](int64_t r, int v, Floats sums) { out(row + r, v, sums); });
  }
}

// rows[i][j] <-> rows[j][i] in log2(lanes) rounds, each of which swaps blocks of `distance` across the diagonal.
template <int distance = 1>
static inline void transpose(Words (&rows)[lanes]) {
  if constexpr (distance < lanes) {
    Words low, high;
    for (int i = 0; i < lanes; ++i) {
      low[i] = i & distance ? lanes + i - distance : i;
      high[i] = i & distance ? lanes + i : i + distance;
    }
    for (int i = 0; i < lanes; ++i) {
      if (i & distance) continue;
      const Words a = rows[i], b = rows[i + distance];
      rows[i] = __builtin_shuffle(a, b, low);
      rows[i + distance] = __builtin_shuffle(a, b, high);
    }
    transpose<2 * distance>(rows);
  }
}

// 16 rows of `in` values -> a panel.
template <typename T>
static inline void pack_panel(const T* const (&rows)[panel_width], int64_t in, T* panel) {
  const int64_t words = in / word_values<T>;
  int64_t word = 0;
  for (; word + lanes <= words; word += lanes) {
    for (int first = 0; first < panel_width; first += lanes) {
      Words block[lanes];
      for (int i = 0; i < lanes; ++i) block[i] = load_vector<Words>(rows[first + i] + word * word_values<T>);
      transpose(block);
      for (int i = 0; i < lanes; ++i) store_vector(panel + ((word + i) * panel_width + first) * word_values<T>, block[i]);
    }
  }
  for (; word < words; ++word)
    for (int i = 0; i < panel_width; ++i)
      __builtin_memcpy(panel + (word * panel_width + i) * word_values<T>, rows[i] + word * word_values<T>, sizeof(uint32_t));
}

}  // namespace aerie::AERIE_ISA
