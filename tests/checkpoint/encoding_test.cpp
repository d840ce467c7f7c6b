// Stored bytes to numbers, against what PyTorch makes of them (tests/fixtures/record_encodings.py).
#include "checkpoint/encoding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"
#include "checkpoint/checkpoint.h"

namespace zoe {
namespace {

std::vector<float> read(const WeightReader& weight, std::int64_t begin, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  weight.read(begin, count, DType::f32, values.data());
  return values;
}

// Equal bits, but for NaN, which need only be one.
void expect_same(const std::vector<float>& got, const std::vector<float>& expected, const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(expected[i])) {
      ASSERT_TRUE(std::isnan(got[i])) << what << " " << i;
      continue;
    }
    ASSERT_EQ(std::bit_cast<std::uint32_t>(got[i]), std::bit_cast<std::uint32_t>(expected[i])) << what << " " << i;
  }
}

class Encodings : public ::testing::TestWithParam<const char*> {
 protected:
  const Checkpoint file{std::string(ZOE_FIXTURES) + "/checkpoints/encodings.safetensors"};
  WeightPtr weight(const std::string& name) const { return weight_of(*file.find(name), file.where()); }
};

TEST_P(Encodings, AreWidenedAsByPyTorch) {
  const WeightPtr stored = weight(GetParam()), expected = weight(std::string(GetParam()) + ".f32");
  const std::int64_t count = stored->count();
  ASSERT_GE(count, 12);
  const std::vector<float> values = read(*expected, 0, count);
  expect_same(read(*stored, 0, count), values, GetParam());
  // The same from the middle, and rounded to the narrow types.
  expect_same(read(*stored, 3, count - 5), {values.begin() + 3, values.end() - 2}, GetParam());
  std::vector<std::uint16_t> narrow(static_cast<std::size_t>(count));
  stored->read(0, count, DType::bf16, narrow.data());
  for (std::size_t i = 0; i < narrow.size(); ++i) {
    if (std::isnan(values[i])) continue;
    ASSERT_EQ(narrow[i], f32_to_bf16(values[i])) << GetParam() << " " << i;
  }
  stored->read(0, count, DType::f16, narrow.data());
  for (std::size_t i = 0; i < narrow.size(); ++i) {
    if (std::isnan(values[i])) continue;
    ASSERT_EQ(narrow[i], f32_to_f16(values[i])) << GetParam() << " " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, Encodings, ::testing::Values("f8_e4m3", "f8_e5m2", "f64", "f16", "bf16"));

TEST(Encoding, TypesThatHoldNoWeightsAreKnownAndRefused) {
  const Checkpoint file(std::string(ZOE_FIXTURES) + "/checkpoints/encodings.safetensors");
  for (const std::string name : {"u8", "i8", "bool", "i64"}) {
    ASSERT_NE(file.find(name), nullptr) << name;
    try {
      weight_of(*file.find(name), "part");
      FAIL() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::unsupported);
      EXPECT_NE(std::string(error.what()).find("[part] unsupported dtype of \"" + name + "\""), std::string::npos) << error.what();
    }
  }
}

TEST(Encoding, OnlyBytesThatAreTheElementsAreHandedOutAsTheyAre) {
  const Checkpoint file(std::string(ZOE_FIXTURES) + "/checkpoints/encodings.safetensors");
  const WeightPtr bf16 = weight_of(*file.find("bf16"), "part"), f8 = weight_of(*file.find("f8_e4m3"), "part");
  EXPECT_EQ(bf16->dense(DType::bf16), file.find("bf16")->bytes.data());
  EXPECT_EQ(bf16->dense(DType::f32), nullptr);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) EXPECT_EQ(f8->dense(dtype), nullptr);
}

}  // namespace
}  // namespace zoe
