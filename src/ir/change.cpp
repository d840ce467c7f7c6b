#include "ir/change.h"

#include <utility>

#include "base/error.h"
#include "ir/trace.h"

namespace zoe {

bool has_change(const Node& node) {
  if (node.opcode != Opcode::linear) return false;
  const auto& attributes = node.as<ProductAttributes>();
  return node.inputs.size() > 2 + static_cast<std::size_t>(attributes.has_bias) + static_cast<std::size_t>(attributes.has_residual);
}

Value with_change(const Node& linear, const Value& change) {
  ZOE_INTERNAL_CHECK(!has_change(linear) && change.type() == linear.inputs[1].type());
  std::vector<Value> inputs = linear.inputs;
  inputs.push_back(change);
  return with_inputs(linear, std::move(inputs), linear.name);
}

Node behind_widening(const Node& linear) {
  Node plain = linear;
  plain.inputs[1] = parameter("weight", linear.inputs[1].dtype(), linear.inputs[1].shape());
  if (has_change(linear)) plain.inputs.pop_back();
  return plain;
}

}  // namespace zoe
