// A 3x3 convolution of stride 1 by Winograd's minimal filtering F(2x2,3x3) (Lavin and Gray, "Fast Algorithms for Convolutional
// Neural Networks", 2015): a tile of 2x2 results from 4x4 pixels takes 16 products for each pair of channels instead of 36.
//
//   Y = A' [ (G g G') * (B' d B) ] A,   B' = 1  0 -1  0    G =  1    0    0    A' = 1  1  1  0
//                                            0  1  1  0        1/2  1/2  1/2        0  1 -1 -1
//                                            0 -1  1  0        1/2 -1/2  1/2
//                                            0  1  0 -1         0    0    1
//
// Kernels of several frames are summed where the products are: one transform of a frame serves every result that sees it. A
// thread takes a block of tiles through three steps: transform their pixels (16 matrices of positions by channels), multiply
// each by its transformed weights, transform back with bias, activation and residual. The weights are transformed in f64 when
// they are packed.
//
// Every result is one sum in the order frame, channel, with fused multiply-adds: the same bits for any number of threads and any
// size of block, on AVX2 as on AVX-512. Error: the transforms' additions cancel, but the sums are nine times shorter. Against
// exact sums of random numbers the relative RMS is 2e-7 (16 channels) to 1e-6 (384), 0.6 to 1.7 times the direct convolution's.

// foreach_target.h includes this file again for each of them.
#define HWY_DISABLED_TARGETS HWY_SSSE3
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "platform/cpu/winograd_conv.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "platform/cpu/math-inl.h"

#ifndef ZOE_PLATFORM_CPU_WINOGRAD_CONV_ONCE
#define ZOE_PLATFORM_CPU_WINOGRAD_CONV_ONCE
#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/error.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/parallel.h"

namespace zoe::cpu {
namespace {

constexpr std::int64_t kPositions = 16;  // of a transformed tile

constexpr std::int64_t round_up(std::int64_t n, std::int64_t step) { return (n + step - 1) / step * step; }

struct Geometry {
  std::int64_t frames, height, width, channels;                  // of x
  std::int64_t out_frames, out_height, out_width, out_channels;  // out_frames = frames - kernel_frames + 1
  std::int64_t kernel_frames, pad_top, pad_left;
  std::int64_t lanes, panel_rows;  // the instruction set's: of a vector, and positions multiplied at a time
  Activation activation;
  std::int64_t block = 0;  // tiles a thread transforms at a time

