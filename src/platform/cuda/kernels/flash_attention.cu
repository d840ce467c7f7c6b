// attention in bf16 on Hopper's tensor cores (compute capability 9.0): softmax(scale * q k^T + bias) v, no Lq x Lk matrix in memory.
//
// A block makes 128 queries of a head at a time: one warpgroup's first thread has tiles of k and v copied to shared memory, two
// more hold 64 queries each, their scores and their sums in registers. A warpgroup starts q k^T of a tile and then weights v of the
// tile before, and makes weights of the scores while the latter, and the other warpgroup's products, keep the tensor cores busy.
//
// Weights are exponentials of a score less a reference, which flash attention keeps at the highest score so far: a maximum of every
// tile, and all sums scaled whenever it rises. Here the reference is the highest score of the first tile and stays. It is put
// HEADROOM powers of two higher, so that weights begin at 2^-HEADROOM; f32 and bf16 hold up to 2^127, so a later score may
// be 2^(127 + HEADROOM), 130 in units of e, above the first tile's before anything overflows, and weights more than
// 62 powers of two below the first tile's best, which vanish, are too small for an f32 sum to show. What overflows is seen at
// the end (an infinite sum) and noted; flash_attention_again, which runs behind, makes those queries with a reference that rises
// (Careful), and is over at once where nothing was noted.
//
// q [batch, queries, heads, CHANNELS], k and v [batch, keys, heads, CHANNELS], bias f32 [batch | 1, heads | 1, 1, keys] by its
// strides, 0 where it is 1.
//
// The text goes behind tiles.cu, hopper.cu, multiply_keys(scores, q, k, accumulates) and multiply_values(sums, weights, v, accumulates)
// of 64 x KEYS x 16 and 64 x CHANNELS x 16, and definitions of
//   CHANNELS  64 or 128
//   KEYS      of a tile, a multiple of 16
//   HAS_BIAS  0 or 1
//   STAYS     1: blocks stay and take one item (128 queries of a head) after another, so that the next one's loads run ahead: for
//             few tiles of keys. Where there are many, a block of one item is 4% faster
#define LOG2_E 1.44269504f
#define LOWEST -1e30f
#if HAS_BIAS
#define SCORE_FACTOR 1.0f  // scores are scaled as the bias is added
#else
#define SCORE_FACTOR factor
#endif
#define HEADROOM 64.0f
#define STAGES 2
#define GROUPS 2
#define THREADS ((GROUPS + 1) * 128)
#define QUERIES (GROUPS * 64)
#define ROW_BYTES 128  // of 64 channels; the others lie behind the tile of the first
#define Q_BYTES (QUERIES * CHANNELS * 2)
#define TILE_BYTES (KEYS * CHANNELS * 2)

// Of q, k or v, whose axes are channel, head, token and batch.
static __device__ __forceinline__ void load_rows(unsigned to, const TensorMap& map, int rows, int head, int token, int batch, unsigned full) {
#pragma unroll
  for (int channel = 0; channel < CHANNELS; channel += 64)
    load_box(to + channel / 64 * rows * ROW_BYTES, map, channel, head, token, batch, full);
}

ZOE_FN float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Addresses in shared memory: of the tiles, and of barriers that they are full, and free again.
struct Shared {
  unsigned q, k, v, q_full, q_free, k_full, k_free, v_full, v_free, bias;
};
struct Turns {
  Turn<1> q;
  Turn<STAGES> kv;
};

ZOE_FN void release(unsigned free) {
  if (threadIdx.x % 32 == 0) arrive(free);
}

