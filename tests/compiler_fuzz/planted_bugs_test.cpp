// The fuzzer is worth what it catches: bugs of the kinds that compilers have are planted, one at a time, between the compiler and
// the cpu platform, and the fuzzer's comparison must see each of them within a few graphs.
//
// A bug is a change of a chain's body, of what a kernel says about itself, of a plan's steps, or (by a script in the compiler's
// place) of the generated text. The product's code knows nothing of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <optional>

#include "base/error.h"
#include "codegen/chain.h"
#include "compiler/passes/rebuild.h"
#include "compiler_fuzz/fuzz.h"
#include "compiler_fuzz/wrapped_platform.h"
#include "ir/parse.h"
#include "ir/trace.h"
#include "testing/random_graph.h"

namespace zoe::fuzz {
namespace {

// What stands in a body for a node: absent for the node itself.
using Change = std::function<Value(const Node& node, const std::vector<Value>& inputs)>;

Graph changed(const Graph& body, const Change& change) {
  std::vector<Value> arguments;
  for (const Value& each : body.inputs) arguments.push_back(input(each.node().name, each.dtype(), each.shape()));
  std::vector<Value> outputs = rebuild(body, arguments, [&](const Node& node, std::vector<Value> inputs) {
    const Value other = change(node, inputs);
    return other && other.type() == node.types[0] ? std::vector<Value>{other} : keep(node, std::move(inputs));
  });
  return make_graph(body.name, std::move(arguments), std::move(outputs));
}

struct Bug {
  const char* name;
  Change body = {};
  std::function<void(Graph&)> results = {};  // of the body
  bool overwrites_anything = false;
  bool hides_scratch = false;  // with generated code: the row blocks' scratch holds addresses
  std::function<void(Plan&)> plan = {};
};

// Says of a kernel what is not true.
class LyingKernel : public Kernel {
 public:
  LyingKernel(std::unique_ptr<Kernel> kernel, const Bug& bug) : kernel_(std::move(kernel)), bug_(bug) {}
  std::string_view implementation() const override { return kernel_->implementation(); }
  std::size_t scratch_bytes() const override { return bug_.hides_scratch ? 0 : kernel_->scratch_bytes(); }
  std::string weight_layout(int input) const override { return kernel_->weight_layout(input); }
  std::size_t packed_bytes(int input, const Type& type) const override { return kernel_->packed_bytes(input, type); }
  void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const override {
    kernel_->pack_weight(input, type, source, packed);
  }
  bool can_overwrite(int input, int output) const override {
    return bug_.overwrites_anything || kernel_->can_overwrite(input, output);
  }
  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    kernel_->run(stream, inputs, outputs, scratch);
  }

 private:
  const std::unique_ptr<Kernel> kernel_;
  const Bug& bug_;
};

class BuggyPlatform : public WrappedPlatform {
 public:
  BuggyPlatform(std::unique_ptr<Platform> platform, const Bug& bug) : WrappedPlatform(std::move(platform)), bug_(bug) {}
  std::shared_ptr<Buffer> allocate(std::size_t size_bytes, std::string_view what) override {
    constexpr std::size_t kRoom = 1 << 20;  // for writes to the wrong place
    return WrappedPlatform::allocate(size_bytes + kRoom, what);
  }
  std::vector<Implemented> implement(std::span<const Node* const> nodes, const OverrideRules& rules) override {
    std::vector<NodePtr> buggy;
    std::vector<const Node*> asked;
    for (const Node* node : nodes) {
      asked.push_back(node);
      if (node->opcode != Opcode::fused) continue;
      Graph body = node->as<std::shared_ptr<const CallAttributes>>()->native;
      if (bug_.body) body = changed(body, bug_.body);
      if (bug_.results) bug_.results(body);
      if (!lower(body).chain) continue;
      buggy.push_back(make_fused(node->name, node->inputs, std::move(body)).front().node_ptr());
      asked.back() = buggy.back().get();
    }
    std::vector<Implemented> made = WrappedPlatform::implement(asked, rules);
    for (std::size_t i = 0; i < made.size(); ++i)
      if (nodes[i]->opcode == Opcode::fused) made[i].kernel = std::make_unique<LyingKernel>(std::move(made[i].kernel), bug_);
    return made;
  }

