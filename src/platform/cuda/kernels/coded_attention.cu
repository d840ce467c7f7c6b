// attention from 8-bit codes on Hopper's tensor cores (compute capability 9.0): softmax(scale * q k^T) v for each head.
//
// Codes are made in front of it, in scratch memory, each head's rows behind each other, filled up to whole tiles of KEYS tokens:
// q by token; k less its mean over the tokens, which no softmax sees, by tile; v by channel, about the middle of its range, which comes
// back behind the sums as weights add up to one; v lies transposed, channels as rows, as the second factor of 8-bit products must.
//
// Weights are 255 times exponentials of scores less the highest of their query and tile, rounded to u8: they are sums' operands as they
// are. A tile's sums are exact (s32); they go to f32 by the tile's power of two, and so do the sums of the rounded weights, so that
// what rounding takes from a weight is missing in both.
//
// A block makes 192 queries of a head: one warpgroup's first thread has tiles of k and v copied to shared memory, three more have 64
// queries each and do one thing after another: scores, weights, sums. They keep each other's tensor cores and other units busy; a
// warpgroup that starts products ahead of the weights it makes needs registers for both, so that two fit instead of three, which on
// an H200 was 10% slower.
//
// The text goes behind tiles.cu, hopper.cu, multiply_keys(scores, q, k, accumulates) and multiply_values(sums, weights, v, accumulates) of
// 64 x KEYS x 32 and 64 x 64 x 32 in s32, and definitions of
//   CHANNELS  64 or 128
//   STAGES    of k and v in shared memory
#define KEYS 128
#define GROUPS 3
#define THREADS ((GROUPS + 1) * 128)
#define QUERIES (GROUPS * 64)
#define K_BYTES (KEYS * CHANNELS)
#define V_BYTES (CHANNELS * KEYS)
#define Q_BYTES (QUERIES * CHANNELS)
#if CHANNELS == 128
#define SWIZZLED SWIZZLED_128
#else
#define SWIZZLED SWIZZLED_64
#endif
#define LOG2_255 7.99435344f
#define LEAST_SCALE 1e-30f
#define CHUNK 512             // tokens whose statistics a block makes
#define LANES (CHANNELS / 8)  // threads that read a token's head, 16 bytes each
#define CODERS 256            // threads of a block that makes codes
#define AT_ONCE (CODERS / LANES)

ZOE_FN float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Where a tensor's heads lie: head 0 of token 0 of batch 0, and elements from one token to the next.
struct Rows {
  const T* first;
  long step;
  __device__ const T* of(int batch, int tokens, int token, int head) const { return first + ((long)batch * tokens + token) * step + head * CHANNELS; }
};

// Of a head's k: sums; of its v: lowest and highest, NaN if any is. Partial ones of CHUNK tokens each: [head][chunk][3][CHANNELS].
extern "C" __global__ __launch_bounds__(CODERS) void attention_statistics(const T* k_first, const T* v_first, float* partials, int keys,
                                                                        int heads, long k_step, long v_step) {
  __shared__ float shared[AT_ONCE][CHANNELS];
  const int lane = threadIdx.x % LANES, slot = threadIdx.x / LANES, head = blockIdx.y % heads, batch = blockIdx.y / heads;
  const Rows k{k_first, k_step}, v{v_first, v_step};
  float sum[8], low[8], high[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) sum[i] = 0.0f, low[i] = ZOE_INFINITY, high[i] = -ZOE_INFINITY;
  const int end = min((int)(blockIdx.x + 1) * CHUNK, keys);
#pragma unroll 4
  for (int token = blockIdx.x * CHUNK + slot; token < end; token += AT_ONCE) {
    float number[8];
    load<true>(number, k.of(batch, keys, token, head) + lane * 8);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] += number[i];
    load<true>(number, v.of(batch, keys, token, head) + lane * 8);
#pragma unroll
    for (int i = 0; i < 8; ++i) low[i] = at_most(low[i], number[i]), high[i] = at_least(high[i], number[i]);
  }
  float* const to = partials + ((long)blockIdx.y * gridDim.x + blockIdx.x) * 3 * CHANNELS;
#pragma unroll
  for (int kind = 0; kind < 3; ++kind) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; ++i) shared[slot][lane * 8 + i] = kind == 0 ? sum[i] : kind == 1 ? low[i] : high[i];
    __syncthreads();
    if (threadIdx.x < CHANNELS) {
      float all = shared[0][threadIdx.x];
      for (int i = 1; i < AT_ONCE; ++i) {
        const float more = shared[i][threadIdx.x];
        all = kind == 0 ? all + more : kind == 1 ? at_most(all, more) : at_least(all, more);
      }
      to[kind * CHANNELS + threadIdx.x] = all;
    }
  }
}

