// All kernels for one instruction set: compiled once per variant with -DAERIE_ISA=<name> and the matching -march.
#include "activation.h"
#include "attention.h"
#include "linear.h"
#include "norm.h"
#include "rotary.h"
#include "sampling.h"

#define AERIE_STRING_(x) #x
#define AERIE_STRING(x) AERIE_STRING_(x)

namespace aerie::AERIE_ISA {

extern const Kernels table;
const Kernels table = {
    AERIE_STRING(AERIE_ISA),
    &linear,
    &rms_norm<float>,
    &rms_norm<bf16>,
    &silu_and_mul<float>,
    &silu_and_mul<bf16>,
    &rotary<float>,
    &rotary<bf16>,
    &attention<float>,
    &attention<bf16>,
    &murmur_hash,
    &draw_noise,
    &softmax<float>,
    &softmax<bf16>,
    &argmax<float>,
    &argmax<bf16>,
    &propose,
    &draw_token,
};

}  // namespace aerie::AERIE_ISA
