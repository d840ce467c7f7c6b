#include "compiler/passes/fuse.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <queue>
#include <set>
#include <unordered_map>

#include "base/error.h"
#include "codegen/chain.h"
#include "compiler/passes/rebuild.h"
#include "ir/trace.h"

namespace zoe {

namespace {

bool is_movement(Opcode opcode) {
  return opcode == Opcode::reshape || opcode == Opcode::slice || opcode == Opcode::permute || opcode == Opcode::swap_pairs ||
         opcode == Opcode::flip;
}

bool is_arithmetic(Opcode opcode) {
  return is_unary(opcode) || is_binary(opcode) || opcode == Opcode::cast || is_reduction(opcode);
}

bool is_widening(const Node& node) { return node.opcode == Opcode::cast && node.types[0].dtype == DType::f32; }

// True if the memory plan makes a view of it, so that it costs nothing outside a chain either.
bool is_plain_view(const Node& node) {
  if (node.opcode == Opcode::reshape) return true;
  return node.opcode == Opcode::slice && node.inputs[0].shape().count(0, node.as<AxisAttributes>().axis) == 1;
}

std::int64_t rows_of(const Shape& shape) { return shape.count(0, std::max(0, shape.rank() - 1)); }

using Members = std::set<int>;  // indices of nodes, in trace order

class Fuser {
 public:
  Fuser(const Graph& graph, const DeviceInfo& device, const std::function<bool(const Node&)>& may_fuse)
      : graph_(graph), device_(device), may_fuse_(may_fuse) {
    for (std::size_t i = 0; i < graph.nodes.size(); ++i) index_[graph.nodes[i].get()] = static_cast<int>(i);
    users_.resize(graph.nodes.size());
    is_output_.resize(graph.nodes.size());
    group_.assign(graph.nodes.size(), -1);
    for (std::size_t i = 0; i < graph.nodes.size(); ++i)
      for (const Value& operand : graph.nodes[i]->inputs) users_[at(operand)].push_back(static_cast<int>(i));
    for (const Value& output : graph.outputs)
      if (index_.count(&output.node())) is_output_[at(output)] = true;
  }

  Fused run() {
    for (int i = 0; i < count(); ++i)
      if (joins(i)) place(i);
    Fused result;
    result.graph = rebuild(result.moved);
    result.notes = std::move(notes_);
    return result;
  }

 private:
  int count() const { return static_cast<int>(graph_.nodes.size()); }
  const Node& node(int i) const { return *graph_.nodes[static_cast<std::size_t>(i)]; }
  std::size_t at(const Value& value) const { return static_cast<std::size_t>(index_.at(&value.node())); }
  int group_of(int i) const { return group_[static_cast<std::size_t>(i)]; }

  // Inside a chain these are made anew by whoever reads them.
  bool is_free(int i) const {
    const Node& n = node(i);
    return n.opcode == Opcode::constant || ((is_movement(n.opcode) || is_widening(n)) && !is_border(n) && may_fuse_(n));
  }

  // Whether a node must exist outside chains: a result of the graph, or the operand of something that is in no chain.
  bool leaves_chains(int i) const {
    if (is_output_[static_cast<std::size_t>(i)]) return true;
    return std::any_of(users_[static_cast<std::size_t>(i)].begin(), users_[static_cast<std::size_t>(i)].end(), [&](int user) {
      if (is_free(user)) return leaves_chains(user);
      return !is_arithmetic(node(user).opcode) || !may_fuse_(node(user));
    });
  }

  // Nodes that become members of chains: arithmetic, and free nodes that end up in memory and would cost a pass of their own.
  bool joins(int i) const {
    const Node& n = node(i);
    if (!may_fuse_(n) || n.opcode == Opcode::constant) return false;
    if (is_free(i)) {
      if (is_plain_view(n)) return false;
      const bool read_outside =
          is_output_[static_cast<std::size_t>(i)] ||
          std::any_of(users_[static_cast<std::size_t>(i)].begin(), users_[static_cast<std::size_t>(i)].end(), [&](int user) {
            return !is_free(user) ? !is_arithmetic(node(user).opcode) || !may_fuse_(node(user))
                                  : is_plain_view(node(user)) && leaves_chains(user);
          });
      return read_outside;
    }
    return is_arithmetic(n.opcode);
  }

  // The node whose result an operand is, looking through free nodes.
  int root(const Value& operand) const {
    int i = static_cast<int>(at(operand));
    while (is_free(i) && node(i).opcode != Opcode::constant && group_of(i) < 0) i = static_cast<int>(at(node(i).inputs[0]));
    return i;
  }

