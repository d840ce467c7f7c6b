// The Winograd convolution, whether or not the table would take it for a shape: against the reference in f64 and the direct
// convolution, on every instruction set and number of threads; and what the table takes.
#include <hwy/targets.h>

#include "base/error.h"
#include "ops/run_kernel.h"
#include "platform/cpu/kernels.h"

namespace zoe::testing {
namespace {

struct WinogradCase {
  Shape x, weight;
  bool bias = true, residual = false;
  Activation activation = Activation::none;
  std::array<int, 3> pad_begin = {0, 1, 1}, pad_end = {0, 1, 1};
};

Case make(const WinogradCase& c, DType dtype) {
  const Value x = input("x", dtype, c.x), weight = parameter("w", dtype, c.weight);
  const ConvWindow window{{1, 1, 1}, c.pad_begin, c.pad_end};
  ProductOptions options;
  options.activation = c.activation;
  if (c.bias) options.bias = parameter("b", dtype, {c.weight.dim(0)});
  if (c.residual) options.residual = input("r", dtype, conv(x, weight, window).shape());
  Case result{conv(x, weight, window, options), {}};
  unsigned seed = 1;
  for (const Value& operand : result.result.node().inputs)
    result.operands.push_back(random_values(operand.type(), seed++,
                                            operand == weight ? 1.0 / std::sqrt(static_cast<double>(c.weight.count(1, 5))) : 1.0));
  return result;
}

// Odd and tiny pictures, one to four frames, channels that fill no vector or leave half a panel, every epilogue.
const WinogradCase kCases[] = {
    {{3, 1, 1, 1}, {1, 1, 3, 3, 3}, false},
    {{1, 1, 1, 5}, {3, 5, 1, 3, 3}, true, true},
    {{3, 3, 5, 7}, {5, 7, 3, 3, 3}, true, false, Activation::silu},
    {{4, 5, 2, 24}, {40, 24, 3, 3, 3}, false, true, Activation::gelu_tanh},
    {{5, 17, 31, 16}, {16, 16, 3, 3, 3}, true, true},
    {{6, 17, 31, 19}, {33, 19, 3, 3, 3}, true, true, Activation::silu},
    {{6, 31, 17, 32}, {3, 32, 3, 3, 3}},
    {{3, 16, 16, 64}, {48, 64, 3, 3, 3}},
    {{4, 20, 9, 20}, {17, 20, 1, 3, 3}, true, true, Activation::gelu_tanh},
    {{3, 7, 8, 96}, {96, 96, 2, 3, 3}, true, true},
    {{3, 9, 9, 12}, {12, 12, 3, 3, 3}, true, false, Activation::none, {0, 0, 2}, {0, 1, 0}},
    {{3, 6, 11, 12}, {12, 12, 3, 3, 3}, true, true, Activation::none, {0, 0, 0}, {0, 0, 0}},
};

std::unique_ptr<Kernel> winograd(const Case& c, int threads = 2) {
  return cpu::make_winograd_conv(c.result.node(), cpu_device(false, threads));
}

class Winograd : public ::testing::TestWithParam<WinogradCase> {};

TEST_P(Winograd, AgreesWithReference) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Case c = make(GetParam(), dtype);
    const auto kernel = winograd(c);
    EXPECT_LE(relative_rms(run_kernel(*kernel, c), run_reference(c)), tolerance(dtype))
        << name(dtype) << " by " << kernel->implementation();
  }
}

// Threads share the tiles, and more threads make the blocks of tiles smaller.
TEST_P(Winograd, SameBitsOnAnyNumberOfThreads) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Case c = make(GetParam(), dtype);
    const std::vector<double> one = run_kernel(*winograd(c, 1), c);
    for (const int threads : {2, 3, 16}) EXPECT_EQ(one, run_kernel(*winograd(c, threads), c)) << name(dtype) << ", " << threads;
  }
}

TEST_P(Winograd, SameBitsOnAvx2AndAvx512) {
#if HWY_ARCH_X86
  const std::int64_t all = hwy::SupportedTargets(), wide = HWY_AVX3 | HWY_AVX3_DL;
  if (!(all & wide)) GTEST_SKIP() << "[SKIP] no AVX-512 here";
  const Case c = make(GetParam(), DType::f32);
  const auto wider = winograd(c);
  hwy::SetSupportedTargetsForTest(all & ~wide);
  const auto narrower = winograd(c);
  hwy::SetSupportedTargetsForTest(0);
  EXPECT_NE(wider->implementation(), narrower->implementation());
  EXPECT_NE(wider->weight_layout(1), narrower->weight_layout(1));
  EXPECT_LE(relative_rms(run_kernel(*narrower, c), run_reference(c)), tolerance(DType::f32));
  // exp and tanh of the epilogue are the same bits everywhere, and so are the sums.
  EXPECT_EQ(run_kernel(*wider, c), run_kernel(*narrower, c));
#else
  GTEST_SKIP() << "[SKIP] not an x86";
#endif
}
INSTANTIATE_TEST_SUITE_P(Shapes, Winograd, ::testing::ValuesIn(kCases));

// What the header of winograd_conv.cpp states, at the widths of the full-size VAE.
TEST(WinogradError, IsOfTheOrderOfTheDirectConvolutions) {
  for (const std::int64_t channels : {96, 192, 384}) {
    const Case c = make({{3, 8, 8, channels}, {32, channels, 3, 3, 3}}, DType::f32);
    const std::vector<double> expected = run_reference(c);
    const auto direct_kernel = cpu::make_direct_conv(c.result.node(), cpu_device(false));
    const double direct = relative_rms(run_kernel(*direct_kernel, c), expected);
    const double error = relative_rms(run_kernel(*winograd(c), c), expected);
    EXPECT_LE(error, 1.2e-6) << channels;
    EXPECT_LE(error, 2 * direct) << channels;
  }
}

