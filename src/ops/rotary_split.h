// Rotary position embedding on halves: with H = D/2, y[i] = x[i] cos - x[H+i] sin, y[H+i] = x[H+i] cos + x[i] sin.
#pragma once

#include "ir/trace.h"

namespace zoe {

// x [B,L,N,D] with D even; cos_full and sin_signed f32 [L,1|N,D] -> [B,L,N,D] in x's dtype. In f32, one rounding on store.
// cos_full holds the H cosines twice, one after the other; sin_signed holds the H of -sin, then the H of sin, so that the result
// is x * cos_full + (x with its halves exchanged) * sin_signed, with the same bits as the formula above.
Value rotary_split(const Value& x, const Value& cos_full, const Value& sin_signed);

}  // namespace zoe
