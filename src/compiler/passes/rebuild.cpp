#include "compiler/passes/rebuild.h"

#include <algorithm>
#include <unordered_map>

#include "ir/trace.h"

namespace zoe {

namespace {

bool is_leaf(const Node& node) {
  return node.opcode == Opcode::input || node.opcode == Opcode::parameter || node.opcode == Opcode::constant;
}

bool contains(const std::vector<Value>& values, const Value& value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

bool is_copy(const Node& node) { return node.opcode == Opcode::reshape && node.inputs[0].type() == node.types[0]; }

Value copy(Value value, const Node& place) {
  while (is_copy(value.node())) value = value.node().inputs[0];
  const Node node{Opcode::reshape, {}, {}, {value.type()}, {}, place.block};
  return with_inputs(node, {value}, is_leaf(place) ? "" : place.name);
}

// Calls seen(node, results) for each node behind the inputs.
template <class Seen>
std::unordered_map<const Node*, std::vector<Value>> walk(const Graph& graph, const std::vector<Value>& arguments,
                                                         const Replace& replace, Seen&& seen) {
  std::unordered_map<const Node*, std::vector<Value>> replaced;
  for (std::size_t i = 0; i < arguments.size(); ++i) replaced[&graph.inputs[i].node()] = {arguments[i]};
  for (const NodePtr& node : graph.nodes) {
    if (node->opcode == Opcode::input) continue;
    std::vector<Value> inputs;
    for (const Value& operand : node->inputs)
      inputs.push_back(replaced.at(&operand.node())[static_cast<std::size_t>(operand.output())]);
    const std::vector<Value>& results = replaced[node.get()] = replace(*node, std::move(inputs));
    seen(*node, results);
  }
  return replaced;
}

// A copy that runs directly behind what it copies only delays it: the copied value is the result.
Graph drop_copies(Graph graph) {
  const Node* previous = nullptr;
  std::vector<Value> outputs = graph.outputs;
  for (const NodePtr& node : graph.nodes) {
    if (is_leaf(*node)) continue;
    const auto output = std::find(outputs.begin(), outputs.end(), Value(node));
    if (output != outputs.end() && is_copy(*node) && &node->inputs[0].node() == previous && !contains(outputs, node->inputs[0]))
      *output = node->inputs[0];
    else previous = node.get();
  }
  if (outputs == graph.outputs) return graph;
  return make_graph(std::move(graph.name), std::move(graph.inputs), std::move(outputs));
}

}  // namespace

bool is_border(const Node& node) { return node.opcode == Opcode::reshape && node.block > node.inputs[0].node().block; }

std::vector<Value> keep(const Node& node, std::vector<Value> inputs, const std::string& origin) {
  const bool is_named = is_leaf(node) || origin.empty();
  const Value made = with_inputs(node, std::move(inputs), is_named ? node.name : origin);
  std::vector<Value> results;
  for (int i = 0; i < static_cast<int>(node.types.size()); ++i) results.emplace_back(made.node_ptr(), i);
  return results;
}

Graph rebuild(const Graph& graph, const Replace& replace) {
  std::vector<Value> outputs(graph.outputs.size());
  std::uint64_t newest = 0;  // of the nodes that earlier steps were answered with
  for (const Value& input : graph.inputs) newest = std::max(newest, input.node().serial);
  const auto set_outputs = [&](const Node& node, const std::vector<Value>& results) {
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (&graph.outputs[i].node() != &node) continue;
      const Value& value = results[static_cast<std::size_t>(graph.outputs[i].output())];
      const bool is_own = !is_leaf(value.node()) && value.node().serial > newest && !contains(outputs, value);
      outputs[i] = is_own ? value : copy(value, node);
    }
    for (const Value& value : results) newest = std::max(newest, value.node().serial);
  };
  walk(graph, graph.inputs, replace, set_outputs);
  for (const Value& input : graph.inputs) set_outputs(input.node(), {input});
  return drop_copies(make_graph(graph.name, graph.inputs, std::move(outputs)));
}

std::vector<Value> rebuild(const Graph& graph, const std::vector<Value>& arguments, const Replace& replace) {
  const auto replaced = walk(graph, arguments, replace, [](const Node&, const std::vector<Value>&) {});
  std::vector<Value> outputs;
  for (const Value& output : graph.outputs)
    outputs.push_back(replaced.at(&output.node())[static_cast<std::size_t>(output.output())]);
  return outputs;
}

}  // namespace zoe
