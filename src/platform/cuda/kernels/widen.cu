// A weight that stays in memory as a file stores it, to the dense rows that a product reads. Behind the prelude of generated kernels
// and base/blocks.inc; the host defines
//   BF16                         what an element T of the result is: 0 f32, 1 bf16
//   RUN, ELEMENTS, BYTES         the function of blocks.inc, and a block's elements and bytes;
//   or VALUE                     that of a byte, an element each;
//   or neither                   where elements are T already
//   SCALED                       1: every row has a scale
#if BF16
typedef bf16 T;
#else
typedef float T;
#endif

// A thread has 16 elements. `wide`: those of the result lie at a multiple of 16 bytes.
extern "C" __global__ void widen(const byte* blocks, const float* scales, T* result, long count, int columns, int wide) {
  const long first = ((long)blockIdx.x * blockDim.x + threadIdx.x) * 16;
  if (first >= count) return;
  const int here = count - first < 16 ? (int)(count - first) : 16;
#if defined(RUN) || defined(VALUE)
  float values[16];
#ifdef RUN
  RUN(blocks + first / ELEMENTS * BYTES, (int)(first % ELEMENTS) / 16, values);
#else
  if (here == 16) {  // whole vectors: parts of a buffer begin at them
    const uint4 words = *(const uint4*)(blocks + first);
    const unsigned four[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 16; ++i) values[i] = VALUE((int)(four[i / 4] >> i % 4 * 8 & 255u));
  } else {
#pragma unroll
    for (int i = 0; i < 16; ++i) values[i] = i < here ? VALUE(blocks[first + i]) : 0.0f;
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
  if (wide && here == 16) return store(result + first, values);
#pragma unroll
  for (int i = 0; i < 16; ++i)
    if (i < here) store1(result + first + i, values[i]);
#else
  for (int i = 0; i < here; ++i) result[first + i] = ((const T*)blocks)[first + i];
#endif
}
