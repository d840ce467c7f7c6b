#include "platform/cpu/widen.h"

// foreach_target.h includes this file again for each of them.
#define HWY_DISABLED_TARGETS HWY_SSSE3
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "platform/cpu/widen.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "platform/cpu/math-inl.h"

#ifndef ZOE_PLATFORM_CPU_WIDEN_ONCE
#define ZOE_PLATFORM_CPU_WIDEN_ONCE
#include <algorithm>
#include <array>
#include <bit>
#include <string_view>
#endif

HWY_BEFORE_NAMESPACE();
namespace zoe::cpu::HWY_NAMESPACE {
namespace {

using Block = const unsigned char*;

// The compiler makes vector code of these loops over sixteen numbers, for each of the targets.
#define ZOE_FN HWY_INLINE
#define ZOE_BLOCK Block
#define zoe_as_f(x) std::bit_cast<float>(x)
#include "base/blocks.inc"
#undef zoe_as_f
#undef ZOE_BLOCK
#undef ZOE_FN
#undef ZOE_F16
#undef ZOE_PAIR
#undef ZOE_SIXTEEN
#undef ZOE_NONLINEAR

constexpr std::int64_t kRun = 16;
const hn::CappedTag<float, 16> kLanes;

template <class T>
HWY_INLINE void put(const float* values, float scale, T* out) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(kLanes));
  const auto by = hn::Set(kLanes, scale);
  for (std::int64_t i = 0; i < kRun; i += lanes) store(kLanes, hn::Mul(hn::LoadU(kLanes, values + i), by), out + i);
}

template <class T, std::int64_t kElements, std::int64_t kBytes, void (*kFunction)(Block, int, float*)>
void runs(const std::byte* blocks, std::int64_t begin, std::int64_t count, float scale, void* out) {
  T* to = static_cast<T*>(out);
  for (std::int64_t i = begin; i < begin + count; i += kRun, to += kRun) {
    float values[kRun];
    kFunction(reinterpret_cast<Block>(blocks) + i / kElements * kBytes, static_cast<int>(i % kElements / kRun), values);
    put(values, scale, to);
  }
}

template <class T, float (*kFunction)(int)>
void bytes(const std::byte* blocks, std::int64_t begin, std::int64_t count, float scale, void* out) {
  constexpr std::int64_t kMost = 8 * kRun;  // in a loop of its own, which is vector code where one of sixteen is taken apart
  T* to = static_cast<T*>(out);
  const auto* from = reinterpret_cast<Block>(blocks) + begin;
  while (count > 0) {
    const std::int64_t now = count < kMost ? count : kMost;
    float values[kMost];
    for (std::int64_t i = 0; i < now; ++i) values[i] = kFunction(from[i]);
    for (std::int64_t i = 0; i < now; i += kRun) put(values + i, scale, to + i);
    from += now;
    to += now;
    count -= now;
  }
}

struct Row {
  std::string_view encoding;
  WidenLoop to_f32, to_bf16;
};
#define ZOE_RUNS(name, elements, size, function) \
  Row { name, runs<float, elements, size, function>, runs<std::uint16_t, elements, size, function> }
constexpr std::array kRows{
    Row{"F8_E4M3", bytes<float, zoe_f8_e4m3>, bytes<std::uint16_t, zoe_f8_e4m3>},
    Row{"F8_E5M2", bytes<float, zoe_f8_e5m2>, bytes<std::uint16_t, zoe_f8_e5m2>},
    Row{"I8", bytes<float, zoe_i8>, bytes<std::uint16_t, zoe_i8>},
    ZOE_RUNS("Q4_0", 32, 18, zoe_q4_0),
    ZOE_RUNS("Q4_1", 32, 20, zoe_q4_1),
    ZOE_RUNS("Q5_0", 32, 22, zoe_q5_0),
    ZOE_RUNS("Q5_1", 32, 24, zoe_q5_1),
    ZOE_RUNS("Q8_0", 32, 34, zoe_q8_0),
    ZOE_RUNS("Q2_K", 256, 84, zoe_q2_k),
    ZOE_RUNS("Q3_K", 256, 110, zoe_q3_k),
    ZOE_RUNS("Q4_K", 256, 144, zoe_q4_k),
    ZOE_RUNS("Q5_K", 256, 176, zoe_q5_k),
    ZOE_RUNS("Q6_K", 256, 210, zoe_q6_k),
    ZOE_RUNS("IQ4_NL", 32, 18, zoe_iq4_nl),
    ZOE_RUNS("IQ4_XS", 256, 136, zoe_iq4_xs),
};
#undef ZOE_RUNS

WidenLoop loop(std::string_view encoding, DType dtype) {
  for (const Row& row : kRows)
    if (row.encoding == encoding) return dtype == DType::f32 ? row.to_f32 : row.to_bf16;
  return nullptr;
}

}  // namespace
}  // namespace zoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace zoe::cpu {
namespace {
HWY_EXPORT(loop);
}  // namespace

WidenLoop widen_loop_of(const Encoding& encoding, DType dtype) { return HWY_DYNAMIC_DISPATCH(loop)(encoding.name, dtype); }

}  // namespace zoe::cpu
#endif
