// linear with 8-bit codes: the sums are the integers that plain loops give, on every instruction set.
#include <limits>

#include "base/codes.h"
#include "ops/instruction_sets.h"
#include "ops/platforms.h"
#include "ops/run_kernel.h"
#include "platform/cpu/kernels.h"

namespace zoe::testing {
namespace {

struct CodedCase {
  std::int64_t m, k, n;
  DType dtype = DType::bf16;
  bool bias = false, residual = false;
  Activation activation = Activation::none;
};

Case make(const CodedCase& c, double spread = 1) {
  const Value x = input("x", c.dtype, {1, c.m, c.k}), weight = parameter("w", c.dtype, {c.n, c.k});
  ProductOptions options{.activation = c.activation, .codes = Codes::i8};
  if (c.bias) options.bias = input("b", c.dtype, {c.n});
  if (c.residual) options.residual = input("r", c.dtype, {1, c.m, c.n});
  Case made{linear(x, weight, options), {}, c.dtype};
  for (std::size_t i = 0; i < made.result.node().inputs.size(); ++i)
    made.operands.push_back(random_values(made.result.node().inputs[i].type(), static_cast<unsigned>(i) + 1,
                                          i == 0   ? spread
                                          : i == 1 ? 1 / std::sqrt(static_cast<double>(c.k))
                                                   : 1));
  return made;
}

// By plain loops, in f32 as linear of ir/trace.h says, for cases without a bias and the like.
std::vector<double> by_plain_loops(const Case& c) {
  const Node& node = c.result.node();
  const auto depth = static_cast<std::size_t>(node.inputs[0].dim(-1)), columns = static_cast<std::size_t>(node.inputs[1].dim(0));
  const auto encoded = [&](const std::vector<double>& values) {
    std::pair<std::vector<std::int8_t>, std::vector<float>> made;
    made.first.resize(values.size());
    for (std::size_t begin = 0; begin < values.size(); begin += depth) {
      std::vector<float> row(values.begin() + static_cast<std::ptrdiff_t>(begin),
                             values.begin() + static_cast<std::ptrdiff_t>(begin + depth));
      made.second.push_back(encode_row(row, made.first.data() + begin));
    }
    return made;
  };
  const auto [x, x_scales] = encoded(c.operands[0]);
  const auto [w, w_scales] = encoded(c.operands[1]);
  std::vector<double> results;
  for (std::size_t row = 0; row < x_scales.size(); ++row)
    for (std::size_t column = 0; column < columns; ++column) {
      std::int32_t sum = 0;
      for (std::size_t k = 0; k < depth; ++k) sum += x[row * depth + k] * w[column * depth + k];
      const float result = static_cast<float>(sum) * x_scales[row] * w_scales[column];
      results.push_back(node.types[0].dtype == DType::bf16 ? bf16_to_f32(f32_to_bf16(result)) : result);
    }
  return results;
}

// All K of the family and of the toys, and rows, columns and sums of no round number.
const CodedCase kPlainCases[] = {{1, 1, 1},     {7, 3, 5},      {13, 20, 33},    {12, 64, 32},   {5, 30, 17},     {50, 256, 31},
                                 {3, 640, 65},  {25, 1000, 70}, {37, 1024, 256}, {61, 1536, 96}, {9, 3072, 40},   {2, 5120, 35},
                                 {3, 8960, 33}, {2, 13824, 32}, {1, 14336, 34},  {300, 100, 7},  {0 + 40, 129, 1}};

std::string why_differ(const std::vector<double>& got, const std::vector<double>& expected) {
  for (std::size_t i = 0; i < expected.size(); ++i)
    if (std::memcmp(&got[i], &expected[i], sizeof(double)) != 0 && !(std::isnan(got[i]) && std::isnan(expected[i])))
      return fmt::format("element {}: got {}, expected {}", i, got[i], expected[i]);
  return "";
}

TEST(CodedLinear, SumsAreThoseOfPlainLoops) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (CodedCase c : kPlainCases) {
      c.dtype = dtype;
      SCOPED_TRACE(fmt::format("{} {} x {} -> {}", name(dtype), c.m, c.k, c.n));
      const Case made = make(c);
      const std::vector<double> expected = by_plain_loops(made);
      EXPECT_EQ(why_differ(run_kernel(*cpu::make_kernel(made.result.node(), cpu_device(true)), made), expected), "");
      for (const auto products : {cpu::CodeProducts::of_16_bits, cpu::CodeProducts::emulated_tiles})
        EXPECT_EQ(why_differ(run_kernel(*cpu::make_coded_linear(made.result.node(), cpu_device(true), products), made), expected),
                  "");
    }
}

TEST(CodedLinear, AllInstructionSetsGiveTheSameBits) {
  const CodedCase c{41, 1536, 72, DType::bf16, true, true, Activation::none};
  const Case made = make(c);
  std::vector<double> expected;
  for_each_instruction_set([&](const std::string& set) {
    SCOPED_TRACE(set);
    const std::vector<double> got = run_kernel(*cpu::make_coded_linear(made.result.node(), cpu_device(true)), made);
    if (expected.empty()) expected = got;
    EXPECT_EQ(why_differ(got, expected), "");
  });
}

// Epilogues against f64: what rounds are the scales, the bias and the activation.
TEST(CodedLinear, EndsLikeAnyProduct) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Activation activation : {Activation::none, Activation::gelu_tanh, Activation::silu})
      for (const bool residual : {false, true}) {
        const Case made = make({29, 512, 45, dtype, true, residual, activation});
        const std::vector<double> got = run_kernel(*cpu::make_kernel(made.result.node(), cpu_device(true)), made);
        EXPECT_LE(relative_rms(got, run_reference(made)), tolerance(dtype)) << name(dtype);
      }
}

