// conv in bf16 on Hopper's tensor cores (compute capability 9.0), which read both factors from shared memory: kernels of up to 3 x
// 3 x 3 without strides, whose input pixels are used by up to 27 taps each and are copied once for all of them.
//
// A tile is TILE_H x TILE_W pixels of a frame by COLUMNS channels. For each 32 channels of x, the pixels of a frame that the tile
// sees, with their border, are a box of the tensor that the driver's copies bring, for each of KERNEL_T frames; what lies outside
// comes as zeros. Frames that come before x may lie elsewhere. A tap within a frame is then a product of the pixels that lie
// (kh, kw) behind each of the tile's with its weights, for each tap in time.
// Two warpgroups take turns: while one's products keep the tensor cores busy, the other writes its tile. Or they share a tile,
// whose weights then serve twice the pixels: where sums are long, what is written is little beside them. Blocks stay, so that loads
// run ahead over the ends of tiles. Tiles of the same pixels follow each other, all channels, then all frames: their x comes from
// the L2 cache.
//
// In shared memory pixels are rows of 64 bytes, so a shift by a pixel is a shift of the address by 64 bytes; the places of their
// chunks of 16 bytes depend on the address alone. The weight is planes of 8 channels, 16 bytes a column.
//
// The text goes behind tiles.cu, hopper.cu, multiply_pixels(sums, x, weight, accumulates) of 64 x COLUMNS x 16 and definitions of
//   KERNEL_T, KERNEL_H, KERNEL_W  1 to 3
//   COLUMNS                       of a tile: 8, 16 or a multiple of 32
//   PIECES_H, PIECES_W            of 8 x 8 pixels, that are a warpgroup's; their number by COLUMNS / 2 sums fit its registers
//   GROUPS_H, GROUPS_W            of warpgroups that share a tile: 1 x 1 where they take turns, else 2 x 1 or 1 x 2
//   X_STAGES, W_SLOTS             how many stages of x, and taps of the weight, are in shared memory
#define GROUPS (GROUPS_H * GROUPS_W)  // warpgroups of a tile
#define TILE_H (8 * PIECES_H * GROUPS_H)
#define TILE_W (8 * PIECES_W * GROUPS_W)
#define PIECES (PIECES_H * PIECES_W)  // 64 rows of a product each
#define DEPTH 32                      // channels of a box
#define ROW_BYTES 64                  // of a pixel
#define PITCH (TILE_W + KERNEL_W - 1)
#define BOX_BYTES ((TILE_H + KERNEL_H - 1) * PITCH * ROW_BYTES)
#define FRAME_STEP ((BOX_BYTES + 511) / 512 * 512)  // where swizzled rows begin
#define X_STEP (KERNEL_T * FRAME_STEP)
#define W_COLUMNS (KERNEL_T * COLUMNS)
#define W_BYTES (DEPTH * W_COLUMNS * 2)
#define TAPS (KERNEL_H * KERNEL_W)
#define WARPS (4 * GROUPS)  // that make a tile

// The warpgroups' turns to start products: a barrier each, which both come to.
ZOE_FN void wait_for_turn(int group) { asm volatile("bar.sync %0, 256;" ::"r"(1 + group) : "memory"); }
ZOE_FN void give_turn_to(int group) { asm volatile("bar.arrive %0, 256;" ::"r"(1 + group) : "memory"); }

#if COLUMNS % 32 == 0
ZOE_FN unsigned select(const unsigned (&words)[4], int i) {
  return i < 2 ? (i == 0 ? words[0] : words[1]) : (i == 2 ? words[2] : words[3]);
}
// Among four neighbouring threads: thread i gives words[j] to thread j and gets its words[i] as words[j].
ZOE_FN void exchange(unsigned (&words)[4], int i) {
  unsigned got[4];
#pragma unroll
  for (int distance = 0; distance < 4; ++distance) got[distance] = __shfl_xor_sync(~0u, select(words, i ^ distance), distance);
#pragma unroll
  for (int j = 0; j < 4; ++j) words[j] = select(got, i ^ j);
}

