// F and I: as many f32 and i32 as a register of this processor holds. Operators work lane by lane.
#if defined(__AVX512F__)
#define ZOE_LANES 16
#elif defined(__AVX__)
#define ZOE_LANES 8
#else
#define ZOE_LANES 4
#endif
typedef float F __attribute__((vector_size(4 * ZOE_LANES)));
typedef int I __attribute__((vector_size(4 * ZOE_LANES)));
typedef unsigned U __attribute__((vector_size(4 * ZOE_LANES)));
typedef unsigned short H __attribute__((vector_size(2 * ZOE_LANES)));
typedef unsigned short bf16;
typedef float Floats __attribute__((vector_size(4 * ZOE_LANES), aligned(4), may_alias));
typedef unsigned short Bf16s __attribute__((vector_size(2 * ZOE_LANES), aligned(2), may_alias));
#define ZOE_INLINE static inline __attribute__((always_inline))
#define ZOE_FN ZOE_INLINE

ZOE_INLINE F splat(float x) { return x - F{}; }
ZOE_INLINE F splat(F x) { return x; }
#define ZOE_F(x) splat(x)
ZOE_INLINE I zoe_as_i(F x) { return (I)x; }
ZOE_INLINE F zoe_as_f(I x) { return (F)x; }
ZOE_INLINE F zoe_lt_select(F a, F b, F x, F y) { return a < b ? x : y; }
ZOE_INLINE float zoe_sqrt(float x) { return __builtin_sqrtf(x); }
ZOE_INLINE F zoe_sqrt(F x) {
  for (int i = 0; i < ZOE_LANES; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
}

// exp, tanh and what is made of them, in f32: each function is one fixed sequence of additions, products, divisions and integer
// operations, none of them fused, so that every platform and every vector length gives the same bits.
//
// The text is what C, C++, CUDA C++ and OpenCL C have in common. It is compiled as part of platform/cpu's prebuilt loops (F a
// Highway vector), and is the prelude of generated kernels (kMathText: F a float or a compiler's vector). Who includes it defines
//   F, I              f32 and i32, one number or a vector of as many lanes each, with operators, which take a number on one side too
//   ZOE_FN            what goes before a function: static inline, __device__, a template's head
//   ZOE_F(c)          an F that is c in all lanes
//   zoe_as_f, zoe_as_i  the same bits as the other type
//   zoe_lt_select(a, b, x, y)  x where a < b, else y
//   zoe_sqrt(x)       correctly rounded
// and takes care that products and sums are not contracted.

// x rounded to a whole number n of ln 2, as n + 1.5 * 2^23: n is in the low bits. |x| <= 150.
ZOE_FN F zoe_in_ln2(F x) { return x * 1.44269504f + 12582912.0f; }

// The whole number itself.
ZOE_FN I zoe_whole(F shifted) { return zoe_as_i(shifted) - 0x4b400000; }

// e^r - 1 for r = x - n ln 2, |r| <= 0.5001 ln 2, its error below 3/4 ulp of e^r - 1. `shifted`: zoe_in_ln2(x).
ZOE_FN F zoe_reduced_expm1(F x, F shifted) {
  const F n = shifted - 12582912.0f;
  // ln 2 in two parts; the first has 9 bits, so that its product with n is exact.
  const F r = (x - n * 0.693359375f) - n * -2.1219444e-4f;
  // Minimax fit of (e^r - 1 - r) / r^2 for the relative error of e^r: 3.2e-9.
  F q = r * 0x1.6a4748p-10f + 0x1.1239a2p-7f;
  q = q * r + 0x1.5558b6p-5f;
  q = q * r + 0x1.555492p-3f;
  q = q * r + 0x1.fffffcp-2f;
  return (r * r) * q + r;
}

// 2^n for -126 <= n <= 127.
ZOE_FN F zoe_power_of_two(I n) { return zoe_as_f((n + 127) << 23); }

// e^x, at most 2 ulp off for every x: infinity above 88.72, subnormal below -87.33, 0 below -103.97, NaN for NaN.
ZOE_FN F zoe_exp(F x) {
  x = zoe_lt_select(x, ZOE_F(-105.0f), ZOE_F(-105.0f), x);  // comparisons let a NaN through
  x = zoe_lt_select(ZOE_F(89.0f), x, ZOE_F(89.0f), x);
  const F shifted = zoe_in_ln2(x);
  const F p = zoe_reduced_expm1(x, shifted) + 1.0f;
  // n reaches -151 and 128, so the scale goes in two steps; only the second can round, overflow or underflow.
  const I n = zoe_whole(shifted), half_n = n >> 1;
  return (p * zoe_power_of_two(half_n)) * zoe_power_of_two(n - half_n);
}

// e^x for x <= 0, and 0 below -87, as a softmax needs it: one scaling is enough there.
ZOE_FN F zoe_exp_of_negative(F x) {
  const F bounded = zoe_lt_select(x, ZOE_F(-87.0f), ZOE_F(-87.0f), x);
  const F shifted = zoe_in_ln2(bounded);
  const F p = zoe_reduced_expm1(bounded, shifted) + 1.0f;
  return zoe_lt_select(x, ZOE_F(-87.0f), ZOE_F(0.0f), p * zoe_power_of_two(zoe_whole(shifted)));
}

// tanh x = -m / (2 + m) with m = e^(-2|x|) - 1 and the sign of x, at most 3 ulp off for every x; exact for subnormals, NaN for
// NaN.
ZOE_FN F zoe_tanh(F x) {
  F t = zoe_as_f(zoe_as_i(x) & 0x7fffffff) * -2.0f;
  t = zoe_lt_select(t, ZOE_F(-40.0f), ZOE_F(-40.0f), t);
  const F shifted = zoe_in_ln2(t);
  const F scale = zoe_power_of_two(zoe_whole(shifted));
  const F m = zoe_reduced_expm1(t, shifted) * scale + (scale - 1.0f);
  const F y = m / (m + 2.0f);
  return zoe_as_f((zoe_as_i(y) & 0x7fffffff) | (zoe_as_i(x) & ~0x7fffffff));
}

ZOE_FN F zoe_silu(F x) { return x / (zoe_exp(-x) + 1.0f); }

ZOE_FN F zoe_gelu_tanh(F x) {
  const F cube = ((x * 0.044715f) * x) * x;
  const F u = (x + cube) * 0.7978845608f;
  return (x * 0.5f) * (zoe_tanh(u) + 1.0f);
}

// The second operand where either is NaN.
ZOE_FN F zoe_max(F a, F b) { return zoe_lt_select(b, a, a, b); }
ZOE_FN F zoe_min(F a, F b) { return zoe_lt_select(a, b, a, b); }

// One number a row, where the function is written for vectors.
ZOE_INLINE float zoe_exp(float x) { return zoe_exp(splat(x))[0]; }
ZOE_INLINE float zoe_tanh(float x) { return zoe_tanh(splat(x))[0]; }
ZOE_INLINE float zoe_silu(float x) { return zoe_silu(splat(x))[0]; }
ZOE_INLINE float zoe_gelu_tanh(float x) { return zoe_gelu_tanh(splat(x))[0]; }
ZOE_INLINE float zoe_max(float a, float b) { return b < a ? a : b; }
ZOE_INLINE float zoe_min(float a, float b) { return a < b ? a : b; }

// bf16 and back: to nearest, ties to even; a NaN stays a quiet NaN.
ZOE_INLINE H narrow(F x) {
  const U bits = (U)x, high = bits >> 16;
  const U rounded = (bits + 0x7fff + (high & 1)) >> 16;
  return __builtin_convertvector((U)(x != x ? (I)(high | 0x40) : (I)rounded), H);
}
ZOE_INLINE F widen(H x) { return (F)(__builtin_convertvector(x, U) << 16); }
ZOE_INLINE F round_bf16(F x) {
  const U bits = (U)x, high = bits >> 16;
  const U rounded = bits + 0x7fff + (high & 1);
  return (F)((x != x ? (I)(bits | 0x400000) : (I)rounded) & (I)((U{} + 0xffff0000u)));
}
ZOE_INLINE float round_bf16(float x) { return round_bf16(splat(x))[0]; }

// Lanes<n>: n numbers of a vector; Some: as many as it says.
template <int n>
struct Lanes {
  static constexpr int count = n;
};
struct Some {
  int count;
};
template <int k>
struct Part {
  static constexpr int number = k;
};
using Whole = Lanes<ZOE_LANES>;

ZOE_INLINE F load(Whole, const float* p) { return *(const Floats*)p; }
ZOE_INLINE F load(Whole, const bf16* p) { return widen(*(const Bf16s*)p); }
template <class L>
ZOE_INLINE F load(L lanes, const float* p) {
  F x = {};
  for (int i = 0; i < lanes.count; ++i) x[i] = p[i];
  return x;
}
template <class L>
ZOE_INLINE F load(L lanes, const bf16* p) {
  H x = {};
  for (int i = 0; i < lanes.count; ++i) x[i] = p[i];
  return widen(x);
}
ZOE_INLINE float load1(const float* p) { return *p; }
ZOE_INLINE float load1(const bf16* p) {
  const unsigned bits = (unsigned)*p << 16;
  return __builtin_bit_cast(float, bits);
}
// Lane i from p[at(i)].
template <class L, class T, class At>
ZOE_INLINE F gather(L lanes, const T* p, const At& at) {
  F x = {};
  for (int i = 0; i < lanes.count; ++i) x[i] = load1(p + at(i));
  return x;
}
ZOE_INLINE void store(Whole, float* p, F x) { *(Floats*)p = x; }
ZOE_INLINE void store(Whole, bf16* p, F x) { *(Bf16s*)p = narrow(x); }
template <class L>
ZOE_INLINE void store(L lanes, float* p, F x) {
  for (int i = 0; i < lanes.count; ++i) p[i] = x[i];
}
template <class L>
ZOE_INLINE void store(L lanes, bf16* p, F x) {
  const H h = narrow(x);
  for (int i = 0; i < lanes.count; ++i) p[i] = h[i];
}
ZOE_INLINE void store1(float* p, float x) { *p = x; }
ZOE_INLINE void store1(bf16* p, float x) { *p = narrow(splat(x))[0]; }
template <class L, class T, class At>
ZOE_INLINE void scatter(L lanes, T* p, const At& at, F x) {
  for (int i = 0; i < lanes.count; ++i) store1(p + at(i), x[i]);
}

// Past the caches, where a whole vector lies at its alignment. The caller ends with a fence.
#if defined(__clang__)
ZOE_INLINE void stream(Whole lanes, float* p, F x) {
  if ((unsigned long)p % sizeof(F) == 0) __builtin_nontemporal_store(x, (F*)p);
  else store(lanes, p, x);
}
ZOE_INLINE void stream(Whole lanes, bf16* p, F x) {
  if ((unsigned long)p % sizeof(H) == 0) __builtin_nontemporal_store(narrow(x), (H*)p);
  else store(lanes, p, x);
}
#elif defined(__SSE2__)
ZOE_INLINE void stream(Whole lanes, float* p, F x) {
  if ((unsigned long)p % sizeof(F) != 0) return store(lanes, p, x);
#if ZOE_LANES == 16
  __builtin_ia32_movntps512(p, x);
#elif ZOE_LANES == 8
  __builtin_ia32_movntps256(p, x);
#else
  __builtin_ia32_movntps(p, x);
#endif
}
ZOE_INLINE void stream(Whole lanes, bf16* p, F x) {
  if ((unsigned long)p % sizeof(H) != 0) return store(lanes, p, x);
#if ZOE_LANES == 16
  typedef long long Q __attribute__((vector_size(32)));
  __builtin_ia32_movntdq256((Q*)p, (Q)narrow(x));
#elif ZOE_LANES == 8
  typedef long long Q __attribute__((vector_size(16)));
  __builtin_ia32_movntdq((Q*)p, (Q)narrow(x));
#else
  store(lanes, p, x);
#endif
}
#endif
#if defined(__SSE2__)
#define ZOE_FENCE() __builtin_ia32_sfence()
#else
ZOE_INLINE void stream(Whole lanes, float* p, F x) { store(lanes, p, x); }
ZOE_INLINE void stream(Whole lanes, bf16* p, F x) { store(lanes, p, x); }
#define ZOE_FENCE()
#endif
template <class L, class T>
ZOE_INLINE void stream(L lanes, T* p, F x) {
  store(lanes, p, x);
}

// The other of each pair of neighbours.
ZOE_INLINE F swap(F x) {
#if ZOE_LANES == 16
  return __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
#elif ZOE_LANES == 8
  return __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6);
#else
  return __builtin_shufflevector(x, x, 1, 0, 3, 2);
#endif
}