  void place(int i) {
    std::set<int> near;
    for (const Value& operand : node(i).inputs)
      if (const int group = group_of(root(operand)); group >= 0 && !only_shares(i, operand, group)) near.insert(group);
    Members all{i};
    for (const int group : near)
      all.insert(groups_[static_cast<std::size_t>(group)].begin(), groups_[static_cast<std::size_t>(group)].end());
    std::string reason;
    if (is_legal(all, &reason)) {
      become(all);
      return;
    }
    note(i, reason);
    // One neighbour after the other, the latest first: it is the one whose values are still in the caches.
    Members some{i};
    for (auto group = near.rbegin(); group != near.rend() && near.size() > 1; ++group) {
      Members with = some;
      with.insert(groups_[static_cast<std::size_t>(*group)].begin(), groups_[static_cast<std::size_t>(*group)].end());
      if (is_legal(with, &reason)) some = std::move(with);
    }
    // Alone it may still be no chain, for the movement it would take in: then all that runs by itself.
    if (some.size() > 1 || (!near.empty() && is_legal(some, &reason))) become(some);
  }

  // True if the operand is a row that this node and a chain of as many rows both read, say the scale of a norm. Two pieces of a
  // value would become one chain by it, and all but the last of them wait.
  bool only_shares(int i, const Value& operand, int group) const {
    const std::int64_t rows = rows_of(node(i).types[0].shape);
    const Members& members = groups_[static_cast<std::size_t>(group)];
    return rows_of(operand.shape()) < rows &&
           std::any_of(members.begin(), members.end(), [&](int member) { return rows_of(node(member).types[0].shape) >= rows; });
  }

  void note(int i, const std::string& reason) {
    const Node& n = node(i);
    std::string text = fmt::format("{}{}{}: {}", n.name, n.name.empty() ? "" : " ", name(n.opcode), reason);
    if (std::find(notes_.begin(), notes_.end(), text) == notes_.end()) notes_.push_back(std::move(text));
  }

  void become(const Members& members) {
    const int number = static_cast<int>(groups_.size());
    for (const int member : members) {
      if (const int old = group_of(member); old >= 0) groups_[static_cast<std::size_t>(old)].clear();
      group_[static_cast<std::size_t>(member)] = number;
    }
    groups_.push_back(members);
  }

  bool is_legal(const Members& members, std::string* reason) {
    int block = 0;
    for (const int member : members) block = std::max(block, node(member).block);
    if (read_before(members, block)) {
      *reason = "a value of it is read by an earlier block";
      return false;
    }
    const Body body = make_body(members);
    for (const Value& operand : body.arguments)
      if (operand.node().opcode == Opcode::parameter && operand.node().block != 0 && operand.node().block != block) {
        *reason = "it reads weights of two blocks";
        return false;
      }
    if (body.arguments.size() + body.results.size() > device_.max_kernel_operands) {
      *reason = fmt::format("{} operands and results, the device takes {}", body.arguments.size() + body.results.size(),
                            device_.max_kernel_operands);
      return false;
    }
    const Lowered lowered = lower(body.graph);
    if (!lowered.chain) {
      *reason = lowered.reason;
      return false;
    }
    constexpr int kMostRepeatedWork = 16;
    if (lowered.repeated_work > kMostRepeatedWork) {
      *reason = fmt::format("work of {} an element would be done twice", lowered.repeated_work);
      return false;
    }
    const auto& instructions = lowered.chain->instructions;
    const auto kept = std::count_if(instructions.begin(), instructions.end(), [](const Instruction& i) { return i.kept; });
    if (kept * lowered.chain->columns() * 4 > device_.max_kept_bytes) {
      *reason = fmt::format("rows of {} columns with {} values kept, the device keeps {} bytes", lowered.chain->columns(), kept,
                            device_.max_kept_bytes);
      return false;
    }
    if (comes_back(members)) {
      *reason = "a value would leave the chain and come back";
      return false;
    }
    return true;
  }

