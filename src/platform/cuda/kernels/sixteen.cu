// What base/blocks.inc reads bytes and numbers of blocks with.
#define ZOE_PAIR(b) (*(const unsigned short*)(b))

// NaNs become others than the text's, which are all one in bf16.
#if BF16 && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 530
ZOE_FN float f16_value(unsigned bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"((unsigned short)bits));
  return x;
}
#define ZOE_F16(bits) f16_value(bits)
#endif

// Blocks lie one behind the other. A format of whole sixteens has its numbers at sixteens; where blocks lie at even addresses only,
// they are read by the aligned sixteens that have some of them, one or two wide accesses. Those are never past a part of a kept
// weight, which is filled up to a cache line.
#if defined(BYTES)
#if BYTES % 16 == 0
#define ZOE_SIXTEEN(q, b) \
  alignas(16) byte q[16]; \
  *(uint4*)q = *(const uint4*)(b)
#else
ZOE_FN void read_sixteen(byte (&q)[16], const byte* from) {
  const int behind = (int)((unsigned long long)from & 15u);
  const uint4* const aligned = (const uint4*)(from - behind);
  const uint4 low = aligned[0], high = behind ? aligned[1] : low;
  unsigned words[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
  for (int i = 0; i < 6; ++i) words[i] = behind & 8 ? words[i + 2] : words[i];
#pragma unroll
  for (int i = 0; i < 5; ++i) words[i] = behind & 4 ? words[i + 1] : words[i];
#pragma unroll
  for (int i = 0; i < 4; ++i) ((unsigned*)q)[i] = behind & 2 ? words[i] >> 16 | words[i + 1] << 16 : words[i];
}
#define ZOE_SIXTEEN(q, b) \
  alignas(16) byte q[16]; \
  read_sixteen(q, b)
#endif
#endif
