// Passes, the memory plan, and plans that run: on the null platform where no arithmetic is needed, on cpu where it is.
#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <random>

#include "base/error.h"
#include "compiler/passes/inline_calls.h"
#include "compiler/run.h"
#include "ir/trace.h"

namespace zoe {
namespace {

Value twice(const Value& x) {
  return call("twice", {x}, [](std::span<const Value> a) { return std::vector<Value>{a[0] + a[0]}; })[0];
}

TEST(InlineCalls, NestedCallsBecomeTheirNativeNodes) {
  const Value x = input("x", DType::f32, {4});
  const Value outer = call("quadruple", {x}, [](std::span<const Value> a) { return std::vector<Value>{twice(twice(a[0]))}; })[0];
  const Graph graph = inline_calls(make_graph("g", {x}, {exp(outer)}));
  verify(graph);
  std::vector<Opcode> opcodes;
  for (const NodePtr& node : graph.nodes) opcodes.push_back(node->opcode);
  EXPECT_EQ(opcodes, (std::vector<Opcode>{Opcode::input, Opcode::add, Opcode::add, Opcode::exp}));
  EXPECT_EQ(graph.nodes[1]->name, "twice");
}

TEST(InlineCalls, KeepsBothResultsOfAnOp) {
  const Value x = input("x", DType::f32, {4});
  const auto pair = call("pair", {x}, [](std::span<const Value> a) { return std::vector<Value>{a[0] + 1.0, a[0] * 2.0}; });
  const Graph graph = inline_calls(make_graph("g", {x}, {pair[1] - pair[0]}));
  const Node& sub = graph.outputs[0].node();
  EXPECT_EQ(sub.inputs[0].node().opcode, Opcode::mul);
  EXPECT_EQ(sub.inputs[1].node().opcode, Opcode::add);
}

MemoryPlan plan_of(const Graph& graph) { return plan_memory(graph, std::vector<StepNeeds>(plan_steps(graph).size())); }

TEST(MemoryPlan, AChainNeedsTwoBuffers) {
  const Value x = input("x", DType::f32, {1024});
  Value y = x;
  for (int i = 0; i < 10; ++i) y = exp(y);
  const MemoryPlan plan = plan_of(make_graph("g", {x}, {y}));
  EXPECT_EQ(plan.steps.size(), 10u);
  EXPECT_EQ(plan.workspace_bytes, 2u * 4096);  // the last one is the output's own memory
}

TEST(MemoryPlan, ReshapesAndOutermostSlicesAreViews) {
  const Value x = input("x", DType::f32, {4, 8});
  const Value e = exp(x);
  const Value view = slice(reshape(e, {2, 2, 8}), 0, 1, 2);
  const Graph graph = make_graph("g", {x}, {exp(view)});
  const MemoryPlan plan = plan_of(graph);
  EXPECT_EQ(plan.steps.size(), 2u);
  EXPECT_EQ(plan.place(view).offset, plan.place(e).offset + 2 * 8 * 4);
}

TEST(MemoryPlan, PartsOfAConcatAreProducedInTheirPlace) {
  const Value state = input("state", DType::f32, {2, 16}), x = input("x", DType::f32, {4, 16});
  const Value part = exp(x);
  const Value whole = concat({state, part}, 0);
  const Graph graph = make_graph("g", {state, x}, {exp(whole), slice(whole, 0, 4, 6)});
  const MemoryPlan plan = plan_of(graph);
  EXPECT_EQ(plan.place(part).offset, plan.place(whole).offset + 2 * 16 * 4);
  EXPECT_EQ(plan.place(part).kind, Place::Kind::workspace);
  // The state is read by the concat (step 1) and written behind it (step 3): one buffer will do for both.
  EXPECT_EQ(plan.input_last_read[0], 1);
  EXPECT_GT(plan.output_written[1], plan.input_last_read[0]);
}

TEST(MemoryPlan, NoTwoLiveValuesOverlap) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    const Value x = input("x", DType::f32, {8, 16});
    std::vector<Value> values{exp(x)};
    for (int i = 0; i < 30; ++i) {
      const Value& a = values[random() % values.size()];
      const Value& b = values[random() % values.size()];
      const Value b_first = slice(b, 0, 0, 1);
      switch (random() % 5) {
        case 0: values.push_back(exp(a)); break;
        case 1: values.push_back(a + b_first); break;
        case 2: values.push_back(slice(concat({a, b}, 0), 0, 3, 11)); break;
        case 3: values.push_back(reshape(reshape(a, {a.shape().count()}), a.shape())); break;
        default: values.push_back(slice(concat({exp(b), a}, 0), 0, 0, a.dim(0))); break;
      }
    }
    const Graph graph = make_graph("g", {x}, {exp(values.back()), exp(values[10])});
    const std::vector<StepNeeds> scratch(plan_steps(graph).size(), StepNeeds{100, {}});
    const MemoryPlan plan = plan_memory(graph, scratch);
    // Replays the plan on a map of who wrote each 64-byte line last: every operand must still be what was produced for it.
    // A view or a part placed in a concat is judged by the bytes of the step that produced them.
    std::vector<std::int64_t> writer(plan.workspace_bytes / 64 + 1, -1);
    std::unordered_map<const Node*, std::vector<std::int64_t>> expected;
    for (std::size_t i = 0; i < plan.steps.size(); ++i) {
      const Node& node = *plan.steps[i];
      const auto lines = [&](const Node& value) {
        const Place& place = plan.places.at({&value, 0});
        return std::pair(place.offset / 64, (place.offset + value.types[0].size_bytes() + 63) / 64);
      };
      for (const Value& operand : node.inputs) {
        const Node* root = &operand.node();
        while (expected.find(root) == expected.end() && (root->opcode == Opcode::reshape || root->opcode == Opcode::slice))
          root = &root->inputs[0].node();
        if (expected.find(root) == expected.end()) continue;  // an input or a constant
        const auto [begin, end] = lines(*root);
        const std::vector<std::int64_t> now(writer.begin() + static_cast<std::ptrdiff_t>(begin),
                                            writer.begin() + static_cast<std::ptrdiff_t>(end));
        ASSERT_EQ(now, expected.at(root)) << "step " << i << " of round " << round << "\n" << print(graph);
      }
      if (plan.places.at({&node, 0}).kind != Place::Kind::workspace) continue;
      const std::size_t scratch_line = plan.scratch[i].offset / 64;
      for (std::size_t line = scratch_line; line < scratch_line + 2; ++line) writer[line] = 1000000 + static_cast<std::int64_t>(i);
      const auto [begin, end] = lines(node);
      for (std::size_t line = begin; line < end; ++line) {
        if (node.opcode == Opcode::concat) {
          bool in_place = false;  // a part that already lies here keeps its writer
          for (const Value& part : node.inputs) {
            const auto found = plan.places.find({&part.node(), 0});
            if (found == plan.places.end() || found->second.kind != Place::Kind::workspace) continue;
            const std::size_t first = found->second.offset / 64, last = (found->second.offset + part.type().size_bytes()) / 64;
            in_place = in_place || (line >= first && line < last && first >= begin && last <= end);
          }
          if (in_place) continue;
        }
        writer[line] = static_cast<std::int64_t>(i);
      }
      expected[&node] = {writer.begin() + static_cast<std::ptrdiff_t>(begin), writer.begin() + static_cast<std::ptrdiff_t>(end)};
    }
  }
}

