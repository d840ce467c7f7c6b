#include "compiler/passes/split_rows.h"

#include <random>

#include "compiler/compile.h"
#include "ir/interpreter.h"
#include "models/wan_dit/model.h"
#include "passes/passes.h"
#include "platform/platform.h"
#include "testing/random_graph.h"

namespace zoe {
namespace {

WanDitConfig tiny(std::int64_t layers = 2) {
  WanDitConfig config =
      parse_wan_dit_config(read_json_object(std::string(ZOE_MODELS) + "/toy-wan/transformer/config.json", "config"));
  config.num_heads = 2, config.head_dim = 12, config.ffn_dim = 40, config.num_layers = layers;
  return config;
}

std::vector<ReferenceTensor> arguments_of(const Graph& graph) {
  std::vector<ReferenceTensor> arguments;
  for (const Value& value : graph.inputs) {
    ReferenceTensor argument{value.shape(), {}};
    std::mt19937_64 random(std::hash<std::string>()(value.node().name));
    std::uniform_real_distribution<double> numbers(-1, 1);
    for (std::int64_t i = 0; i < value.shape().count(); ++i) argument.values.push_back(numbers(random));
    arguments.push_back(std::move(argument));
    if (value.node().name == "timestep_of_frame")
      for (double& row : arguments.back().values) row = &row != &arguments.back().values.front();
  }
  return arguments;
}

void expect_same_numbers(const Graph& whole, const RowSplit& split) {
  const Graph parts = split_rows(whole, split);
  verify(parts);
  const std::vector<ReferenceTensor> arguments = arguments_of(whole);
  const auto expected = interpret(whole, arguments, testing::RandomGraph::parameter_values);
  const auto got = interpret(parts, arguments, testing::RandomGraph::parameter_values);
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i].values, expected[i].values) << i;
}

int count(const Graph& graph, Opcode opcode) {
  return static_cast<int>(
      std::count_if(graph.nodes.begin(), graph.nodes.end(), [&](const NodePtr& n) { return n->opcode == opcode; }));
}

TEST(SplitRows, EveryKindOfForwardKeepsItsNumbers) {
  const WanDitSizes one{3, 4, 8, 5}, two{3, 4, 8, 5, 2}, first{3, 4, 8, 5, 2, 0, true}, nag{3, 4, 8, 5, 2, 0, false, true};
  const std::int64_t rows = 3 * 2 * 4, of_frame = 2 * 4;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    expect_same_numbers(trace_wan_dit(tiny(), dtype, one), {rows, 3});
    expect_same_numbers(trace_wan_dit(tiny(), dtype, one), {rows, 5});  // the last piece is smaller
    for (const bool apart : {false, true})
      for (const std::int64_t pieces : {1, 2, 5}) {
        expect_same_numbers(trace_wan_dit(tiny(), dtype, two), {rows, pieces, apart});
        expect_same_numbers(trace_wan_dit(tiny(), dtype, first), {rows, pieces, apart, of_frame});
        if (!apart) expect_same_numbers(trace_wan_dit(tiny(), dtype, nag), {rows, pieces});
      }
  }
}

TEST(SplitRows, HintsAndImagesKeepTheirNumbers) {
  WanDitConfig vace = tiny(3);
  vace.vace_layers = {0, 2}, vace.vace_channels = 6;
  expect_same_numbers(trace_wan_dit(vace, DType::f32, {3, 4, 8, 5, 2}), {24, 3, true});
  WanDitConfig image = tiny();
  image.image_dim = 10;
  expect_same_numbers(trace_wan_dit(image, DType::f32, {3, 4, 8, 5, 2, 4}), {24, 3, true});
}

TEST(SplitRows, NothingIsComputedTwiceThatCosts) {
  const Graph whole = trace_wan_dit(tiny(3), DType::f32, {3, 4, 8, 5, 2});
  const Graph apart = split_rows(whole, {24, 1, true});
  // The first block's self-attention has one text, before the stream becomes one a text.
  EXPECT_EQ(count(whole, Opcode::attention), 3 * 2);
  EXPECT_EQ(count(apart, Opcode::attention), 1 + 2 + 2 * (2 + 2));
  const Graph parts = split_rows(whole, {24, 4, true});
  EXPECT_EQ(count(parts, Opcode::attention), 4 + 8 + 2 * 4 * (2 + 2));
}

TEST(SplitRows, OnePieceOfOneTextIsTheGraphItself) {
  const Graph whole = trace_wan_dit(tiny(), DType::f32, {1, 4, 4, 5, 2});
  EXPECT_EQ(print(split_rows(whole, {4, 1})), print(whole));
}

// What is alive at once falls from seven values of all rows towards three: the stream in pieces, keys and values.
TEST(SplitRows, TheWorkspaceFalls) {
  const auto null = open_platform("null");
  WanDitConfig config = tiny(2);
  config.num_heads = 8, config.head_dim = 64, config.ffn_dim = 1408;
  const auto bytes = [&](const RowSplit& split) {
    const Plan plan = compile(split_rows(trace_wan_dit(config, DType::bf16, {4, 64, 64, 5, 1}), split), *null);
    EXPECT_LE(static_cast<double>(plan.workspace_bytes), 1.05 * static_cast<double>(plan.alive_bytes));
    return static_cast<double>(plan.workspace_bytes) / (4.0 * 32 * 32 * 512 * 2);
  };
  const double whole = bytes({4096, 1}), pieces = bytes({4096, 16});
  EXPECT_GT(whole, 4.9);
  EXPECT_LT(pieces, 3.6) << whole;
}

}  // namespace
}  // namespace zoe
