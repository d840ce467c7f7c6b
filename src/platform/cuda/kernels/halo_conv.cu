// conv in bf16 on Hopper's tensor cores (compute capability 9.0), which read both factors from shared memory: kernels of up to 3 x 3
// in space without strides, whose input pixels are used by up to nine taps each and are read once for all of them.
//
// A block makes 16 x 16 pixels of a frame by COLUMNS channels. For each tap in time and each DEPTH channels of x, 128 threads lay the
// 16 x 16 pixels and their border out in shared memory; a tap is a product of the pixels that lie (kh, kw) behind each of the
// 16 x 16 with its DEPTH x COLUMNS weights. Blocks stay and take tile after tile, so that loads run ahead over their ends.
//
// In shared memory, x and the weight are planes of 8 channels, 16 bytes a pixel or column: 8 neighbours are the 128 bytes that a
// tensor core reads at once, so a shift by a pixel is a shift of the address by 16 bytes.
//
// The text goes behind tiles.cu and definitions of
//   KERNEL_H, KERNEL_W  1 to 3
//   DEPTH, COLUMNS      channels in a stage, 32, 64 or 96; columns of a block, 8, 96 or 192
//   X_STAGES, W_SLOTS   how many stages of x, and taps of the weight, are in shared memory
#define SIDE 16
#define PITCH (SIDE + KERNEL_W - 1)
#define POSITIONS ((SIDE + KERNEL_H - 1) * PITCH)
#define PLANE_BYTES ((POSITIONS + (9 - POSITIONS % 8) % 8) * 16)  // an odd number of 16 bytes: the same pixel in other banks
#define X_BYTES (DEPTH / 8 * PLANE_BYTES)
#define W_BYTES (DEPTH * COLUMNS * 2)
#define TAPS (KERNEL_H * KERNEL_W)
#define X_THREADS 96        // of the first warpgroup load x, one more the weight
#define CONSUMER_WARPS 8    // two warpgroups, of the upper and the lower 8 rows of pixels

// Barriers in shared memory: of each stage and slot one that it is full, and one that it is free again.
ZOE_FN void initialise(unsigned barrier, int count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
ZOE_FN void arrive(unsigned barrier) { asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory"); }
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
};

// d [64 x N] += a [64 x 16] * b [16 x N]; a and b are descriptors of shared memory.
static __device__ __forceinline__ void multiply_add(float (&d)[4], unsigned long long a, unsigned long long b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "l"(a), "l"(b));
}
static __device__ __forceinline__ void multiply_add(float (&d)[48], unsigned long long a, unsigned long long b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "
      "%48, %49, 1, 1, 1, 0, 0;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
        "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
        "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
        "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
      : "l"(a), "l"(b));
}
static __device__ __forceinline__ void multiply_add(float (&d)[96], unsigned long long a, unsigned long long b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, "
      "%96, %97, 1, 1, 1, 0, 0;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
        "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
        "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
        "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
        "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),
        "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
        "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]),
        "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]),
        "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
      : "l"(a), "l"(b));
}

// What a tensor core has to know: where a matrix begins, and how far it is to the next 8 channels and to the next 8 rows.
ZOE_FN unsigned long long descriptor(unsigned channel_step, unsigned row_step) {
  return (unsigned long long)(channel_step >> 4) << 16 | (unsigned long long)(row_step >> 4) << 32;
}
ZOE_FN unsigned long long at(unsigned long long descriptor, unsigned address) { return descriptor | (address & 0x3ffff) >> 4; }

