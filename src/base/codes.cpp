#include "base/codes.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace zoe {

namespace {

// A group's pass over numbers that lie `kStride` apart.
template <std::int64_t kStride>
void pass(float* x, std::int64_t size) {
  for (float* const end = x + size; x < end; x += 4 * kStride)
    for (std::int64_t i = 0; i < kStride; ++i) {
      float &a = x[i], &b = x[i + kStride], &c = x[i + 2 * kStride], &d = x[i + 3 * kStride];
      const float total = (a + b) + (c + d);
      const float first = total - 2 * d, second = total - 2 * c;
      c = total - 2 * b;
      d = total - 2 * a;
      a = first;
      b = second;
    }
}

// NaN above infinity above all numbers: the order of absolute values as bits.
float largest_of(std::span<const float> row) {
  std::uint32_t most = 0;
  for (const float x : row) most = std::max(most, std::bit_cast<std::uint32_t>(x) & 0x7fffffffu);
  return std::bit_cast<float>(most);
}

// To the nearest, ties to even, of what is well below 2^22 in size.
float nearest(float x) {
  constexpr float kShift = 0x1.8p23f;
  return (x + kShift) - kShift;
}

}  // namespace

void rotate_row(std::span<float> row) {
  const auto count = static_cast<std::int64_t>(row.size());
  const std::int64_t size = rotation_of(count);
  if (size == 1) return;
  const float factor = 1 / std::sqrt(static_cast<float>(size));  // a power of two
  for (std::int64_t begin = 0; begin < count; begin += size) {
    float* const group = row.data() + begin;
    pass<1>(group, size);
    if (size >= 16) pass<4>(group, size);
    if (size >= 64) pass<16>(group, size);
    if (size >= 256) pass<64>(group, size);
    for (std::int64_t i = 0; i < size; ++i) group[i] *= factor;
  }
}

CodeScale code_scale(float largest) {
  constexpr float kMost = 127, kLeast = 1e-30f;
  if (!std::isfinite(largest)) return {std::numeric_limits<float>::quiet_NaN(), 0};
  const float range = std::max(largest, kLeast);
  return {range / kMost, kMost / range};
}

float encode_row(std::span<float> row, std::int8_t* codes) {
  rotate_row(row);
  return encode_as_it_is(row, codes);
}

float encode_as_it_is(std::span<const float> row, std::int8_t* codes) {
  const auto [scale, inverse] = code_scale(largest_of(row));
  if (inverse == 0) std::fill_n(codes, row.size(), std::int8_t{0});
  else
    for (std::size_t i = 0; i < row.size(); ++i) codes[i] = static_cast<std::int8_t>(nearest(row[i] * inverse));
  return scale;
}

}  // namespace zoe