// Of each head [3][CHANNELS]: the mean of k, the middle of v and the scale of its codes.
extern "C" __global__ __launch_bounds__(CHANNELS) void attention_scales(const float* partials, float* scales, int chunks, int keys) {
  const float* from = partials + (long)blockIdx.x * chunks * 3 * CHANNELS + threadIdx.x;
  float sum = 0.0f, low = ZOE_INFINITY, high = -ZOE_INFINITY;
  for (int chunk = 0; chunk < chunks; ++chunk, from += 3 * CHANNELS)
    sum += from[0], low = at_most(low, from[CHANNELS]), high = at_least(high, from[2 * CHANNELS]);
  float* const to = scales + blockIdx.x * 3 * CHANNELS + threadIdx.x;
  to[0] = sum / (float)keys;
  to[CHANNELS] = low * 0.5f + high * 0.5f;
  to[2 * CHANNELS] = at_least((high * 0.5f - low * 0.5f) * (1.0f / 127.0f), LEAST_SCALE);
}

// The largest of numbers without sign, as bits, so that a NaN is larger than all.
ZOE_FN unsigned without_sign(float x) { return (unsigned)__float_as_int(x) & 0x7fffffffu; }
ZOE_FN float scale_of(unsigned largest) {
  return largest >= 0x7f800000u ? ZOE_NAN : fmaxf(__int_as_float((int)largest) * (1.0f / 127.0f), LEAST_SCALE);
}
ZOE_FN void code(unsigned (&words)[2], const float (&x)[8], float inverse) {
#pragma unroll
  for (int i = 0; i < 2; ++i) words[i] = narrow4(x[4 * i] * inverse, x[4 * i + 1] * inverse, x[4 * i + 2] * inverse, x[4 * i + 3] * inverse);
}