// The residual's memory may become the result's.
TEST(Winograd, AddsToTheResidualInItsPlace) {
  const Case c = make({{4, 9, 10, 16}, {24, 16, 3, 3, 3}, true, true}, DType::f32);
  const auto kernel = winograd(c);
  for (const int input : {0, 1, 2}) EXPECT_FALSE(kernel->can_overwrite(input, 0));
  ASSERT_TRUE(kernel->can_overwrite(3, 0));
  EXPECT_FALSE(winograd(make({{4, 9, 10, 16}, {24, 16, 3, 3, 3}}, DType::f32))->can_overwrite(2, 0));

  const Node& node = c.result.node();
  std::vector<std::unique_ptr<BytesBuffer>> buffers;
  std::vector<Slot> slots;
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    const Type& type = node.inputs[i].type();
    const int input = static_cast<int>(i);
    const std::vector<std::byte> bytes = to_bytes(c.operands[i], type.dtype);
    buffers.push_back(std::make_unique<BytesBuffer>(i == 1 ? kernel->packed_bytes(input, type) : bytes.size()));
    if (i == 1)
      kernel->pack_weight(input, type, DenseWeight(type.dtype, type.shape, bytes.data()),
                          static_cast<std::byte*>(buffers[i]->data));
    else std::memcpy(buffers[i]->data, bytes.data(), bytes.size());
    slots.push_back({buffers[i].get(), 0});
  }
  BytesBuffer scratch(kernel->scratch_bytes());
  InOrderStream stream;
  kernel->run(stream, slots, {&slots[3], 1}, {&scratch, 0});
  const auto* result = static_cast<const float*>(buffers[3]->data);
  EXPECT_EQ(std::vector<double>(result, result + node.types[0].shape.count()), run_kernel(*kernel, c));
}

// A f32 weight is rounded to bf16 before it is transformed.
TEST(WinogradPacking, RoundsToNodesDtype) {
  Case c = make({{3, 8, 8, 16}, {16, 16, 3, 3, 3}}, DType::bf16);
  c.operands[1] = random_values({DType::f32, {16, 16, 3, 3, 3}}, 5, 0.1);
  Case rounded = c;
  for (double& value : rounded.operands[1]) value = bf16_to_f32(f32_to_bf16(static_cast<float>(value)));
  EXPECT_EQ(run_kernel(*winograd(c), c), run_kernel(*winograd(rounded), rounded));
}

// The plans of the first and of the later groups of frames share packed weights.
TEST(WinogradPacking, LayoutDoesNotDependOnFramesOrThreads) {
  const auto layout = [](std::int64_t frames, DType dtype, int threads) {
    return winograd(make({{frames, 8, 8, 16}, {48, 16, 3, 3, 3}}, dtype), threads)->weight_layout(1);
  };
  EXPECT_EQ(layout(3, DType::f32, 1), layout(6, DType::f32, 3));
  EXPECT_NE(layout(3, DType::f32, 1), layout(3, DType::bf16, 1));
}

TEST(WinogradChoice, FollowsTheMeasurements) {
  const auto taken = [](const WinogradCase& c, DType dtype = DType::f32, bool bf16_products = false) {
    return cpu::make_kernel(make(c, dtype).result.node(), cpu_device(bf16_products))->implementation().starts_with("winograd");
  };
#if HWY_ARCH_X86
  if (!(hwy::SupportedTargets() & (HWY_AVX2 | HWY_AVX3))) GTEST_SKIP() << "[SKIP] no AVX2 here";
#endif
  const Shape kernel{16, 16, 3, 3, 3};
  EXPECT_TRUE(taken({{3, 8, 8, 16}, kernel}));
  EXPECT_TRUE(taken({{6, 8, 8, 16}, kernel}));
  EXPECT_TRUE(taken({{6, 16, 16, 96}, {3, 96, 3, 3, 3}, true, true}));
  EXPECT_FALSE(taken({{6, 8, 7, 16}, kernel}));              // small
  EXPECT_FALSE(taken({{6, 16, 16, 3}, {16, 3, 3, 3, 3}}));   // less than a vector
  EXPECT_TRUE(taken({{6, 8, 8, 16}, kernel}, DType::bf16));  // widened
  EXPECT_FALSE(taken({{6, 8, 8, 16}, kernel}, DType::bf16, true));
  EXPECT_FALSE(taken({{6, 16, 16, 16}, {16, 16, 3, 1, 1}, true, false, Activation::none, {0, 0, 0}, {0, 0, 0}}));
  EXPECT_FALSE(taken({{6, 16, 16, 16}, kernel, true, false, Activation::none, {2, 1, 1}}));  // padded in time
}

TEST(WinogradChoice, SaysWhatItCannotTake) {
  const Value x = input("x", DType::f32, {3, 8, 8, 16}), weight = parameter("w", DType::f32, {16, 16, 3, 3, 3});
  const Value strided = conv(x, weight, {{1, 2, 2}, {0, 1, 1}, {0, 1, 1}});
  try {
    cpu::make_winograd_conv(strided.node(), cpu_device(false));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unsupported);
    EXPECT_NE(std::string(error.what()).find("stride 1"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace zoe::testing
