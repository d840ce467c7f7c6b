#include "compiler/passes/common_subexpressions.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "compiler/passes/rebuild.h"

namespace zoe {

namespace {

using Same = std::unordered_map<const Node*, const Node*>;  // a cast that stayed -> the first cast like it

// Equal for nodes that compute the same.
std::string key_of(const Node& node, const std::vector<Value>& inputs, const Same& same) {
  std::vector<std::string> operands;
  for (const Value& operand : inputs) {
    const auto found = same.find(&operand.node());
    const Node* const first = found == same.end() ? &operand.node() : found->second;
    operands.push_back(fmt::format(" {}.{}", first->serial, operand.output()));
  }
  if (node.opcode == Opcode::add || node.opcode == Opcode::mul) std::sort(operands.begin(), operands.end());
  std::string key = fmt::format("{}{}", name(node.opcode), attributes_text(node));
  for (const std::string& operand : operands) key += operand;
  for (const Type& type : node.types) key += " " + type.str();
  if (node.opcode == Opcode::parameter) key += fmt::format(" {} {}", node.block, node.name);
  return key;
}

}  // namespace

Graph common_subexpressions(const Graph& graph) {
  std::unordered_map<std::string, std::vector<Value>> found;
  Same same;
  return rebuild(graph, [&](const Node& node, std::vector<Value> inputs) {
    if (is_border(node)) return keep(node, std::move(inputs));
    const std::string key = key_of(node, inputs, same);
    const auto first = found.find(key);
    const bool is_known = first != found.end(), stays = node.opcode == Opcode::cast && node.types[0].dtype == DType::f32;
    // A value of a later block cannot stand for one of an earlier: what reads that would have to be later, too.
    if (is_known && !stays && first->second[0].node().block <= node.block) return first->second;
    const std::vector<Value> kept = keep(node, std::move(inputs));
    if (is_known && stays) same[&kept[0].node()] = &first->second[0].node();
    else found[key] = kept;
    return kept;
  });
}

}  // namespace zoe
