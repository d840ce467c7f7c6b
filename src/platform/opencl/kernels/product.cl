// linear and conv: result = activation(x * weight + bias) + residual, summed in f32, rounded once.
//
// Both are one loop: a row of the result (a position in the frames, for conv) is a sum over taps, and for each tap over the
// channels of one row of x. linear has one tap. Rows that a tap finds outside the frames are a row of zeros, which lies
// behind the packed weight. The weight is packed in panels of PANEL columns: [panels][taps][channels][PANEL], zeros past the
// last column.
//
// ROWS defined: for CPUs, whose caches hold what is read again: a work-item makes ROWS rows of one panel of 2 VEC columns, or of VEC
// where PANEL says so, in as many registers.
// Else, for GPUs: a work-group of 8 x 8 makes 64 rows of a panel of 64 columns (VEC = 8) from tiles in local memory.

#define ACTIVATION_NONE 0
#define ACTIVATION_GELU_TANH 1
#define ACTIVATION_SILU 2

// The places of conv's rows. `phases` 4: x is made twice as high and wide, and phase (row parity, column parity) has a
// 2 x 2 kernel of its own; see upsampled weights in products.cpp.
typedef struct {
  int T, H, W;                          // of x
  int out_h, out_w;                     // of the rows: the result's, or half of it with 4 phases
  int kernel_t, kernel_h, kernel_w;
  int stride_t, stride_h, stride_w;
  int pad_t, pad_h, pad_w;
  int shift;                            // 1: x is read as if twice as high and wide
} Window;

typedef struct {
  int t, h, w;
} Position;

// Where the window of row m begins.
static Position window_begin(const Window* g, int m, int phase, int phases) {
  const int w = m % g->out_w, rest = m / g->out_w;
  Position p = {rest / g->out_h * g->stride_t - g->pad_t, rest % g->out_h * g->stride_h - g->pad_h, w * g->stride_w - g->pad_w};
  if (phases == 4) {
    p.h += phase / 2;
    p.w += phase % 2;
  }
  return p;
}

// The row of the result, in its memory.
static long result_row(const Window* g, int m, int phase, int phases) {
  if (phases == 1) return m;
  const int w = m % g->out_w, rest = m / g->out_w;
  return ((long)(2 * rest + phase / 2) * g->out_w + w) * 2 + phase % 2;
}

// The row of x under a tap, or a row of zeros.
static __global const T* tap_row(const Window* g, Position p, int kt, int kh, int kw, int channels, __global const T* x,
                                 __global const T* zeros) {
  const int t = p.t + kt, h = p.h + kh, w = p.w + kw;
  const bool inside = t >= 0 && t < g->T && h >= 0 && h < g->H << g->shift && w >= 0 && w < g->W << g->shift;
  return inside ? x + ((long)(t * g->H + (h >> g->shift)) * g->W + (w >> g->shift)) * channels : zeros;
}

// VEC elements, or zeros for those behind the first `count`.
static V load_some(int count, __global const T* p) {
  if (count >= VEC) return load_vector(p);
  float lanes[VEC];
  for (int i = 0; i < VEC; ++i) lanes[i] = i < count ? load(p + i) : 0.0f;
  return JOIN(vload, VEC)(0, lanes);
}

// VEC columns of one row: bias, activation, residual, and the one rounding. `columns`: of the result; the last may be missing here.
static void finish(V sum, long row, int column, int columns, int activation, __global const T* bias, __global const T* residual,
                   __global T* result) {
  const long place = row * columns + column;
  const int count = columns - column;
  if (bias) sum += load_some(count, bias + column);
  if (activation == ACTIVATION_GELU_TANH) sum = zoe_gelu_tanh(sum);
  if (activation == ACTIVATION_SILU) sum = zoe_silu(sum);
  if (residual) sum += load_some(count, residual + place);
  if (count >= VEC) {
    store_vector(sum, result + place);
  } else {
    float lanes[VEC];
    JOIN(vstore, VEC)(sum, 0, lanes);
    for (int i = 0; i < count; ++i) store(lanes[i], result + place + i);
  }
}

#define PRODUCT_ARGUMENTS                                                                                                       \
  __global const T *x, ulong x_at, __global const T *weight, ulong weight_at, __global const T *bias, ulong bias_at,            \
      __global const T *residual, ulong residual_at, __global T *result, ulong result_at, int rows, int channels, int columns, \
      int activation
#define WINDOW_ARGUMENTS                                                                                                      \
  int T_, int H_, int W_, int out_h, int out_w, int kernel_t, int kernel_h, int kernel_w, int stride_t, int stride_h,         \
      int stride_w, int pad_t, int pad_h, int pad_w, int shift, int phases
#define WINDOW \
  {T_, H_, W_, out_h, out_w, kernel_t, kernel_h, kernel_w, stride_t, stride_h, stride_w, pad_t, pad_h, pad_w, shift}
