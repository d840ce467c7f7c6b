#include "compiler/memory_plan.h"

#include <algorithm>

#include "base/error.h"

namespace zoe {

namespace {

constexpr std::size_t kAlignment = 64;  // a cache line, and the widest vector

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

bool is_leaf(const Node& node) {
  return node.opcode == Opcode::input || node.opcode == Opcode::parameter || node.opcode == Opcode::constant;
}

// True if axis `axis` is the outermost one of extent above 1, so that a range of it is contiguous.
bool is_outermost(const Shape& shape, int axis) { return shape.count(0, axis) == 1; }

std::vector<const Node*> output_nodes(const Graph& graph) {
  std::vector<const Node*> nodes;
  for (const Value& output : graph.outputs) nodes.push_back(&output.node());
  return nodes;
}

// A view shares its operand's memory. Results of the graph are never views: they have memory of their own.
bool is_view(const Node& node, const std::vector<const Node*>& outputs) {
  if (std::find(outputs.begin(), outputs.end(), &node) != outputs.end()) return false;
  if (node.opcode == Opcode::reshape) return !is_leaf(node.inputs[0].node()) || node.inputs[0].node().opcode == Opcode::input;
  return node.opcode == Opcode::slice && is_outermost(node.inputs[0].shape(), node.as<AxisAttributes>().axis) &&
         node.inputs[0].node().opcode != Opcode::parameter;
}

// A value's memory: `offset` bytes into the memory of `owner`.
struct Home {
  const Node* owner;
  std::size_t offset;
};

struct Block {  // memory wanted during the steps [first, last]
  std::size_t bytes;
  int first, last;
  std::size_t offset = 0;
};

// Greedy: the largest block first, each at the lowest offset that is free during its life. Returns the total.
std::size_t assign_offsets(std::vector<Block*> blocks) {
  std::stable_sort(blocks.begin(), blocks.end(), [](const Block* a, const Block* b) { return a->bytes > b->bytes; });
  std::size_t total = 0;
  std::vector<const Block*> placed;  // by offset
  for (Block* block : blocks) {
    std::size_t offset = 0;
    for (const Block* other : placed) {
      if (other->last < block->first || block->last < other->first) continue;
      if (offset + block->bytes <= other->offset) break;
      offset = std::max(offset, other->offset + other->bytes);
    }
    block->offset = offset;
    total = std::max(total, offset + block->bytes);
    placed.insert(
        std::upper_bound(placed.begin(), placed.end(), block, [](const Block* a, const Block* b) { return a->offset < b->offset; }),
        block);
  }
  return total;
}

}  // namespace

std::vector<NodePtr> plan_steps(const Graph& graph) {
  const auto outputs = output_nodes(graph);
  std::vector<NodePtr> steps;
  for (const NodePtr& node : graph.nodes)
    if (!is_leaf(*node) && !is_view(*node, outputs)) steps.push_back(node);
  return steps;
}

MemoryPlan plan_memory(const Graph& graph, const std::vector<std::size_t>& scratch_bytes) {
  MemoryPlan plan;
  plan.steps = plan_steps(graph);
  const auto outputs = output_nodes(graph);
  std::unordered_map<const Node*, int> step_of;
  for (std::size_t i = 0; i < plan.steps.size(); ++i) step_of[plan.steps[i].get()] = static_cast<int>(i);

  // 1. Views lie in their operands.
  std::unordered_map<const Node*, Home> homes;
  for (const NodePtr& node : graph.nodes) {
    if (!is_view(*node, outputs)) {
      homes[node.get()] = {node.get(), 0};
      continue;
    }
    Home home = homes.at(&node->inputs[0].node());
    if (node->opcode == Opcode::slice) {
      const auto& axis = node->as<AxisAttributes>();
      const Shape& shape = node->inputs[0].shape();
      home.offset +=
          static_cast<std::size_t>(axis.begin * shape.count(axis.axis + 1, shape.rank())) * size_of(node->types[0].dtype);
    }
    homes[node.get()] = home;
  }

  // 2. Parts of a concat along the outermost axis are produced in their place. `inside` tells where a step's whole
  // result lies instead of in memory of its own.
  std::unordered_map<const Node*, Home> inside;
  for (const NodePtr& node : graph.nodes) {
    if (node->opcode != Opcode::concat || !is_outermost(node->types[0].shape, node->as<AxisAttributes>().axis)) continue;
    std::size_t offset = 0;
    for (const Value& part : node->inputs) {
      const Home home = homes.at(&part.node());
      const bool whole = home.offset == 0 && home.owner->types[0].size_bytes() == part.type().size_bytes();
      const bool is_output = std::find(outputs.begin(), outputs.end(), home.owner) != outputs.end();
      if (whole && !is_output && step_of.count(home.owner) && home.owner != node.get())
        inside.emplace(home.owner, Home{node.get(), offset});
      offset += part.type().size_bytes();
    }
  }
  const auto root = [&](Home home) {
    for (auto found = inside.find(home.owner); found != inside.end(); found = inside.find(home.owner))
      home = {found->second.owner, home.offset + found->second.offset};
    return home;
  };

  // 3. Results and arguments of the graph.
  std::unordered_map<const Node*, Place> given;
  for (std::size_t i = 0; i < graph.inputs.size(); ++i)
    given[&graph.inputs[i].node()] = {Place::Kind::input, static_cast<int>(i), 0};
  for (std::size_t i = 0; i < graph.outputs.size(); ++i) {
    const Node* node = outputs[i];
    ZOE_INTERNAL_CHECK(step_of.count(node) && !given.count(node));
    given[node] = {Place::Kind::output, static_cast<int>(i), 0};
    plan.output_written.push_back(step_of.at(node));  // lowered below if a part of it is produced earlier, in place
  }

  // 4. Lifetimes of what remains, then offsets.
  std::unordered_map<const Node*, Block> blocks;
  plan.input_last_read.assign(graph.inputs.size(), -1);
  const auto touch = [&](const Value& value, int step) {
    if (value.node().opcode == Opcode::parameter || value.node().opcode == Opcode::constant) return;
    const Node* owner = root(homes.at(&value.node())).owner;
    if (const auto found = given.find(owner); found != given.end()) {
      const auto index = static_cast<std::size_t>(found->second.index);
      if (found->second.kind == Place::Kind::input) plan.input_last_read[index] = step;
      else plan.output_written[index] = std::min(plan.output_written[index], step);
      return;
    }
    auto [block, is_new] = blocks.try_emplace(owner, Block{aligned(owner->types[0].size_bytes()), step, step});
    block->second.first = std::min(block->second.first, step);
    block->second.last = std::max(block->second.last, step);
  };
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    for (const Value& operand : plan.steps[i]->inputs) touch(operand, static_cast<int>(i));
    touch(Value(plan.steps[i]), static_cast<int>(i));
  }
  std::vector<Block> scratch;
  for (std::size_t i = 0; i < plan.steps.size(); ++i)
    scratch.push_back({aligned(scratch_bytes.at(i)), static_cast<int>(i), static_cast<int>(i)});
  std::vector<Block*> all;
  for (const NodePtr& node : graph.nodes)  // in trace order, so that plans do not depend on addresses
    if (const auto found = blocks.find(node.get()); found != blocks.end()) all.push_back(&found->second);
  for (Block& block : scratch)
    if (block.bytes) all.push_back(&block);
  plan.workspace_bytes = assign_offsets(std::move(all));

  for (const NodePtr& node : graph.nodes) {
    if (node->opcode == Opcode::parameter || node->opcode == Opcode::constant) continue;
    const Home home = root(homes.at(node.get()));
    const auto found = given.find(home.owner);
    Place place = found != given.end() ? found->second : Place{Place::Kind::workspace, 0, blocks.at(home.owner).offset};
    place.offset += home.offset;
    plan.places[node.get()] = place;
  }
  for (const Block& block : scratch) plan.scratch.push_back({Place::Kind::workspace, 0, block.offset});
  return plan;
}

}  // namespace zoe
