// Replaces every call node by its native graph. The nodes keep the op's name, so a plan can say where they come from.
#pragma once

#include "ir/graph.h"

namespace zoe {

Graph inline_calls(const Graph& graph);

}  // namespace zoe