// A pixel's sums, of which a thread has two of every eight, to memory as 16 bytes a thread. All threads of a warp come here.
ZOE_FN void finish_pixel(const float (&sums)[COLUMNS / 2], int k, bool there, const T* bias, const T* residual, T* result) {
  const int i = threadIdx.x % 4;
  // Where warpgroups share a tile nothing multiplies meanwhile: what is waited for is asked for at once, if registers hold it.
  constexpr bool kAsks = GROUPS == 2 && PIECES * COLUMNS <= 320;
  uint4 asked[COLUMNS / 32];
  if (kAsks && residual && there) {
#pragma unroll
    for (int n = 0; n < COLUMNS / 32; ++n) asked[n] = *(const uint4*)(residual + 32 * n + i * 8);
  }
#pragma unroll
  for (int first = 0; first < COLUMNS; first += 32) {
    unsigned added[4] = {0, 0, 0, 0}, words[4];
    if (residual) {
      if (there) {
        const uint4 chunk = kAsks ? asked[first / 32] : *(const uint4*)(residual + first + i * 8);
        added[0] = chunk.x, added[1] = chunk.y, added[2] = chunk.z, added[3] = chunk.w;
      }
      exchange(added, i);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float low = sums[first / 2 + 4 * j + 2 * k], high = sums[first / 2 + 4 * j + 2 * k + 1];
      if (bias) {
        const unsigned both = *(const unsigned*)(bias + first + 8 * j + 2 * i);
        low += low_float(both), high += high_float(both);
      }
      low = ACTIVATION(low), high = ACTIVATION(high);
      if (residual) low += low_float(added[j]), high += high_float(added[j]);
      words[j] = bf16_pair(low, high);
    }
    exchange(words, i);
    if (there) *(uint4*)(result + first + i * 8) = make_uint4(words[0], words[1], words[2], words[3]);
  }
}
#endif

