// linear and conv: result = activation(x * weight + bias) + residual, summed in f32, rounded once.
//
// Both are one product of a [rows, K] matrix, K = taps * channels, with the transpose of the weight [columns, K]; a row of the
// matrix is never laid out: for each tap its channels are one row of x, or zeros where the tap falls outside the frames. linear
// is a conv over one row of positions with one tap.
//
// The text goes behind tiles.cu and a definition of
//   COLUMNS   of a block: 32, 64, 96 or 128, if it multiplies on tensor cores; and FLAT: 1 where x has fewer channels than a chunk
//   SIDE      else the rows and columns of a block: 64 or 128

// The places of the rows. `phases` 4: x is made twice as high and wide, and phase (row parity, column parity) has a 2 x 2 kernel
// of its own, see upsampled_weight.h.
struct Window {
  int t, h, w;              // of x
  int out_h, out_w;         // of the rows: the result's, or half of it with 4 phases
  int kernel_t, kernel_h, kernel_w;
  int stride_t, stride_h, stride_w;
  int pad_t, pad_h, pad_w;
  int shift;                // 1: x is read as if twice as high and wide
  int phase, phases;
};

struct Position {
  int t, h, w;
};

// Where the window of a row begins.
ZOE_FN Position window_begin(const Window& g, int row) {
  const int w = row % g.out_w, rest = row / g.out_w;
  Position p = {rest / g.out_h * g.stride_t - g.pad_t, rest % g.out_h * g.stride_h - g.pad_h, w * g.stride_w - g.pad_w};
  if (g.phases == 4) {
    p.h += g.phase / 2;
    p.w += g.phase % 2;
  }
  return p;
}

// The row of the result, in its memory.
ZOE_FN long result_row(const Window& g, int row) {
  if (g.phases == 1) return row;
  const int w = row % g.out_w, rest = row / g.out_w;
  return ((long)(2 * rest + g.phase / 2) * g.out_w + w) * 2 + g.phase % 2;
}

// The steps over K: tap after tap, DEPTH channels each.
struct Step {
  int kt, kh, kw, channel;
};
// True if the next step is of another tap.
ZOE_FN bool advance(Step& s, const Window& g, int depth, int channels) {
  s.channel += depth;
  if (s.channel < channels) return false;
  s.channel = 0;
  if (++s.kw == g.kernel_w) {
    s.kw = 0;
    if (++s.kh == g.kernel_h) {
      s.kh = 0;
      ++s.kt;
    }
  }
  return true;
}

// The row of x under a tap of the window that begins at p, -1 if there is none.
ZOE_FN int row_at(const Window& g, const Position& p, const Step& s) {
  const int t = p.t + s.kt, h = p.h + s.kh, w = p.w + s.kw;
  const bool inside = t >= 0 && t < g.t && h >= 0 && h < g.h << g.shift && w >= 0 && w < g.w << g.shift;
  return inside ? (t * g.h + (h >> g.shift)) * g.w + (w >> g.shift) : -1;
}
ZOE_FN int tap_row(const Window& g, const Step& s, int row, int rows) {
  return row < rows ? row_at(g, window_begin(g, row), s) : -1;
}

// Blocks that run at the same time share rows and columns: 8 blocks of rows go through all columns together.
ZOE_FN void place_block(int row_blocks, int column_blocks, int& row_block, int& column_block) {
  const int together = 8 * column_blocks, first = (int)blockIdx.x / together * 8, there = min(row_blocks - first, 8);
  row_block = first + (int)blockIdx.x % together % there;
  column_block = (int)blockIdx.x % together / there;
}

#define PRODUCT_ARGUMENTS                                                                                                       \
  const T *x, const T *weight, const T *bias, const T *residual, T *result, int rows, int channels, int columns, int wide_loads, int wide_stores, int t_, int h_, int w_, int out_h, int out_w, int kernel_t, int kernel_h, int kernel_w,    \
      int stride_t, int stride_h, int stride_w, int pad_t, int pad_h, int pad_w, int shift
