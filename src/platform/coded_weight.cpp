#include "platform/coded_weight.h"

#include <cstring>
#include <vector>

#include "base/codes.h"
#include "base/error.h"

namespace zoe {

std::size_t coded_scales_offset(const Type& weight) {
  constexpr std::size_t kAlignment = 256;
  return (static_cast<std::size_t>(weight.shape.count()) + kAlignment - 1) / kAlignment * kAlignment;
}

std::size_t coded_bytes(const Type& weight) {
  return coded_scales_offset(weight) + static_cast<std::size_t>(weight.shape.dim(0)) * sizeof(float);
}

float encode_weight_row(const Type& weight, const WeightReader& source, std::int64_t row, std::span<float> numbers,
                        std::int8_t* codes) {
  const auto columns = static_cast<std::size_t>(weight.shape.dim(1));
  ZOE_INTERNAL_CHECK(numbers.size() >= 2 * columns);
  const std::span<float> wide = numbers.first(columns);
  const auto first = row * weight.shape.dim(1), count = weight.shape.dim(1);
  if (weight.dtype == DType::f32) {
    source.read(first, count, DType::f32, wide.data());
  } else {
    std::byte* const narrow = reinterpret_cast<std::byte*>(numbers.data() + columns);
    source.read(first, count, weight.dtype, narrow);
    convert(narrow, weight.dtype, reinterpret_cast<std::byte*>(wide.data()), DType::f32, columns);
  }
  return encode_row(wide, codes);
}

void pack_coded(const Type& weight, const WeightReader& source, std::byte* packed) {
  const std::int64_t rows = weight.shape.dim(0), columns = weight.shape.dim(1);
  std::vector<float> numbers(2 * static_cast<std::size_t>(columns));
  std::byte* const scales = packed + coded_scales_offset(weight);
  for (std::int64_t row = 0; row < rows; ++row) {
    const float scale = encode_weight_row(weight, source, row, numbers, reinterpret_cast<std::int8_t*>(packed) + row * columns);
    std::memcpy(scales + static_cast<std::size_t>(row) * sizeof scale, &scale, sizeof scale);
  }
}

}  // namespace zoe
