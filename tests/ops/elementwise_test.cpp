// The CPU's element-wise kernels against the reference interpreter, and the promise that their results are the same bits on
// every instruction set and number of threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <map>

#include "base/error.h"
#include "ops/instruction_sets.h"
#include "ops/platforms.h"
#include "ops/run_node.h"
#include "testing/graphs.h"

namespace zoe {
namespace {

using testing::for_each_instruction_set;
using testing::interpret_node;
using testing::random_tensor;
using testing::rounded;
using testing::run_node;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Platform& cpu(int threads = 2) {
  static std::map<int, std::unique_ptr<Platform>> platforms;
  auto& platform = platforms[threads];
  if (!platform) platform = open_platform("cpu", {.threads = threads});
  return *platform;
}

double ulp(double value, DType dtype) {
  int exponent = 0;
  std::frexp(value, &exponent);
  return std::ldexp(1.0, std::max(exponent, -125) - (dtype == DType::bf16 ? 8 : 24));
}

struct UnaryCase {
  const char* name;
  Value (*make)(const Value&);
  // Allowed error of the f32 value: in units of its last place, and relative to |x| where the definition cancels. 0 and 0: exact.
  double ulps, of_x;
  double (*value)(double);
};
#define ZOE_UNARY(op, definition, spelling) \
  double reference_##op(double x) { return definition; }
#define ZOE_BINARY(op, definition, spelling)
#include "ir/opcodes.def"
const UnaryCase kUnary[] = {
    {"neg", neg, 0, 0, reference_neg},
    {"abs", zoe::abs, 0, 0, reference_abs},
    {"square", square, 0, 0, reference_square},
    {"sqrt", zoe::sqrt, 0, 0, reference_sqrt},
    {"rsqrt", rsqrt, 1.5, 0, reference_rsqrt},  // two roundings
    {"exp", zoe::exp, 2, 0, reference_exp},
    {"tanh", zoe::tanh, 3, 0, reference_tanh},
    {"silu", silu, 4, 0, reference_silu},
    {"gelu_tanh", gelu_tanh, 4, 2.5e-7, reference_gelu_tanh},  // 1 + tanh(u) cancels for negative x
};

// The check of one result: the f64 value, rounded as the kernel must round it.
::testing::AssertionResult agrees(double got, double expected, double x, const UnaryCase& unary, DType dtype) {
  if (std::isnan(expected) || std::isnan(got))
    return std::isnan(expected) == std::isnan(got)
               ? ::testing::AssertionSuccess()
               : ::testing::AssertionFailure() << "x " << x << ": got " << got << ", expected " << expected;
  const double exact = rounded(expected, dtype);
  bool ok = got == exact && std::signbit(got) == std::signbit(exact);
  if (!ok && unary.ulps > 0 && std::isfinite(exact) && std::isfinite(got)) {
    const double allowed =
        unary.ulps * ulp(expected, DType::f32) + unary.of_x * std::abs(x) + (dtype == DType::bf16 ? 0.5 * ulp(expected, dtype) : 0);
    ok = std::abs(got - expected) <= allowed;
  }
  return ok ? ::testing::AssertionSuccess()
            : ::testing::AssertionFailure() << "x " << x << ": got " << got << ", expected " << expected;
}

TEST(Elementwise, UnaryOpcodesAgreeWithTheInterpreter) {
  for (const UnaryCase& unary : kUnary)
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const std::int64_t count : {1, 2, 3, 15, 16, 17, 31, 1536, 5000, 40001}) {
        auto x = random_tensor(dtype, {count}, static_cast<std::uint32_t>(count));
        if (unary.make == zoe::sqrt || unary.make == rsqrt)
          for (double& value : x.values) value = std::abs(value);
        const Value node = unary.make(input("x", dtype, {count}));
        const auto got = run_node(node, {x}, cpu()).values, expected = interpret_node(node, {x});
        for (std::size_t i = 0; i < got.size(); ++i)
          ASSERT_TRUE(agrees(got[i], expected[i], x.values[i], unary, dtype))
              << unary.name << " " << name(dtype) << " " << count << " at " << i;
      }
}

TEST(Elementwise, UnaryOpcodesHandleTheEdgesOfTheRange) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const UnaryCase& unary : kUnary) {
    std::vector<double> values = {0.0,      -0.0,  1.0,    -1.0, 0.5,   -0.5, kInfinity, nan, 0x1p-149,      -0x1p-149,
                                  0x1p-126, 1e-30, -1e-30, 88.0, -87.0, 20.0, -20.0,     9.0, 0x1.fffffep127};
    // Where exp overflows, turns subnormal and vanishes.
    if (unary.make == zoe::exp)
      values.insert(values.end(),
                    {88.722839, 88.7229, 1000.0, -87.4, -95.0, -103.9, -103.98, -1000.0, -kInfinity, -0x1.fffffep127});
    if (unary.make == zoe::tanh) values.insert(values.end(), {-kInfinity, -0x1.fffffep127, 1e-4, -0.3, 0.17, 0.18});
    for (double& value : values) value = rounded(value, DType::f32);
    const auto count = static_cast<std::int64_t>(values.size());
    const auto got = run_node(unary.make(input("x", DType::f32, {count})), {{{count}, values}}, cpu()).values;
    for (std::size_t i = 0; i < values.size(); ++i)
      EXPECT_TRUE(agrees(got[i], unary.value(values[i]), values[i], unary, DType::f32)) << unary.name;
  }
}