#define WINDOW                                                                                                                \
  {t_,       h_,       w_,    out_h, out_w, kernel_t, kernel_h,        kernel_w,      stride_t, stride_h,                     \
   stride_w, pad_t, pad_h, pad_w, shift,    (int)blockIdx.y, (int)gridDim.y}

#if TENSOR_CORES

#define ROWS 128
#define DEPTH 32  // channels in a tile: 64 bytes a row
#define STAGES 4
#define WARP_COLUMNS (COLUMNS / 4)  // 8 warps, 2 by 4: 64 rows and so many columns each
#define COLUMN_TILES (WARP_COLUMNS / 8)
#define STAGE_BYTES ((ROWS + COLUMNS) * DEPTH * 2)

// Byte of 16-byte chunk `chunk` of row `row` in a tile, so that the same chunk of 8 rows lies in 8 different groups of banks.
ZOE_FN unsigned chunk_place(int row, int chunk) { return row * 64 + ((chunk ^ ((row >> 1) & 3)) << 4); }

extern "C" __global__ __launch_bounds__(256) void product(PRODUCT_ARGUMENTS) {
  extern __shared__ __align__(128) unsigned char tiles[];  // STAGES times rows of x, then of the weight
  const Window g = WINDOW;
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  int row_block, column_block;
  place_block((rows + ROWS - 1) / ROWS, (columns + COLUMNS - 1) / COLUMNS, row_block, column_block);
  const int first_row = row_block * ROWS, first_column = column_block * COLUMNS;
  const int taps = g.kernel_t * g.kernel_h * g.kernel_w;
  const unsigned shared = (unsigned)__cvta_generic_to_shared(tiles);

  // A thread loads chunk `thread % 4` of rows thread / 4 + 64 i.
  const int chunk = thread % 4, loaded = thread / 4;
  weight += ((long)g.phase * columns + first_column + loaded) * taps * channels;
  const long weight_step = 64L * taps * channels;
#if FLAT
  // Steps go over taps * channels as if that were all one; an element finds its own tap.
  const int depth = taps * channels, steps = (depth + DEPTH - 1) / DEPTH;
  Position begin[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) begin[i] = window_begin(g, min(first_row + loaded + 64 * i, rows - 1));
  int first = chunk * 8;
  auto load = [&](int stage) {
    const unsigned to = shared + stage * STAGE_BYTES;
    unsigned words[2][4] = {};
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int tap = (first + e) / channels, channel = (first + e) % channels, in_frame = tap / g.kernel_w;
      const Step step = {in_frame / g.kernel_h, in_frame % g.kernel_h, tap % g.kernel_w, 0};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = first + e < depth ? row_at(g, begin[i], step) : -1;
        if (row >= 0) words[i][e / 2] |= (unsigned)x[(long)row * channels + channel] << e % 2 * 16;
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) store_chunk(to + chunk_place(loaded + 64 * i, chunk), words[i]);
#pragma unroll
    for (int i = 0; i < (COLUMNS + 63) / 64; ++i) {
      if (COLUMNS % 64 != 0 && loaded + 64 * i >= COLUMNS) break;
      const bool there = first_column + loaded + 64 * i < columns && first < depth;
      copy_chunk(to + ROWS * 64 + chunk_place(loaded + 64 * i, chunk), there ? weight + i * weight_step + first : x,
                 there ? depth - first : 0, false);
    }
    first += DEPTH;
  };
#else
  const int steps = taps * ((channels + DEPTH - 1) / DEPTH);
  Step next = {0, 0, 0, 0};
  int tap = 0, x_row[2];
  auto find_rows = [&]() {
#pragma unroll
    for (int i = 0; i < 2; ++i) x_row[i] = tap_row(g, next, first_row + loaded + 64 * i, rows);
  };
  auto load = [&](int stage) {
    const int channel = next.channel + chunk * 8, count = min(channels - channel, 8);
    const unsigned to = shared + stage * STAGE_BYTES;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bool there = x_row[i] >= 0 && count > 0;
      copy_chunk(to + chunk_place(loaded + 64 * i, chunk), there ? x + (long)x_row[i] * channels + channel : x, there ? count : 0,
                 wide_loads);
    }
