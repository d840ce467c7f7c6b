// Rotary position embedding on neighbouring pairs: y[2i] = x[2i] cos - x[2i+1] sin, y[2i+1] = x[2i+1] cos + x[2i] sin.
#pragma once

#include "ir/trace.h"

namespace zoe {

// x [B,L,N,D] with D even; cos_full and sin_signed f32 [L,1|N,D] -> [B,L,N,D] in x's dtype. In f32, one rounding on store.
// cos_full holds each pair's cosine twice; sin_signed holds -sin for the even elements and sin for the odd ones, so that the
// result is x * cos_full + swap_pairs(x) * sin_signed, with the same bits as the formula above.
Value rotary_interleaved(const Value& x, const Value& cos_full, const Value& sin_signed);

}  // namespace zoe
