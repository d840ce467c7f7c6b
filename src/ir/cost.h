// Work of a node, for performance figures.
#pragma once

#include "ir/graph.h"

namespace zoe {

// For grouping in reports.
enum class WorkKind { product, attention, fused, elementwise, movement };
WorkKind kind_of_work(const Node& node);
std::string_view name(WorkKind kind);

// Multiplications and additions of the products (linear, conv, attention); 0 for all other nodes.
double product_operations(const Node& node);
double product_operations(const Graph& graph);

// All arithmetic: of a product as above, one an element for an element-wise opcode, one an operand element for a sum; casts and
// movement have none. Of a fused or call node: of the nodes inside.
double operations(const Node& node);

// The least memory traffic a node can do with: each operand and each result once, of an operand that is only sliced or gathered
// from the part that is used. A node that is a view of its operand (a reshape) still counts as a copy here.
double bytes_read(const Node& node);
double bytes_written(const Node& node);

}  // namespace zoe
