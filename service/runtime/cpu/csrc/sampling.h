// One seeded draw from a row of probabilities, with top-k, top-p and min-p: what sampling.py calls "draw".
//
// The draw is an exponential race: token i finishes after E_i / p_i with E_i = -log(u_i), the first one wins, which is
// the Gumbel-argmax of SGLang's multinomial_with_seed with one logarithm less. u_i hashes (seed, position, token id),
// so a draw depends on nothing but its own row: not on the batch, nor on which filters its neighbours use.
#pragma once
#include "scalar.h"

namespace aerie::AERIE_ISA {

// MurmurHash3 over four 32-bit blocks: seed low, seed high, position, column (sglang/kernels/ops/sampling/murmur_hash.py).
static inline uint32_t rotl(uint32_t x, int r) { return (x << r) | (x >> (32 - r)); }

static inline uint32_t mix(uint32_t h, uint32_t k) {
  return rotl(h ^ (rotl(k * 0xcc9e2d51u, 15) * 0x1b873593u), 13) * 5u + 0xe6546b64u;
}

static inline uint32_t hash_prefix(uint64_t seed, uint32_t position) {
  return mix(mix(mix(0u, uint32_t(seed)), uint32_t(seed >> 32)), position);
}

static inline uint32_t hash_column(uint32_t prefix, uint32_t column) {
  uint32_t h = mix(prefix, column) ^ 16u;
  h = (h ^ (h >> 16)) * 0x85ebca6bu;
  h = (h ^ (h >> 13)) * 0xc2b2ae35u;
  return h ^ (h >> 16);
}

static void murmur_hash(uint64_t seed, uint32_t position, const int64_t* columns, uint32_t* out, int64_t count) {
  const uint32_t prefix = hash_prefix(seed, position);
  for (int64_t i = 0; i < count; ++i) out[i] = hash_column(prefix, uint32_t(columns[i]));
}

// -log(E_i) of the race below, the Gumbel noise of a draw: the token drawn is the argmax of log(p_i) + noise_i, up to
// float32. -log(u) is taken from 1 - u where u is near 1, or the likeliest winners would have no digits.
static void draw_noise(uint64_t seed, uint32_t position, const int64_t* columns, float* out, int64_t count) {
  const uint32_t prefix = hash_prefix(seed, position);
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t hash = hash_column(prefix, uint32_t(columns[i]));
    const float u = (float(hash) + 0.5f) * 0x1p-32f, rest = (float(~hash) + 0.5f) * 0x1p-32f;
    out[i] = -log_f32(-(rest < 0.25f ? log1p_small(-rest) : log_f32(u)));
  }
}

// probs = softmax(logits / temperature).
template <typename T>
static void softmax(const T* logits, float temperature, float* probs, int64_t count) {
  constexpr int64_t block = 256;  // summed up in float32, so that a vector need not be widened for each addition
  float top = -INFINITY;
  double sum = 0.;
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < count; ++i) {
    const float x = load(logits + i) / temperature;
    probs[i] = x;
    top = x > top ? x : top;
  }
  for (int64_t from = 0; from < count; from += block) {
    const int64_t to = from + block < count ? from + block : count;
    float part = 0.f;
#pragma omp simd reduction(+ : part)
    for (int64_t i = from; i < to; ++i) {
      const float p = probs[i] - top < -87.f ? 0.f : exp_f32(probs[i] - top);
      probs[i] = p;
      part += p;
    }
    sum += part;
  }
  const float scale = float(1. / sum);
  for (int64_t i = 0; i < count; ++i) probs[i] *= scale;
}

