#include "ops/platforms.h"
#include "ops/run_kernel.h"
#include "platform/cpu/kernels.h"
#include "platform/cuda/kernels.h"

namespace zoe::testing {
namespace {

struct ConvCase {
  Shape x, weight;
  ConvWindow window = {};
  bool bias = true, residual = false;
  Activation activation = Activation::none;
};

Case make(const ConvCase& c, DType dtype) {
  const Value x = input("x", dtype, c.x), weight = parameter("w", dtype, c.weight);
  ProductOptions options;
  options.activation = c.activation;
  if (c.bias) options.bias = parameter("b", dtype, {c.weight.dim(0)});
  if (c.residual) options.residual = input("r", dtype, conv(x, weight, c.window).shape());
  Case result{conv(x, weight, c.window, options), {}};
  unsigned seed = 1;
  for (const Value& operand : result.result.node().inputs)
    result.operands.push_back(random_values(operand.type(), seed++,
                                            operand == weight ? 1.0 / std::sqrt(static_cast<double>(c.weight.count(1, 5))) : 1.0));
  return result;
}

// The kernels of the Wan VAE: causal 3x3x3, 1x3x3, 3x1x1, downsampling in space (padded at the end only) and in time.
const ConvWindow kSame{{1, 1, 1}, {0, 1, 1}, {0, 1, 1}}, kDownSpace{{1, 2, 2}, {0, 0, 0}, {0, 1, 1}}, kDownTime{{2, 1, 1}, {}, {}};
const ConvCase kCases[] = {
    {{3, 9, 11, 16}, {16, 16, 3, 3, 3}, kSame, true, true},
    {{4, 8, 8, 64}, {32, 64, 3, 3, 3}, kSame, true, false, Activation::silu},
    {{3, 8, 8, 96}, {96, 96, 3, 3, 3}, kSame, true, true},
    {{3, 12, 10, 3}, {16, 3, 3, 3, 3}, kSame},
    {{3, 12, 10, 16}, {3, 16, 3, 3, 3}, kSame},
    {{3, 6, 7, 12}, {20, 12, 3, 3, 3}, kSame, false, true},
    {{2, 9, 8, 32}, {16, 32, 1, 3, 3}, kSame},
    {{4, 5, 6, 32}, {64, 32, 3, 1, 1}, {}},
    {{2, 10, 12, 16}, {16, 16, 1, 3, 3}, kDownSpace},
    {{5, 5, 6, 32}, {32, 32, 3, 1, 1}, kDownTime},
    {{2, 5, 6, 20}, {24, 20, 1, 1, 1}, {}, true, true},
    {{2, 5, 6, 16}, {8, 16, 1, 2, 2}, {{1, 2, 2}, {0, 0, 0}, {0, 0, 0}}, true, false, Activation::gelu_tanh},
    {{2, 5, 7, 32}, {16, 32, 1, 3, 3}, {{1, 1, 1}, {0, 1, 1}, {0, 1, 1}, 2}},
    {{3, 8, 6, 16}, {12, 16, 3, 3, 3}, {{1, 1, 1}, {2, 1, 1}, {0, 1, 1}, 2}, true, false, Activation::silu},
    {{1, 1, 1, 3}, {5, 3, 1, 3, 3}, {{1, 1, 1}, {0, 1, 1}, {0, 1, 1}, 2}, false},
    {{3, 1, 1, 1}, {1, 1, 3, 1, 1}, {{1, 1, 1}, {2, 0, 0}, {0, 0, 0}}, false},
};

class Conv : public ::testing::TestWithParam<ConvCase> {};

TEST_P(Conv, AgreesWithReference) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const bool bf16_products : {false, true}) {
      if (bf16_products && dtype == DType::f32) continue;
      const Case c = make(GetParam(), dtype);
      const auto kernel = cpu::make_kernel(c.result.node(), cpu_device(bf16_products));
      // Upsampling in bf16 rounds the sums of taps too: one rounding more on each weight.
      const double more = GetParam().window.upsample == 2 && dtype == DType::bf16 ? 1.5 : 1;
      EXPECT_LE(relative_rms(run_kernel(*kernel, c), run_reference(c)), more * tolerance(dtype))
          << name(dtype) << " by " << kernel->implementation() << ", weight " << kernel->weight_layout(1);
    }
}
INSTANTIATE_TEST_SUITE_P(Shapes, Conv, ::testing::ValuesIn(kCases));

