#include "compiler/passes/read_history.h"

#include "ir/interpreter.h"
#include "passes/passes.h"
#include "testing/random_graph.h"

namespace zoe {
namespace {

Graph read_all(const Graph& graph) {
  return read_history(graph, [](const Node&) { return true; });
}

// A causal convolution of the VAE: frames behind two cached ones, of which the last two are cached next.
const char* const kCausal = R"(graph g
%0 = input : f32[3,2,2,4]
%1 = input : f32[2,2,2,4]
%2 = silu %0 : f32[3,2,2,4]
%3 = concat %1 %2 axis=0 : f32[5,2,2,4]
%4 = parameter : f32[4,4,3,1,1]  # w
%5 = parameter : f32[4]  # b
%6 = conv %3 %4 %5 %2 +bias +residual stride=1,1,1 pad=0,0,0/0,0,0 : f32[3,2,2,4]
%7 = slice %3 axis=0 [3,5) : f32[2,2,2,4]
return %6 %7
)";

TEST(ReadHistory, CachedFramesAreReadWhereTheyLie) {
  testing::expect_pass(read_all, kCausal, R"(graph g
%0 = input : f32[3,2,2,4]
%1 = input : f32[2,2,2,4]
%2 = silu %0 : f32[3,2,2,4]
%3 = parameter : f32[4,4,3,1,1]  # w
%4 = parameter : f32[4]  # b
%5 = conv %2 %3 %4 %2 %1 +bias +residual +history stride=1,1,1 pad=0,0,0/0,0,0 : f32[3,2,2,4]
%6 = slice %2 axis=0 [1,3) : f32[2,2,2,4]
return %5 %6
)");
}

TEST(ReadHistory, WhatIsComputedStaysTheSame) {
  const Graph before = parse(kCausal), after = read_all(before);
  std::vector<ReferenceTensor> inputs{{{3, 2, 2, 4}, {}}, {{2, 2, 2, 4}, {}}};
  for (ReferenceTensor& input : inputs)
    for (std::int64_t i = 0; i < input.shape.count(); ++i) input.values.push_back(0.1 * static_cast<double>(i % 7) - 0.3);
  const auto expected = interpret(before, inputs, testing::RandomGraph::parameter_values);
  const auto got = interpret(after, inputs, testing::RandomGraph::parameter_values);
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(got.at(i).values, expected[i].values);
}

// The next state is all of the new frames: a step of its own behind the convolution, which reads the old one.
TEST(ReadHistory, AStateThatIsAllNewFramesIsACopy) {
  testing::expect_pass(read_all, R"(graph g
%x = input : f32[2,2,2,4]
%s = input : f32[2,2,2,4]
%e = exp %x : f32[2,2,2,4]
%j = concat %s %e axis=0 : f32[4,2,2,4]
%w = parameter : f32[5,4,3,1,1]  # w
%y = conv %j %w stride=1,1,1 pad=0,0,0/0,0,0 : f32[2,2,2,5]
%n = slice %j axis=0 [2,4) : f32[2,2,2,4]
return %y %n
)",
                       R"(graph g
%0 = input : f32[2,2,2,4]
%1 = input : f32[2,2,2,4]
%2 = exp %0 : f32[2,2,2,4]
%3 = parameter : f32[5,4,3,1,1]  # w
%4 = conv %2 %3 %1 +history stride=1,1,1 pad=0,0,0/0,0,0 : f32[2,2,2,5]
%5 = reshape %2 : f32[2,2,2,4]
return %4 %5
)");
}

// Each keeps its concat.
const char* const kJoined[] = {
    // one new frame: the next state has an old one, too
    "%0 = input : f32[1,2,2,4]\n%1 = input : f32[2,2,2,4]\n%2 = concat %1 %0 axis=0 : f32[3,2,2,4]\n%3 = parameter : "
    "f32[5,4,3,1,1]  # w\n"
    "%4 = conv %2 %3 stride=1,1,1 pad=0,0,0/0,0,0 : f32[1,2,2,5]\n%5 = slice %2 axis=0 [1,3) : f32[2,2,2,4]\nreturn %4 %5\n",
    // a result of the graph
    "%0 = input : f32[2,2,2,4]\n%1 = input : f32[2,2,2,4]\n%2 = concat %1 %0 axis=0 : f32[4,2,2,4]\n%3 = parameter : "
    "f32[5,4,3,1,1]  # w\n"
    "%4 = conv %2 %3 stride=1,1,1 pad=0,0,0/0,0,0 : f32[2,2,2,5]\nreturn %4 %2\n",
    // somebody else reads it
    "%0 = input : f32[2,2,2,4]\n%1 = input : f32[2,2,2,4]\n%2 = concat %1 %0 axis=0 : f32[4,2,2,4]\n%3 = parameter : "
    "f32[5,4,3,1,1]  # w\n"
    "%4 = conv %2 %3 stride=1,1,1 pad=0,0,0/0,0,0 : f32[2,2,2,5]\n%5 = exp %2 : f32[4,2,2,4]\nreturn %4 %5\n",
    // along another axis
    "%0 = input : f32[2,2,2,4]\n%1 = input : f32[2,2,2,4]\n%2 = concat %1 %0 axis=1 : f32[2,4,2,4]\n%3 = parameter : "
    "f32[5,4,1,3,1]  # w\n"
    "%4 = conv %2 %3 stride=1,1,1 pad=0,0,0/0,0,0 : f32[2,2,2,5]\nreturn %4\n",
    // no convolution
    "%0 = input : f32[2,2,2,4]\n%1 = input : f32[2,2,2,4]\n%2 = concat %1 %0 axis=0 : f32[4,2,2,4]\n%3 = slice %2 axis=0 [2,4) : "
    "f32[2,2,2,4]\n"
    "return %3\n",
};

TEST(ReadHistory, WhatIsNeededAsAWholeIsJoined) {
  for (const std::string lines : kJoined) testing::expect_pass(read_all, "graph g\n" + lines, "graph g\n" + lines);
  const auto refuse = [](const Graph& graph) { return read_history(graph, [](const Node&) { return false; }); };
  EXPECT_NE(print(refuse(parse(kCausal))).find("concat"), std::string::npos);
}

}  // namespace
}  // namespace zoe
