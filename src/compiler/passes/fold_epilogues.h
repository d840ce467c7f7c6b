// Bias, activation and residual behind a linear or conv become part of the product, whose f32 accumulators they then work on.
//
// In f32 only, where the product's result is rounded no further than its accumulators: in bf16 a rounding would be lost. And only
// if nothing else reads the product, and the platform takes it. The other way, too: an activation that a product was traced with,
// but that the platform does not take, becomes a node of its own, for generated code.
#pragma once

#include <functional>

#include "ir/graph.h"

namespace zoe {

// `takes` is asked about each product with one part more, and about those with an activation.
Graph fold_epilogues(const Graph& graph, const std::function<bool(const Node& product)>& takes);

}  // namespace zoe
