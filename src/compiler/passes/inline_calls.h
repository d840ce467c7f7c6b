// Replaces call nodes by their native graphs. The nodes keep the op's name, so a plan can say where they come from.
#pragma once

#include <functional>

#include "ir/graph.h"

namespace zoe {

// `takes` is asked for every call, a call before those inside it; it stays a node where the answer is true.
Graph inline_calls(const Graph& graph, const std::function<bool(const Node& call)>& takes = {});

}  // namespace zoe