// Offsets come apart from buffers: a place inside a buffer may have no alignment but its elements'.
#define ADD_OFFSETS               \
  x += x_at;                      \
  weight += weight_at;            \
  bias += bias ? bias_at : 0;     \
  residual += residual ? residual_at : 0; \
  result += result_at

#ifdef ROWS

#define VECTORS (PANEL / VEC)

// Adds `channels` products to ROWS rows of a panel; sums of the second vector of columns are `high`.
static void accumulate(V* low, V* high, __global const T* const* from, __global const T* weight, int channels) {
  for (int c = 0; c < channels; ++c, weight += PANEL) {
    const V w0 = load_vector(weight);
#if VECTORS == 2
    const V w1 = load_vector(weight + VEC);
#endif
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
      const V value = (V)(load(from[i] + c));
      low[i] = MULTIPLY_ADD(value, w0, low[i]);
#if VECTORS == 2
      high[i] = MULTIPLY_ADD(value, w1, high[i]);
#endif
    }
  }
}

__kernel void linear(PRODUCT_ARGUMENTS) {
  ADD_OFFSETS;
  const int panel = get_global_id(0), first = get_global_id(1) * ROWS;
  if (first >= rows) return;
  V low[ROWS], high[ROWS];
  __global const T* from[ROWS];
  for (int i = 0; i < ROWS; ++i) {
    low[i] = high[i] = (V)(0.0f);
    from[i] = x + (long)min(first + i, rows - 1) * channels;  // past the end: made and not stored
  }
  accumulate(low, high, from, weight + (long)panel * channels * PANEL, channels);
  for (int i = 0; i < ROWS; ++i) {
    if (first + i >= rows) break;
    finish(low[i], first + i, panel * PANEL, columns, activation, bias, residual, result);
    if (VECTORS == 2 && panel * PANEL + VEC < columns)
      finish(high[i], first + i, panel * PANEL + VEC, columns, activation, bias, residual, result);
  }
}

__kernel void conv(PRODUCT_ARGUMENTS, WINDOW_ARGUMENTS) {
  ADD_OFFSETS;
  const Window g = WINDOW;
  const int panel = get_global_id(0), first = get_global_id(1) * ROWS, phase = get_global_id(2);
  if (first >= rows) return;
  V low[ROWS], high[ROWS];
  __global const T* from[ROWS];
  Position begin[ROWS];
  for (int i = 0; i < ROWS; ++i) {
    low[i] = high[i] = (V)(0.0f);
    begin[i] = window_begin(&g, min(first + i, rows - 1), phase, phases);
  }
  const int taps = kernel_t * kernel_h * kernel_w, panels = get_global_size(0);
  __global const T* zeros = weight + (long)phases * panels * taps * channels * PANEL;
  weight += (long)(phase * panels + panel) * taps * channels * PANEL;
  for (int kt = 0; kt < kernel_t; ++kt)
    for (int kh = 0; kh < kernel_h; ++kh)
      for (int kw = 0; kw < kernel_w; ++kw, weight += (long)channels * PANEL) {
        for (int i = 0; i < ROWS; ++i) from[i] = tap_row(&g, begin[i], kt, kh, kw, channels, x, zeros);
        accumulate(low, high, from, weight, channels);
      }
  for (int i = 0; i < ROWS; ++i) {
    if (first + i >= rows) break;
    const long row = result_row(&g, first + i, phase, phases);
    finish(low[i], row, panel * PANEL, columns, activation, bias, residual, result);
    if (VECTORS == 2 && panel * PANEL + VEC < columns) finish(high[i], row, panel * PANEL + VEC, columns, activation, bias, residual, result);
  }
}

#else

#define DEPTH 16  // channels in a tile
#define SIDE 64   // rows and columns of a work-group's part
#define ITEMS 64  // in a work-group

// Adds DEPTH products to the item's 8 x 8 results.
static void accumulate(V* sums, __local const float* x_tile, __local const float* w_tile) {
  const int column = get_local_id(0) * VEC, row = get_local_id(1) * 8;
  for (int k = 0; k < DEPTH; ++k) {
    const V w = vload8(0, w_tile + k * SIDE + column), values = vload8(0, x_tile + k * SIDE + row);
    sums[0] = MULTIPLY_ADD((V)(values.s0), w, sums[0]);
    sums[1] = MULTIPLY_ADD((V)(values.s1), w, sums[1]);
    sums[2] = MULTIPLY_ADD((V)(values.s2), w, sums[2]);
    sums[3] = MULTIPLY_ADD((V)(values.s3), w, sums[3]);
    sums[4] = MULTIPLY_ADD((V)(values.s4), w, sums[4]);
    sums[5] = MULTIPLY_ADD((V)(values.s5), w, sums[5]);
    sums[6] = MULTIPLY_ADD((V)(values.s6), w, sums[6]);
    sums[7] = MULTIPLY_ADD((V)(values.s7), w, sums[7]);
  }
}

