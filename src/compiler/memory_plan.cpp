#include "compiler/memory_plan.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <unordered_map>

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

// One result of one node.
using Result = std::pair<const Node*, int>;
Result result(const Value& value) { return {&value.node(), value.output()}; }
std::size_t size_bytes(const Result& result) { return result.first->types[static_cast<std::size_t>(result.second)].size_bytes(); }

// A value's memory: `offset` bytes into the memory of `owner`.
struct Home {
  Result owner;
  std::size_t offset;
};

struct Block {  // memory wanted during the steps [first, last]
  std::size_t bytes;
  int first, last;
  std::size_t offset = 0;
};

std::size_t most_alive(const std::vector<Block*>& blocks, std::size_t steps) {
  std::vector<std::size_t> begun(steps + 1), ended(steps + 1);
  for (const Block* block : blocks) {
    begun[static_cast<std::size_t>(block->first)] += block->bytes;
    ended[static_cast<std::size_t>(block->last) + 1] += block->bytes;
  }
  std::size_t alive = 0, most = 0;
  for (std::size_t step = 0; step < steps; ++step) {
    alive = alive - ended[step] + begun[step];
    most = std::max(most, alive);
  }
  return most;
}

// Of each block the numbers of those that are wanted at the same time.
std::vector<std::vector<int>> neighbours_of(const std::vector<Block*>& blocks) {
  std::vector<int> by_birth(blocks.size()), alive;
  std::iota(by_birth.begin(), by_birth.end(), 0);
  const auto at = [&](int i) -> const Block& { return *blocks[static_cast<std::size_t>(i)]; };
  std::stable_sort(by_birth.begin(), by_birth.end(), [&](int a, int b) { return at(a).first < at(b).first; });
  std::vector<std::vector<int>> neighbours(blocks.size());
  for (const int i : by_birth) {
    std::erase_if(alive, [&](int other) { return at(other).last < at(i).first; });
    for (const int other : alive) {
      neighbours[static_cast<std::size_t>(i)].push_back(other);
      neighbours[static_cast<std::size_t>(other)].push_back(i);
    }
    alive.push_back(i);
  }
  return neighbours;
}

// Greedy: each block in this order at the lowest offset that is free during its life. Returns the total.
std::size_t assign_in_order(const std::vector<Block*>& blocks, const std::vector<std::vector<int>>& neighbours,
                            const std::vector<int>& order) {
  std::size_t total = 0;
  std::vector<bool> is_placed(blocks.size());
  std::vector<std::pair<std::size_t, std::size_t>> taken;  // begin, end
  for (const int i : order) {
    Block& block = *blocks[static_cast<std::size_t>(i)];
    taken.clear();
    for (const int other : neighbours[static_cast<std::size_t>(i)])
      if (const Block& beside = *blocks[static_cast<std::size_t>(other)]; is_placed[static_cast<std::size_t>(other)])
        taken.emplace_back(beside.offset, beside.offset + beside.bytes);
    std::sort(taken.begin(), taken.end());
    block.offset = 0;
    for (const auto& [begin, end] : taken) {
      if (block.offset + block.bytes <= begin) break;
      block.offset = std::max(block.offset, end);
    }
    is_placed[static_cast<std::size_t>(i)] = true;
    total = std::max(total, block.offset + block.bytes);
  }
  return total;
}

// As small as a workspace has to be, or hardly larger.
bool is_close(std::size_t total, std::size_t most_alive) { return total <= most_alive + most_alive / 50; }

// The largest first, which is nearly always as good as can be. Where it is not (a stream in pieces, which live long among others of
// their size that do not), also the one that lives longest first, the largest product of both, and in the order they begin: the
// best of the four. Returns the total.
std::size_t assign_offsets(const std::vector<Block*>& blocks, std::size_t most_alive) {
  const auto life = [](const Block& block) { return static_cast<std::size_t>(block.last - block.first + 1); };
  using Key = std::function<std::size_t(const Block&)>;
  const Key keys[] = {[](const Block& block) { return block.bytes; }, life,
                      [&](const Block& block) { return block.bytes * life(block); },
                      [](const Block& block) { return SIZE_MAX - static_cast<std::size_t>(block.first); }};
  const std::vector<std::vector<int>> neighbours = neighbours_of(blocks);
  std::vector<int> order(blocks.size());
  std::iota(order.begin(), order.end(), 0);
  const auto sort_by = [&](const Key& key) {
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
      return key(*blocks[static_cast<std::size_t>(a)]) > key(*blocks[static_cast<std::size_t>(b)]);
    });
  };
  std::size_t best = 0;
  std::vector<std::size_t> offsets;  // of the best
  for (const Key& key : keys) {
    sort_by(keys[0]);
    sort_by(key);
    const std::size_t total = assign_in_order(blocks, neighbours, order);
    if (offsets.empty() || total < best) {
      best = total;
      offsets.clear();
      for (const Block* block : blocks) offsets.push_back(block->offset);
    }
    if (is_close(best, most_alive)) break;
  }
  for (std::size_t i = 0; i < offsets.size(); ++i) blocks[i]->offset = offsets[i];
  return best;
}

}  // namespace

