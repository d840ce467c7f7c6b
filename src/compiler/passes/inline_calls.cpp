#include "compiler/passes/inline_calls.h"

#include <unordered_map>

#include "ir/trace.h"

namespace zoe {

namespace {

using Replacements = std::unordered_map<const Node*, std::vector<Value>>;
using Keep = std::function<bool(const Node& call)>;

// Walks `graph` with its inputs already in `replaced`; afterwards every node of it has its new results there.
void inline_into(const Graph& graph, const std::string& origin, const Keep& keep, Replacements& replaced) {
  for (const NodePtr& node : graph.nodes) {
    if (replaced.count(node.get())) continue;
    if (node->inputs.empty()) {
      replaced[node.get()] = {Value(node)};
      continue;
    }
    std::vector<Value> inputs;
    for (const Value& operand : node->inputs)
      inputs.push_back(replaced.at(&operand.node())[static_cast<std::size_t>(operand.output())]);
    if (node->opcode != Opcode::call) {
      replaced[node.get()] = {with_inputs(*node, std::move(inputs), origin)};
      continue;
    }
    if (keep) {
      const Value called = with_inputs(*node, inputs, node->name);  // with the operands it has here
      if (keep(called.node())) {
        for (int i = 0; i < static_cast<int>(node->types.size()); ++i) replaced[node.get()].emplace_back(called.node_ptr(), i);
        continue;
      }
    }
    const Graph& native = node->as<std::shared_ptr<const CallAttributes>>()->native;
    Replacements inner;  // two calls of one op have native graphs of their own, but a graph may be called twice
    for (std::size_t i = 0; i < inputs.size(); ++i) inner[&native.inputs[i].node()] = {inputs[i]};
    inline_into(native, node->name, keep, inner);
    for (const Value& output : native.outputs)
      replaced[node.get()].push_back(inner.at(&output.node())[static_cast<std::size_t>(output.output())]);
  }
}

}  // namespace

Graph inline_calls(const Graph& graph, const Keep& keep) {
  Replacements replaced;
  inline_into(graph, "", keep, replaced);
  std::vector<Value> outputs;
  for (const Value& output : graph.outputs)
    outputs.push_back(replaced.at(&output.node())[static_cast<std::size_t>(output.output())]);
  return make_graph(graph.name, graph.inputs, std::move(outputs));
}

}  // namespace zoe
