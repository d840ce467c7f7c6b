// attention in bf16 on Hopper's tensor cores (compute capability 9.0) over heads that are too wide for sums in registers: two
// products with a softmax between. Scores of as many queries as the scratch memory holds are in device memory, f32; the weights
// that they become lie in the same rows, bf16, each row's at its beginning.
//
// Both products make tiles of ROWS x COLUMNS, of which two warpgroups have half the rows each; a third warpgroup's first thread has
// DEPTH of both factors copied at a time, STAGES ahead.
//
// The text goes behind tiles.cu, hopper.cu, and multiply_keys and multiply_values(sums, a, b, accumulates) of 64 x COLUMNS x 16,
// whose b has a column's and a row's elements next to each other.
#define ROWS 256
#define COLUMNS 128
#define DEPTH 64
#define STAGES 4
#define PIECES 2       // of 64 rows, of a warpgroup
#define ROW_BYTES 128  // of 64 elements, swizzled
#define A_BYTES (ROWS * ROW_BYTES)
#define B_BYTES (COLUMNS * DEPTH * 2)
#define STAGE_BYTES (A_BYTES + B_BYTES)
#define WARPS 8  // that make sums
#define LOG2_E 1.44269504f

ZOE_FN float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Where a tile of a factor begins: what stays the same from step to step.
struct Place {
  int head, row, batch;
};

// sums = a b over `depth`. Rows of a are those of a tile; b's are the tile's columns, or with Transposed steps of the depth, whose
// elements from `column` on are the tile's. Everyone comes here; threads of the first warpgroup have no sums.
template <bool Transposed>
ZOE_FN void multiply(float (&sums)[PIECES][COLUMNS / 2], const TensorMap& a_map, const Place& a, const TensorMap& b_map,
                     const Place& b, int column, int depth) {
  extern __shared__ unsigned char memory[];
  const unsigned stages = ((unsigned)__cvta_generic_to_shared(memory) + 1023) & ~1023u, full = stages + STAGES * STAGE_BYTES,
                 free = full + 8 * STAGES;
  const int steps = (depth + DEPTH - 1) / DEPTH, thread = threadIdx.x;
  if (thread == 0) {
    for (int i = 0; i < STAGES; ++i) initialise(full + 8 * i, 1), initialise(free + 8 * i, WARPS);
    publish_barriers();
  }
  __syncthreads();
  Turn<STAGES> turn;
  if (thread < 128) {
    if (thread > 0) return;
    for (int step = 0; step < steps; ++step, turn.next()) {
      const unsigned to = stages + turn.place * STAGE_BYTES, there = full + 8 * turn.place;
      wait(free + 8 * turn.place, turn.parity ^ 1);
      arrive_expecting(there, STAGE_BYTES);
      load_box(to, a_map, step * DEPTH, a.head, a.row, a.batch, there);
      if (Transposed) {
#pragma unroll
        for (int i = 0; i < COLUMNS; i += 64)
          load_box(to + A_BYTES + i * DEPTH * 2, b_map, column + i, b.head, step * DEPTH, b.batch, there);
      } else {
        load_box(to + A_BYTES, b_map, step * DEPTH, b.head, b.row, b.batch, there);
      }
    }
    return;
  }
  const int first_row = (thread / 128 - 1) * PIECES * 64;
  const unsigned long long a_descriptor = descriptor(0, 8 * ROW_BYTES) | SWIZZLED_128,
                           b_descriptor = descriptor(Transposed ? DEPTH * ROW_BYTES : 0, 8 * ROW_BYTES) | SWIZZLED_128;
  unsigned used = 0;  // what to free once the products that are on their way are done
#pragma unroll 1
  for (int step = 0; step < steps; ++step, turn.next()) {
    const unsigned at_a = stages + turn.place * STAGE_BYTES + first_row * ROW_BYTES,
                   at_b = stages + turn.place * STAGE_BYTES + A_BYTES;
    wait(full + 8 * turn.place, turn.parity);
    begin_products();
#pragma unroll
    for (int c = 0; c < DEPTH; c += 16)
#pragma unroll
      for (int i = 0; i < PIECES; ++i) {
        const unsigned long long one = at(a_descriptor, at_a + i * 64 * ROW_BYTES + c * 2);
        if (Transposed) multiply_values(sums[i], one, at(b_descriptor, at_b + c * ROW_BYTES), step > 0 || c > 0);
        else multiply_keys(sums[i], one, at(b_descriptor, at_b + c * 2), step > 0 || c > 0);
      }
    end_products();
    wait_for_products<1>();
    if (used && thread % 32 == 0) arrive(used);
    used = free + 8 * turn.place;
  }
  wait_for_products<0>();
}

