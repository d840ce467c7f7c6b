// The initial noise against recorded bits of torch.randn.
#include "schedulers/noise.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

namespace zoe {
namespace {

std::uint32_t crc32(const std::vector<float>& values) {
  std::uint32_t crc = ~0u;
  for (const float value : values) {
    for (const auto byte : std::bit_cast<std::array<std::uint8_t, 4>>(value)) {
      crc ^= byte;
      for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1u) != 0 ? 0xedb88320u : 0u);
    }
  }
  return ~crc;
}

std::vector<float> draw(std::uint64_t seed, std::size_t count) {
  std::vector<float> values(count);
  standard_normal(seed, values);
  return values;
}

TEST(Noise, BitsOfPyTorch) {
  const auto cases = nlohmann::json::parse(std::ifstream(ZOE_FIXTURES "/schedulers/noise.json"));
  ASSERT_EQ(cases.size(), 7u * 13u);
  for (const auto& c : cases) {
    const auto seed = c["seed"].get<std::uint64_t>();
    const auto count = c["count"].get<std::size_t>();
    const auto expected = c["bits"].get<std::vector<std::uint32_t>>();
    SCOPED_TRACE(c["seed"].dump() + " x " + c["count"].dump());
    const auto values = draw(seed, count);
    EXPECT_EQ(crc32(values), c["crc32"].get<std::uint32_t>());
    for (std::size_t i = 0; i < expected.size(); ++i) {  // of large draws the first and last four
      const std::size_t at = expected.size() == count || i < 4 ? i : count - expected.size() + i;
      ASSERT_EQ(std::bit_cast<std::uint32_t>(values[at]), expected[i]) << "value " << at << " is " << values[at];
    }
  }
}

// Of 16, 40 and 33 values of one generator, one behind the other.
TEST(Noise, DrawsFollowOneAnother) {
  const auto expected = nlohmann::json::parse(std::ifstream(ZOE_FIXTURES "/schedulers/draws.json"));
  ASSERT_EQ(expected.size(), 3u);
  NormalNoise noise(42);
  for (const auto& bits : expected) {
    std::vector<float> values(bits.size());
    noise.draw(values);
    for (std::size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(std::bit_cast<std::uint32_t>(values[i]), bits[i].get<std::uint32_t>());
  }
}

TEST(Noise, OnlyTheLowHalfOfTheSeedCounts) {
  EXPECT_EQ(draw(7, 100), draw(7 + (std::uint64_t{1} << 40), 100));
  EXPECT_NE(draw(7, 100), draw(8, 100));
}

TEST(Noise, NothingAskedNothingWritten) { EXPECT_NO_THROW(standard_normal(0, {})); }

TEST(Noise, IsStandardNormal) {
  const auto values = draw(5, 1000003);
  double sum = 0, squares = 0;
  for (const float v : values) sum += v, squares += static_cast<double>(v) * v;
  EXPECT_NEAR(sum / 1000003, 0, 0.005);
  EXPECT_NEAR(squares / 1000003, 1, 0.005);
  EXPECT_TRUE(std::all_of(values.begin(), values.end(), [](float v) { return std::abs(v) < 6.0f; }));
}

}  // namespace
}  // namespace zoe
