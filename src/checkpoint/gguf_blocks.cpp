#include "checkpoint/gguf_blocks.h"

#include <array>
#include <cstring>
#include <utility>

namespace zoe {

namespace {

// In all of these: d, m and dmin are f16; q are small integers. Products are of two f32 at a time, in gguf-py's order.

std::uint32_t byte_at(const std::byte* bytes, std::int64_t i) { return std::to_integer<std::uint32_t>(bytes[i]); }
float f16_at(const std::byte* bytes, std::int64_t i) {
  return f16_to_f32(static_cast<std::uint16_t>(byte_at(bytes, i) | byte_at(bytes, i + 1) << 8));
}
float signed_at(const std::byte* bytes, std::int64_t i) { return static_cast<float>(static_cast<std::int8_t>(byte_at(bytes, i))); }
std::uint32_t low(std::uint32_t byte) { return byte & 15; }
std::uint32_t high(std::uint32_t byte) { return byte >> 4; }
float number(std::uint32_t value, int minus = 0) { return static_cast<float>(static_cast<int>(value) - minus); }

// Values of the nibbles of IQ4_NL and IQ4_XS.
constexpr std::array<float, 16> kNonlinear{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

constexpr std::int64_t kSmall = 32, kLarge = 256;  // elements of a block

// Calls block(bytes, out) for each block.
template <std::int64_t elements, std::int64_t bytes, void (*block)(const std::byte*, float*)>
void each_block(const std::byte* from, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; i += elements, from += bytes) block(from, out + i);
}

// 16 bytes of nibbles, the low ones first: out[i] = value(nibble, i).
template <class Value>
void each_nibble(const std::byte* quants, float* out, const Value& value) {
  for (int i = 0; i < 16; ++i) {
    const std::uint32_t byte = byte_at(quants, i);
    out[i] = value(low(byte), i);
    out[i + 16] = value(high(byte), i + 16);
  }
}

// d, qs[16]
void q4_0(const std::byte* block, float* out) {
  const float d = f16_at(block, 0);
  each_nibble(block + 2, out, [&](std::uint32_t q, int) { return d * number(q, 8); });
}
// d, m, qs[16]
void q4_1(const std::byte* block, float* out) {
  const float d = f16_at(block, 0), m = f16_at(block, 2);
  each_nibble(block + 4, out, [&](std::uint32_t q, int) { return d * number(q) + m; });
}

// Bit i of four bytes is the fifth bit of element i.
std::uint32_t fifth_bit(const std::byte* bits, int i) { return (byte_at(bits, i / 8) >> (i % 8) & 1) << 4; }

// d, qh[4], qs[16]
void q5_0(const std::byte* block, float* out) {
  const float d = f16_at(block, 0);
  each_nibble(block + 6, out, [&](std::uint32_t q, int i) { return d * number(q | fifth_bit(block + 2, i), 16); });
}
// d, m, qh[4], qs[16]
void q5_1(const std::byte* block, float* out) {
  const float d = f16_at(block, 0), m = f16_at(block, 2);
  each_nibble(block + 8, out, [&](std::uint32_t q, int i) { return d * number(q | fifth_bit(block + 4, i)) + m; });
}
// d, qs[32]
void q8_0(const std::byte* block, float* out) {
  const float d = f16_at(block, 0);
  for (int i = 0; i < kSmall; ++i) out[i] = d * signed_at(block, 2 + i);
}
// d, qs[16]
void iq4_nl(const std::byte* block, float* out) {
  const float d = f16_at(block, 0);
  each_nibble(block + 2, out, [&](std::uint32_t q, int) { return d * kNonlinear[q]; });
}

// Elements of a large block are two halves of four groups of 32; a group's two bits lie at 2 * group of its half's 32 bytes.
std::uint32_t two_bits(const std::byte* quants, int i) { return byte_at(quants, i / 128 * 32 + i % 32) >> (i % 128 / 32 * 2) & 3; }

// scales[16], qs[64], d, dmin
void q2_k(const std::byte* block, float* out) {
  const float d = f16_at(block, 80), dmin = f16_at(block, 82);
  for (int k = 0; k < 16; ++k) {
    const std::uint32_t scale = byte_at(block, k);
    const float by = d * number(low(scale)), less = dmin * number(high(scale));
    for (int i = 16 * k; i < 16 * k + 16; ++i) out[i] = by * number(two_bits(block + 16, i)) - less;
  }
}
// hmask[32], qs[64], scales[12], d
void q3_k(const std::byte* block, float* out) {
  const float d = f16_at(block, 108);
  const std::byte* const scales = block + 96;
  for (int k = 0; k < 16; ++k) {
    const std::uint32_t four = byte_at(scales, k % 8) >> (k / 8 * 4) & 15, two = byte_at(scales, 8 + k % 4) >> (k / 4 * 2) & 3;
    const float by = d * number(four | two << 4, 32);
    for (int i = 16 * k; i < 16 * k + 16; ++i) {
      const bool is_high = byte_at(block, i % 32) >> (i / 32) & 1;
      out[i] = by * number(two_bits(block + 32, i), is_high ? 0 : 4);
    }
  }
}

// Six bits of scale and of minimum for group j of 32, in twelve bytes.
std::pair<std::uint32_t, std::uint32_t> scale_and_minimum(const std::byte* b, int j) {
  if (j < 4) return {byte_at(b, j) & 63, byte_at(b, j + 4) & 63};
  return {low(byte_at(b, j + 4)) | byte_at(b, j - 4) >> 6 << 4, high(byte_at(b, j + 4)) | byte_at(b, j) >> 6 << 4};
}

// d, dmin, scales[12], qs[128]
void q4_k(const std::byte* block, float* out) {
  const float d = f16_at(block, 0), dmin = f16_at(block, 2);
  for (int j = 0; j < 8; ++j) {
    const auto [scale, minimum] = scale_and_minimum(block + 4, j);
    const float by = d * number(scale), less = dmin * number(minimum);
    const std::byte* const quants = block + 16 + j / 2 * 32;
    for (int i = 0; i < 32; ++i) out[32 * j + i] = by * number(byte_at(quants, i) >> (j % 2 * 4) & 15) - less;
  }
}
// d, dmin, scales[12], qh[32], qs[128]
void q5_k(const std::byte* block, float* out) {
  const float d = f16_at(block, 0), dmin = f16_at(block, 2);
  for (int j = 0; j < 8; ++j) {
    const auto [scale, minimum] = scale_and_minimum(block + 4, j);
    const float by = d * number(scale), less = dmin * number(minimum);
    const std::byte* const quants = block + 48 + j / 2 * 32;
    for (int i = 0; i < 32; ++i) {
      const std::uint32_t fifth = (byte_at(block + 16, i) >> j & 1) << 4;
      out[32 * j + i] = by * number((byte_at(quants, i) >> (j % 2 * 4) & 15) | fifth) - less;
    }
  }
}
// ql[128], qh[64], scales[16] of int8, d
void q6_k(const std::byte* block, float* out) {
  const float d = f16_at(block, 208);
  for (int k = 0; k < 16; ++k) {
    const float by = d * signed_at(block, 192 + k);
    for (int i = 16 * k; i < 16 * k + 16; ++i) {
      const int half = i / 128, group = i % 128 / 32, lane = i % 32;
      const std::uint32_t four = byte_at(block, 64 * half + 32 * (group % 2) + lane) >> (group / 2 * 4) & 15;
      const std::uint32_t two = byte_at(block, 128 + 32 * half + lane) >> (2 * group) & 3;
      out[i] = by * number(four | two << 4, 32);
    }
  }
}
// d, scales_h u16, scales_l[4], qs[128]
void iq4_xs(const std::byte* block, float* out) {
  const float d = f16_at(block, 0);
  const std::uint32_t upper = byte_at(block, 2) | byte_at(block, 3) << 8;
  for (int k = 0; k < 8; ++k) {
    const std::uint32_t four = byte_at(block, 4 + k / 2) >> (k % 2 * 4) & 15, two = upper >> (2 * k) & 3;
    const float by = d * number(four | two << 4, 32);
    each_nibble(block + 8 + 16 * k, out + 32 * k, [&](std::uint32_t q, int) { return by * kNonlinear[q]; });
  }
}

struct Numbered {
  std::uint32_t type;
  Encoding encoding;
};

constexpr std::array kEncodings{
    Numbered{0, {"F32", 1, 4, DType::f32, nullptr}},
    Numbered{1, {"F16", 1, 2, DType::f16, nullptr}},
    Numbered{30, {"BF16", 1, 2, DType::bf16, nullptr}},
    Numbered{2, {"Q4_0", kSmall, 18, {}, each_block<kSmall, 18, q4_0>}},
    Numbered{3, {"Q4_1", kSmall, 20, {}, each_block<kSmall, 20, q4_1>}},
    Numbered{6, {"Q5_0", kSmall, 22, {}, each_block<kSmall, 22, q5_0>}},
    Numbered{7, {"Q5_1", kSmall, 24, {}, each_block<kSmall, 24, q5_1>}},
    Numbered{8, {"Q8_0", kSmall, 34, {}, each_block<kSmall, 34, q8_0>}},
    Numbered{10, {"Q2_K", kLarge, 84, {}, each_block<kLarge, 84, q2_k>}},
    Numbered{11, {"Q3_K", kLarge, 110, {}, each_block<kLarge, 110, q3_k>}},
    Numbered{12, {"Q4_K", kLarge, 144, {}, each_block<kLarge, 144, q4_k>}},
    Numbered{13, {"Q5_K", kLarge, 176, {}, each_block<kLarge, 176, q5_k>}},
    Numbered{14, {"Q6_K", kLarge, 210, {}, each_block<kLarge, 210, q6_k>}},
    Numbered{20, {"IQ4_NL", kSmall, 18, {}, each_block<kSmall, 18, iq4_nl>}},
    Numbered{23, {"IQ4_XS", kLarge, 136, {}, each_block<kLarge, 136, iq4_xs>}},
    Numbered{24, {"I8", 1, 1, {}, nullptr}},
    Numbered{25, {"I16", 1, 2, {}, nullptr}},
    Numbered{26, {"I32", 1, 4, {}, nullptr}},
    Numbered{27, {"I64", 1, 8, {}, nullptr}},
};

}  // namespace

const Encoding* gguf_encoding(std::uint32_t type) {
  if (type == 28) return safetensors_encoding("F64");
  for (const Numbered& each : kEncodings)
    if (each.type == type) return &each.encoding;
  return nullptr;
}

}  // namespace zoe
