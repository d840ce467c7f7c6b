// Ends one branch of a block with tanh gates and opens the next: y = norm(x) * tanh(scale) + shift; y2 = norm(y) * (1 + scale2).
#pragma once

#include "ops/norm.h"

namespace zoe {

struct NormedTwice {
  Value y;   // [B,L,C] in x's dtype: with shift the residual, the stream
  Value y2;  // [B,L,C] in x's dtype: the input of the next branch
};

// x [B,L,C]; scale, shift and scale2 modulations (ops/modulation.h), an absent shift or scale2 0. norm weight and bias [C] are
// applied to norm(x), weight2 and bias2 to norm(y), before what modulates it; both norms have one kind and one eps.
// In f32, but that y is rounded to x's dtype once, before the statistics of y2: what the second norm reads is what is stored.
NormedTwice norm_tanh_mul_add_norm_scale(const Value& x, const Value& scale, const Value& shift, const Value& scale2,
                                         const NormOptions& norm = {}, const Value& weight2 = {}, const Value& bias2 = {});

}  // namespace zoe
