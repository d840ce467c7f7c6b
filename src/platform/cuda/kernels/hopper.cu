// What implicit_gemm.cu and flash_attention.cu are written in, on devices of compute capability 9.0: barriers in shared memory, and
// products of a warpgroup (128 threads) whose second factor lies there. It goes behind tiles.cu; functions that start products of
// given sizes come behind it (wgmma_source).

// A barrier counts arrivals and bytes that copies bring; whoever waits names the parity of the turn that must have ended.
ZOE_FN void initialise(unsigned barrier, int count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
// Once, before __syncthreads, so that copies see what was initialised.
ZOE_FN void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
ZOE_FN void arrive(unsigned barrier) { asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory"); }
ZOE_FN void arrive_expecting(unsigned barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Once all that this thread copies is there.
ZOE_FN void arrive_behind_copies(unsigned barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}
ZOE_FN void wait(unsigned barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(barrier), "r"(parity)
      : "memory");
}

// A stage or slot and the parity of its turn.
template <int Count> struct Turn {
  int place = 0, parity = 0;
  __device__ void next() {
    if (++place == Count) place = 0, parity ^= 1;
  }
  __device__ void skip(int turns) {
    place += turns;
    parity ^= place / Count & 1;
    place %= Count;
  }
};

// The driver's description of a tensor of four axes.
struct __align__(64) TensorMap {
  unsigned long long words[16];
};
// Starts to copy the box of it that begins at an element, which may lie outside; what does is zero. The bytes count at `full`.
ZOE_FN void load_box(unsigned to, const TensorMap& map, int first0, int first1, int first2, int first3, unsigned full) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
      "l"(&map), "r"(first0), "r"(first1), "r"(first2), "r"(first3), "r"(full)
      : "memory");
}

// Products run by themselves between these; what they read or write is not to be touched.
ZOE_FN void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
ZOE_FN void end_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until all but the last `Pending` groups of products are done.
template <int Pending> ZOE_FN void wait_for_products() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory"); }

// What a tensor core has to know of a matrix in shared memory: where it begins, two distances between its parts (their meaning
// depends on the layout), and how it is swizzled.
ZOE_FN unsigned long long descriptor(unsigned lead_step, unsigned step) {
  return (unsigned long long)(lead_step >> 4) << 16 | (unsigned long long)(step >> 4) << 32;
}
#define SWIZZLED_128 (1ull << 62)  // rows of 128 bytes, the chunks of 16 of row i in the places c ^ i % 8
#define SWIZZLED_64 (2ull << 62)   // rows of 64 bytes, the chunks of 16 of row i in the places c ^ i / 2 % 4
ZOE_FN unsigned long long at(unsigned long long descriptor, unsigned address) { return descriptor | (address & 0x3ffff) >> 4; }

// Four neighbouring threads have two neighbours each of every 8 numbers of a row; afterwards each has all 8 of every fourth.
ZOE_FN void exchange_pairs(unsigned (&pairs)[4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int distance = 1; distance <= 2; distance *= 2)
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (!(j & distance)) {
        const bool upper = lane & distance;
        const unsigned received = __shfl_xor_sync(~0u, upper ? pairs[j] : pairs[j + distance], distance);
        (upper ? pairs[j] : pairs[j + distance]) = received;
      }
}

// Four numbers to bytes of the type; ties to even.
#define ROUNDED4(name, type)                                  \
  ZOE_FN unsigned name(float a, float b, float c, float d) {  \
    unsigned word;                                            \
    asm("{\n"                                                 \
        ".reg .s32 a, b, c, d;\n"                             \
        ".reg .b32 high;\n"                                   \
        "cvt.rni.s32.f32 a, %1;\n"                            \
        "cvt.rni.s32.f32 b, %2;\n"                            \
        "cvt.rni.s32.f32 c, %3;\n"                            \
        "cvt.rni.s32.f32 d, %4;\n"                            \
        "cvt.pack.sat." type ".s32.b32 high, d, c, 0;\n"      \
        "cvt.pack.sat." type ".s32.b32 %0, b, a, high;\n"     \
        "}"                                                   \
        : "=r"(word)                                          \
        : "f"(a), "f"(b), "f"(c), "f"(d));                    \
    return word;                                              \
  }
ROUNDED4(rounded_s8, "s8")
ROUNDED4(rounded_u8, "u8")
#undef ROUNDED4
