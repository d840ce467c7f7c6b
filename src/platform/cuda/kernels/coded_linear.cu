// linear from 8-bit codes on Hopper's tensor cores (compute capability 9.0): s8 x s8 to exact s32 sums; then scales, bias, activation
// and residual, and one rounding to bf16.
//
// A tile is 128 rows by COLUMNS columns, half of the rows a warpgroup's, all sums in registers. One more warpgroup's first thread has
// boxes of 128 bytes of each row of both factors copied to a ring of STAGES in shared memory. Blocks stay, so that loads run ahead over
// the ends of tiles; tiles that are made at one time are of `raster` tiles of rows, all columns in turn, so that the L2 cache has what
// several of them need. Two blocks that share a weight's box by multicast wait for each other at every step: on an H200 that was a tenth
// slower.
//
// The text goes behind tiles.cu, hopper.cu, multiply_codes(sums, x, weight, accumulates) of 64 x COLUMNS x 32 and definitions of
//   COLUMNS  of a tile, a multiple of 64
//   STAGES   in shared memory
//   GELU, SILU  1 for that activation
#define GROUPS 2
#define ROWS (64 * GROUPS)
#define DEPTH 128  // codes of a stage, and bytes of a row of it
#define X_BYTES (ROWS * DEPTH)
#define W_BYTES (COLUMNS * DEPTH)
#define STAGE_BYTES (X_BYTES + W_BYTES)
#define WARPS (4 * GROUPS)
#define STAGED_BYTES (16 * 128)         // of a warp's sixteen rows, 64 columns at a time
#define COLUMN_BYTES (COLUMNS / 2 * 16)  // scales and biases of a tile's columns, of a warpgroup

// Four matrices of 8 x 8 numbers of bf16 to the rows at the addresses that threads give.
ZOE_FN void store_matrices(unsigned to, const unsigned (&words)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]),
               "r"(words[3])
               : "memory");
}

// The activations of ir/math.inc, as x times a logistic function by the approximate 2^x and reciprocal: a few units in the last place of
// f32 off, of what is rounded to bf16.
ZOE_FN float times_logistic(float x, float minus_log2) {
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(minus_log2));
  float share = 1.0f + minus_log2;
  asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(share));
  return x * share;
}
ZOE_FN float activated(float x) {
#if GELU
  return times_logistic(x, x * fmaf(x * x, -0.102943242f, -2.30220819f));  // -2 log2(e) sqrt(2 / pi) (x + 0.044715 x^3)
#elif SILU
  return times_logistic(x, x * -1.44269504f);
#else
  return x;
#endif
}

struct Tiles {
  int rows, columns, raster;
  __device__ int count() const { return rows * columns; }
  // The tile of a number: strips of `raster` rows, column by column.
  __device__ void find(int number, int& row, int& column) const {
    const int strip = number / (raster * columns), within = number % (raster * columns), first = strip * raster,
              height = rows - first < raster ? rows - first : raster;
    row = first + within % height, column = within / height;
  }
};

