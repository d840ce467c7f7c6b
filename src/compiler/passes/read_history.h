// A convolution over frames that concat has put behind earlier ones reads both where they lie, on platforms whose kernel can:
// nothing is copied to join them. Runs with and without compiling, so that both have the same convolutions.
#pragma once

#include <functional>

#include "ir/graph.h"

namespace zoe {

// `takes` is asked about each convolution with a history that one would become. The others, and the concats they read, stay.
Graph read_history(const Graph& graph, const std::function<bool(const Node& conv)>& takes);

}  // namespace zoe
