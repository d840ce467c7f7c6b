// conv as an implicit GEMM, by kernels/implicit_gemm.cu: bf16 on devices of compute capability 9.0, kernels of up to 3 x 3 x 3, no
// strides.

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <vector>

#include "base/error.h"
#include "platform/cuda/hopper.h"
#include "platform/cuda/kernels.h"
#include "platform/cuda/sources.h"
#include "platform/upsampled_weight.h"

namespace zoe::cuda {
namespace {

constexpr std::int64_t kDepth = 32;  // channels of x in a stage
constexpr std::int64_t kThreads = 384;

// The tiles there are programs for. A convolution takes the first whose columns fit its own, and among ones of as many columns
// that which needs fewest. Two warpgroups share weights where sums are long and tiles could not hold as many pixels otherwise.
constexpr ImplicitGemmTile kTiles[] = {
    {96, {2, 2}, {1, 1}},  {160, {2, 1}, {1, 2}}, {160, {1, 2}, {1, 2}}, {128, {2, 1}, {1, 2}},
    {128, {1, 2}, {1, 2}}, {8, {2, 2}, {1, 1}},   {16, {2, 2}, {1, 1}},
};

// How many tiles of a row cover a picture, whatever their columns.
std::int64_t tiles_of(const ImplicitGemmTile& tile, std::int64_t height, std::int64_t width) {
  return blocks_of(height, tile.height()) * blocks_of(width, tile.width());
}

// Whole blocks of columns, or all of a few.
constexpr std::int64_t kFewColumns = 16;
bool fits(const ImplicitGemmTile& tile, std::int64_t columns) {
  return tile.columns <= kFewColumns ? columns <= tile.columns : columns % tile.columns == 0;
}

const ImplicitGemmTile* tile_for(std::int64_t columns, std::int64_t height, std::int64_t width) {
  const ImplicitGemmTile* best = nullptr;
  for (const ImplicitGemmTile& tile : kTiles)
    if (best ? tile.columns == best->columns && tiles_of(tile, height, width) < tiles_of(*best, height, width)
             : fits(tile, columns))
      best = &tile;
  return best;
}

// How a program goes about a node.
struct Tiling {
  std::array<std::int64_t, 3> kernel;  // of a phase
  int phases;                          // 4: of a picture made twice as high and wide
  ImplicitGemmTile tile;
  std::int64_t tiles;
  std::int64_t x_stages, w_slots;  // in shared memory
  std::size_t shared_bytes;

