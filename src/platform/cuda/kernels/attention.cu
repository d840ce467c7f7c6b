// attention: softmax(scale * q k^T + bias) v, a tile of keys after another with a running maximum and sum of each query, so that
// no Lq x Lk matrix is ever in memory. Everything is computed in f32; results are rounded once.
//
// q [batch, queries, heads, channels], k and v [batch, keys, heads, channels], bias f32 [batch | 1, heads | 1, queries | 1, keys] by
// its strides, 0 where it is 1.
//
// The text goes behind tiles.cu and definitions of
//   CHANNELS  the widest head the program is for, a multiple of 64 without tensor cores, of 16 with them
//   QUERIES   of a block, without tensor cores: 32, 64 or 128
//   WARPS, ROW_TILES, KEYS  with them: a warp makes 16 ROW_TILES queries, from KEYS keys at a time
#define ATTENTION_ARGUMENTS                                                                                                   \
  const T *q, const T *k, const T *v, const float *bias, T *result, int queries, int keys, int heads, int channels, float scale, \
      long bias_batch, long bias_head, long bias_query

#if TENSOR_CORES

#define QUERIES (WARPS * ROW_TILES * 16)  // of a block
#define ROW_BYTES (CHANNELS * 2 + 16)     // an odd number of chunks of 16: the same chunk of 8 rows lies in different banks
#define LOG2_E 1.44269504f

ZOE_FN float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// `count` tokens of one head to shared memory, and zeros for those that are missing.
template <int Count> ZOE_FN void load_rows(unsigned to, const T* from, long step, int count, int channels, bool wide) {
  constexpr int kChunks = CHANNELS / 8;
  for (int i = threadIdx.x; i < Count * kChunks; i += WARPS * 32) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool there = row < count && chunk * 8 < channels;
    copy_chunk(to + row * ROW_BYTES + chunk * 16, there ? from + row * step + chunk * 8 : from, there ? channels - chunk * 8 : 0, wide);
  }
}

