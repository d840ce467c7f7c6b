#include "compiler/passes/merge_products.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "compiler/passes/rebuild.h"
#include "ir/change.h"
#include "ir/trace.h"

namespace zoe {

namespace {

// Is [..,N*D] -> [B,L,N,D]: rows of the last axis taken apart into heads.
bool splits_heads(const Shape& from, const Shape& to) {
  return from.rank() > 0 && to.rank() == 4 && to.dim(2) * to.dim(3) == from.dim(-1);
}

// The product of two parameters that is added to a weight, made again.
Value change_of(const Node& linear) {
  const Node& product = linear.inputs.back().node();
  const Node like{Opcode::linear, {}, product.attributes, product.types, {}, product.block};
  return with_inputs(like, product.inputs, product.name);
}

// The linears of a group as one of x.
Value merged(const std::vector<const Node*>& group, const Value& x) {
  std::vector<Value> weights, biases, changes;
  for (const Node* linear : group) {
    const auto& attributes = linear->as<ProductAttributes>();
    weights.push_back(linear->inputs[1]);
    if (attributes.has_bias) biases.push_back(linear->inputs[2]);
    if (has_change(*linear)) changes.push_back(change_of(*linear));
  }
  const Value weight = packed_parameter(std::move(weights));
  const auto& attributes = group.front()->as<ProductAttributes>();
  ProductOptions options{.activation = attributes.activation, .codes = attributes.codes};
  if (!biases.empty()) options.bias = packed_parameter(std::move(biases));
  const Value made = linear(x, weight, options);
  const Node like{Opcode::linear, {}, made.node().attributes, made.node().types, {}, group.front()->block};
  const Value value = with_inputs(like, made.node().inputs, group.front()->name);
  return changes.empty() ? value : with_change(value.node(), concat(std::move(changes), 0));
}

class Merger {
 public:
  Merger(const Graph& graph, const std::function<Support(const Node&)>& gains, std::vector<std::string>& notes) {
    for (const NodePtr& node : graph.nodes)
      for (std::size_t i = 0; i < node->inputs.size(); ++i) readers_[&node->inputs[i].node()].emplace_back(node.get(), i);
    for (const Value& output : graph.outputs) outputs_.insert(&output.node());
    std::vector<std::vector<const Node*>> groups;
    std::map<Likeness, std::size_t> group_of;
    for (const NodePtr& node : graph.nodes) {
      if (is_exchange(node->opcode)) group_of.clear();
      if (!may_merge(*node)) continue;
      const auto [found, is_new] = group_of.try_emplace(likeness(*node), groups.size());
      if (is_new) groups.emplace_back();
      groups[found->second].push_back(node.get());
    }
    std::map<const Node*, const std::vector<const Node*>*> member_of;
    for (const std::vector<const Node*>& group : groups)
      for (const Node* linear : group) member_of[linear] = &group;
    // Linears that read one weight, each other rows, become parts of products of the same weights, or it would be there twice.
    const auto is_alike = [&](const std::vector<const Node*>& group) {
      for (std::size_t l = 0; l < group.size(); ++l)
        for (std::size_t i = 1; i < group[l]->inputs.size() - (has_change(*group[l]) ? 1 : 0); ++i)
          for (const auto& [reader, operand] : readers_.at(&group[l]->inputs[i].node())) {
            const auto found = member_of.find(reader);
            if (operand != i || found == member_of.end() || found->second->size() != group.size()) return false;
            for (std::size_t other = 0; other < group.size(); ++other)
              if (!std::equal(group[other]->inputs.begin() + 1, group[other]->inputs.end(),
                              (*found->second)[other]->inputs.begin() + 1, (*found->second)[other]->inputs.end()))
                return false;
          }
      return true;
    };
    for (const std::vector<const Node*>& group : groups) {
      if (group.size() < 2 || !is_alike(group)) continue;
      const Support support = gains(merged(group, group[0]->inputs[0]).node());
      notes.push_back(fmt::format("{} linears of one {} with weights {} {}", group.size(), group[0]->inputs[0].type().str(),
                                  group[0]->inputs[1].type().str(), support ? "are one" : "stay apart: " + support.reason()));
      if (!support) continue;
      for (std::size_t i = 0; i < group.size(); ++i) places_[group[i]] = {group, i};
    }
  }

  // The slice that stands for a linear which is merged with others; absent: it is not.
  Value part(const Node& node, const std::vector<Value>& inputs) {
    const auto found = places_.find(&node);
    if (found == places_.end()) return {};
    const auto& [group, number] = found->second;
    Value& whole = made_[group.front()];
    if (!whole) whole = merged(group, inputs[0]);
    const std::int64_t width = node.types[0].shape.dim(-1), begin = static_cast<std::int64_t>(number) * width;
    const Value slice = zoe::slice(whole, -1, begin, begin + width);
    return with_inputs(slice.node(), {whole}, node.name);
  }