// 64 queries of a warpgroup; `result` is the place of the first. True if a sum has overflown.
template <bool Careful>
static __device__ __forceinline__ bool attend(const Shared& shared, Turns& turns, T* result, int queries_left, int keys, long step, float factor) {
  const int group = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, tiles = (keys + KEYS - 1) / KEYS;
  // A thread has columns lane % 4 * 2 and + 1 of every 8 of two rows: element i is in row i / 2 % 2 and column i / 4 * 8 + i % 2.
  float sums[CHANNELS / 2], scores[KEYS / 2], reference[2], total[2] = {0.0f, 0.0f};
  unsigned q[CHANNELS / 16][4], weights[KEYS / 16][4];
#pragma unroll
  for (int i = 0; i < CHANNELS / 2; ++i) sums[i] = 0.0f;

  wait(shared.q_full, turns.q.parity);
#pragma unroll
  for (int c = 0; c < CHANNELS / 16; ++c) {
    const int row = group * 64 + warp * 16 + lane % 16, chunk = 2 * c + lane / 16;
    load_matrices(q[c], shared.q + (chunk / 8 * QUERIES + row) * ROW_BYTES + (chunk % 8 ^ row % 8) * 16);
  }
  release(shared.q_free);
  turns.q.next();

  const auto start_scores = [&](int place) {
    const unsigned long long k = at(descriptor(0, 8 * ROW_BYTES) | SWIZZLED_128, shared.k + place * TILE_BYTES);
#pragma unroll
    for (int c = 0; c < CHANNELS / 16; ++c) multiply_keys(scores, q[c], k + (c / 4 * KEYS * ROW_BYTES + c % 4 * 32) / 16, c != 0);
    end_products();
  };
  const auto start_sums = [&](int place) {
    const unsigned long long v = at(descriptor(KEYS * ROW_BYTES, 8 * ROW_BYTES) | SWIZZLED_128, shared.v + place * TILE_BYTES);
#pragma unroll
    for (int c = 0; c < KEYS / 16; ++c) multiply_values(sums, weights[c], v + c * 16 * ROW_BYTES / 16, true);
    end_products();
  };
  // Scores of a tile to weights, still in f32.
  const auto weigh = [&](int tile) {
#if HAS_BIAS
#pragma unroll
    for (int i = 0; i < KEYS / 2; i += 4) {
      float more[2];
      asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(more[0]), "=f"(more[1])
                   : "r"(shared.bias + (tile * KEYS + 2 * i + lane % 4 * 2) * 4));
#pragma unroll
      for (int j = 0; j < 4; ++j) scores[i + j] = fmaf(scores[i + j], factor, more[j % 2]);
    }
#else
    if (tile == tiles - 1 && keys % KEYS != 0) {
#pragma unroll
      for (int i = 0; i < KEYS / 2; ++i)
        if (tile * KEYS + i / 4 * 8 + lane % 4 * 2 + i % 2 >= keys) scores[i] = MINUS_INFINITY;
    }
#endif
    if (Careful || tile == 0) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        float highest = MINUS_INFINITY;
#pragma unroll
        for (int i = 0; i < KEYS / 4; ++i) highest = fmaxf(highest, scores[i / 2 * 4 + 2 * row + i % 2]);
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
        // Where all keys are masked, what comes next is higher, and overflows unless Careful.
        const float now = fmaxf(highest * SCORE_FACTOR, LOWEST) + (Careful ? 0.0f : HEADROOM);
        if (tile == 0) {
          reference[row] = now;
        } else if (now > reference[row]) {
          const float less = power_of_two(reference[row] - now);
          reference[row] = now;
          total[row] *= less;
#pragma unroll
          for (int i = 0; i < CHANNELS / 4; ++i) sums[i / 2 * 4 + 2 * row + i % 2] *= less;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < KEYS / 2; ++i) {
      scores[i] = power_of_two(fmaf(scores[i], SCORE_FACTOR, -reference[i / 2 % 2]));
      total[i / 2 % 2] += scores[i];
    }
  };
  const auto round_weights = [&] {
#pragma unroll
    for (int i = 0; i < KEYS / 4; ++i) weights[i / 4][i % 4] = bf16_pair(scores[2 * i], scores[2 * i + 1]);
  };

  wait(shared.k_full + 8 * turns.kv.place, turns.kv.parity);
  begin_products();
  start_scores(turns.kv.place);
  wait_for_products<0>();
  release(shared.k_free + 8 * turns.kv.place);
  weigh(0);
  round_weights();
#pragma unroll 1
  for (int tile = 1; tile < tiles; ++tile) {
    const Turn<STAGES> before = turns.kv;
    turns.kv.next();
    wait(shared.k_full + 8 * turns.kv.place, turns.kv.parity);
    begin_products();
    start_scores(turns.kv.place);
    wait(shared.v_full + 8 * before.place, before.parity);
    start_sums(before.place);
    wait_for_products<Careful ? 0 : 1>();  // a reference that rises scales the sums
    release(shared.k_free + 8 * turns.kv.place);
    weigh(tile);
    wait_for_products<0>();
    release(shared.v_free + 8 * before.place);
    round_weights();
  }
  wait(shared.v_full + 8 * turns.kv.place, turns.kv.parity);
  begin_products();
  start_sums(turns.kv.place);
  wait_for_products<0>();
  release(shared.v_free + 8 * turns.kv.place);
  turns.kv.next();

  bool overflown = false;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    total[row] += __shfl_xor_sync(~0u, total[row], 1);
    total[row] += __shfl_xor_sync(~0u, total[row], 2);
    const float share = total[row] > 0.0f ? 1.0f / total[row] : 0.0f;  // zeros where all keys are masked