// A row sum: partial j of 32 adds the columns j, j + 32, ...; then the upper half of the partials is added to the lower, five times.
struct Sum {
  F part[32 / ZOE_LANES] = {};
  template <int k>
  __attribute__((always_inline)) void add(Whole, Part<k>, F x) { part[k] += x; }
  template <int n, int k>
  __attribute__((always_inline)) void add(Lanes<n>, Part<k>, F x) {
    for (int i = n; i < ZOE_LANES; ++i) x[i] = 0.0f;  // no partial is ever -0, so that adding +0 changes nothing
    part[k] += x;
  }
  __attribute__((always_inline)) float total() const {
    F x = part[0];
#if ZOE_LANES == 16
    x = part[0] + part[1];
    x += __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    x += __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3);
    x += __builtin_shufflevector(x, x, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1);
#elif ZOE_LANES == 8
    x = (part[0] + part[2]) + (part[1] + part[3]);
    x += __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3);
    x += __builtin_shufflevector(x, x, 2, 3, 0, 1, 2, 3, 0, 1);
#else
    x = ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
    x += __builtin_shufflevector(x, x, 2, 3, 0, 1);
#endif
    return x[0] + x[1];
  }
};

template <long C, int k, class Body>
ZOE_INLINE void for_rest(const Body& body) {
  constexpr long begin = C / 32 * 32 + k * ZOE_LANES, left = C - begin;
  if constexpr (left >= ZOE_LANES) {
    body(Whole(), Part<k>(), begin);
    for_rest<C, k + 1>(body);
  } else if constexpr (left > 0) {
    body(Lanes<(int)left>(), Part<k>(), begin);
  }
}
// Calls body(lanes, part, c) for the vectors of columns [0, C); part: which of the 32 partial sums they belong to.
template <long C, class Body>
ZOE_INLINE void for_parts(const Body& body) {
  constexpr long kWhole = C / 32 * 32;
  for (long c = 0; c < kWhole; c += 32) {
    body(Whole(), Part<0>(), c);
#if ZOE_LANES <= 16
    body(Whole(), Part<1>(), c + ZOE_LANES);
#endif
#if ZOE_LANES <= 8
    body(Whole(), Part<2>(), c + 2 * ZOE_LANES);
    body(Whole(), Part<3>(), c + 3 * ZOE_LANES);
#endif
#if ZOE_LANES <= 4
    body(Whole(), Part<4>(), c + 4 * ZOE_LANES);
    body(Whole(), Part<5>(), c + 5 * ZOE_LANES);
    body(Whole(), Part<6>(), c + 6 * ZOE_LANES);
    body(Whole(), Part<7>(), c + 7 * ZOE_LANES);
#endif
  }
  for_rest<C, 0>(body);
}
// The same where no sum wants to know the part.
template <long C, class Body>
ZOE_INLINE void for_columns(const Body& body) {
  for (long c = 0; c + ZOE_LANES <= C; c += ZOE_LANES) body(Whole(), Part<0>(), c);
  if constexpr (C % ZOE_LANES != 0) body(Lanes<C % ZOE_LANES>(), Part<0>(), C / ZOE_LANES * ZOE_LANES);
}
template <class Body>
ZOE_INLINE void for_range(long begin, long end, const Body& body) {
  for (; begin + ZOE_LANES <= end; begin += ZOE_LANES) body(Whole(), begin);
  if (begin < end) body(Some{(int)(end - begin)}, begin);
}

