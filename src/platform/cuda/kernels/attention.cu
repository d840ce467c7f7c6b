// attention: softmax(scale * q k^T + bias) v, a tile of keys after another with a running maximum and sum of each query, so that
// no Lq x Lk matrix is ever in memory. Everything is computed in f32; results are rounded once.
//
// q [batch, queries, heads, channels], k and v [batch, keys, heads, channels], bias f32 [batch | 1, heads | 1, queries | 1, keys] by
// its strides, 0 where it is 1.
//
// The text goes behind the prelude of generated kernels and these definitions:
//   BF16       what an element T is: 0 f32, 1 bf16
//   CHANNELS   the widest head the program is for, a multiple of CHUNK = 64
//   QUERIES    of a block: 32, 64 or 128
#define HAS_ASYNC_COPY (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800)
#define MINUS_INFINITY __int_as_float(0xff800000)

#if BF16
typedef bf16 T;
#else
typedef float T;
#endif

#define ATTENTION_ARGUMENTS                                                                                                   \
  const T *q, const T *k, const T *v, const float *bias, T *result, int queries, int keys, int heads, int channels, float scale, \
      long bias_batch, long bias_head, long bias_query

#define KEYS 64               // in a tile
#define CHUNK 64              // channels of k or v that are in shared memory at a time
#define PER (QUERIES / 16)    // queries a thread
#define KEY_STRIDE (KEYS + 4)  // keeps four neighbours aligned, and channels in different banks
#define CHUNK_STRIDE (CHUNK + 4)
#define CHUNK_FLOATS (CHUNK * KEY_STRIDE > KEYS * CHUNK_STRIDE ? CHUNK * KEY_STRIDE : KEYS * CHUNK_STRIDE)
#define QUERY_STRIDE (QUERIES + 4)

// One element to shared memory, zero if it is not there.
ZOE_FN void copy_element(float* to, const T* from, bool there) {
#if HAS_ASYNC_COPY && !BF16
  const int bytes = there ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(bytes));
#else
  *to = there ? load1(from) : 0.0f;
#endif
}

ZOE_FN void wait_for_copies() {
#if HAS_ASYNC_COPY && !BF16
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
  __syncthreads();
}

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
