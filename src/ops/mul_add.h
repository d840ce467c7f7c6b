// c + a * (k + b): a gated residual. In a Wan block it closes the feed-forward: a the branch, b the gate, c the stream.
#pragma once

#include "ir/trace.h"

namespace zoe {

// a, c [B,L,C]; b a modulation (ops/modulation.h); with b absent the gate is open: c + a, and k is 0 or 1. -> [B,L,C] in c's dtype.
// In f32 throughout: k + b on the small tensor, the product, the sum; one rounding on store.
Value mul_add(const Value& a, const Value& b, const Value& c, double k = 0);

}  // namespace zoe
