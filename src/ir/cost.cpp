#include "ir/cost.h"

#include <algorithm>
#include <set>
#include <tuple>
#include <unordered_map>

namespace zoe {

namespace {

double count(const Shape& shape) { return static_cast<double>(shape.count()); }
double bytes(const Type& type) { return static_cast<double>(type.size_bytes()); }

const Graph* graph_inside(const Node& node) {
  if (node.opcode != Opcode::call && node.opcode != Opcode::fused) return nullptr;
  return &node.as<std::shared_ptr<const CallAttributes>>()->native;
}

// How much of each of its inputs a graph reads, at most all of it.
std::vector<double> bytes_read_of(const Graph& graph) {
  std::unordered_map<const Node*, double> read;
  for (const NodePtr& node : graph.nodes)
    for (const Value& operand : node->inputs)
      if (operand.node().opcode == Opcode::input)
        read[&operand.node()] += bytes(node->opcode == Opcode::slice ? node->types[0] : operand.type());
  for (const Value& output : graph.outputs)
    if (output.node().opcode == Opcode::input) read[&output.node()] += bytes(output.type());
  std::vector<double> of_inputs;
  for (const Value& input : graph.inputs) of_inputs.push_back(std::min(read[&input.node()], bytes(input.type())));
  return of_inputs;
}

}  // namespace

WorkKind kind_of_work(const Node& node) {
  switch (node.opcode) {
    case Opcode::linear:
    case Opcode::conv: return WorkKind::product;
    case Opcode::attention: return WorkKind::attention;
    case Opcode::fused: return WorkKind::fused;
    case Opcode::cast: return WorkKind::elementwise;
    default:
      return is_unary(node.opcode) || is_binary(node.opcode) || is_reduction(node.opcode) ? WorkKind::elementwise
                                                                                          : WorkKind::movement;
  }
}

std::string_view name(WorkKind kind) {
  constexpr std::string_view kNames[] = {"product", "attention", "fused", "elementwise", "movement"};
  return kNames[static_cast<int>(kind)];
}

double product_operations(const Node& node) {
  switch (node.opcode) {
    case Opcode::linear: return 2.0 * count(node.types[0].shape) * static_cast<double>(node.inputs[1].dim(1));
    case Opcode::conv: return 2.0 * count(node.types[0].shape) * static_cast<double>(node.inputs[1].shape().count(1, 5));
    case Opcode::attention: return 4.0 * count(node.types[0].shape) * static_cast<double>(node.inputs[1].dim(1));
    default: return 0;
  }
}

double product_operations(const Graph& graph) {
  double total = 0;
  for (const NodePtr& node : graph.nodes) {
    const Graph* const inside = graph_inside(*node);
    total += inside ? product_operations(*inside) : product_operations(*node);
  }
  return total;
}

double operations(const Node& node) {
  if (const Graph* const inside = graph_inside(node)) {
    double total = 0;
    for (const NodePtr& inner : inside->nodes) total += operations(*inner);
    return total;
  }
  if (is_unary(node.opcode) || is_binary(node.opcode)) return count(node.types[0].shape);
  if (is_reduction(node.opcode)) return count(node.inputs[0].shape());
  return product_operations(node);
}

double bytes_read(const Node& node) {
  if (node.opcode == Opcode::slice) return bytes(node.types[0]);
  if (node.opcode == Opcode::gather) return bytes(node.types[0]) + bytes(node.inputs[1].type());
  const Graph* const inside = graph_inside(node);
  const std::vector<double> read = inside ? bytes_read_of(*inside) : std::vector<double>{};
  const auto* attention = std::get_if<AttentionAttributes>(&node.attributes);
  std::set<std::tuple<const Node*, int, std::int64_t>> seen;
  double total = 0;
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    const Value& operand = node.inputs[i];
    const bool has_heads = attention && i < 3;  // of which others may lie among those that are read
    if (!seen.emplace(&operand.node(), operand.output(), has_heads ? attention->first_head[i] : 0).second) continue;
    if (has_heads) total += bytes({operand.dtype(), {operand.dim(0), operand.dim(1), node.types[0].shape.dim(2), operand.dim(3)}});
    else total += inside ? read[i] : bytes(operand.type());
  }
  return total;
}

double bytes_written(const Node& node) {
  double total = 0;
  for (const Type& type : node.types) total += bytes(type);
  return total;
}

}  // namespace zoe
