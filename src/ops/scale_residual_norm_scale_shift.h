// Ends one branch of a diffusion block and opens the next: r = residual + gate * x; y = norm(r) * (1 + scale) + shift.
#pragma once

#include "ops/norm.h"

namespace zoe {

struct NormedResidual {
  Value y;         // [B,L,C] in x's dtype: the input of the next branch
  Value residual;  // [B,L,C] in the residual's dtype: the stream
};

// residual, x [B,L,C]; gate, scale and shift modulations (ops/modulation.h); an absent gate is 1, an absent scale or shift 0;
// norm weight and bias [C] are applied to norm(r) first. In f32, but that r is rounded to its dtype once, before the statistics:
// what the norm reads is what the stream holds.
NormedResidual scale_residual_norm_scale_shift(const Value& residual, const Value& x, const Value& gate, const Value& scale,
                                               const Value& shift, const NormOptions& norm = {});

}  // namespace zoe
