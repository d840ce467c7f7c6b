// Chains of element-wise nodes, row sums and movement become one fused node each, whose kernel is generated.
//
// Nodes join the chain of what they read, in trace order, as long as the whole is one loop over rows (codegen/chain.h), no value
// would have to leave the chain and come back, and the device's limits hold. Movement between them, numbers and widening casts
// cost nothing inside a chain: every chain that wants one has its own. Movement that must end up in memory anyway (the operand of
// a product, say) is written by the chain that makes its operand. No chain reaches across a border (passes/rebuild.h).
#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "ir/graph.h"
#include "platform/platform.h"

namespace zoe {

struct Fused {
  Graph graph;
  // Why a node did not join a chain that makes one of its operands: "norm_scale_shift sum: sums run over 64 and 1536 columns".
  std::vector<std::string> notes;
  // Where the results of the given graph's nodes are now; those that only exist inside chains are absent.
  std::map<std::pair<const Node*, int>, Value> moved;
};

// `may_fuse`: false for nodes that policy keeps out of chains.
Fused fuse(const Graph& graph, const DeviceInfo& device, const std::function<bool(const Node&)>& may_fuse);

}  // namespace zoe