  std::int64_t tile_columns() const { return (out_width + 1) / 2; }
  std::int64_t tiles() const { return (out_height + 1) / 2 * tile_columns(); }
  std::int64_t least_tiles() const { return (panel_rows + out_frames - 1) / out_frames; }  // of a block, the rest zeros
  std::int64_t padded_channels() const { return round_up(channels, lanes); }
  std::int64_t padded_out_channels() const { return round_up(out_channels, lanes); }
  std::int64_t depth() const { return kernel_frames * channels; }
  // Elements of work memory: a tile at the picture's edge, and a block's transformed pixels and products at one position. The
  // odd number of cache lines keeps the 16 positions of an element out of each other's way in the caches.
  std::int64_t edge_elements() const { return 16 * channels; }
  std::int64_t input_elements() const { return round_up(frames * block * padded_channels(), 32) + 48; }
  std::int64_t product_elements() const { return round_up(out_frames * block * padded_out_channels(), 32) + 48; }
  std::int64_t work_elements() const { return edge_elements() + kPositions * (input_elements() + product_elements()); }
};

struct Operands {
  const std::byte *x, *bias, *residual;  // bias and residual may be null
  const float* weight;  // [16][panels of two vectors, the last of one where that is enough][depth][width of the panel]
  std::byte* result;
};

// Tiles [first, first + count) of the picture, count <= block, in all frames.
using BlockLoop = void (*)(const Geometry& geometry, const Operands& operands, std::int64_t first, std::int64_t count, float* work);

struct Loops {
  std::int64_t target;  // Highway's name of the instruction set
  bool fused;           // it has a fused multiply-add
  std::int64_t lanes, panel_rows;
  BlockLoop f32, bf16;
};

}  // namespace
}  // namespace zoe::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace zoe::cpu::HWY_NAMESPACE {
namespace {

const hn::ScalableTag<float> kLanes;
using V = hn::Vec<decltype(kLanes)>;
constexpr std::int64_t kWidth = HWY_LANES(float);
constexpr std::int64_t kRows = kWidth == 16 ? 12 : 6;  // with two vectors each, their sums fill the registers

// The first `count` lanes; memory behind them is not touched.
template <class T>
HWY_INLINE V load_part(const T* src, std::int64_t count) {
  if (count >= kWidth) return load(kLanes, src);
  T part[kWidth] = {};
  std::copy_n(src, count, part);
  return load(kLanes, part);
}

template <class T>
HWY_INLINE void store_part(V v, T* dst, std::int64_t count) {
  if (count >= kWidth) return store(kLanes, v, dst);
  T part[kWidth];
  store(kLanes, v, part);
  std::copy_n(part, count, dst);
}

// B' d B of the 4x4 pixels d at `src`, for every channel; results go to dst + position * stride.
template <class T>
HWY_INLINE void transform_pixels(const T* HWY_RESTRICT src, std::int64_t row_step, std::int64_t channels, float* HWY_RESTRICT dst,
                                 std::int64_t stride) {
  for (std::int64_t c = 0; c < channels; c += kWidth) {
    const std::int64_t rest = channels - c;
    V columns[4][4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const T* from = src + j * channels + c;
      const V d0 = load_part(from, rest), d1 = load_part(from + row_step, rest), d2 = load_part(from + 2 * row_step, rest),
              d3 = load_part(from + 3 * row_step, rest);
      columns[0][j] = hn::Sub(d0, d2);
      columns[1][j] = hn::Add(d1, d2);
      columns[2][j] = hn::Sub(d2, d1);
      columns[3][j] = hn::Sub(d1, d3);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      float* to = dst + 4 * i * stride + c;
      hn::StoreU(hn::Sub(columns[i][0], columns[i][2]), kLanes, to);
      hn::StoreU(hn::Add(columns[i][1], columns[i][2]), kLanes, to + stride);
      hn::StoreU(hn::Sub(columns[i][2], columns[i][1]), kLanes, to + 2 * stride);
      hn::StoreU(hn::Sub(columns[i][1], columns[i][3]), kLanes, to + 3 * stride);
    }
  }
}

// A' m A of the 4x4 products of one tile and vector of channels.
HWY_INLINE void transform_products(const float* products, std::int64_t stride, V (&result)[2][2]) {
  V rows[2][4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const float* from = products + j * stride;
    const V m0 = hn::LoadU(kLanes, from), m1 = hn::LoadU(kLanes, from + 4 * stride), m2 = hn::LoadU(kLanes, from + 8 * stride),
            m3 = hn::LoadU(kLanes, from + 12 * stride);
    rows[0][j] = hn::Add(hn::Add(m0, m1), m2);
    rows[1][j] = hn::Sub(hn::Sub(m1, m2), m3);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    result[i][0] = hn::Add(hn::Add(rows[i][0], rows[i][1]), rows[i][2]);
    result[i][1] = hn::Sub(hn::Sub(rows[i][1], rows[i][2]), rows[i][3]);
  }
}

// sums[r][0..kVectors * kWidth) = sum over frames f and channels c, in this order, of
// a[f * frame_stride + r * row_stride + c] * panel[f * channels + c][0..kVectors * kWidth).
template <int kVectors>
HWY_INLINE void multiply(const float* HWY_RESTRICT a, std::int64_t row_stride, std::int64_t frames, std::int64_t frame_stride,
                         std::int64_t channels, const float* HWY_RESTRICT panel, float* HWY_RESTRICT sums,
                         std::int64_t sums_stride) {
  V sum[kRows][kVectors];
#pragma GCC unroll 12
  for (std::int64_t r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sum[r][v] = hn::Zero(kLanes);
  for (std::int64_t f = 0; f < frames; ++f, a += frame_stride)
    for (std::int64_t c = 0; c < channels; ++c, panel += kVectors * kWidth) {
      V b[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) b[v] = hn::LoadU(kLanes, panel + v * kWidth);
#pragma GCC unroll 12
      for (std::int64_t r = 0; r < kRows; ++r) {
        const V factor = hn::Set(kLanes, a[r * row_stride + c]);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sum[r][v] = hn::MulAdd(factor, b[v], sum[r][v]);
      }
    }
#pragma GCC unroll 12
  for (std::int64_t r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) hn::StoreU(sum[r][v], kLanes, sums + r * sums_stride + v * kWidth);
}

// Products of all `tiles * out_frames` rows at one position. Row t * tiles + n of frame f of the kernel is tile n of frame t + f.
void multiply_position(const Geometry& g, std::int64_t tiles, const float* pixels, const float* weight, float* products) {
  const std::int64_t rows = g.out_frames * tiles, row_stride = g.padded_channels(), out_stride = g.padded_out_channels();
  for (std::int64_t o = 0; o < out_stride;) {
    const bool pair = out_stride - o > kWidth;
    for (std::int64_t r = 0; r < rows; r += kRows) {
      const std::int64_t row = std::min(r, rows - kRows);  // the last rows may be multiplied twice
      const float* a = pixels + row * row_stride;
      float* sums = products + row * out_stride + o;
      if (pair) multiply<2>(a, row_stride, g.kernel_frames, tiles * row_stride, g.channels, weight, sums, out_stride);
      else multiply<1>(a, row_stride, g.kernel_frames, tiles * row_stride, g.channels, weight, sums, out_stride);
    }
    const std::int64_t width = pair ? 2 * kWidth : kWidth;
    weight += g.depth() * width;
    o += width;
  }
}

// Copies the 4x4 pixels at (top, left) to `edge`, with zeros for those outside.
template <class T>
void copy_edge(const Geometry& g, const T* frame, std::int64_t top, std::int64_t left, T* edge) {
  for (std::int64_t i = 0; i < 4; ++i)
    for (std::int64_t j = 0; j < 4; ++j, edge += g.channels) {
      const std::int64_t row = top + i, column = left + j;
      if (row < 0 || row >= g.height || column < 0 || column >= g.width) std::fill_n(edge, g.channels, T{});
      else std::copy_n(frame + (row * g.width + column) * g.channels, g.channels, edge);
    }
}

template <class T>
void transform_inputs(const Geometry& g, const T* x, std::int64_t first, std::int64_t count, std::int64_t tiles, T* edge,
                      float* transformed) {
  const std::int64_t stride = g.input_elements(), row = g.padded_channels();
  for (std::int64_t f = 0; f < g.frames; ++f, x += g.height * g.width * g.channels) {
    std::int64_t top = first / g.tile_columns() * 2 - g.pad_top, left = first % g.tile_columns() * 2 - g.pad_left;
    for (std::int64_t n = 0; n < tiles; ++n, transformed += row) {
      if (n >= count) {
        for (std::int64_t p = 0; p < kPositions; ++p) std::fill_n(transformed + p * stride, row, 0.0f);
        continue;
      }
      if (top >= 0 && left >= 0 && top + 4 <= g.height && left + 4 <= g.width) {
        transform_pixels(x + (top * g.width + left) * g.channels, g.width * g.channels, g.channels, transformed, stride);
      } else {
        copy_edge(g, x, top, left, edge);
        transform_pixels<T>(edge, 4 * g.channels, g.channels, transformed, stride);
      }
      left += 2;
      if (left + g.pad_left < g.out_width) continue;
      left = -g.pad_left;
      top += 2;
    }
  }
}

template <class T>
void transform_outputs(const Geometry& g, const Operands& operands, std::int64_t first, std::int64_t count, std::int64_t tiles,
                       const float* products) {
  const T *bias = reinterpret_cast<const T*>(operands.bias), *residual = reinterpret_cast<const T*>(operands.residual);
  T* result = reinterpret_cast<T*>(operands.result);
  const std::int64_t stride = g.product_elements(), row = g.padded_out_channels();
  for (std::int64_t t = 0; t < g.out_frames; ++t)
    for (std::int64_t n = 0; n < count; ++n) {
      const std::int64_t top = (first + n) / g.tile_columns() * 2, left = (first + n) % g.tile_columns() * 2;
      const std::int64_t height = std::min<std::int64_t>(2, g.out_height - top),
                         width = std::min<std::int64_t>(2, g.out_width - left);
      for (std::int64_t o = 0; o < g.out_channels; o += kWidth) {
        const std::int64_t rest = g.out_channels - o;
        V tile[2][2];
        transform_products(products + (t * tiles + n) * row + o, stride, tile);
        const V shift = bias ? load_part(bias + o, rest) : hn::Zero(kLanes);
        for (std::int64_t i = 0; i < height; ++i)
          for (std::int64_t j = 0; j < width; ++j) {
            const std::int64_t at = (((t * g.out_height + top + i) * g.out_width) + left + j) * g.out_channels + o;
            V v = hn::Add(tile[i][j], shift);
            if (g.activation == Activation::silu) v = zoe_silu(Floats<decltype(kLanes)>(v)).v;
            if (g.activation == Activation::gelu_tanh) v = zoe_gelu_tanh(Floats<decltype(kLanes)>(v)).v;
            if (residual) v = hn::Add(v, load_part(residual + at, rest));
            store_part(v, result + at, rest);
          }
      }
    }
}

template <class T>
void block(const Geometry& g, const Operands& operands, std::int64_t first, std::int64_t count, float* work) {
  const std::int64_t tiles = std::max(count, g.least_tiles());
  T* edge = reinterpret_cast<T*>(work);
  float* transformed = work + g.edge_elements();                    // [16][frames][tiles][I]
  float* products = transformed + kPositions * g.input_elements();  // [16][out_frames][tiles][O]
  transform_inputs(g, reinterpret_cast<const T*>(operands.x), first, count, tiles, edge, transformed);
  for (std::int64_t p = 0; p < kPositions; ++p)
    multiply_position(g, tiles, transformed + p * g.input_elements(), operands.weight + p * g.depth() * g.padded_out_channels(),
                      products + p * g.product_elements());
  transform_outputs<T>(g, operands, first, count, tiles, products);
}

Loops loops() { return {HWY_TARGET, HWY_NATIVE_FMA == 1, kWidth, kRows, block<float>, block<std::uint16_t>}; }

}  // namespace
}  // namespace zoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace zoe::cpu {
namespace {

HWY_EXPORT(loops);

class WinogradConvKernel : public Kernel {
 public:
  WinogradConvKernel(const Node& node, const DeviceInfo& device)
      : loops_(HWY_DYNAMIC_DISPATCH(loops)()), threads_(device.threads), dtype_(node.types[0].dtype) {
    const auto& attributes = node.as<ProductAttributes>();
    const Shape &x = node.inputs[0].shape(), &weight = node.inputs[1].shape(), &result = node.types[0].shape;
    has_bias_ = attributes.has_bias;
    has_residual_ = attributes.has_residual;
    geometry_ = {x.dim(0),
                 x.dim(1),
                 x.dim(2),
                 x.dim(3),
                 result.dim(0),
                 result.dim(1),
                 result.dim(2),
                 result.dim(3),
                 weight.dim(2),
                 attributes.pad_begin[1],
                 attributes.pad_begin[2],
                 loops_.lanes,
                 loops_.panel_rows,
                 attributes.activation};
    geometry_.block = tiles_of_a_block();
    implementation_ = fmt::format("winograd F(2x2,3x3), {}", hwy::TargetName(loops_.target));
  }

