// Movement kernels of the CPU, of OpenCL and of CUDA against the reference interpreter: the same elements, exactly.
#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/platforms.h"
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

std::vector<Platform*> platforms() {
  std::vector<Platform*> all = {&cpu()};
  for (Platform* platform : {testing::opencl(), testing::cuda()})
    if (platform) all.push_back(platform);
  return all;
}

// Nodes of one test, and their operands.
class Cases {
 public:
  // `make` builds the node on inputs of the dtype; their shapes are read from it.
  template <class Make>
  void add(const std::string& what, Make&& make, bool has_u8 = true) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::u8}) {
      if (dtype == DType::u8 && !has_u8) continue;
      runs_.push_back({fmt::format("{} {}", what, name(dtype)), make(dtype), {}});
      for (const Value& operand : runs_.back().value.node().inputs)
        runs_.back().inputs.push_back(
            random_tensor(dtype, operand.shape(), static_cast<std::uint32_t>(runs_.back().inputs.size())));
    }
  }

  // All kernels are made at once: of a platform that generates them they are one program.
  void expect_exact() const {
    std::vector<const Node*> nodes;
    for (const Run& run : runs_) nodes.push_back(&run.value.node());
    for (Platform* platform : platforms()) {
      const auto kernels = platform->make_kernels(nodes);
      for (std::size_t i = 0; i < runs_.size(); ++i)
        EXPECT_EQ(run_node(*kernels[i], runs_[i].value, runs_[i].inputs, *platform).values,
                  interpret_node(runs_[i].value, runs_[i].inputs))
            << runs_[i].what << " on " << platform->info().platform;
    }
  }

 private:
  struct Run {
    std::string what;
    Value value;
    std::vector<ReferenceTensor> inputs;
  };
  std::vector<Run> runs_;
};

TEST(Movement, Reshape) {
  Cases cases;
  for (const std::int64_t rows : {1, 3, 20000})
    cases.add("reshape", [&](DType dtype) { return reshape(input("x", dtype, {rows, 6}), {rows * 2, 3}); });
  cases.expect_exact();
}

TEST(Movement, SliceOfAnyAxis) {
  Cases cases;
  const Shape shapes[] = {{17}, {5, 17}, {3, 5, 7}, {2, 3, 5, 1536}, {9, 4000, 3}, {70000, 2}};
  for (const Shape& shape : shapes)
    for (int axis = 0; axis < shape.rank(); ++axis) {
      const std::int64_t extent = shape.dim(axis);
      for (const auto& [begin, end] :
           {std::pair{std::int64_t{0}, extent / 2}, std::pair{std::int64_t{1}, extent}, std::pair{extent - 1, extent}})
        if (begin < end)
          cases.add("slice of " + shape.str() + " axis " + std::to_string(axis),
                    [&, b = begin, e = end](DType dtype) { return slice(input("x", dtype, shape), axis, b, e); });
    }
  cases.expect_exact();
}

TEST(Movement, ConcatAlongAnyAxis) {
  Cases cases;
  const Shape shapes[] = {{17}, {5, 17}, {3, 5, 7}, {9, 4000, 3}};
  for (const Shape& shape : shapes)
    for (int axis = 0; axis < shape.rank(); ++axis)
      cases.add("concat of " + shape.str() + " axis " + std::to_string(axis), [&](DType dtype) {
        Shape other = shape, third = shape;
        other.dim(axis) = 1;
        third.dim(axis) += 2;
        return concat({input("a", dtype, shape), input("b", dtype, other), input("c", dtype, third)}, axis);
      });
  cases.expect_exact();
}

TEST(Movement, ConcatLeavesAPartThatLiesInItsPlace) {
  const Value node = concat({input("a", DType::f32, {2, 3}), input("b", DType::f32, {1, 3})}, 0);
  for (Platform* platform : platforms()) {
    const auto kernel = platform->make_kernel(node.node());
    const auto stream = platform->make_stream();
    const auto buffer = platform->allocate(9 * sizeof(float), "result"), source = platform->allocate(3 * sizeof(float), "b");
    const float a[] = {1, 2, 3, 4, 5, 6}, b[] = {7, 8, 9};
    const Slot inputs[] = {{buffer.get(), 0}, {source.get(), 0}};
    platform->upload(*stream, a, inputs[0], sizeof a);
    platform->upload(*stream, b, inputs[1], sizeof b);
    kernel->run(*stream, inputs, {inputs, 1}, {});
    stream->synchronize();
    float result[9] = {};
    platform->download(*stream, inputs[0], result, sizeof result);
    for (int i = 0; i < 9; ++i) EXPECT_EQ(result[i], static_cast<float>(i + 1)) << platform->info().platform;
  }
}

TEST(Movement, PermuteOfAnyAxes) {
  struct Case {
    Shape shape;
    std::vector<int> axes;
  };
  const Case given[] = {
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
  Cases cases;
  for (const Case& each : given)
    cases.add("permute of " + each.shape.str(), [&](DType dtype) { return permute(input("x", dtype, each.shape), each.axes); });
  cases.expect_exact();
}

TEST(Movement, SwapPairs) {
  Cases cases;
  for (const std::int64_t width : {2, 6, 34, 1536, 30002})
    cases.add(
        "swap_pairs",
        [&](DType dtype) {
          return swap_pairs(input("x", dtype, {3, width}));
        },
        false);
  cases.expect_exact();
}

TEST(Movement, FlipOfAnyAxis) {
  Cases cases;
  for (int axis = 0; axis < 3; ++axis) cases.add("flip", [&](DType dtype) { return flip(input("x", dtype, {4, 5, 33}), axis); });
  cases.expect_exact();
}

TEST(Movement, GatherRows) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const std::int64_t width : {1, 17, 1536}) {
      const ReferenceTensor table = random_tensor(dtype, {11, width}, 1), indices{{6}, {0, 10, 3, 3, 7, 0}};
      const Value node = gather(input("t", dtype, {11, width}), input("i", DType::i32, {6}));
      for (Platform* platform : platforms())
        EXPECT_EQ(run_node(node, {table, indices}, *platform).values, interpret_node(node, {table, indices}));
    }
}

TEST(Movement, GatherRefusesAnIndexOutsideTheTable) {
  const ReferenceTensor table = random_tensor(DType::f32, {11, 3}, 1);
  const Value node = gather(input("t", DType::f32, {11, 3}), input("i", DType::i32, {2}));
  for (Platform* platform : platforms()) {
    for (const double index : {11.0, -1.0, 2147483647.0, -2147483648.0}) {
      try {
        run_node(node, {table, {{2}, {0, index}}}, *platform);
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
    EXPECT_EQ(run_node(node, {table, {{2}, {0, 10}}}, *platform).values.size(), 6u);  // the next run is not blamed
  }
}

}  // namespace
}  // namespace zoe
