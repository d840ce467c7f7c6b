// Our quantisers against ggml's and gguf-py's, recorded by fixtures/record_quantizers.py.
#include "checkpoint/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "checkpoint/encoding.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;

const fs::path kFolder = fs::path(ZOE_FIXTURES) / "quantizers";

struct Type {
  std::string_view name;
  std::uint32_t number;
};
constexpr Type kTypes[] = {{"Q4_0", 2}, {"Q5_0", 6}, {"Q8_0", 8}, {"Q4_K", 12}, {"Q6_K", 14}};

std::vector<float> values_of(const TensorEntry& entry) {
  std::vector<float> values(static_cast<std::size_t>(entry.shape.count()));
  weight_of(entry, "inputs")->read(0, entry.shape.count(), DType::f32, values.data());
  return values;
}

std::vector<std::byte> encoded(std::uint32_t type, const std::vector<float>& values) {
  const Encoding& encoding = *gguf_encoding(type);
  std::vector<std::byte> blocks(static_cast<std::size_t>(encoding.size_bytes(static_cast<std::int64_t>(values.size()))));
  gguf_encoder(type)(values.data(), static_cast<std::int64_t>(values.size()), blocks.data());
  return blocks;
}

std::vector<float> round_trip(std::uint32_t type, const std::vector<float>& values) {
  std::vector<float> out(values.size());
  gguf_encoding(type)->decode(encoded(type, values).data(), 0, static_cast<std::int64_t>(values.size()), out.data());
  return out;
}

TEST(Quantize, ErrsNoMoreThanGgml) {
  const Checkpoint inputs(kFolder / "inputs.safetensors");
  std::ifstream file(kFolder / "rmse.json");
  const nlohmann::json recorded = nlohmann::json::parse(file);
  for (const auto& [key, of] : recorded.items()) {
    const std::string name = key.substr(0, key.find('/')), type = key.substr(key.find('/') + 1);
    const std::vector<float> values = values_of(*inputs.find(name));
    for (const Type& each : kTypes) {
      if (each.name != type) continue;
      const std::vector<float> widened = round_trip(each.number, values);
      double squares = 0;
      for (std::size_t i = 0; i < values.size(); ++i)
        squares += std::pow(static_cast<double>(widened[i]) - static_cast<double>(values[i]), 2);
      const double rmse = std::sqrt(squares / static_cast<double>(values.size()));
      for (const auto& [whose, theirs] : of.items()) {
        std::printf("%s: %.4f of the error of %s\n", key.c_str(), rmse / theirs.get<double>(), whose.c_str());
        EXPECT_LE(rmse, 1.05 * theirs.get<double>()) << key;
      }
    }
  }
}

TEST(Quantize, HasTheBitsOfGgmlInQ8AndOfTorchInE4m3) {
  const Checkpoint inputs(kFolder / "inputs.safetensors");
  for (const char* name : {"normal", "heavy_tails", "uniform", "positive", "mostly_zero"}) {
    const std::vector<float> values = values_of(*inputs.find(name));
    const TensorEntry &blocks = *inputs.find(std::string(name) + ".Q8_0"), &bytes = *inputs.find(std::string(name) + ".e4m3");
    const std::vector<std::byte> got = encoded(8, values);
    ASSERT_EQ(got.size(), blocks.bytes.size());
    EXPECT_TRUE(std::equal(got.begin(), got.end(), blocks.bytes.begin())) << name;
    for (std::size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(f32_to_f8_e4m3(values[i] * 300.0f), static_cast<std::uint8_t>(bytes.bytes[i])) << name << " " << i;
  }
}

TEST(Quantize, TakesWhatIsOdd) {
  std::vector<float> zeros(256), same(256, 0.3f), one(256), tiny(256, 1e-30f), large(256, -1e5f);
  one[100] = -5;
  for (const Type& type : kTypes) {
    EXPECT_EQ(round_trip(type.number, zeros), zeros) << type.name;
    for (const float value : round_trip(type.number, same)) EXPECT_NEAR(value, 0.3f, 0.003f) << type.name;
    const std::vector<float> spike = round_trip(type.number, one);
    EXPECT_NEAR(spike[100], -5, 0.1) << type.name;
    EXPECT_NEAR(spike[99], 0, 0.05) << type.name;
    for (const float value : round_trip(type.number, tiny)) EXPECT_NEAR(value, 0, 1e-6) << type.name;
    for (const float value : round_trip(type.number, large)) EXPECT_NEAR(value, -1e5f, 1e3f) << type.name;
  }
}

TEST(Quantize, RoundsToE4m3) {
  EXPECT_EQ(f32_to_f8_e4m3(0.0f), 0x00);
  EXPECT_EQ(f32_to_f8_e4m3(-0.0f), 0x80);
  EXPECT_EQ(f32_to_f8_e4m3(1.0f), 0x38);
  EXPECT_EQ(f32_to_f8_e4m3(448.0f), 0x7e);
  EXPECT_EQ(f32_to_f8_e4m3(1e9f), 0x7e);
  EXPECT_EQ(f32_to_f8_e4m3(-1e9f), 0xfe);
  EXPECT_EQ(f32_to_f8_e4m3(0x1p-9f), 0x01);
  EXPECT_EQ(f32_to_f8_e4m3(0x1p-10f), 0x00);  // a tie
  EXPECT_EQ(f32_to_f8_e4m3(0x1.8p-9f), 0x02);
  EXPECT_EQ(f32_to_f8_e4m3(0x1.fep-7f), 0x08);  // becomes the smallest normal number
}

}  // namespace
}  // namespace zoe
