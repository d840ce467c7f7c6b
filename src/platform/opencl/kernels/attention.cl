// attention: softmax(scale * q k^T + bias) v, a tile of keys after another with a running maximum and sum of each query, so that
// no Lq x Lk matrix is ever in memory. Everything is computed in f32; results are rounded once.
//
// ROWS defined: for CPUs: a work-item makes ROWS queries of one head, keys come in panels of PANEL = 2 VEC that `pack_keys` has laid
// out as [batch, heads, panels][channels][PANEL]. Else, for GPUs: a work-group of 64 makes 16 queries from tiles in local memory.
// MAX_CHANNELS: the widest head the program is for, a multiple of 64.
//
// q [batch, queries, heads, channels], k and v [batch, keys, heads, channels], bias f32 [batch | 1, heads | 1, queries | 1, keys] by
// its strides, 0 where it is 1.

#define ATTENTION_ARGUMENTS                                                                                                     \
  __global const T *q, ulong q_at, __global const T *k, ulong k_at, __global const T *v, ulong v_at, __global const float *bias, \
      ulong bias_at, __global T *result, ulong result_at, int queries, int keys, int heads, int channels, float scale,          \
      long bias_batch, long bias_head, long bias_query

#ifdef ROWS

__kernel void pack_keys(__global const T* k, ulong k_at, __global T* packed, ulong packed_at, int keys, int heads, int channels) {
  const int panel = get_global_id(0), channel = get_global_id(1), which = get_global_id(2), panels = get_global_size(0);
  const int batch = which / heads, head = which % heads;
  packed += packed_at + (((long)which * panels + panel) * channels + channel) * PANEL;
  k += k_at + ((long)batch * keys * heads + head) * channels + channel;
  for (int i = 0; i < PANEL; ++i) {
    const int key = panel * PANEL + i;
    packed[i] = key < keys ? k[(long)key * heads * channels] : (T)0;
  }
}

static float largest(V x) {
  float lanes[VEC];
  JOIN(vstore, VEC)(x, 0, lanes);
  for (int width = VEC / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] = fmax(lanes[i], lanes[i + width]);
  return lanes[0];
}