// The lowest index of the greatest value; 0 if there is none (all NaN).
template <typename T>
static int64_t argmax(const T* x, int64_t count) {
  constexpr int64_t block = 1024;
  float best = -INFINITY;
  int64_t best_from = 0;
  for (int64_t from = 0; from < count; from += block) {
    const int64_t to = from + block < count ? from + block : count;
    float top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (int64_t i = from; i < to; ++i) top = load(x + i) > top ? load(x + i) : top;
    if (top > best) best = top, best_from = from;
  }
  for (int64_t i = best_from; i < count; ++i)
    if (load(x + i) == best) return i;
  return 0;
}

namespace {  // its members are this variant's own, inlined or not

struct Race {
  double best_rate = -1.0;  // p / E of the leader
  int32_t leader = 0;

  inline void enter(float p, uint32_t hash, int32_t token) {
    const double u = double(hash) / 4294967295.0;
    // E = -log(u) >= 1 - u: most tokens lose against this bound and need no logarithm.
    if (!(p > best_rate * (1.0 - u))) return;
    double e = -log(u);
    e = e < 0x1p-32 ? 0x1p-32 : e;     // u == 1: as in multinomial_with_seed
    e = e > 1.79e308 ? 1.79e308 : e;   // u == 0
    if (p / e > best_rate) best_rate = p / e, leader = token;
  }
};

}  // namespace

// Whether one of a block's tokens may win: the bound above in float32, a little lower, for all of them at once.
static inline bool may_win(const Race& race, const float* probs, const uint32_t* hashes, int64_t count) {
  const float bar = float(race.best_rate * 0.9999 * 0x1p-32);
  int any = 0;
#pragma omp simd reduction(| : any)
  for (int64_t i = 0; i < count; ++i) any |= probs[i] >= bar * float(~hashes[i]);
  return any;
}

static int32_t race_all(const DrawArgs& a) {
  constexpr int64_t block = 128;
  Race race;
  const uint32_t prefix = hash_prefix(a.seed, a.position);
  uint32_t hashes[block];
  for (int64_t at = 0; at < a.vocab; at += block) {
    const int64_t n = a.vocab - at < block ? a.vocab - at : block;
    for (int64_t i = 0; i < n; ++i) hashes[i] = hash_column(prefix, uint32_t(at + i));
    if (!may_win(race, a.probs + at, hashes, n)) continue;
    for (int64_t i = 0; i < n; ++i)
      if (a.probs[at + i] > 0.f) race.enter(a.probs[at + i], hashes[i], int32_t(at + i));
  }
  return race.leader;
}

namespace {

// A heap of token ids, most likely first; equal probabilities by ascending id, so the order is the row's own.
struct Ranking {
  const float* probs;
  int32_t* ids;
  int64_t size = 0;

  inline bool before(int32_t a, int32_t b) const { return probs[a] > probs[b] || (probs[a] == probs[b] && a < b); }

  inline void sift_down(int64_t at) {
    for (int64_t child; (child = 2 * at + 1) < size; at = child) {
      if (child + 1 < size && before(ids[child + 1], ids[child])) ++child;
      if (!before(ids[child], ids[at])) return;
      const int32_t moved = ids[at];
      ids[at] = ids[child], ids[child] = moved;
    }
  }

  inline void fill(int64_t vocab, float at_least, float below) {
    constexpr int64_t block = 128;  // most have none
    size = 0;
    for (int64_t from = 0; from < vocab; from += block) {
      const int64_t to = from + block < vocab ? from + block : vocab;
      int any = 0;
#pragma omp simd reduction(| : any)
      for (int64_t i = from; i < to; ++i) any |= probs[i] >= at_least;
      for (int64_t i = from; any && i < to; ++i)
        if (probs[i] > 0.f && probs[i] >= at_least && probs[i] < below) ids[size++] = int32_t(i);
    }
    for (int64_t at = size / 2 - 1; at >= 0; --at) sift_down(at);
  }

  inline int32_t pop() {
    const int32_t top = ids[0];
    ids[0] = ids[--size];
    sift_down(0);
    return top;
  }
};

}  // namespace