#pragma unroll
    for (int i = 0; i < (COLUMNS + 63) / 64; ++i) {
      if (COLUMNS % 64 != 0 && loaded + 64 * i >= COLUMNS) break;
      const bool there = first_column + loaded + 64 * i < columns && count > 0;
      copy_chunk(to + ROWS * 64 + chunk_place(loaded + 64 * i, chunk),
                 there ? weight + i * weight_step + (long)tap * channels + channel : x, there ? count : 0, wide_loads);
    }
    if (advance(next, g, DEPTH, channels)) {
      ++tap;
      if (tap < taps) find_rows();
    }
  };
  find_rows();
#endif
#pragma unroll
  for (int stage = 0; stage < STAGES - 1; ++stage) {
    if (stage < steps) load(stage);
    asm volatile("cp.async.commit_group;");
  }

  const int warp_row = warp / 4 * 64, warp_column = warp % 4 * WARP_COLUMNS;
  float sums[4][COLUMN_TILES][4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < COLUMN_TILES; ++j)
#pragma unroll
      for (int k = 0; k < 4; ++k) sums[i][j][k] = 0.0f;

  for (int step = 0; step < steps; ++step) {
    asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
    __syncthreads();
    if (step + STAGES - 1 < steps) load((step + STAGES - 1) % STAGES);
    asm volatile("cp.async.commit_group;");
    const unsigned x_tile = shared + step % STAGES * STAGE_BYTES, w_tile = x_tile + ROWS * 64;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      unsigned a[4][4], b[COLUMN_TILES][2];
#pragma unroll
      for (int i = 0; i < 4; ++i) load_matrices(a[i], x_tile + chunk_place(warp_row + 16 * i + lane % 16, 2 * half + lane / 16));
#pragma unroll
      for (int j = 0; j + 1 < COLUMN_TILES; j += 2) {
        unsigned both[4];
        load_matrices(both, w_tile + chunk_place(warp_column + 8 * j + lane / 16 * 8 + lane % 8, 2 * half + lane / 8 % 2));
        b[j][0] = both[0], b[j][1] = both[1], b[j + 1][0] = both[2], b[j + 1][1] = both[3];
      }
      if (COLUMN_TILES % 2 == 1)
        load_matrices(b[COLUMN_TILES - 1],
                      w_tile + chunk_place(warp_column + 8 * (COLUMN_TILES - 1) + lane % 8, 2 * half + lane / 8 % 2));
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < COLUMN_TILES; ++j) multiply_add(sums[i][j], a[i], b[j][0], b[j][1]);
    }
  }

#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int row = first_row + warp_row + 16 * i + 8 * k + lane / 4;
      if (row >= rows) continue;
      const long place = result_row(g, row);
#pragma unroll
      for (int j = 0; j < COLUMN_TILES; ++j) {
        float pair[2] = {sums[i][j][2 * k], sums[i][j][2 * k + 1]};
        finish(pair, place, first_column + warp_column + 8 * j + lane % 4 * 2, columns, wide_stores, bias, residual,
               result);
      }
    }
}

#else

#define DEPTH 16           // channels in a tile
#define GROUPS (SIDE / 64)  // a thread of 16 x 16 makes 4 x 4 results in each of GROUPS x GROUPS quarters
#define STRIDE (SIDE + 4)   // keeps four neighbours aligned, and channels in different banks

