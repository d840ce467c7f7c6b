#include "pipeline/picture_tiles.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "models/wan_vae/model.h"

namespace zoe {
namespace {

// Each pixel is in one tile, and what a tile's window shows reaches as far around it as the picture goes.
TEST(PictureTiles, CoverThePictureOnceWithEnoughAround) {
  for (const auto& [height, width, count, reach] : {std::tuple{90, 160, 2, 7},
                                                    {90, 160, 4, 7},
                                                    {90, 160, 8, 7},
                                                    {60, 104, 16, 7},
                                                    {8, 64, 2, 7},
                                                    {8, 8, 4, 7},
                                                    {33, 97, 6, 3},
                                                    {5, 7, 64, 0}}) {
    const PictureTiles tiles = lay_out_tiles(height, width, count, reach);
    std::vector<int> seen(static_cast<std::size_t>(height * width));
    for (const PictureTile& tile : tiles.tiles) {
      EXPECT_EQ(tile.window_top % 4, 0);
      EXPECT_EQ(tile.window_left % 4, 0);
      EXPECT_GE(tile.window_top, 0);
      EXPECT_GE(tile.window_left, 0);
      EXPECT_LE(tile.window_top + tiles.window_height, height);
      EXPECT_LE(tile.window_left + tiles.window_width, width);
      EXPECT_LE(tile.window_top, std::max<std::int64_t>(0, tile.top - reach));
      EXPECT_LE(tile.window_left, std::max<std::int64_t>(0, tile.left - reach));
      EXPECT_GE(tile.window_top + tiles.window_height, std::min<std::int64_t>(height, tile.top + tile.height + reach));
      EXPECT_GE(tile.window_left + tiles.window_width, std::min<std::int64_t>(width, tile.left + tile.width + reach));
      for (std::int64_t row = tile.top; row < tile.top + tile.height; ++row)
        for (std::int64_t column = tile.left; column < tile.left + tile.width; ++column)
          ++seen[static_cast<std::size_t>(row * width + column)];
    }
    EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), height * width) << height << "x" << width << " in " << count;
  }
}

// Where the picture is twice as large, windows have what is needed there, and nothing that the ones before had not.
TEST(PictureTiles, WindowsShrinkAsThePictureGrows) {
  for (const auto& [height, width, count] :
       {std::tuple{90, 160, 2}, {90, 160, 3}, {60, 104, 5}, {60, 104, 16}, {33, 97, 6}, {8, 64, 2}}) {
    PictureTiles outer = lay_out_tiles(height, width, count, 7);
    std::int64_t scale = 1;
    for (const std::int64_t reach : {6, 4}) {
      scale *= 2;
      const PictureTiles inner = doubled(outer, scale * height, scale * width, reach);
      ASSERT_EQ(inner.tiles.size(), outer.tiles.size());
      for (std::size_t i = 0; i < inner.tiles.size(); ++i) {
        const PictureTile &tile = inner.tiles[i], &before = outer.tiles[i];
        EXPECT_EQ(tile.top, 2 * before.top);
        EXPECT_EQ(tile.width, 2 * before.width);
        EXPECT_EQ(tile.window_top % 4, 0);
        EXPECT_EQ(tile.window_left % 4, 0);
        EXPECT_GE(tile.window_top, 2 * before.window_top);
        EXPECT_GE(tile.window_left, 2 * before.window_left);
        EXPECT_LE(tile.window_top + inner.window_height, 2 * (before.window_top + outer.window_height));
        EXPECT_LE(tile.window_left + inner.window_width, 2 * (before.window_left + outer.window_width));
        EXPECT_LE(tile.window_top, std::max<std::int64_t>(0, tile.top - reach));
        EXPECT_LE(tile.window_left, std::max<std::int64_t>(0, tile.left - reach));
        EXPECT_GE(tile.window_top + inner.window_height, std::min(scale * height, tile.top + tile.height + reach));
        EXPECT_GE(tile.window_left + inner.window_width, std::min(scale * width, tile.left + tile.width + reach));
      }
      outer = inner;
    }
  }
  const PictureTiles once = doubled(lay_out_tiles(90, 160, 2, 7), 180, 320, 6), twice = doubled(once, 360, 640, 4);
  EXPECT_EQ(once.window_width, 168);
  EXPECT_EQ(twice.window_width, 324);
}

TEST(PictureTiles, TheSmallestWindowsAreTaken) {
  const PictureTiles two = lay_out_tiles(90, 160, 2, 7), many = lay_out_tiles(90, 160, 16, 7);
  EXPECT_EQ(two.window_height, 90);         // the longer side is cut
  EXPECT_EQ(two.window_width, 80 + 7 + 1);  // the other side is the picture's edge
  EXPECT_LE(many.window_height * many.window_width, 45 * 62);
}

// The toy's levels have two residual blocks of two convolutions and, but for the last, one that doubles the picture: 5/2 + 5/4 +
// 5/8 latent pixels, rounded up.
TEST(PictureTiles, TheReachIsThatOfTheConvolutions) {
  const WanVaeConfig wan21 = parse_wan_vae_config(read_json_object(std::string(ZOE_MODELS) + "/toy-wan/vae/config.json", "config"));
  EXPECT_EQ(trace_wan_vae_decode_image_side(wan21, DType::f32, 1, 32, 32, true).reach, 5);
  EXPECT_EQ(trace_wan_vae_decode_image_side(wan21, DType::f32, 2, 8, 16, false).reach, 5);
}

}  // namespace
}  // namespace zoe
