#include "compiler/passes/read_history.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "compiler/passes/rebuild.h"
#include "ir/trace.h"

namespace zoe {

namespace {

bool joins_frames(const Node& node) {
  return node.opcode == Opcode::concat && node.as<AxisAttributes>().axis == 0 && node.inputs.size() == 2 &&
         node.types[0].shape.rank() == 4;
}

// With `inputs` instead of the node's, of which the first is a concat.
Value with_history(const Node& conv, const std::vector<Value>& inputs) {
  ProductAttributes attributes = conv.as<ProductAttributes>();
  attributes.has_history = true;
  std::vector<Value> operands = inputs;
  operands[0] = inputs[0].node().inputs[1];
  operands.push_back(inputs[0].node().inputs[0]);
  const Node like{conv.opcode, {}, attributes, conv.types, {}, conv.block};
  return with_inputs(like, std::move(operands), conv.name);
}

// The concats that nobody needs as a whole: they are read by convolutions that take a history, and as slices of the later frames.
std::set<const Node*> unneeded_concats(const Graph& graph, const std::function<bool(const Node&)>& takes) {
  std::set<const Node*> found;
  std::map<const Node*, int> convolutions;
  for (const NodePtr& node : graph.nodes)
    if (joins_frames(*node)) found.insert(node.get());
  for (const Value& output : graph.outputs) found.erase(&output.node());
  for (const NodePtr& node : graph.nodes)
    for (std::size_t i = 0; i < node->inputs.size(); ++i) {
      const Node* const joined = &node->inputs[i].node();
      if (!found.count(joined)) continue;
      bool as_parts = false;
      if (node->opcode == Opcode::conv) {
        as_parts = i == 0 && !node->as<ProductAttributes>().has_history && takes(with_history(*node, node->inputs).node());
        ++convolutions[joined];
      } else if (node->opcode == Opcode::slice) {
        const auto& slice = node->as<AxisAttributes>();
        as_parts = slice.axis == 0 && slice.begin >= joined->inputs[0].dim(0);
      }
      if (!as_parts) found.erase(joined);
    }
  std::erase_if(found, [&](const Node* joined) { return !convolutions.count(joined); });
  return found;
}

}  // namespace

Graph read_history(const Graph& graph, const std::function<bool(const Node& conv)>& takes) {
  const std::set<const Node*> found = unneeded_concats(graph, takes);
  return rebuild(graph, [&](const Node& node, std::vector<Value> inputs) {
    if (node.inputs.empty() || !found.count(&node.inputs[0].node())) return keep(node, std::move(inputs));
    if (node.opcode == Opcode::conv) return std::vector<Value>{with_history(node, inputs)};
    const Value &earlier = inputs[0].node().inputs[0], &later = inputs[0].node().inputs[1];
    const auto& range = node.as<AxisAttributes>();
    if (range.end - range.begin == later.dim(0)) return std::vector<Value>{later};
    return std::vector<Value>{slice(later, 0, range.begin - earlier.dim(0), range.end - earlier.dim(0))};
  });
}

}  // namespace zoe
