#include "base/weight_reader.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/random_weight.h"

namespace zoe {
namespace {

std::vector<float> read(const WeightReader& weight, std::int64_t begin, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  weight.read(begin, count, DType::f32, values.data());
  return values;
}

// Counts what it is asked for.
struct Asked : DenseWeight {
  using DenseWeight::DenseWeight;
  void fetch(std::int64_t begin, std::int64_t count) const override { fetched.push_back({begin, count}); }
  mutable std::vector<std::pair<std::int64_t, std::int64_t>> fetched;
};

TEST(JoinedWeight, HasTheRowsOfItsPartsInTheirOrder) {
  std::vector<float> a(6), b(3), c(9);
  std::iota(a.begin(), a.end(), 0.0f);
  std::iota(b.begin(), b.end(), 6.0f);
  std::iota(c.begin(), c.end(), 9.0f);
  std::vector<std::shared_ptr<Asked>> parts;
  for (const std::vector<float>* values : {&a, &b, &c})
    parts.push_back(std::make_shared<Asked>(DType::f32, Shape{static_cast<std::int64_t>(values->size()) / 3, 3},
                                            reinterpret_cast<const std::byte*>(values->data())));
  const JoinedWeight joined({6, 3}, {parts[0], parts[1], parts[2]});
  EXPECT_EQ(joined.stored_bytes(), 18u * 4);
  EXPECT_EQ(joined.dense(DType::f32), nullptr);
  for (std::int64_t begin = 0; begin <= 18; ++begin)
    for (std::int64_t count = 0; count <= 18 - begin; ++count) {
      const std::vector<float> got = read(joined, begin, count);
      for (std::int64_t i = 0; i < count; ++i) ASSERT_EQ(got[static_cast<std::size_t>(i)], static_cast<float>(begin + i));
    }
  joined.fetch(5, 5);
  EXPECT_EQ(parts[0]->fetched, (std::vector<std::pair<std::int64_t, std::int64_t>>{{5, 1}}));
  EXPECT_EQ(parts[1]->fetched, (std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 3}}));
  EXPECT_EQ(parts[2]->fetched, (std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 1}}));
}

TEST(RandomWeight, IsTheSameInWhateverPiecesAndTypeItIsRead) {
  constexpr std::int64_t kCount = 20'011;
  const WeightPtr weight = random_weight(7, "blocks.0.attn1.to_q.weight", {kCount, 1, 3});
  const std::vector<float> all = read(*weight, 0, 3 * kCount);
  for (const auto& [begin, count] :
       {std::pair<std::int64_t, std::int64_t>{1, 9000}, {4095, 2}, {4096, 4096}, {8191, 12'289}, {60'032, 1}}) {
    const std::vector<float> got = read(*weight, begin, count);
    ASSERT_EQ(got, std::vector<float>(all.begin() + begin, all.begin() + begin + count)) << begin;
    std::vector<std::uint16_t> narrow(static_cast<std::size_t>(count));
    weight->read(begin, count, DType::bf16, narrow.data());
    for (std::size_t i = 0; i < narrow.size(); ++i) ASSERT_EQ(narrow[i], f32_to_bf16(got[i])) << begin << " " << i;
  }
}

TEST(RandomWeight, FollowsFromSeedAndName) {
  const std::vector<float> first = read(*random_weight(7, "a.weight", {8, 8}), 0, 64);
  EXPECT_EQ(first, read(*random_weight(7, "a.weight", {8, 8}), 0, 64));
  EXPECT_NE(first, read(*random_weight(8, "a.weight", {8, 8}), 0, 64));
  EXPECT_NE(first, read(*random_weight(7, "b.weight", {8, 8}), 0, 64));
}

struct Moments {
  double mean = 0, deviation = 0, most = 0;
  explicit Moments(const WeightReader& weight) {
    const std::vector<float> values = read(weight, 0, weight.count());
    for (const float value : values) mean += value, most = std::max(most, std::fabs(static_cast<double>(value)));
    mean /= static_cast<double>(values.size());
    for (const float value : values) deviation += std::pow(value - mean, 2);
    deviation = std::sqrt(deviation / static_cast<double>(values.size()));
  }
};

TEST(RandomWeight, IsScaledByWhatTheTensorIs) {
  const Moments matrix(*random_weight(1, "ffn.net.2.weight", {512, 400}));
  EXPECT_NEAR(matrix.mean, 0, 1e-3);
  EXPECT_NEAR(matrix.deviation, 1 / std::sqrt(400.0), 1e-3);
  const Moments kernel(*random_weight(1, "conv_in.weight", {96, 16, 3, 3, 3}));
  EXPECT_NEAR(kernel.deviation, 1 / std::sqrt(16.0 * 27), 1e-3);
  const Moments norm(*random_weight(1, "norm1.gamma", {4096, 1, 1, 1}));
  EXPECT_NEAR(norm.mean, 1, 0.01);
  EXPECT_LE(norm.most, 1.1);
  const Moments bias(*random_weight(1, "to_q.bias", {4096}));
  EXPECT_NEAR(bias.mean, 0, 0.01);
  EXPECT_LE(bias.most, 0.021);
  const Moments table(*random_weight(1, "blocks.3.scale_shift_table", {1, 6, 1024}));
  EXPECT_NEAR(table.deviation, 1 / 32.0, 1e-3);
}

// A hash that keeps no more of its counter than this would show as stripes: neighbours, halves of a word and rows are uncorrelated,
// and nearly all values of the 2^16 appear.
TEST(RandomWeight, HasNoPatternOfItsOwn) {
  constexpr std::int64_t kSide = 512;
  const std::vector<float> values = read(*random_weight(3, "w.weight", {kSide, kSide}), 0, kSide * kSide);
  for (const std::int64_t lag :
       {std::int64_t{1}, std::int64_t{2}, std::int64_t{3}, std::int64_t{64}, kSide, 4 * kSide, 64 * kSide}) {
    double product = 0, power = 0;
    for (std::int64_t i = lag; i < kSide * kSide; ++i) {
      const double value = values[static_cast<std::size_t>(i)];
      product += value * values[static_cast<std::size_t>(i - lag)];
      power += value * value;
    }
    EXPECT_LT(std::fabs(product / power), 0.01) << lag;  // five standard deviations
  }
  EXPECT_GT(std::set<float>(values.begin(), values.end()).size(), 63'000u);  // of 65,536; 64,336 are expected of 2^18 draws
}

}  // namespace
}  // namespace zoe