TEST(Elementwise, ExpAndTanhHoldTheirBoundsOverAllExponents) {
  for (const UnaryCase& unary : kUnary) {
    if (unary.make != zoe::exp && unary.make != zoe::tanh) continue;
    std::vector<double> values;  // every 4099th bit pattern: both signs, subnormals, infinities, NaNs
    for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += 4099)
      values.push_back(static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(bits))));
    const auto count = static_cast<std::int64_t>(values.size());
    const auto got = run_node(unary.make(input("x", DType::f32, {count})), {{{count}, values}}, cpu()).values;
    for (std::size_t i = 0; i < values.size(); ++i)
      ASSERT_TRUE(agrees(got[i], unary.value(values[i]), values[i], unary, DType::f32)) << unary.name;
  }
}

struct BinaryCase {
  const char* name;
  Value (*make)(const Value&, const Value&);
};
const BinaryCase kBinary[] = {{"add", add}, {"sub", sub}, {"mul", mul}, {"div", zoe::div}, {"max", zoe::max}, {"min", zoe::min}};

struct ShapePair {
  Shape a, b;
};
const ShapePair kBroadcasts[] = {
    {{1}, {1}},
    {{}, {}},
    {{3}, {3}},
    {{17}, {}},
    {{}, {5000}},
    {{5000}, {1}},
    {{7, 1536}, {7, 1536}},
    {{7, 1536}, {1536}},
    {{1, 1, 1536}, {1, 40, 1536}},
    {{40, 1536}, {40, 1}},
    {{40, 1}, {40, 1536}},
    {{3, 1}, {1, 5}},
    {{1, 17}, {13, 1}},
    {{5000, 3}, {5000, 1}},
    {{5000, 3}, {3}},
    {{9, 7, 5}, {9, 1, 5}},
    {{9, 7, 5}, {7, 1}},
    {{2, 30, 12, 16}, {30, 1, 16}},
    {{2, 1, 3, 1, 17}, {1, 5, 1, 4, 17}},
    {{1, 21, 1, 64}, {1, 21, 50, 64}},
    {{4, 1, 6, 1}, {1, 5, 1, 7}},
    {{12, 31, 3}, {1, 1, 1}},
};