// Channels c .. c + DEPTH - 1 of 64 weights' columns; of x, row `item` of the tile is `from`, one row an item.
static void load_tiles(__local float* x_tile, __local float* w_tile, __global const T* from, __global const T* weight, int c,
                       int channels) {
  const int item = get_local_id(1) * 8 + get_local_id(0);
  for (int k = 0; k < DEPTH; ++k) {
    const bool inside = c + k < channels;
    x_tile[k * SIDE + item] = inside ? load(from + c + k) : 0.0f;
    w_tile[k * SIDE + item] = inside ? load(weight + (long)(c + k) * PANEL + item) : 0.0f;
  }
}

__kernel __attribute__((reqd_work_group_size(8, 8, 1))) void linear(PRODUCT_ARGUMENTS) {
  __local float x_tile[DEPTH * SIDE], w_tile[DEPTH * SIDE];
  ADD_OFFSETS;
  const int panel = get_group_id(0), first = get_group_id(1) * SIDE, item = get_local_id(1) * 8 + get_local_id(0);
  V sums[8];
  for (int i = 0; i < 8; ++i) sums[i] = (V)(0.0f);
  __global const T* from = x + (long)min(first + item, rows - 1) * channels;  // past the end: made and not stored
  weight += (long)panel * channels * PANEL;
  for (int c = 0; c < channels; c += DEPTH) {
    load_tiles(x_tile, w_tile, from, weight, c, channels);
    barrier(CLK_LOCAL_MEM_FENCE);
    accumulate(sums, x_tile, w_tile);
    barrier(CLK_LOCAL_MEM_FENCE);
  }
  const int column = panel * PANEL + get_local_id(0) * VEC, row = first + get_local_id(1) * 8;
  if (column >= columns) return;
  for (int i = 0; i < 8 && row + i < rows; ++i) finish(sums[i], row + i, column, columns, activation, bias, residual, result);
}

__kernel __attribute__((reqd_work_group_size(8, 8, 1))) void conv(PRODUCT_ARGUMENTS, WINDOW_ARGUMENTS) {
  __local float x_tile[DEPTH * SIDE], w_tile[DEPTH * SIDE];
  ADD_OFFSETS;
  const Window g = WINDOW;
  const int panel = get_group_id(0), first = get_group_id(1) * SIDE, phase = get_group_id(2);
  const int item = get_local_id(1) * 8 + get_local_id(0);
  V sums[8];
  for (int i = 0; i < 8; ++i) sums[i] = (V)(0.0f);
  const Position begin = window_begin(&g, min(first + item, rows - 1), phase, phases);
  const int taps = kernel_t * kernel_h * kernel_w, panels = get_num_groups(0);
  __global const T* zeros = weight + (long)phases * panels * taps * channels * PANEL;
  weight += (long)(phase * panels + panel) * taps * channels * PANEL;
  for (int kt = 0; kt < kernel_t; ++kt)
    for (int kh = 0; kh < kernel_h; ++kh)
      for (int kw = 0; kw < kernel_w; ++kw, weight += (long)channels * PANEL) {
        __global const T* from = tap_row(&g, begin, kt, kh, kw, channels, x, zeros);
        for (int c = 0; c < channels; c += DEPTH) {
          load_tiles(x_tile, w_tile, from, weight, c, channels);
          barrier(CLK_LOCAL_MEM_FENCE);
          accumulate(sums, x_tile, w_tile);
          barrier(CLK_LOCAL_MEM_FENCE);
        }
      }
  const int column = panel * PANEL + get_local_id(0) * VEC, row = first + get_local_id(1) * 8;
  if (column >= columns) return;
  for (int i = 0; i < 8 && row + i < rows; ++i)
    finish(sums[i], result_row(&g, row + i, phase, phases), column, columns, activation, bias, residual, result);
}

#endif

// Packs a weight [columns, channels, taps] that the graph computes; weights of a checkpoint are packed on the host. One work-item
// an element of the packed weight, and of the zeros behind it.
__kernel void pack(__global const T* source, ulong source_at, __global T* packed, ulong packed_at, int channels, int columns, int taps,
                   long count) {
  const long i = get_global_id(0);
  if (i >= count) return;
  const int lane = i % PANEL, channel = i / PANEL % channels, tap = i / PANEL / channels % taps;
  const long column = i / PANEL / channels / taps * PANEL + lane;
  const bool exists = column < columns;  // behind the last panel none does
  packed[packed_at + i] = exists ? source[source_at + (column * channels + channel) * taps + tap] : (T)0;
}