  std::string_view implementation() const override { return implementation_; }
  std::size_t scratch_bytes() const override {
    return static_cast<std::size_t>(threads_ * geometry_.work_elements()) * sizeof(float);
  }
  bool can_overwrite(int input, int) const override { return has_residual_ && input == (has_bias_ ? 3 : 2); }

  std::string weight_layout(int input) const override {
    if (input != 1) return Kernel::weight_layout(input);
    return fmt::format("f32{} winograd F(2x2,3x3), panels of {}", dtype_ == DType::bf16 ? " rounded to bf16" : "",
                       2 * loops_.lanes);
  }
  std::size_t packed_bytes(int input, const Type& type) const override {
    if (input != 1) return Kernel::packed_bytes(input, type);
    return static_cast<std::size_t>(kPositions * geometry_.depth() * geometry_.padded_out_channels()) * sizeof(float);
  }

  void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const override {
    if (input != 1) return Kernel::pack_weight(input, type, source, packed);
    const std::int64_t groups = geometry_.padded_out_channels() / geometry_.lanes;
    parallel_ranges(groups, 1, type.shape.count(), threads_, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t group = begin; group < end; ++group) pack_group(group, source, reinterpret_cast<float*>(packed));
    });
  }

  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    const Geometry& g = geometry_;
    Operands operands{inputs[0].data(), nullptr, nullptr, reinterpret_cast<const float*>(inputs[1].data()), outputs[0].data()};
    if (has_bias_) operands.bias = inputs[2].data();
    if (has_residual_) operands.residual = inputs[has_bias_ ? 3 : 2].data();
    const BlockLoop loop = dtype_ == DType::f32 ? loops_.f32 : loops_.bf16;
    auto* work = reinterpret_cast<float*>(scratch.data());
    const std::int64_t tiles = g.tiles(), blocks = (tiles + g.block - 1) / g.block;
    parallel_ranges(blocks, 1, g.depth() * tiles * g.out_channels, threads_, [&](std::int64_t begin, std::int64_t end, int thread) {
      for (std::int64_t i = begin; i < end; ++i)
        loop(g, operands, i * g.block, std::min(g.block, tiles - i * g.block), work + thread * g.work_elements());
    });
  }

 private:
  // About 96 rows to every product, so that its weights are read seldom enough, but something to do for every thread.
  std::int64_t tiles_of_a_block() const {
    const Geometry& g = geometry_;
    const std::int64_t share = (g.tiles() + threads_ - 1) / threads_;
    return std::max(g.least_tiles(), std::min(96 / g.out_frames, share));
  }

  // One vector of results: the transformed weights of all channels, a piece at a time.
  void pack_group(std::int64_t group, const WeightReader& source, float* packed) const {
    constexpr std::int64_t kPiece = 32;  // channels
    const Geometry& g = geometry_;
    const std::int64_t lanes = g.lanes, taps = g.kernel_frames * 9;
    // Where the group lies: in a panel of two vectors, or of one behind the last pair.
    const std::int64_t pair = group / 2, padded = g.padded_out_channels();
    const std::int64_t width = std::min(2 * lanes, padded - pair * 2 * lanes);
    float* const to = packed + pair * 2 * lanes * g.depth() + group % 2 * lanes;
    std::vector<float> wide(static_cast<std::size_t>(kPiece * taps));
    std::vector<std::uint16_t> narrow(wide.size());
    std::vector<float> transformed(
        static_cast<std::size_t>(kPositions * g.kernel_frames * kPiece * lanes));  // [16][kt][kPiece][lanes]
    for (std::int64_t c0 = 0; c0 < g.channels; c0 += kPiece) {
      const std::int64_t count = std::min(kPiece, g.channels - c0);
      const std::int64_t n = count * taps;
      std::fill(transformed.begin(), transformed.end(), 0.0f);
      for (std::int64_t lane = 0; lane < std::min(lanes, g.out_channels - group * lanes); ++lane) {
        const std::int64_t from = ((group * lanes + lane) * g.channels + c0) * taps;
        if (dtype_ == DType::bf16) {
          source.read(from, n, DType::bf16, narrow.data());
          convert(narrow.data(), DType::bf16, wide.data(), DType::f32, static_cast<std::size_t>(n));
        } else {
          source.read(from, n, DType::f32, wide.data());
        }
        for (std::int64_t c = 0; c < count; ++c)
          for (std::int64_t f = 0; f < g.kernel_frames; ++f)
            transform_taps(wide.data() + c * taps + f * 9, transformed.data() + (f * kPiece + c) * lanes + lane,
                           g.kernel_frames * kPiece * lanes);
      }
      for (std::int64_t p = 0; p < kPositions; ++p)
        for (std::int64_t f = 0; f < g.kernel_frames; ++f)
          for (std::int64_t c = 0; c < count; ++c)
            std::copy_n(transformed.data() + ((p * g.kernel_frames + f) * kPiece + c) * lanes, lanes,
                        to + p * g.depth() * padded + (f * g.channels + c0 + c) * width);
    }
  }

  // G g G' of the 3x3 taps g.
  static void transform_taps(const float* taps, float* dst, std::int64_t stride) {
    const auto expand = [](double a, double b, double c) { return std::array{a, (a + b + c) / 2, (a - b + c) / 2, c}; };
    std::array<std::array<double, 4>, 3> columns;
    for (std::size_t j = 0; j < 3; ++j) columns[j] = expand(taps[j], taps[3 + j], taps[6 + j]);
    for (std::size_t i = 0; i < 4; ++i) {
      const std::array<double, 4> row = expand(columns[0][i], columns[1][i], columns[2][i]);
      for (std::size_t j = 0; j < 4; ++j) dst[static_cast<std::int64_t>(4 * i + j) * stride] = static_cast<float>(row[j]);
    }
  }

  Loops loops_;
  int threads_;
  DType dtype_;
  bool has_bias_ = false, has_residual_ = false;
  Geometry geometry_{};
  std::string implementation_;
};

}  // namespace

