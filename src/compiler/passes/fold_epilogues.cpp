#include "compiler/passes/fold_epilogues.h"

#include <map>
#include <utility>

#include "compiler/passes/rebuild.h"
#include "ir/change.h"
#include "ir/trace.h"

namespace zoe {

namespace {

class EpilogueFolder {
 public:
  EpilogueFolder(const Graph& graph, const std::function<bool(const Node&)>& takes) : takes_(takes) {
    for (const NodePtr& node : graph.nodes)
      for (const Value& operand : node->inputs) ++readers_[{&operand.node(), operand.output()}];
    for (const Value& output : graph.outputs) ++readers_[{&output.node(), output.output()}];
  }

  // The activation of a product that the platform does not take as it is, behind what is left of the product.
  Value split(const Node& node, const std::vector<Value>& inputs) const {
    if ((node.opcode != Opcode::linear && node.opcode != Opcode::conv) || node.types[0].dtype != DType::f32) return {};
    ProductAttributes attributes = node.as<ProductAttributes>();
    if (attributes.activation == Activation::none || attributes.has_residual) return {};
    if (takes_(with_inputs(node, inputs, node.name).node())) return {};
    const Opcode opcode = attributes.activation == Activation::silu ? Opcode::silu : Opcode::gelu_tanh;
    attributes.activation = Activation::none;
    const Node product{node.opcode, {}, attributes, node.types, {}, node.block};
    const Node activation{opcode, {}, {}, node.types, {}, node.block};
    return with_inputs(activation, {with_inputs(product, inputs, node.name)}, node.name);
  }

  // The product that computes what `node` does, if there is one.
  Value folded(const Node& node, const std::vector<Value>& inputs) const {
    if (node.types[0].dtype != DType::f32) return {};
    if (node.opcode == Opcode::gelu_tanh) return with_activation(node, inputs, Activation::gelu_tanh);
    if (node.opcode == Opcode::silu) return with_activation(node, inputs, Activation::silu);
    if (node.opcode != Opcode::add) return {};
    // Of two products the later one takes the other: it moves the shorter way.
    const std::size_t later = inputs[1].node().serial > inputs[0].node().serial ? 1 : 0;
    for (const std::size_t product : {later, 1 - later})
      if (const Value value = with_summand(node, inputs, product)) return value;
    return {};
  }

 private:
  bool is_free_product(const Node& node, const std::vector<Value>& inputs, std::size_t operand) const {
    const Node& product = inputs[operand].node();
    const Value& before = node.inputs[operand];
    return (product.opcode == Opcode::linear || product.opcode == Opcode::conv) && product.types[0] == node.types[0] &&
           product.block == node.block && readers_.at({&before.node(), before.output()}) == 1;
  }

  Value with_activation(const Node& node, const std::vector<Value>& inputs, Activation activation) const {
    if (!is_free_product(node, inputs, 0)) return {};
    const Node& product = inputs[0].node();
    ProductAttributes attributes = product.as<ProductAttributes>();
    if (attributes.activation != Activation::none || attributes.has_residual) return {};
    attributes.activation = activation;
    return offered(product, attributes, product.inputs);
  }

  Value with_summand(const Node& node, const std::vector<Value>& inputs, std::size_t operand) const {
    if (!is_free_product(node, inputs, operand)) return {};
    const Node& product = inputs[operand].node();
    const Value& summand = inputs[1 - operand];
    ProductAttributes attributes = product.as<ProductAttributes>();
    if (attributes.has_residual) return {};
    std::vector<Value> operands = product.inputs;
    const bool is_bias = summand.shape() == Shape{product.types[0].shape.dim(-1)};
    if (is_bias && !attributes.has_bias && attributes.activation == Activation::none) attributes.has_bias = true;
    else if (summand.shape() == product.types[0].shape) attributes.has_residual = true;
    else return {};
    operands.insert(operands.end() - (has_change(product) ? 1 : 0), summand);
    return offered(product, attributes, std::move(operands));
  }

  Value offered(const Node& product, const ProductAttributes& attributes, std::vector<Value> operands) const {
    const Node like{product.opcode, {}, attributes, product.types, {}, product.block};
    const Value value = with_inputs(like, std::move(operands), product.name);
    return takes_(value.node()) ? value : Value{};
  }

  const std::function<bool(const Node&)>& takes_;
  std::map<std::pair<const Node*, int>, int> readers_;
};

}  // namespace

Graph fold_epilogues(const Graph& graph, const std::function<bool(const Node&)>& takes) {
  const EpilogueFolder folder(graph, takes);
  return rebuild(graph, [&](const Node& node, std::vector<Value> inputs) {
    if (const Value activated = folder.split(node, inputs)) return std::vector<Value>{activated};
    const Value product = inputs.empty() ? Value{} : folder.folded(node, inputs);
    return product ? std::vector<Value>{product} : keep(node, std::move(inputs));
  });
}

}  // namespace zoe
