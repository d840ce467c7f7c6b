// linear and attention from 8-bit codes on a GPU of compute capability 9.0; skipped where the table has no row for them.
#include <limits>

#include "base/error.h"
#include "ops/platforms.h"
#include "ops/run_kernel.h"

namespace zoe::testing {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInfinity = std::numeric_limits<double>::infinity();

std::unique_ptr<Kernel> kernel_or_null(const Case& c) {
  try {
    return cuda()->make_kernel(c.result.node());
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::unsupported) throw;
    return nullptr;
  }
}

#define ZOE_SKIP_WITHOUT_KERNEL(kernel) \
  if (!kernel) GTEST_SKIP() << "no row for codes"

struct LinearCase {
  std::int64_t m, k, n;
  bool bias = false, residual = false;
  Activation activation = Activation::none;
};

Case make(const LinearCase& c) {
  const Value x = input("x", DType::bf16, {1, c.m, c.k}), weight = parameter("w", DType::bf16, {c.n, c.k});
  ProductOptions options{.activation = c.activation, .codes = Codes::i8};
  if (c.bias) options.bias = input("b", DType::bf16, {c.n});
  if (c.residual) options.residual = input("r", DType::bf16, {1, c.m, c.n});
  Case made{linear(x, weight, options), {}, DType::bf16};
  for (std::size_t i = 0; i < made.result.node().inputs.size(); ++i)
    made.operands.push_back(random_values(made.result.node().inputs[i].type(), static_cast<unsigned>(i) + 1,
                                          i == 1 ? 1 / std::sqrt(static_cast<double>(c.k)) : 1));
  return made;
}

// Every width of the family's rows, tiles that are not whole, and groups of 16, 64 and 256.
TEST(CodedLinearOnCuda, EveryEpilogueAgreesWithReference) {
  ZOE_SKIP_WITHOUT_CUDA();
  for (const LinearCase& c : {LinearCase{1, 32, 8}, LinearCase{3, 96, 24, true}, LinearCase{129, 640, 264, true, true},
                              LinearCase{300, 256, 520, true, false, Activation::gelu_tanh},
                              LinearCase{77, 1024, 256, true, true, Activation::silu}, LinearCase{131, 1536, 1000, false, true},
                              LinearCase{65, 8960, 136, true}, LinearCase{33, 13824, 72, true}, LinearCase{9, 14336, 40, true}}) {
    const Case made = make(c);
    const auto kernel = kernel_or_null(made);
    ZOE_SKIP_WITHOUT_KERNEL(kernel);
    EXPECT_LE(relative_rms(run_kernel(*cuda(), *kernel, made, 0), run_reference(made)), tolerance(DType::bf16))
        << signature(made.result.node());
  }
}

TEST(CodedLinearOnCuda, RowsThatAreNoNumbersStayAlone) {
  ZOE_SKIP_WITHOUT_CUDA();
  constexpr std::size_t kDepth = 1536, kColumns = 40;
  Case made = make({8, kDepth, kColumns, true});
  auto& x = made.operands[0];
  std::fill_n(x.begin(), kDepth, 0.0);
  std::fill_n(x.begin() + kDepth, kDepth, 3.0e38);  // its rotation overflows
  x[3 * kDepth + 5] = kNan;
  x[4 * kDepth + 77] = -kInfinity;
  std::fill_n(x.begin() + 5 * kDepth, kDepth, 1e-38);
  const auto kernel = kernel_or_null(made);
  ZOE_SKIP_WITHOUT_KERNEL(kernel);
  const std::vector<double> got = run_kernel(*cuda(), *kernel, made, 0);
  for (std::size_t column = 0; column < kColumns; ++column) {
    EXPECT_EQ(got[column], made.operands[2][column]);
    for (const std::size_t row : {1u, 3u, 4u}) EXPECT_TRUE(std::isnan(got[row * kColumns + column])) << row;
    for (const std::size_t row : {2u, 5u, 6u, 7u}) EXPECT_TRUE(std::isfinite(got[row * kColumns + column])) << row;
  }
}

struct AttentionCase {
  std::int64_t batch, queries, keys, heads, channels;
  std::array<std::int64_t, 3> held = {0, 0, 0}, first = {0, 0, 0};  // as in attention_test.cpp
};

