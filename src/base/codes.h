// 8-bit codes of rows: each row of numbers is rotated, divided by a scale of its own and rounded to -127..127.
//
// The rotation multiplies each group of numbers by the regular Hadamard matrix H4 x H4 x ... / sqrt(size), H4 = [1 1 1 -1; 1 1 -1
// 1; 1 -1 1 1; -1 1 1 1] (ConvRot, arXiv 2512.03673), which is its own inverse: products of two rotated rows are those of the rows,
// and a large number in a few columns, which would leave the others with few codes, is spread over its group.
//
// All is f32 in the order that is written here, so that codes are the same on every device.
#pragma once

#include <cstdint>
#include <span>

namespace zoe {

constexpr std::int64_t kLargestRotation = 256;

// The numbers of a group: the largest power of 4 that divides `columns`, 4 to 256; 1 (nothing is rotated) if none does.
constexpr std::int64_t rotation_of(std::int64_t columns) {
  std::int64_t size = kLargestRotation;
  while (size > 1 && columns % size != 0) size /= 4;
  return size;
}

// Rotates a row in place: passes over numbers that lie 1, 4, 16 and 64 apart, each of a, b, c, d to t - 2d, t - 2c, t - 2b and
// t - 2a with t = (a + b) + (c + d); then all of them times 1 / sqrt(size).
void rotate_row(std::span<float> row);

// Of a row whose largest absolute value is `largest`: codes are nearest(x * inverse), ties to even, and stand for code * scale.
// NaN and infinity make the scale a NaN: no result that such a row has a part in is a number.
struct CodeScale {
  float scale, inverse;
};
CodeScale code_scale(float largest);

// Rotates a row in place and makes its codes; the scale. (The scale's codes of a row that is not finite are 0.)
float encode_row(std::span<float> row, std::int8_t* codes);
// Without the rotation.
float encode_as_it_is(std::span<const float> row, std::int8_t* codes);

}  // namespace zoe