// k is loaded while the weights meet v, v while q meets k.
extern "C" __global__ __launch_bounds__(WARPS * 32) void attention(ATTENTION_ARGUMENTS, int wide) {
  extern __shared__ __align__(128) unsigned char shared[];
  const unsigned q_tile = (unsigned)__cvta_generic_to_shared(shared), k_tile = q_tile + QUERIES * ROW_BYTES,
                 v_tile = k_tile + KEYS * ROW_BYTES;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y, batch = blockIdx.z, first = blockIdx.x * QUERIES;
  const long step = (long)heads * channels;  // from one token to the next
  q += ((long)batch * queries * heads + head) * channels;
  k += ((long)batch * keys * heads + head) * channels;
  v += ((long)batch * keys * heads + head) * channels;
  result += ((long)batch * queries * heads + head) * channels;
  if (bias) bias += batch * bias_batch + head * bias_head;

  load_rows<QUERIES>(q_tile, q + first * step, step, queries - first, channels, wide);
  load_rows<KEYS>(k_tile, k, step, keys, channels, wide);

  // Of ROW_TILES tiles of 16 queries: results, and for the two queries of a tile that a thread has a part of, maximum and sum.
  float sums[ROW_TILES][CHANNELS / 8][4], maximum[ROW_TILES][2], weight_sum[ROW_TILES][2];
#pragma unroll
  for (int m = 0; m < ROW_TILES; ++m) {
    maximum[m][0] = maximum[m][1] = MINUS_INFINITY;
    weight_sum[m][0] = weight_sum[m][1] = 0.0f;
#pragma unroll
    for (int i = 0; i < CHANNELS / 2; ++i) sums[m][i / 4][i % 4] = 0.0f;
  }
  const int my_row = warp * ROW_TILES * 16;
  const float scale2 = scale * LOG2_E;  // weights are powers of two

  for (int begin = 0; begin < keys; begin += KEYS) {
    wait_for_copies();
    load_rows<KEYS>(v_tile, v + begin * step, step, keys - begin, channels, wide);
    float logits[ROW_TILES][KEYS / 8][4];
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
      for (int i = 0; i < KEYS / 2; ++i) logits[m][i / 4][i % 4] = 0.0f;
#pragma unroll 4
    for (int c = 0; c < CHANNELS / 16; ++c) {
      unsigned a[ROW_TILES][4];
#pragma unroll
      for (int m = 0; m < ROW_TILES; ++m)
        load_matrices(a[m], q_tile + (my_row + 16 * m + lane % 16) * ROW_BYTES + (2 * c + lane / 16) * 16);
#pragma unroll
      for (int n = 0; n < KEYS / 16; ++n) {
        unsigned b[4];
        load_matrices(b, k_tile + (16 * n + lane / 16 * 8 + lane % 8) * ROW_BYTES + (2 * c + lane / 8 % 2) * 16);
#pragma unroll
        for (int m = 0; m < ROW_TILES; ++m) {
          multiply_add(logits[m][2 * n], a[m], b[0], b[1]);
          multiply_add(logits[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }

    const bool whole = begin + KEYS <= keys;
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int query = first + my_row + 16 * m + 8 * half + lane / 4;
        float next = maximum[m][half];
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n) {
          float &x = logits[m][n][2 * half], &y = logits[m][n][2 * half + 1];
          const int key = begin + 8 * n + lane % 4 * 2;
          x *= scale2, y *= scale2;
          if (bias && query < queries) {
            const float* const from = bias + query * bias_query + key;
            if (wide && whole) {
              const float2 two = *(const float2*)from;
              x += two.x * LOG2_E, y += two.y * LOG2_E;
            } else {
              if (key < keys) x += from[0] * LOG2_E;
              if (key + 1 < keys) y += from[1] * LOG2_E;
            }
          }
          if (!whole) {
            if (key >= keys) x = MINUS_INFINITY;
            if (key + 1 >= keys) y = MINUS_INFINITY;
          }
          next = fmaxf(next, fmaxf(x, y));
        }
        next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 1));
        next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 2));
        const float shift = next == MINUS_INFINITY ? 0.0f : next;  // no key so far: every weight is 2^-inf = 0
        const float correction = power_of_two(maximum[m][half] - shift);  // of what was summed so far
        maximum[m][half] = next;
        float added = 0.0f;
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
          for (int i = 2 * half; i < 2 * half + 2; ++i) {
            logits[m][n][i] = power_of_two(logits[m][n][i] - shift);
            added += logits[m][n][i];
          }
        weight_sum[m][half] = weight_sum[m][half] * correction + added;
#pragma unroll
        for (int n = 0; n < CHANNELS / 8; ++n) sums[m][n][2 * half] *= correction, sums[m][n][2 * half + 1] *= correction;
      }

    wait_for_copies();
    if (begin + KEYS < keys) load_rows<KEYS>(k_tile, k + (begin + KEYS) * step, step, keys - begin - KEYS, channels, wide);