namespace {

bool can_take(const Node& node) {
  const auto& attributes = node.as<ProductAttributes>();
  const Shape& kernel = node.inputs[1].shape();
  return kernel.dim(3) == 3 && kernel.dim(4) == 3 && attributes.upsample == 1 && attributes.stride == std::array{1, 1, 1} &&
         attributes.pad_begin[0] == 0 && attributes.pad_end[0] == 0 && node.inputs[1].node().opcode == Opcode::parameter;
}

}  // namespace

// Times faster than oneDNN's direct convolution on one Zen 5 core, 3x3x3 in f32, x -> channels of the result (bench_products
// --only winograd; the frames of x where they matter):
//
//                                        AVX-512      AVX2                                             AVX-512      AVX2
//   96 at 256x256 -> 96                  2.0 to 2.1   2.1 to 2.2     16 at 128x128 -> 16               1.2 to 1.4   1.9 to 2.2
//   192 at 128x128 -> 192                2.0 to 2.1   2.1 to 2.3     32 at 64x64 -> 32                 1.6 to 1.8   1.9 to 2.0
//   384 at 64x64, 32x32 -> 384           1.9 to 2.0   2.0 to 2.5     64 at 32x32, 16x16 -> 64          1.5 to 1.8   1.8 to 2.0
//   96 at 256x256 -> 3, 3 frames, 6      0.95, 1.4    2.4, 3.1       64 or 384 at 8x8                  1.2 to 1.4   1.6
//   192 at 128x128 -> 96, 1x3x3          1.7          2.0            32 at 64x64 -> 16, 1x3x3          1.2          2.1
//   3 at 256x256 -> 96                   0.65         0.95           8 at 64x64 -> 16                  0.6          2.1
//   384 at 4x4 -> 384                    0.6          1.2            64 at 4x4 -> 64, 3 frames, 6      0.6, 1.1     1.3, 1.7
//
// In bf16: where the core multiplies bf16, 0.6 to 1.07; where operands are widened to f32, as in f32.
// Frames play no part, so that the plans of a video's first and later frames share packed weights.
Support winograd_wins(const Node& node, const DeviceInfo& device) {
  constexpr std::int64_t kLeastSide = 8;
  if (!can_take(node)) return Support::no("takes a 3x3 parameter, stride 1, no padding in time");
  if (node.types[0].dtype == DType::bf16 && device.bf16_products) return Support::no("the cores multiply bf16, which is faster");
  const Loops loops = HWY_DYNAMIC_DISPATCH(loops)();
  const Shape &x = node.inputs[0].shape(), &result = node.types[0].shape;
  if (!loops.fused) return Support::no("the cores have no fused multiply-add");
  if (x.dim(3) < loops.lanes) return Support::no("{} channels are less than a vector of {}", x.dim(3), loops.lanes);
  if (result.dim(1) >= kLeastSide && result.dim(2) >= kLeastSide) return Support::yes();
  return Support::no("a result of {}x{}: below {}x{} oneDNN is faster", result.dim(1), result.dim(2), kLeastSide, kLeastSide);
}

std::unique_ptr<Kernel> make_winograd_conv(const Node& node, const DeviceInfo& device) {
  check(can_take(node), ErrorKind::unsupported, "cpu",
        "no Winograd convolution by {} with these strides or pads: expected a 3x3 parameter, stride 1, no padding in time.",
        node.inputs[1].type().str());
  return std::make_unique<WinogradConvKernel>(node, device);
}

}  // namespace zoe::cpu
#endif
