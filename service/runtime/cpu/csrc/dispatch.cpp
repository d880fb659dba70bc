// Chooses the variant once: the best one this CPU can run, or the lower one AERIE_CPU_ISA asks for.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace aerie {

#if defined(__x86_64__)
namespace baseline { extern const Kernels table; }
namespace avx2 { extern const Kernels table; }
namespace avx512 { extern const Kernels table; }
namespace avx512_bf16 { extern const Kernels table; }

namespace {

struct Variant {
  const Kernels* table;
  bool (*runs_here)();
};

// Best last. The feature strings are the psABI levels the variants are compiled for (x86-64-v3 and x86-64-v4),
// the last with AVX-512's bfloat16 products on top (Cooper Lake, Sapphire Rapids, Zen 4 and later).
const Variant variants[] = {
    {&baseline::table, [] { return true; }},
    {&avx2::table, [] { return bool(__builtin_cpu_supports("x86-64-v3")); }},
    {&avx512::table, [] { return bool(__builtin_cpu_supports("x86-64-v4")); }},
    {&avx512_bf16::table, [] { return __builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512bf16"); }},
};

}  // namespace
#else
namespace baseline { extern const Kernels table; }
namespace {
struct Variant {
  const Kernels* table;
  bool (*runs_here)();
};
const Variant variants[] = {{&baseline::table, [] { return true; }}};
}  // namespace
#endif

static const Kernels& choose() {
  const char* wanted = std::getenv("AERIE_CPU_ISA");
  const Variant* best = nullptr;
  std::string known;
  for (const Variant& variant : variants) {
    known += std::string(known.empty() ? "" : ", ") + variant.table->isa;
    const bool runs = variant.runs_here();
    if (wanted && std::strcmp(wanted, variant.table->isa) == 0) {
      if (!runs) throw std::runtime_error(std::string("AERIE_CPU_ISA=") + wanted + ": this CPU does not support it");
      return *variant.table;
    }
    if (runs) best = &variant;
  }
  if (wanted && *wanted) throw std::runtime_error(std::string("AERIE_CPU_ISA=") + wanted + " is unknown; this build has " + known);
  return *best->table;
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace aerie
