#include "base/encoding.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"

namespace zoe {

namespace {

using Block = const unsigned char*;

constexpr std::array<float, 16> kNonlinear{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

#define ZOE_FN inline
#define ZOE_NONLINEAR(q) kNonlinear[static_cast<std::size_t>(q)]
#define ZOE_BLOCK Block
#define zoe_as_f(x) std::bit_cast<float>(x)
#include "base/blocks.inc"
#undef ZOE_NONLINEAR
#undef zoe_as_f
#undef ZOE_BLOCK
#undef ZOE_FN

constexpr std::int64_t kRun = 16, kSmall = 32, kLarge = 256;  // elements of a run and of blocks

template <float (*value)(int)>
void each_byte(const std::byte* bytes, std::int64_t begin, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = value(std::to_integer<int>(bytes[begin + i]));
}

template <std::int64_t elements, std::int64_t bytes, void (*run)(Block, int, float*)>
void each_run(const std::byte* blocks, std::int64_t begin, std::int64_t count, float* out) {
  for (std::int64_t i = begin; i < begin + count; i += kRun, out += kRun) {
    std::array<float, kRun> values;  // no bytes of a block can be here, so that the loop is vector code
    run(reinterpret_cast<Block>(blocks) + i / elements * bytes, static_cast<int>(i % elements / kRun), values.data());
    std::copy(values.begin(), values.end(), out);
  }
}

void decode_f64(const std::byte* bytes, std::int64_t begin, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    double value;
    std::memcpy(&value, bytes + (begin + i) * 8, sizeof value);
    out[i] = static_cast<float>(value);
  }
}

// Two in a byte, the first in its upper half.
void decode_f4(const std::byte* bytes, std::int64_t begin, std::int64_t count, float* out) {
  constexpr std::array<float, 16> kValues{0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
  for (std::int64_t i = 0; i < count; i += 2) {
    const auto byte = static_cast<std::size_t>(bytes[(begin + i) / 2]);
    out[i] = kValues[byte >> 4];
    out[i + 1] = kValues[byte & 15];
  }
}

constexpr std::array kEncodings{
    Encoding{"F32", 1, 4, DType::f32, nullptr},
    Encoding{"F16", 1, 2, DType::f16, nullptr},
    Encoding{"BF16", 1, 2, DType::bf16, nullptr},
    Encoding{"F64", 1, 8, {}, decode_f64},
    Encoding{"F8_E4M3", 1, 1, {}, each_byte<zoe_f8_e4m3>},
    Encoding{"F8_E5M2", 1, 1, {}, each_byte<zoe_f8_e5m2>},
    Encoding{"Q4_0", kSmall, 18, {}, each_run<kSmall, 18, zoe_q4_0>},
    Encoding{"Q4_1", kSmall, 20, {}, each_run<kSmall, 20, zoe_q4_1>},
    Encoding{"Q5_0", kSmall, 22, {}, each_run<kSmall, 22, zoe_q5_0>},
    Encoding{"Q5_1", kSmall, 24, {}, each_run<kSmall, 24, zoe_q5_1>},
    Encoding{"Q8_0", kSmall, 34, {}, each_run<kSmall, 34, zoe_q8_0>},
    Encoding{"Q2_K", kLarge, 84, {}, each_run<kLarge, 84, zoe_q2_k>},
    Encoding{"Q3_K", kLarge, 110, {}, each_run<kLarge, 110, zoe_q3_k>},
    Encoding{"Q4_K", kLarge, 144, {}, each_run<kLarge, 144, zoe_q4_k>},
    Encoding{"Q5_K", kLarge, 176, {}, each_run<kLarge, 176, zoe_q5_k>},
    Encoding{"Q6_K", kLarge, 210, {}, each_run<kLarge, 210, zoe_q6_k>},
    Encoding{"IQ4_NL", kSmall, 18, {}, each_run<kSmall, 18, zoe_iq4_nl>},
    Encoding{"IQ4_XS", kLarge, 136, {}, each_run<kLarge, 136, zoe_iq4_xs>},
    // With a scale only.
    Encoding{"I8", 1, 1, {}, each_byte<zoe_i8>},
    Encoding{"F4_E2M1", 2, 1, {}, decode_f4},
};

}  // namespace

const Encoding* find_encoding(std::string_view name) {
  const auto* const found =
      std::find_if(kEncodings.begin(), kEncodings.end(), [&](const Encoding& encoding) { return encoding.name == name; });
  return found == kEncodings.end() ? nullptr : found;
}

void decode(const Encoding& encoding, const std::byte* blocks, std::int64_t begin, std::int64_t count, DType dtype, void* out,
            float scale) {
  auto* to = static_cast<std::byte*>(out);
  const bool is_scaled = scale != 1;
  if (encoding.dtype && !is_scaled) {
    convert(blocks + encoding.size_bytes(begin), *encoding.dtype, to, dtype, static_cast<std::size_t>(count));
    return;
  }
  ZOE_INTERNAL_CHECK(encoding.is_weight());
  const std::int64_t run = std::min(encoding.block_elements, kRun);
  constexpr std::int64_t kPiece = 1024;
  alignas(64) std::array<float, kPiece> wide;
  while (count > 0) {
    const std::int64_t first = begin / run * run, skipped = begin - first, now = std::min(count, kPiece - skipped);
    const std::int64_t whole = (skipped + now + run - 1) / run * run;
    const bool in_place = dtype == DType::f32 && whole == now;
    float* const values = in_place ? reinterpret_cast<float*>(to) : wide.data();
    if (encoding.dtype)
      convert(blocks + encoding.size_bytes(first), *encoding.dtype, values, DType::f32, static_cast<std::size_t>(whole));
    else encoding.decode(blocks, first, whole, values);
    if (is_scaled)
      for (std::int64_t i = 0; i < whole; ++i) values[i] *= scale;
    if (!in_place) convert(wide.data() + skipped, DType::f32, to, dtype, static_cast<std::size_t>(now));
    begin += now;
    count -= now;
    to += static_cast<std::size_t>(now) * size_of(dtype);
  }
}

}  // namespace zoe