extern "C" __global__ __launch_bounds__(384, 1) void halo_conv(const T* x, const T* weight, const T* bias, const T* residual, T* result,
                                                              int channels, int columns, int wide_loads, int wide_stores, int t_, int h_,
                                                              int w_, int out_t, int out_h, int out_w, int kernel_t, int pad_t,
                                                              int pad_h, int pad_w, int phases) {
  extern __shared__ __align__(128) unsigned char shared[];
  const unsigned x_stages = (unsigned)__cvta_generic_to_shared(shared), w_slots = x_stages + X_STAGES * X_BYTES,
                 x_full = w_slots + W_SLOTS * W_BYTES, x_free = x_full + 8 * X_STAGES, w_full = x_free + 8 * X_STAGES,
                 w_free = w_full + 8 * W_SLOTS;
  const int thread = threadIdx.x, column_blocks = (columns + COLUMNS - 1) / COLUMNS, across = (out_w + SIDE - 1) / SIDE,
            down = (out_h + SIDE - 1) / SIDE, tiles = column_blocks * across * down * out_t * phases;
  const int steps = kernel_t * (channels / DEPTH);  // stages of x a tile
  if (thread == 0) {
    for (int i = 0; i < X_STAGES; ++i) initialise(x_full + 8 * i, X_THREADS), initialise(x_free + 8 * i, CONSUMER_WARPS);
    for (int i = 0; i < W_SLOTS; ++i) initialise(w_full + 8 * i, 1), initialise(w_free + 8 * i, CONSUMER_WARPS);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  Turn<X_STAGES> x_turn;
  Turn<W_SLOTS> w_turn;

  if (thread < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    if (thread < X_THREADS) {
      const long row_step = (long)w_ * channels;
      for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        int rest = tile / column_blocks;
        const int phase = rest / (across * down * out_t);
        const int first_w = rest % across * SIDE - pad_w + phase % 2;
        rest /= across;
        const int first_h = rest % down * SIDE - pad_h + phase / 2, first_t = rest / down % out_t - pad_t;
        for (int step = 0; step < steps; ++step, x_turn.next()) {
          const int t = first_t + step / (channels / DEPTH), first_channel = step % (channels / DEPTH) * DEPTH;
          const unsigned to = x_stages + x_turn.place * X_BYTES;
          wait(x_free + 8 * x_turn.place, x_turn.parity ^ 1);
          // A thread takes 8 channels of a column of pixels from top to bottom.
          for (int line = thread; line < PITCH * (DEPTH / 8); line += X_THREADS) {
            const int chunk = line % (DEPTH / 8), w = first_w + line / (DEPTH / 8);
            const bool inside = t >= 0 && t < t_ && w >= 0 && w < w_;
            const T* from = x + ((long)(t * h_ + first_h) * w_ + w) * channels + first_channel + chunk * 8;
            unsigned place = to + chunk * PLANE_BYTES + line / (DEPTH / 8) * 16;
#pragma unroll 6
            for (int row = 0; row < SIDE + KERNEL_H - 1; ++row, from += row_step, place += PITCH * 16) {
              const bool there = inside && (unsigned)(first_h + row) < (unsigned)h_;
              copy_chunk(place, there ? from : x, there ? 8 : 0, wide_loads);
            }
          }
          arrive_behind_copies(x_full + 8 * x_turn.place);
        }
      }
    } else if (thread == X_THREADS) {
      for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int phase = tile / (column_blocks * across * down * out_t);
        const T* from = weight + (long)(phase * column_blocks + tile % column_blocks) * steps * TAPS * (W_BYTES / 2);
        for (int i = 0; i < steps * TAPS; ++i, w_turn.next(), from += W_BYTES / 2) {
          const unsigned full = w_full + 8 * w_turn.place;
          wait(w_free + 8 * w_turn.place, w_turn.parity ^ 1);
          asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(full), "r"(W_BYTES) : "memory");
          asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                           w_slots + w_turn.place * W_BYTES),
                       "l"(from), "r"(W_BYTES), "r"(full)
                       : "memory");
        }
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
    const int half = thread / 128 - 1, lane = thread % 32, warp = thread / 32 % 4;
    const unsigned long long x_descriptor = descriptor(PLANE_BYTES, PITCH * 16), w_descriptor = descriptor(COLUMNS * 16, 128);
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      float sums[2][COLUMNS / 2];  // of the left and the right 8 pixels of 8 rows
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < COLUMNS / 2; ++j) sums[i][j] = 0.0f;
      unsigned used_x = 0, used_w = 0;  // what to free once the products that are on their way are done
      for (int step = 0; step < steps; ++step) {
        wait(x_full + 8 * x_turn.place, x_turn.parity);
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // tensor cores read what threads have written
        const unsigned pixels = x_stages + x_turn.place * X_BYTES + half * 8 * PITCH * 16;
        for (int kh = 0; kh < KERNEL_H; ++kh)
#pragma unroll
          for (int kw = 0; kw < KERNEL_W; ++kw) {
            wait(w_full + 8 * w_turn.place, w_turn.parity);
            const unsigned columns_at = w_slots + w_turn.place * W_BYTES;
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
            for (int c = 0; c < DEPTH / 16; ++c)
#pragma unroll
              for (int i = 0; i < 2; ++i)
                multiply_add(sums[i], at(x_descriptor, pixels + 2 * c * PLANE_BYTES + (kh * PITCH + kw + 8 * i) * 16),
                             at(w_descriptor, columns_at + 2 * c * COLUMNS * 16));
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
            if (lane == 0) {
              if (used_w) arrive(used_w);
              if (used_x && kh == 0 && kw == 0) arrive(used_x);
            }
            used_w = w_free + 8 * w_turn.place;
            w_turn.next();
          }
        used_x = x_free + 8 * x_turn.place;
        x_turn.next();
      }
      asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
      if (lane == 0) {
        arrive(used_w);
        arrive(used_x);
      }

      int rest = tile / column_blocks;
      const int phase = rest / (across * down * out_t), first_w = rest % across * SIDE;
      rest /= across;
      const int first_h = rest % down * SIDE + half * 8, t = rest / down % out_t;
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const int h = first_h + 2 * warp + k, w = first_w + 8 * i + lane / 4;
          if (h >= out_h || w >= out_w) continue;
          const long row = phases == 1 ? (long)(t * out_h + h) * out_w + w
                                       : ((long)(2 * (t * out_h + h) + phase / 2) * out_w + w) * 2 + phase % 2;
#pragma unroll
          for (int j = 0; j < COLUMNS / 8; ++j) {
            float pair[2] = {sums[i][4 * j + 2 * k], sums[i][4 * j + 2 * k + 1]};
            finish(pair, row, tile % column_blocks * COLUMNS + 8 * j + lane % 4 * 2, columns, wide_stores, bias, residual, result);
          }
        }
    }
  }
}
