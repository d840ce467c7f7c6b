// What is left around a convolution that a library does. T is a bf16 element or, for interleave_phases, sixteen bytes of them.

__device__ float widen(unsigned short value) { return __uint_as_float((unsigned)value << 16); }

__device__ unsigned short narrow(float value) {
  const unsigned bits = __float_as_uint(value);
  if (value != value) return 0x7fc0;
  return (unsigned short)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// The first channels of every pixel, with zeros behind if the result has more.
extern "C" __global__ void copy_channels(const T* source, T* result, int source_channels, int result_channels, long count) {
  const long i = (long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int channel = (int)(i % result_channels);
  result[i] = channel < source_channels ? source[i / result_channels * source_channels + channel] : T{};
}

// The rest takes a row of the result's pixels a block in x, in pieces of blockDim.x elements in y.

// phases [T,H+1,W+1,4,channels] to result [T,2H,2W,channels]. Phase 2r + c holds the pixels of row parity r and column parity c,
// that of position (y, x) at (y + r, x + c).
extern "C" __global__ void interleave_phases(const T* phases, T* result, int height, int width, int channels) {
  const int i = blockIdx.y * blockDim.x + threadIdx.x, length = 2 * width * channels;
  if (i >= length) return;
  const int channel = i % channels, x = i / channels, y = blockIdx.x % (2 * height), frame = blockIdx.x / (2 * height);
  const int row = y / 2 + y % 2, column = x / 2 + x % 2, phase = y % 2 * 2 + x % 2;
  result[(long)blockIdx.x * length + i] =
      phases[(((long)frame * (height + 1) + row) * (width + 1) + column) * 4 * channels + phase * channels + channel];
}

// What a kernel of taps_h x taps_w sees at every position of the result, as channels of it: source [T,H,W,channels] to
// [T,H',W',wide], where channel (r * taps_w + c) * channels + i is channel i of tap (r, c), and zeros fill up to wide.
extern "C" __global__ void spread_taps(const T* source, T* result, int height, int width, int channels, int result_height,
                                       int result_width, int wide, int taps_h, int taps_w, int stride_h, int stride_w, int pad_h,
                                       int pad_w) {
  const int i = blockIdx.y * blockDim.x + threadIdx.x, length = result_width * wide;
  if (i >= length) return;
  const int place = i % wide, channel = place % channels, tap = place / channels;
  const int x = i / wide * stride_w + tap % taps_w - pad_w;
  const int y = (int)(blockIdx.x % result_height) * stride_h + tap / taps_w - pad_h;
  const long frame = blockIdx.x / result_height;
  const bool there = tap < taps_h * taps_w && y >= 0 && y < height && x >= 0 && x < width;
  result[(long)blockIdx.x * length + i] = there ? source[((frame * height + y) * width + x) * channels + channel] : T{};
}

// The other way round: products [T,H,W,wide] in f32, whose channel (r * taps_w + c) * channels + o is what the pixel adds to
// output o by tap (r, c), are gathered and rounded once: [T,H',W',channels].
extern "C" __global__ void gather_taps(const float* products, const unsigned short* bias, unsigned short* result, int height,
                                       int width, int wide, int result_height, int result_width, int channels, int taps_h,
                                       int taps_w, int pad_h, int pad_w) {
  const int i = blockIdx.y * blockDim.x + threadIdx.x, length = result_width * channels;
  if (i >= length) return;
  const int channel = i % channels, x = i / channels - pad_w;
  const int y = (int)(blockIdx.x % result_height) - pad_h;
  const float* frame = products + (long)(blockIdx.x / result_height) * height * width * wide + channel;
  float total = 0;
  for (int r = 0; r < taps_h; ++r)
    for (int c = 0; c < taps_w; ++c)
      if (y + r >= 0 && y + r < height && x + c >= 0 && x + c < width)
        total += frame[((long)(y + r) * width + x + c) * wide + (r * taps_w + c) * channels];
  result[(long)blockIdx.x * length + i] = narrow(bias ? total + widen(bias[channel]) : total);
}