TEST(Compile, EqualNodesShareAKernel) {
  const auto platform = open_platform("null");
  const Value x = input("x", DType::f32, {64, 32});
  Value y = x;
  for (int block = 0; block < 40; ++block)
    y = linear(y, parameter("w" + std::to_string(block), DType::f32, {32, 32}, block), {.residual = y});
  const Plan plan = compile(make_graph("g", {x}, {y}), *platform);
  EXPECT_EQ(plan.steps.size(), 40u);
  EXPECT_EQ(plan.kernel_count, 1u);
  EXPECT_EQ(plan.weights.size(), 40u);
  EXPECT_EQ(plan.block_count, 40);
  EXPECT_EQ(plan.weight_bytes(), 40u * 32 * 32 * 4);
  const Plan* const only = &plan;
  EXPECT_EQ(lay_out_arena({&only, 1}, 1).size_bytes, 2u * 32 * 32 * 4);  // block 0 and a place for the others
  EXPECT_EQ(lay_out_arena({&only, 1}, 2).size_bytes, 3u * 32 * 32 * 4);
  EXPECT_NE(describe(plan).find("40 steps, 1 kernels"), std::string::npos);
}

struct Fixture {
  std::unique_ptr<Platform> platform = open_platform("cpu", {.threads = 2});
  std::unique_ptr<Stream> stream = platform->make_stream();
  std::map<std::string, std::vector<float>> weights;
  WeightStore store{*platform, [this](const std::string& name) {
                      const float scale = static_cast<float>(name.back() - '0') * 0.1f + 0.1f;
                      std::vector<float>& values = weights[name];
                      values.assign(64, scale);
                      return dense_weight(DType::f32, {8, 8}, reinterpret_cast<const std::byte*>(values.data()));
                    }};