std::vector<NodePtr> plan_steps(const Graph& graph) {
  const auto outputs = output_nodes(graph);
  std::vector<NodePtr> steps;
  for (const NodePtr& node : graph.nodes)
    if (!is_leaf(*node) && !is_view(*node, outputs)) steps.push_back(node);
  return steps;
}

namespace {

// `in_place`: results take the place of operands where they may.
MemoryPlan plan_memory(const Graph& graph, const std::vector<StepNeeds>& needs, bool in_place) {
  MemoryPlan plan;
  plan.steps = plan_steps(graph);
  const auto outputs = output_nodes(graph);
  std::unordered_map<const Node*, int> step_of;
  for (std::size_t i = 0; i < plan.steps.size(); ++i) step_of[plan.steps[i].get()] = static_cast<int>(i);
  const auto is_output = [&](const Result& value) {
    return std::any_of(graph.outputs.begin(), graph.outputs.end(), [&](const Value& output) { return result(output) == value; });
  };

  // 1. Views lie in their operands.
  std::map<Result, Home> homes;
  for (const NodePtr& node : graph.nodes) {
    if (!is_view(*node, outputs)) {
      for (int i = 0; i < static_cast<int>(node->types.size()); ++i) homes[{node.get(), i}] = {{node.get(), i}, 0};
      continue;
    }
    Home home = homes.at(result(node->inputs[0]));
    if (node->opcode == Opcode::slice) {
      const auto& axis = node->as<AxisAttributes>();
      const Shape& shape = node->inputs[0].shape();
      home.offset +=
          static_cast<std::size_t>(axis.begin * shape.count(axis.axis + 1, shape.rank())) * size_of(node->types[0].dtype);
    }
    homes[{node.get(), 0}] = home;
  }

  // 2. Parts of a concat along the outermost axis are produced in their place. `inside` tells where a step's whole
  // result lies instead of in memory of its own.
  std::map<Result, Home> inside;
  for (const NodePtr& node : graph.nodes) {
    if (node->opcode != Opcode::concat || !is_outermost(node->types[0].shape, node->as<AxisAttributes>().axis)) continue;
    std::size_t offset = 0;
    for (const Value& part : node->inputs) {
      const Home home = homes.at(result(part));
      const bool whole = home.offset == 0 && size_bytes(home.owner) == part.type().size_bytes();
      if (whole && !is_output(home.owner) && step_of.count(home.owner.first) && home.owner.first != node.get())
        inside.emplace(home.owner, Home{{node.get(), 0}, offset});
      offset += part.type().size_bytes();
    }
  }
  const auto root = [&](Home home) {
    for (auto found = inside.find(home.owner); found != inside.end(); found = inside.find(home.owner))
      home = {found->second.owner, home.offset + found->second.offset};
    return home;
  };

  // 3. Results and arguments of the graph.
  std::map<Result, Place> given;
  for (std::size_t i = 0; i < graph.inputs.size(); ++i)
    given[result(graph.inputs[i])] = {Place::Kind::input, static_cast<int>(i), 0};
  for (std::size_t i = 0; i < graph.outputs.size(); ++i) {
    const Result value = result(graph.outputs[i]);
    ZOE_INTERNAL_CHECK(step_of.count(value.first) && !given.count(value));
    given[value] = {Place::Kind::output, static_cast<int>(i), 0};
    plan.output_written.push_back(step_of.at(value.first));  // lowered below if a part of it is produced earlier, in place
  }

  // 4. Lifetimes of what remains.
  std::map<Result, Block> blocks;
  plan.input_last_read.assign(graph.inputs.size(), -1);
  const auto touch = [&](const Value& value, int step) {
    if (value.node().opcode == Opcode::parameter || value.node().opcode == Opcode::constant) return;
    const Result owner = root(homes.at(result(value))).owner;
    if (const auto found = given.find(owner); found != given.end()) {
      const auto index = static_cast<std::size_t>(found->second.index);
      if (found->second.kind == Place::Kind::input) plan.input_last_read[index] = std::max(plan.input_last_read[index], step);
      else plan.output_written[index] = std::min(plan.output_written[index], step);
      return;
    }
    auto [block, is_new] = blocks.try_emplace(owner, Block{aligned(size_bytes(owner)), step, step});
    block->second.first = std::min(block->second.first, step);
    block->second.last = std::max(block->second.last, step);
  };
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    for (const Value& operand : plan.steps[i]->inputs) touch(operand, static_cast<int>(i));
    for (int o = 0; o < static_cast<int>(plan.steps[i]->types.size()); ++o) touch(Value(plan.steps[i], o), static_cast<int>(i));
  }
  plan.waits_for.resize(plan.steps.size());
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    if (!needs.at(i).works_beside) continue;
    const Node& node = *plan.steps[i];
    const auto reads = [&](const NodePtr& step) {
      return std::any_of(step->inputs.begin(), step->inputs.end(), [&](const Value& operand) {
        const auto home = homes.find(result(operand));
        return home != homes.end() && home->second.owner.first == &node;
      });
    };
    const auto reader = std::find_if(plan.steps.begin() + static_cast<std::ptrdiff_t>(i) + 1, plan.steps.end(), reads);
    if (reader != plan.steps.end())
      plan.waits_for[static_cast<std::size_t>(reader - plan.steps.begin())].push_back(static_cast<int>(i));
    const int last = static_cast<int>(reader - plan.steps.begin()) - 1;  // that it may run beside
    for (const Value& operand : node.inputs) touch(operand, last);
    for (int o = 0; o < static_cast<int>(node.types.size()); ++o) touch(Value(plan.steps[i], o), last);
  }

  // 5. Results take the place of operands that end with the step, where the kernel may overwrite them.
  for (std::size_t i = 0; i < plan.steps.size() && in_place; ++i) {
    const Node& node = *plan.steps[i];
    std::vector<Result> taken;
    for (const auto& [operand, output] : needs.at(i).may_overwrite) {
      const Result to{&node, output};
      const Value& from_value = node.inputs[static_cast<std::size_t>(operand)];
      if (inside.count(to) || from_value.node().opcode == Opcode::parameter || from_value.node().opcode == Opcode::constant)
        continue;
      const Home from = root(homes.at(result(from_value)));
      const auto target = blocks.find(to), source = blocks.find(from.owner);
      if (target == blocks.end() || source == blocks.end() || from.offset != 0) continue;
      const bool ends_here = source->second.last == static_cast<int>(i) && target->second.first == static_cast<int>(i);
      const auto shares = [&](const Value& other) {
        return other.node().opcode != Opcode::parameter && other.node().opcode != Opcode::constant &&
               root(homes.at(result(other))).owner == from.owner;
      };
      const bool alone = std::count_if(node.inputs.begin(), node.inputs.end(), shares) == 1 &&
                         std::find(taken.begin(), taken.end(), from.owner) == taken.end();
      if (!ends_here || !alone || size_bytes(from.owner) != size_bytes(to)) continue;
      source->second.last = target->second.last;
      blocks.erase(target);
      inside[to] = {from.owner, 0};
      taken.push_back(from.owner);
    }
  }

  // 6. Offsets.
  std::vector<Block> scratch;
  for (std::size_t i = 0; i < plan.steps.size(); ++i)
    scratch.push_back({aligned(needs.at(i).scratch_bytes), static_cast<int>(i), static_cast<int>(i)});
  std::vector<Block*> all;
  for (const NodePtr& node : graph.nodes)  // in trace order, so that plans do not depend on addresses
    for (int o = 0; o < static_cast<int>(node->types.size()); ++o)
      if (const auto found = blocks.find({node.get(), o}); found != blocks.end()) all.push_back(&found->second);
  for (Block& block : scratch)
    if (block.bytes) all.push_back(&block);
  plan.alive_bytes = most_alive(all, plan.steps.size());
  plan.workspace_bytes = assign_offsets(all, plan.alive_bytes);

  for (const NodePtr& node : graph.nodes) {
    if (node->opcode == Opcode::parameter || node->opcode == Opcode::constant) continue;
    for (int o = 0; o < static_cast<int>(node->types.size()); ++o) {
      const Home home = root(homes.at({node.get(), o}));
      const auto found = given.find(home.owner);
      Place place = found != given.end() ? found->second : Place{Place::Kind::workspace, 0, blocks.at(home.owner).offset};
      place.offset += home.offset;
      plan.places[{node.get(), o}] = place;
    }
  }
  for (const Block& block : scratch) plan.scratch.push_back({Place::Kind::workspace, 0, block.offset});
  return plan;
}

}  // namespace

// A result in its operand's place saves a place, and makes one that lives longer, which may leave gaps elsewhere.
MemoryPlan plan_memory(const Graph& graph, const std::vector<StepNeeds>& needs) {
  MemoryPlan plan = plan_memory(graph, needs, true);
  if (is_close(plan.workspace_bytes, plan.alive_bytes)) return plan;
  MemoryPlan apart = plan_memory(graph, needs, false);
  return apart.workspace_bytes < plan.workspace_bytes ? apart : plan;
}

}  // namespace zoe
