// Tracing, the verifier, the printer and the reference interpreter.
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "ir/change.h"
#include "ir/cost.h"
#include "ir/interpreter.h"
#include "ir/trace.h"

namespace zoe {
namespace {

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

ReferenceTensor tensor(Shape shape, std::vector<double> values) { return {std::move(shape), std::move(values)}; }

TEST(Graph, NodesComeInTraceOrderAndUnusedOnesAreLeftOut) {
  const Value x = input("x", DType::f32, {2, 3});
  const Value a = x + 1.0;
  const Value unused = exp(x);
  const Value b = a * a;
  const Graph graph = make_graph("g", {x}, {b});
  ASSERT_EQ(graph.nodes.size(), 4u);  // x, constant, add, mul
  EXPECT_EQ(graph.nodes.back(), b.node_ptr());
  for (std::size_t i = 1; i < graph.nodes.size(); ++i) EXPECT_LT(graph.nodes[i - 1]->serial, graph.nodes[i]->serial);
  verify(graph);
  EXPECT_EQ(unused.shape(), Shape({2, 3}));
}

TEST(Graph, PrintsOneLineANode) {
  const Value x = input("x", DType::f32, {2, 3});
  const std::string text = print(make_graph("g", {x}, {slice(x + 1.0, 1, 0, 2)}));
  EXPECT_EQ(text,
            "graph g\n"
            "%0 = input : f32[2,3]  # x\n"
            "%1 = constant 1 : f32[]\n"
            "%2 = add %0 %1 : f32[2,3]\n"
            "%3 = slice %2 axis=1 [0,2) : f32[2,2]\n"
            "return %3\n");
}

TEST(Graph, AnUndeclaredInputIsRefused) {
  const Value x = input("x", DType::f32, {2});
  EXPECT_NE(message_of([&] { make_graph("g", {}, {exp(x)}); }).find("input x is used"), std::string::npos);
}

TEST(Graph, BlocksFollowTheWeights) {
  const Value x = input("x", DType::f32, {1, 4});
  const Value first = linear(x, parameter("a", DType::f32, {4, 4}, 1));
  const Value second = linear(first, parameter("b", DType::f32, {4, 4}, 2));
  EXPECT_EQ(first.node().block, 1);
  EXPECT_EQ((second + first).node().block, 2);
  EXPECT_EQ(exp(x).node().block, 0);
}

TEST(Trace, ShapesThatDoNotFitAreNamed) {
  const Value x = input("x", DType::f32, {2, 6}), y = input("y", DType::f32, {4}), b = input("b", DType::bf16, {2, 6});
  EXPECT_NE(message_of([&] { x + y; }).find("[add] shapes do not broadcast: got [2,6] and [4]"), std::string::npos);
  EXPECT_NE(message_of([&] { x + b; }).find("bad dtypes: got f32 and bf16"), std::string::npos);
  EXPECT_NE(message_of([&] { reshape(x, {5}); }).find("sizes differ: got [2,6] to [5]"), std::string::npos);
  EXPECT_NE(message_of([&] { slice(x, 1, 4, 9); }).find("bad range of axis 1"), std::string::npos);
  EXPECT_NE(message_of([&] { concat({x, y}, 0); }).find("ranks differ"), std::string::npos);
  EXPECT_NE(message_of([&] { permute(x, {0, 0}); }).find("given twice"), std::string::npos);
  EXPECT_NE(message_of([&] { swap_pairs(input("z", DType::f32, {3})); }).find("even last axis"), std::string::npos);
  EXPECT_NE(message_of([&] { linear(x, parameter("w", DType::f32, {3, 5})); }).find("expected f32[N,6]"), std::string::npos);
  EXPECT_NE(message_of([&] {
              conv(x, parameter("w", DType::f32, {3, 6, 1, 1, 1}), {});
            }).find("expected [T,H,W,I]"),
            std::string::npos);
  EXPECT_NE(message_of([&] { sum(b); }).find("expected f32"), std::string::npos);
  EXPECT_NE(message_of([&] { gather(x, y); }).find("expected i32[L]"), std::string::npos);
}

TEST(Trace, NoOpsDisappear) {
  const Value x = input("x", DType::f32, {2, 6});
  EXPECT_EQ(cast(x, DType::f32), x);
  EXPECT_EQ(reshape(x, {2, 6}), x);
  EXPECT_EQ(slice(x, 1, 0, 6), x);
  EXPECT_EQ(permute(x, {0, 1}), x);
  EXPECT_EQ(concat({x}, 0), x);
}

TEST(Verify, ContradictionsAreInternalErrors) {
  const Value x = input("x", DType::f32, {2, 6});
  Graph graph = make_graph("g", {x}, {exp(x)});
  auto broken = std::make_shared<Node>(*graph.nodes.back());
  broken->types[0].shape = Shape{2, 5};
  graph.nodes.back() = broken;
  graph.outputs = {Value(broken)};
  EXPECT_NE(message_of([&] { verify(graph); }).find("result type contradicts the operands"), std::string::npos);

  Graph reordered = make_graph("g", {x}, {exp(exp(x))});
  std::swap(reordered.nodes[1], reordered.nodes[2]);
  EXPECT_NE(message_of([&] { verify(reordered); }).find("comes after its use"), std::string::npos);
}

TEST(Interpreter, ComputesByHandResults) {
  const Value x = input("x", DType::f32, {2, 2});
  const Graph graph =
      make_graph("g", {x}, {x * 2.0 + slice(x, 0, 1, 2), sum(x), permute(x, {1, 0}), concat({x, x}, 1), swap_pairs(x)});
  const auto out = interpret(graph, {tensor({2, 2}, {1, 2, 3, 4})}, {});
  EXPECT_EQ(out[0].values, (std::vector<double>{5, 8, 9, 12}));
  EXPECT_EQ(out[1].values, (std::vector<double>{3, 7}));
  EXPECT_EQ(out[2].values, (std::vector<double>{1, 3, 2, 4}));
  EXPECT_EQ(out[3].values, (std::vector<double>{1, 2, 1, 2, 3, 4, 3, 4}));
  EXPECT_EQ(out[4].values, (std::vector<double>{2, 1, 4, 3}));
}

TEST(Interpreter, RoundsAtCasts) {
  const Value x = input("x", DType::f32, {2});
  const auto out = interpret(make_graph("g", {x}, {cast(x, DType::bf16)}), {tensor({2}, {1.00390625, 1.01171875})}, {});
  EXPECT_EQ(out[0].values, (std::vector<double>{1.0, 1.015625}));  // both are ties: to the even neighbour
}

// (1 + 2^-8) + 2^-9 is rounded up to the bf16 behind it.
TEST(Interpreter, AddsAChangeToTheWeightBeforeTheOneRounding) {
  const Value x = input("x", DType::bf16, {1, 2}), weight = input("w", DType::bf16, {2, 2}),
              change = input("c", DType::bf16, {2, 2}), bias = input("b", DType::bf16, {2});
  const auto out =
      interpret(make_graph("g", {x, weight, change, bias}, {with_change(linear(x, weight, {.bias = bias}).node(), change)}),
                {tensor({1, 2}, {1, 0}), tensor({2, 2}, {1.00390625, 0, 3, 4}), tensor({2, 2}, {0.001953125, 1, -1, 0}),
                 tensor({2}, {0, 0.5})},
                {});
  EXPECT_EQ(out[0].values, (std::vector<double>{1.0078125, 2.5}));
}

TEST(Interpreter, AttentionOfOneKeyIsItsValue) {
  const Value q = input("q", DType::f32, {1, 2, 1, 2}), k = input("k", DType::f32, {1, 1, 1, 2}),
              v = input("v", DType::f32, {1, 1, 1, 2});
  const auto out = interpret(make_graph("g", {q, k, v}, {attention(q, k, v, 1.0)}),
                             {tensor({1, 2, 1, 2}, {1, 2, 3, 4}), tensor({1, 1, 1, 2}, {5, 6}), tensor({1, 1, 1, 2}, {7, 8})}, {});
  EXPECT_EQ(out[0].values, (std::vector<double>{7, 8, 7, 8}));
}

TEST(Cost, CountsProductsInsideCalls) {
  const Value x = input("x", DType::f32, {3, 4});
  const Value w = input("w", DType::f32, {5, 4});
  const auto called = call("twice", {x, w}, [](std::span<const Value> a) { return std::vector<Value>{linear(a[0], a[1])}; });
  EXPECT_EQ(product_operations(make_graph("g", {x, w}, {called[0]})), 2.0 * 3 * 4 * 5);
}

}  // namespace
}  // namespace zoe