#pragma unroll
    for (int i = 0; i < CHANNELS / 4; ++i) {
      float& sum = sums[i / 2 * 4 + 2 * row + i % 2];
      overflown |= !(fabsf(sum) < 1e37f);
      sum *= share;
    }
    overflown |= !(total[row] < 1e37f);
    const int query = warp * 16 + 8 * row + lane / 4;
    // Two neighbours of every 8 channels, and behind the exchange all 8 of every fourth.
#pragma unroll
    for (int i = 0; i < CHANNELS / 32; ++i) {
      unsigned pairs[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) pairs[j] = bf16_pair(sums[(4 * i + j) * 4 + 2 * row], sums[(4 * i + j) * 4 + 2 * row + 1]);
      exchange_pairs(pairs);
      if (query < queries_left) *(uint4*)(result + query * step + 32 * i + lane % 4 * 8) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
  }
  return overflown;
}

struct Work {
  const float* bias;
  T* result;
  unsigned char* overflown;  // of each item and warp
  int queries, keys, heads;
  int blocks, items;  // of 128 queries: of a head, of all heads and batches
  float factor;
  long bias_batch, bias_head;

  __device__ int first(int item) const { return item % blocks * QUERIES; }
  __device__ int head(int item) const { return item / blocks % heads; }
  __device__ int batch(int item) const { return item / blocks / heads; }
  __device__ bool has_overflown(int item) const { return ((const unsigned long long*)overflown)[item] != 0; }
};

// Copies to shared memory what an item needs, as places for it become free.
static __device__ __forceinline__ void load_item(const Shared& shared, Turns& turns, const Work& work, int item, const TensorMap& q,
                                                 const TensorMap& k, const TensorMap& v) {
  const int head = work.head(item), batch = work.batch(item), tiles = (work.keys + KEYS - 1) / KEYS;
  wait(shared.q_free, turns.q.parity ^ 1);
  arrive_expecting(shared.q_full, Q_BYTES);
  load_rows(shared.q, q, QUERIES, head, work.first(item), batch, shared.q_full);
  turns.q.next();
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile, turns.kv.next()) {
    const unsigned place = turns.kv.place * TILE_BYTES, barrier = turns.kv.place * 8;
    wait(shared.k_free + barrier, turns.kv.parity ^ 1);
    arrive_expecting(shared.k_full + barrier, TILE_BYTES);
    load_rows(shared.k + place, k, KEYS, head, tile * KEYS, batch, shared.k_full + barrier);
    wait(shared.v_free + barrier, turns.kv.parity ^ 1);
    arrive_expecting(shared.v_full + barrier, TILE_BYTES);
    load_rows(shared.v + place, v, KEYS, head, tile * KEYS, batch, shared.v_full + barrier);
  }
}

// A warpgroup's half of an item. `held` is the bias in shared memory.
template <bool Careful>
static __device__ __forceinline__ void attend_to_item(const Shared& shared, Turns& turns, const Work& work, int item,
                                                      const float*& held) {
  const int group = threadIdx.x / 128 - 1, first = work.first(item) + group * 64, head = work.head(item), batch = work.batch(item);
#if HAS_BIAS
  const float* const bias = work.bias + batch * work.bias_batch + head * work.bias_head;
  if (bias != held) {
    held = bias;
    asm volatile("bar.sync %0, 128;" ::"r"(1 + group) : "memory");
    for (int key = threadIdx.x % 128; key < (work.keys + KEYS - 1) / KEYS * KEYS; key += 128)
      asm volatile("st.shared.f32 [%0], %1;" ::"r"(shared.bias + key * 4), "f"(key < work.keys ? bias[key] * LOG2_E : MINUS_INFINITY)
                   : "memory");
    asm volatile("bar.sync %0, 128;" ::"r"(1 + group) : "memory");
  }
#endif
  const long step = (long)work.heads * CHANNELS;
  T* const result = work.result + ((long)batch * work.queries + first) * step + head * CHANNELS;
  const bool overflown = attend<Careful>(shared, turns, result, work.queries - first, work.keys, step, work.factor);
  const bool any = __any_sync(~0u, overflown);
  if (!Careful && threadIdx.x % 32 == 0) work.overflown[item * (GROUPS * 4) + threadIdx.x / 32 - 4] = any;
}

