// A palette for many frames, and frames mapped to it. Internal to this folder.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace zoe {

using Rgb = std::array<std::uint8_t, 3>;

// At most `max_colours` colours for the pixels of all frames ([..,3] each), by median cut: the set of colours with the largest
// squared error is split at its mean along its widest axis until there are enough; each colour of the palette is the mean of its
// set.
std::vector<Rgb> make_palette(std::span<const std::vector<std::uint8_t>> frames, std::size_t max_colours);

// The nearest colour of a palette (up to 256 colours) to each pixel, after an ordered dither.
class PaletteMap {
 public:
  explicit PaletteMap(std::vector<Rgb> palette);
  // rgb: [height,width,3]; out: rows of `stride` bytes.
  void map(std::span<const std::uint8_t> rgb, int width, std::uint8_t* out, std::ptrdiff_t stride);

 private:
  std::uint8_t nearest(int r, int g, int b);

  std::vector<Rgb> palette_;
  std::vector<std::int16_t> nearest_;  // by the upper 6 bits of r, g and b; -1: not looked up yet
};

}  // namespace zoe