// visit(token, p) for each that the filters keep, from the most likely down; ranks tokens one band of probability at a
// time, since usually the first band is all that is needed.
template <typename Visit>
static void visit_kept(const float* probs, int64_t vocab, float top, const Filters& filters, int32_t* heap, Visit&& visit) {
  Ranking ranking{probs, heap};
  const float least = top * filters.min_p;
  double mass = 0.0;
  int64_t rank = 0;
  for (float below = INFINITY, at_least = top * 0x1p-8f; below > 0.f; below = at_least, at_least *= 0x1p-8f) {
    for (ranking.fill(vocab, at_least, below); ranking.size > 0; ++rank) {
      const int32_t token = ranking.pop();
      const float p = probs[token];
      if (rank >= filters.top_k || (filters.top_p < 1.f && mass > filters.top_p) || p < least) return;
      visit(token, p);
      mass += p;
    }
  }
}

static inline bool keeps_all(const Filters& filters, int64_t vocab) {
  return filters.top_k >= vocab && filters.top_p >= 1.f && filters.min_p <= 0.f;
}

static int32_t draw_token(const DrawArgs& a) {
  float top = 0.f;
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < a.vocab; ++i) top = a.probs[i] > top ? a.probs[i] : top;
  if (a.filters.top_k <= 1) {
    for (int64_t i = 0; i < a.vocab; ++i)
      if (a.probs[i] == top) return int32_t(i);
    return 0;  // a row of NaN
  }
  if (keeps_all(a.filters, a.vocab)) return race_all(a);
  Race race;
  const uint32_t prefix = hash_prefix(a.seed, a.position);
  visit_kept(a.probs, a.vocab, top, a.filters, a.heap,
             [&](int32_t token, float p) { race.enter(p, hash_column(prefix, uint32_t(token)), token); });
  return race.leader;
}

// scores = logits + temperature * noise, whose greatest is the draw, and -inf for what the filters do not keep. Not divided
// by the temperature: what the draft mistakes in its logits does not become less when the target draws more narrowly.
static void add_noise(const ProposeArgs& a) {
  if (keeps_all(a.filters, a.vocab)) {
    draw_noise(a.seed, a.position, a.token_ids, a.scores, a.vocab);
    for (int64_t i = 0; i < a.vocab; ++i) a.scores[i] = load(a.logits + i) + a.temperature * a.scores[i];
    return;
  }
  for (int64_t i = 0; i < a.vocab; ++i) a.scores[i] = -INFINITY;
  softmax(a.logits, a.temperature, a.weights, a.vocab);
  visit_kept(a.weights, a.vocab, a.weights[argmax(a.weights, a.vocab)], a.filters, a.heap, [&](int32_t column, float) {
    draw_noise(a.seed, a.position, a.token_ids + column, a.scores + column, 1);
    a.scores[column] = load(a.logits + column) + a.temperature * a.scores[column];
  });
}

// The `count` likeliest columns of softmax(scores), the earlier of equals first; scores = logits, or with a temperature
// and a top_k above 1 with the noise of a draw. What the filters do not keep is in the sum as it is: the target's own
// filters may keep it.
static void propose(const ProposeArgs& a) {
  if (a.temperature > 0.f && a.filters.top_k > 1)
    add_noise(a);
  else
    load_row(a.logits, a.scores, a.vocab);
  const float top = a.scores[argmax(a.scores, a.vocab)];
  float sum = 0.f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < a.vocab; ++i) sum += exp_f32((a.scores[i] == -INFINITY ? load(a.logits + i) : a.scores[i]) - top);
  for (int64_t rank = 0; rank < a.count; ++rank) {
    const int64_t id = argmax(a.scores, a.vocab);
    a.ids[rank] = id;
    a.probs[rank] = a.scores[id] == -INFINITY ? 0.f : exp_f32(a.scores[id] - top) / sum;
    a.scores[id] = -INFINITY;
  }
}

}  // namespace aerie::AERIE_ISA
