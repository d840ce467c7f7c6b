// A weight that stays in memory as a file stores it, to the dense rows that a product reads. Behind the prelude of generated kernels
// and base/blocks.inc; the host defines
//   BF16                         what an element T of the result is: 0 f32, 1 bf16
//   THREADS                      of a block
//   RUN, ELEMENTS, BYTES         the function of blocks.inc, and a block's elements and bytes;
//   or VALUE                     that of a byte, an element each; with F8 (4 or 5 bits of exponent) where that is a float;
//   or neither                   where elements are T already
//   SCALED                       1: every row has a scale
//   CHANGED                      1: something is added, of the result's shape and type
#if BF16
typedef bf16 T;
#else
typedef float T;
#endif

// Sixteen bytes, a number each: four of them to a word.
#if defined(VALUE)
ZOE_FN void values_of(const unsigned (&four)[4], float (&values)[16]) {
#if defined(F8) && BF16 && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  // An 8-bit float is an f16, too. Its NaNs become others than VALUE's, which are all one in bf16.
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const unsigned short two = (unsigned short)(four[i / 2] >> i % 2 * 16);
    unsigned halves;
#if F8 == 4
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(two));
#else
    asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(halves) : "h"(two));
#endif
    values[2 * i] = ZOE_F16(halves & 0xffffu);
    values[2 * i + 1] = ZOE_F16(halves >> 16);
  }
#else
#pragma unroll
  for (int i = 0; i < 16; ++i) values[i] = VALUE((int)(four[i / 4] >> i % 4 * 8 & 255u));
#endif
}
#endif

// Sixteen elements from `first` on, a multiple of sixteen.
ZOE_FN void stored_values(const byte* blocks, unsigned first, float (&values)[16]) {
#if defined(RUN)
  RUN(blocks + (long)(first / ELEMENTS) * BYTES, (int)(first % ELEMENTS) / 16, values);
#elif defined(VALUE)
  const uint4 words = *(const uint4*)(blocks + first);  // parts of a buffer begin at whole vectors
  const unsigned four[4] = {words.x, words.y, words.z, words.w};
  values_of(four, values);
#else
  load(values, (const T*)blocks + first);
#endif
}

// A thread's sixteen numbers, side by side with those of its neighbour: every access of the pair writes 32 bytes, a sector of memory, as
// half of one costs as much. All threads of a warp take part.
#if BF16
ZOE_FN void store_whole(bf16* result, const float (&values)[16]) {
  unsigned words[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) words[i] = narrow2(values[2 * i], values[2 * i + 1]);
  const bool second = threadIdx.x & 1;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const unsigned got = __shfl_xor_sync(0xffffffffu, second ? words[i] : words[4 + i], 1);
    if (second) words[i] = got;
    else words[4 + i] = got;
  }
  uint4* const pair = (uint4*)(result - (second ? 16 : 0)) + (second ? 1 : 0);
  pair[0] = make_uint4(words[0], words[1], words[2], words[3]);
  pair[2] = make_uint4(words[4], words[5], words[6], words[7]);
}
#else
ZOE_FN void store_whole(float* result, const float (&values)[16]) { store(result, values); }
#endif

// One element after the other: what is left at the end, and rows or addresses that are no whole vectors.
ZOE_FN void widen_singly(const byte* blocks, const float* scales, const T* change, T* result, unsigned first, int here,
                         unsigned columns) {
  float values[16];
  fill(values, 0.0f);
#if defined(RUN)
  stored_values(blocks, first, values);
#else
#pragma unroll
  for (int i = 0; i < 16; ++i)
#if defined(VALUE)
    if (i < here) values[i] = VALUE(blocks[first + i]);
#else
    if (i < here) values[i] = load1((const T*)blocks + first + i);
#endif
#endif
#pragma unroll
  for (int i = 0; i < 16; ++i)
    if (i < here) {
      float value = values[i];
#if SCALED
      value *= scales[(first + i) / columns];
#endif
#if CHANGED
      value += load1(change + first + i);
#endif
      store1(result + first + i, value);
    }
}

// A block of threads has RUNS times THREADS sixteens, a thread every THREADS-th of them: all are read before any is written, as it is
// the wait for memory that takes the time. `wide`: those of the result, and of the change, lie at a multiple of 16 bytes.
// `count` is below 2^31.
#define RUNS 2
extern "C" __global__ void widen(const byte* blocks, const float* scales, const T* change, T* result, int count, int columns,
                                 int wide) {
  constexpr unsigned kApart = THREADS * 16;
  const unsigned begin = blockIdx.x * (RUNS * kApart), first = begin + threadIdx.x * 16;
#if SCALED
  wide = wide && columns % 16 == 0;  // a sixteen is of one row
#endif
  if (wide && begin + RUNS * kApart <= (unsigned)count) {
    float values[RUNS][16];
#pragma unroll
    for (int r = 0; r < RUNS; ++r) stored_values(blocks, first + r * kApart, values[r]);
#pragma unroll
    for (int r = 0; r < RUNS; ++r) {
      const unsigned at = first + r * kApart;
#if SCALED
      const float scale = scales[at / (unsigned)columns];
#pragma unroll
      for (int i = 0; i < 16; ++i) values[r][i] *= scale;
#endif
#if CHANGED
      float more[16];
      load(more, change + at);
#pragma unroll
      for (int i = 0; i < 16; ++i) values[r][i] += more[i];
#endif
    }
#pragma unroll
    for (int r = 0; r < RUNS; ++r) store_whole(result + first + r * kApart, values[r]);
    return;
  }
#pragma unroll 1
  for (int r = 0; r < RUNS; ++r) {
    const unsigned at = first + r * kApart;
    if (at < (unsigned)count)
      widen_singly(blocks, scales, change, result, at, count - at >= 16 ? 16 : (int)(count - at), (unsigned)columns);
  }
}
