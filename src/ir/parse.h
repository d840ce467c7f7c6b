// The text of a graph as a graph: reads what `print` writes (ir/graph.h), so that passes are tested on text and a failing graph
// can be kept in a file.
#pragma once

#include <string_view>

#include "ir/graph.h"

namespace zoe {

// A node's label behind the % may be any word. Empty lines are skipped, nodes that no result needs are dropped, as in make_graph.
// Errors: invalid_argument with the number of the line and what was expected.
Graph parse(std::string_view text);

}  // namespace zoe