// All cases in one process: they share a few programs, which take a while to build.
TEST(ConvOnOpencl, AgreesWithReference) {
  ZOE_SKIP_WITHOUT_OPENCL();
  for (const ConvCase& c : kCases)
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Case made = make(c, dtype);
      const std::vector<double> expected = run_reference(made);
      const double more = c.window.upsample == 2 && dtype == DType::bf16 ? 1.5 : 1;
      for (const bool local_tiles : {false, true})
        EXPECT_LE(relative_rms(run_kernel(*opencl(local_tiles), made), expected), more * tolerance(dtype))
            << name(dtype) << (local_tiles ? ", tiles, " : ", ") << signature(made.result.node());
    }
}

// Channels and columns that Hopper's kernel takes, of tiles of 16 x 16 or 8 x 32 pixels, whose last row and column is not whole.
const ConvCase kTileCases[] = {
    {{1, 17, 18, 32}, {96, 32, 3, 3, 3}, {{1, 1, 1}, {2, 1, 1}, {0, 1, 1}}, true, true},
    {{2, 7, 19, 96}, {96, 96, 2, 3, 1}, {{1, 1, 1}, {0, 0, 0}, {1, 0, 0}}, false, false, Activation::silu},
    {{2, 6, 9, 64}, {192, 64, 1, 3, 3}, kSame},
    {{3, 18, 21, 96}, {3, 96, 3, 3, 3}, kSame},
    {{1, 9, 17, 32}, {192, 32, 1, 3, 3}, {{1, 1, 1}, {0, 1, 1}, {0, 1, 1}, 2}, true, true},
    {{1, 17, 18, 32}, {128, 32, 3, 3, 3}, {{1, 1, 1}, {2, 1, 1}, {0, 1, 1}}, true, true},
    {{2, 7, 33, 64}, {256, 64, 3, 3, 3}, {{1, 1, 1}, {1, 1, 1}, {0, 1, 1}}, false, true, Activation::silu},
    {{3, 18, 21, 96}, {160, 96, 3, 3, 3}, kSame, true, true},
    {{2, 9, 40, 32}, {320, 32, 1, 3, 3}, kSame},
    {{3, 18, 21, 64}, {12, 64, 3, 3, 3}, kSame, true, true},
    {{1, 9, 17, 32}, {256, 32, 1, 3, 3}, {{1, 1, 1}, {0, 1, 1}, {0, 1, 1}, 2}, true, true},
    // Several tiles a multiprocessor.
    {{150, 3, 17, 32}, {256, 32, 1, 3, 3}, {{1, 1, 1}, {0, 1, 1}, {0, 1, 1}}, true, true},
    {{300, 3, 33, 32}, {160, 32, 3, 3, 1}, {{1, 1, 1}, {1, 1, 0}, {0, 1, 0}}, true, false, Activation::silu},
    {{300, 3, 17, 32}, {96, 32, 1, 3, 3}, {{1, 1, 1}, {0, 1, 1}, {0, 1, 1}}, true, true},
    {{103, 2, 17, 32}, {192, 32, 3, 3, 1}, {{1, 1, 1}, {1, 1, 0}, {0, 1, 0}}, true, false, Activation::silu},
    {{200, 2, 3, 32}, {96, 32, 1, 3, 3}, {{1, 1, 1}, {0, 1, 1}, {0, 1, 1}, 2}, true, false},
};

TEST(ConvOnCuda, AgreesWithReference) {
  ZOE_SKIP_WITHOUT_CUDA();
  std::vector<ConvCase> cases(std::begin(kCases), std::end(kCases));
  cases.insert(cases.end(), std::begin(kTileCases), std::end(kTileCases));
  for (const ConvCase& c : cases)
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Case made = make(c, dtype);
      const double more = c.window.upsample == 2 && dtype == DType::bf16 ? 1.5 : 1;
      const std::vector<double> expected = run_reference(made);
      for (const bool vendor_products : {false, true})
        for (const std::size_t shift : {0, 1}) {
          const std::string implementation(cuda(vendor_products)->make_kernel(made.result.node())->implementation());
          // Plans align what they place; cuDNN and the driver's copies of boxes count on it.
          if (shift == 1 && (vendor_products || implementation.find("wgmma") != implementation.npos)) continue;
          EXPECT_LE(relative_rms(run_kernel(*cuda(vendor_products), made, shift), expected), more * tolerance(dtype))
              << name(dtype) << " " << signature(made.result.node()) << (vendor_products ? " by the vendor" : "");
        }
    }
}