  std::vector<float> run_plan(const Plan& plan, const RunOptions& options) {
    std::vector<Tensor> inputs{make_tensor(*platform, plan.graph.inputs[0].type(), "in")};
    std::vector<Tensor> outputs{make_tensor(*platform, plan.graph.outputs[0].type(), "out")};
    std::vector<float> values(static_cast<std::size_t>(inputs[0].type.shape.count()));
    std::iota(values.begin(), values.end(), 1.0f);
    upload(*platform, *stream, values, inputs[0]);
    const Plan* const only = &plan;
    run(plan, *stream, store, inputs, outputs, make_workspace(*platform, {&only, 1}), options);
    std::vector<float> result(static_cast<std::size_t>(outputs[0].type.shape.count()));
    download(*platform, *stream, outputs[0], result);
    return result;
  }

  Plan chain() {
    const Value x = input("x", DType::f32, {3, 8});
    Value y = x;
    for (int block = 0; block < 4; ++block) y = linear(y, parameter("w" + std::to_string(block), DType::f32, {8, 8}, block)) + 0.5;
    return compile(make_graph("chain", {x}, {y}), *platform);
  }
};

// What is given, what another result is already, and what passes find to be one of these, is copied into a result's own memory.
TEST(Run, AResultMayBeAnInputAWeightANumberOrAnotherResult) {
  Fixture fixture;
  const Value x = input("x", DType::f32, {8, 8}), w = parameter("w1", DType::f32, {8, 8}), number = constant(2.5, DType::f32);
  const Value y = x + w, same = x + w;
  const std::vector<Value> results{x, x, y, same, y, w, number, x * 1.0, reshape(x, {64})};
  for (const bool compiled : {true, false}) {
    const Plan plan = compile(make_graph("results", {x}, results), *fixture.platform, {.compile = compiled});
    fixture.store.load(plan);
    std::vector<float> values(64);
    std::iota(values.begin(), values.end(), 1.0f);
    const Tensor given = make_tensor(*fixture.platform, x.type(), "in");
    upload(*fixture.platform, *fixture.stream, values, given);
    std::vector<Tensor> outputs;
    for (const Value& result : results) outputs.push_back(make_tensor(*fixture.platform, result.type(), "out"));
    const Plan* const only = &plan;
    run(plan, *fixture.stream, fixture.store, std::span(&given, 1), outputs, make_workspace(*fixture.platform, {&only, 1}));
    const auto at_5 = [&](std::size_t i) {
      std::vector<float> result(static_cast<std::size_t>(outputs[i].type.shape.count()));
      download(*fixture.platform, *fixture.stream, outputs[i], result);
      return result[result.size() == 1 ? 0 : 5];
    };
    for (const std::size_t i : {0, 1, 7, 8}) EXPECT_EQ(at_5(i), 6.0f) << i;
    for (const std::size_t i : {2, 3, 4}) EXPECT_EQ(at_5(i), 6.0f + 0.2f) << i;
    EXPECT_EQ(at_5(5), 0.2f);
    EXPECT_EQ(at_5(6), 2.5f);
  }
}