// The distance from the exact product: what 8 bits cost, and that a rotation saves it from a few large columns.
TEST(CodedLinear, IsNearTheExactProduct) {
  for (const bool has_outliers : {false, true}) {
    Case coded = make({64, 1536, 64});
    if (has_outliers)
      for (std::size_t i = 0; i < coded.operands[0].size(); ++i)
        if (i % 100 == 7) coded.operands[0][i] *= 16;
    Case exact = coded;
    exact.result = linear(coded.result.node().inputs[0], coded.result.node().inputs[1]);
    const double distance =
        relative_rms(run_kernel(*cpu::make_kernel(coded.result.node(), cpu_device(true)), coded), run_reference(exact));
    EXPECT_LT(distance, 0.015) << has_outliers;
    EXPECT_GT(distance, 0.004) << has_outliers;
  }
}

TEST(CodedLinear, SaturatedZeroAndBadRows) {
  Case made = make({8, 1536, 40});
  auto& x = made.operands[0];
  const auto fill = [&](std::size_t row, double value) {
    std::fill_n(x.begin() + static_cast<std::ptrdiff_t>(row * 1536), 1536, value);
  };
  fill(0, 0);
  fill(1, 3.0e38);               // its rotation overflows
  fill(2, bf16_to_f32(0x7f00));  // and this one's does not: 1.7e38
  fill(3, 1);
  x[3 * 1536 + 5] = std::numeric_limits<double>::quiet_NaN();
  x[4 * 1536 + 77] = std::numeric_limits<double>::infinity();
  fill(5, 1e-38);
  for (std::size_t i = 0; i < 1536; ++i) x[6 * 1536 + i] = i % 2 ? 2.5 : -2.5;  // every number the largest
  for (const cpu::CodeProducts products : {cpu::CodeProducts::best, cpu::CodeProducts::of_16_bits}) {
    const std::vector<double> got = run_kernel(*cpu::make_coded_linear(made.result.node(), cpu_device(true), products), made);
    EXPECT_EQ(why_differ(got, by_plain_loops(made)), "");
    for (std::size_t column = 0; column < 40; ++column) {
      EXPECT_EQ(got[column], 0);
      for (const std::size_t row : {1u, 3u, 4u}) EXPECT_TRUE(std::isnan(got[row * 40 + column])) << row;
      for (const std::size_t row : {0u, 5u, 6u, 7u}) EXPECT_TRUE(std::isfinite(got[row * 40 + column])) << row;
    }
  }
}

TEST(CodedLinear, BitsDependOnNoNumberOfThreads) {
  const Case made = make({333, 256, 530, DType::bf16, true, true, Activation::silu});
  const std::vector<double> one = run_kernel(*cpu::make_coded_linear(made.result.node(), cpu_device(true, 1)), made);
  for (const int threads : {2, 3, 7})
    EXPECT_EQ(run_kernel(*cpu::make_coded_linear(made.result.node(), cpu_device(true, threads)), made), one) << threads;
}

// The integers of the CPU on a GPU. Skipped where its table has no row for them.
TEST(CodedLinear, OnCudaSumsAreThoseOfPlainLoops) {
  ZOE_SKIP_WITHOUT_CUDA();
  Platform* const platform = cuda();
  for (const CodedCase& c : {CodedCase{300, 256, 512}, CodedCase{257, 1536, 1536}, CodedCase{1000, 5120, 1024},
                             CodedCase{129, 13824, 256}, CodedCase{64, 8960, 1536}}) {
    const Case made = make(c);
    std::unique_ptr<Kernel> kernel;
    try {
      kernel = platform->make_kernel(made.result.node());
    } catch (const Error& error) {
      GTEST_SKIP() << "[SKIP] " << error.what();
    }
    EXPECT_EQ(why_differ(run_kernel(*platform, *kernel, made, 0), by_plain_loops(made)), "") << c.k;
  }
}

}  // namespace
}  // namespace zoe::testing
