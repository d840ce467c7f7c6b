// Root-mean-square norm over the last axis: weight * x * rsqrt(mean(x^2) + eps).
#pragma once

#include "ir/trace.h"

namespace zoe {

// Across heads: C is all N*D columns, heads are split behind it.
// [..,C], weight [C] in any float dtype, absent 1 -> [..,C] in x's dtype. In f32 throughout, one rounding on store.
Value rms_norm(const Value& x, const Value& weight, double eps);

}  // namespace zoe
