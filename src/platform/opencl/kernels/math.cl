// exp, tanh and what is made of them, as written-out polynomials: the same steps as on every other platform
// (platform/cpu/math-inl.h says how far off they are). The text is compiled for float and again for a vector of floats:
// F and I are the types, AS_F and AS_I change one to the other bit by bit, FN(name) names the function.

// x = n ln 2 + r with |r| <= 0.5001 ln 2, |x| <= 150. Returns e^r - 1. Adding 1.5 * 2^23 rounds to an integer in the low bits.
static F FN(reduced_expm1)(F x, I* n) {
  const F magic = (F)(12582912.0f);
  const F shifted = x * 1.44269504f + magic;
  *n = AS_I(shifted) - AS_I(magic);
  const F whole = shifted - magic;
  // ln 2 in two parts; the first has 9 bits, so that its product with n is exact.
  const F r = (x - whole * 0.693359375f) - whole * -2.1219444e-4f;
  F q = (F)(0x1.6a4748p-10f);
  q = q * r + 0x1.1239a2p-7f;
  q = q * r + 0x1.5558b6p-5f;
  q = q * r + 0x1.555492p-3f;
  q = q * r + 0x1.fffffcp-2f;
  return (r * r) * q + r;
}

static F FN(power_of_two)(I n) { return AS_F((n + 127) << 23); }  // -126 <= n <= 127

static F FN(zoe_exp)(F x) {
  x = select(x, (F)(-105.0f), isless(x, (F)(-105.0f)));  // comparisons, not min and max: they let a NaN through
  x = select(x, (F)(89.0f), isgreater(x, (F)(89.0f)));
  I n;
  const F p = FN(reduced_expm1)(x, &n) + 1.0f;
  // n reaches -151 and 128, so the scale goes in two steps; only the second can round, overflow or underflow.
  const I half = n >> 1;
  return (p * FN(power_of_two)(half)) * FN(power_of_two)(n - half);
}

static F FN(zoe_tanh)(F x) {
  F t = fabs(x) * -2.0f;
  t = select(t, (F)(-40.0f), isless(t, (F)(-40.0f)));
  I n;
  const F e = FN(reduced_expm1)(t, &n);
  const F scale = FN(power_of_two)(n);
  const F m = e * scale + (scale - 1.0f);
  return copysign(m / (m + 2.0f), x);
}

static F FN(zoe_silu)(F x) { return x / (FN(zoe_exp)(-x) + 1.0f); }

static F FN(zoe_gelu_tanh)(F x) {
  const F cube = ((x * 0.044715f) * x) * x;
  const F u = (x + cube) * 0.7978845608f;
  return (x * 0.5f) * (FN(zoe_tanh)(u) + 1.0f);
}