 private:
  const Bug& bug_;
};

Value exchanged(Opcode opcode, const Node& node, const std::vector<Value>& inputs) {
  return node.opcode == opcode ? with_inputs(node, {inputs[1], inputs[0]}, node.name) : Value{};
}

bool same(const Place& a, const Place& b) { return a.kind == b.kind && a.index == b.index && a.offset == b.offset; }
bool reads(const Step& step, const Place& place) {
  return std::any_of(step.inputs.begin(), step.inputs.end(), [&](const Place& each) { return same(each, place); });
}
bool writes(const Step& step, const Place& place) {
  return std::any_of(step.outputs.begin(), step.outputs.end(), [&](const Place& each) { return same(each, place); });
}

// Every other step comes before the one whose result it reads.
void run_too_early(Plan& plan) {
  for (std::size_t i = 0; i + 1 < plan.steps.size(); i += 2)
    if (reads(plan.steps[i + 1], plan.steps[i].outputs[0])) std::swap(plan.steps[i], plan.steps[i + 1]);
}

// A result takes the place of a value that is read once more.
void reuse_too_early(Plan& plan) {
  std::vector<Step>& steps = plan.steps;
  for (std::size_t i = 0; i + 2 < steps.size(); ++i) {
    const Place kept = steps[i].outputs[0], moved = steps[i + 1].outputs[0];
    if (kept.kind != Place::Kind::workspace || moved.kind != Place::Kind::workspace || same(kept, moved)) continue;
    bool is_read_again = false;
    for (std::size_t j = i + 2; j < steps.size() && !is_read_again && !writes(steps[j - 1], kept); ++j)
      is_read_again = reads(steps[j], kept);
    if (!is_read_again) continue;
    steps[i + 1].outputs[0] = kept;
    for (std::size_t j = i + 2; j < steps.size(); ++j) {
      for (Place& place : steps[j].inputs)
        if (same(place, moved)) place = kept;
      if (writes(steps[j], moved)) break;
    }
    return;
  }
}

std::vector<Bug> bugs() {
  std::vector<Bug> all;
  all.push_back({.name = "the operands of a difference are exchanged",
                 .body = [](const Node& node, const auto& in) { return exchanged(Opcode::sub, node, in); }});
  all.push_back({.name = "a rounding to bf16 is taken for nothing", .body = [](const Node& node, const auto& in) {
                   const bool is_pair = node.opcode == Opcode::cast && in[0].node().opcode == Opcode::cast &&
                                        in[0].node().inputs[0].dtype() == node.types[0].dtype;
                   return is_pair ? in[0].node().inputs[0] : Value{};
                 }});
  all.push_back({.name = "a slice begins one element off", .body = [](const Node& node, const auto& in) {
                   if (node.opcode != Opcode::slice) return Value{};
                   const auto [axis, begin, end] = node.as<AxisAttributes>();
                   const int by = end < in[0].dim(axis) ? 1 : -1;
                   return slice(in[0], axis, begin + by, end + by);
                 }});
  all.push_back(
      {.name = "two numbers are taken for one", .body = [first = std::optional<double>()](const Node& node, const auto&) mutable {
         if (node.opcode != Opcode::constant) return Value{};
         if (!first) first = node.as<ConstantAttributes>().value;
         return constant(*first, node.types[0].dtype);
       }});
  all.push_back({.name = "a sum runs in another order", .body = [](const Node& node, const auto& in) {
                   return node.opcode == Opcode::sum && in[0].dim(-1) > 1 ? sum(flip(in[0], -1)) : Value{};
                 }});
  all.push_back({.name = "a row's maximum begins as zero", .body = [](const Node& node, const auto& in) {
                   return node.opcode == Opcode::row_max ? max(row_max(in[0]), constant(0)) : Value{};
                 }});
  all.push_back({.name = "a row's largest absolute value forgets the sign", .body = [](const Node& node, const auto& in) {
                   return node.opcode == Opcode::row_max && in[0].node().opcode == Opcode::abs ? row_max(in[0].node().inputs[0])
                                                                                               : Value{};
                 }});
  all.push_back({.name = "a row's maximum leaves out the last element", .body = [](const Node& node, const auto& in) {
                   const std::int64_t width = node.opcode == Opcode::row_max ? in[0].dim(-1) : 0;
                   return width > 1 ? row_max(slice(in[0], -1, 0, width - 1)) : Value{};
                 }});
  all.push_back({.name = "codes of i8 have no sign", .body = [](const Node& node, const auto& in) {
                   const bool is_code = node.opcode == Opcode::cast && node.types[0].dtype == DType::i8;
                   return is_code ? cast(max(in[0], constant(0)), DType::i8) : Value{};
                 }});
  all.push_back({.name = "the operands of a maximum are exchanged",
                 .body = [](const Node& node, const auto& in) { return exchanged(Opcode::max, node, in); }});
  all.push_back({.name = "all rows take the first one's operand", .body = [](const Node& node, const auto& in) {
                   if (!is_binary(node.opcode)) return Value{};
                   for (std::size_t i = 0; i < 2; ++i) {
                     const Value& x = in[i];
                     if (x.shape().rank() < 2 || x.dim(0) == 1 || x.dim(-1) != 1) continue;
                     std::vector<Value> other = in;
                     other[i] = slice(x, 0, 0, 1);
                     Shape shape;
                     if (broadcast(other[0].shape(), other[1].shape(), &shape) && shape == node.types[0].shape)
                       return with_inputs(node, std::move(other), node.name);
                   }
                   return Value{};
                 }});
  all.push_back({.name = "a chain's results are stored to one another's places", .results = [](Graph& body) {
                   for (std::size_t i = 1; i < body.outputs.size(); ++i)
                     if (body.outputs[i].type() == body.outputs[i - 1].type()) std::swap(body.outputs[i], body.outputs[i - 1]);
                 }});
  all.push_back({.name = "a flip is forgotten",
                 .body = [](const Node& node, const auto& in) { return node.opcode == Opcode::flip ? in[0] : Value{}; }});
  all.push_back({.name = "an exchange of pairs is forgotten",
                 .body = [](const Node& node, const auto& in) { return node.opcode == Opcode::swap_pairs ? in[0] : Value{}; }});
  all.push_back({.name = "a division is a product with the reciprocal", .body = [](const Node& node, const auto& in) {
                   return node.opcode == Opcode::div ? in[0] * (constant(1, in[1].dtype()) / in[1]) : Value{};
                 }});
  all.push_back({.name = "a kernel may overwrite any operand", .overwrites_anything = true});
  all.push_back({.name = "a kernel's scratch is not reserved", .hides_scratch = true});
  all.push_back({.name = "a step runs before what it reads", .plan = run_too_early});
  all.push_back({.name = "a place is given away before its last reader", .plan = reuse_too_early});
  return all;
}

std::vector<Graph> wide_graphs(std::uint64_t first, std::uint64_t count) {
  std::vector<Graph> graphs;
  for (std::uint64_t seed = first; seed < first + count; ++seed)
    graphs.push_back(testing::RandomGraph(seed, testing::GraphKind::wide).graph());
  return graphs;
}

// What the comparison says, "" if it is content.
std::string caught(const std::vector<Graph>& graphs, const Runner& runner, const std::vector<Bytes>& expected) {
  std::vector<Bytes> got;
  try {
    got = run_plan(graphs, runner);
  } catch (const std::exception& error) {
    return error.what();
  }
  std::size_t next = 0;
  for (const Graph& graph : graphs)
    for (const Value& output : graph.outputs) {
      const std::string what = difference(got[next], expected[next], output.type());
      ++next;
      if (!what.empty()) return graph.name + ": " + what;
    }
  return {};
}

Runner with_bug(const Bug& bug) {
  Runner runner = bug.hides_scratch ? generated_code() : row_blocks();
  runner.open = [&bug, open = runner.open] { return std::make_unique<BuggyPlatform>(open(), bug); };
  runner.change_plan = bug.plan;
  return runner;
}

// Graphs in batches, as many as it takes to catch a bug, at most 512.
class Batches {
 public:
  explicit Batches(std::size_t size) : size_(size) {}
  std::string caught_in(const Runner& runner, std::size_t batch) {
    if (batch == graphs_.size()) {
      graphs_.push_back(wide_graphs(batch * size_, size_));
      expected_.push_back(run_plan(graphs_[batch], uncompiled_cpu()));
    }
    return caught(graphs_[batch], runner, expected_[batch]);
  }
  void expect_caught(const char* name, const Runner& runner) {
    std::string what;
    for (std::size_t batch = 0; what.empty() && batch < 512 / size_; ++batch) what = caught_in(runner, batch);
    EXPECT_NE(what, "") << "not caught: " << name;
    EXPECT_EQ(what.find("compile"), std::string::npos) << what;
    std::printf("%s: %s\n", name, what.c_str());
  }

