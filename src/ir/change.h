// A change that is added to a linear's weight: an operand behind those that its attributes name.
//
// Only a weight that stays as it is stored (kept_parts of ir/graph.h) has one. It is [N,K], of the weight's type, and the weight
// that is multiplied with is weight + change: a sum in f32 of what is stored, rounded once.
#pragma once

#include "ir/graph.h"

namespace zoe {

bool has_change(const Node& node);
// `linear` with the change behind its other operands.
Value with_change(const Node& linear, const Value& change);
// A linear with a kept weight as it is where that has been widened: with an ordinary weight, and without a change.
Node behind_widening(const Node& linear);

}  // namespace zoe
