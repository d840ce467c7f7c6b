#include "ops/platforms.h"
#include "ops/run_kernel.h"
#include "platform/cpu/kernels.h"

namespace zoe::testing {
namespace {

struct LinearCase {
  std::int64_t m, k, n;
  bool bias = false, residual = false;
  Activation activation = Activation::none;
  DType stored = DType::f32;
};

Case make(const LinearCase& c, DType dtype) {
  const Value x = input("x", dtype, {1, c.m, c.k}), weight = parameter("w", dtype, {c.n, c.k});
  ProductOptions options;
  options.activation = c.activation;
  if (c.bias) options.bias = parameter("b", dtype, {c.n});
  if (c.residual) options.residual = input("r", dtype, {1, c.m, c.n});
  Case result{linear(x, weight, options), {}, c.stored};
  unsigned seed = 1;
  for (const Value& operand : result.result.node().inputs)
    result.operands.push_back(random_values({c.stored == DType::f32 ? dtype : DType::bf16, operand.shape()}, seed++,
                                            operand == weight ? 1.0 / std::sqrt(static_cast<double>(c.k)) : 1.0));
  return result;
}

const LinearCase kCases[] = {
    {1, 1, 1},
    {1, 256, 384, true, false, Activation::silu},
    {7, 64, 192, true},
    {576, 256, 256, true, true},
    {576, 256, 1024, true, false, Activation::gelu_tanh},
    {333, 100, 37, true, true, Activation::gelu_tanh},
    {65, 33, 17, false, true},
    {64, 2048, 48, true, true, Activation::silu, DType::bf16},
    {40, 130, 70, false, false, Activation::none, DType::f16},
};

class Linear : public ::testing::TestWithParam<LinearCase> {};

TEST_P(Linear, AgreesWithReference) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const bool bf16_products : {false, true}) {
      if (bf16_products && dtype == DType::f32) continue;
      const Case c = make(GetParam(), dtype);
      const auto kernel = cpu::make_kernel(c.result.node(), cpu_device(bf16_products));
      EXPECT_LE(relative_rms(run_kernel(*kernel, c), run_reference(c)), tolerance(dtype))
          << name(dtype) << " by " << kernel->implementation() << ", weight " << kernel->weight_layout(1);
    }
}
INSTANTIATE_TEST_SUITE_P(Shapes, Linear, ::testing::ValuesIn(kCases));

// All cases in one process: they share a few programs, which take a while to build.
TEST(LinearOnOpencl, AgreesWithReference) {
  ZOE_SKIP_WITHOUT_OPENCL();
  for (const LinearCase& c : kCases)
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Case made = make(c, dtype);
      const std::vector<double> expected = run_reference(made);
      for (const bool local_tiles : {false, true})
        EXPECT_LE(relative_rms(run_kernel(*opencl(local_tiles), made), expected), tolerance(dtype))
            << name(dtype) << (local_tiles ? ", tiles, " : ", ") << signature(made.result.node());
    }
}

// Rows and columns beside the edges of blocks of 64 and 128, and enough of them for large blocks; all at an odd element.
const LinearCase kBlockCases[] = {
    {127, 48, 129, true, true},
    {1500, 40, 1500, true, false, Activation::gelu_tanh},
    {1537, 24, 1536, true, true},
    {130, 2048, 96, true, false, Activation::silu},
};

TEST(LinearOnCuda, AgreesWithReference) {
  ZOE_SKIP_WITHOUT_CUDA();
  std::vector<LinearCase> cases(std::begin(kCases), std::end(kCases));
  cases.insert(cases.end(), std::begin(kBlockCases), std::end(kBlockCases));
  for (const LinearCase& c : cases)
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Case made = make(c, dtype);
      const std::vector<double> expected = run_reference(made);
      for (const bool vendor_products : {false, true})
        for (const std::size_t shift : {0, 1}) {
          if (vendor_products && shift == 1) continue;  // plans align what they place, and cuBLASLt counts on it
          EXPECT_LE(relative_rms(run_kernel(*cuda(vendor_products), made, shift), expected), tolerance(dtype))
              << name(dtype) << " " << signature(made.result.node()) << (vendor_products ? " by the vendor" : "");
        }
    }
}

// A f32 weight is rounded to bf16 when a bf16 node packs it, whatever the device multiplies in.
TEST(LinearPacking, RoundsToNodesDtype) {
  Case c = make({16, 64, 32}, DType::bf16);
  c.operands[1] = random_values({DType::f32, {32, 64}}, 5, 0.1);
  Case rounded = c;
  for (double& value : rounded.operands[1]) value = bf16_to_f32(f32_to_bf16(static_cast<float>(value)));
  for (const bool bf16_products : {false, true}) {
    const auto kernel = cpu::make_kernel(c.result.node(), cpu_device(bf16_products));
    EXPECT_EQ(run_kernel(*kernel, c), run_kernel(*kernel, rounded));
  }
}

// Plans of different row counts share packed weights; nodes of different dtypes never do.
TEST(LinearPacking, LayoutDoesNotDependOnRows) {
  const auto layout = [](std::int64_t rows, DType dtype, bool bf16_products) {
    return cpu::make_kernel(make({rows, 256, 1024}, dtype).result.node(), cpu_device(bf16_products))->weight_layout(1);
  };
  EXPECT_EQ(layout(1, DType::f32, false), layout(576, DType::f32, false));
  EXPECT_EQ(layout(512, DType::bf16, true), layout(2550, DType::bf16, true));
  EXPECT_NE(layout(16, DType::f32, false), layout(16, DType::bf16, false));
}

Case computed_weight(DType dtype) {
  const Value x = input("x", dtype, {20, 70}), weight = input("w", dtype, {50, 70});
  return {linear(x, weight), {random_values(x.type(), 1), random_values(weight.type(), 2)}};
}

TEST(Linear, ComputedWeight) {
  const Case c = computed_weight(DType::f32);
  EXPECT_LE(relative_rms(run_kernel(*cpu::make_kernel(c.result.node(), cpu_device(false)), c), run_reference(c)), 1e-6);
  if (!opencl()) return;
  for (const bool local_tiles : {false, true})
    EXPECT_LE(relative_rms(run_kernel(*opencl(local_tiles), c), run_reference(c)), 1e-6) << (local_tiles ? "tiles" : "");
}

TEST(LinearOnCuda, ComputedWeight) {
  ZOE_SKIP_WITHOUT_CUDA();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Case c = computed_weight(dtype);
    for (const bool vendor_products : {false, true})
      EXPECT_LE(relative_rms(run_kernel(*cuda(vendor_products), c, 0), run_reference(c)), tolerance(dtype));
  }
}

}  // namespace
}  // namespace zoe::testing
