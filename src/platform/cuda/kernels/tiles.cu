// What product.cu and attention.cu are written in: elements, copies to shared memory, and products on tensor cores. It goes behind
// the prelude of generated kernels and
//   BF16          what an element T is: 0 f32, 1 bf16
//   TENSOR_CORES  1: bf16 is multiplied by mma.sync (compute capability 8.0)
//   ACTIVATION    of a product: a function's name, or nothing
#define MINUS_INFINITY __int_as_float(0xff800000)

#if BF16
typedef bf16 T;
#else
typedef float T;
#endif

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define ASYNC_COPIES 1
#else
#define ASYNC_COPIES 0
#endif

// One element to shared memory as f32, zero if it is not there. f32 goes past the registers where it can.
ZOE_FN void copy_element(float* to, const T* from, bool there) {
#if ASYNC_COPIES && !BF16
  const int bytes = there ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(bytes));
#else
  *to = there ? load1(from) : 0.0f;
#endif
}

// Everything that any thread of the block has copied is there behind this.
ZOE_FN void wait_for_copies() {
#if ASYNC_COPIES
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
  __syncthreads();
}

#if TENSOR_CORES

ZOE_FN void store_chunk(unsigned to, const unsigned (&words)[4]) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
               : "memory");
}

// 8 elements to shared memory: `count` of them from `from`, then zeros. `wide`: they are all there or none, at a multiple of 16 bytes.
ZOE_FN void copy_chunk(unsigned to, const T* from, int count, bool wide) {
  if (wide) {
    const int bytes = count > 0 ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
  } else {
    unsigned words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const unsigned low = 2 * i < count ? from[2 * i] : 0, high = 2 * i + 1 < count ? from[2 * i + 1] : 0;
      words[i] = low | high << 16;
    }
    store_chunk(to, words);
  }
}

// Matrices of 8 x 8, a row of each at the address that a thread gives.
ZOE_FN void load_matrices(unsigned (&words)[4], unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(from)
               : "memory");
}
ZOE_FN void load_matrices(unsigned (&words)[2], unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(words[0]), "=r"(words[1]) : "r"(from) : "memory");
}
ZOE_FN void load_transposed(unsigned (&words)[4], unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(from)
               : "memory");
}

// sums [16 x 8] += a [16 x 16] * b [16 x 8]. Thread i has columns i % 4 * 2 and + 1 of rows i / 4 and i / 4 + 8.
ZOE_FN void multiply_add(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

ZOE_FN unsigned bf16_pair(float low, float high) {
  unsigned both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
ZOE_FN float low_float(unsigned both) { return __int_as_float((int)(both << 16)); }
ZOE_FN float high_float(unsigned both) { return __int_as_float((int)(both & 0xffff0000u)); }

#endif


// N neighbouring sums of a row to the result. `wide`: N elements may be moved as one.
template <int N>
ZOE_FN void finish(float (&sums)[N], long row, int column, int columns, bool wide, const T* bias, const T* residual,
                   T* result) {
  const long place = row * columns + column;
#if TENSOR_CORES
  if (wide && N == 2) {
    if (column >= columns) return;
    if (bias) {
      const unsigned both = *(const unsigned*)(bias + column);
      sums[0] += low_float(both), sums[1] += high_float(both);
    }
    sums[0] = ACTIVATION(sums[0]), sums[1] = ACTIVATION(sums[1]);
    if (residual) {
      const unsigned both = *(const unsigned*)(residual + place);
      sums[0] += low_float(both), sums[1] += high_float(both);
    }
    *(unsigned*)(result + place) = bf16_pair(sums[0], sums[1]);
    return;
  }
#endif
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if (column + i >= columns) continue;
    if (bias) sums[i] += load1(bias + column + i);
    sums[i] = ACTIVATION(sums[i]);
    if (residual) sums[i] += load1(residual + place + i);
  }
#if !BF16
  if (wide && N == 4) {
    if (column < columns) *(float4*)(result + place) = make_float4(sums[0], sums[1], sums[2], sums[3]);
    return;
  }
#endif
#pragma unroll
  for (int i = 0; i < N; ++i)
    if (column + i < columns) store1(result + place + i, sums[i]);
}
