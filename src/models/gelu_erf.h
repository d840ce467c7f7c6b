// GELU by the error function, as CLIP and the image embedder of Wan have it: x/2 (1 + erf(x / sqrt 2)).
#pragma once

#include "ir/trace.h"

namespace zoe {

// In f32, one rounding to x's dtype on store; the error function after Abramowitz and Stegun 7.1.26, off by at most 1.5e-7.
Value gelu_erf(const Value& x);

}  // namespace zoe
