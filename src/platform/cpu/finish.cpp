#include "platform/cpu/finish.h"

// foreach_target.h includes this file again for each of them.
#define HWY_DISABLED_TARGETS HWY_SSSE3
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "platform/cpu/finish.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "platform/cpu/math-inl.h"

#ifndef ZOE_PLATFORM_CPU_FINISH_ONCE
#define ZOE_PLATFORM_CPU_FINISH_ONCE
#include <algorithm>
#endif

HWY_BEFORE_NAMESPACE();
namespace zoe::cpu::HWY_NAMESPACE {
namespace {

const hn::ScalableTag<float> kLanes;
using V = hn::Vec<decltype(kLanes)>;
constexpr std::int64_t kWidth = HWY_LANES(float);

template <Activation kActivation>
HWY_INLINE V activated(V v) {
  if constexpr (kActivation == Activation::silu) v = zoe_silu(Floats<decltype(kLanes)>(v)).v;
  if constexpr (kActivation == Activation::gelu_tanh) v = zoe_gelu_tanh(Floats<decltype(kLanes)>(v)).v;
  return v;
}

template <Activation kActivation, class T>
HWY_INLINE V finished(V v, const T* bias, const T* residual) {
  if (bias) v = hn::Add(v, load(kLanes, bias));
  v = activated<kActivation>(v);
  if (residual) v = hn::Add(v, load(kLanes, residual));
  return v;
}

template <Activation kActivation, class T>
void rows(const Finish<T>& f, const float* sums, std::int64_t sums_stride, std::int64_t row_count, std::int64_t columns) {
  for (std::int64_t r = 0; r < row_count; ++r, sums += sums_stride) {
    const T* const residual = f.residual ? f.residual + r * f.stride : nullptr;
    T* const result = f.result + r * f.stride;
    std::int64_t c = 0;
    for (; c + kWidth <= columns; c += kWidth)
      store(kLanes,
            finished<kActivation>(hn::LoadU(kLanes, sums + c), f.bias ? f.bias + c : nullptr, residual ? residual + c : nullptr),
            result + c);
    if (c == columns) continue;
    const std::int64_t rest = columns - c;
    T bias[kWidth] = {}, added[kWidth] = {}, rounded[kWidth];
    if (f.bias) std::copy_n(f.bias + c, rest, bias);
    if (residual) std::copy_n(residual + c, rest, added);
    store(kLanes, finished<kActivation>(hn::LoadU(kLanes, sums + c), f.bias ? bias : nullptr, residual ? added : nullptr), rounded);
    std::copy_n(rounded, rest, result + c);
  }
}

#if HWY_TARGET <= HWY_AVX3
// Rows of 32 columns.
template <Activation kActivation>
void whole_panels(const Finish<std::uint16_t>& f, const float* sums, std::int64_t sums_stride, std::int64_t row_count) {
  const V nothing = hn::Set(kLanes, -0.0f);
  const V bias[2] = {f.bias ? load(kLanes, f.bias) : nothing, f.bias ? load(kLanes, f.bias + kWidth) : nothing};
  const std::uint16_t* residual = f.residual;
  std::uint16_t* result = f.result;
  for (std::int64_t r = 0; r < row_count; ++r, sums += sums_stride, result += f.stride) {
    V v[2];
    for (std::int64_t half = 0; half < 2; ++half) {
      v[half] = activated<kActivation>(hn::Add(hn::LoadU(kLanes, sums + half * kWidth), bias[half]));
      if (residual) v[half] = hn::Add(v[half], load(kLanes, residual + half * kWidth));
    }
    _mm512_storeu_si512(result, rounded_pair(v[0].raw, v[1].raw));
    if (residual) residual += f.stride;
  }
}

// Rows of up to 16.
template <Activation kActivation>
void half_panels(const Finish<std::uint16_t>& f, const float* sums, std::int64_t sums_stride, std::int64_t row_count,
                 std::int64_t columns) {
  const auto mask = static_cast<__mmask16>((1u << columns) - 1);
  const hn::Rebind<std::uint16_t, decltype(kLanes)> stored;
  const auto part = [&](const std::uint16_t* from) HWY_ATTR {
    using Numbers = hn::Vec<decltype(stored)>;
    const hn::Rebind<std::uint32_t, decltype(kLanes)> wide;
    return hn::BitCast(kLanes, hn::ShiftLeft<16>(hn::PromoteTo(wide, Numbers{_mm256_maskz_loadu_epi16(mask, from)})));
  };
  const V bias = f.bias ? part(f.bias) : hn::Set(kLanes, -0.0f);
  for (std::int64_t r = 0; r < row_count; ++r) {
    V v = activated<kActivation>(hn::Add(hn::LoadU(kLanes, sums + r * sums_stride), bias));
    if (f.residual) v = hn::Add(v, part(f.residual + r * f.stride));
    _mm256_mask_storeu_epi16(f.result + r * f.stride, mask, rounded_half(v.raw));
  }
}

template <Activation kActivation>
void panels(const Finish<std::uint16_t>& f, const float* sums, std::int64_t sums_stride, std::int64_t row_count,
            std::int64_t columns) {
  if (columns == 2 * kWidth) return whole_panels<kActivation>(f, sums, sums_stride, row_count);
  for (std::int64_t c = 0; c < columns; c += kWidth) {
    const Finish<std::uint16_t> half{f.bias ? f.bias + c : nullptr, f.residual ? f.residual + c : nullptr, f.result + c, f.stride,
                                     f.activation};
    half_panels<kActivation>(half, sums + c, sums_stride, row_count, std::min(kWidth, columns - c));
  }
}

void finish_by_instruction(const Finish<std::uint16_t>& f, const float* sums, std::int64_t sums_stride, std::int64_t row_count,
                           std::int64_t columns) {
  switch (f.activation) {
    case Activation::none: return panels<Activation::none>(f, sums, sums_stride, row_count, columns);
    case Activation::gelu_tanh: return panels<Activation::gelu_tanh>(f, sums, sums_stride, row_count, columns);
    case Activation::silu: return panels<Activation::silu>(f, sums, sums_stride, row_count, columns);
  }
}
#endif

template <class T>
void finish(const Finish<T>& f, const float* sums, std::int64_t sums_stride, std::int64_t row_count, std::int64_t columns) {
  switch (f.activation) {
    case Activation::none: return rows<Activation::none>(f, sums, sums_stride, row_count, columns);
    case Activation::gelu_tanh: return rows<Activation::gelu_tanh>(f, sums, sums_stride, row_count, columns);
    case Activation::silu: return rows<Activation::silu>(f, sums, sums_stride, row_count, columns);
  }
}

FinishLoop<std::uint16_t> loop_of_bf16() {
#if HWY_TARGET <= HWY_AVX3
  if (__builtin_cpu_supports("avx512bf16")) return finish_by_instruction;
#endif
  return finish<std::uint16_t>;
}
FinishLoop<float> loop_of_f32() { return finish<float>; }

}  // namespace
}  // namespace zoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace zoe::cpu {
namespace {
HWY_EXPORT(loop_of_bf16);
HWY_EXPORT(loop_of_f32);
}  // namespace

template <>
FinishLoop<std::uint16_t> finish_loop() {
  return HWY_DYNAMIC_DISPATCH(loop_of_bf16)();
}
template <>
FinishLoop<float> finish_loop() {
  return HWY_DYNAMIC_DISPATCH(loop_of_f32)();
}

}  // namespace zoe::cpu
#endif