// Calls store(row, column, first, second) for each pair of neighbouring sums of this thread's part of the tile.
template <class Store>
ZOE_FN void for_each_pair(const float (&sums)[PIECES][COLUMNS / 2], Store store) {
  if (threadIdx.x < 128) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 - 4;
#pragma unroll
  for (int i = 0; i < PIECES; ++i)
#pragma unroll
    for (int k = 0; k < 2; ++k)
#pragma unroll
      for (int j = 0; j < COLUMNS / 8; ++j)
        store((warp / 4 * PIECES + i) * 64 + warp % 4 * 16 + 8 * k + lane / 4, 8 * j + lane % 4 * 2, sums[i][4 * j + 2 * k],
              sums[i][4 * j + 2 * k + 1]);
}

// q k^T of `rows` queries from `first_query` on, of the heads from `first_item` on, into scores [items, rows, pitch].
extern "C" __global__ __launch_bounds__(384, 1) void scores_of_keys(const __grid_constant__ TensorMap q,
                                                                    const __grid_constant__ TensorMap k, float* scores,
                                                                    int first_query, int rows, int first_item, int heads, int keys,
                                                                    int channels, int pitch) {
  const int item = first_item + blockIdx.z, first_row = blockIdx.y * ROWS, first_column = blockIdx.x * COLUMNS;
  float sums[PIECES][COLUMNS / 2];
  multiply<false>(sums, q, {item % heads, first_query + first_row, item / heads}, k, {item % heads, first_column, item / heads}, 0,
                  channels);
  for_each_pair(sums, [&](int row, int column, float first, float second) {
    if (first_row + row >= rows || first_column + column >= keys) return;
    *(float2*)(scores + ((long)blockIdx.z * rows + first_row + row) * pitch + first_column + column) = make_float2(first, second);
  });
}

// A row of scores to weights: exp(scale (score - the highest)) over their sum; factor = scale log2 e. What a thread reads of a
// chunk of scores all have read before the chunk's weights, which lie in front of its end, are written.
extern "C" __global__ __launch_bounds__(256) void weights_of_scores(float* scores, int keys, int pitch, float factor) {
  __shared__ float highest_of[8], total_of[8];
  float* const row = scores + ((long)blockIdx.y * gridDim.x + blockIdx.x) * pitch;
  const int thread = threadIdx.x;
  float highest = MINUS_INFINITY, total = 0.0f;
  for (int first = 4 * thread; first < keys; first += 4 * 256) {
    const float4 four = *(const float4*)(row + first);
    const float values[4] = {four.x, four.y, four.z, four.w};
    float next = highest;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (first + i < keys) next = fmaxf(next, values[i]);
    total *= power_of_two((highest - next) * factor);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (first + i < keys) total += power_of_two((values[i] - next) * factor);
    highest = next;
  }
  const float mine = highest;
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, distance));
  if (thread % 32 == 0) highest_of[thread / 32] = highest;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 8; ++i) highest = fmaxf(highest, highest_of[i]);
  if (mine != MINUS_INFINITY) total *= power_of_two((mine - highest) * factor);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) total += __shfl_xor_sync(~0u, total, distance);
  if (thread % 32 == 0) total_of[thread / 32] = total;
  __syncthreads();
  total = 0.0f;
#pragma unroll
  for (int i = 0; i < 8; ++i) total += total_of[i];
  const float share = 1.0f / total;
  for (int chunk = 0; chunk < keys; chunk += 4 * 256) {
    const int first = chunk + 4 * thread;
    float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (first < keys) four = *(const float4*)(row + first);
    __syncthreads();
    if (first < keys)
      *(uint2*)((T*)row + first) = make_uint2(
          bf16_pair(power_of_two((four.x - highest) * factor) * share, power_of_two((four.y - highest) * factor) * share),
          bf16_pair(power_of_two((four.z - highest) * factor) * share, power_of_two((four.w - highest) * factor) * share));
  }
}

// Weights [items, rows, keys] times v, into the queries' places of the result.
extern "C" __global__ __launch_bounds__(384, 1) void values_by_weights(const __grid_constant__ TensorMap weights,
                                                                       const __grid_constant__ TensorMap v, T* result,
                                                                       int first_query, int rows, int first_item, int heads,
                                                                       int queries, int keys, int channels) {
  const int item = first_item + blockIdx.z, first_row = blockIdx.y * ROWS, first_column = blockIdx.x * COLUMNS;
  float sums[PIECES][COLUMNS / 2];
  multiply<true>(sums, weights, {0, first_row, (int)blockIdx.z}, v, {item % heads, 0, item / heads}, first_column, keys);
  for_each_pair(sums, [&](int row, int column, float first, float second) {
    if (first_row + row >= rows || first_column + column >= channels) return;
    const long token = (long)(item / heads) * queries + first_query + first_row + row;
    *(unsigned*)(result + (token * heads + item % heads) * channels + first_column + column) = bf16_pair(first, second);
  });
}
