// A picture as tiles that overlap: each is seen through a window with so much around it that what is made of the tile is what the
// whole picture gives.
#pragma once

#include <cstdint>
#include <vector>

namespace zoe {

struct PictureTile {
  std::int64_t top, left, height, width;  // of the tile, in the picture
  std::int64_t window_top, window_left;   // where its window begins
};

struct PictureTiles {
  std::int64_t window_height = 0, window_width = 0;  // of every window: one plan serves all of them
  std::vector<PictureTile> tiles;                    // by rows; they cover the picture once

  // Overlapping, tiles must take a good deal less than `area` latent pixels at once to be worth their time.
  bool are_much_smaller(std::int64_t area) const { return window_height * window_width * 5 <= area * 4; }
};

// `count` tiles with the smallest windows, `reach` rows and columns around each, but for what lies outside the picture. Windows
// begin at multiples of 4, so that convolutions that work on small tiles of their own have them where they are in the whole
// picture.
PictureTiles lay_out_tiles(std::int64_t height, std::int64_t width, std::int64_t count, std::int64_t reach);

// The same tiles where the picture, now height x width, is twice as large, with windows that reach `reach` around them and lie in
// those given: what was needed further out is left out.
PictureTiles doubled(const PictureTiles& tiles, std::int64_t height, std::int64_t width, std::int64_t reach);

}  // namespace zoe