static float total(V x) {
  float lanes[VEC];
  JOIN(vstore, VEC)(x, 0, lanes);
  for (int width = VEC / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

// Up to VEC elements; zeros for those that are missing.
static V load_up_to(int count, __global const T* p) {
  if (count >= VEC) return load_vector(p);
  float lanes[VEC];
  for (int i = 0; i < VEC; ++i) lanes[i] = i < count ? load(p + i) : 0.0f;
  return JOIN(vload, VEC)(0, lanes);
}

static V load_bias(int count, __global const float* p) {
  if (count >= VEC) return JOIN(vload, VEC)(0, p);
  float lanes[VEC];
  for (int i = 0; i < VEC; ++i) lanes[i] = i < count ? p[i] : -INFINITY;  // keys past the end weigh nothing
  return JOIN(vload, VEC)(0, lanes);
}

__kernel void attention(ATTENTION_ARGUMENTS) {
  const int head = get_global_id(1), batch = get_global_id(2), first = get_global_id(0) * ROWS;
  if (first >= queries) return;
  const int panels = (keys + PANEL - 1) / PANEL;
  const long step = (long)heads * channels;  // from one token to the next
  q += q_at + ((long)batch * queries * heads + head) * channels;
  k += k_at + ((long)batch * heads + head) * panels * channels * PANEL;  // packed
  v += v_at + ((long)batch * keys * heads + head) * channels;
  result += result_at + ((long)batch * queries * heads + head) * channels;
  bias += bias ? bias_at + batch * bias_batch + head * bias_head : 0;

  float sums[ROWS * MAX_CHANNELS];  // of weight times value
  float weights[ROWS * PANEL], maximum[ROWS];
  V weight_sum[ROWS];  // a partial sum in each lane
  __global const T* from[ROWS];
  for (int i = 0; i < ROWS; ++i) {
    from[i] = q + min(first + i, queries - 1) * step;  // past the end: made and not stored
    maximum[i] = -INFINITY;
    weight_sum[i] = (V)(0.0f);
  }
  for (int i = 0; i < ROWS * MAX_CHANNELS; ++i) sums[i] = 0.0f;

  for (int panel = 0; panel < panels; ++panel) {
    const int begin = panel * PANEL, count = min(PANEL, keys - begin);
    V low[ROWS], high[ROWS];
    for (int i = 0; i < ROWS; ++i) low[i] = high[i] = (V)(0.0f);
    __global const T* key = k + (long)panel * channels * PANEL;
    for (int c = 0; c < channels; ++c, key += PANEL) {
      const V k0 = load_vector(key), k1 = load_vector(key + VEC);
#pragma unroll
      for (int i = 0; i < ROWS; ++i) {
        const V value = (V)(load(from[i] + c));
        low[i] = MULTIPLY_ADD(value, k0, low[i]);
        high[i] = MULTIPLY_ADD(value, k1, high[i]);
      }
    }
    float correction[VEC];  // of what was summed so far, where a greater logit is found; one for each of ROWS <= VEC queries
    for (int i = 0; i < VEC; ++i) correction[i] = 0.0f;
    for (int i = 0; i < ROWS; ++i) {
      V a = low[i] * scale, b = high[i] * scale;
      if (bias) {
        __global const float* row = bias + min(first + i, queries - 1) * bias_query + begin;
        a += load_bias(count, row);
        b += load_bias(count - VEC, row + VEC);
      } else if (count < PANEL) {
        float lanes[PANEL];
        JOIN(vstore, VEC)(a, 0, lanes);
        JOIN(vstore, VEC)(b, 1, lanes);
        for (int j = count; j < PANEL; ++j) lanes[j] = -INFINITY;
        a = JOIN(vload, VEC)(0, lanes);
        b = JOIN(vload, VEC)(1, lanes);
      }
      const float next = fmax(maximum[i], largest(fmax(a, b)));
      const float shift = next == -INFINITY ? 0.0f : next;  // no key so far: every weight is e^-inf = 0
      low[i] = a - shift;
      high[i] = b - shift;
      correction[i] = maximum[i] - shift;
      maximum[i] = next;
    }
    JOIN(vstore, VEC)(zoe_exp_of_negative(JOIN(vload, VEC)(0, correction)), 0, correction);
    for (int i = 0; i < ROWS; ++i) {
      const V a = zoe_exp_of_negative(low[i]), b = zoe_exp_of_negative(high[i]);
      weight_sum[i] = weight_sum[i] * correction[i] + (a + b);
      JOIN(vstore, VEC)(a, 2 * i, weights);
      JOIN(vstore, VEC)(b, 2 * i + 1, weights);
    }
    for (int c = 0; c < channels; c += 2 * VEC) {
      for (int i = 0; i < ROWS; ++i) {
        low[i] = JOIN(vload, VEC)(0, sums + i * MAX_CHANNELS + c) * correction[i];
        high[i] = JOIN(vload, VEC)(1, sums + i * MAX_CHANNELS + c) * correction[i];
      }
      __global const T* value = v + begin * step + c;
      const bool whole = c + 2 * VEC <= channels;
      for (int j = 0; j < count; ++j, value += step) {
        const V v0 = whole ? load_vector(value) : load_up_to(channels - c, value);
        const V v1 = whole ? load_vector(value + VEC) : load_up_to(channels - c - VEC, value + VEC);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
          const V weight = (V)(weights[i * PANEL + j]);
          low[i] = MULTIPLY_ADD(weight, v0, low[i]);
          high[i] = MULTIPLY_ADD(weight, v1, high[i]);
        }
      }
      for (int i = 0; i < ROWS; ++i) {
        JOIN(vstore, VEC)(low[i], 0, sums + i * MAX_CHANNELS + c);
        JOIN(vstore, VEC)(high[i], 1, sums + i * MAX_CHANNELS + c);
      }
    }
  }
  for (int i = 0; i < ROWS && first + i < queries; ++i) {
    const float sum = total(weight_sum[i]), inverse = sum > 0.0f ? 1.0f / sum : 0.0f;  // a query without any key: zeros
    for (int c = 0; c < channels; ++c) store(sums[i * MAX_CHANNELS + c] * inverse, result + (first + i) * step + c);
  }
}

#else

#define QUERIES 16  // of a work-group
#define KEYS 32     // in a tile
#define CHANNELS 64  // of q, k or v in a tile; as many as there are work-items

// Item i makes channels i % 16 * 4 .. + 3 of each 64 for queries i / 16 * 4 .. + 3.
__kernel __attribute__((reqd_work_group_size(64, 1, 1))) void attention(ATTENTION_ARGUMENTS) {
  __local float q_tile[QUERIES * (CHANNELS + 1)], tile[KEYS * (CHANNELS + 1)], weights[QUERIES * (KEYS + 1)];
  __local float maximum[QUERIES], weight_sum[QUERIES], correction[QUERIES];
  const int item = get_local_id(0), head = get_global_id(1), batch = get_global_id(2), first = get_group_id(0) * QUERIES;
  const long step = (long)heads * channels;  // from one token to the next
  q += q_at + ((long)batch * queries * heads + head) * channels;
  k += k_at + ((long)batch * keys * heads + head) * channels;
  v += v_at + ((long)batch * keys * heads + head) * channels;
  result += result_at + ((long)batch * queries * heads + head) * channels;
  bias += bias ? bias_at + batch * bias_batch + head * bias_head : 0;

  const int my_query = item / 16 * 4, my_channel = item % 16 * 4;
  float4 sums[MAX_CHANNELS / CHANNELS][4];  // of weight times value, for 4 queries
  for (int chunk = 0; chunk < MAX_CHANNELS / CHANNELS; ++chunk)
    for (int i = 0; i < 4; ++i) sums[chunk][i] = (float4)(0.0f);
  if (item < QUERIES) {
    maximum[item] = -INFINITY;
    weight_sum[item] = 0.0f;
  }
  barrier(CLK_LOCAL_MEM_FENCE);

  for (int begin = 0; begin < keys; begin += KEYS) {
    // Logits: item i makes queries i / 16 * 4 .. + 3 by keys i % 16 * 2 and + 1.
    float logits[4][2];
    for (int i = 0; i < 4; ++i) logits[i][0] = logits[i][1] = 0.0f;
    for (int c = 0; c < channels; c += CHANNELS) {
      const bool inside = c + item < channels;
      for (int i = 0; i < QUERIES; ++i)
        q_tile[i * (CHANNELS + 1) + item] = inside && first + i < queries ? load(q + (first + i) * step + c + item) : 0.0f;
      for (int i = 0; i < KEYS; ++i)
        tile[i * (CHANNELS + 1) + item] = inside && begin + i < keys ? load(k + (begin + i) * step + c + item) : 0.0f;
      barrier(CLK_LOCAL_MEM_FENCE);
      for (int d = 0; d < CHANNELS; ++d) {
        const float k0 = tile[item % 16 * 2 * (CHANNELS + 1) + d], k1 = tile[(item % 16 * 2 + 1) * (CHANNELS + 1) + d];
        for (int i = 0; i < 4; ++i) {
          const float value = q_tile[(my_query + i) * (CHANNELS + 1) + d];
          logits[i][0] = MULTIPLY_ADD(value, k0, logits[i][0]);
          logits[i][1] = MULTIPLY_ADD(value, k1, logits[i][1]);
        }
      }
      barrier(CLK_LOCAL_MEM_FENCE);
    }
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 2; ++j) {
        const int query = first + my_query + i, key = begin + item % 16 * 2 + j;
        float logit = logits[i][j] * scale;
        if (bias && key < keys && query < queries) logit += bias[query * bias_query + key];
        weights[(my_query + i) * (KEYS + 1) + item % 16 * 2 + j] = key < keys ? logit : -INFINITY;
      }
    barrier(CLK_LOCAL_MEM_FENCE);
    if (item < QUERIES) {
      __local float* row = weights + item * (KEYS + 1);
      float next = maximum[item];
      for (int j = 0; j < KEYS; ++j) next = fmax(next, row[j]);
      const float shift = next == -INFINITY ? 0.0f : next;  // no key so far: every weight is e^-inf = 0
      correction[item] = zoe_exp_of_negative(maximum[item] - shift);
      float added = 0.0f;
      for (int j = 0; j < KEYS; ++j) {
        row[j] = zoe_exp_of_negative(row[j] - shift);
        added += row[j];
      }
      weight_sum[item] = weight_sum[item] * correction[item] + added;
      maximum[item] = next;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll  // so that the sums are registers
    for (int chunk = 0; chunk < MAX_CHANNELS / CHANNELS; ++chunk) {
      const int c = chunk * CHANNELS + item;
      for (int i = 0; i < KEYS; ++i)
        tile[i * (CHANNELS + 1) + item] = c < channels && begin + i < keys ? load(v + (begin + i) * step + c) : 0.0f;
      barrier(CLK_LOCAL_MEM_FENCE);
      for (int i = 0; i < 4; ++i) sums[chunk][i] *= correction[my_query + i];
      for (int j = 0; j < KEYS; ++j) {
        const float4 value = vload4(0, tile + j * (CHANNELS + 1) + my_channel);
        for (int i = 0; i < 4; ++i)
          sums[chunk][i] = MULTIPLY_ADD((float4)(weights[(my_query + i) * (KEYS + 1) + j]), value, sums[chunk][i]);
      }
      barrier(CLK_LOCAL_MEM_FENCE);
    }
  }
  for (int i = 0; i < 4; ++i) {
    const int query = first + my_query + i;
    if (query >= queries) break;
    const float sum = weight_sum[my_query + i], inverse = sum > 0.0f ? 1.0f / sum : 0.0f;  // a query without any key: zeros
    for (int chunk = 0; chunk < MAX_CHANNELS / CHANNELS; ++chunk) {
      float lanes[4];
      vstore4(sums[chunk][i] * inverse, 0, lanes);
      for (int j = 0; j < 4; ++j)
        if (chunk * CHANNELS + my_channel + j < channels)
          store(lanes[j], result + query * step + chunk * CHANNELS + my_channel + j);
    }
  }
}

#endif
