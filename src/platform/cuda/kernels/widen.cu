// A weight that stays in memory as a file stores it, to the dense rows that a product reads. Behind the prelude of generated kernels
// and base/blocks.inc; the host defines
//   BF16                         what an element T of the result is: 0 f32, 1 bf16
//   RUN, ELEMENTS, BYTES         the function of blocks.inc, and a block's elements and bytes;
//   or VALUE                     that of a byte, an element each;
//   or neither                   where elements are T already
//   SCALED                       1: every row has a scale
//   CHANGED                      1: something is added, of the result's shape and type
#if BF16
typedef bf16 T;
#else
typedef float T;
#endif

// A thread's sixteen numbers, side by side with those of its neighbour: every access of the pair writes 32 bytes, a sector of memory, as
// half of one costs as much. All threads of a warp take part.
ZOE_FN void store_by_pairs(bf16* result, const float (&values)[16], bool there) {
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
  if (!there) return;
  uint4* const pair = (uint4*)(result - (second ? 16 : 0)) + (second ? 1 : 0);
  pair[0] = make_uint4(words[0], words[1], words[2], words[3]);
  pair[2] = make_uint4(words[4], words[5], words[6], words[7]);
}

// A thread has 16 elements. `wide`: those of the result, and of the change, lie at a multiple of 16 bytes.
extern "C" __global__ void widen(const byte* blocks, const float* scales, const T* change, T* result, long count, int columns,
                                 int wide) {
  const long first = ((long)blockIdx.x * blockDim.x + threadIdx.x) * 16;
  const int here = count - first >= 16 ? 16 : count > first ? (int)(count - first) : 0;
  float values[16];
  fill(values, 0.0f);
  if (here > 0) {
#if defined(RUN)
    RUN(blocks + first / ELEMENTS * BYTES, (int)(first % ELEMENTS) / 16, values);
#elif defined(VALUE)
    if (here == 16) {  // whole vectors: parts of a buffer begin at them
      const uint4 words = *(const uint4*)(blocks + first);
      const unsigned four[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (int i = 0; i < 16; ++i) values[i] = VALUE((int)(four[i / 4] >> i % 4 * 8 & 255u));
    } else {
#pragma unroll
      for (int i = 0; i < 16; ++i)
        if (i < here) values[i] = VALUE(blocks[first + i]);
    }
#else
    if (here == 16) {
      load(values, (const T*)blocks + first);
    } else {
#pragma unroll
      for (int i = 0; i < 16; ++i)
        if (i < here) values[i] = load1((const T*)blocks + first + i);
    }
#endif
#if SCALED
    const long row = first / columns;
    const int until = (int)((row + 1) * columns - first);  // where the next row begins
    if (until >= here) {
      const float scale = scales[row];
#pragma unroll
      for (int i = 0; i < 16; ++i) values[i] *= scale;
    } else {
#pragma unroll
      for (int i = 0; i < 16; ++i)
        if (i < here) values[i] *= scales[(first + i) / columns];
    }
#endif
#if CHANGED
    if (wide && here == 16) {
      float more[16];
      load(more, change + first);
#pragma unroll
      for (int i = 0; i < 16; ++i) values[i] += more[i];
    } else {
#pragma unroll
      for (int i = 0; i < 16; ++i)
        if (i < here) values[i] += load1(change + first + i);
    }
#endif
  }
#if BF16
  const bool paired = wide && count - first / 32 * 32 >= 32;
  store_by_pairs(result + first, values, paired);
  if (paired) return;
#else
  if (wide && here == 16) return store(result + first, values);
#endif
#pragma unroll
  for (int i = 0; i < 16; ++i)
    if (i < here) store1(result + first + i, values[i]);
}
