// Rows of bf16 to 8-bit codes and a scale each, by the definition in base/codes.h and with its bits: groups of GROUP numbers are
// rotated by a regular Hadamard matrix, radix-4 passes over strides 1, 4, 16 and 64; then scale = largest / 127.
//
// A block makes a row, a thread RUNS runs of sixteen neighbours of it: two passes are its own. What the sixteen threads of a group hold
// goes through shared memory once, as a transposition, so that the other two are, too. A row is read once and its codes written once;
// by count of bytes that is what binds (3 bytes a number), instructions are next.
//
// The text goes behind tiles.cu, hopper.cu and definitions of
//   GROUP    256, 64, 16, or 1: no rotation
//   RUNS     of a thread
//   THREADS  a multiple of 32; times 16 RUNS at least the row
#define EXCHANGED_WORDS (256 + 272)  // where groups are longer than a thread's numbers

ZOE_FN void rotate4(float& a, float& b, float& c, float& d) {
  const float t = (a + b) + (c + d), first = fmaf(-2.0f, d, t), second = fmaf(-2.0f, c, t), third = fmaf(-2.0f, b, t),
              fourth = fmaf(-2.0f, a, t);
  a = first, b = second, c = third, d = fourth;
}

// Bytes among four neighbouring threads: thread i gives byte j of its word to thread j and gets that thread's byte i as byte j.
ZOE_FN unsigned exchange_bytes(unsigned word) {
  const int i = threadIdx.x % 4;
  unsigned other = __shfl_xor_sync(~0u, word, 1);
  word = __byte_perm(word, other, i & 1 ? 0x3715 : 0x6240);
  other = __shfl_xor_sync(~0u, word, 2);
  return __byte_perm(word, other, i & 2 ? 0x3276 : 0x5410);
}

extern "C" __global__ __launch_bounds__(THREADS) void make_codes(const T* x, signed char* codes, float* scales, int columns) {
  extern __shared__ float exchanged[];  // EXCHANGED_WORDS for each warp
  __shared__ float highest_of[THREADS / 32];
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const long row = blockIdx.x;
  const int first = warp * (RUNS * 512);  // of the warp's numbers
  float v[RUNS][16];
  unsigned words[RUNS][8];
  x += row * columns + first + lane * 16;
#pragma unroll
  for (int run = 0; run < RUNS; ++run) {
#pragma unroll
    for (int i = 0; i < 8; ++i) words[run][i] = 0;
    if (first + run * 512 + lane * 16 < columns) read<true>(words[run], x + run * 512);
  }
#if GROUP > 16
  float *const mine = exchanged + warp * EXCHANGED_WORDS, *const to = mine + lane / 16 * 272 + lane % 16 * 16,
               *const from = mine + lane / 16 * 272 + lane % 4;
#endif
  float highest = 0.0f;  // NaN where any number is
#pragma unroll
  for (int run = 0; run < RUNS; ++run) {
    float(&u)[16] = v[run];
#pragma unroll
    for (int i = 0; i < 8; ++i) u[2 * i] = low_float(words[run][i]), u[2 * i + 1] = high_float(words[run][i]);
#if GROUP > 1
#pragma unroll
    for (int i = 0; i < 16; i += 4) rotate4(u[i], u[i + 1], u[i + 2], u[i + 3]);
#pragma unroll
    for (int i = 0; i < 4; ++i) rotate4(u[i], u[i + 4], u[i + 8], u[i + 12]);
#endif
#if GROUP > 16
    // Number i of thread k lies in chunk i / 4 ^ k / 2 % 4 of its sixteen, so that neither what a thread writes nor what threads read
    // at a time meets in a bank; the second half warp's begins half the banks later.
    if (run > 0) __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) *(float4*)(to + (i ^ lane / 2 % 4) * 4) = make_float4(u[4 * i], u[4 * i + 1], u[4 * i + 2], u[4 * i + 3]);
    __syncwarp();
#pragma unroll
    for (int swizzle = 0; swizzle < 4; ++swizzle) {
      const float* const chunk = from + (lane / 4 % 4 ^ swizzle) * 4;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int k = i / 2 * 8 + swizzle * 2 + i % 2;
        u[k] = chunk[k * 16];
      }
    }
#pragma unroll
    for (int i = 0; i < 16; i += 4) rotate4(u[i], u[i + 1], u[i + 2], u[i + 3]);
#if GROUP > 64
#pragma unroll
    for (int i = 0; i < 4; ++i) rotate4(u[i], u[i + 4], u[i + 8], u[i + 12]);
#endif
#endif
#pragma unroll
    for (int i = 0; i < 16; ++i) highest = at_least(highest, fabsf(u[i]));
  }
  // Without signs, numbers are in the order of their bits, NaN the last.
  highest = __int_as_float((int)__reduce_max_sync(~0u, (unsigned)__float_as_int(highest)));
  if (lane == 0) highest_of[warp] = highest;
  __syncthreads();
  highest = __int_as_float((int)__reduce_max_sync(~0u, (unsigned)__float_as_int(highest_of[lane < THREADS / 32 ? lane : 0])));
  // The rotation's factor, a power of two, goes to the scale: the products are the same.
  constexpr float kFactor = GROUP == 256 ? 1.0f / 16 : GROUP == 64 ? 1.0f / 8 : GROUP == 16 ? 1.0f / 4 : 1.0f;
  const float largest = highest < ZOE_INFINITY ? fmaxf(highest * kFactor, 1e-30f) : ZOE_NAN, inverse = 127.0f / largest * kFactor;
  if (thread == 0) scales[row] = largest / 127.0f;
  codes += row * columns + first;
#pragma unroll
  for (int run = 0; run < RUNS; ++run) {
    float(&u)[16] = v[run];
    unsigned rounded[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      rounded[i] = rounded_s8(u[4 * i] * inverse, u[4 * i + 1] * inverse, u[4 * i + 2] * inverse, u[4 * i + 3] * inverse);
#if GROUP > 16
    const int place = run * 512 + lane / 16 * 256 + lane % 4 * 16 + lane / 4 % 4 * 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const unsigned word = exchange_bytes(rounded[i]);
      if (first + place + i * 64 < columns) *(unsigned*)(codes + place + i * 64) = word;
    }
#else
    const int place = run * 512 + lane * 16;
    if (first + place < columns) write(codes + place, rounded);
#endif
  }
}
