#include "pipeline/picture_tiles.h"

#include <algorithm>

#include "base/error.h"

namespace zoe {

namespace {

constexpr std::int64_t kAligned = 4;

// Where the window of a tile begins that reaches so far around it, and how many of the picture's rows or columns that are.
std::int64_t window_begin(std::int64_t of_tile, std::int64_t reach) {
  return std::max<std::int64_t>(0, (of_tile - reach) / kAligned * kAligned);
}
std::int64_t window_extent(std::int64_t of_tile, std::int64_t tile, std::int64_t reach, std::int64_t extent) {
  return std::min(extent, of_tile + tile + reach) - window_begin(of_tile, reach);
}
// So that the last one begins at a multiple, too.
std::int64_t aligned_window(std::int64_t window, std::int64_t extent) { return window + (extent - window) % kAligned; }

struct Axis {
  std::int64_t extent, tile, window = 0;

  // One at the edge has something around it on one side only: where there are two, windows are the smaller for it.
  Axis(std::int64_t all, std::int64_t count, std::int64_t reach) : extent(all), tile((all + count - 1) / count) {
    for (std::int64_t of_tile = 0; of_tile < extent; of_tile += tile)
      window = std::max(window, window_extent(of_tile, tile, reach, extent));
    window = aligned_window(window, extent);
  }
  std::int64_t begin(std::int64_t of_tile, std::int64_t reach) const {
    return std::min(window_begin(of_tile, reach), extent - window);
  }
};

}  // namespace

PictureTiles lay_out_tiles(std::int64_t height, std::int64_t width, std::int64_t count, std::int64_t reach) {
  ZOE_INTERNAL_CHECK(height > 0 && width > 0 && count > 0 && reach >= 0);
  PictureTiles best;
  for (std::int64_t rows = 1; rows <= count; ++rows) {
    if (count % rows != 0) continue;
    const Axis down(height, rows, reach), across(width, count / rows, reach);
    if (!best.tiles.empty() && down.window * across.window >= best.window_height * best.window_width) continue;
    best = {down.window, across.window, {}};
    for (std::int64_t top = 0; top < height; top += down.tile)
      for (std::int64_t left = 0; left < width; left += across.tile)
        best.tiles.push_back({top, left, std::min(down.tile, height - top), std::min(across.tile, width - left),
                              down.begin(top, reach), across.begin(left, reach)});
  }
  return best;
}

PictureTiles doubled(const PictureTiles& tiles, std::int64_t height, std::int64_t width, std::int64_t reach) {
  PictureTiles made;
  for (PictureTile tile : tiles.tiles) {
    for (std::int64_t PictureTile::*number : {&PictureTile::top, &PictureTile::left, &PictureTile::height, &PictureTile::width})
      tile.*number *= 2;
    made.window_height = std::max(made.window_height, window_extent(tile.top, tile.height, reach, height));
    made.window_width = std::max(made.window_width, window_extent(tile.left, tile.width, reach, width));
    made.tiles.push_back(tile);
  }
  made.window_height = std::min(aligned_window(made.window_height, height), 2 * tiles.window_height);
  made.window_width = std::min(aligned_window(made.window_width, width), 2 * tiles.window_width);
  for (std::size_t i = 0; i < made.tiles.size(); ++i) {
    PictureTile& tile = made.tiles[i];
    const std::int64_t top = 2 * tiles.tiles[i].window_top, left = 2 * tiles.tiles[i].window_left;
    tile.window_top = std::clamp(window_begin(tile.top, reach), top, top + 2 * tiles.window_height - made.window_height);
    tile.window_left = std::clamp(window_begin(tile.left, reach), left, left + 2 * tiles.window_width - made.window_width);
  }
  return made;
}

}  // namespace zoe