/*
chain of rows [85,30] by columns [16,2,2], 1 passes
%0 = load 0 [120,2,10200,60,1] : f32 column pass 0
%1 = cast %0 : bf16 column pass 0
store 0 = %1 [1920,64,4,2,1]
*/
// k0: rows of 64
extern "C" void k0(char* const* m, const long* g, long begin, long end, char* scratch) {
  for (long row = begin; row < end; ++row) {
    const long q1 = row / g[0], r1 = row % g[0];
    const long r0 = q1;
    const float* const p0 = (const float*)m[0] + r0 * g[1] + r1 * g[2];
    bf16* const w0 = (bf16*)m[1] + r0 * g[3] + r1 * g[4];
    for_columns<64>([&](auto lanes, auto part, long c) {
      const F v0 = gather(lanes, p0, [&](long i) { return (c + i) % 2 + ((c + i) / 2 % 2) * 60 + ((c + i) / 4) * 10200; });
      const F v1 = round_bf16(v0);
      store(lanes, w0 + (c), v1);
    });
  }
}
/*
chain of rows [] by columns [1536], 1 passes
%0 = load 0 [1] : f32 column pass 0
%1 = cast %0 : bf16 column pass 0
%2 = silu %1 : bf16 column pass 0
store 0 = %1 [1]
store 1 = %2 [1]
*/
// k1: elements
extern "C" void k1(char* const* m, const long* g, long begin, long end, char* scratch) {
  const float* const p0 = (const float*)m[0] + 0;
  bf16* const w0 = (bf16*)m[1] + 0;
  bf16* const w1 = (bf16*)m[2] + 0;
  for_range(begin, end, [&](auto lanes, long c) {
    const F v0 = load(lanes, p0 + (c));
    const F v1 = round_bf16(v0);
    const F v2 = round_bf16(zoe_silu(v1));
    store(lanes, w0 + (c), v1);
    store(lanes, w1 + (c), v2);
  });
}
/*
chain of rows [2550] by columns [1536], 3 passes
%0 = load 0 [1536,1] : bf16 column pass 0
%1 = cast %0 : f32 column pass 0
%2 = sum %1 : f32 row pass 1
%3 = constant 1536 : f32 chain pass 0
%4 = div %2 %3 : f32 row pass 1
%5 = sub %1 %4 : f32 column pass 1
%6 = square %5 : f32 column pass 1
%7 = sum %6 : f32 row pass 2
%8 = constant 1536 : f32 chain pass 0
%9 = div %7 %8 : f32 row pass 2
%10 = constant 1e-06 : f32 chain pass 0
%11 = add %9 %10 : f32 row pass 2
%12 = rsqrt %11 : f32 row pass 2
%13 = mul %5 %12 : f32 column pass 2
%14 = constant 1 : f32 chain pass 0
%15 = load 1 [1536: 0,1] : f32 column pass 0
%16 = add %14 %15 : f32 column pass 0
%17 = mul %13 %16 : f32 column pass 2
%18 = load 1 [0,1] : f32 column pass 0
%19 = add %17 %18 : f32 column pass 2
%20 = cast %19 : bf16 column pass 2
store 0 = %20 [1536,1]
*/
// k2: rows of 1536, 3 passes
extern "C" void k2(char* const* m, const long* g, long begin, long end, char* scratch) {
  const float v3 = 1536.0f;
  const float v8 = 1536.0f;
  const float v10 = 1e-06f;
  const float v14 = 1.0f;
  for (long row = begin; row < end; ++row) {
    const long r0 = row;
    const bf16* const p0 = (const bf16*)m[0] + r0 * g[0];
    const float* const p15 = (const float*)m[1] + g[1];
    const float* const p18 = (const float*)m[1] + 0;
    bf16* const w0 = (bf16*)m[2] + r0 * g[2];
    Sum s2;
    for_parts<1536>([&](auto lanes, auto part, long c) {
      const F v0 = load(lanes, p0 + (c));
      const F v1 = v0;  // norm_scale_shift
      s2.add(lanes, part, v1);
    });
    const float v2 = s2.total();
    const float v4 = v2 / v3;  // norm_scale_shift
    Sum s7;
    for_parts<1536>([&](auto lanes, auto part, long c) {
      const F v0 = load(lanes, p0 + (c));
      const F v1 = v0;  // norm_scale_shift
      const F v5 = v1 - splat(v4);  // norm_scale_shift
      const F v6 = v5 * v5;  // norm_scale_shift
      s7.add(lanes, part, v6);
    });
    const float v7 = s7.total();
    const float v9 = v7 / v8;  // norm_scale_shift
    const float v11 = v9 + v10;  // norm_scale_shift
    const float v12 = 1.0f / zoe_sqrt(v11);  // norm_scale_shift
    for_columns<1536>([&](auto lanes, auto part, long c) {
      const F v0 = load(lanes, p0 + (c));
      const F v1 = v0;  // norm_scale_shift
      const F v5 = v1 - splat(v4);  // norm_scale_shift
      const F v13 = v5 * splat(v12);  // norm_scale_shift
      const F v15 = load(lanes, p15 + (c));
      const F v16 = splat(v14) + v15;  // norm_scale_shift
      const F v17 = v13 * v16;  // norm_scale_shift
      const F v18 = load(lanes, p18 + (c));
      const F v19 = v17 + v18;  // norm_scale_shift
      const F v20 = round_bf16(v19);  // norm_scale_shift
      store(lanes, w0 + (c), v20);
    });
  }
}
/*
chain of rows [2550] by columns [12,128], 2 passes
%0 = load 0 [1536,128,1] : bf16 column pass 0
%1 = cast %0 : f32 column pass 0
%2 = square %1 : f32 column pass 0
%3 = sum %2 : f32 row pass 1
%4 = constant 1536 : f32 chain pass 0
%5 = div %3 %4 : f32 row pass 1
%6 = constant 1e-06 : f32 chain pass 0
%7 = add %5 %6 : f32 row pass 1
%8 = rsqrt %7 : f32 row pass 1
%9 = mul %1 %8 : f32 column pass 1
%10 = load 1 [0,128,1] : bf16 column pass 0
%11 = cast %10 : f32 column pass 0
%12 = mul %9 %11 : f32 column pass 1
%13 = cast %12 : bf16 column pass 1
%14 = cast %13 : f32 column pass 1
%15 = load 3 [128,0,1] : f32 column pass 0
%16 = mul %14 %15 : f32 column pass 1
%17 = load 0 [1536,128,1] swapped : bf16 column pass 0
%18 = cast %17 : f32 column pass 0
%19 = mul %18 %8 : f32 column pass 1
%20 = load 1 [0,128,1] swapped : bf16 column pass 0
%21 = cast %20 : f32 column pass 0
%22 = mul %19 %21 : f32 column pass 1
%23 = cast %22 : bf16 column pass 1
%24 = cast %23 : f32 column pass 1
%25 = load 2 [128,0,1] : f32 column pass 0
%26 = mul %24 %25 : f32 column pass 1
%27 = add %16 %26 : f32 column pass 1
%28 = cast %27 : bf16 column pass 1
store 0 = %28 [1536,128,1]
*/
// k3: rows of 1536, 2 passes
extern "C" void k3(char* const* m, const long* g, long begin, long end, char* scratch) {
  const float v4 = 1536.0f;
  const float v6 = 1e-06f;
  for (long row = begin; row < end; ++row) {
    const long r0 = row;
    const bf16* const p0 = (const bf16*)m[0] + r0 * g[0];
    const bf16* const p10 = (const bf16*)m[1] + 0;
    const float* const p15 = (const float*)m[3] + r0 * g[1];
    const bf16* const p17 = (const bf16*)m[0] + r0 * g[2];
    const bf16* const p20 = (const bf16*)m[1] + 0;
    const float* const p25 = (const float*)m[2] + r0 * g[3];
    bf16* const w0 = (bf16*)m[4] + r0 * g[4];
    Sum s3;
    for_parts<1536>([&](auto lanes, auto part, long c) {
      const F v0 = load(lanes, p0 + (c));
      const F v1 = v0;  // rms_norm
      const F v2 = v1 * v1;  // rms_norm
      s3.add(lanes, part, v2);
    });
    const float v3 = s3.total();
    const float v5 = v3 / v4;  // rms_norm
    const float v7 = v5 + v6;  // rms_norm
    const float v8 = 1.0f / zoe_sqrt(v7);  // rms_norm
    for_columns<1536>([&](auto lanes, auto part, long c) {
      const F v0 = load(lanes, p0 + (c));
      const F v1 = v0;  // rms_norm
      const F v9 = v1 * splat(v8);  // rms_norm
      const F v10 = load(lanes, p10 + (c));
      const F v11 = v10;  // rms_norm
      const F v12 = v9 * v11;  // rms_norm
      const F v13 = round_bf16(v12);  // rms_norm
      const F v14 = v13;  // rotary_interleaved
      const F v15 = load(lanes, p15 + (c % 128));
      const F v16 = v14 * v15;  // rotary_interleaved
      const F v17 = swap(load(lanes, p17 + (c)));
      const F v18 = v17;  // rms_norm
      const F v19 = v18 * splat(v8);  // rms_norm
      const F v20 = swap(load(lanes, p20 + (c)));
      const F v21 = v20;  // rms_norm
      const F v22 = v19 * v21;  // rms_norm
      const F v23 = round_bf16(v22);  // rms_norm
      const F v24 = v23;  // rotary_interleaved
      const F v25 = load(lanes, p25 + (c % 128));
      const F v26 = v24 * v25;  // rotary_interleaved
      const F v27 = v16 + v26;  // rotary_interleaved
      const F v28 = round_bf16(v27);  // rotary_interleaved
      store(lanes, w0 + (c), v28);
    });
  }
}
/*
chain of rows [2550] by columns [1536], 3 passes
%0 = load 2 [1536,1] : bf16 column pass 0
%1 = cast %0 : f32 column pass 0
%2 = load 0 [1536,1] : bf16 column pass 0
%3 = cast %2 : f32 column pass 0
%4 = load 1 [3072: 0,1] : f32 column pass 0
%5 = mul %3 %4 : f32 column pass 0
%6 = add %1 %5 : f32 column pass 0
%7 = cast %6 : bf16 column pass 0
%8 = cast %7 : f32 column pass 0 kept
%9 = sum %8 : f32 row pass 1
%10 = constant 1536 : f32 chain pass 0
%11 = div %9 %10 : f32 row pass 1
%12 = sub %8 %11 : f32 column pass 1
%13 = square %12 : f32 column pass 1
%14 = sum %13 : f32 row pass 2
%15 = constant 1536 : f32 chain pass 0
%16 = div %14 %15 : f32 row pass 2
%17 = constant 1e-06 : f32 chain pass 0
%18 = add %16 %17 : f32 row pass 2
%19 = rsqrt %18 : f32 row pass 2
%20 = mul %12 %19 : f32 column pass 2
%21 = load 3 [0,1] : f32 column pass 0
%22 = mul %20 %21 : f32 column pass 2
%23 = load 4 [0,1] : f32 column pass 0
%24 = add %22 %23 : f32 column pass 2
%25 = cast %24 : bf16 column pass 2
store 0 = %7 [1536,1]
store 1 = %25 [1536,1]
*/
// k4: rows of 1536, 3 passes
extern "C" void k4(char* const* m, const long* g, long begin, long end, char* scratch) {
  float* const k8 = (float*)(scratch + 0);
  const float v10 = 1536.0f;
  const float v15 = 1536.0f;
  const float v17 = 1e-06f;
  for (long row = begin; row < end; ++row) {
    const long r0 = row;
    const bf16* const p0 = (const bf16*)m[2] + r0 * g[0];
    const bf16* const p2 = (const bf16*)m[0] + r0 * g[1];
    const float* const p4 = (const float*)m[1] + g[2];
    const float* const p21 = (const float*)m[3] + 0;
    const float* const p23 = (const float*)m[4] + 0;
    bf16* const w0 = (bf16*)m[5] + r0 * g[3];
    bf16* const w1 = (bf16*)m[6] + r0 * g[4];
    Sum s9;
    for_parts<1536>([&](auto lanes, auto part, long c) {
      const F v0 = load(lanes, p0 + (c));
      const F v1 = v0;  // scale_residual_norm_scale_shift
      const F v2 = load(lanes, p2 + (c));
      const F v3 = v2;  // scale_residual_norm_scale_shift
      const F v4 = load(lanes, p4 + (c));
      const F v5 = v3 * v4;  // scale_residual_norm_scale_shift
      const F v6 = v1 + v5;  // scale_residual_norm_scale_shift
      const F v7 = round_bf16(v6);  // scale_residual_norm_scale_shift
      const F v8 = v7;  // scale_residual_norm_scale_shift
      store(lanes, k8 + c, v8);
      s9.add(lanes, part, v8);
      store(lanes, w0 + (c), v7);
    });
    const float v9 = s9.total();
    const float v11 = v9 / v10;  // scale_residual_norm_scale_shift
    Sum s14;
    for_parts<1536>([&](auto lanes, auto part, long c) {
      const F v8 = load(lanes, k8 + c);
      const F v12 = v8 - splat(v11);  // scale_residual_norm_scale_shift
      const F v13 = v12 * v12;  // scale_residual_norm_scale_shift
      s14.add(lanes, part, v13);
    });
    const float v14 = s14.total();
    const float v16 = v14 / v15;  // scale_residual_norm_scale_shift
    const float v18 = v16 + v17;  // scale_residual_norm_scale_shift
    const float v19 = 1.0f / zoe_sqrt(v18);  // scale_residual_norm_scale_shift
    for_columns<1536>([&](auto lanes, auto part, long c) {
      const F v8 = load(lanes, k8 + c);
      const F v12 = v8 - splat(v11);  // scale_residual_norm_scale_shift
      const F v20 = v12 * splat(v19);  // scale_residual_norm_scale_shift
      const F v21 = load(lanes, p21 + (c));
      const F v22 = v20 * v21;  // scale_residual_norm_scale_shift
      const F v23 = load(lanes, p23 + (c));
      const F v24 = v22 + v23;  // scale_residual_norm_scale_shift
      const F v25 = round_bf16(v24);  // scale_residual_norm_scale_shift
      store(lanes, w1 + (c), v25);
    });
  }
}
/*
chain of rows [2550] by columns [1536], 2 passes
%0 = load 0 [1536,1] : bf16 column pass 0
%1 = cast %0 : f32 column pass 0
%2 = square %1 : f32 column pass 0
%3 = sum %2 : f32 row pass 1
%4 = constant 1536 : f32 chain pass 0
%5 = div %3 %4 : f32 row pass 1
%6 = constant 1e-06 : f32 chain pass 0
%7 = add %5 %6 : f32 row pass 1
%8 = rsqrt %7 : f32 row pass 1
%9 = mul %1 %8 : f32 column pass 1
%10 = load 1 [0,1] : bf16 column pass 0
%11 = cast %10 : f32 column pass 0
%12 = mul %9 %11 : f32 column pass 1
%13 = cast %12 : bf16 column pass 1
store 0 = %13 [1536,1]
*/
// k5: rows of 1536, 2 passes
extern "C" void k5(char* const* m, const long* g, long begin, long end, char* scratch) {
  const float v4 = 1536.0f;
  const float v6 = 1e-06f;
  for (long row = begin; row < end; ++row) {
    const long r0 = row;
    const bf16* const p0 = (const bf16*)m[0] + r0 * g[0];
    const bf16* const p10 = (const bf16*)m[1] + 0;
    bf16* const w0 = (bf16*)m[2] + r0 * g[1];
    Sum s3;
    for_parts<1536>([&](auto lanes, auto part, long c) {
      const F v0 = load(lanes, p0 + (c));
      const F v1 = v0;  // rms_norm
      const F v2 = v1 * v1;  // rms_norm
      s3.add(lanes, part, v2);
    });
    const float v3 = s3.total();
    const float v5 = v3 / v4;  // rms_norm
    const float v7 = v5 + v6;  // rms_norm
    const float v8 = 1.0f / zoe_sqrt(v7);  // rms_norm
    for_columns<1536>([&](auto lanes, auto part, long c) {
      const F v0 = load(lanes, p0 + (c));
      const F v1 = v0;  // rms_norm
      const F v9 = v1 * splat(v8);  // rms_norm
      const F v10 = load(lanes, p10 + (c));
      const F v11 = v10;  // rms_norm
      const F v12 = v9 * v11;  // rms_norm
      const F v13 = round_bf16(v12);  // rms_norm
      store(lanes, w0 + (c), v13);
    });
  }
}
/*
chain of rows [2550] by columns [1536], 3 passes
%0 = load 0 [1536,1] : bf16 column pass 0
%1 = cast %0 : f32 column pass 0
%2 = sum %1 : f32 row pass 1
%3 = constant 1536 : f32 chain pass 0
%4 = div %2 %3 : f32 row pass 1
%5 = sub %1 %4 : f32 column pass 1
%6 = square %5 : f32 column pass 1
%7 = sum %6 : f32 row pass 2
%8 = constant 1536 : f32 chain pass 0
%9 = div %7 %8 : f32 row pass 2
%10 = constant 1e-06 : f32 chain pass 0
%11 = add %9 %10 : f32 row pass 2
%12 = rsqrt %11 : f32 row pass 2
%13 = mul %5 %12 : f32 column pass 2
%14 = constant 1 : f32 chain pass 0
%15 = load 1 [6144: 0,1] : f32 column pass 0
%16 = add %14 %15 : f32 column pass 0
%17 = mul %13 %16 : f32 column pass 2
%18 = load 1 [4608: 0,1] : f32 column pass 0
%19 = add %17 %18 : f32 column pass 2
%20 = cast %19 : bf16 column pass 2
store 0 = %20 [1536,1]
*/
// k6: rows of 1536, 3 passes
extern "C" void k6(char* const* m, const long* g, long begin, long end, char* scratch) {
  const float v3 = 1536.0f;
  const float v8 = 1536.0f;
  const float v10 = 1e-06f;
  const float v14 = 1.0f;
  for (long row = begin; row < end; ++row) {
    const long r0 = row;
    const bf16* const p0 = (const bf16*)m[0] + r0 * g[0];
    const float* const p15 = (const float*)m[1] + g[1];
    const float* const p18 = (const float*)m[1] + g[2];
    bf16* const w0 = (bf16*)m[2] + r0 * g[3];
    Sum s2;
    for_parts<1536>([&](auto lanes, auto part, long c) {
      const F v0 = load(lanes, p0 + (c));
      const F v1 = v0;  // norm_scale_shift
      s2.add(lanes, part, v1);
    });
    const float v2 = s2.total();
    const float v4 = v2 / v3;  // norm_scale_shift
    Sum s7;
    for_parts<1536>([&](auto lanes, auto part, long c) {
      const F v0 = load(lanes, p0 + (c));
      const F v1 = v0;  // norm_scale_shift
      const F v5 = v1 - splat(v4);  // norm_scale_shift
      const F v6 = v5 * v5;  // norm_scale_shift
      s7.add(lanes, part, v6);
    });
    const float v7 = s7.total();
    const float v9 = v7 / v8;  // norm_scale_shift
    const float v11 = v9 + v10;  // norm_scale_shift
    const float v12 = 1.0f / zoe_sqrt(v11);  // norm_scale_shift
    for_columns<1536>([&](auto lanes, auto part, long c) {
      const F v0 = load(lanes, p0 + (c));
      const F v1 = v0;  // norm_scale_shift
      const F v5 = v1 - splat(v4);  // norm_scale_shift
      const F v13 = v5 * splat(v12);  // norm_scale_shift
      const F v15 = load(lanes, p15 + (c));
      const F v16 = splat(v14) + v15;  // norm_scale_shift
      const F v17 = v13 * v16;  // norm_scale_shift
      const F v18 = load(lanes, p18 + (c));
      const F v19 = v17 + v18;  // norm_scale_shift
      const F v20 = round_bf16(v19);  // norm_scale_shift
      store(lanes, w0 + (c), v20);
    });
  }
}
/*
chain of rows [2550] by columns [1536], 3 passes
%0 = load 2 [1536,1] : bf16 column pass 0
%1 = cast %0 : f32 column pass 0
%2 = load 0 [1536,1] : bf16 column pass 0
%3 = cast %2 : f32 column pass 0
%4 = load 1 [7680: 0,1] : f32 column pass 0
%5 = mul %3 %4 : f32 column pass 0
%6 = add %1 %5 : f32 column pass 0
%7 = cast %6 : bf16 column pass 0
%8 = cast %7 : f32 column pass 0 kept
%9 = sum %8 : f32 row pass 1
%10 = constant 1536 : f32 chain pass 0
%11 = div %9 %10 : f32 row pass 1
%12 = sub %8 %11 : f32 column pass 1
%13 = square %12 : f32 column pass 1
%14 = sum %13 : f32 row pass 2
%15 = constant 1536 : f32 chain pass 0
%16 = div %14 %15 : f32 row pass 2
%17 = constant 1e-06 : f32 chain pass 0
%18 = add %16 %17 : f32 row pass 2
%19 = rsqrt %18 : f32 row pass 2
%20 = mul %12 %19 : f32 column pass 2
%21 = constant 1 : f32 chain pass 0
%22 = load 3 [1536: 0,1] : f32 column pass 0
%23 = add %21 %22 : f32 column pass 0
%24 = mul %20 %23 : f32 column pass 2
%25 = load 3 [0,1] : f32 column pass 0
%26 = add %24 %25 : f32 column pass 2
%27 = cast %26 : bf16 column pass 2
store 0 = %7 [1536,1]
store 1 = %27 [1536,1]
*/
// k7: rows of 1536, 3 passes
extern "C" void k7(char* const* m, const long* g, long begin, long end, char* scratch) {
  float* const k8 = (float*)(scratch + 0);
  const float v10 = 1536.0f;
  const float v15 = 1536.0f;
  const float v17 = 1e-06f;
  const float v21 = 1.0f;
  for (long row = begin; row < end; ++row) {
    const long r0 = row;
    const bf16* const p0 = (const bf16*)m[2] + r0 * g[0];
    const bf16* const p2 = (const bf16*)m[0] + r0 * g[1];
    const float* const p4 = (const float*)m[1] + g[2];
    const float* const p22 = (const float*)m[3] + g[3];
    const float* const p25 = (const float*)m[3] + 0;
    bf16* const w0 = (bf16*)m[4] + r0 * g[4];
    bf16* const w1 = (bf16*)m[5] + r0 * g[5];
    Sum s9;
    for_parts<1536>([&](auto lanes, auto part, long c) {
      const F v0 = load(lanes, p0 + (c));
      const F v1 = v0;  // mul_add
      const F v2 = load(lanes, p2 + (c));
      const F v3 = v2;  // mul_add
      const F v4 = load(lanes, p4 + (c));
      const F v5 = v3 * v4;  // mul_add
      const F v6 = v1 + v5;  // mul_add
      const F v7 = round_bf16(v6);  // mul_add
      const F v8 = v7;  // norm_scale_shift
      store(lanes, k8 + c, v8);
      s9.add(lanes, part, v8);
      store(lanes, w0 + (c), v7);
    });
    const float v9 = s9.total();
    const float v11 = v9 / v10;  // norm_scale_shift
    Sum s14;
    for_parts<1536>([&](auto lanes, auto part, long c) {
      const F v8 = load(lanes, k8 + c);
      const F v12 = v8 - splat(v11);  // norm_scale_shift
      const F v13 = v12 * v12;  // norm_scale_shift
      s14.add(lanes, part, v13);
    });
    const float v14 = s14.total();
    const float v16 = v14 / v15;  // norm_scale_shift
    const float v18 = v16 + v17;  // norm_scale_shift
    const float v19 = 1.0f / zoe_sqrt(v18);  // norm_scale_shift
    for_columns<1536>([&](auto lanes, auto part, long c) {
      const F v8 = load(lanes, k8 + c);
      const F v12 = v8 - splat(v11);  // norm_scale_shift
      const F v20 = v12 * splat(v19);  // norm_scale_shift
      const F v22 = load(lanes, p22 + (c));
      const F v23 = splat(v21) + v22;  // norm_scale_shift
      const F v24 = v20 * v23;  // norm_scale_shift
      const F v25 = load(lanes, p25 + (c));
      const F v26 = v24 + v25;  // norm_scale_shift
      const F v27 = round_bf16(v26);  // norm_scale_shift
      store(lanes, w1 + (c), v27);
    });
  }
}
/*
chain of rows [2550] by columns [1536], 3 passes
%0 = load 2 [1536,1] : bf16 column pass 0
%1 = cast %0 : f32 column pass 0
%2 = load 0 [1536,1] : bf16 column pass 0
%3 = cast %2 : f32 column pass 0
%4 = load 1 [7680: 0,1] : f32 column pass 0
%5 = mul %3 %4 : f32 column pass 0
%6 = add %1 %5 : f32 column pass 0
%7 = cast %6 : bf16 column pass 0
%8 = cast %7 : f32 column pass 0 kept
%9 = sum %8 : f32 row pass 1
%10 = constant 1536 : f32 chain pass 0
%11 = div %9 %10 : f32 row pass 1
%12 = sub %8 %11 : f32 column pass 1
%13 = square %12 : f32 column pass 1
%14 = sum %13 : f32 row pass 2
%15 = constant 1536 : f32 chain pass 0
%16 = div %14 %15 : f32 row pass 2
%17 = constant 1e-06 : f32 chain pass 0
%18 = add %16 %17 : f32 row pass 2
%19 = rsqrt %18 : f32 row pass 2
%20 = mul %12 %19 : f32 column pass 2
%21 = constant 1 : f32 chain pass 0
%22 = load 3 [1536: 0,1] : f32 column pass 0
%23 = load 4 [0,1] : bf16 column pass 0
%24 = cast %23 : f32 column pass 0
%25 = add %22 %24 : f32 column pass 0
%26 = add %21 %25 : f32 column pass 0 kept
%27 = mul %20 %26 : f32 column pass 2
%28 = load 3 [0,1] : f32 column pass 0
%29 = add %28 %24 : f32 column pass 0
%30 = add %27 %29 : f32 column pass 2
%31 = cast %30 : bf16 column pass 2
store 0 = %31 [1536,1]
*/
// k8: rows of 1536, 3 passes
extern "C" void k8(char* const* m, const long* g, long begin, long end, char* scratch) {
  float* const k8 = (float*)(scratch + 0);
  float* const k26 = (float*)(scratch + 6144);
  const float v10 = 1536.0f;
  const float v15 = 1536.0f;
  const float v17 = 1e-06f;
  const float v21 = 1.0f;
  for (long row = begin; row < end; ++row) {
    const long r0 = row;
    const bf16* const p0 = (const bf16*)m[2] + r0 * g[0];
    const bf16* const p2 = (const bf16*)m[0] + r0 * g[1];
    const float* const p4 = (const float*)m[1] + g[2];
    const float* const p22 = (const float*)m[3] + g[3];
    const bf16* const p23 = (const bf16*)m[4] + 0;
    const float* const p28 = (const float*)m[3] + 0;
    bf16* const w0 = (bf16*)m[5] + r0 * g[4];
    Sum s9;
    for_parts<1536>([&](auto lanes, auto part, long c) {
      const F v0 = load(lanes, p0 + (c));
      const F v1 = v0;  // mul_add
      const F v2 = load(lanes, p2 + (c));
      const F v3 = v2;  // mul_add
      const F v4 = load(lanes, p4 + (c));
      const F v5 = v3 * v4;  // mul_add
      const F v6 = v1 + v5;  // mul_add
      const F v7 = round_bf16(v6);  // mul_add
      const F v8 = v7;  // norm_scale_shift
      store(lanes, k8 + c, v8);
      const F v22 = load(lanes, p22 + (c));
      const F v23 = load(lanes, p23 + (c));
      const F v24 = v23;
      const F v25 = v22 + v24;
      const F v26 = splat(v21) + v25;  // norm_scale_shift
      store(lanes, k26 + c, v26);
      s9.add(lanes, part, v8);
    });
    const float v9 = s9.total();
    const float v11 = v9 / v10;  // norm_scale_shift
    Sum s14;
    for_parts<1536>([&](auto lanes, auto part, long c) {
      const F v8 = load(lanes, k8 + c);
      const F v12 = v8 - splat(v11);  // norm_scale_shift
      const F v13 = v12 * v12;  // norm_scale_shift
      s14.add(lanes, part, v13);
    });
    const float v14 = s14.total();
    const float v16 = v14 / v15;  // norm_scale_shift
    const float v18 = v16 + v17;  // norm_scale_shift
    const float v19 = 1.0f / zoe_sqrt(v18);  // norm_scale_shift
    for_columns<1536>([&](auto lanes, auto part, long c) {
      const F v8 = load(lanes, k8 + c);
      const F v12 = v8 - splat(v11);  // norm_scale_shift
      const F v20 = v12 * splat(v19);  // norm_scale_shift
      const F v23 = load(lanes, p23 + (c));
      const F v24 = v23;
      const F v26 = load(lanes, k26 + c);
      const F v27 = v20 * v26;  // norm_scale_shift
      const F v28 = load(lanes, p28 + (c));
      const F v29 = v28 + v24;
      const F v30 = v27 + v29;  // norm_scale_shift
      const F v31 = round_bf16(v30);  // norm_scale_shift
      store(lanes, w0 + (c), v31);
    });
  }
}
/*
chain of rows [16,85] by columns [2,30,2], 1 passes
%0 = load 0 [1,1920,32,64,16] : bf16 column pass 0
%1 = cast %0 : f32 column pass 0
store 0 = %1 [10200,120,60,2,1]
*/
// k9: rows of 120
extern "C" void k9(char* const* m, const long* g, long begin, long end, char* scratch) {
  for (long row = begin; row < end; ++row) {
    const long q1 = row / g[0], r1 = row % g[0];
    const long r0 = q1;
    const bf16* const p0 = (const bf16*)m[0] + r0 * g[1] + r1 * g[2];
    float* const w0 = (float*)m[1] + r0 * g[3] + r1 * g[4];
    for_columns<120>([&](auto lanes, auto part, long c) {
      const F v0 = gather(lanes, p0, [&](long i) { return ((c + i) % 2) * 16 + ((c + i) / 2 % 30) * 64 + ((c + i) / 60) * 32; });
      const F v1 = v0;
      store(lanes, w0 + (c), v1);
    });
  }
}

