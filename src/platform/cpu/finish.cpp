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

template <Activation kActivation, class T>
HWY_INLINE V finished(V v, const T* bias, const T* residual) {
  if (bias) v = hn::Add(v, load(kLanes, bias));
  if constexpr (kActivation == Activation::silu) v = zoe_silu(Floats<decltype(kLanes)>(v)).v;
  if constexpr (kActivation == Activation::gelu_tanh) v = zoe_gelu_tanh(Floats<decltype(kLanes)>(v)).v;
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
    float sum[kWidth] = {};
    T bias[kWidth] = {}, added[kWidth] = {}, rounded[kWidth];
    std::copy_n(sums + c, rest, sum);
    if (f.bias) std::copy_n(f.bias + c, rest, bias);
    if (residual) std::copy_n(residual + c, rest, added);
    store(kLanes, finished<kActivation>(hn::LoadU(kLanes, sum), f.bias ? bias : nullptr, residual ? added : nullptr), rounded);
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
      v[half] = hn::Add(hn::LoadU(kLanes, sums + half * kWidth), bias[half]);
      if constexpr (kActivation == Activation::silu) v[half] = zoe_silu(Floats<decltype(kLanes)>(v[half])).v;
      if constexpr (kActivation == Activation::gelu_tanh) v[half] = zoe_gelu_tanh(Floats<decltype(kLanes)>(v[half])).v;
      if (residual) v[half] = hn::Add(v[half], load(kLanes, residual + half * kWidth));
    }
    store_rounded_pair(v[0].raw, v[1].raw, result);
    if (residual) residual += f.stride;
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
  if (__builtin_cpu_supports("avx512bf16"))
    return [](const Finish<std::uint16_t>& f, const float* sums, std::int64_t sums_stride, std::int64_t row_count,
              std::int64_t columns) {
      if (columns != 2 * kWidth) return finish(f, sums, sums_stride, row_count, columns);
      switch (f.activation) {
        case Activation::none: return whole_panels<Activation::none>(f, sums, sums_stride, row_count);
        case Activation::gelu_tanh: return whole_panels<Activation::gelu_tanh>(f, sums, sums_stride, row_count);
        case Activation::silu: return whole_panels<Activation::silu>(f, sums, sums_stride, row_count);
      }
    };
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
