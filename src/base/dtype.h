// Element types of tensors and graph values, and their conversions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace zoe {

// f32, bf16: what plans compute in. f16: stored weights only (widened when loaded). i32: token ids. u8: pixels, which are moved and
// cast, never computed in.
enum class DType : std::uint8_t { f32, bf16, f16, i32, u8 };

constexpr std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::i32: return 4;
    case DType::bf16:
    case DType::f16: return 2;
    case DType::u8: return 1;
  }
  return 0;
}
constexpr std::string_view name(DType dtype) {
  switch (dtype) {
    case DType::f32: return "f32";
    case DType::bf16: return "bf16";
    case DType::f16: return "f16";
    case DType::i32: return "i32";
    case DType::u8: return "u8";
  }
  return "?";
}

inline float bf16_to_f32(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

// Round to nearest, ties to even; a NaN stays a (quiet) NaN.
inline std::uint16_t f32_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Round to nearest, ties to even, and saturate: below 0 and NaN become 0, above 255 becomes 255. What a cast to u8 is; generated
// kernels and loops have the same as zoe_round_u8 (ir/math.inc).
inline std::uint8_t f32_to_u8(float value) {
  value = value > 0.0f ? value : 0.0f;  // written so that NaN becomes 0
  value = value < 255.0f ? value : 255.0f;
  // 1.5 * 2^23: the sum has no fraction bits, so the addition itself rounds, and the low byte is the integer.
  return static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(value + 12582912.0f));
}

float f16_to_f32(std::uint16_t bits);
std::uint16_t f32_to_f16(float value);

// Converts `count` elements between the three float types, and between f32 and u8. The ranges must not overlap; `src` may lie at
// any address, `dst` at a multiple of its size.
void convert(const void* src, DType src_dtype, void* dst, DType dst_dtype, std::size_t count);

}  // namespace zoe
