// Shrinking a failing graph: fewer results, nodes replaced by their operands or by fresh inputs, smaller extents, in this order,
// again and again, as long as it still fails.
#include <algorithm>
#include <exception>
#include <set>
#include <unordered_map>

#include "compiler_fuzz/fuzz.h"
#include "ir/trace.h"

namespace zoe::fuzz {
namespace {

// Without the arguments that nothing reads.
Graph trimmed(const std::string& name, const std::vector<Value>& inputs, std::vector<Value> outputs) {
  const Graph all = make_graph(name, inputs, outputs);
  std::vector<Value> read;
  for (const Value& input : inputs)
    if (std::find(all.nodes.begin(), all.nodes.end(), input.node_ptr()) != all.nodes.end()) read.push_back(input);
  return make_graph(name, std::move(read), std::move(outputs));
}

// The graph with other nodes: `make(node, inputs)` gives what stands for a node, or an absent Value for the node itself, its type
// worked out again.
template <class Make>
Graph remade(const Graph& graph, const Make& make) {
  std::unordered_map<const Node*, std::vector<Value>> made;
  std::vector<Value> inputs;
  const auto add = [&](const NodePtr& node) {
    if (made.count(node.get())) return;
    std::vector<Value> operands;
    for (const Value& operand : node->inputs)
      operands.push_back(made.at(&operand.node()).at(static_cast<std::size_t>(operand.output())));
    Value value = make(*node, operands);
    if (!value) {
      Node like{node->opcode, operands, node->attributes, node->types, node->name, node->block};
      like.types = result_types(like);
      value = with_inputs(like, std::move(operands), node->name);
    }
    for (int i = 0; i < static_cast<int>(node->types.size()); ++i)
      made[node.get()].push_back(node->types.size() == 1 ? value : Value(value.node_ptr(), i));
    if (value.node().opcode == Opcode::input && std::find(inputs.begin(), inputs.end(), value) == inputs.end())
      inputs.push_back(value);
  };
  for (const Value& input : graph.inputs) add(input.node_ptr());
  for (const NodePtr& node : graph.nodes) add(node);
  std::vector<Value> outputs;
  for (const Value& output : graph.outputs)
    outputs.push_back(made.at(&output.node()).at(static_cast<std::size_t>(output.output())));
  return trimmed(graph.name, inputs, std::move(outputs));
}

Graph with_replaced(const Graph& graph, const Node* replaced, int operand) {
  return remade(graph, [&](const Node& node, const std::vector<Value>& inputs) -> Value {
    if (&node != replaced) return {};
    if (operand >= 0) return inputs.at(static_cast<std::size_t>(operand));
    return input("cut" + std::to_string(node.serial), node.types[0].dtype, node.types[0].shape);
  });
}

// Every extent `from` of a leaf is `to`, and what follows from it.
Graph resized(const Graph& graph, std::int64_t from, std::int64_t to) {
  const auto replace = [&](Shape shape) {
    for (int axis = 0; axis < shape.rank(); ++axis)
      if (shape.dim(axis) == from) shape.dim(axis) = to;
    return shape;
  };
  return remade(graph, [&](const Node& node, const std::vector<Value>& inputs) -> Value {
    switch (node.opcode) {
      case Opcode::input: return input(node.name, node.types[0].dtype, replace(node.types[0].shape));
      case Opcode::parameter: return parameter(node.name, node.types[0].dtype, replace(node.types[0].shape), node.block);
      case Opcode::reshape: {
        Shape shape = replace(node.types[0].shape);
        const std::int64_t count = inputs[0].shape().count();
        for (int axis = 0; axis < shape.rank() && shape.count() != count; ++axis) {  // one axis takes what is left
          Shape fitted = shape;
          fitted.dim(axis) = 1;
          if (count % fitted.count() == 0) fitted.dim(axis) = count / fitted.count(), shape = fitted;
        }
        return reshape(inputs[0], shape);
      }
      case Opcode::slice: {
        const auto [axis, begin, end] = node.as<AxisAttributes>();
        const std::int64_t room = inputs[0].dim(axis);
        const std::int64_t last = end == node.inputs[0].dim(axis) ? room : std::min(end, room);
        return slice(inputs[0], axis, std::min(begin, last - 1), last);
      }
      default: return {};
    }
  });
}

std::size_t elements(const Graph& graph) {
  std::size_t total = 0;
  for (const NodePtr& node : graph.nodes) total += static_cast<std::size_t>(node->types[0].shape.count());
  return total;
}

}  // namespace

Graph shrink(const Graph& graph, const std::function<bool(const Graph&)>& fails, int most_tries) {
  Graph best = graph;
  int tries = 0;
  const auto accept = [&](const auto& make) {
    if (tries >= most_tries) return false;
    try {
      Graph smaller = make();
      if (smaller.outputs.empty() || (smaller.nodes.size() >= best.nodes.size() && smaller.outputs.size() >= best.outputs.size() &&
                                      elements(smaller) >= elements(best)))
        return false;
      verify(smaller);
      ++tries;
      if (!fails(smaller)) return false;
      best = std::move(smaller);
      return true;
    } catch (const std::exception&) {  // the smaller graph makes no sense
      return false;
    }
  };
  for (bool changed = true; changed;) {
    changed = false;
    for (std::size_t o = 0; best.outputs.size() > 1 && o < best.outputs.size(); ++o)
      if (accept([&] { return trimmed(best.name, best.inputs, {best.outputs[o]}); })) changed = true;
    for (std::size_t o = 0; best.outputs.size() > 1 && o < best.outputs.size();) {
      const bool dropped = accept([&] {
        std::vector<Value> rest = best.outputs;
        rest.erase(rest.begin() + static_cast<std::ptrdiff_t>(o));
        return trimmed(best.name, best.inputs, std::move(rest));
      });
      changed = changed || dropped;
      if (!dropped) ++o;
    }
    // From the front: whatever stands before the failure goes first.
    for (std::size_t back = 0; back < best.nodes.size(); ++back) {
      const NodePtr node = best.nodes[back];
      if (node->inputs.empty()) continue;
      bool replaced = node->types.size() == 1 && accept([&] { return with_replaced(best, node.get(), -1); });
      for (int operand = 0; !replaced && operand < static_cast<int>(node->inputs.size()); ++operand)
        replaced = node->types.size() == 1 && node->inputs[static_cast<std::size_t>(operand)].type() == node->types[0] &&
                   accept([&] { return with_replaced(best, node.get(), operand); });
      changed = changed || replaced;
    }
    std::set<std::int64_t, std::greater<>> extents;
    for (const NodePtr& node : best.nodes)
      if (node->inputs.empty())
        for (const std::int64_t extent : node->types[0].shape.dims())
          if (extent > 1) extents.insert(extent);
    for (const std::int64_t extent : extents) {
      std::set<std::int64_t> smaller{1, 2, extent / 4, extent / 2, extent - 2, extent - 1};
      for (const std::int64_t to : smaller)
        if (to > 0 && to < extent && accept([&] { return resized(best, extent, to); })) {
          changed = true;
          break;
        }
    }
  }
  return best;
}

}  // namespace zoe::fuzz