extern "C" __global__ __launch_bounds__(256, 2) void product(PRODUCT_ARGUMENTS) {
  __shared__ __align__(16) float x_tile[2][DEPTH * STRIDE], w_tile[2][DEPTH * STRIDE];
  const Window g = WINDOW;
  const int thread = threadIdx.x;
  int row_block, column_block;
  place_block((rows + SIDE - 1) / SIDE, (columns + SIDE - 1) / SIDE, row_block, column_block);
  const int first_row = row_block * SIDE, first_column = column_block * SIDE;
  const int taps = g.kernel_t * g.kernel_h * g.kernel_w, steps = taps * ((channels + DEPTH - 1) / DEPTH);

  // A thread loads channel thread % 16 of rows and columns thread / 16 + 16 i.
  const int loaded_channel = thread % 16, loaded = thread / 16;
  Step next = {0, 0, 0, 0};
  int tap = 0, x_row[SIDE / 16];
  weight += ((long)g.phase * columns + first_column + loaded) * taps * channels + loaded_channel;
  x += loaded_channel;
  auto find_rows = [&]() {
#pragma unroll
    for (int i = 0; i < SIDE / 16; ++i) x_row[i] = tap_row(g, next, first_row + loaded + 16 * i, rows);
  };
  auto load = [&](int stage) {
    const bool inside = next.channel + loaded_channel < channels;
    float *x_to = x_tile[stage] + loaded_channel * STRIDE + loaded, *w_to = w_tile[stage] + loaded_channel * STRIDE + loaded;
#pragma unroll
    for (int i = 0; i < SIDE / 16; ++i) {
      const bool there = inside && x_row[i] >= 0;
      copy_element(x_to + 16 * i, there ? x + (long)x_row[i] * channels + next.channel : x, there);
    }
    const T* from = weight + (long)tap * channels + next.channel;
#pragma unroll
    for (int i = 0; i < SIDE / 16; ++i) {
      const bool there = inside && first_column + loaded + 16 * i < columns;
      copy_element(w_to + 16 * i, there ? from + (long)(16 * i) * taps * channels : x, there);
    }
    if (advance(next, g, DEPTH, channels)) {
      ++tap;
      if (tap < taps) find_rows();
    }
  };
  find_rows();
  load(0);

  const int my_row = thread / 16 * 4, my_column = thread % 16 * 4;
  float sums[GROUPS][4][GROUPS][4];
#pragma unroll
  for (int i = 0; i < GROUPS * 4; ++i)
#pragma unroll
    for (int j = 0; j < GROUPS * 4; ++j) sums[i / 4][i % 4][j / 4][j % 4] = 0.0f;

  for (int step = 0; step < steps; ++step) {
    wait_for_copies();
    if (step + 1 < steps) load((step + 1) % 2);
    const float *xs = x_tile[step % 2] + my_row, *ws = w_tile[step % 2] + my_column;
#pragma unroll
    for (int k = 0; k < DEPTH; ++k) {
      float a[GROUPS][4], b[GROUPS][4];
#pragma unroll
      for (int i = 0; i < GROUPS; ++i) {
        const float4 four = *(const float4*)(xs + k * STRIDE + 64 * i), other = *(const float4*)(ws + k * STRIDE + 64 * i);
        a[i][0] = four.x, a[i][1] = four.y, a[i][2] = four.z, a[i][3] = four.w;
        b[i][0] = other.x, b[i][1] = other.y, b[i][2] = other.z, b[i][3] = other.w;
      }
#pragma unroll
      for (int i = 0; i < GROUPS * 4; ++i)
#pragma unroll
        for (int j = 0; j < GROUPS * 4; ++j)
          sums[i / 4][i % 4][j / 4][j % 4] = __fmaf_rn(a[i / 4][i % 4], b[j / 4][j % 4], sums[i / 4][i % 4][j / 4][j % 4]);
    }
  }

#pragma unroll
  for (int i = 0; i < GROUPS * 4; ++i) {
    const int row = first_row + i / 4 * 64 + my_row + i % 4;
    if (row >= rows) continue;
    const long place = result_row(g, row);
#pragma unroll
    for (int j = 0; j < GROUPS; ++j)
      finish(sums[i / 4][i % 4][j], place, first_column + 64 * j + my_column, columns, wide_stores, bias, residual, result);
  }
}

#endif

// Puts the taps of a conv's weight [columns, channels, taps] in front of the channels, where the graph computes the weight; those
// of a checkpoint are packed on the host. One thread an element.
extern "C" __global__ void pack(const T* source, T* packed, int channels, int taps, long count) {
  const long i = (long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const long channel = i % channels, tap = i / channels % taps, column = i / channels / taps;
  packed[i] = source[(column * channels + channel) * taps + tap];
}