// All items of a block; those of neighbours are of one head, whose k and v the L2 cache holds.
template <bool Careful>
static __device__ __forceinline__ void make_items(const TensorMap& q, const TensorMap& k, const TensorMap& v, const Work& work) {
  extern __shared__ unsigned char memory[];
  Shared shared;
  shared.q = ((unsigned)__cvta_generic_to_shared(memory) + 1023) & ~1023u;  // where swizzled rows begin
  shared.k = shared.q + Q_BYTES;
  shared.v = shared.k + STAGES * TILE_BYTES;
  shared.q_full = shared.v + STAGES * TILE_BYTES;
  shared.q_free = shared.q_full + 8;
  shared.k_full = shared.q_free + 8;
  shared.k_free = shared.k_full + 8 * STAGES;
  shared.v_full = shared.k_free + 8 * STAGES;
  shared.v_free = shared.v_full + 8 * STAGES;
  const int group = threadIdx.x / 128 - 1;
  shared.bias = shared.v_free + 8 * STAGES + (group == 1 ? (work.keys + KEYS - 1) / KEYS * KEYS * 4 : 0);  // a row for each
  if (threadIdx.x == 0) {
    initialise(shared.q_full, 1), initialise(shared.q_free, GROUPS * 4);
    for (int i = 0; i < STAGES; ++i) {
      initialise(shared.k_full + 8 * i, 1), initialise(shared.k_free + 8 * i, GROUPS * 4);
      initialise(shared.v_full + 8 * i, 1), initialise(shared.v_free + 8 * i, GROUPS * 4);
    }
    publish_barriers();
  }
  __syncthreads();

  Turns turns;
  if (group < 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 0) {
      if constexpr (STAYS || Careful) {
        for (int item = blockIdx.x; item < work.items; item += gridDim.x)
          if (!Careful || work.has_overflown(item)) load_item(shared, turns, work, item, q, k, v);
      } else {
        load_item(shared, turns, work, blockIdx.x, q, k, v);
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const float* held = 0;
    if constexpr (STAYS || Careful) {
      for (int item = blockIdx.x; item < work.items; item += gridDim.x)
        if (!Careful || work.has_overflown(item)) attend_to_item<Careful>(shared, turns, work, item, held);
    } else {
      attend_to_item<Careful>(shared, turns, work, blockIdx.x, held);
    }
  }
}

static __device__ Work work_of(const float* bias, T* result, unsigned char* overflown, int queries, int keys, int heads, int batches,
                               float factor, long bias_batch, long bias_head) {
  const int blocks = (queries + QUERIES - 1) / QUERIES;
  return {bias, result, overflown, queries, keys, heads, blocks, blocks * heads * batches, factor, bias_batch, bias_head};
}

extern "C" __global__ __launch_bounds__(THREADS, 1) void flash_attention(
    const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v, const float* bias,
    T* result, unsigned char* overflown, int queries, int keys, int heads, int batches, float factor, long bias_batch, long bias_head) {
  make_items<false>(q, k, v, work_of(bias, result, overflown, queries, keys, heads, batches, factor, bias_batch, bias_head));
}

// Blocks stay, and most often all of them are over at once.
extern "C" __global__ __launch_bounds__(THREADS, 1) void flash_attention_again(
    const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v, const float* bias,
    T* result, unsigned char* overflown, int queries, int keys, int heads, int batches, float factor, long bias_batch, long bias_head) {
  const Work work = work_of(bias, result, overflown, queries, keys, heads, batches, factor, bias_batch, bias_head);
  bool any = false;
  for (int item = blockIdx.x + threadIdx.x * gridDim.x; item < work.items; item += THREADS * gridDim.x) any |= work.has_overflown(item);
  if (__syncthreads_or(any)) make_items<true>(q, k, v, work);
}
