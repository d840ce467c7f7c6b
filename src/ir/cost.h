// Work of a node, for performance figures.
#pragma once

#include "ir/graph.h"

namespace zoe {

// Multiplications and additions of the products (linear, conv, attention); 0 for all other nodes.
double product_operations(const Node& node);
double product_operations(const Graph& graph);

}  // namespace zoe