TEST(Elementwise, BinaryOpcodesAreExactForEveryBroadcast) {
  for (const BinaryCase& binary : kBinary)
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const ShapePair& shapes : kBroadcasts) {
        const auto a = random_tensor(dtype, shapes.a, 1), b = random_tensor(dtype, shapes.b, 2);
        const Value node = binary.make(input("a", dtype, shapes.a), input("b", dtype, shapes.b));
        const auto got = run_node(node, {a, b}, cpu()).values, expected = interpret_node(node, {a, b});
        for (std::size_t i = 0; i < got.size(); ++i)
          ASSERT_EQ(got[i], rounded(expected[i], dtype))
              << binary.name << " " << name(dtype) << shapes.a.str() << shapes.b.str() << " at " << i;
      }
}

TEST(Elementwise, BinaryOpcodesPassInfinityAndNan) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const ReferenceTensor a{{6}, {1.0, kInfinity, nan, 0.0, -kInfinity, 2.0}}, b{{6}, {nan, 1.0, 1.0, 0.0, kInfinity, -kInfinity}};
  for (const BinaryCase& binary : kBinary)
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Value node = binary.make(input("a", dtype, {6}), input("b", dtype, {6}));
      const auto got = run_node(node, {a, b}, cpu()).values, expected = interpret_node(node, {a, b});
      for (std::size_t i = 0; i < got.size(); ++i)
        EXPECT_TRUE(got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i])))
            << binary.name << " at " << i << ": " << got[i] << ", " << expected[i];
    }
}

TEST(Elementwise, CastRoundsToNearestEven) {
  std::vector<double> values = {0.0,          -0.0,    1.0,       1.00390625, 1.01171875, 1.0039063, -1.0039062,
                                3.3895314e38, -3.4e38, kInfinity, -kInfinity, 0x1p-149,   0x1p-133,  0x1.8p-133};
  for (const double value : random_tensor(DType::f32, {20001}, 3).values) values.push_back(value);
  for (double& value : values) value = rounded(value, DType::f32);
  const auto count = static_cast<std::int64_t>(values.size());
  const auto narrow = run_node(cast(input("x", DType::f32, {count}), DType::bf16), {{{count}, values}}, cpu()).values;
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_EQ(narrow[i], rounded(values[i], DType::bf16)) << values[i];
  const auto wide = run_node(cast(input("x", DType::bf16, {count}), DType::f32), {{{count}, narrow}}, cpu()).values;
  EXPECT_EQ(wide, narrow);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(std::isnan(run_node(cast(input("x", DType::f32, {1}), DType::bf16), {{{1}, {nan}}}, cpu()).values[0]));
}

// The order in words: partial j of 32 adds elements j, j + 32, ...; then halves are added five times.
struct ReductionCase {
  const char* name;
  Value (*make)(const Value&);
  float identity;
  float (*combine)(float element, float total);
};
const ReductionCase kReductions[] = {
    {"sum", sum, 0, [](float element, float total) { return element + total; }},
    {"row_max", row_max, -INFINITY, [](float element, float total) { return total < element ? element : total; }}};

double reduced_by_definition(const ReductionCase& reduction, const double* values, std::int64_t count) {
  float partials[32];
  std::fill_n(partials, 32, reduction.identity);
  for (std::int64_t i = 0; i < count; ++i) partials[i % 32] = reduction.combine(static_cast<float>(values[i]), partials[i % 32]);
  for (int width = 16; width > 0; width /= 2)
    for (int j = 0; j < width; ++j) partials[j] = reduction.combine(partials[j + width], partials[j]);
  return static_cast<double>(partials[0]);
}

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

// A sum's numbers are sums' numbers; of a largest one also what orders may tell apart: zeros of both signs, infinities, NaN.
ReferenceTensor rows_for(const ReductionCase& reduction, std::int64_t rows, std::int64_t length) {
  auto x = random_tensor(DType::f32, {rows, length}, static_cast<std::uint32_t>(length));
  if (reduction.make == sum) return x;
  for (std::size_t i = 0; i < x.values.size(); ++i) {
    if (i % 7 == 1) x.values[i] = std::numeric_limits<double>::quiet_NaN();
    const auto row = static_cast<std::int64_t>(i) / length;
    if (row % 4 == 1 && std::isfinite(x.values[i])) x.values[i] = i % 3 == 0 ? 0.0 : -0.0;
    if (row % 4 == 2) x.values[i] = -std::abs(x.values[i]);
    if (row % 4 == 3 && i % 5 == 0) x.values[i] = i % 2 ? kInfinity : -kInfinity;
  }
  return x;
}