// Blocks (tile, head, q | k | v). A head's queries are filled up to `q_rows`, its keys to `k_tiles` tiles.
extern "C" __global__ __launch_bounds__(CODERS) void attention_codes(const T* q_first, const T* k_first, const T* v_first, const float* scales,
                                                                   unsigned char* q_codes, unsigned char* k_codes, unsigned char* v_codes,
                                                                   float* q_scales, float* k_scales, int queries, int keys, int heads,
                                                                   int q_rows, int k_tiles, long q_step, long k_step, long v_step) {
  __shared__ __align__(16) unsigned char turned[V_BYTES];
  const int lane = threadIdx.x % LANES, slot = threadIdx.x / LANES, head = blockIdx.y % heads, batch = blockIdx.y / heads, tile = blockIdx.x;
  scales += blockIdx.y * 3 * CHANNELS;
  if (blockIdx.z == 0) {
    if (tile * KEYS >= q_rows) return;
    const Rows q{q_first, q_step};
#pragma unroll
    for (int i = 0; i < KEYS / AT_ONCE; ++i) {
      const int token = tile * KEYS + i * AT_ONCE + slot;
      float x[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
      if (token < queries) load<true>(x, q.of(batch, queries, token, head) + lane * 8);
      unsigned largest = 0, words[2];
#pragma unroll
      for (int e = 0; e < 8; ++e) largest = max(largest, without_sign(x[e]));
#pragma unroll
      for (int distance = LANES / 2; distance > 0; distance /= 2) largest = max(largest, __shfl_xor_sync(~0u, largest, distance));
      const float scale = scale_of(largest);
      code(words, x, 1.0f / scale);
      const long row = (long)blockIdx.y * q_rows + token;
      if (token >= q_rows) continue;
      write(q_codes + row * CHANNELS + lane * 8, words);
      if (lane == 0) q_scales[row] = scale;
    }
  } else if (blockIdx.z == 1) {
    if (tile >= k_tiles) return;
    const Rows k{k_first, k_step};
    __shared__ unsigned largest_of[CODERS / 32];
    float mean[8], x[8];
    load(mean, scales + lane * 8);
    unsigned kept[KEYS / AT_ONCE][4], largest = 0;
#pragma unroll
    for (int i = 0; i < KEYS / AT_ONCE; ++i) {
      const int token = tile * KEYS + i * AT_ONCE + slot;
      if (token < keys) read<true>(kept[i], k.of(batch, keys, token, head) + lane * 8);
    }
#pragma unroll
    for (int i = 0; i < KEYS / AT_ONCE; ++i)
      if (tile * KEYS + i * AT_ONCE + slot < keys)
#pragma unroll
        for (int e = 0; e < 8; ++e)
          largest = max(largest, without_sign((e % 2 ? high_float(kept[i][e / 2]) : low_float(kept[i][e / 2])) - mean[e]));
    largest = __reduce_max_sync(~0u, largest);
    if (threadIdx.x % 32 == 0) largest_of[threadIdx.x / 32] = largest;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < CODERS / 32; ++i) largest = max(largest, largest_of[i]);
    const float scale = scale_of(largest), inverse = 1.0f / scale;
#pragma unroll
    for (int i = 0; i < KEYS / AT_ONCE; ++i) {
      const int token = tile * KEYS + i * AT_ONCE + slot;
      unsigned words[2];
#pragma unroll
      for (int e = 0; e < 8; ++e)
        x[e] = token < keys ? (e % 2 ? high_float(kept[i][e / 2]) : low_float(kept[i][e / 2])) - mean[e] : 0.0f;
      code(words, x, inverse);
      write(k_codes + (((long)blockIdx.y * k_tiles) * KEYS + token) * CHANNELS + lane * 8, words);
    }
    if (threadIdx.x == 0) k_scales[(long)blockIdx.y * k_tiles + tile] = scale;
  } else {
    if (tile >= k_tiles) return;
    const Rows v{v_first, v_step};
    float middle[8], inverse[8];
    load(middle, scales + CHANNELS + lane * 8);
    load(inverse, scales + 2 * CHANNELS + lane * 8);
#pragma unroll
    for (int e = 0; e < 8; ++e) inverse[e] = 1.0f / inverse[e];
    // A word has four keys as a thread of the product has them: of every sixteen 2 j, 2 j + 1, 2 j + 8 and 2 j + 9.
#pragma unroll
    for (int word = slot; word < KEYS / 4; word += AT_ONCE) {
      float x[4][8];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int token = tile * KEYS + word / 4 * 16 + word % 4 * 2 + i % 2 + i / 2 * 8;
        if (token < keys) load<true>(x[i], v.of(batch, keys, token, head) + lane * 8);
#pragma unroll
        for (int e = 0; e < 8; ++e) x[i][e] = token < keys ? (x[i][e] - middle[e]) * inverse[e] : 0.0f;
      }
#pragma unroll
      for (int e = 0; e < 8; ++e)
        *(unsigned*)(turned + (lane * 8 + e) * KEYS + (word / 4 ^ lane % 8) * 16 + word % 4 * 4) = narrow4(x[0][e], x[1][e], x[2][e], x[3][e]);
    }
    __syncthreads();
#pragma unroll
    for (int i = threadIdx.x; i < V_BYTES / 16; i += CODERS) {
      const int channel = i / 8, chunk = i % 8;
      *(uint4*)(v_codes + (((long)blockIdx.y * k_tiles + tile) * CHANNELS + channel) * KEYS + chunk * 16) =
          *(const uint4*)(turned + channel * KEYS + (chunk ^ channel / 8 % 8) * 16);
    }
  }
}

// The larger of three.
ZOE_FN int highest_of(int a, int b, int c) { return __vimax3_s32(a, b, c); }