  Device::Program program(Activation activation) const {
    return {implicit_gemm_source(kernel, tile, x_stages, w_slots, activation), "implicit_gemm", "conv"};
  }
};

// None, and why.
struct Tiled {
  std::optional<Tiling> tiling;
  std::string why;
};
template <class... Args>
Tiled untiled(fmt::format_string<Args...> format, Args&&... args) {
  return {{}, fmt::format(format, std::forward<Args>(args)...)};
}

// By tiles of a kind, or by those that suit it best.
Tiled tiled(const Node& node, const Device& device, const ImplicitGemmTile* tile = nullptr) {
  if (!is_hopper(device)) return untiled("needs wgmma: compute capability 9.0");
  if (node.types[0].dtype != DType::bf16) return untiled("takes bf16");
  const auto& attributes = node.as<ProductAttributes>();
  const Shape &weight = node.inputs[1].shape(), &result = node.types[0].shape;
  if (node.inputs[1].node().opcode != Opcode::parameter) return untiled("takes a parameter for the weight");
  if (attributes.stride != std::array{1, 1, 1}) return untiled("takes strides of 1");
  Tiling tiling{{weight.dim(2), weight.dim(3), weight.dim(4)}, 1, {}, 0, 0, 0, 0};
  auto& [kernel_t, kernel_h, kernel_w] = tiling.kernel;
  if (kernel_t > 3 || kernel_h > 3 || kernel_w > 3 || kernel_h * kernel_w == 1)
    return untiled("takes kernels of up to 3x3x3 and more than a point: got {}x{}x{}", kernel_t, kernel_h, kernel_w);
  if (attributes.upsample == 2) {
    const auto pads_one = [](const std::array<int, 3>& pad) { return pad[1] == 1 && pad[2] == 1; };
    if (kernel_h != 3 || kernel_w != 3 || !pads_one(attributes.pad_begin) || !pads_one(attributes.pad_end))
      return untiled("upsamples in front of 3x3, padded by 1");
    tiling.phases = 4;
    kernel_h = kernel_w = 2;
  }
  if (weight.dim(1) % kDepth != 0) return untiled("takes a multiple of {} channels: got {}", kDepth, weight.dim(1));
  const std::int64_t scale = tiling.phases == 4 ? 2 : 1;
  if (!tile) tile = tile_for(weight.dim(0), result.dim(1) / scale, result.dim(2) / scale);
  if (!tile || !fits(*tile, weight.dim(0)))
    return untiled("makes at most {} channels, or a multiple of what a tile has: got {}", kFewColumns, weight.dim(0));
  tiling.tile = *tile;
  tiling.tiles = tiling.phases * blocks_of(weight.dim(0), tile->columns) * result.dim(0) *
                 tiles_of(*tile, result.dim(1) / scale, result.dim(2) / scale);

  constexpr std::int64_t kAlignment = 512, kBarriersBytes = 16, kMostSlots = 8;
  const std::int64_t x =
      kernel_t * blocks_of((tile->height() + kernel_h - 1) * (tile->width() + kernel_w - 1) * kDepth * 2, kAlignment) * kAlignment;
  const std::int64_t w = kernel_t * kDepth * tile->columns * 2;
  tiling.x_stages = kernel_t == 1 ? 4 : 2;
  const std::int64_t most = static_cast<std::int64_t>(device.description.shared_bytes),
                     rest = most - kAlignment - tiling.x_stages * (x + kBarriersBytes);
  tiling.w_slots = std::min(kMostSlots, rest / (w + kBarriersBytes));
  if (tiling.w_slots < 2) return untiled("a stage does not fit the device's {} bytes of shared memory", most);
  tiling.shared_bytes =
      static_cast<std::size_t>(kAlignment + tiling.x_stages * (x + kBarriersBytes) + tiling.w_slots * (w + kBarriersBytes));
  return {tiling, {}};
}

class ImplicitGemmKernel : public Kernel {
 public:
  ImplicitGemmKernel(const Node& node, DevicePtr device, const Tiling& tiling)
      : device_(std::move(device)),
        tiling_(tiling),
        attributes_(node.as<ProductAttributes>()),
        x_(node.inputs[0].shape()),
        earlier_(attributes_.has_history ? node.inputs.back().dim(0) : 0),
        result_(node.types[0].shape),
        weight_(node.inputs[1].shape()) {
    function_ = device_->function(tiling_.program(attributes_.activation), "implicit_gemm");
    allow_shared_bytes(*device_, function_, tiling_.shared_bytes);
    const std::string_view phases = tiling_.phases == 4 ? "4 of 2x2, " : "";
    layout_ = fmt::format("{}planes of {} taps in time, {}x8", phases, tiling_.kernel[0], tiling_.tile.columns);
    implementation_ = fmt::format("{}implicit product, wgmma, {}x{} pixels and {} a tile", phases, tiling_.tile.height(),
                                  tiling_.tile.width(), tiling_.tile.columns);
  }

  std::string_view implementation() const override { return implementation_; }
  std::string weight_layout(int input) const override { return input == 1 ? layout_ : "dense bf16"; }
  std::size_t packed_bytes(int input, const Type& type) const override {
    if (input != 1) return Kernel::packed_bytes(input, type);
    return static_cast<std::size_t>(tiling_.phases * blocks_of(weight_.dim(0), tiling_.tile.columns) * tiling_.tile.columns *
                                    weight_.dim(1) * tiling_.kernel[0] * tiling_.kernel[1] * tiling_.kernel[2]) *
           sizeof(std::uint16_t);
  }

  // [columns, channels, taps] becomes [phases, column blocks, stages, taps in space, depth / 8, taps in time, columns, 8].
  void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const override {
    if (input != 1) return Kernel::pack_weight(input, type, source, packed);
    if (weight_.dim(0) % tiling_.tile.columns != 0) std::memset(packed, 0, packed_bytes(input, type));
    const std::int64_t channels = weight_.dim(1), given_taps = weight_.count(2, 5), row = channels * given_taps;
    const std::int64_t plane_taps = tiling_.kernel[1] * tiling_.kernel[2], taps = tiling_.kernel[0] * plane_taps;
    const std::int64_t stages = channels / kDepth, blocks = blocks_of(weight_.dim(0), tiling_.tile.columns);
#pragma omp parallel for schedule(static) if (weight_.dim(0) * row > (1 << 16))
    for (std::int64_t column = 0; column < weight_.dim(0); ++column) {
      std::vector<float> given(static_cast<std::size_t>(row)), sums(static_cast<std::size_t>(channels * taps));
      source.read(column * row, row, DType::f32, given.data());
      for (std::int64_t phase = 0; phase < tiling_.phases; ++phase) {
        if (tiling_.phases == 4) sum_taps(given, static_cast<int>(phase), sums);
        else sums = given;
        for (std::int64_t channel = 0; channel < channels; ++channel)
          for (std::int64_t tap = 0; tap < taps; ++tap) {
            const std::int64_t in_stage = channel % kDepth;
            std::int64_t at = phase * blocks + column / tiling_.tile.columns;
            at = at * stages + channel / kDepth;
            at = at * plane_taps + tap % plane_taps;
            at = at * (kDepth / 8) + in_stage / 8;
            at = at * tiling_.kernel[0] + tap / plane_taps;
            at = at * tiling_.tile.columns + column % tiling_.tile.columns;
            at = at * 8 + in_stage % 8;
            const std::uint16_t value = f32_to_bf16(sums[static_cast<std::size_t>(channel * taps + tap)]);
            std::memcpy(packed + static_cast<std::size_t>(at) * sizeof value, &value, sizeof value);
          }
      }
    }
  }