  // True if a path leads from the members through other nodes, chains taken whole, back to a member.
  bool comes_back(const Members& members) const {
    std::vector<bool> seen(graph_.nodes.size());
    std::vector<int> pending;
    const auto visit_users = [&](int i) {
      for (const int user : users_[static_cast<std::size_t>(i)])
        if (!seen[static_cast<std::size_t>(user)]) {
          seen[static_cast<std::size_t>(user)] = true;
          pending.push_back(user);
        }
    };
    // Free nodes between two members are cloned into the chain, so they lead nowhere by themselves.
    for (const int member : members) visit_users(member);
    std::vector<int> outside;
    std::vector<bool> entered(graph_.nodes.size());
    while (!pending.empty()) {
      const int i = pending.back();
      pending.pop_back();
      if (members.count(i)) continue;
      if (is_free(i) && group_of(i) < 0) visit_users(i);
      else outside.push_back(i);
    }
    seen.assign(graph_.nodes.size(), false);
    const auto enter = [&](int i) {
      const int group = group_of(i);
      const bool other_chain = group >= 0 && !members.count(i);
      const auto mark = [&](int each) {
        if (entered[static_cast<std::size_t>(each)]) return;
        entered[static_cast<std::size_t>(each)] = true;
        pending.push_back(each);
      };
      // The last member is the node that is being placed: all chains lie before it, and users come later, so nothing behind it
      // leads back. Without this the search goes through all that follows, and the whole is quadratic.
      if (i > *members.rbegin()) return;
      if (other_chain)
        for (const int each : groups_[static_cast<std::size_t>(group)]) mark(each);
      else mark(i);
    };
    for (const int i : outside) enter(i);
    while (!pending.empty()) {
      const int i = pending.back();
      pending.pop_back();
      if (members.count(i)) return true;
      for (const int user : users_[static_cast<std::size_t>(i)]) enter(user);
    }
    return false;
  }

  struct Body {
    Graph graph;
    std::vector<Value> arguments;  // values of the graph that stand for the body's inputs
    std::vector<int> results;      // members whose values leave the chain
  };

  // Calls visit(reader) for all that reads the member outside the chain, directly or through free nodes; true ends the search.
  template <class Visit>
  bool any_reader(int member, const Members& members, const Visit& visit) const {
    std::vector<int> pending(users_[static_cast<std::size_t>(member)]);
    while (!pending.empty()) {
      const int user = pending.back();
      pending.pop_back();
      if (members.count(user)) continue;
      const bool is_passed_on = is_free(user) && !is_output_[static_cast<std::size_t>(user)] && group_of(user) < 0;
      if (!is_passed_on && visit(user)) return true;
      if (is_passed_on)
        pending.insert(pending.end(), users_[static_cast<std::size_t>(user)].begin(), users_[static_cast<std::size_t>(user)].end());
    }
    return false;
  }

  bool read_before(const Members& members, int block) const {
    return std::any_of(members.begin(), members.end(), [&](int member) {
      return any_reader(member, members, [&](int reader) { return node(reader).block < block; });
    });
  }

  // A member's value is a result if anything but members reads it, directly or through free nodes that are no members.
  bool is_result(int member, const Members& members) const {
    return is_output_[static_cast<std::size_t>(member)] || any_reader(member, members, [](int) { return true; });
  }

  Body make_body(const Members& members) const {
    Body body;
    std::vector<Value> inputs;
    std::map<std::pair<int, int>, Value> made;  // by node and result
    const std::function<Value(const Value&)> get = [&](const Value& value) -> Value {
      const int i = static_cast<int>(at(value));
      const auto key = std::make_pair(i, value.output());
      if (const auto found = made.find(key); found != made.end()) return found->second;
      const Node& n = node(i);
      Value result;
      if (n.opcode == Opcode::constant) {
        result = value;
      } else if (is_free(i) && !members.count(i) && group_of(i) < 0) {
        result = with_inputs(n, {get(n.inputs[0])}, n.name);
      } else {
        ZOE_INTERNAL_CHECK(!members.count(i));  // members are made in order below
        result = input(fmt::format("a{}", inputs.size()), value.dtype(), value.shape());
        inputs.push_back(result);
        body.arguments.push_back(value);
      }
      made[key] = result;
      return result;
    };
    std::vector<Value> outputs;
    std::vector<std::string> ops;
    for (const int member : members) {
      const Node& n = node(member);
      std::vector<Value> operands;
      for (const Value& operand : n.inputs) operands.push_back(get(operand));
      made[{member, 0}] = with_inputs(n, std::move(operands), n.name);
      const std::string op = n.name.empty() ? std::string(name(n.opcode)) : n.name;
      if (std::find(ops.begin(), ops.end(), op) == ops.end()) ops.push_back(op);
      if (is_result(member, members)) {
        body.results.push_back(member);
        outputs.push_back(made.at({member, 0}));
      }
    }
    body.graph = make_graph(fmt::format("{}", fmt::join(ops, " + ")), std::move(inputs), std::move(outputs));
    return body;
  }