// `factor`: powers of two for the product of codes by their scales. `q_tiles` are of QUERIES.
extern "C" __global__ __launch_bounds__(THREADS, 1) void coded_attention(
    const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v, const float* q_scales,
    const float* k_scales, const float* scales, T* result, int queries, int keys, int heads, int q_tiles, int k_tiles, float factor) {
  extern __shared__ unsigned char memory[];
  const unsigned q_at = ((unsigned)__cvta_generic_to_shared(memory) + 1023) & ~1023u,  // where swizzled rows begin
      k_at = q_at + Q_BYTES, v_at = k_at + STAGES * K_BYTES, q_full = v_at + STAGES * V_BYTES, k_full = q_full + 8,
                 k_free = k_full + 8 * STAGES, v_full = k_free + 8 * STAGES, v_free = v_full + 8 * STAGES;
  const int tile_of_queries = blockIdx.x % q_tiles, item = blockIdx.x / q_tiles, head = item % heads, batch = item / heads;
  const int group = __shfl_sync(~0u, (int)threadIdx.x / 128, 0) - 1;  // the compiler is told that it is a warp's
  if (threadIdx.x == 0) {
    initialise(q_full, 1);
    for (int i = 0; i < STAGES; ++i) {
      initialise(k_full + 8 * i, 1), initialise(k_free + 8 * i, GROUPS * 4);
      initialise(v_full + 8 * i, 1), initialise(v_free + 8 * i, GROUPS * 4);
    }
    publish_barriers();
  }
  __syncthreads();

  Turn<STAGES> turn;
  if (group < 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
    if (threadIdx.x == 0) {
      arrive_expecting(q_full, Q_BYTES);
      load_box(q_at, q, 0, (item * q_tiles + tile_of_queries) * QUERIES, 0, 0, q_full);
#pragma unroll 1
      for (int tile = 0; tile < k_tiles; ++tile, turn.next()) {
        wait(k_free + 8 * turn.place, turn.parity ^ 1);
        arrive_expecting(k_full + 8 * turn.place, K_BYTES);
        load_box(k_at + turn.place * K_BYTES, k, 0, (item * k_tiles + tile) * KEYS, 0, 0, k_full + 8 * turn.place);
        wait(v_free + 8 * turn.place, turn.parity ^ 1);
        arrive_expecting(v_full + 8 * turn.place, V_BYTES);
        load_box(v_at + turn.place * V_BYTES, v, 0, (item * k_tiles + tile) * CHANNELS, 0, 0, v_full + 8 * turn.place);
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 160;");
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    // A thread has columns lane % 4 * 2 and + 1 of every 8 of two rows: element i is in row i / 2 % 2 and column i / 4 * 8 + i % 2.
    float sums[CHANNELS / 64][32], reference[2], total[2] = {0.0f, 0.0f}, q_factor[2];
#pragma unroll
    for (int half = 0; half < CHANNELS / 64; ++half)
#pragma unroll
      for (int i = 0; i < 32; ++i) sums[half][i] = 0.0f;
    k_scales += item * k_tiles;
#pragma unroll
    for (int row = 0; row < 2; ++row)
      q_factor[row] = q_scales[((long)item * q_tiles + tile_of_queries) * QUERIES + group * 64 + warp * 16 + row * 8 + lane / 4] * factor;
    const auto release = [&](unsigned barrier) {
      if (lane == 0) arrive(barrier);
    };
    wait(q_full, 0);
    const unsigned long long q_matrix = at(descriptor(0, 8 * CHANNELS) | SWIZZLED, q_at + group * 64 * CHANNELS);
#pragma unroll 1
    for (int tile = 0; tile < k_tiles; ++tile, turn.next()) {
      const float k_scale = __ldg(k_scales + tile);
      unsigned weights[KEYS / 32][4];
      float now[2];
      {
        int scores[KEYS / 2];
        wait(k_full + 8 * turn.place, turn.parity);
        const unsigned long long k_matrix = at(descriptor(0, 8 * CHANNELS) | SWIZZLED, k_at + turn.place * K_BYTES);
        begin_products();
#pragma unroll
        for (int c = 0; c < CHANNELS; c += 32) multiply_keys(scores, q_matrix + c / 16, k_matrix + c / 16, c != 0);
        end_products();
        wait_for_products<0>();
        release(k_free + 8 * turn.place);
        const bool is_partial = tile == k_tiles - 1 && keys % KEYS != 0;
        if (is_partial) {
#pragma unroll
          for (int i = 0; i < KEYS / 2; ++i)
            if (tile * KEYS + i / 4 * 8 + lane % 4 * 2 + i % 2 >= keys) scores[i] = -(1 << 24);
        }
        int highest[2];
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          int most[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) most[i] = max(scores[4 * i + 2 * row], scores[4 * i + 2 * row + 1]);
#pragma unroll
          for (int i = 4; i < KEYS / 8; ++i) most[i % 4] = highest_of(most[i % 4], scores[4 * i + 2 * row], scores[4 * i + 2 * row + 1]);
          highest[row] = max(highest_of(most[0], most[1], most[2]), most[3]);
        }
#pragma unroll
        for (int distance = 1; distance <= 2; distance *= 2)
#pragma unroll
          for (int row = 0; row < 2; ++row) highest[row] = max(highest[row], __shfl_xor_sync(~0u, highest[row], distance));
        float by[2], less[2], top[2];
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          by[row] = q_factor[row] * k_scale, top[row] = (float)highest[row] * by[row], less[row] = LOG2_255 - top[row];
          if (tile == 0) reference[row] = top[row];
        }
        if (__any_sync(~0u, top[0] > reference[0] + 64.0f || top[1] > reference[1] + 64.0f)) {  // seldom
#pragma unroll
          for (int row = 0; row < 2; ++row) {
            const float raised = fmaxf(reference[row], top[row]), by_less = power_of_two(reference[row] - raised);
            reference[row] = raised;
            total[row] *= by_less;
#pragma unroll
            for (int half = 0; half < CHANNELS / 64; ++half)
#pragma unroll
              for (int i = 0; i < 16; ++i) sums[half][i / 2 * 4 + 2 * row + i % 2] *= by_less;
          }
        }
        unsigned sum[2] = {0, 0};
#pragma unroll
        for (int i = 0; i < KEYS / 8; i += 2)
#pragma unroll
          for (int row = 0; row < 2; ++row) {
            float w[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) w[j] = power_of_two(fmaf((float)scores[4 * (i + j / 2) + 2 * row + j % 2], by[row], less[row]));
            unsigned& word = weights[i / 4][i / 2 % 2 * 2 + row];
            word = rounded_u8(w[0], w[1], w[2], w[3]);
            sum[row] = __dp4a(word, 0x01010101u, sum[row]);
          }
        // Scores below all others make no weights, but where factors are so small that all scores are one.
        if (is_partial) {
          sum[0] = sum[1] = 0;
#pragma unroll
          for (int i = 0; i < KEYS / 8; ++i) {
            unsigned mask = 0;
#pragma unroll
            for (int byte_of = 0; byte_of < 4; ++byte_of)
              if (tile * KEYS + i / 2 * 16 + byte_of / 2 * 8 + lane % 4 * 2 + byte_of % 2 < keys) mask |= 0xffu << 8 * byte_of;
            unsigned& word = weights[i / 4][i / 2 % 2 * 2 + i % 2];
            word &= mask;
            sum[i % 2] = __dp4a(word, 0x01010101u, sum[i % 2]);
          }
        }
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          now[row] = power_of_two(top[row] - reference[row]);
          total[row] = fmaf((float)sum[row], now[row], total[row]);
        }
      }
      wait(v_full + 8 * turn.place, turn.parity);
      int part[CHANNELS / 64][32];
      const unsigned long long v_matrix = at(descriptor(0, 8 * KEYS) | SWIZZLED_128, v_at + turn.place * V_BYTES);
      begin_products();
#pragma unroll
      for (int half = 0; half < CHANNELS / 64; ++half) {
#pragma unroll
        for (int c = 0; c < KEYS / 32; ++c) multiply_values(part[half], weights[c], v_matrix + (half * 64 * KEYS + c * 32) / 16, c != 0);
        end_products();
      }
#pragma unroll
      for (int half = 0; half < CHANNELS / 64; ++half) {
        if (half < CHANNELS / 64 - 1) {
          wait_for_products<1>();
        } else {
          wait_for_products<0>();
          release(v_free + 8 * turn.place);
        }
#pragma unroll
        for (int i = 0; i < 32; ++i) sums[half][i] = fmaf((float)part[half][i], now[i / 2 % 2], sums[half][i]);
      }
    }

    const float *const middle = scales + (long)item * 3 * CHANNELS + CHANNELS, *const v_scales = middle + CHANNELS;
    const long step = (long)heads * CHANNELS;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      total[row] += __shfl_xor_sync(~0u, total[row], 1);
      total[row] += __shfl_xor_sync(~0u, total[row], 2);
      const float inverse = 1.0f / total[row];
      const int query = tile_of_queries * QUERIES + group * 64 + warp * 16 + 8 * row + lane / 4;
      T* const to = result + ((long)batch * queries + query) * step + head * CHANNELS;
      // Two neighbours of every 8 channels, and behind the exchange all 8 of every fourth.
#pragma unroll
      for (int i = 0; i < CHANNELS / 32; ++i) {
        unsigned pairs[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int channel = 32 * i + 8 * j + lane % 4 * 2;
          const float2 scale = __ldg((const float2*)(v_scales + channel)), centre = __ldg((const float2*)(middle + channel));
          pairs[j] = bf16_pair(fmaf(sums[i / 2][(4 * i + j) % 8 * 4 + 2 * row] * inverse, scale.x, centre.x),
                               fmaf(sums[i / 2][(4 * i + j) % 8 * 4 + 2 * row + 1] * inverse, scale.y, centre.y));
        }
        exchange_pairs(pairs);
        if (query < queries) *(uint4*)(to + 32 * i + lane % 4 * 8) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
      }
    }
  }
}