  // A thread reads an element of the residual just before it writes the result there.
  bool can_overwrite(int input, int) const override { return attributes_.has_residual && input == (attributes_.has_bias ? 3 : 2); }

  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    const TensorMap x = map(inputs[0], x_.dim(0));
    Launch launch(function_, stream);
    launch.tensor(x).tensor(attributes_.has_history ? map(inputs.back(), earlier_) : x).place(inputs[1]);
    std::size_t next = 2;
    for (const bool present : {attributes_.has_bias, attributes_.has_residual}) {
      if (present) launch.place(inputs[next++]);
      else launch.nowhere();
    }
    const std::int64_t scale = tiling_.phases == 4 ? 2 : 1;
    launch.place(outputs[0]).integer(earlier_).integer(weight_.dim(1)).integer(weight_.dim(0));
    launch.integer(result_.dim(0)).integer(result_.dim(1) / scale).integer(result_.dim(2) / scale);
    for (const int pad : attributes_.pad_begin) launch.integer(pad);
    launch.integer(tiling_.phases);
    // Blocks stay, one a multiprocessor, and take one tile after another.
    launch.run({std::min<std::int64_t>(tiling_.tiles, device_->description.multiprocessors)}, {kThreads}, tiling_.shared_bytes);
  }

 private:
  // Boxes of all that a tile sees of a frame, 32 channels each.
  TensorMap map(const Slot& x, std::int64_t frames) const {
    const std::int64_t channels = x_.dim(3), row = x_.dim(2) * channels;
    return boxes_of(*device_, address_of(x), {channels, x_.dim(2), x_.dim(1), frames}, {channels, row, x_.dim(1) * row},
                    {kDepth, tiling_.tile.width() + tiling_.kernel[2] - 1, tiling_.tile.height() + tiling_.kernel[1] - 1, 1},
                    kTensorMapSwizzle64, "describing the input of a convolution");
  }

  const DevicePtr device_;
  const Tiling tiling_;
  const ProductAttributes attributes_;
  const Shape x_;
  const std::int64_t earlier_;  // frames of the history
  const Shape result_, weight_;
  Function function_;
  std::string layout_, implementation_;
};

}  // namespace

std::string implicit_gemm_source(const std::array<std::int64_t, 3>& kernel, const ImplicitGemmTile& tile, std::int64_t x_stages,
                                 std::int64_t w_slots, Activation activation) {
  return tiles_source(DType::bf16, true, activation) + kHopperSource +
         wgmma_source("multiply_pixels", tile.columns, Factor::shared, false) +
         fmt::format(
             "#define KERNEL_T {}\n#define KERNEL_H {}\n#define KERNEL_W {}\n#define COLUMNS {}\n#define PIECES_H {}\n"
             "#define PIECES_W {}\n#define GROUPS_H {}\n#define GROUPS_W {}\n#define X_STAGES {}\n#define W_SLOTS {}\n",
             kernel[0], kernel[1], kernel[2], tile.columns, tile.pieces[0], tile.pieces[1], tile.groups[0], tile.groups[1],
             x_stages, w_slots) +
         kImplicitGemmSource;
}

Support implicit_gemm_takes(const Node& node, const Device& device) {
  const Tiled made = tiled(node, device);
  return made.tiling ? Support::yes() : Support::no("{}", made.why);
}

// On an H200, cuDNN 9.19, convolutions of the VAE at 832x480: 1.0 to 1.6 times as fast where every multiprocessor has a tile
// (bench/compare_convs.py).
Support implicit_gemm_wins(const Node& node, const Device& device) {
  const Tiled made = tiled(node, device);
  const std::int64_t most = device.description.multiprocessors;
  if (!made.tiling) return Support::no("{}", made.why);
  return made.tiling->tiles >= most
             ? Support::yes()
             : Support::no("{} tiles: below {}, one a multiprocessor, others are faster", made.tiling->tiles, most);
}

Device::Program implicit_gemm_program(const Node& node, const Device& device) {
  return tiled(node, device).tiling.value().program(node.as<ProductAttributes>().activation);
}

std::unique_ptr<Kernel> make_implicit_gemm(const Node& node, const DevicePtr& device) {
  return std::make_unique<ImplicitGemmKernel>(node, device, tiled(node, *device).tiling.value());
}

std::unique_ptr<Kernel> make_implicit_gemm(const Node& node, const DevicePtr& device, const ImplicitGemmTile& tile) {
  const Tiled made = tiled(node, *device, &tile);
  return made.tiling ? std::make_unique<ImplicitGemmKernel>(node, device, *made.tiling) : nullptr;
}

}  // namespace zoe::cuda
