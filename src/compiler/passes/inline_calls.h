// Replaces call nodes by their native graphs. The nodes keep the op's name, so a plan can say where they come from.
#pragma once

#include "ir/graph.h"

namespace zoe {

Graph inline_calls(const Graph& graph);

}  // namespace zoe
