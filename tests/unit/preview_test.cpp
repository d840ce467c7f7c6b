// Latents to RGB.
#include "pipeline/preview.h"

#include <gtest/gtest.h>

#include <limits>

namespace zoe {
namespace {

TEST(LatentRgb, IsTheLinearMapOfAFrame) {
  // Two channels, two frames, 1x2: red follows the first, green the second, blue is an offset.
  const std::vector<std::array<double, 3>> map{{0.5, 0, 0}, {0, -1, 0}, {0, 0, 0.25}};
  const std::vector<float> latents{0, 1, 2, 3, /* second channel */ 0, 0.5F, -1, 9};
  EXPECT_EQ(latent_frame_rgb(latents, 2, 0, map), (std::vector<std::uint8_t>{128, 128, 159, 191, 64, 159}));
  EXPECT_EQ(latent_frame_rgb(latents, 2, 1, map), (std::vector<std::uint8_t>{255, 255, 159, 255, 0, 159}));
}

TEST(LatentRgb, IsBlackWhereLatentsAreNoNumbers) {
  const std::vector<std::array<double, 3>> map{{1, 1, -1}, {0, 0.5, 0}};
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(latent_frame_rgb(std::vector<float>{nan, 0, infinity, -infinity}, 1, 0, map),
            (std::vector<std::uint8_t>{0, 0, 0, 128, 191, 128, 255, 255, 0, 0, 0, 255}));
}

TEST(LatentRgb, IsKnownOfWansVaesAndOfTheToys) {
  const auto wan21 = latent_rgb(*published_model("wan2.2-i2v-a14b")), wan22 = latent_rgb(*published_model("wan2.2-ti2v-5b"));
  ASSERT_EQ(wan21.size(), 17U);
  EXPECT_EQ(wan21[2], (std::array<double, 3>{0.3568, 0.2548, 0.1747}));
  EXPECT_EQ(wan21[16], (std::array<double, 3>{-0.1835, -0.0868, -0.3360}));
  ASSERT_EQ(wan22.size(), 49U);
  EXPECT_EQ(wan22[39], (std::array<double, 3>{-0.3441, -0.3543, -0.2008}));
  EXPECT_EQ(wan22[48], (std::array<double, 3>{0.0317, -0.0878, -0.1388}));
  for (const char* toy : {"toy-wan", "toy-wan-i2v"})
    EXPECT_EQ(latent_rgb(read_model_config(std::filesystem::path(ZOE_MODELS) / toy)).size(), 17U);
  ModelConfig other = *published_model("wan2.1-t2v-1.3b");
  other.vae.latents_mean[3] += 0.1;
  EXPECT_TRUE(latent_rgb(other).empty());
}

}  // namespace
}  // namespace zoe
