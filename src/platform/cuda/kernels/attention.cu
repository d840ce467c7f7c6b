// attention: softmax(scale * q k^T + bias) v, a tile of keys after another with a running maximum and sum of each query, so that
// no Lq x Lk matrix is ever in memory. Everything is computed in f32; results are rounded once.
//
// q [batch, queries, heads, channels], k and v [batch, keys, heads, channels] with steps from one token to the next, between which
// other heads may lie; bias f32 [batch | 1, heads | 1, queries | 1, keys] by its strides, 0 where it is 1.
//
// The text goes behind tiles.cu and definitions of
//   CHANNELS  the widest head the program is for, a multiple of 64 without tensor cores, of 16 with them
//   QUERIES, KEYS  without tensor cores: of a block and of a tile, 64 or 128
//   WARPS, ROW_TILES, KEYS, SPLITS  with them: a warp makes 16 ROW_TILES queries, from KEYS keys at a time; SPLITS warps share them,
//             each with every SPLITS-th tile of keys, and put their results together at the end
#define ATTENTION_ARGUMENTS                                                                                                   \
  const T *q, const T *k, const T *v, const float *bias, T *result, int queries, int keys, int heads, int channels, float scale, \
      long q_step, long k_step, long v_step, long bias_batch, long bias_head, long bias_query

#if TENSOR_CORES

#define QUERIES (WARPS / SPLITS * ROW_TILES * 16)  // of a block
#define TILE_KEYS (SPLITS * KEYS)
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
                 v_tile = k_tile + TILE_KEYS * ROW_BYTES;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = blockIdx.y, batch = blockIdx.z, first = blockIdx.x * QUERIES;
  const long step = (long)heads * channels;  // of the result
  q += batch * queries * q_step + (long)head * channels;
  k += batch * keys * k_step + (long)head * channels;
  v += batch * keys * v_step + (long)head * channels;
  result += ((long)batch * queries * heads + head) * channels;
  if (bias) bias += batch * bias_batch + head * bias_head;

  load_rows<QUERIES>(q_tile, q + first * q_step, q_step, queries - first, channels, wide);
  load_rows<TILE_KEYS>(k_tile, k, k_step, keys, channels, wide);

  // Of ROW_TILES tiles of 16 queries: results, and for the two queries of a tile that a thread has a part of, maximum and sum.
  float sums[ROW_TILES][CHANNELS / 8][4], maximum[ROW_TILES][2], weight_sum[ROW_TILES][2];
