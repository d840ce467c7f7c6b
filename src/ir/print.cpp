#include <algorithm>
#include <unordered_map>

#include "base/encoding.h"
#include "base/error.h"
#include "ir/change.h"
#include "ir/graph.h"

namespace zoe {

namespace {

std::string words(const Storage& kept) { return fmt::format("{}{}", kept.encoding->name, kept.is_scaled ? "*scale" : ""); }

// Without what a call or fused node carries.
std::string attributes(const Node& node) {
  if (const auto* constant = std::get_if<ConstantAttributes>(&node.attributes)) return fmt::format(" {}", constant->value);
  if (const auto* packed = std::get_if<PackedAttributes>(&node.attributes)) {
    std::vector<std::int64_t> rows;
    std::vector<std::string> kept;
    for (const Value& part : packed->parts) rows.push_back(part.dim(0));
    for (const KeptPart& part : kept_parts(node)) kept.push_back(words(part.storage));
    return fmt::format(" parts={}{}{}", fmt::join(rows, ","), kept.empty() ? "" : " kept=", fmt::join(kept, ","));
  }
  if (const auto* stored = std::get_if<StoredAttributes>(&node.attributes)) {
    std::string text;
    if (stored->shape != node.types[0].shape) text += fmt::format(" stored={}", fmt::join(stored->shape.dims(), ","));
    if (stored->kept) text += " kept=" + words(stored->kept);
    return text;
  }
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
    if (product->codes != Codes::none) text += fmt::format(" codes={}", name(product->codes));
    if (product->has_history) text += " +history";
    if (has_change(node)) text += " +change";
    if (product->upsample != 1) text += fmt::format(" upsample={}", product->upsample);
    if (node.opcode == Opcode::conv)
      text += fmt::format(" stride={} pad={}/{}", fmt::join(product->stride, ","), fmt::join(product->pad_begin, ","),
                          fmt::join(product->pad_end, ","));
    return text;
  }
  if (const auto* attention = std::get_if<AttentionAttributes>(&node.attributes)) {
    std::string text = fmt::format(" scale={}{}", attention->scale, attention->has_bias ? " +bias" : "");
    if (attention->codes != Codes::none) text += fmt::format(" codes={}", name(attention->codes));
    if (attention->heads != 0) text += fmt::format(" heads={} from={}", attention->heads, fmt::join(attention->first_head, ","));
    return text;
  }
  return {};
}

const CallAttributes* called_by(const Node& node) {
  const auto* called = std::get_if<std::shared_ptr<const CallAttributes>>(&node.attributes);
  return called ? called->get() : nullptr;
}

std::string print_nodes(const Graph& graph, bool with_names, const std::string& indent) {
  std::unordered_map<const Node*, std::size_t> numbers;
  const auto reference = [&](const Value& value) {
    const std::size_t number = numbers.at(&value.node());
    return value.node().types.size() > 1 ? fmt::format("%{}.{}", number, value.output()) : fmt::format("%{}", number);
  };
  std::string text = indent + (with_names ? fmt::format("graph {}\n", graph.name) : "graph\n");
  const auto print_node = [&](const Node& node) {
    const std::size_t number = numbers.size();
    text += fmt::format("{}%{} = {}", indent, number, name(node.opcode));
    int block = 0;
    for (const Value& operand : node.inputs) {
      text += " " + reference(operand);
      block = std::max(block, operand.node().block);
    }
    text += attributes(node);
    const CallAttributes* const called = called_by(node);
    if (called && (with_names || node.opcode == Opcode::call)) text += fmt::format(" op=\"{}\"", called->op);
    if (with_names && node.block != block) text += fmt::format(" block={}", node.block);
    text += " :";
    for (const Type& type : node.types) text += " " + type.str();
    if (with_names && !node.name.empty()) text += "  # " + node.name;
    text += "\n";
    if (called) text += print_nodes(called->native, with_names, indent + "  ");
    numbers.emplace(&node, number);
  };
  for (const Value& input : graph.inputs) print_node(input.node());
  for (const NodePtr& node : graph.nodes)
    if (node->opcode != Opcode::input) print_node(*node);
  text += indent + "return";
  for (const Value& output : graph.outputs) text += " " + reference(output);
  return text + "\n";
}

}  // namespace

std::string attributes_text(const Node& node) {
  const CallAttributes* const called = called_by(node);
  return called ? fmt::format(" op=\"{}\"\n{}", called->op, print_nodes(called->native, false, "  ")) : attributes(node);
}

std::string signature(const Node& node) {
  std::string text = fmt::format("{}{}", name(node.opcode), attributes(node));
  const CallAttributes* const called = called_by(node);
  if (node.opcode == Opcode::call) text += fmt::format(" op=\"{}\"", called->op);
  for (const Value& operand : node.inputs) {
    text += fmt::format(" {}{}", operand.node().opcode == Opcode::parameter ? "weight " : "", operand.type().str());
    if (operand.node().opcode == Opcode::parameter && !kept_parts(operand.node()).empty()) text += attributes(operand.node());
  }
  text += " :";
  for (const Type& type : node.types) text += " " + type.str();
  if (called) text += "\n" + print_nodes(called->native, false, "  ");
  return text;
}

std::string headline(const Node& node) {
  const std::string text = signature(node);
  return text.substr(0, text.find('\n'));
}

std::string print(const Graph& graph) { return print_nodes(graph, true, ""); }

}  // namespace zoe
