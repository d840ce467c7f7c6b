// What the kernels are written in: the arithmetic that ir/math.inc is, on vectors of VEC floats (F and I), and elements in memory, which
// are float, or the upper half of one (bf16), rounded to nearest even. The host defines in front of this text BF16 (0 or 1:
// what T is), VEC (4, 8 or 16) and, for kernels that call ir/math.inc's functions on single numbers, SCALAR_MATH.
#pragma OPENCL FP_CONTRACT OFF

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
typedef JOIN(float, VEC) V;

#ifdef SCALAR_MATH
typedef float F;
typedef int I;
#define zoe_as_i(x) as_int(x)
#define zoe_as_f(x) as_float(x)
#else
typedef V F;
typedef JOIN(int, VEC) I;
#define zoe_as_i(x) JOIN(as_int, VEC)(x)
#define zoe_as_f(x) JOIN(as_float, VEC)(x)
#endif
#define ZOE_FN static
#define ZOE_F(c) ((F)(c))
#define zoe_lt_select(a, b, x, y) select(y, x, (a) < (b))
#define zoe_sqrt(x) sqrt(x)
// A device without an instruction for it would take a hundred.
#ifdef FP_FAST_FMAF
#define zoe_fma(a, b, c) fma(a, b, c)
#else
#define zoe_fma(a, b, c) ((a) * (b) + (c))
#endif

static ushort to_bf16(float value) {
  const uint bits = as_uint(value), high = bits >> 16;
  return (ushort)((bits & 0x7fffffffu) > 0x7f800000u ? high | 0x40u : (bits + 0x7fffu + (high & 1u)) >> 16);
}

// Addresses need an element's alignment only.
#if BF16
typedef ushort T;
static float load(__global const T* p) { return as_float((uint)*p << 16); }
static V load_vector(__global const T* p) { return JOIN(as_float, VEC)(JOIN(convert_uint, VEC)(JOIN(vload, VEC)(0, p)) << 16); }
static void store(float value, __global T* p) { *p = to_bf16(value); }
static void store_vector(V value, __global T* p) {
  const JOIN(uint, VEC) bits = JOIN(as_uint, VEC)(value), high = bits >> 16;
  const JOIN(uint, VEC) rounded = (bits + 0x7fffu + (high & 1u)) >> 16;
  JOIN(vstore, VEC)(JOIN(convert_ushort, VEC)(select(rounded, high | 0x40u, isnan(value))), 0, p);
}
#else
typedef float T;
static float load(__global const T* p) { return *p; }
static V load_vector(__global const T* p) { return JOIN(vload, VEC)(0, p); }
static void store(float value, __global T* p) { *p = value; }
static void store_vector(V value, __global T* p) { JOIN(vstore, VEC)(value, 0, p); }
#endif

// One rounding or two, whichever the device does fast: sums of products are compared within a tolerance.
#ifdef FP_FAST_FMAF
#define MULTIPLY_ADD fma
#else
#define MULTIPLY_ADD mad
#endif
