// norm(x) * weight * silu(gate): the gated norm at the end of a state-space block.
#pragma once

#include "ir/trace.h"

namespace zoe {

// x [B,L,C]; gate a modulation (ops/modulation.h), often [B,L,C] itself; weight [C] of the root-mean-square norm, absent 1.
// -> [B,L,C] in x's dtype. In f32 throughout, silu on the gate's own size, one rounding on store.
Value gated_rms(const Value& x, const Value& gate, const Value& weight, double eps);

}  // namespace zoe
