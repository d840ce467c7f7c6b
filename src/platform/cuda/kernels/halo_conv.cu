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
// The text goes behind tiles.cu, hopper.cu, multiply_pixels(sums, x, weight, accumulates) of 64 x COLUMNS x 16 and definitions of
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
// A stage of x and a slot of the weight have two barriers each: that it is full, and that it is free again.

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
    publish_barriers();
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
          arrive_expecting(full, W_BYTES);
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
    // Distances to the next 8 channels and to the next 8 rows.
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
            begin_products();
#pragma unroll
            for (int c = 0; c < DEPTH / 16; ++c)
#pragma unroll
              for (int i = 0; i < 2; ++i)
                multiply_pixels(sums[i], at(x_descriptor, pixels + 2 * c * PLANE_BYTES + (kh * PITCH + kw + 8 * i) * 16),
                                at(w_descriptor, columns_at + 2 * c * COLUMNS * 16), true);
            end_products();
            wait_for_products<1>();
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
      wait_for_products<0>();
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
