#include <array>
#include <functional>
#include <limits>

#include "ops/platforms.h"
#include "ops/run_kernel.h"
#include "platform/cpu/kernels.h"

namespace zoe::testing {
namespace {

struct AttentionCase {
  std::int64_t batch, queries, keys, heads, channels;
  Shape bias = {};  // rank 0: none
  double scale = 0.125;
  std::array<std::int64_t, 3> held = {0, 0, 0}, first = {0, 0, 0};  // heads that q, k and v hold, 0: `heads`; of these the first
};

Case make(const AttentionCase& c, DType dtype) {
  const auto made = [&](const char* operand_name, std::int64_t length, std::size_t i) {
    return input(operand_name, dtype, {c.batch, length, c.held[i] ? c.held[i] : c.heads, c.channels});
  };
  const Value q = made("q", c.queries, 0), k = made("k", c.keys, 1), v = made("v", c.keys, 2);
  const Value bias = c.bias.rank() == 0 ? Value() : input("bias", DType::f32, c.bias);
  AttentionAttributes attributes{c.scale};
  if (c.held[0] + c.held[1] + c.held[2] > 0) attributes.heads = c.heads, attributes.first_head = c.first;
  Case result{attention(q, k, v, attributes, bias), {}};
  unsigned seed = 1;
  for (const Value& operand : result.result.node().inputs) result.operands.push_back(random_values(operand.type(), seed++, 1.5));
  return result;
}

const AttentionCase kCases[] = {
    {1, 1, 1, 1, 1},
    {1, 1, 16, 2, 64},
    {1, 100, 16, 4, 64},
    {2, 97, 300, 2, 64},
    {1, 200, 513, 3, 128, {}, 0.09},
    {1, 70, 70, 1, 384, {}, 0.05},
    {1, 13, 257, 2, 20},
    {1, 64, 64, 4, 16, {1, 4, 64, 64}, 1.0},
    {2, 33, 47, 2, 32, {2, 1, 1, 47}},
    {2, 33, 300, 2, 32, {1, 1, 33, 300}},
    {2, 300, 333, 3, 128, {2, 3, 1, 333}},  // what flash attention takes, too
    {1, 130, 104, 2, 128, {1, 1, 1, 104}},
    {1, 257, 1000, 2, 64},
    // Heads among those of others.
    {1, 150, 150, 2, 64, {}, 0.125, {0, 0, 6}, {0, 0, 4}},
    {2, 97, 131, 2, 32, {2, 1, 1, 131}, 0.125, {5, 4, 3}, {1, 2, 0}},
    {2, 40, 40, 2, 16, {1, 2, 40, 40}, 1.0, {6, 6, 6}, {0, 2, 4}},
    {1, 30, 70, 1, 384, {}, 0.05, {3, 3, 3}, {0, 1, 2}},
    // What the kernel for wide heads takes: the last tiles of queries, keys and channels are not whole.
    {2, 300, 520, 1, 384, {}, 0.05, {3, 3, 3}, {0, 1, 2}},
    {1, 70, 577, 2, 320, {}, 0.05},
    {1, 131, 515, 1, 1024, {}, 0.015},
};

class Attention : public ::testing::TestWithParam<AttentionCase> {};

TEST_P(Attention, AgreesWithReference) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const bool bf16_products : {false, true}) {
      if (bf16_products && dtype == DType::f32) continue;
      const Case c = make(GetParam(), dtype);
      const auto kernel = cpu::make_kernel(c.result.node(), cpu_device(bf16_products));
      // With bf16 products the weights of the keys are rounded too.
      const double limit = bf16_products ? 2 * tolerance(dtype) : tolerance(dtype);
      EXPECT_LE(relative_rms(run_kernel(*kernel, c), run_reference(c)), limit) << name(dtype) << " by " << kernel->implementation();
    }
}
INSTANTIATE_TEST_SUITE_P(Shapes, Attention, ::testing::ValuesIn(kCases));

// All cases in one process: they share a few programs, which take a while to build.
TEST(AttentionOnOpencl, AgreesWithReference) {
  ZOE_SKIP_WITHOUT_OPENCL();
  for (const AttentionCase& c : kCases)
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Case made = make(c, dtype);
      if (made.result.node().as<AttentionAttributes>().heads != 0) {  // of merged products, which opencl does not ask for
        EXPECT_THROW(opencl(false)->make_kernel(made.result.node()), Error);
        continue;
      }
      const std::vector<double> expected = run_reference(made);
      for (const bool local_tiles : {false, true})
        EXPECT_LE(relative_rms(run_kernel(*opencl(local_tiles), made), expected), tolerance(dtype))
            << name(dtype) << (local_tiles ? ", tiles, " : ", ") << signature(made.result.node());
    }
}

