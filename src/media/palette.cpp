#include "media/palette.h"

#include <algorithm>
#include <limits>

namespace zoe {

namespace {

// Colours are told apart by their upper 6 bits a channel; the sums keep the means exact.
constexpr int kBits = 6;
constexpr std::size_t kBins = std::size_t{1} << (3 * kBits);
std::size_t bin_of(int r, int g, int b) {
  constexpr int kDrop = 8 - kBits;
  return static_cast<std::size_t>((r >> kDrop) << (2 * kBits) | (g >> kDrop) << kBits | b >> kDrop);
}

struct Bin {
  std::uint64_t count = 0;
  std::array<std::uint64_t, 3> sum{};
  double mean(std::size_t axis) const { return static_cast<double>(sum[axis]) / static_cast<double>(count); }
};

// A set of bins, the axis along which they spread most, their mean on it, and their squared error on all axes.
struct Box {
  std::span<Bin> bins;
  std::array<double, 3> mean{};
  std::size_t axis = 0;
  double error = 0;

  explicit Box(std::span<Bin> content) : bins(content) {
    double count = 0;
    for (const Bin& bin : bins) count += static_cast<double>(bin.count);
    double largest = -1;
    for (std::size_t a = 0; a < 3; ++a) {
      double sum = 0, spread = 0;
      for (const Bin& bin : bins) sum += static_cast<double>(bin.sum[a]);
      mean[a] = sum / count;
      for (const Bin& bin : bins) spread += static_cast<double>(bin.count) * (bin.mean(a) - mean[a]) * (bin.mean(a) - mean[a]);
      if (spread > largest) {
        largest = spread;
        axis = a;
      }
      error += spread;
    }
    if (bins.size() == 1) error = 0;  // what rounding may leave of it
  }
};

// An 8x8 Bayer matrix: bits of x ^ y and y, interleaved and reversed. 0..63.
int bayer(int x, int y) {
  int value = 0;
  for (int bit = 0; bit < 3; ++bit) value = value << 2 | (((x ^ y) >> bit & 1) << 1) | (y >> bit & 1);
  return value;
}

}  // namespace

std::vector<Rgb> make_palette(std::span<const std::vector<std::uint8_t>> frames, std::size_t max_colours) {
  std::vector<Bin> bins(kBins);
  for (const auto& frame : frames)
    for (std::size_t i = 0; i + 2 < frame.size(); i += 3) {
      Bin& bin = bins[bin_of(frame[i], frame[i + 1], frame[i + 2])];
      ++bin.count;
      for (std::size_t a = 0; a < 3; ++a) bin.sum[a] += frame[i + a];
    }
  std::erase_if(bins, [](const Bin& bin) { return bin.count == 0; });

  std::vector<Box> boxes{Box(bins)};
  while (boxes.size() < max_colours) {
    Box& worst = *std::max_element(boxes.begin(), boxes.end(), [](const Box& a, const Box& b) { return a.error < b.error; });
    if (worst.error <= 0) break;
    const Box box = worst;
    const auto upper =
        std::partition(box.bins.begin(), box.bins.end(), [&](const Bin& bin) { return bin.mean(box.axis) <= box.mean[box.axis]; });
    const auto lower_count = static_cast<std::size_t>(upper - box.bins.begin());
    if (lower_count == 0 || lower_count == box.bins.size()) {  // equal but for rounding
      worst.error = 0;
      continue;
    }
    worst = Box(box.bins.first(lower_count));
    boxes.emplace_back(box.bins.subspan(lower_count));
  }

  std::vector<Rgb> palette;
  for (const Box& box : boxes) {
    Rgb colour;
    for (std::size_t a = 0; a < 3; ++a) colour[a] = static_cast<std::uint8_t>(box.mean[a] + 0.5);
    palette.push_back(colour);
  }
  return palette;
}

PaletteMap::PaletteMap(std::vector<Rgb> palette) : palette_(std::move(palette)), nearest_(kBins, -1) {}

std::uint8_t PaletteMap::nearest(int r, int g, int b) {
  std::int16_t& found = nearest_[bin_of(r, g, b)];
  if (found < 0) {
    // Of the middle of the bin, so that the answer does not depend on which pixel asked first.
    constexpr int kDrop = 8 - kBits, kMiddle = 1 << (kDrop - 1);
    const auto middle = [](int value) { return (value >> kDrop << kDrop) + kMiddle; };
    r = middle(r), g = middle(g), b = middle(b);
    int best = std::numeric_limits<int>::max();
    for (std::size_t i = 0; i < palette_.size(); ++i) {
      const int dr = palette_[i][0] - r, dg = palette_[i][1] - g, db = palette_[i][2] - b;
      const int distance = dr * dr + dg * dg + db * db;
      if (distance < best) {
        best = distance;
        found = static_cast<std::int16_t>(i);
      }
    }
  }
  return static_cast<std::uint8_t>(found);
}

void PaletteMap::map(std::span<const std::uint8_t> rgb, int width, std::uint8_t* out, std::ptrdiff_t stride) {
  const auto pixels = static_cast<int>(rgb.size() / 3);
  for (int i = 0; i < pixels; ++i) {
    const int x = i % width, y = i / width;
    // An ordered pattern stays where it is from frame to frame, so what does not move does not flicker (and compresses).
    const int dither = bayer(x & 7, y & 7) / 8 - 4;  // -4..3
    const std::uint8_t* pixel = rgb.data() + 3 * static_cast<std::size_t>(i);
    out[y * stride + x] = nearest(std::clamp(pixel[0] + dither, 0, 255), std::clamp(pixel[1] + dither, 0, 255),
                                  std::clamp(pixel[2] + dither, 0, 255));
  }
}

}  // namespace zoe