TEST(Elementwise, ReductionsKeepTheirOrder) {
  for (const ReductionCase& reduction : kReductions)
    for (const std::int64_t length : {1, 3, 16, 17, 31, 32, 33, 64, 96, 1536, 5000}) {
      const auto x = rows_for(reduction, 37, length);
      std::vector<double> expected;
      for (std::int64_t row = 0; row < 37; ++row)
        expected.push_back(reduced_by_definition(reduction, x.values.data() + row * length, length));
      const Value operand = input("x", DType::f32, {37, length}), node = reduction.make(operand);
      EXPECT_TRUE(same_bits(run_node(node, {x}, cpu()).values, expected)) << reduction.name << " of " << length;
      // In chains, behind what changes no bit.
      const Graph chain = make_graph("chain", {operand}, {reduction.make(max(operand, operand)), operand * 0.5});
      for (const char* runner : {"cpu", "cpu_uncompiled"})
        EXPECT_TRUE(same_bits(testing::run_graph(runner, chain, {x})[0].values, expected))
            << reduction.name << " of " << length << " in a chain, " << runner;
    }
}

TEST(Elementwise, ARowsLargestAbsoluteValueIsWhatItSays) {
  const Value x = input("x", DType::f32, {2, 3}), node = row_abs_max(x);
  const Graph graph = make_graph("scale", {x}, {node});
  const std::vector<ReferenceTensor> values{{{2, 3}, {-3, 2, 1, 0.5, -0.25, 0}}};
  for (const char* runner : {"cpu", "cpu_uncompiled", "interpreter"})
    EXPECT_EQ(testing::run_graph(runner, graph, values)[0].values, (std::vector<double>{3, 0.5})) << runner;
}

TEST(Elementwise, SumsAreCloseToExactOnes) {
  for (const std::int64_t length : {1, 3, 16, 17, 31, 32, 33, 64, 96, 1536, 5000, 100003}) {
    const std::int64_t rows = length > 5000 ? 2 : 37;
    const auto x = random_tensor(DType::f32, {rows, length}, static_cast<std::uint32_t>(length));
    const Value node = sum(input("x", DType::f32, {rows, length}));
    const auto got = run_node(node, {x}, cpu()).values, exact = interpret_node(node, {x});
    for (std::int64_t row = 0; row < rows; ++row) {
      const auto i = static_cast<std::size_t>(row);
      const double* values = x.values.data() + row * length;
      double magnitude = 0;
      for (std::int64_t k = 0; k < length; ++k) magnitude += std::abs(values[k]);
      ASSERT_LE(std::abs(got[i] - exact[i]), magnitude * static_cast<double>(length / 32 + 6) * 0x1p-24)
          << length << " row " << row;
    }
  }
}

// Polynomials have one set of bits with fused multiply-adds, which on x86 came with AVX2, and one without.
bool fuses(const std::string& target) { return target != "loop:sse4" && target != "loop:scalar"; }

struct BitRun {
  std::string name;
  Value node;
  std::vector<ReferenceTensor> inputs;
};

