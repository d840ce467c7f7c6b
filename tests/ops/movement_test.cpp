// The CPU's movement kernels against the reference interpreter: the same elements, exactly.
#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/run_node.h"

namespace zoe {
namespace {

using testing::interpret_node;
using testing::random_tensor;
using testing::run_node;

Platform& cpu() {
  static const auto platform = open_platform("cpu", {.threads = 2});
  return *platform;
}

// `make` builds the node on inputs of the dtype; their shapes are read from it.
template <class Make>
void expect_exact(const std::string& what, Make&& make) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Value node = make(dtype);
    std::vector<ReferenceTensor> inputs;
    for (const Value& operand : node.node().inputs)
      inputs.push_back(random_tensor(dtype, operand.shape(), static_cast<std::uint32_t>(inputs.size())));
    EXPECT_EQ(run_node(node, inputs, cpu()).values, interpret_node(node, inputs)) << what << " " << name(dtype);
  }
}

TEST(Movement, Reshape) {
  for (const std::int64_t rows : {1, 3, 20000})
    expect_exact("reshape", [&](DType dtype) { return reshape(input("x", dtype, {rows, 6}), {rows * 2, 3}); });
}

TEST(Movement, SliceOfAnyAxis) {
  const Shape shapes[] = {{17}, {5, 17}, {3, 5, 7}, {2, 3, 5, 1536}, {9, 4000, 3}, {70000, 2}};
  for (const Shape& shape : shapes)
    for (int axis = 0; axis < shape.rank(); ++axis) {
      const std::int64_t extent = shape.dim(axis);
      for (const auto& [begin, end] :
           {std::pair{std::int64_t{0}, extent / 2}, std::pair{std::int64_t{1}, extent}, std::pair{extent - 1, extent}})
        if (begin < end)
          expect_exact("slice of " + shape.str() + " axis " + std::to_string(axis),
                       [&, b = begin, e = end](DType dtype) { return slice(input("x", dtype, shape), axis, b, e); });
    }
}

TEST(Movement, ConcatAlongAnyAxis) {
  const Shape shapes[] = {{17}, {5, 17}, {3, 5, 7}, {9, 4000, 3}};
  for (const Shape& shape : shapes)
    for (int axis = 0; axis < shape.rank(); ++axis)
      expect_exact("concat of " + shape.str() + " axis " + std::to_string(axis), [&](DType dtype) {
        Shape other = shape, third = shape;
        other.dim(axis) = 1;
        third.dim(axis) += 2;
        return concat({input("a", dtype, shape), input("b", dtype, other), input("c", dtype, third)}, axis);
      });
}

TEST(Movement, ConcatLeavesAPartThatLiesInItsPlace) {
  const Value node = concat({input("a", DType::f32, {2, 3}), input("b", DType::f32, {1, 3})}, 0);
  const auto kernel = cpu().make_kernel(node.node());
  const auto stream = cpu().make_stream();
  const auto buffer = cpu().allocate(9 * sizeof(float), "result"), source = cpu().allocate(3 * sizeof(float), "b");
  auto* result = static_cast<float*>(buffer->data);
  for (int i = 0; i < 6; ++i) result[i] = static_cast<float>(i + 1);
  for (int i = 0; i < 3; ++i) static_cast<float*>(source->data)[i] = static_cast<float>(i + 7);
  const Slot inputs[] = {{buffer.get(), 0}, {source.get(), 0}};
  const Slot place{buffer.get(), 0};
  kernel->run(*stream, inputs, {&place, 1}, {});
  for (int i = 0; i < 9; ++i) EXPECT_EQ(result[i], static_cast<float>(i + 1));
}

TEST(Movement, PermuteOfAnyAxes) {
  struct Case {
    Shape shape;
    std::vector<int> axes;
  };
  const Case cases[] = {
      {{5, 7}, {1, 0}},
      {{33, 65}, {1, 0}},
      {{300, 70}, {1, 0}},
      {{1, 1, 1}, {2, 0, 1}},
      {{17, 1}, {1, 0}},
      {{2, 3, 5}, {0, 2, 1}},
      {{2, 3, 5}, {1, 0, 2}},
      {{2, 3, 5}, {2, 1, 0}},
      {{2, 3, 5}, {2, 0, 1}},
      {{4, 40, 50, 3}, {3, 0, 1, 2}},
      {{3, 4, 40, 50}, {1, 2, 3, 0}},
      {{1, 12, 64, 32}, {0, 2, 1, 3}},
      {{3, 4, 5, 1, 2, 2, 16}, {0, 3, 1, 4, 2, 5, 6}},
      {{3, 4, 5, 1, 2, 2, 6}, {6, 0, 3, 1, 4, 2, 5}},
      {{2, 3, 4, 5, 6}, {4, 3, 2, 1, 0}},
  };
  for (const Case& each : cases)
    expect_exact("permute of " + each.shape.str(), [&](DType dtype) { return permute(input("x", dtype, each.shape), each.axes); });
}

TEST(Movement, SwapPairs) {
  for (const std::int64_t width : {2, 6, 34, 1536, 30002})
    expect_exact("swap_pairs", [&](DType dtype) { return swap_pairs(input("x", dtype, {3, width})); });
}

TEST(Movement, GatherRows) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const std::int64_t width : {1, 17, 1536}) {
      const ReferenceTensor table = random_tensor(dtype, {11, width}, 1), indices{{6}, {0, 10, 3, 3, 7, 0}};
      const Value node = gather(input("t", dtype, {11, width}), input("i", DType::i32, {6}));
      EXPECT_EQ(run_node(node, {table, indices}, cpu()).values, interpret_node(node, {table, indices}));
    }
}

TEST(Movement, GatherRefusesAnIndexOutsideTheTable) {
  const ReferenceTensor table = random_tensor(DType::f32, {11, 3}, 1);
  const Value node = gather(input("t", DType::f32, {11, 3}), input("i", DType::i32, {2}));
  for (const double index : {11.0, -1.0, 2147483647.0, -2147483648.0}) {
    try {
      run_node(node, {table, {{2}, {0, index}}}, cpu());
      FAIL() << index << " was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
      EXPECT_NE(std::string(error.what())
                    .find("[gather] bad index at position 1: got " + std::to_string(static_cast<std::int64_t>(index)) +
                          ", expected 0 to 10."),
                std::string::npos)
          << error.what();
    }
  }
}

}  // namespace
}  // namespace zoe
