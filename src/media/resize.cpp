// Pillow's resampling for 8 bits a channel (libImaging/Resample.c): its formulas, and its order of passes as its results show it.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"
#include "media/image.h"

namespace zoe {

namespace {

constexpr int kPrecisionBits = 32 - 8 - 2;  // 8 bits of the result, and sums that overshoot

double sinc(double x) {
  if (x == 0.0) return 1.0;
  x = x * std::numbers::pi;
  return std::sin(x) / x;
}

double lanczos(double x) { return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

struct Kernel {
  double (*value)(double);
  double support;
};

Kernel kernel_of(ResizeFilter filter) {
  if (filter == ResizeFilter::lanczos) return {lanczos, 3.0};
  return {bicubic, 2.0};
}

// What one pixel of the result takes of a line: `count` pixels from `begin` on.
struct Taps {
  int begin, count;
  const std::int32_t* weights;
};

class Weights {
 public:
  Weights(int from, int to, const Kernel& kernel) {
    const double scale = static_cast<double>(from) / to, filter_scale = std::max(scale, 1.0);
    const double support = kernel.support * filter_scale;
    most_ = static_cast<int>(std::ceil(support)) * 2 + 1;
    weights_.resize(static_cast<std::size_t>(to) * static_cast<std::size_t>(most_));
    std::vector<double> exact(static_cast<std::size_t>(most_));
    for (int out = 0; out < to; ++out) {
      const double center = (out + 0.5) * scale, inverse = 1.0 / filter_scale;
      const int begin = std::max(static_cast<int>(center - support + 0.5), 0);
      const int count = std::min(static_cast<int>(center + support + 0.5), from) - begin;
      double sum = 0;
      for (int i = 0; i < count; ++i) {
        exact[static_cast<std::size_t>(i)] = kernel.value((i + begin - center + 0.5) * inverse);
        sum += exact[static_cast<std::size_t>(i)];
      }
      std::int32_t* const row = weights_.data() + static_cast<std::size_t>(out) * static_cast<std::size_t>(most_);
      for (int i = 0; i < count; ++i) {
        const double weight = sum != 0.0 ? exact[static_cast<std::size_t>(i)] / sum : exact[static_cast<std::size_t>(i)];
        row[i] = static_cast<std::int32_t>((weight < 0 ? -0.5 : 0.5) + weight * (1 << kPrecisionBits));
      }
      ranges_.push_back({begin, count});
    }
  }
  Taps operator[](int out) const {
    const auto [begin, count] = ranges_[static_cast<std::size_t>(out)];
    return {begin, count, weights_.data() + static_cast<std::size_t>(out) * static_cast<std::size_t>(most_)};
  }

 private:
  int most_ = 0;
  std::vector<std::int32_t> weights_;
  std::vector<std::pair<int, int>> ranges_;
};

std::uint8_t rounded(std::int32_t sum) { return static_cast<std::uint8_t>(std::clamp(sum >> kPrecisionBits, 0, 255)); }
constexpr std::int32_t kHalf = 1 << (kPrecisionBits - 1);

Image resize_rows(const Image& image, int width, const Kernel& kernel) {
  const Weights weights(image.width, width, kernel);
  Image out = black_image(width, image.height);
  for (int y = 0; y < image.height; ++y) {
    const std::uint8_t* const from = image.row(y);
    std::uint8_t* to = out.row(y);
    for (int x = 0; x < width; ++x, to += 3) {
      const Taps taps = weights[x];
      std::int32_t sums[3] = {kHalf, kHalf, kHalf};
      const std::uint8_t* pixel = from + 3 * static_cast<std::ptrdiff_t>(taps.begin);
      for (int i = 0; i < taps.count; ++i, pixel += 3)
        for (int c = 0; c < 3; ++c) sums[c] += pixel[c] * taps.weights[i];
      for (int c = 0; c < 3; ++c) to[c] = rounded(sums[c]);
    }
  }
  return out;
}

Image resize_columns(const Image& image, int height, const Kernel& kernel) {
  const Weights weights(image.height, height, kernel);
  Image out = black_image(image.width, height);
  const std::size_t row = image.row_bytes();
  std::vector<std::int32_t> sums(row);
  for (int y = 0; y < height; ++y) {
    const Taps taps = weights[y];
    std::fill(sums.begin(), sums.end(), kHalf);
    for (int i = 0; i < taps.count; ++i) {
      const std::uint8_t* const from = image.row(taps.begin + i);
      const std::int32_t weight = taps.weights[i];
      for (std::size_t b = 0; b < row; ++b) sums[b] += from[b] * weight;
    }
    std::uint8_t* const to = out.row(y);
    for (std::size_t b = 0; b < row; ++b) to[b] = rounded(sums[b]);
  }
  return out;
}

}  // namespace

Image black_image(int width, int height) {
  Image image{width, height, {}};
  image.rgb.resize(static_cast<std::size_t>(height) * image.row_bytes());
  return image;
}

Image crop(const Image& image, int left, int top, int width, int height) {
  ZOE_INTERNAL_CHECK(left >= 0 && top >= 0 && width > 0 && height > 0 && left + width <= image.width &&
                     top + height <= image.height);
  Image part = black_image(width, height);
  for (int y = 0; y < height; ++y) std::copy_n(image.row(top + y) + 3 * left, part.row_bytes(), part.row(y));
  return part;
}

void paste(Image& image, int left, int top, const Image& part) {
  ZOE_INTERNAL_CHECK(left >= 0 && top >= 0 && left + part.width <= image.width && top + part.height <= image.height);
  for (int y = 0; y < part.height; ++y) std::copy_n(part.row(y), part.row_bytes(), image.row(top + y) + 3 * left);
}

Image resize(const Image& image, int width, int height, ResizeFilter filter) {
  ZOE_INTERNAL_CHECK(width > 0 && height > 0 && image.width > 0 && image.height > 0);
  const Kernel kernel = kernel_of(filter);
  const bool rows = width != image.width, columns = height != image.height;
  if (!rows && !columns) return image;
  if (!columns) return resize_rows(image, width, kernel);
  if (!rows) return resize_columns(image, height, kernel);
  // Where the height shrinks the most, columns come first: since Pillow 13; before, rows always did.
  const std::int64_t lost_rows = std::int64_t{image.height} - height, lost_columns = std::int64_t{image.width} - width;
  if (lost_rows > 0 && lost_rows > 2 * lost_columns) return resize_rows(resize_columns(image, height, kernel), width, kernel);
  return resize_columns(resize_rows(image, width, kernel), height, kernel);
}

}  // namespace zoe
