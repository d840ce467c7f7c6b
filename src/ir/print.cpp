#include <unordered_map>

#include "base/error.h"
#include "ir/graph.h"

namespace zoe {

namespace {

std::string attributes(const Node& node) {
  if (const auto* constant = std::get_if<ConstantAttributes>(&node.attributes)) return fmt::format(" {}", constant->value);
  if (const auto* axis = std::get_if<AxisAttributes>(&node.attributes)) {
    if (node.opcode == Opcode::concat || node.opcode == Opcode::flip) return fmt::format(" axis={}", axis->axis);
    return fmt::format(" axis={} [{},{})", axis->axis, axis->begin, axis->end);
  }
  if (const auto* permute = std::get_if<PermuteAttributes>(&node.attributes))
    return fmt::format(" axes={}", fmt::join(permute->axes, ","));
  if (const auto* product = std::get_if<ProductAttributes>(&node.attributes)) {
    std::string text;
    if (product->has_bias) text += " +bias";
    if (product->activation == Activation::gelu_tanh) text += " +gelu_tanh";
    if (product->activation == Activation::silu) text += " +silu";
    if (product->has_residual) text += " +residual";
    if (product->upsample != 1) text += fmt::format(" upsample={}", product->upsample);
    if (node.opcode == Opcode::conv)
      text += fmt::format(" stride={} pad={}/{}", fmt::join(product->stride, ","), fmt::join(product->pad_begin, ","),
                          fmt::join(product->pad_end, ","));
    return text;
  }
  if (const auto* attention = std::get_if<AttentionAttributes>(&node.attributes))
    return fmt::format(" scale={}{}", attention->scale, attention->has_bias ? " +bias" : "");
  return {};
}

}  // namespace

std::string signature(const Node& node) {
  std::string text = fmt::format("{}{}", name(node.opcode), attributes(node));
  for (const Value& operand : node.inputs)
    text += fmt::format(" {}{}", operand.node().opcode == Opcode::parameter ? "weight " : "", operand.type().str());
  text += " :";
  for (const Type& type : node.types) text += " " + type.str();
  if (node.opcode == Opcode::call) {
    const auto& called = *node.as<std::shared_ptr<const CallAttributes>>();
    text = called.op + " " + text + "\n" + print(called.native);
    for (const NodePtr& inner : called.native.nodes)
      if (inner->opcode == Opcode::call) text += signature(*inner);
  }
  // A fused node's kernel is its body, wherever in the model that comes from: no names of arguments in it.
  if (node.opcode == Opcode::fused) text += "\n" + print(node.as<std::shared_ptr<const CallAttributes>>()->native);
  return text;
}

std::string headline(const Node& node) {
  const std::string text = signature(node);
  return text.substr(0, text.find('\n'));
}

std::string print(const Graph& graph) {
  std::unordered_map<const Node*, std::size_t> numbers;
  const auto reference = [&](const Value& value) {
    const auto found = numbers.find(&value.node());
    const std::string number = found == numbers.end() ? value.node().name : std::to_string(found->second);
    return value.node().types.size() > 1 ? fmt::format("%{}.{}", number, value.output()) : "%" + number;
  };
  std::string text = fmt::format("graph {}\n", graph.name);
  for (const NodePtr& node : graph.nodes) {
    const std::size_t number = numbers.size();
    text += fmt::format("%{} = {}", number, name(node->opcode));
    for (const Value& operand : node->inputs) text += " " + reference(operand);
    text += attributes(*node) + " :";
    for (const Type& type : node->types) text += " " + type.str();
    if (!node->name.empty()) text += "  # " + node->name;
    text += "\n";
    numbers.emplace(node.get(), number);
  }
  text += "return";
  for (const Value& output : graph.outputs) text += " " + reference(output);
  return text + "\n";
}

}  // namespace zoe
