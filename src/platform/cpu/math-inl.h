// Vector arithmetic the CPU kernels share: the functions of ir/math.inc, the opcodes and reductions made of them, and loads and
// stores that widen and round bf16, u8 and i8.
//
// Included once per instruction set by files that use Highway's foreach_target.h.
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "ir/value.h"

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

// d: lanes of f32. Storage is float, std::uint16_t for bf16, std::uint8_t for u8 or std::int8_t for i8. Addresses need only the
// storage type's alignment.
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
HWY_INLINE hn::Vec<D> load(D d, const std::uint8_t* src) {
  const hn::Rebind<std::uint8_t, D> d8;
  const hn::Rebind<std::int32_t, D> di32;
  return hn::ConvertTo(d, hn::PromoteTo(di32, hn::LoadU(d8, src)));
}

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const std::int8_t* src) {
  const hn::Rebind<std::int8_t, D> d8;
  const hn::Rebind<std::int32_t, D> di32;
  return hn::ConvertTo(d, hn::PromoteTo(di32, hn::LoadU(d8, src)));
}

template <class D>
HWY_INLINE void store(D d, hn::Vec<D> v, float* dst) {
  hn::StoreU(v, d, dst);
}

// A bf16 in the upper half of each lane, the lower ones being anything: rounds to nearest, ties to even; a NaN stays a quiet NaN.
// The same as f32_to_bf16 of base/dtype.h.
template <class D>
HWY_INLINE hn::Vec<hn::Rebind<std::uint32_t, D>> round_in_upper_halves(D, hn::Vec<D> v) {
  const hn::Rebind<std::uint32_t, D> d32;
  const auto bits = hn::BitCast(d32, v);
  const auto is_odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1u));
  const auto rounded = hn::Add(bits, hn::Add(hn::Set(d32, 0x7fffu), is_odd));
  const auto is_nan = hn::RebindMask(d32, hn::IsNaN(v));
  return hn::IfThenElse(is_nan, hn::Or(bits, hn::Set(d32, 0x400000u)), rounded);
}

template <class D>
HWY_INLINE void store(D d, hn::Vec<D> v, std::uint16_t* dst) {
  const hn::Rebind<std::uint16_t, D> d16;
  const hn::Rebind<std::int32_t, D> di32;
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di32, hn::ShiftRight<16>(round_in_upper_halves(d, v)))), d16, dst);
}

#if HWY_TARGET <= HWY_AVX3
// By the instructions of AVX-512 BF16, where __builtin_cpu_supports("avx512bf16"): the same roundings as above, but numbers below
// the normal ones become zero. Two vectors as one of bf16, and one as half of one.
HWY_INLINE __m512i rounded_pair(__m512 lower, __m512 upper) {
  __m512i rounded;
  asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(rounded) : "v"(lower), "v"(upper));
  return rounded;
}
HWY_INLINE __m256i rounded_half(__m512 v) {
  __m256i rounded;
  asm("vcvtneps2bf16 %1, %0" : "=v"(rounded) : "v"(v));
  return rounded;
}
#endif

// A vector of f32 and one of i32 with the operators that ir/math.inc and the table of opcodes are written in.
template <class D>
struct Floats {
  hn::Vec<D> v;
  HWY_INLINE Floats(hn::Vec<D> vector) : v(vector) {}
  HWY_INLINE Floats(float number) : v(hn::Set(D(), number)) {}
  friend HWY_INLINE Floats operator-(Floats x) { return hn::Neg(x.v); }
  friend HWY_INLINE Floats operator+(Floats a, Floats b) { return hn::Add(a.v, b.v); }
  friend HWY_INLINE Floats operator-(Floats a, Floats b) { return hn::Sub(a.v, b.v); }
  friend HWY_INLINE Floats operator*(Floats a, Floats b) { return hn::Mul(a.v, b.v); }
  friend HWY_INLINE Floats operator/(Floats a, Floats b) { return hn::Div(a.v, b.v); }
};

template <class D>
struct Ints {
  using DI = hn::Rebind<std::int32_t, D>;
  hn::Vec<DI> v;
  HWY_INLINE Ints(hn::Vec<DI> vector) : v(vector) {}
  HWY_INLINE Ints(std::int32_t number) : v(hn::Set(DI(), number)) {}
  friend HWY_INLINE Ints operator+(Ints a, Ints b) { return hn::Add(a.v, b.v); }
  friend HWY_INLINE Ints operator-(Ints a, Ints b) { return hn::Sub(a.v, b.v); }
  friend HWY_INLINE Ints operator&(Ints a, Ints b) { return hn::And(a.v, b.v); }
  friend HWY_INLINE Ints operator|(Ints a, Ints b) { return hn::Or(a.v, b.v); }
  friend HWY_INLINE Ints operator<<(Ints a, int bits) { return hn::ShiftLeftSame(a.v, bits); }
  friend HWY_INLINE Ints operator>>(Ints a, int bits) { return hn::ShiftRightSame(a.v, bits); }
};