 private:
  const std::size_t size_;
  std::vector<std::vector<Graph>> graphs_;
  std::vector<std::vector<Bytes>> expected_;
};

TEST(PlantedBugs, AreCaught) {
  Batches batches(32);
  const Bug none{.name = "none"};
  ASSERT_EQ(batches.caught_in(with_bug(none), 0), "") << "without a bug";
  for (const Bug& bug : bugs()) batches.expect_caught(bug.name, with_bug(bug));
}

// Bugs of the printer, put into the generated text on its way to the compiler.
TEST(PlantedBugs, OfGeneratedCodeAreCaught) {
  struct TextBug {
    const char* name;
    const char* edit;       // of sed
    const char* arguments;  // of the compiler, behind the platform's
  };
  const TextBug all[] = {
      {"products and sums are contracted", "", "-ffp-contract=fast"},
      {"the lanes behind a row's end are reduced, too", "s/for (int i = n; i < ZOE_LANES; ++i) x.i. = Reduce::identity;//", ""},
      {"rounding to bf16 cuts off", "s/bits + 0x7fff + (high & 1)/bits/", ""},
      {"rounding to u8 is left out", "s/return (x + 12582912.0f) - 12582912.0f;/return x;/", ""},
      {"rounding to i8 is left out", "s/zoe_round_i8(F x) {/zoe_round_i8(F x) { return x;/", ""},
      {"a maximum is of a total and an element", "/^ZOE_REDUCTION(row_max/s/a, b/b, a/", ""},
      {"a row's maximum begins as zero", "s/^ZOE_REDUCTION(row_max, [^,]*/ZOE_REDUCTION(row_max, 0.0f/", ""},
      {"kept values share one place", "s/(scratch + [0-9]*)/(scratch)/", ""},
      {"rows begin one column late", "s/const long r0 = row;/const long r0 = row > 0 ? row - 1 : 0;/", ""},
  };
  Batches batches(20);
  ASSERT_EQ(batches.caught_in(generated_code(), 0), "") << "without a bug";
  for (const TextBug& bug : all) batches.expect_caught(bug.name, generated_code(bug.arguments, bug.edit));
}

TEST(PlantedBugs, FailingGraphsShrink) {
  const std::vector<Bug> all = bugs();
  const Runner runner = with_bug(all.front());
  const auto fails = [&](const Graph& graph) {
    return caught({graph}, runner, run_plan({graph}, uncompiled_cpu())).find("element") != std::string::npos;
  };
  std::size_t shrunken = 0;
  for (std::uint64_t seed = 0; seed < 64 && shrunken < 2; ++seed) {
    const Graph graph = wide_graphs(seed, 1).front();
    if (graph.nodes.size() < 20 || !fails(graph)) continue;
    const Graph small = shrink(graph, fails);
    EXPECT_TRUE(fails(parse(print(small)))) << print(small);
    EXPECT_LE(small.nodes.size(), 6u) << print(small);  // two operands, their difference, and what makes it a chain
    ++shrunken;
  }
  EXPECT_EQ(shrunken, 2u);
}

}  // namespace
}  // namespace zoe::fuzz