extern "C" __global__ __launch_bounds__(384, 1) void coded_linear(
    const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight, const float* x_scales, const float* w_scales,
    const T* bias, const T* residual, T* result, int rows, int depth, int columns, int raster) {
  extern __shared__ unsigned char memory[];
  const unsigned stages = ((unsigned)__cvta_generic_to_shared(memory) + 1023) & ~1023u,  // where swizzled rows begin
      staged = stages + STAGES * STAGE_BYTES, of_columns = staged + WARPS * STAGED_BYTES,
                 full = of_columns + GROUPS * COLUMN_BYTES, free = full + 8 * STAGES;
  const int thread = threadIdx.x, steps = (depth + DEPTH - 1) / DEPTH;
  const Tiles tiles{(rows + ROWS - 1) / ROWS, (columns + COLUMNS - 1) / COLUMNS, raster};
  if (thread == 0) {
    for (int i = 0; i < STAGES; ++i) initialise(full + 8 * i, 1), initialise(free + 8 * i, WARPS);
    publish_barriers();
  }
  __syncthreads();
  Turn<STAGES> turn;

  if (thread < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (thread == 0) {
      for (int tile = blockIdx.x; tile < tiles.count(); tile += gridDim.x) {
        int row, column;
        tiles.find(tile, row, column);
        for (int step = 0; step < steps; ++step, turn.next()) {
          const unsigned to = stages + turn.place * STAGE_BYTES, barrier = full + 8 * turn.place;
          wait(free + 8 * turn.place, turn.parity ^ 1);
          arrive_expecting(barrier, STAGE_BYTES);
          load_box(to, x, step * (DEPTH / 2), row * ROWS, 0, 0, barrier);  // its elements are two codes each
          load_box(to + X_BYTES, weight, step * (DEPTH / 2), column * COLUMNS, 0, 0, barrier);
        }
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int group = __shfl_sync(~0u, thread / 128, 0) - 1, lane = thread % 32, warp = thread / 32 % 4;
    const unsigned my_staged = staged + (thread / 32 - 4) * STAGED_BYTES;
    const unsigned long long swizzled = descriptor(0, 8 * DEPTH) | SWIZZLED_128;
    const auto release = [&](unsigned barrier) {
      if (lane == 0) arrive(barrier);
    };
    const unsigned my_columns = of_columns + group * COLUMN_BYTES;
    for (int tile = blockIdx.x; tile < tiles.count(); tile += gridDim.x) {
      int row, column;
      tiles.find(tile, row, column);
      row = row * ROWS + group * 64 + warp * 16, column *= COLUMNS;
      // What the end of the tile needs of rows and columns is asked for here.
      float scales[2];
#pragma unroll
      for (int k = 0; k < 2; ++k) scales[k] = row + lane / 4 + 8 * k < rows ? __ldg(x_scales + row + lane / 4 + 8 * k) : 0.0f;
      const int my_column = column + thread % 128 * 2;
      const bool has_column = thread % 128 * 2 < COLUMNS && my_column < columns;
      const float2 w_scale = has_column ? __ldg((const float2*)(w_scales + my_column)) : make_float2(0.0f, 0.0f);
      const unsigned my_bias = has_column && bias ? __ldg((const unsigned*)(bias + my_column)) : 0;
      int sums[COLUMNS / 2];
#pragma unroll
      for (int i = 0; i < COLUMNS / 2; ++i) sums[i] = 0;
      unsigned used = 0;  // the stage to free once the products that are on their way are done
#pragma unroll 1
      for (int step = 0; step < steps; ++step, turn.next()) {
        wait(full + 8 * turn.place, turn.parity);
        const unsigned stage = stages + turn.place * STAGE_BYTES;
        const unsigned long long x_at = at(swizzled, stage + group * 64 * DEPTH), w_at = at(swizzled, stage + X_BYTES);
        begin_products();
#pragma unroll
        for (int c = 0; c < DEPTH; c += 32) multiply_codes(sums, x_at + c / 16, w_at + c / 16, true);
        end_products();
        wait_for_products<1>();
        if (used) release(used);
        used = free + 8 * turn.place;
      }
      wait_for_products<0>();
      release(used);

      if (thread % 128 * 2 < COLUMNS)
        asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(my_columns + thread % 128 * 16), "f"(w_scale.x), "f"(w_scale.y),
                     "f"(low_float(my_bias)), "f"(high_float(my_bias))
                     : "memory");
      // Of the tile before all warps have read theirs, as they have come to this one's products.
      asm volatile("bar.sync %0, 128;" ::"r"(1 + group) : "memory");
#pragma unroll
      for (int first = 0; first < COLUMNS; first += 64) {
        if (column + first >= columns) break;
        unsigned added[8][2];
        if (residual) {
#pragma unroll
          for (int i = 0; i < 8; ++i)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
              const int at_column = column + first + 8 * i + lane % 4 * 2, at_row = row + lane / 4 + 8 * k;
              added[i][k] = at_column < columns && at_row < rows ? *(const unsigned*)(residual + (long)at_row * columns + at_column) : 0;
            }
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 8; i += 2) {
          unsigned words[4];
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            float of[4];
            asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                         : "=f"(of[0]), "=f"(of[1]), "=f"(of[2]), "=f"(of[3])
                         : "r"(my_columns + ((first + 8 * (i + j)) / 2 + lane % 4) * 16));
#pragma unroll
            for (int k = 0; k < 2; ++k) {
              const int* const sum = sums + (first / 8 + i + j) * 4 + 2 * k;
              float low = (float)sum[0] * scales[k] * of[0] + of[2], high = (float)sum[1] * scales[k] * of[1] + of[3];
              low = activated(low), high = activated(high);
              if (residual) low += low_float(added[i + j][k]), high += high_float(added[i + j][k]);
              words[2 * j + k] = bf16_pair(low, high);
            }
          }
          store_matrices(my_staged + lane % 16 * 128 + ((i + lane / 16) ^ lane % 8) * 16, words);
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 16; i += 4) {
          const int at_row = i + lane / 8, at_column = column + first + lane % 8 * 8;
          unsigned words[4];
          asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                       : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                       : "r"(my_staged + at_row * 128 + (lane % 8 ^ at_row % 8) * 16)
                       : "memory");
          if (row + at_row < rows && at_column < columns) write(result + (long)(row + at_row) * columns + at_column, words);
        }
      }
    }
  }
}
