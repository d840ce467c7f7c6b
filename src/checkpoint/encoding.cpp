#include "checkpoint/encoding.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "base/error.h"

namespace zoe {

namespace {

// Sign, exponent and mantissa of a byte; the values of both formats are exact in f32.
constexpr float f8_value(std::uint32_t byte, int exponent_bits, int mantissa_bits, bool has_infinity) {
  const std::uint32_t exponent = (byte >> mantissa_bits) & ((1u << exponent_bits) - 1),
                      mantissa = byte & ((1u << mantissa_bits) - 1);
  const bool is_top = exponent == (1u << exponent_bits) - 1;
  const bool is_nan = has_infinity ? is_top && mantissa != 0 : is_top && mantissa == (1u << mantissa_bits) - 1;
  const std::uint32_t sign = (byte & 0x80u) << 24;
  if (is_nan) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (has_infinity && is_top) return std::bit_cast<float>(sign | 0x7f800000u);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  float value = static_cast<float>(mantissa);
  int power = 1 - bias - mantissa_bits;
  if (exponent != 0) {
    value += static_cast<float>(1u << mantissa_bits);
    power += static_cast<int>(exponent) - 1;
  }
  for (; power > 0; --power) value *= 2.0f;
  for (; power < 0; ++power) value *= 0.5f;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
}

template <int exponent_bits, int mantissa_bits, bool has_infinity>
void decode_f8(const std::byte* bytes, std::int64_t count, float* out) {
  static constexpr auto kValues = [] {
    std::array<float, 256> values{};
    for (std::uint32_t i = 0; i < 256; ++i) values[i] = f8_value(i, exponent_bits, mantissa_bits, has_infinity);
    return values;
  }();
  for (std::int64_t i = 0; i < count; ++i) out[i] = kValues[static_cast<std::size_t>(bytes[i])];
}

void decode_f64(const std::byte* bytes, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    double value;
    std::memcpy(&value, bytes + i * 8, sizeof value);
    out[i] = static_cast<float>(value);
  }
}

void decode_i8(const std::byte* bytes, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(static_cast<std::int8_t>(bytes[i]));
}

void decode_f4(const std::byte* bytes, std::int64_t count, float* out) {
  constexpr std::array<float, 16> kValues{0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
  for (std::int64_t i = 0; i < count; i += 2) {
    const auto byte = static_cast<std::size_t>(bytes[i / 2]);
    out[i] = kValues[byte >> 4];
    out[i + 1] = kValues[byte & 15];
  }
}

constexpr std::array kScaledEncodings{
    Encoding{"I8", 1, 1, {}, decode_i8},
    Encoding{"F4_E2M1", 2, 1, {}, decode_f4},
};

constexpr std::array kSafetensorsEncodings{
    Encoding{"F32", 1, 4, DType::f32, nullptr},
    Encoding{"F16", 1, 2, DType::f16, nullptr},
    Encoding{"BF16", 1, 2, DType::bf16, nullptr},
    Encoding{"F64", 1, 8, {}, decode_f64},
    Encoding{"F8_E4M3", 1, 1, {}, decode_f8<4, 3, false>},
    Encoding{"F8_E5M2", 1, 1, {}, decode_f8<5, 2, true>},
    Encoding{"F8_E8M0", 1, 1, {}, nullptr},
    Encoding{"I64", 1, 8, {}, nullptr},
    Encoding{"I32", 1, 4, {}, nullptr},
    Encoding{"I16", 1, 2, {}, nullptr},
    Encoding{"I8", 1, 1, {}, nullptr},
    Encoding{"U64", 1, 8, {}, nullptr},
    Encoding{"U32", 1, 4, {}, nullptr},
    Encoding{"U16", 1, 2, {}, nullptr},
    Encoding{"U8", 1, 1, {}, nullptr},
    Encoding{"BOOL", 1, 1, {}, nullptr},
};

}  // namespace

const Encoding* safetensors_encoding(std::string_view name) {
  const auto* const found = std::find_if(kSafetensorsEncodings.begin(), kSafetensorsEncodings.end(),
                                         [&](const Encoding& encoding) { return encoding.name == name; });
  return found == kSafetensorsEncodings.end() ? nullptr : found;
}

const Encoding* scaled_encoding(std::string_view name) {
  const auto* const found = std::find_if(kScaledEncodings.begin(), kScaledEncodings.end(),
                                         [&](const Encoding& encoding) { return encoding.name == name; });
  return found == kScaledEncodings.end() ? nullptr : found;
}

void decode(const Encoding& encoding, const std::byte* blocks, std::int64_t begin, std::int64_t count, DType dtype, void* out) {
  auto* to = static_cast<std::byte*>(out);
  if (encoding.dtype) {
    convert(blocks + encoding.size_bytes(begin), *encoding.dtype, to, dtype, static_cast<std::size_t>(count));
    return;
  }
  ZOE_INTERNAL_CHECK(encoding.decode);
  constexpr std::int64_t kPiece = 1024;  // a multiple of every block
  alignas(64) std::array<float, kPiece> wide;
  while (count > 0) {
    const std::int64_t first = begin / encoding.block_elements * encoding.block_elements, skipped = begin - first;
    const std::int64_t now = std::min(count, kPiece - skipped);
    const std::int64_t whole = (skipped + now + encoding.block_elements - 1) / encoding.block_elements * encoding.block_elements;
    const std::byte* from = blocks + encoding.size_bytes(first);
    if (dtype == DType::f32 && skipped == 0 && whole == now) {
      encoding.decode(from, now, reinterpret_cast<float*>(to));
    } else {
      encoding.decode(from, whole, wide.data());
      convert(wide.data() + skipped, DType::f32, to, dtype, static_cast<std::size_t>(now));
    }
    begin += now;
    count -= now;
    to += static_cast<std::size_t>(now) * size_of(dtype);
  }
}

}  // namespace zoe
