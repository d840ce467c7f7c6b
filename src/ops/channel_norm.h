// The Wan VAE's norm over channels: x / max(||x||_2, 1e-12) * sqrt(C) * gamma, along the last axis.
#pragma once

#include "ir/trace.h"

namespace zoe {

// [..,C], gamma [C] in any float dtype -> [..,C] in x's dtype. In f32 throughout, one rounding on store; the square root of C and
// the norm meet in one factor a row.
Value channel_norm(const Value& x, const Value& gamma);

}  // namespace zoe
