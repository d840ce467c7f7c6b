// Of several nodes that compute the same, one stays: the first, where it was. Equal are opcode, attributes, types and operands (in
// either order for add and mul); numbers by value and dtype, weights by name, type and block.
//
// Each bf16 -> f32 cast stays: reading the narrow value again costs half of what reading the wide one would, and the wide one
// would take twice the memory until then. What is computed from equal casts is still recognised. Borders (rebuild.h) stay, too, and
// what is made behind one is not what is made behind another.
#pragma once

#include "ir/graph.h"

namespace zoe {

Graph common_subexpressions(const Graph& graph);

}  // namespace zoe
