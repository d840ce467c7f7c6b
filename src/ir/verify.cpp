#include <algorithm>
#include <unordered_set>

#include "base/error.h"
#include "ir/change.h"
#include "ir/trace.h"

namespace zoe {

namespace {

std::size_t operand_count(const Node& node) {
  switch (node.opcode) {
    case Opcode::input:
    case Opcode::parameter:
    case Opcode::constant: return 0;
    case Opcode::gather: return 2;
    case Opcode::linear:
    case Opcode::conv: {
      const auto& attributes = node.as<ProductAttributes>();
      return 2 + static_cast<std::size_t>(attributes.has_bias) + static_cast<std::size_t>(attributes.has_residual) +
             static_cast<std::size_t>(attributes.has_history) + static_cast<std::size_t>(has_change(node));
    }
    case Opcode::attention: return 3 + static_cast<std::size_t>(node.as<AttentionAttributes>().has_bias);
    case Opcode::concat: return std::max<std::size_t>(node.inputs.size(), 1);
    case Opcode::call:
    case Opcode::fused: return node.as<std::shared_ptr<const CallAttributes>>()->native.inputs.size();
    default: return is_binary(node.opcode) ? 2 : 1;
  }
}

}  // namespace

// By the tracing function of the node's opcode.
std::vector<Type> result_types(const Node& node) {
  check(node.inputs.size() == operand_count(node), ErrorKind::internal, name(node.opcode), "got {} operands, expected {}.",
        node.inputs.size(), operand_count(node));
  const auto& in = node.inputs;
  const auto product_options = [&](const ProductAttributes& attributes) {
    std::size_t next = 2;
    ProductOptions options;
    options.activation = attributes.activation;
    options.codes = attributes.codes;
    if (attributes.has_bias) options.bias = in.at(next++);
    if (attributes.has_residual) options.residual = in.at(next++);
    if (attributes.has_history) options.history = in.at(next++);
    return options;
  };
  switch (node.opcode) {
    case Opcode::input: return node.types;
    case Opcode::parameter:
      if (const auto* packed = std::get_if<PackedAttributes>(&node.attributes)) return {packed_parameter(packed->parts).type()};
      if (const auto* stored = std::get_if<StoredAttributes>(&node.attributes); stored && stored->kept)
        return {kept_parameter(node, stored->kept).type()};
      return {parameter(node.name, node.types.at(0).dtype, node.types.at(0).shape, 0, stored_shape(node)).type()};
    case Opcode::constant:
      return {constant(node.as<ConstantAttributes>().value, node.types.at(0).dtype).type()};
// clang-format off
#define ZOE_UNARY(name, value, spelling) \
  case Opcode::name: return {name(in.at(0)).type()};
#define ZOE_BINARY(name, value, spelling) \
  case Opcode::name: return {name(in.at(0), in.at(1)).type()};
#define ZOE_REDUCTION(name, combine, identity) \
  case Opcode::name: return {name(in.at(0)).type()};
#include "ir/opcodes.def"
      // clang-format on
    case Opcode::cast: return {cast(in.at(0), node.types.at(0).dtype).type()};
    case Opcode::reshape: return {reshape(in.at(0), node.types.at(0).shape).type()};
    case Opcode::slice: {
      const auto& axis = node.as<AxisAttributes>();
      return {slice(in.at(0), axis.axis, axis.begin, axis.end).type()};
    }
    case Opcode::concat: return {concat(in, node.as<AxisAttributes>().axis).type()};
    case Opcode::permute: return {permute(in.at(0), node.as<PermuteAttributes>().axes).type()};
    case Opcode::swap_pairs: return {swap_pairs(in.at(0)).type()};
    case Opcode::flip: return {flip(in.at(0), node.as<AxisAttributes>().axis).type()};
    case Opcode::gather: return {gather(in.at(0), in.at(1)).type()};
    case Opcode::all_to_all: return {all_to_all(in.at(0)).type()};
    case Opcode::all_gather: {
      const Shape& all = node.types.at(0).shape;
      return {all_gather(in.at(0), all.rank() == 0 ? 0 : all.dim(0)).type()};
    }
    case Opcode::linear:
      check(!has_change(node) || in.back().type() == in.at(1).type(), ErrorKind::internal, "linear",
            "bad change: got {}, expected {}.", in.back().type().str(), in.at(1).type().str());
      check(node.as<ProductAttributes>().codes == Codes::none || (!has_change(node) && kept_parts(in.at(1).node()).empty()),
            ErrorKind::internal, "linear", "codes are made of a dense weight: got one that stays as it is stored.");
      return {linear(in.at(0), in.at(1), product_options(node.as<ProductAttributes>())).type()};
    case Opcode::conv: {
      const auto& attributes = node.as<ProductAttributes>();
      const ConvWindow window{attributes.stride, attributes.pad_begin, attributes.pad_end, attributes.upsample};
      return {conv(in.at(0), in.at(1), window, product_options(attributes)).type()};
    }
    case Opcode::attention: {
      const auto& attributes = node.as<AttentionAttributes>();
      return {attention(in.at(0), in.at(1), in.at(2), attributes, attributes.has_bias ? in.at(3) : Value{}).type()};
    }
    case Opcode::call:
    case Opcode::fused: {
      const Graph& native = node.as<std::shared_ptr<const CallAttributes>>()->native;
      verify(native);
      for (std::size_t i = 0; i < in.size(); ++i)
        check(native.inputs[i].type() == in[i].type(), ErrorKind::internal, name(node.opcode), "argument {}: got {}, expected {}.",
              i, in[i].type().str(), native.inputs[i].type().str());
      std::vector<Type> types;
      for (const Value& output : native.outputs) types.push_back(output.type());
      return types;
    }
  }
  return {};
}

void verify(const Graph& graph) {
  std::unordered_set<const Node*> seen;
  std::size_t number = graph.inputs.size();  // as in print
  for (const NodePtr& node : graph.nodes) {
    if (node->opcode == Opcode::input) {
      seen.insert(node.get());
      continue;
    }
    const std::string where = fmt::format("verify {} %{} {}", graph.name, number++, name(node->opcode));
    for (const Value& operand : node->inputs) {
      check(seen.count(&operand.node()) > 0, ErrorKind::internal, where, "an operand comes after its use.");
      check(operand.output() >= 0 && operand.output() < static_cast<int>(operand.node().types.size()), ErrorKind::internal, where,
            "an operand names result {} of {}.", operand.output(), operand.node().types.size());
      check(operand.node().block <= node->block, ErrorKind::internal, where, "an operand belongs to a later block.");
    }
    check(result_types(*node) == node->types, ErrorKind::internal, where,
          "result type contradicts the operands: got {}, expected {}.", node->types.at(0).str(), result_types(*node).at(0).str());
    seen.insert(node.get());
  }
  for (const Value& output : graph.outputs)
    check(seen.count(&output.node()) > 0, ErrorKind::internal, graph.name, "an output is not among the nodes.");
}

}  // namespace zoe