// As an operand, and by the compiler's leave for convolutions of enough tiles.
TEST(ConvOnCuda, ReadsEarlierFramesWhereTheyLie) {
  ZOE_SKIP_WITHOUT_CUDA();
  if (cuda(true)->info().capability / 10 != 9) GTEST_SKIP() << "no kernel for it on " << cuda(true)->info().features;
  struct HistoryCase {
    Shape x, weight;
    std::int64_t earlier;
    ConvWindow window;
  };
  const HistoryCase cases[] = {{{3, 17, 18, 32}, {96, 32, 3, 3, 3}, 2, {{1, 1, 1}, {0, 1, 1}, {0, 1, 1}}},
                               {{1, 5, 33, 64}, {192, 64, 3, 3, 3}, 2, {{1, 1, 1}, {0, 1, 1}, {0, 1, 1}}},
                               {{2, 5, 7, 32}, {96, 32, 2, 3, 3}, 4, {{1, 1, 1}, {1, 1, 1}, {1, 1, 1}}},
                               {{2, 33, 48, 64}, {128, 64, 3, 3, 3}, 2, {{1, 1, 1}, {0, 1, 1}, {0, 1, 1}}},
                               {{140, 2, 16, 32}, {128, 32, 3, 1, 3}, 1, {{1, 1, 1}, {1, 0, 1}, {0, 0, 1}}},
                               {{2, 17, 18, 32}, {320, 32, 3, 3, 3}, 2, {{1, 1, 1}, {0, 1, 1}, {0, 1, 1}}},
                               {{70, 2, 17, 32}, {96, 32, 3, 1, 3}, 1, {{1, 1, 1}, {1, 0, 1}, {0, 0, 1}}}};
  const auto device = std::make_shared<cuda::Device>(cuda::kCuda, 0, PlatformOptions{});  // the table has it for enough tiles
  for (const HistoryCase& c : cases) {
    const Value x = input("x", DType::bf16, c.x), weight = parameter("w", DType::bf16, c.weight),
                history = input("h", DType::bf16, {c.earlier, c.x.dim(1), c.x.dim(2), c.x.dim(3)});
    const Shape result{c.x.dim(0) + c.earlier + c.window.pad_begin[0] + c.window.pad_end[0] - c.weight.dim(2) + 1, c.x.dim(1),
                       c.x.dim(2), c.weight.dim(0)};
    const Value residual = input("r", DType::bf16, result), bias = parameter("b", DType::bf16, {c.weight.dim(0)});
    Case made{conv(x, weight, c.window, {.bias = bias, .residual = residual, .history = history}), {}};
    unsigned seed = 1;
    for (const Value& operand : made.result.node().inputs)
      made.operands.push_back(random_values(operand.type(), seed++,
                                            operand == weight ? 1.0 / std::sqrt(static_cast<double>(c.weight.count(1, 5))) : 1.0));
    ASSERT_TRUE(cuda::implicit_gemm_takes(made.result.node(), *device)) << signature(made.result.node());
    const auto kernel = cuda::make_implicit_gemm(made.result.node(), device);
    EXPECT_LE(relative_rms(run_kernel(*cuda(true), *kernel, made, 0), run_reference(made)), tolerance(DType::bf16))
        << signature(made.result.node());
    const std::int64_t columns = c.weight.dim(0) % 96 == 0 ? 96 : c.weight.dim(0) % 160 == 0 ? 160 : 128;
    const std::int64_t tiles =
        result.dim(0) * ((result.dim(1) + 15) / 16) * ((result.dim(2) + 15) / 16) * (c.weight.dim(0) / columns);
    EXPECT_EQ(Selection("cuda", cuda(true)->implementations()).takes_history(made.result.node()), tiles >= 132)
        << tiles;  // of an H100 or H200
  }
}

// A weight that the graph computes is packed on the device, and upsampling has no sums of taps then.
TEST(ConvOnCuda, ComputedWeight) {
  ZOE_SKIP_WITHOUT_CUDA();
  for (const int upsample : {1, 2})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Value x = input("x", dtype, {2, 6, 7, 24}), weight = input("w", dtype, {10, 24, 1, 3, 3});
      const Case c{conv(x, weight, {{1, 1, 1}, {0, 1, 1}, {0, 1, 1}, upsample}),
                   {random_values(x.type(), 1), random_values(weight.type(), 2, 0.1)}};
      for (const bool vendor_products : {false, true})
        EXPECT_LE(relative_rms(run_kernel(*cuda(vendor_products), c, 0), run_reference(c)), tolerance(dtype));
    }
}

}  // namespace
}  // namespace zoe::testing
