#include "ir/graph.h"

#include <algorithm>
#include <unordered_set>

#include "base/encoding.h"
#include "base/error.h"

namespace zoe {

Graph make_graph(std::string name, std::vector<Value> inputs, std::vector<Value> outputs) {
  Graph graph{std::move(name), std::move(inputs), std::move(outputs), {}};
  std::unordered_set<const Node*> seen;
  std::vector<NodePtr> pending;  // explicit stack: a graph may be thousands of nodes deep
  const auto visit = [&](const NodePtr& node) {
    if (seen.insert(node.get()).second) pending.push_back(node);
  };
  for (const Value& output : graph.outputs) visit(output.node_ptr());
  while (!pending.empty()) {
    graph.nodes.push_back(std::move(pending.back()));
    pending.pop_back();
    const NodePtr node = graph.nodes.back();
    for (const Value& operand : node->inputs) visit(operand.node_ptr());
  }
  // Operands are made before what uses them, so the serial numbers are a topological order, and the one of the trace.
  std::sort(graph.nodes.begin(), graph.nodes.end(), [](const NodePtr& a, const NodePtr& b) { return a->serial < b->serial; });
  for (const NodePtr& node : graph.nodes) {
    const bool declared =
        node->opcode != Opcode::input ||
        std::any_of(graph.inputs.begin(), graph.inputs.end(), [&](const Value& value) { return value.node_ptr() == node; });
    check(declared, ErrorKind::internal, graph.name, "input {} is used but not an argument of the graph.", node->name);
  }
  return graph;
}

HeadsLayout heads_layout(const Node& attention, int operand) {
  const Shape& shape = attention.inputs[static_cast<std::size_t>(operand)].shape();
  const std::int64_t first = attention.as<AttentionAttributes>().first_head[static_cast<std::size_t>(operand)];
  return {shape.dim(2) * shape.dim(3), first * shape.dim(3)};
}

std::vector<Value> parts_of(const NodePtr& parameter) {
  const auto* packed = std::get_if<PackedAttributes>(&parameter->attributes);
  return packed ? packed->parts : std::vector<Value>{Value(parameter)};
}

const Shape& stored_shape(const Node& parameter) {
  const auto* stored = std::get_if<StoredAttributes>(&parameter.attributes);
  return stored ? stored->shape : parameter.types[0].shape;
}

Codes codes_of(const Node& node) {
  if (node.opcode == Opcode::linear) return node.as<ProductAttributes>().codes;
  return node.opcode == Opcode::attention ? node.as<AttentionAttributes>().codes : Codes::none;
}

std::vector<KeptPart> kept_parts(const Node& parameter) {
  const auto part = [](const Node& of) {
    const auto* stored = std::get_if<StoredAttributes>(&of.attributes);
    return KeptPart{of.types[0], stored ? stored->kept : Storage{}};
  };
  std::vector<KeptPart> parts;
  if (const auto* packed = std::get_if<PackedAttributes>(&parameter.attributes))
    for (const Value& value : packed->parts) parts.push_back(part(value.node()));
  else parts.push_back(part(parameter));
  if (std::none_of(parts.begin(), parts.end(), [](const KeptPart& each) { return bool(each.storage); })) return {};
  for (KeptPart& each : parts)
    if (!each.storage) each.storage.encoding = find_encoding(each.type.dtype == DType::f32 ? "F32" : "BF16");
  return parts;
}

std::vector<NodePtr> Graph::parameters() const {
  std::vector<NodePtr> found;
  std::copy_if(nodes.begin(), nodes.end(), std::back_inserter(found),
               [](const NodePtr& node) { return node->opcode == Opcode::parameter; });
  return found;
}

}  // namespace zoe