  // Worth a kernel of its own: more than the platform's prebuilt loop for one node would do.
  bool is_worth_it(const Members& members) const {
    if (members.size() > 1) return true;
    const Node& n = node(*members.begin());
    return std::any_of(n.inputs.begin(), n.inputs.end(), [&](const Value& operand) {
      const int i = static_cast<int>(at(operand));
      return is_free(i) && node(i).opcode != Opcode::constant && !is_plain_view(node(i)) && group_of(i) < 0;
    });
  }

  Graph rebuild(std::map<std::pair<const Node*, int>, Value>& replaced) {
    // Units in running order: a chain runs where its last member was, and whatever reads it after that.
    std::vector<int> unit(graph_.nodes.size());
    std::vector<Members> units;
    std::vector<bool> is_chain;
    for (int i = 0; i < count(); ++i) {
      const int group = group_of(i);
      if (group >= 0 && is_worth_it(groups_[static_cast<std::size_t>(group)])) {
        const Members& members = groups_[static_cast<std::size_t>(group)];
        if (i != *members.rbegin()) continue;
        for (const int member : members) unit[static_cast<std::size_t>(member)] = static_cast<int>(units.size());
        units.push_back(members);
        is_chain.push_back(true);
      } else {
        unit[static_cast<std::size_t>(i)] = static_cast<int>(units.size());
        units.push_back({i});
        is_chain.push_back(false);
      }
    }
    std::vector<Body> bodies(units.size());
    std::vector<std::vector<int>> readers(units.size());
    std::vector<int> missing(units.size());
    for (std::size_t u = 0; u < units.size(); ++u) {
      std::vector<Value> operands;
      if (is_chain[u]) {
        bodies[u] = make_body(units[u]);
        operands = bodies[u].arguments;
      } else {
        operands = node(*units[u].begin()).inputs;
      }
      std::set<int> needs;
      for (const Value& operand : operands) needs.insert(unit[at(operand)]);
      missing[u] = static_cast<int>(needs.size());
      for (const int each : needs) readers[static_cast<std::size_t>(each)].push_back(static_cast<int>(u));
    }
    std::priority_queue<int, std::vector<int>, std::greater<>> ready;
    for (std::size_t u = 0; u < units.size(); ++u)
      if (missing[u] == 0) ready.push(static_cast<int>(u));
    const auto now = [&](const Value& value) {
      const auto found = replaced.find({&value.node(), value.output()});
      return found == replaced.end() ? value : found->second;
    };
    std::size_t done = 0;
    for (; !ready.empty(); ++done) {
      const auto u = static_cast<std::size_t>(ready.top());
      ready.pop();
      std::vector<Value> operands;
      if (is_chain[u]) {
        Body& body = bodies[u];
        for (const Value& argument : body.arguments) operands.push_back(now(argument));
        std::string op = body.graph.name;
        const std::vector<Value> results = make_fused(std::move(op), operands, std::move(body.graph));
        for (std::size_t r = 0; r < results.size(); ++r) replaced[{&node(body.results[r]), 0}] = results[r];
      } else {
        const Node& n = node(*units[u].begin());
        if (!n.inputs.empty()) {
          for (const Value& operand : n.inputs) operands.push_back(now(operand));
          const Value made = with_inputs(n, std::move(operands), n.name);
          for (int r = 0; r < static_cast<int>(n.types.size()); ++r) replaced[{&n, r}] = Value(made.node_ptr(), r);
        }
      }
      for (const int reader : readers[u])
        if (--missing[static_cast<std::size_t>(reader)] == 0) ready.push(reader);
    }
    ZOE_INTERNAL_CHECK(done == units.size());
    std::vector<Value> outputs;
    for (const Value& output : graph_.outputs) outputs.push_back(now(output));
    return make_graph(graph_.name, graph_.inputs, std::move(outputs));
  }

  const Graph& graph_;
  const DeviceInfo& device_;
  const std::function<bool(const Node&)>& may_fuse_;
  std::unordered_map<const Node*, int> index_;
  std::vector<std::vector<int>> users_;
  std::vector<bool> is_output_;
  std::vector<int> group_;  // of each node, -1 for none
  std::vector<Members> groups_;
  std::vector<std::string> notes_;
};

}  // namespace

Fused fuse(const Graph& graph, const DeviceInfo& device, const std::function<bool(const Node&)>& may_fuse) {
  return Fuser(graph, device, may_fuse).run();
}

}  // namespace zoe