// Every element-wise opcode, and the reductions.
std::vector<BitRun> bit_runs() {
  std::vector<BitRun> runs;
  const Shape shape{33, 1537};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto x = random_tensor(dtype, shape, 4);
    for (const UnaryCase& unary : kUnary) {
      auto operand = x;
      if (unary.make == zoe::sqrt || unary.make == rsqrt)
        for (double& value : operand.values) value = std::abs(value);
      else
        for (double& value : operand.values) value = rounded(value * 13, dtype);  // where exp overflows and vanishes, too
      runs.push_back({unary.name, unary.make(input("x", dtype, shape)), {operand}});
    }
    for (const BinaryCase& binary : kBinary)
      runs.push_back(
          {binary.name, binary.make(input("a", dtype, shape), input("b", dtype, {33, 1})), {x, random_tensor(dtype, {33, 1}, 5)}});
    runs.push_back({"cast", cast(input("x", dtype, shape), dtype == DType::f32 ? DType::bf16 : DType::f32), {x}});
  }
  for (const ReductionCase& reduction : kReductions)
    runs.push_back(
        {reduction.name, reduction.make(input("x", DType::f32, shape)), {rows_for(reduction, shape.dim(0), shape.dim(1))}});
  return runs;
}

TEST(Elementwise, EveryInstructionSetAndThreadCountGivesTheSameBits) {
  for (const BitRun& run : bit_runs()) {
    const bool is_polynomial = run.name == "exp" || run.name == "tanh" || run.name == "silu" || run.name == "gelu_tanh";
    const auto first = run_node(run.node, run.inputs, cpu(1));
    std::map<bool, std::vector<double>> expected{{!is_polynomial || fuses(first.implementation), first.values}};
    for_each_instruction_set([&](const std::string& name) {
      const std::string target = "loop:" + name;
      for (const int threads : {1, 2, 3}) {
        const auto got = run_node(run.node, run.inputs, cpu(threads));
        const auto& known = expected.try_emplace(!is_polynomial || fuses(target), got.values).first->second;
        EXPECT_TRUE(same_bits(got.values, known)) << run.name << " on " << target << " with " << threads << " threads";
        EXPECT_EQ(got.implementation, target);
      }
    });
  }
}

TEST(ElementwiseOnCuda, GivesTheBitsOfTheCpu) {
  ZOE_SKIP_WITHOUT_CUDA();
  const std::vector<BitRun> runs = bit_runs();
  std::vector<const Node*> nodes;
  for (const BitRun& run : runs) nodes.push_back(&run.node.node());
  Platform& platform = *testing::cuda();
  const auto kernels = platform.make_kernels(nodes);  // one program
  for (std::size_t r = 0; r < runs.size(); ++r)
    EXPECT_TRUE(same_bits(run_node(*kernels[r], runs[r].node, runs[r].inputs, platform).values,
                          run_node(runs[r].node, runs[r].inputs, cpu(1)).values))
        << runs[r].name;
}

TEST(Elementwise, WeightsAreDenseInTheNodesDtype) {
  const Value node = mul(input("x", DType::bf16, {4, 8}), parameter("w", DType::bf16, {8}));
  EXPECT_EQ(cpu().make_kernel(node.node())->weight_layout(1), "dense bf16");
}

// OpenCL 1.2 lets a division be 2.5 ulp off and a square root 3; everything else is the same sequence of exact operations.
double opencl_ulps(const UnaryCase& unary) {
  const std::string name = unary.name;
  if (name == "sqrt") return 3;
  if (name == "rsqrt") return 6;
  return unary.ulps + (name == "tanh" || name == "silu" || name == "gelu_tanh" ? 2.5 : 0);
}