// clang-format off
#define ZOE_FN template <class D> HWY_INLINE
// clang-format on
#define F Floats<D>
#define I Ints<D>
#define ZOE_F(number) Floats<D>(number)
ZOE_FN F zoe_as_f(I x) { return hn::BitCast(D(), x.v); }
ZOE_FN I zoe_as_i(F x) { return hn::BitCast(hn::Rebind<std::int32_t, D>(), x.v); }
ZOE_FN F zoe_lt_select(F a, F b, F x, F y) { return hn::IfThenElse(hn::Lt(a.v, b.v), x.v, y.v); }
ZOE_FN F zoe_sqrt(F x) { return hn::Sqrt(x.v); }
ZOE_FN F zoe_fma(F a, F b, F c) { return hn::MulAdd(a.v, b.v, c.v); }
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR  // one instruction, which gives its second operand where one is a NaN
#define ZOE_AT_LEAST(x, c) F(hn::Max(hn::Set(D(), c), F(x).v))
#define ZOE_AT_MOST(x, c) F(hn::Min(hn::Set(D(), c), F(x).v))
#endif
#include "ir/math.inc"
#undef ZOE_AT_LEAST
#undef ZOE_AT_MOST
#undef ZOE_FN
#undef F
#undef I
#undef ZOE_F

template <class D>
HWY_INLINE void store(D, hn::Vec<D> v, std::uint8_t* dst) {
  const hn::Rebind<std::uint8_t, D> d8;
  const hn::Rebind<std::int32_t, D> di32;
  hn::StoreU(hn::DemoteTo(d8, hn::ConvertTo(di32, zoe_round_u8(Floats<D>(v)).v)), d8, dst);
}

template <class D>
HWY_INLINE void store(D, hn::Vec<D> v, std::int8_t* dst) {
  const hn::Rebind<std::int8_t, D> d8;
  const hn::Rebind<std::int32_t, D> di32;
  hn::StoreU(hn::DemoteTo(d8, hn::ConvertTo(di32, zoe_round_i8(Floats<D>(v)).v)), d8, dst);
}

// The C column of the opcode table; for a cast, which is not in it, x: its storage differs, its value does not.
template <Opcode kOpcode, class D>
struct Formula {
  static HWY_INLINE Floats<D> of(Floats<D> x) { return x; }
};
#define ZOE_UNARY(name, value, spelling)                             \
  template <class D>                                                 \
  struct Formula<Opcode::name, D> {                                  \
    static HWY_INLINE Floats<D> of(Floats<D> x) { return spelling; } \
  };
#define ZOE_BINARY(name, value, spelling)                                         \
  template <class D>                                                              \
  struct Formula<Opcode::name, D> {                                               \
    static HWY_INLINE Floats<D> of(Floats<D> a, Floats<D> b) { return spelling; } \
  };
#define ZOE_REDUCTION(name, binary, first)                                        \
  template <class D>                                                              \
  struct Formula<Opcode::name, D> {                                               \
    static constexpr float kIdentity = first;                                     \
    static HWY_INLINE hn::Vec<D> combined(hn::Vec<D> element, hn::Vec<D> total) { \
      return Formula<Opcode::binary, D>::of(element, total).v;                    \
    }                                                                             \
  };
#include "ir/opcodes.def"

// Combines the upper half of the lanes with the lower until one is left.
template <Opcode kReduction, class D>
HWY_INLINE float reduce_halves(D, hn::Vec<D> v) {
#if HWY_TARGET != HWY_SCALAR  // which has one lane, and no halves
  if constexpr (hn::MaxLanes(D()) > 1) {
    const hn::Half<D> half;
    return reduce_halves<kReduction>(half,
                                     Formula<kReduction, hn::Half<D>>::combined(hn::UpperHalf(half, v), hn::LowerHalf(half, v)));
  }
#endif
  return hn::GetLane(v);
}

// A row's total: the upper half of its partial ones is combined with the lower, until one is left.
template <Opcode kReduction, class D, std::size_t kVectors>
HWY_INLINE float reduce_partials(D d, hn::Vec<D> (&partials)[kVectors]) {
  for (std::size_t width = kVectors / 2; width > 0; width /= 2)
    for (std::size_t v = 0; v < width; ++v) partials[v] = Formula<kReduction, D>::combined(partials[v + width], partials[v]);
  return reduce_halves<kReduction>(d, partials[0]);
}

}  // namespace zoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