#pragma unroll
    for (int c = 0; c < KEYS / 16; ++c) {
      unsigned a[ROW_TILES][4];  // the weights, rounded: their places in sums are those in the first factor
#pragma unroll
      for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          a[m][i] = bf16_pair(logits[m][2 * c + i / 2][i % 2 * 2], logits[m][2 * c + i / 2][i % 2 * 2 + 1]);
#pragma unroll
      for (int n = 0; n < CHANNELS / 16; ++n) {
        unsigned b[4];
        load_transposed(b, v_tile + (16 * c + lane % 16) * ROW_BYTES + (2 * n + lane / 16) * 16);
#pragma unroll
        for (int m = 0; m < ROW_TILES; ++m) {
          multiply_add(sums[m][2 * n], a[m], b[0], b[1]);
          multiply_add(sums[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

#pragma unroll
  for (int m = 0; m < ROW_TILES; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = weight_sum[m][half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;  // a query without any key: zeros
      const int query = first + my_row + 16 * m + 8 * half + lane / 4;
      if (query >= queries) continue;
      T* const to = result + query * step;
#pragma unroll
      for (int n = 0; n < CHANNELS / 8; ++n) {
        const int channel = 8 * n + lane % 4 * 2;
        const float x = sums[m][n][2 * half] * inverse, y = sums[m][n][2 * half + 1] * inverse;
        if (wide && channel < channels) {
          *(unsigned*)(to + channel) = bf16_pair(x, y);
        } else {
          if (channel < channels) store1(to + channel, x);
          if (channel + 1 < channels) store1(to + channel + 1, y);
        }
      }
    }
}

#else

#define KEYS 64               // in a tile
#define CHUNK 64              // channels of k or v that are in shared memory at a time
#define PER (QUERIES / 16)    // queries a thread
#define KEY_STRIDE (KEYS + 4)  // keeps four neighbours aligned, and channels in different banks
#define CHUNK_STRIDE (CHUNK + 4)
#define CHUNK_FLOATS (CHUNK * KEY_STRIDE > KEYS * CHUNK_STRIDE ? CHUNK * KEY_STRIDE : KEYS * CHUNK_STRIDE)
#define QUERY_STRIDE (QUERIES + 4)

// Where the weights of four queries for a key lie: 8 keys that 8 threads write at a time are in different banks.
ZOE_FN int weight_place(int key, int query) {
  return key * QUERIES + ((query / 4 ^ ((key / 4) & (QUERIES / 4 < 8 ? QUERIES / 4 - 1 : 7))) << 2);
}

// Thread i makes PER queries i / 16 * PER .. by 4 keys i % 16 * 4 .. of each tile, and of the results channels i % 16 * 4 .. of each
// chunk. Four queries are read at a time.
extern "C" __global__ __launch_bounds__(256) void attention(ATTENTION_ARGUMENTS) {
  extern __shared__ __align__(16) float shared[];
  float* const q_tile = shared;                              // [CHANNELS][QUERY_STRIDE]
  float* const weights = q_tile + CHANNELS * QUERY_STRIDE;   // [KEYS][QUERIES], see weight_place
  float* const chunks = weights + KEYS * QUERIES;            // two of k [CHUNK][KEY_STRIDE] or v [KEYS][CHUNK_STRIDE]
  const int thread = threadIdx.x, head = blockIdx.y, batch = blockIdx.z, first = blockIdx.x * QUERIES;
  const long step = (long)heads * channels;  // from one token to the next
  q += ((long)batch * queries * heads + head) * channels;
  k += ((long)batch * keys * heads + head) * channels;
  v += ((long)batch * keys * heads + head) * channels;
  result += ((long)batch * queries * heads + head) * channels;
  if (bias) bias += batch * bias_batch + head * bias_head;

  const int chunk_channel = thread % CHUNK, chunk_row = thread / CHUNK;
  constexpr int kRowsAtOnce = 256 / CHUNK;
  for (int c = chunk_channel; c < CHANNELS; c += CHUNK)
    for (int i = chunk_row; i < QUERIES; i += kRowsAtOnce) {
      const bool there = c < channels && first + i < queries;
      copy_element(q_tile + c * QUERY_STRIDE + i, there ? q + (first + i) * step + c : q, there);
    }

  // Chunks of k, then of v, of each tile of keys.
  constexpr int parts = CHANNELS / CHUNK;
  const int count = (keys + KEYS - 1) / KEYS * 2 * parts;
  auto load = [&](int which) {
    const int part = which % (2 * parts), key = which / (2 * parts) * KEYS;
    const bool is_value = part >= parts;
    const int channel = (is_value ? part - parts : part) * CHUNK + chunk_channel;
    const T* const from = is_value ? v : k;
    float* const to = chunks + which % 2 * CHUNK_FLOATS;
    const int row_step = is_value ? CHUNK_STRIDE : 1, channel_step = is_value ? 1 : KEY_STRIDE;
#pragma unroll 4
    for (int i = chunk_row; i < KEYS; i += kRowsAtOnce) {
      const bool there = channel < channels && key + i < keys;
      copy_element(to + i * row_step + chunk_channel * channel_step, there ? from + (key + i) * step + channel : from, there);
    }
  };
  load(0);

  const int my_query = thread / 16 * PER, my_column = thread % 16 * 4;
  float sums[parts][PER][4], maximum[PER], weight_sum[PER];
#pragma unroll
  for (int i = 0; i < PER; ++i) {
    maximum[i] = MINUS_INFINITY;
    weight_sum[i] = 0.0f;
#pragma unroll
    for (int j = 0; j < parts * 4; ++j) sums[j / 4][i][j % 4] = 0.0f;
  }

  int which = 0;
  for (int begin = 0; begin < keys; begin += KEYS) {
    float logits[PER][4];
#pragma unroll
    for (int i = 0; i < PER * 4; ++i) logits[i / 4][i % 4] = 0.0f;
    for (int part = 0; part < parts; ++part, ++which) {
      wait_for_copies();
      load(which + 1);  // of v at the latest
      const float *from = chunks + which % 2 * CHUNK_FLOATS + my_column, *qs = q_tile + part * CHUNK * QUERY_STRIDE + my_query;
#pragma unroll 8
      for (int c = 0; c < CHUNK; ++c) {
        const float4 key = *(const float4*)(from + c * KEY_STRIDE);
#pragma unroll
        for (int i = 0; i < PER; i += PER < 4 ? PER : 4) {
          float query[4];
          if constexpr (PER >= 4) {
            const float4 four = *(const float4*)(qs + c * QUERY_STRIDE + i);
            query[0] = four.x, query[1] = four.y, query[2] = four.z, query[3] = four.w;
          } else {
#pragma unroll
            for (int j = 0; j < PER; ++j) query[j] = qs[c * QUERY_STRIDE + j];
          }
#pragma unroll
          for (int j = 0; j < (PER < 4 ? PER : 4); ++j) {
            logits[i + j][0] = __fmaf_rn(query[j], key.x, logits[i + j][0]);
            logits[i + j][1] = __fmaf_rn(query[j], key.y, logits[i + j][1]);
            logits[i + j][2] = __fmaf_rn(query[j], key.z, logits[i + j][2]);
            logits[i + j][3] = __fmaf_rn(query[j], key.w, logits[i + j][3]);
          }
        }
      }
    }

    float correction[PER];  // of what was summed so far, where a greater logit is found
#pragma unroll
    for (int i = 0; i < PER; ++i) {
      float next = maximum[i];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int query = first + my_query + i, key = begin + my_column + j;
        float logit = logits[i][j] * scale;
        if (bias && key < keys && query < queries) logit += bias[query * bias_query + key];
        logits[i][j] = key < keys ? logit : MINUS_INFINITY;
        next = fmaxf(next, logits[i][j]);
      }
      for (int other = 8; other > 0; other /= 2) next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, other));
      const float shift = next == MINUS_INFINITY ? 0.0f : next;  // no key so far: every weight is e^-inf = 0
      correction[i] = zoe_exp_of_negative(maximum[i] - shift);
      maximum[i] = next;
      float added = 0.0f;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        logits[i][j] = zoe_exp_of_negative(logits[i][j] - shift);
        added += logits[i][j];
      }
      weight_sum[i] = weight_sum[i] * correction[i] + added;
    }
    // The threads that share queries are half a warp.
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int i = 0; i < PER; ++i) weights[weight_place(my_column + j, my_query + i) + (my_query + i) % 4] = logits[i][j];
    __syncwarp();

#pragma unroll  // so that the sums are registers
    for (int part = 0; part < parts; ++part) {
      wait_for_copies();
      if (which + 1 < count) load(which + 1);
      const float* const from = chunks + which % 2 * CHUNK_FLOATS + my_column;
      ++which;
#pragma unroll
      for (int i = 0; i < PER * 4; ++i) sums[part][i / 4][i % 4] *= correction[i / 4];
#pragma unroll 8
      for (int j = 0; j < KEYS; ++j) {
        const float4 value = *(const float4*)(from + j * CHUNK_STRIDE);
#pragma unroll
        for (int i = 0; i < PER; i += PER < 4 ? PER : 4) {
          float weight[4];
          if constexpr (PER >= 4) {
            const float4 four = *(const float4*)(weights + weight_place(j, my_query + i));
            weight[0] = four.x, weight[1] = four.y, weight[2] = four.z, weight[3] = four.w;
          } else {
#pragma unroll
            for (int n = 0; n < PER; ++n) weight[n] = weights[weight_place(j, my_query + n) + (my_query + n) % 4];
          }
#pragma unroll
          for (int n = 0; n < (PER < 4 ? PER : 4); ++n) {
            sums[part][i + n][0] = __fmaf_rn(weight[n], value.x, sums[part][i + n][0]);
            sums[part][i + n][1] = __fmaf_rn(weight[n], value.y, sums[part][i + n][1]);
            sums[part][i + n][2] = __fmaf_rn(weight[n], value.z, sums[part][i + n][2]);
            sums[part][i + n][3] = __fmaf_rn(weight[n], value.w, sums[part][i + n][3]);
          }
        }
      }
    }
  }

#pragma unroll
  for (int i = 0; i < PER; ++i) {
    float sum = weight_sum[i];
    for (int other = 8; other > 0; other /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
    const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;  // a query without any key: zeros
    const int query = first + my_query + i;
    if (query >= queries) continue;
#pragma unroll
    for (int part = 0; part < parts; ++part)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (part * CHUNK + my_column + j < channels)
          store1(result + query * step + part * CHUNK + my_column + j, sums[part][i][j] * inverse);
  }
}

#endif
