// A bounded number of the graphs that `./dev fuzz-compiler` goes on with.
#include <gtest/gtest.h>

#include "codegen/chain.h"
#include "compiler/passes/inline_calls.h"
#include "compiler_fuzz/bounds.h"
#include "compiler_fuzz/fuzz.h"
#include "ir/parse.h"
#include "testing/random_graph.h"

namespace zoe::fuzz {
namespace {

void expect_agreement(std::uint64_t first, std::uint64_t count, const std::vector<Runner>& runners) {
  std::vector<Graph> graphs;
  for (std::uint64_t seed = first; seed < first + count; ++seed)
    graphs.push_back(testing::RandomGraph(seed, testing::GraphKind::wide).graph());
  const Report report = check(graphs, runners);
  for (const Failure& failure : report.failures)
    ADD_FAILURE() << graphs[failure.graph].name << " on " << failure.runner << ": " << failure.what
                  << "\nalone, and shrunken: ./dev fuzz-compiler 1 " << graphs[failure.graph].name.substr(5);
  EXPECT_GT(report.bounded, report.elements * 3 / 4) << "the bounds say too little of these graphs";
  EXPECT_GE(report.chains, count) << "too few chains";
}

TEST(RandomGraphs, AgreeInterpreted) {
  expect_agreement(0, 512, {uncompiled_cpu(), row_blocks(), narrow_row_blocks(), streamed_row_blocks()});
}

TEST(RandomGraphs, AgreeGenerated) { expect_agreement(0, 128, {uncompiled_cpu(), generated_code()}); }

TEST(RandomGraphs, AgreeOnOpenCL) {
  const std::vector<Runner> all = all_runners();
  std::vector<Runner> runners{uncompiled_cpu()};
  for (const Runner& each : all)
    if (each.name.starts_with("opencl")) runners.push_back(each);
  if (runners.size() == 1) GTEST_SKIP() << "no OpenCL device opens";
  expect_agreement(0, 8, runners);
}

// Shrunken graphs of bugs that are fixed.
TEST(SavedGraphs, Agree) {
  constexpr const char* kGraphs[] = {
      // Movement that no chain can take in, read by nothing else.
      R"(graph fuzz_111
%0 = input : bf16[1,1,2,3]  # x0
%1 = reshape %0 : bf16[6]
%2 = swap_pairs %1 : bf16[6]
%3 = min %2 %2 : bf16[6]
return %3
)",
      R"(graph fuzz_411
%0 = input : bf16[2,2]  # x1
%1 = swap_pairs %0 : bf16[2,2]
%2 = slice %1 axis=1 [0,1) : bf16[2,1]
%3 = slice %1 axis=1 [1,2) : bf16[2,1]
%4 = concat %3 %2 axis=1 : bf16[2,2]
return %4
)",
      // A copy on OpenCL, from dimensions to ones that have nothing in common with them.
      R"(graph fuzz_7000503
%0 = input : f32[2,1,3]  # x0
%1 = reshape %0 : f32[3,1,2]
return %1
)",
      // An op hands a weight on: a product reads it, and it is a result. The two want it in layouts of different names.
      R"(graph fuzz_18310
%0 = parameter : bf16[8,96]  # s18310.w2
%1 = call %0 op="op0" : bf16[8,96]  # op0
  graph op0
  %0 = input : bf16[8,96]  # a0
  return %0
%2 = parameter : bf16[1,96]  # s18310.w3
%3 = linear %1 %2 : bf16[8,1]
return %3 %1
)",
      // A concat on OpenCL and a chain do, too.
      R"(graph fuzz_19400
%0 = parameter : f32[1]  # s19400.w5
%1 = concat %0 %0 axis=0 : f32[2]
%2 = tanh %0 : f32[1]
%3 = min %2 %1 : f32[2]
return %3
)",
      // A weight that an op hands on to a later block, read in both.
      R"(graph fuzz_1
%0 = input : f32[2,32]  # x0
%1 = parameter block=1 : f32[2,32]  # s1.w0
%2 = call %0 %1 op="op0" : f32[2,32] f32[2,32]  # op0
  graph op0
  %0 = input : f32[2,32]  # a0
  %1 = input : f32[2,32]  # a1
  %2 = mul %0 %1 : f32[2,32]
  return %2 %1
%3 = parameter block=2 : f32[32,32]  # s1.w1
%4 = linear %2.0 %3 : f32[2,32]
%5 = add %4 %2.1 : f32[2,32]
return %5
)",
  };
  std::vector<Graph> graphs;
  for (const char* text : kGraphs) graphs.push_back(parse(text));
  for (const Failure& failure : check(graphs, all_runners()).failures)
    ADD_FAILURE() << graphs[failure.graph].name << " on " << failure.runner << ": " << failure.what;
}

// A platform without loops for single nodes (OpenCL) makes them chains of their own.
TEST(RandomGraphs, EverySingleNodeIsAChain) {
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    const Graph graph = inline_calls(testing::RandomGraph(seed, testing::GraphKind::wide).graph());
    for (const NodePtr& node : graph.nodes) {
      if (node->inputs.empty() || node->opcode == Opcode::linear || node->opcode == Opcode::concat) continue;
      EXPECT_NO_THROW(chain_of(*node)) << headline(*node) << " of seed " << seed;
    }
  }
}

TEST(RandomGraphs, TextComesBack) {
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    const std::string text = print(testing::RandomGraph(seed, testing::GraphKind::wide).graph());
    ASSERT_EQ(print(parse(text)), text) << "seed " << seed;
  }
}

// The bounds hold what is right and refuse what is not: a sum of 1000 terms in f32, off by a little too much.
TEST(Bounds, AreNeitherVacuousNorTooTight) {
  const Graph graph = parse(
      "graph fuzz_1\n"
      "%0 = input : f32[1000]  # x0\n"
      "%1 = exp %0 : f32[1000]\n"
      "%2 = sum %1 : f32[1]\n"
      "return %1 %2\n");
  const auto leaves = [](const std::string&, const Type& type) {
    return ReferenceTensor{type.shape, std::vector<double>(1000, 0.5)};
  };
  const std::vector<Bounded> results = bounded_reference(graph, leaves, {});
  EXPECT_GT(results[0].error[0], 0x1p-24);
  EXPECT_LT(results[0].error[0], 0x1p-20);
  EXPECT_GT(results[1].error[0], 1e-5);
  EXPECT_LT(results[1].error[0], 0.02);
}

}  // namespace
}  // namespace zoe::fuzz
