// Graphs as loops over rows: index spaces, passes, what is kept, where operands lie, and what is refused with which reason.
#include <gtest/gtest.h>

#include <algorithm>

#include "codegen/chains.h"

namespace zoe {
namespace {

Lowered lower_one(const Value& x, const Value& y) { return lower(make_graph("g", {x}, {y})); }

const Chain& chain_named(const std::string& name) {
  static const std::vector<testing::NamedChain> all = testing::op_chains();
  const auto found = std::find_if(all.begin(), all.end(), [&](const auto& named) { return named.name == name; });
  if (found == all.end()) throw std::runtime_error("no chain " + name);
  return found->chain;
}

std::int64_t kept(const Chain& chain) {
  return std::count_if(chain.instructions.begin(), chain.instructions.end(), [](const Instruction& i) { return i.kept; });
}

TEST(Lower, ALayerNormHasThreePassesAndAnRmsNormTwo) {
  EXPECT_EQ(chain_named("norm_scale_shift_f32").passes, 3);
  EXPECT_EQ(chain_named("norm_scale_shift_rms_f32").passes, 2);
  EXPECT_EQ(chain_named("mul_add_f32").passes, 1);
}

TEST(Lower, WhatIsCheapIsMadeAgainAndWhatIsNotIsKept) {
  EXPECT_EQ(kept(chain_named("norm_scale_shift_f32")), 0);                 // x - mean, from the operand
  EXPECT_EQ(kept(chain_named("scale_residual_norm_scale_shift_f32")), 1);  // residual + gate * x: three operands
  EXPECT_EQ(kept(chain_named("softmax_sum_odd_f32")), 1);                  // an exponential
}

TEST(Lower, NeighboursThatAllViewsWalkAlikeAreOneAxis) {
  EXPECT_EQ(chain_named("mul_add_f32").axes, (std::vector<std::int64_t>{6, 1536}));
  EXPECT_EQ(chain_named("gelu_product_flat_f32").row_axes, 0);
  EXPECT_EQ(chain_named("gelu_product_flat_f32").axes, (std::vector<std::int64_t>{6 * 1536}));
  const Chain& rotary = chain_named("rms_norm_rotary_interleaved_f32");
  EXPECT_EQ(rotary.axes, (std::vector<std::int64_t>{6, 12, 128}));  // the tables repeat from head to head
  EXPECT_EQ(rotary.row_axes, 1);
  EXPECT_EQ(chain_named("scale_shift_by_frame_f32").row_axes, 2);  // frames, and tokens of a frame
}

TEST(Lower, MovementIsOnlyAView) {
  const Value x = input("x", DType::f32, {4, 6, 8});
  const Value y = exp(flip(slice(permute(x, {1, 0, 2}), 0, 2, 6), 1));  // [4,4,8]
  const Lowered lowered = lower_one(x, y);
  ASSERT_TRUE(lowered.chain) << lowered.reason;
  ASSERT_EQ(lowered.chain->instructions.size(), 2u) << print(*lowered.chain);
  const View& view = lowered.chain->instructions[0].view;
  EXPECT_EQ(view.offset, 2 * 8 + 3 * 48);
  EXPECT_EQ(view.strides, (std::vector<std::int64_t>{0, 8, -48, 1}));  // so few that all are the columns of one row
}

// A few columns of each of many rows: as many rows as make a row worth its while are one, but never all of them.
TEST(Lower, NarrowRowsAreJoinedAFewAtATime) {
  const auto axes_of = [](std::int64_t rows, std::int64_t columns) {
    const Value x = input("x", DType::f32, {rows, 2 * columns});
    const Lowered lowered = lower_one(x, exp(slice(x, 1, 0, columns)));
    if (!lowered.chain) throw std::runtime_error(lowered.reason);
    return std::pair(lowered.chain->axes, lowered.chain->row_axes);
  };
  using Axes = std::vector<std::int64_t>;
  EXPECT_EQ(axes_of(12480, 16), std::pair(Axes({3120, 4, 16}), 1));
  EXPECT_EQ(axes_of(12482, 16), std::pair(Axes({79, 158, 16}), 1));  // 2 * 79 * 79
  EXPECT_EQ(axes_of(12479, 16), std::pair(Axes({12479, 16}), 1));    // a prime
  EXPECT_EQ(axes_of(100, 16), std::pair(Axes({1, 100, 16}), 1));     // few enough
  EXPECT_EQ(axes_of(12480, 5120), std::pair(Axes({12480, 5120}), 1));
}

TEST(Lower, AReshapeSplitsAnAxisWhereItMust) {
  const Value x = input("x", DType::f32, {2, 12});
  const Value y = reshape(permute(reshape(x, {2, 3, 4}), {1, 0, 2}), {6, 4});
  const Lowered lowered = lower_one(x, exp(y));
  ASSERT_TRUE(lowered.chain) << lowered.reason;
  const Instruction& load = lowered.chain->instructions[0];
  EXPECT_EQ(lowered.chain->axes, (std::vector<std::int64_t>{1, 3, 2, 4}));
  EXPECT_EQ(load.view.strides, (std::vector<std::int64_t>{0, 4, 12, 1}));
}

TEST(Lower, SwappedPairsAreTheSameAddressTurned) {
  const Value x = input("x", DType::f32, {3, 8});
  const Lowered lowered = lower_one(x, exp(swap_pairs(x)));
  ASSERT_TRUE(lowered.chain);
  EXPECT_TRUE(lowered.chain->instructions[0].view.swapped);
  // Two swaps are none, also across a reshape that keeps the pairs.
  const Lowered twice = lower_one(x, exp(swap_pairs(reshape(swap_pairs(x), {6, 4}))));
  ASSERT_TRUE(twice.chain) << twice.reason;
  EXPECT_FALSE(twice.chain->instructions[0].view.swapped);
}

TEST(Lower, SwappedPairsAreNotOfRows) {
  const Value x = input("x", DType::f32, {1, 1, 2}), y = input("y", DType::f32, {1, 1});
  const Lowered lowered = lower(make_graph("g", {x, y}, {mul(swap_pairs(x), sum(y))}));
  EXPECT_FALSE(lowered.chain);
  EXPECT_EQ(lowered.reason, "swap_pairs of [1,1,2] exchanges rows");
}

TEST(Lower, WorkWantedAtTwoPlacesIsCounted) {
  const Value x = input("x", DType::f32, {3, 8});
  const Value e = exp(x);
  EXPECT_GE(lower_one(x, e + swap_pairs(e)).repeated_work, 30);
  EXPECT_EQ(lower_one(x, e + e).repeated_work, 0);
}

TEST(Lower, SaysWhyNot) {
  const Value x = input("x", DType::f32, {6, 4});
  const auto reason = [&](const Value& y) {
    const Lowered lowered = lower_one(x, y);
    EXPECT_FALSE(lowered.chain);
    return lowered.reason;
  };
  const Value by_four = mul(x, sum(x)), by_two = reshape(by_four, {12, 2});
  EXPECT_EQ(reason(sub(by_two, sum(by_two))), "sums run over 4 and 2 columns");
  const Value i = input("i", DType::i32, {2});
  EXPECT_EQ(lower(make_graph("g", {x, i}, {gather(x, i)})).reason, "gather is not part of chains");
  EXPECT_EQ(lower_one(i, reshape(i, {1, i.dim(0)})).reason, "generated code has no i32");
}

TEST(Lower, OnlyEqualElementsMayBeOverwritten) {
  const Chain& residual = chain_named("scale_residual_norm_scale_shift_f32");
  // Operands in the order they are met, results in theirs: a result may lie where an operand of the same view was read last.
  int allowed = 0;
  for (int operand = 0; operand < static_cast<int>(residual.operands.size()); ++operand)
    for (int output = 0; output < 2; ++output)
      if (can_overwrite(residual, operand, output)) {
        EXPECT_EQ(residual.operands[static_cast<std::size_t>(operand)].shape,
                  residual.outputs[static_cast<std::size_t>(output)].shape);
        ++allowed;
      }
  EXPECT_EQ(allowed, 4);  // the stream and the branch, each by either result: both are read in the first pass only
  const Chain& rotary = chain_named("rms_norm_rotary_interleaved_f32");
  EXPECT_FALSE(can_overwrite(rotary, 0, 0));  // its elements are read by their partners too
  const Value narrow = input("x", DType::bf16, {4, 8});
  EXPECT_FALSE(can_overwrite(*lower_one(narrow, cast(narrow, DType::f32)).chain, 0, 0));
}

}  // namespace
}  // namespace zoe