// `earlier` frames of `history` come before x.
extern "C" __global__ __launch_bounds__(384, 1) void implicit_gemm(const __grid_constant__ TensorMap x,
                                                               const __grid_constant__ TensorMap history, const T* weight,
                                                               const T* bias, const T* residual, T* result, int earlier,
                                                               int channels, int columns, int out_t, int out_h, int out_w,
                                                               int pad_t, int pad_h, int pad_w, int phases) {
  extern __shared__ unsigned char memory[];
  const unsigned x_stages = ((unsigned)__cvta_generic_to_shared(memory) + 511) & ~511u, w_slots = x_stages + X_STAGES * X_STEP,
                 x_full = w_slots + W_SLOTS * W_BYTES, x_free = x_full + 8 * X_STAGES, w_full = x_free + 8 * X_STAGES,
                 w_free = w_full + 8 * W_SLOTS;
  const int thread = threadIdx.x, column_blocks = (columns + COLUMNS - 1) / COLUMNS, sheets = phases * column_blocks,
            across = (out_w + TILE_W - 1) / TILE_W, down = (out_h + TILE_H - 1) / TILE_H, tiles = sheets * out_t * across * down;
  const int steps = channels / DEPTH;
  if (thread == 0) {
    for (int i = 0; i < X_STAGES; ++i) initialise(x_full + 8 * i, 1), initialise(x_free + 8 * i, WARPS);
    for (int i = 0; i < W_SLOTS; ++i) initialise(w_full + 8 * i, 1), initialise(w_free + 8 * i, WARPS);
    publish_barriers();
  }
  __syncthreads();
  Turn<X_STAGES> x_turn;
  Turn<W_SLOTS> w_turn;

  if (thread < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (thread == 0) {
      for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int phase = tile % sheets / column_blocks, t = tile / sheets % out_t, pixels = tile / sheets / out_t;
        const int first_w = pixels % across * TILE_W - pad_w + phase % 2, first_h = pixels / across * TILE_H - pad_h + phase / 2;
        for (int step = 0; step < steps; ++step, x_turn.next()) {
          const unsigned full = x_full + 8 * x_turn.place;
          wait(x_free + 8 * x_turn.place, x_turn.parity ^ 1);
          arrive_expecting(full, KERNEL_T * BOX_BYTES);
#pragma unroll
          for (int kt = 0; kt < KERNEL_T; ++kt) {
            const int frame = t - pad_t + kt;
            load_box(x_stages + x_turn.place * X_STEP + kt * FRAME_STEP, frame < earlier ? history : x, step * DEPTH, first_w,
                     first_h, frame < earlier ? frame : frame - earlier, full);
          }
        }
      }
    } else if (thread == 32) {
      for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const T* from = weight + (long)(tile % sheets) * steps * TAPS * (W_BYTES / 2);
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
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int group = thread / 128 - 1, lane = thread % 32, warp = thread / 32 % 4;
    const unsigned long long x_descriptor = descriptor(16, PITCH * ROW_BYTES) | SWIZZLED_64,  // to the next 8 pixels
        w_descriptor = descriptor(W_COLUMNS * 16, 128);  // to the next 8 channels, and the next 8 columns
    // The first of its pixels in a tile.
    const int group_h = group / GROUPS_W % GROUPS_H * PIECES_H * 8, group_w = group % GROUPS_W * PIECES_W * 8;
    if (GROUPS == 1 && group == 1) {
      x_turn.skip(steps), w_turn.skip(steps * TAPS);
      give_turn_to(0);
    }
    for (int tile = blockIdx.x + (GROUPS == 1 ? group * gridDim.x : 0); tile < tiles; tile += 2 / GROUPS * gridDim.x) {
      float sums[PIECES][COLUMNS / 2];
#pragma unroll
      for (int i = 0; i < PIECES; ++i)
#pragma unroll
        for (int j = 0; j < COLUMNS / 2; ++j) sums[i][j] = 0.0f;
      unsigned used_x = 0, used_w = 0;  // what to free once the products that are on their way are done
      if (GROUPS == 1) wait_for_turn(group);
      for (int step = 0; step < steps; ++step) {
        wait(x_full + 8 * x_turn.place, x_turn.parity);
        for (int kh = 0; kh < KERNEL_H; ++kh)
#pragma unroll
          for (int kw = 0; kw < KERNEL_W; ++kw) {
            wait(w_full + 8 * w_turn.place, w_turn.parity);
            const unsigned columns_at = w_slots + w_turn.place * W_BYTES,
                           pixels_at = x_stages + x_turn.place * X_STEP + ((group_h + kh) * PITCH + group_w + kw) * ROW_BYTES;
            begin_products();
#pragma unroll
            for (int kt = 0; kt < KERNEL_T; ++kt)
#pragma unroll
              for (int c = 0; c < DEPTH; c += 16)
#pragma unroll
                for (int i = 0; i < PIECES; ++i)
                  multiply_pixels(
                      sums[i],
                      at(x_descriptor, pixels_at + kt * FRAME_STEP + c * 2 + (i / PIECES_W * PITCH + i % PIECES_W) * 8 * ROW_BYTES),
                      at(w_descriptor, columns_at + (c / 8 * W_COLUMNS + kt * COLUMNS) * 16), true);
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
      if (GROUPS == 1 && tile + gridDim.x < tiles) give_turn_to(1 - group);
      wait_for_products<0>();
      if (lane == 0) {
        arrive(used_w);
        arrive(used_x);
      }
      if (GROUPS == 1) x_turn.skip(steps), w_turn.skip(steps * TAPS);  // the other's

      const int phase = tile % sheets / column_blocks, first_column = tile % column_blocks * COLUMNS, t = tile / sheets % out_t,
                pixels = tile / sheets / out_t;
#pragma unroll
      for (int i = 0; i < PIECES; ++i)
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const int h = pixels / across * TILE_H + group_h + i / PIECES_W * 8 + 2 * warp + k,
                    w = pixels % across * TILE_W + group_w + i % PIECES_W * 8 + lane / 4;
          const bool there = h < out_h && w < out_w;
          const long row = phases == 1 ? (long)(t * out_h + h) * out_w + w
                                       : ((long)(2 * (t * out_h + h) + phase / 2) * out_w + w) * 2 + phase % 2;
#if COLUMNS % 32 == 0
          const long place = row * columns + first_column;
          finish_pixel(sums[i], k, there, bias ? bias + first_column : bias, residual ? residual + place : residual,
                       result + place);
#else
          if (!there) continue;
#pragma unroll
          for (int j = 0; j < COLUMNS / 8; ++j) {
            float pair[2] = {sums[i][4 * j + 2 * k], sums[i][4 * j + 2 * k + 1]};
            finish(pair, row, first_column + 8 * j + lane % 4 * 2, columns, false, bias, residual, result);
          }
#endif
        }
    }
  }
}
