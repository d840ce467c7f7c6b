#include "pipeline/picture_tiles.h"

#include <algorithm>

#include "base/error.h"

namespace zoe {

namespace {

constexpr std::int64_t kAligned = 4;

struct Axis {
  std::int64_t extent, tile, window = 0;

  // One at the edge has something around it on one side only: where there are two, windows are the smaller for it.
  Axis(std::int64_t all, std::int64_t count, std::int64_t reach) : extent(all), tile((all + count - 1) / count) {
    for (std::int64_t of_tile = 0; of_tile < extent; of_tile += tile) {
      const std::int64_t from = std::max<std::int64_t>(0, (of_tile - reach) / kAligned * kAligned);
      window = std::max(window, std::min(extent, of_tile + tile + reach) - from);
    }
    window += (extent - window) % kAligned;  // so that the last one begins at a multiple, too
  }
  std::int64_t begin(std::int64_t of_tile, std::int64_t reach) const {
    const std::int64_t wanted = (of_tile - reach) / kAligned * kAligned;
    return std::clamp<std::int64_t>(wanted, 0, extent - window);
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

}  // namespace zoe
