#include "base/dtype.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace zoe {

float f16_to_f32(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1fu, mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // zero and subnormals
  return sign ? -magnitude : magnitude;
}

std::uint16_t f32_to_f16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // rounds to infinity
  if (magnitude < 0x38800000u) {  // subnormal result: let the float adder round at 2^-24
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(aligned) - std::bit_cast<std::uint32_t>(0.5f)));
  }
  return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13));
}

void convert(const void* src, DType src_dtype, void* dst, DType dst_dtype, std::size_t count) {
  if (src_dtype == dst_dtype) {
    if (count > 0) std::memcpy(dst, src, count * size_of(src_dtype));
    return;
  }
  if (reinterpret_cast<std::uintptr_t>(src) % size_of(src_dtype) != 0) {
    alignas(64) std::array<std::byte, 4096> aligned;
    const std::size_t step = aligned.size() / size_of(src_dtype);
    for (std::size_t i = 0; i < count; i += step) {
      const std::size_t n = std::min(step, count - i);
      std::memcpy(aligned.data(), static_cast<const std::byte*>(src) + i * size_of(src_dtype), n * size_of(src_dtype));
      convert(aligned.data(), src_dtype, static_cast<std::byte*>(dst) + i * size_of(dst_dtype), dst_dtype, n);
    }
    return;
  }
  const auto* src16 = static_cast<const std::uint16_t*>(src);
  const auto* src32 = static_cast<const float*>(src);
  const auto* src8 = static_cast<const std::uint8_t*>(src);
  auto* dst8 = static_cast<std::uint8_t*>(dst);
  auto* dst16 = static_cast<std::uint16_t*>(dst);
  auto* dst32 = static_cast<float*>(dst);
  const auto each = [count](auto&& body) {
    for (std::size_t i = 0; i < count; ++i) body(i);
  };
  if (src_dtype == DType::bf16 && dst_dtype == DType::f32) return each([&](std::size_t i) { dst32[i] = bf16_to_f32(src16[i]); });
  if (src_dtype == DType::f32 && dst_dtype == DType::bf16) return each([&](std::size_t i) { dst16[i] = f32_to_bf16(src32[i]); });
  if (src_dtype == DType::f16 && dst_dtype == DType::f32) return each([&](std::size_t i) { dst32[i] = f16_to_f32(src16[i]); });
  if (src_dtype == DType::f32 && dst_dtype == DType::f16) return each([&](std::size_t i) { dst16[i] = f32_to_f16(src32[i]); });
  if (src_dtype == DType::f32 && dst_dtype == DType::u8) return each([&](std::size_t i) { dst8[i] = f32_to_u8(src32[i]); });
  if (src_dtype == DType::u8 && dst_dtype == DType::f32) return each([&](std::size_t i) { dst32[i] = src8[i]; });
  const auto* src_i8 = static_cast<const std::int8_t*>(src);
  auto* dst_i8 = static_cast<std::int8_t*>(dst);
  if (src_dtype == DType::f32 && dst_dtype == DType::i8) return each([&](std::size_t i) { dst_i8[i] = f32_to_i8(src32[i]); });
  if (src_dtype == DType::i8 && dst_dtype == DType::f32) return each([&](std::size_t i) { dst32[i] = src_i8[i]; });
  if (src_dtype == DType::f16 && dst_dtype == DType::bf16)
    return each([&](std::size_t i) { dst16[i] = f32_to_bf16(f16_to_f32(src16[i])); });
  if (src_dtype == DType::bf16 && dst_dtype == DType::f16)
    return each([&](std::size_t i) { dst16[i] = f32_to_f16(bf16_to_f32(src16[i])); });
  fail(ErrorKind::internal, "convert", "no conversion from {} to {}", name(src_dtype), name(dst_dtype));
}

}  // namespace zoe