TEST(ElementwiseOnOpencl, AgreesWithTheInterpreter) {
  ZOE_SKIP_WITHOUT_OPENCL();
  struct Run {
    std::string name;
    Value value;
    std::vector<ReferenceTensor> inputs;
    std::function<::testing::AssertionResult(double got, double expected, std::size_t at)> agrees;
  };
  const auto exactly = [](double got, double expected, std::size_t) {
    return got == expected ? ::testing::AssertionSuccess()
                           : ::testing::AssertionFailure() << "got " << got << ", expected " << expected;
  };
  std::vector<Run> runs;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const UnaryCase& unary : kUnary)
      for (const std::int64_t count : {1, 63, 64, 5000}) {
        auto x = random_tensor(dtype, {count}, static_cast<std::uint32_t>(count));
        if (unary.make == zoe::sqrt || unary.make == rsqrt)
          for (double& value : x.values) value = std::abs(value);
        UnaryCase looser = unary;
        looser.ulps = opencl_ulps(unary);
        runs.push_back({fmt::format("{} {} {}", unary.name, name(dtype), count),
                        unary.make(input("x", dtype, {count})),
                        {x},
                        [looser, x, dtype](double got, double expected, std::size_t i) {
                          return agrees(got, expected, x.values[i], looser, dtype);
                        }});
      }
    for (const BinaryCase& binary : kBinary)
      for (const ShapePair& shapes : kBroadcasts) {
        if (binary.make != zoe::add && shapes.a.count() != 120 && shapes.a.count() != 315) continue;
        const auto a = random_tensor(dtype, shapes.a, 1), b = random_tensor(dtype, shapes.b, 2);
        const double ulps = binary.make == zoe::div ? 2.5 : 0;
        runs.push_back({fmt::format("{} {} {} {}", binary.name, name(dtype), shapes.a.str(), shapes.b.str()),
                        binary.make(input("a", dtype, shapes.a), input("b", dtype, shapes.b)),
                        {a, b},
                        [ulps, dtype](double got, double expected, std::size_t) {
                          return agrees(got, expected, 0, {"", nullptr, ulps, 0, nullptr}, dtype);
                        }});
      }
    const auto x = random_tensor(dtype, {3, 501}, 7);
    runs.push_back({"cast", cast(input("x", dtype, {3, 501}), dtype == DType::f32 ? DType::bf16 : DType::f32), {x}, exactly});
  }
  std::vector<const Node*> nodes;
  for (const Run& run : runs) nodes.push_back(&run.value.node());
  Platform& platform = *testing::opencl();
  const auto kernels = platform.make_kernels(nodes);  // one program
  for (std::size_t r = 0; r < runs.size(); ++r) {
    const auto got = run_node(*kernels[r], runs[r].value, runs[r].inputs, platform).values,
               expected = interpret_node(runs[r].value, runs[r].inputs);
    for (std::size_t i = 0; i < got.size(); ++i) ASSERT_TRUE(runs[r].agrees(got[i], expected[i], i)) << runs[r].name << " at " << i;
  }
}

// The same 32 partial totals and the same tree as on the CPU: only additions and comparisons, so the same bits.
TEST(ElementwiseOnOpencl, ReductionsKeepTheirOrder) {
  ZOE_SKIP_WITHOUT_OPENCL();
  std::vector<std::pair<const ReductionCase*, Value>> reductions;
  std::vector<const Node*> nodes;
  for (const ReductionCase& reduction : kReductions)
    for (const std::int64_t length : {1, 3, 31, 32, 33, 96, 1536, 5000}) {
      reductions.emplace_back(&reduction, reduction.make(input("x", DType::f32, {37, length})));
      nodes.push_back(&reductions.back().second.node());
    }
  for (const bool as_gpus : {false, true}) {  // a group of 32 work-items a row, or one work-item
    Platform& platform = *testing::opencl(as_gpus);
    const auto kernels = platform.make_kernels(nodes);
    for (std::size_t s = 0; s < reductions.size(); ++s) {
      const auto& [reduction, value] = reductions[s];
      const Shape& shape = value.node().inputs[0].shape();
      const auto x = rows_for(*reduction, 37, shape.dim(1));
      const auto got = run_node(*kernels[s], value, {x}, platform).values;
      for (std::int64_t row = 0; row < 37; ++row)
        ASSERT_EQ(got[static_cast<std::size_t>(row)],
                  reduced_by_definition(*reduction, x.values.data() + row * shape.dim(1), shape.dim(1)))
            << reduction->name << shape.str() << " row " << row << (as_gpus ? ", kernels of GPUs" : "");
    }
  }
}

}  // namespace
}  // namespace zoe