Case make(const AttentionCase& c, Codes codes) {
  const auto made = [&](const char* operand_name, std::int64_t length, std::size_t i) {
    return input(operand_name, DType::bf16, {c.batch, length, c.held[i] ? c.held[i] : c.heads, c.channels});
  };
  const Value q = made("q", c.queries, 0), k = made("k", c.keys, 1), v = made("v", c.keys, 2);
  AttentionAttributes attributes{.scale = 1 / std::sqrt(static_cast<double>(c.channels)), .codes = codes};
  if (c.held[0] + c.held[1] + c.held[2] > 0) attributes.heads = c.heads, attributes.first_head = c.first;
  Case result{attention(q, k, v, attributes, {}), {}};
  unsigned seed = 1;
  for (const Value& operand : result.result.node().inputs) result.operands.push_back(random_values(operand.type(), seed++));
  return result;
}

// Of independent numbers, where nothing averages errors away: 1.6% by the definition.
constexpr double kMostOfIndependent = 0.025;

TEST(CodedAttentionOnCuda, IsNearTheExactOne) {
  ZOE_SKIP_WITHOUT_CUDA();
  for (const AttentionCase& c : {AttentionCase{1, 1, 1, 1, 128}, AttentionCase{1, 5, 17, 2, 64}, AttentionCase{2, 193, 300, 3, 128},
                                 AttentionCase{1, 400, 1000, 2, 64}, AttentionCase{1, 257, 2049, 2, 128},
                                 AttentionCase{1, 64, 128, 1, 128}, AttentionCase{2, 150, 150, 2, 128, {6, 6, 6}, {0, 2, 4}}}) {
    const Case made = make(c, Codes::i8), exact = make(c, Codes::none);
    const auto kernel = kernel_or_null(made);
    ZOE_SKIP_WITHOUT_KERNEL(kernel);
    EXPECT_LE(relative_rms(run_kernel(*cuda(), *kernel, made, 0), run_reference(exact)), kMostOfIndependent)
        << signature(made.result.node());
  }
}

// What all keys have in common, and what all values have, costs no codes; queries without direction see all keys alike.
TEST(CodedAttentionOnCuda, CommonPartsAndSmallNumbersCostNothing) {
  ZOE_SKIP_WITHOUT_CUDA();
  const AttentionCase shape{1, 200, 333, 1, 128};
  Case made = make(shape, Codes::i8), exact = make(shape, Codes::none);
  const auto kernel = kernel_or_null(made);
  ZOE_SKIP_WITHOUT_KERNEL(kernel);
  for (std::size_t key = 0; key < 333; ++key) made.operands[1][key * 128 + 5] += 64, made.operands[2][key * 128 + 9] += 16;
  std::fill_n(made.operands[0].begin(), 128, 0.0);
  std::fill_n(made.operands[0].begin() + 128, 128, 1e-20);
  exact.operands = made.operands;
  const std::vector<double> got = run_kernel(*cuda(), *kernel, made, 0), expected = run_reference(exact);
  EXPECT_LE(relative_rms(got, expected), kMostOfIndependent);
  for (std::size_t i = 0; i < 256; ++i) EXPECT_NEAR(got[i], expected[i], 0.01 + 0.01 * std::abs(expected[i])) << i;
}

TEST(CodedAttentionOnCuda, WhatIsNoNumberIsSeen) {
  ZOE_SKIP_WITHOUT_CUDA();
  const AttentionCase shape{1, 70, 200, 2, 128};
  for (const double bad : {kNan, kInfinity}) {
    Case q = make(shape, Codes::i8), k = q, v = q;
    const auto kernel = kernel_or_null(q);
    ZOE_SKIP_WITHOUT_KERNEL(kernel);
    const std::size_t at = (std::size_t{40} * 2 + 1) * 128 + 3;  // token 40, head 1, channel 3
    q.operands[0][at] = k.operands[1][at] = v.operands[2][at] = bad;
    const std::vector<double> of_q = run_kernel(*cuda(), *kernel, q, 0), of_k = run_kernel(*cuda(), *kernel, k, 0),
                              of_v = run_kernel(*cuda(), *kernel, v, 0);
    for (std::size_t query = 0; query < 70; ++query)
      for (std::size_t head = 0; head < 2; ++head)
        for (std::size_t channel = 0; channel < 128; ++channel) {
          const std::size_t i = (query * 2 + head) * 128 + channel;
          EXPECT_EQ(std::isfinite(of_q[i]), query != 40 || head != 1) << query;
          EXPECT_EQ(std::isfinite(of_k[i]), head != 1) << query;
          EXPECT_EQ(std::isfinite(of_v[i]), head != 1 || channel != 3) << query;
        }
  }
}

}  // namespace
}  // namespace zoe::testing
