// 8-bit codes of rows: what they stand for, and what becomes of rows that are no numbers.
#include "base/codes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace zoe {
namespace {

std::vector<float> normal_row(std::size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> row(count);
  for (float& x : row) x = normal(generator);
  return row;
}

double length(const std::vector<float>& row) {
  double squares = 0;
  for (const float x : row) squares += static_cast<double>(x) * static_cast<double>(x);
  return std::sqrt(squares);
}

TEST(Codes, RotateByTheLargestPowerOfFour) {
  for (const std::int64_t columns : {1536, 3072, 5120, 8960, 13824, 14336}) EXPECT_EQ(rotation_of(columns), 256) << columns;
  EXPECT_EQ(rotation_of(640), 64);
  EXPECT_EQ(rotation_of(48), 16);
  EXPECT_EQ(rotation_of(20), 4);
  EXPECT_EQ(rotation_of(30), 1);
}

TEST(Codes, TheRotationIsOrthogonalAndItsOwnInverse) {
  for (const std::size_t count : {4u, 16u, 64u, 256u, 1536u, 640u}) {
    const std::vector<float> row = normal_row(count, 1);
    std::vector<float> turned = row;
    rotate_row(turned);
    EXPECT_NEAR(length(turned) / length(row), 1, 1e-6) << count;
    EXPECT_NE(turned, row);
    rotate_row(turned);
    for (std::size_t i = 0; i < count; ++i) ASSERT_NEAR(turned[i], row[i], 2e-6) << count << ", " << i;
  }
}

TEST(Codes, TheRotationHasTheRowsOfTheRegularMatrix) {
  constexpr float kRows[4][4] = {{1, 1, 1, -1}, {1, 1, -1, 1}, {1, -1, 1, 1}, {-1, 1, 1, 1}};
  for (const std::size_t size : {4u, 64u, 256u})
    for (std::size_t column = 0; column < size; ++column) {
      std::vector<float> row(size);
      row[column] = 1;
      rotate_row(row);
      for (std::size_t i = 0; i < size; ++i) {
        float expected = 1 / std::sqrt(static_cast<float>(size));
        for (std::size_t digit = 1; digit < size; digit *= 4) expected *= kRows[i / digit % 4][column / digit % 4];
        ASSERT_EQ(row[i], expected) << size << ": " << i << ", " << column;
      }
    }
}

TEST(Codes, OneLargeNumberLeavesTheOthersTheirCodes) {
  std::vector<float> row = normal_row(1536, 2), as_it_is = row;
  row[700] = as_it_is[700] = 200;
  std::vector<std::int8_t> codes(row.size()), plain(row.size());
  std::vector<float> rotated = row;
  rotate_row(rotated);
  const float scale = encode_row(row, codes.data()), coarse = encode_as_it_is(as_it_is, plain.data());
  EXPECT_LT(scale, coarse / 8);
  for (std::size_t i = 0; i < codes.size(); ++i) {
    ASSERT_NEAR(static_cast<float>(codes[i]) * scale, rotated[i], 0.501f * scale) << i;
    ASSERT_LE(std::abs(int{codes[i]}), 127);
  }
}

TEST(Codes, LargestAndSmallestNumbersAndZeros) {
  for (const float size : {0.0f, 1e-45f, 1e-38f, 1e-30f, 1.0f, 1e30f, 3e38f}) {
    const std::vector<float> row{size, -size, size / 2, 0};
    std::vector<std::int8_t> codes(4, 99);
    const float scale = encode_as_it_is(row, codes.data());
    ASSERT_TRUE(std::isfinite(scale) && scale > 0) << size;
    for (std::size_t i = 0; i < row.size(); ++i)
      EXPECT_NEAR(static_cast<float>(codes[i]) * scale, row[i], 0.501f * scale) << size << ", " << i;
    if (size >= 1e-30f) {
      EXPECT_EQ(codes[0], 127) << size;
      EXPECT_EQ(codes[1], -127) << size;
    }
  }
}

TEST(Codes, WhatIsNoNumberIsSeen) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -HUGE_VALF, 3e38f}) {
    std::vector<float> row(256, bad == 3e38f ? bad : 1.0f);  // the sums of the last overflow
    row[17] = bad;
    std::vector<std::int8_t> codes(row.size());
    EXPECT_TRUE(std::isnan(encode_row(row, codes.data()))) << bad;
  }
}

}  // namespace
}  // namespace zoe