#pragma unroll
  for (int m = 0; m < ROW_TILES; ++m) {
    maximum[m][0] = maximum[m][1] = MINUS_INFINITY;
    weight_sum[m][0] = weight_sum[m][1] = 0.0f;
#pragma unroll
    for (int i = 0; i < CHANNELS / 2; ++i) sums[m][i / 4][i % 4] = 0.0f;
  }
  const int my_row = warp % (WARPS / SPLITS) * ROW_TILES * 16, my_key = warp / (WARPS / SPLITS) * KEYS;
  const float scale2 = scale * LOG2_E;  // weights are powers of two

  for (int tile = 0; tile < keys; tile += TILE_KEYS) {
    wait_for_copies();
    load_rows<TILE_KEYS>(v_tile, v + tile * v_step, v_step, keys - tile, channels, wide);
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
        load_matrices(b, k_tile + (my_key + 16 * n + lane / 16 * 8 + lane % 8) * ROW_BYTES + (2 * c + lane / 8 % 2) * 16);
#pragma unroll
        for (int m = 0; m < ROW_TILES; ++m) {
          multiply_add(logits[m][2 * n], a[m], b[0], b[1]);
          multiply_add(logits[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }

    const int begin = tile + my_key;
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
    if (tile + TILE_KEYS < keys)
      load_rows<TILE_KEYS>(k_tile, k + (tile + TILE_KEYS) * k_step, k_step, keys - tile - TILE_KEYS, channels, wide);
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
        load_transposed(b, v_tile + (my_key + 16 * c + lane % 16) * ROW_BYTES + (2 * n + lane / 16) * 16);
#pragma unroll
        for (int m = 0; m < ROW_TILES; ++m) {
          multiply_add(sums[m][2 * n], a[m], b[0], b[1]);
          multiply_add(sums[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

#if SPLITS == 2
  // The second warp's results go through shared memory to the same thread of the first.
  constexpr int kThreads = WARPS / SPLITS * 32;
  float* const exchange = (float*)shared + threadIdx.x % kThreads;
  __syncthreads();
  if (my_key > 0) {
#pragma unroll
    for (int m = 0; m < ROW_TILES; ++m) {
      float* const to = exchange + m * (CHANNELS / 2 + 4) * kThreads;
#pragma unroll
      for (int i = 0; i < CHANNELS / 2; ++i) to[i * kThreads] = sums[m][i / 4][i % 4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        to[(CHANNELS / 2 + half) * kThreads] = maximum[m][half];
        to[(CHANNELS / 2 + 2 + half) * kThreads] = weight_sum[m][half];
      }
    }
  }
  __syncthreads();
  if (my_key > 0) return;
#pragma unroll
  for (int m = 0; m < ROW_TILES; ++m) {
    const float* const from = exchange + m * (CHANNELS / 2 + 4) * kThreads;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float other = from[(CHANNELS / 2 + half) * kThreads], most = fmaxf(maximum[m][half], other);
      const float shift = most == MINUS_INFINITY ? 0.0f : most;
      const float mine = power_of_two(maximum[m][half] - shift), its = power_of_two(other - shift);
      weight_sum[m][half] = weight_sum[m][half] * mine + from[(CHANNELS / 2 + 2 + half) * kThreads] * its;
#pragma unroll
      for (int n = 0; n < CHANNELS / 8; ++n)
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) sums[m][n][i] = sums[m][n][i] * mine + from[(4 * n + i) * kThreads] * its;
    }
  }
#endif
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

#define PER (QUERIES / 16)      // queries a thread
#define KEYS_PER (KEYS / 16)    // keys a thread
#define DEPTH 32                // channels of q and k in shared memory at a time
#define KEY_STRIDE (KEYS + 4)   // keeps four neighbours aligned, and channels in different banks
#define QUERY_STRIDE (QUERIES + 4)
// Keys whose v is in shared memory at a time: as many as fit in the place of 64 keys' and queries' channels.
#define VALUE_KEYS (CHANNELS <= 64 ? 64 : CHANNELS <= 128 ? 32 : CHANNELS <= 256 ? 16 : CHANNELS <= 512 ? 8 : 4)
#define CHUNK_FLOATS (DEPTH * (KEY_STRIDE + QUERY_STRIDE))

// e^x for x <= 0, 2 ulp off: the product with log2 e goes in two parts.
ZOE_FN float weight_of(float x) {
#if defined(__CUDA_ARCH__)
  x = x < -150.0f ? -150.0f : x;  // whose power is 0; a NaN stays
  const float high = x * 1.44269504f, low = __fmaf_rn(x, 1.44269504f, -high) + x * 1.92596299e-8f;
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(high));
  return __fmaf_rn(power, low * 0.693147181f, power);
#else
  return zoe_exp_of_negative(x);
#endif
}

// Where the weights of four queries for a key lie: threads that write at the same time have different keys / 4.
ZOE_FN int weight_place(int key, int query) { return key * QUERIES + ((query / 4 ^ (key / 4 & 7)) << 2); }

// DEPTH channels of `Rows` tokens, to [DEPTH][Rows + 4]: a warp takes 8 channels of 4 tokens at a time, all in different banks.
template <int Rows> ZOE_FN void load_turned(float* to, const T* from, long step, int count, int channels) {
  const int channel = threadIdx.x / 32 % 4 * 8 + threadIdx.x % 8, row = threadIdx.x / 128 * 4 + threadIdx.x % 32 / 8;
  to += channel * (Rows + 4) + row;
  const T* next = from + row * step + channel;
#pragma unroll
  for (int i = 0; i < Rows; i += 8, next += 8 * step) {
    const bool there = channel < channels && row + i < count;
    copy_element(to + i, there ? next : from, there);
  }
}

// All channels of VALUE_KEYS keys, to [VALUE_KEYS][CHANNELS].
ZOE_FN void load_values(float* to, const T* from, long step, int count, int channels, bool wide) {
#if ASYNC_COPIES && !BF16
  if (wide) {
    for (int i = threadIdx.x; i < VALUE_KEYS * CHANNELS / 4; i += 256) {
      const int row = i / (CHANNELS / 4), channel = i % (CHANNELS / 4) * 4;
      const bool there = row < count && channel < channels;
      const int bytes = there ? 16 : 0;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((unsigned)__cvta_generic_to_shared(to + 4 * i)),
                   "l"(there ? from + row * step + channel : from), "r"(bytes));
    }
    return;
  }
#endif
  for (int i = threadIdx.x; i < VALUE_KEYS * CHANNELS; i += 256) {
    const int row = i / CHANNELS, channel = i % CHANNELS;
    const bool there = row < count && channel < channels;
    copy_element(to + i, there ? from + row * step + channel : from, there);
  }
}

// Four neighbours.
ZOE_FN void read4(float* to, const float* from) {
  const float4 four = *(const float4*)from;
  to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}

// Thread i makes PER queries i / 16 * PER .. by keys i % 16 * 4 .. of each 64 of a tile, and of the results channels i % 16 * 4 .. of
// each 64. Two chunks of q and k, or of v, are in shared memory: one arrives while the other is used.
extern "C" __global__ __launch_bounds__(256) void attention(ATTENTION_ARGUMENTS, int wide) {
  extern __shared__ __align__(16) float shared[];
  float *const weights = shared, *const chunks = shared + KEYS * QUERIES;  // [KEYS][QUERIES], see weight_place
  const int thread = threadIdx.x, head = blockIdx.y, batch = blockIdx.z, first = blockIdx.x * QUERIES;
  const long step = (long)heads * channels;  // of the result
  q += (batch * queries + first) * q_step + (long)head * channels;
  k += batch * keys * k_step + (long)head * channels;
  v += batch * keys * v_step + (long)head * channels;
  result += ((long)batch * queries * heads + head) * channels + first * step;
  if (bias) bias += batch * bias_batch + head * bias_head + first * bias_query;
  queries -= first;

  constexpr int kLogitChunks = CHANNELS / DEPTH, kValueChunks = KEYS / VALUE_KEYS;
  auto load_logit_chunk = [&](float* to, int begin, int part) {
    const int channel = part * DEPTH;
    load_turned<KEYS>(to, k + begin * k_step + channel, k_step, keys - begin, channels - channel);
    load_turned<QUERIES>(to + DEPTH * KEY_STRIDE, q + channel, q_step, queries, channels - channel);
  };
  auto load_value_chunk = [&](float* to, int begin, int part) {
    begin += part * VALUE_KEYS;
    load_values(to, begin < keys ? v + begin * v_step : v, v_step, keys - begin, channels, wide);
  };
  int turn = 0;  // which chunk is used next
  load_logit_chunk(chunks, 0, 0);

  const int my_query = thread / 16 * PER, my_column = thread % 16 * 4;
  float sums[PER][CHANNELS / 16], maximum[PER], weight_sum[PER];
#pragma unroll
  for (int i = 0; i < PER; ++i) {
    maximum[i] = MINUS_INFINITY;
    weight_sum[i] = 0.0f;
#pragma unroll
    for (int j = 0; j < CHANNELS / 16; ++j) sums[i][j] = 0.0f;
  }

  for (int begin = 0; begin < keys; begin += KEYS) {
    float logits[PER][KEYS_PER];
#pragma unroll
    for (int i = 0; i < PER; ++i)
#pragma unroll
      for (int j = 0; j < KEYS_PER; ++j) logits[i][j] = 0.0f;
    for (int part = 0; part < kLogitChunks; ++part, turn ^= 1) {
      wait_for_copies();
      float* const other = chunks + (turn ^ 1) * CHUNK_FLOATS;
      if (part + 1 < kLogitChunks) load_logit_chunk(other, begin, part + 1);
      else load_value_chunk(other, begin, 0);
      const float *ks = chunks + turn * CHUNK_FLOATS + my_column, *qs = chunks + turn * CHUNK_FLOATS + DEPTH * KEY_STRIDE + my_query;
#pragma unroll 8
      for (int c = 0; c < DEPTH; ++c) {
        float query[PER], key[KEYS_PER];
#pragma unroll
        for (int i = 0; i < PER; i += 4) read4(query + i, qs + c * QUERY_STRIDE + i);
#pragma unroll
        for (int j = 0; j < KEYS_PER; j += 4) read4(key + j, ks + c * KEY_STRIDE + 16 * j);
#pragma unroll
        for (int i = 0; i < PER; ++i)
#pragma unroll
          for (int j = 0; j < KEYS_PER; ++j) logits[i][j] = __fmaf_rn(query[i], key[j], logits[i][j]);
      }
    }

    const bool whole = begin + KEYS <= keys;
#pragma unroll
    for (int i = 0; i < PER; ++i) {
      float next = maximum[i];
#pragma unroll
      for (int j = 0; j < KEYS_PER; ++j) {
        const int key = begin + j / 4 * 64 + my_column + j % 4;
        logits[i][j] *= scale;
        if (bias && key < keys && my_query + i < queries) logits[i][j] += bias[(my_query + i) * bias_query + key];
        if (!whole && key >= keys) logits[i][j] = MINUS_INFINITY;
        next = fmaxf(next, logits[i][j]);
      }
#pragma unroll
      for (int other = 8; other > 0; other /= 2) next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, other));
      const float shift = next == MINUS_INFINITY ? 0.0f : next;  // no key so far: every weight is e^-inf = 0
      const float correction = weight_of(maximum[i] - shift);    // of what was summed so far
      maximum[i] = next;
      float added = 0.0f;
#pragma unroll
      for (int j = 0; j < KEYS_PER; ++j) {
        logits[i][j] = weight_of(logits[i][j] - shift);
        added += logits[i][j];
      }
      weight_sum[i] = weight_sum[i] * correction + added;
#pragma unroll
      for (int j = 0; j < CHANNELS / 16; ++j) sums[i][j] *= correction;
    }
    // The threads that share queries are half a warp; the last tile's weights were read before the last barrier.
#pragma unroll
    for (int j = 0; j < KEYS_PER; ++j)
#pragma unroll
      for (int i = 0; i < PER; i += 4)
        *(float4*)(weights + weight_place(j / 4 * 64 + my_column + j % 4, my_query + i)) =
            make_float4(logits[i][j], logits[i + 1][j], logits[i + 2][j], logits[i + 3][j]);

    for (int part = 0; part < kValueChunks; ++part, turn ^= 1) {
      wait_for_copies();
      float* const other = chunks + (turn ^ 1) * CHUNK_FLOATS;
      if (part + 1 < kValueChunks) load_value_chunk(other, begin, part + 1);
      else if (begin + KEYS < keys) load_logit_chunk(other, begin + KEYS, 0);
      const float* const vs = chunks + turn * CHUNK_FLOATS + my_column;
#pragma unroll 8
      for (int j = 0; j < VALUE_KEYS; ++j) {
        float weight[PER], value[CHANNELS / 16];
#pragma unroll
        for (int i = 0; i < PER; i += 4) read4(weight + i, weights + weight_place(part * VALUE_KEYS + j, my_query + i));
#pragma unroll
        for (int n = 0; n < CHANNELS / 16; n += 4) read4(value + n, vs + j * CHANNELS + 16 * n);
#pragma unroll
        for (int i = 0; i < PER; ++i)
#pragma unroll
          for (int n = 0; n < CHANNELS / 16; ++n) sums[i][n] = __fmaf_rn(weight[i], value[n], sums[i][n]);
      }
    }
  }

#pragma unroll
  for (int i = 0; i < PER; ++i) {
    float sum = weight_sum[i];
#pragma unroll
    for (int other = 8; other > 0; other /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
    const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;  // a query without any key: zeros
    if (my_query + i >= queries) continue;
#pragma unroll
    for (int n = 0; n < CHANNELS / 16; ++n) {
      const int channel = n / 4 * 64 + my_column + n % 4;
      if (channel < channels) store1(result + (my_query + i) * step + channel, sums[i][n] * inverse);
    }
  }
}

#endif
