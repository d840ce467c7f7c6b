// norm(x) * (1 + scale) + shift: the adaptive norm before a branch of a diffusion block.
#pragma once

#include "ops/norm.h"

namespace zoe {

// x [B,L,C]; scale and shift modulations (ops/modulation.h), absent ones 0; norm weight and bias [C] are applied to norm(x) first.
// -> [B,L,C] in x's dtype. In f32 throughout (norm.h; then 1 + scale on the small tensor, the product, the sum), one rounding
// on store: none between norm, scale and shift.
Value norm_scale_shift(const Value& x, const Value& scale, const Value& shift, const NormOptions& norm = {});

}  // namespace zoe