TEST(AttentionOnCuda, AgreesWithReference) {
  ZOE_SKIP_WITHOUT_CUDA();
  for (const AttentionCase& c : kCases)
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Case made = make(c, dtype);
      // In bf16 tensor cores take the weights of the keys rounded, too.
      const double limit = dtype == DType::bf16 ? 2 * tolerance(dtype) : tolerance(dtype);
      const std::vector<double> expected = run_reference(made);
      for (const bool vendor_products : {false, true})
        for (const std::size_t shift : {0, 1}) {
          const std::string implementation(cuda(vendor_products)->make_kernel(made.result.node())->implementation());
          // Plans align what they place; cuDNN and flash attention count on it.
          if (shift == 1 && !implementation.starts_with("online softmax")) continue;
          EXPECT_LE(relative_rms(run_kernel(*cuda(vendor_products), made, shift), expected), limit)
              << name(dtype) << " " << signature(made.result.node()) << " by " << implementation;
        }
    }
}

// Masked keys do not count, and a query without any key left gives zeros.
void expect_masked_keys_left_out(const std::function<std::vector<double>(const Case&)>& run) {
  const double masked = -std::numeric_limits<double>::infinity();
  Case c = make({1, 5, 300, 1, 32, {1, 1, 5, 300}}, DType::f32);
  for (std::size_t key = 0; key < 300; ++key) {
    if (key != 280) c.operands[3][key] = masked;  // row 0: one key left, met after a tile of masked ones
    if (key >= 7) c.operands[3][300 + key] = masked;
    c.operands[3][600 + key] = masked;
  }
  const std::vector<double> got = run(c);
  for (std::size_t i = 0; i < 32; ++i) {
    EXPECT_EQ(got[i], c.operands[2][280 * 32 + i]);
    EXPECT_EQ(got[64 + i], 0.0);
  }
  Case short_keys = make({1, 5, 7, 1, 32, {1, 1, 5, 7}}, DType::f32);
  short_keys.operands[0] = c.operands[0];
  for (const std::size_t operand : {1u, 2u})
    short_keys.operands[operand].assign(c.operands[operand].begin(), c.operands[operand].begin() + 7 * 32);
  for (std::size_t i = 0; i < 35; ++i) short_keys.operands[3][i] = c.operands[3][300 + i % 7];
  const std::vector<double> expected = run_reference(short_keys);
  for (std::size_t i = 32; i < 64; ++i) EXPECT_NEAR(got[i], expected[i], 1e-5);
}

TEST(AttentionMask, LeavesKeysOut) {
  expect_masked_keys_left_out([](const Case& c) { return run_kernel(*cpu::make_kernel(c.result.node(), cpu_device(false)), c); });
}

TEST(AttentionMask, LeavesKeysOutOnOpencl) {
  ZOE_SKIP_WITHOUT_OPENCL();
  for (const bool local_tiles : {false, true})
    expect_masked_keys_left_out([&](const Case& c) { return run_kernel(*opencl(local_tiles), c); });
}

TEST(AttentionMaskOnCuda, LeavesKeysOut) {
  ZOE_SKIP_WITHOUT_CUDA();
  for (const bool vendor_products : {false, true})
    expect_masked_keys_left_out([&](const Case& c) { return run_kernel(*cuda(vendor_products), c, 0); });
}

// Flash attention on Hopper takes its exponentials relative to the highest score of the first tile. Scores so far above it that
// they overflow, or all of that tile masked and the others far below, must not show.
TEST(AttentionOnCuda, ScoresMayLieFarFromThoseOfTheFirstKeys) {
  ZOE_SKIP_WITHOUT_CUDA();
  constexpr std::size_t kKeys = 700, kRow = 2 * 128;
  const auto check_case = [](const Case& c) {
    EXPECT_LE(relative_rms(run_kernel(*cuda(), c, 0), run_reference(c)), 2 * tolerance(DType::bf16))
        << cuda()->make_kernel(c.result.node())->implementation();
  };
  Case above = make({1, 300, kKeys, 2, 128}, DType::bf16);
  for (std::size_t i = 500 * kRow; i < 600 * kRow; ++i) above.operands[1][i] *= 64;
  check_case(above);
  Case below = make({1, 300, kKeys, 2, 128, {1, 1, 1, kKeys}}, DType::bf16);
  for (std::size_t key = 0; key < kKeys; ++key)
    below.operands[3][key] = key < 200 ? -std::numeric_limits<double>::infinity() : below.operands[3][key] - 150;
  check_case(below);
}

TEST(AttentionThreads, DoNotChangeTheResult) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Case c = make({1, 300, 300, 3, 64}, dtype);
    const std::vector<double> one = run_kernel(*cpu::make_kernel(c.result.node(), cpu_device(true, 1)), c);
    EXPECT_EQ(one, run_kernel(*cpu::make_kernel(c.result.node(), cpu_device(true, 3)), c));
  }
}

}  // namespace
}  // namespace zoe::testing
