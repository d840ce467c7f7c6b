// What base/blocks.inc reads sixteen bytes with, where blocks lie at even addresses only: by the aligned sixteens that have some of
// them, which one or two wide accesses read. Those are never past a part of a kept weight, which is filled up to a cache line.
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
