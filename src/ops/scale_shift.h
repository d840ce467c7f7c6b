// x * (k + scale) + shift.
#pragma once

#include "ir/trace.h"

namespace zoe {

// x [B,L,C]; scale and shift modulations (ops/modulation.h), absent ones 0 -> [B,L,C] in x's dtype. In f32 throughout: k + scale on
// the small tensor, the product, the sum; one rounding on store.
Value scale_shift(const Value& x, const Value& scale, const Value& shift, double k = 1);

}  // namespace zoe
