// What is left around a convolution that a library does. T is an element or, for whole_pixels, sixteen bytes of them.

// The first channels of every pixel, with zeros behind if the result has more.
extern "C" __global__ void copy_channels(const T* source, T* result, int source_channels, int result_channels, long count) {
  const long i = (long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int channel = (int)(i % result_channels);
  result[i] = channel < source_channels ? source[i / result_channels * source_channels + channel] : T{};
}

// phases [T,H+1,W+1,4,channels] to result [T,2H,2W,channels]. Phase 2r + c holds the pixels of row parity r and column parity c,
// that of position (y, x) at (y + r, x + c).
extern "C" __global__ void interleave_phases(const T* phases, T* result, int height, int width, int channels, long count) {
  const long i = (long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const int channel = (int)(i % channels);
  long pixel = i / channels;
  const int x = (int)(pixel % (2 * width));
  pixel /= 2 * width;
  const int y = (int)(pixel % (2 * height));
  const long frame = pixel / (2 * height);
  const int row = y / 2 + y % 2, column = x / 2 + x % 2, phase = y % 2 * 2 + x % 2;
  result[i] = phases[(((frame * (height + 1) + row) * (width + 1) + column) * 4 + phase) * channels + channel];
}

// result + bias + residual in place, either may be absent; f32 only.
extern "C" __global__ void add_epilogue(float* result, const float* bias, const float* residual, int channels, long count) {
  const long i = (long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float value = result[i];
  if (bias) value += bias[i % channels];
  if (residual) value += residual[i];
  result[i] = value;
}
