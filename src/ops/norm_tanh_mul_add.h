// norm(x) * tanh(scale) + shift: a gated, normed branch. With shift the residual stream [B,L,C] this closes a block of the
// Z-Image kind, whose gates are tanh.
#pragma once

#include "ops/norm.h"

namespace zoe {

// x [B,L,C]; scale and shift modulations (ops/modulation.h), an absent shift 0; norm weight and bias [C] are applied to norm(x)
// first. -> [B,L,C] in x's dtype. In f32 throughout, tanh on the small tensor, one rounding on store.
Value norm_tanh_mul_add(const Value& x, const Value& scale, const Value& shift, const NormOptions& norm = {});

}  // namespace zoe