  // The attention that reads its part of a merged product where it lies, if an operand of it is one.
  static Value reading_slices(const Node& node, std::vector<Value> inputs) {
    AttentionAttributes attributes = node.as<AttentionAttributes>();
    const std::int64_t channels = node.types[0].shape.dim(3);
    bool found = false;
    for (std::size_t i = 0; i < 3; ++i) {
      const Node& split = inputs[i].node();
      if (split.opcode != Opcode::reshape || !splits_heads(split.inputs[0].shape(), inputs[i].shape())) continue;
      const Node& slice = split.inputs[0].node();
      if (slice.opcode != Opcode::slice) continue;
      const auto& range = slice.as<AxisAttributes>();
      const Value& whole = slice.inputs[0];
      const bool is_merged = whole.node().opcode == Opcode::linear &&
                             std::holds_alternative<PackedAttributes>(whole.node().inputs[1].node().attributes);
      if (!is_merged || range.axis != whole.shape().rank() - 1 || whole.dim(-1) % channels != 0 || range.begin % channels != 0)
        continue;
      attributes.first_head[i] += range.begin / channels;
      inputs[i] = reshape(whole, {inputs[i].dim(0), inputs[i].dim(1), whole.dim(-1) / channels, channels});
      found = true;
    }
    if (!found) return {};
    attributes.heads = node.types[0].shape.dim(2);
    const Node like{Opcode::attention, {}, attributes, node.types, {}, node.block};
    return with_inputs(like, std::move(inputs), node.name);
  }

 private:
  // Linears for which it is equal become one.
  using Likeness = std::tuple<const Node*, int, Activation, Codes, bool, bool, std::int64_t, int, int>;
  static Likeness likeness(const Node& linear) {
    const auto& attributes = linear.as<ProductAttributes>();
    const Value &x = linear.inputs[0], &weight = linear.inputs[1];
    return {&x.node(),          x.output(),    attributes.activation, attributes.codes, attributes.has_bias,
            has_change(linear), weight.dim(0), weight.node().block,   linear.block};
  }

  bool may_merge(const Node& node) const {
    if (node.opcode != Opcode::linear || outputs_.count(&node) || node.as<ProductAttributes>().has_residual) return false;
    const bool is_changed = has_change(node);
    if (is_changed && !is_of_parameters(node.inputs.back().node())) return false;
    for (std::size_t i = 1; i < node.inputs.size() - (is_changed ? 1 : 0); ++i) {
      const Node& weight = node.inputs[i].node();
      if (weight.opcode != Opcode::parameter || std::holds_alternative<PackedAttributes>(weight.attributes) ||
          outputs_.count(&weight) || weight.block != node.inputs[1].node().block)
        return false;
    }
    return is_read_in_place(node, node.types[0].shape);
  }

  static bool is_of_parameters(const Node& product) {
    return product.opcode == Opcode::linear && std::all_of(product.inputs.begin(), product.inputs.end(), [](const Value& operand) {
             return operand.node().opcode == Opcode::parameter;
           });
  }

  // Whether all that reads a product's result can read it inside a wider one.
  bool is_read_in_place(const Node& node, const Shape& product) const {
    const auto readers = readers_.find(&node);
    return readers != readers_.end() && std::all_of(readers->second.begin(), readers->second.end(), [&](const auto& reader) {
             const auto& [by, operand] = reader;
             if (by->opcode == Opcode::reshape) return !outputs_.count(by) && is_read_in_place(*by, product);
             if (by->opcode == Opcode::attention)
               return operand < 3 && node.opcode == Opcode::reshape && node.inputs[0].shape() == product &&
                      splits_heads(product, node.types[0].shape);
             return is_unary(by->opcode) || is_binary(by->opcode) || by->opcode == Opcode::cast || is_reduction(by->opcode) ||
                    by->opcode == Opcode::permute || by->opcode == Opcode::swap_pairs || by->opcode == Opcode::flip;
           });
  }

  struct Place {
    std::vector<const Node*> group;
    std::size_t number;
  };

  std::unordered_map<const Node*, std::vector<std::pair<const Node*, std::size_t>>> readers_;
  std::set<const Node*> outputs_;
  std::unordered_map<const Node*, Place> places_;
  std::unordered_map<const Node*, Value> made_;  // by the first of a group
};

}  // namespace

Graph merge_products(const Graph& graph, const std::function<Support(const Node&)>& gains, std::vector<std::string>& notes) {
  Merger merger(graph, gains, notes);
  return rebuild(graph, [&](const Node& node, std::vector<Value> inputs) {
    if (const Value part = merger.part(node, inputs)) return std::vector<Value>{part};
    const Value attention = node.opcode == Opcode::attention ? Merger::reading_slices(node, inputs) : Value{};
    return attention ? std::vector<Value>{attention} : keep(node, std::move(inputs));
  });
}

}  // namespace zoe
