// The walk that passes share: a graph made again node by node, in its order.
//
// The order in which nodes are made is the order in which they run, so every node is made anew, operands first; only the graph's
// inputs stay the same nodes.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "ir/graph.h"

namespace zoe {

// True for a reshape that belongs to a later block than its operand: a border, behind which what is made of the operand is made
// anew, in that block, so that it does not wait from where the operand was made. It stays one, is not fused away, and costs
// nothing.
bool is_border(const Node& node);

// Returns the values that stand for the results of `node`; `inputs` are its operands in the new graph.
using Replace = std::function<std::vector<Value>(const Node& node, std::vector<Value> inputs)>;

// The node as it is, with other operands; `origin`, if there is one, becomes the name of what is no leaf.
std::vector<Value> keep(const Node& node, std::vector<Value> inputs, const std::string& origin = {});

// Every result stays a step of its own that is written where it was: states are updated in place, which needs the last read of
// the old one to come first (Plan::can_update_in_place). So a result that is answered by an argument, a weight, a number, another
// result or a value of an earlier step becomes a copy of it, a reshape to the same shape.
Graph rebuild(const Graph& graph, const Replace& replace);

// The nodes of `graph` with `arguments` for its inputs, among the nodes of another graph. Returns its results.
std::vector<Value> rebuild(const Graph& graph, const std::vector<Value>& arguments, const Replace& replace);

}  // namespace zoe
