// Element types of tensors and graph values, and their conversions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string_view>

namespace zoe {

// f32, bf16: what plans compute in. f16: stored weights only (widened when loaded). i32: token ids. u8: pixels, i8: codes; they are
// moved and cast, never computed in.
enum class DType : std::uint8_t { f32, bf16, f16, i32, u8, i8 };

// What there is to know of a dtype, a row each. Conversions are convert()'s, below; loops and preludes of generated code have a
// load and a store for each storage.
struct DTypeRow {
  DType dtype;
  std::string_view name;
  std::size_t bytes;
  // Generated code: the type of its elements, in every dialect's prelude, and the function that rounds an f32 to what it holds.
  // "": generated code has none of it; no rounding.
  std::string_view storage, round;
  bool is_float = false;  // nodes compute in it
  bool is_byte = false;   // whole numbers of 8 bits: casts are from and to f32
};
inline constexpr DTypeRow kDTypes[] = {
    {DType::f32, "f32", 4, "float", "", true},
    {DType::bf16, "bf16", 2, "bf16", "round_bf16", true},
    {DType::f16, "f16", 2, "", ""},
    {DType::i32, "i32", 4, "", ""},
    {DType::u8, "u8", 1, "byte", "zoe_round_u8", false, true},
    {DType::i8, "i8", 1, "sbyte", "zoe_round_i8", false, true},
};
constexpr const DTypeRow& dtype_row(DType dtype) { return kDTypes[static_cast<std::size_t>(dtype)]; }
static_assert([] {  // a row each, in the order of the names
  for (std::size_t i = 0; i < std::size(kDTypes); ++i)
    if (static_cast<std::size_t>(kDTypes[i].dtype) != i) return false;
  return std::size(kDTypes) == static_cast<std::size_t>(DType::i8) + 1;
}());

constexpr std::size_t size_of(DType dtype) { return dtype_row(dtype).bytes; }
constexpr std::string_view name(DType dtype) { return dtype_row(dtype).name; }
constexpr bool is_byte(DType dtype) { return dtype_row(dtype).is_byte; }

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

// The same for i8: below -128 and NaN become -128, above 127 becomes 127. zoe_round_i8 in generated kernels.
inline std::int8_t f32_to_i8(float value) {
  value = value > -128.0f ? value : -128.0f;
  value = value < 127.0f ? value : 127.0f;
  return static_cast<std::int8_t>(std::bit_cast<std::uint32_t>(value + 12582912.0f));
}

float f16_to_f32(std::uint16_t bits);
std::uint16_t f32_to_f16(float value);

// Converts `count` elements between the three float types, and between f32 and those of 8 bits. The ranges must not overlap; `src`
// may lie at any address, `dst` at a multiple of its size.
void convert(const void* src, DType src_dtype, void* dst, DType dst_dtype, std::size_t count);

}  // namespace zoe