TEST(Run, StreamedWeightsGiveTheSameInLessMemory) {
  Fixture fixture;
  const Plan plan = fixture.chain();
  fixture.store.load(plan);
  EXPECT_EQ(fixture.store.size_bytes(), plan.weight_bytes());
  const std::vector<float> resident = fixture.run_plan(plan, {});
  fixture.store.stream({&plan}, {});
  for (int time = 0; time < 2; ++time) EXPECT_EQ(resident, fixture.run_plan(plan, {}));
  EXPECT_NE(resident[0], resident[8]);
  // Block 0, and a place that the other three take in turns. How a platform packs them is its own affair: all are of one size.
  EXPECT_EQ(fixture.store.size_bytes(), plan.weight_bytes() / 4 * 2);
  fixture.store.load(plan);
  EXPECT_EQ(resident, fixture.run_plan(plan, {}));
  fixture.store.clear();
  EXPECT_EQ(fixture.store.size_bytes(), 0u);
}

TEST(Run, AWeightThatSeveralBlocksReadStaysWhileTheyComeAndGo) {
  Fixture fixture;
  const auto weight = [](const char* name, int block) { return parameter(name, DType::f32, {8, 8}, block); };
  // One of block 0, where nothing reads it, and one of block 1.
  const Value x = input("x", DType::f32, {8, 8}), shared = weight("w8", 0), first = weight("w9", 1);
  const Value y = linear(x * first, shared) * weight("w1", 1);
  const Value z = linear(y * weight("w2", 2), shared) * first;
  for (const bool compiled : {true, false}) {
    const Plan plan = compile(make_graph("shared", {x}, {z}), *fixture.platform, {.compile = compiled});
    for (const PlanWeight& each : plan.weights)
      EXPECT_EQ(each.block, each.name == "w1" ? 1 : each.name == "w2" ? 2 : 0) << each.name;
    fixture.store.stream({&plan}, {});
    const std::vector<float> streamed = fixture.run_plan(plan, {});
    EXPECT_EQ(fixture.store.size_bytes(), plan.weight_bytes() - 256);
    fixture.store.load(plan);
    EXPECT_EQ(streamed, fixture.run_plan(plan, {}));
    fixture.store.clear();
  }
}

TEST(Run, CancelStopsBeforeTheNextStep) {
  Fixture fixture;
  const Plan plan = fixture.chain();
  fixture.store.load(plan);
  std::atomic<bool> cancel{true};
  try {
    fixture.run_plan(plan, {.cancel = &cancel});
    FAIL() << "not cancelled";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::cancelled);
  }
}

TEST(Run, WrongArgumentsAreNamed) {
  Fixture fixture;
  const Plan plan = fixture.chain();
  fixture.store.load(plan);
  const std::vector<Tensor> wrong{make_tensor(*fixture.platform, {DType::f32, {8, 3}}, "in")};
  const Tensor workspace = make_tensor(*fixture.platform, {DType::f32, {1 << 16}}, "workspace");
  try {
    run(plan, *fixture.stream, fixture.store, wrong, wrong, workspace);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("[chain] input 0: got f32[8,3], expected f32[3,8]"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace zoe
