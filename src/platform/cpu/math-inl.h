// Vector arithmetic the CPU kernels share: exp, tanh and the functions made of them, and loads and stores that widen bf16.
//
// Included once per instruction set by files that use Highway's foreach_target.h. Every function is a fixed sequence of
// additions, products, divisions and integer operations, none of them fused, so that all instruction sets and later
// generated code give the same bits.
#include <cstddef>
#include <cstdint>

// Highway's own pattern: the macro flips each time the file is included for another instruction set.
#if defined(ZOE_PLATFORM_CPU_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ZOE_PLATFORM_CPU_MATH_INL_H_
#undef ZOE_PLATFORM_CPU_MATH_INL_H_
#else
#define ZOE_PLATFORM_CPU_MATH_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace zoe::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// d: lanes of f32. Storage is float, or std::uint16_t for bf16. Addresses need only the storage type's alignment.
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const float* src) {
  return hn::LoadU(d, src);
}

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const std::uint16_t* src) {
  const hn::Rebind<std::uint16_t, D> d16;
  const hn::Rebind<std::uint32_t, D> d32;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, src))));
}

template <class D>
HWY_INLINE void store(D d, hn::Vec<D> v, float* dst) {
  hn::StoreU(v, d, dst);
}

// Rounds to nearest, ties to even; a NaN stays a quiet NaN. The same as f32_to_bf16 of base/dtype.h.
template <class D>
HWY_INLINE void store(D, hn::Vec<D> v, std::uint16_t* dst) {
  const hn::Rebind<std::uint16_t, D> d16;
  const hn::Rebind<std::int32_t, D> di32;
  const hn::Rebind<std::uint32_t, D> d32;
  const auto bits = hn::BitCast(d32, v);
  const auto high = hn::ShiftRight<16>(bits);
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(hn::Set(d32, 0x7fffu), hn::And(high, hn::Set(d32, 1u)))));
  const auto is_nan = hn::RebindMask(d32, hn::IsNaN(v));
  const auto narrow = hn::IfThenElse(is_nan, hn::Or(high, hn::Set(d32, 0x40u)), rounded);
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di32, narrow)), d16, dst);
}

// x = n ln 2 + r with |r| <= 0.5001 ln 2. Returns e^r - 1, its error below 3/4 ulp of e^r - 1, and n in `n` and its bits.
// |x| <= 150. Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
template <class D>
HWY_INLINE hn::Vec<D> reduced_expm1(D d, hn::Vec<D> x, hn::Vec<hn::Rebind<std::int32_t, D>>& n) {
  const hn::Rebind<std::int32_t, D> di;
  const auto magic = hn::Set(d, 12582912.0f);
  const auto shifted = hn::Add(hn::Mul(x, hn::Set(d, 1.44269504f)), magic);
  n = hn::Sub(hn::BitCast(di, shifted), hn::BitCast(di, magic));
  const auto nf = hn::Sub(shifted, magic);
  // ln 2 in two parts; the first has 9 bits, so that its product with n is exact.
  const auto r = hn::Sub(hn::Sub(x, hn::Mul(nf, hn::Set(d, 0.693359375f))), hn::Mul(nf, hn::Set(d, -2.1219444e-4f)));
  // Minimax fit of (e^r - 1 - r) / r^2 for the relative error of e^r: 3.2e-9.
  auto q = hn::Set(d, 0x1.6a4748p-10f);
  q = hn::Add(hn::Mul(q, r), hn::Set(d, 0x1.1239a2p-7f));
  q = hn::Add(hn::Mul(q, r), hn::Set(d, 0x1.5558b6p-5f));
  q = hn::Add(hn::Mul(q, r), hn::Set(d, 0x1.555492p-3f));
  q = hn::Add(hn::Mul(q, r), hn::Set(d, 0x1.fffffcp-2f));
  return hn::Add(hn::Mul(hn::Mul(r, r), q), r);
}

// 2^n for -126 <= n <= 127.
template <class D>
HWY_INLINE hn::Vec<D> power_of_two(D d, hn::Vec<hn::Rebind<std::int32_t, D>> n) {
  const hn::Rebind<std::int32_t, D> di;
  return hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(n, hn::Set(di, 127))));
}

// e^x, at most 2 ulp off for every x: infinity above 88.72, subnormal below -87.33, 0 below -103.97, NaN for NaN.
template <class D>
HWY_INLINE hn::Vec<D> exp(D d, hn::Vec<D> x) {
  const auto low = hn::Set(d, -105.0f), high = hn::Set(d, 89.0f);
  x = hn::IfThenElse(hn::Lt(x, low), low, x);  // comparisons, not Min and Max: they let a NaN through
  x = hn::IfThenElse(hn::Gt(x, high), high, x);
  hn::Vec<hn::Rebind<std::int32_t, D>> n;
  const auto p = hn::Add(reduced_expm1(d, x, n), hn::Set(d, 1.0f));
  // n reaches -151 and 128, so the scale goes in two steps; only the second can round, overflow or underflow.
  const auto half = hn::ShiftRight<1>(n);
  return hn::Mul(hn::Mul(p, power_of_two(d, half)), power_of_two(d, hn::Sub(n, half)));
}

// tanh x = -m / (2 + m) with m = e^(-2|x|) - 1, at most 3 ulp off for every x; exact for subnormals, NaN for NaN.
template <class D>
HWY_INLINE hn::Vec<D> tanh(D d, hn::Vec<D> x) {
  const auto low = hn::Set(d, -40.0f), one = hn::Set(d, 1.0f), two = hn::Set(d, 2.0f);
  auto t = hn::Mul(hn::Abs(x), hn::Set(d, -2.0f));
  t = hn::IfThenElse(hn::Lt(t, low), low, t);
  hn::Vec<hn::Rebind<std::int32_t, D>> n;
  const auto e = reduced_expm1(d, t, n);
  const auto scale = power_of_two(d, n);
  const auto m = hn::Add(hn::Mul(e, scale), hn::Sub(scale, one));
  return hn::CopySign(hn::Div(m, hn::Add(two, m)), x);
}

template <class D>
HWY_INLINE hn::Vec<D> silu(D d, hn::Vec<D> x) {
  return hn::Div(x, hn::Add(hn::Set(d, 1.0f), exp(d, hn::Neg(x))));
}

template <class D>
HWY_INLINE hn::Vec<D> gelu_tanh(D d, hn::Vec<D> x) {
  const auto cube = hn::Mul(hn::Mul(hn::Mul(hn::Set(d, 0.044715f), x), x), x);
  const auto u = hn::Mul(hn::Set(d, 0.7978845608f), hn::Add(x, cube));
  return hn::Mul(hn::Mul(hn::Set(d, 0.5f), x), hn::Add(hn::Set(d, 1.0f), tanh(d, u)));
}

}  // namespace zoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
