// conv by kernels/halo_conv.cu: bf16 on devices of compute capability 9.0, kernels of up to 3 x 3 x 3, no strides.

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
constexpr HaloTile kTiles[] = {
    {96, {2, 2}, {1, 1}},  {160, {2, 1}, {1, 2}}, {160, {1, 2}, {1, 2}}, {128, {2, 1}, {1, 2}},
    {128, {1, 2}, {1, 2}}, {8, {2, 2}, {1, 1}},   {16, {2, 2}, {1, 1}},
};

std::int64_t blocks_of(std::int64_t extent, std::int64_t block) { return (extent + block - 1) / block; }

// How many tiles of a row cover a picture, whatever their columns.
std::int64_t tiles_of(const HaloTile& tile, std::int64_t height, std::int64_t width) {
  return blocks_of(height, tile.height()) * blocks_of(width, tile.width());
}

// Whole blocks of columns, or all of a few.
bool fits(const HaloTile& tile, std::int64_t columns) {
  constexpr std::int64_t kFew = 16;
  return tile.columns <= kFew ? columns <= tile.columns : columns % tile.columns == 0;
}

const HaloTile* tile_for(std::int64_t columns, std::int64_t height, std::int64_t width) {
  const HaloTile* best = nullptr;
  for (const HaloTile& tile : kTiles)
    if (best ? tile.columns == best->columns && tiles_of(tile, height, width) < tiles_of(*best, height, width)
             : fits(tile, columns))
      best = &tile;
  return best;
}

// How a program goes about a node.
struct Form {
  std::array<std::int64_t, 3> kernel;  // of a phase
  int phases;                          // 4: of a picture made twice as high and wide
  HaloTile tile;
  std::int64_t tiles;
  std::int64_t x_stages, w_slots;  // in shared memory
  std::size_t shared_bytes;

  Device::Program program(Activation activation) const {
    return {halo_conv_source(kernel, tile, x_stages, w_slots, activation), "halo_conv", "conv"};
  }
};

// By tiles of a kind, or by those that suit it best.
std::optional<Form> form_for(const Node& node, const Device& device, const HaloTile* tile = nullptr) {
  if (node.opcode != Opcode::conv || node.types[0].dtype != DType::bf16 || !is_hopper(device)) return std::nullopt;
  const auto& attributes = node.as<ProductAttributes>();
  const Shape &weight = node.inputs[1].shape(), &result = node.types[0].shape;
  if (node.inputs[1].node().opcode != Opcode::parameter || attributes.stride != std::array{1, 1, 1}) return std::nullopt;
  Form form{{weight.dim(2), weight.dim(3), weight.dim(4)}, 1, {}, 0, 0, 0, 0};
  auto& [kernel_t, kernel_h, kernel_w] = form.kernel;
  if (kernel_t > 3 || kernel_h > 3 || kernel_w > 3 || kernel_h * kernel_w == 1) return std::nullopt;
  if (attributes.upsample == 2) {
    const auto pads_one = [](const std::array<int, 3>& pad) { return pad[1] == 1 && pad[2] == 1; };
    if (kernel_h != 3 || kernel_w != 3 || !pads_one(attributes.pad_begin) || !pads_one(attributes.pad_end)) return std::nullopt;
    form.phases = 4;
    kernel_h = kernel_w = 2;
  }
  if (weight.dim(1) % kDepth != 0) return std::nullopt;
  const std::int64_t scale = form.phases == 4 ? 2 : 1;
  if (!tile) tile = tile_for(weight.dim(0), result.dim(1) / scale, result.dim(2) / scale);
  if (!tile || !fits(*tile, weight.dim(0))) return std::nullopt;
  form.tile = *tile;
  form.tiles = form.phases * blocks_of(weight.dim(0), tile->columns) * result.dim(0) *
               tiles_of(*tile, result.dim(1) / scale, result.dim(2) / scale);

  constexpr std::int64_t kAlignment = 512, kBarriersBytes = 16, kMostSlots = 8;
  const std::int64_t x =
      kernel_t * blocks_of((tile->height() + kernel_h - 1) * (tile->width() + kernel_w - 1) * kDepth * 2, kAlignment) * kAlignment;
  const std::int64_t w = kernel_t * kDepth * tile->columns * 2;
  form.x_stages = kernel_t == 1 ? 4 : 2;
  const std::int64_t rest =
      static_cast<std::int64_t>(device.description.shared_bytes) - kAlignment - form.x_stages * (x + kBarriersBytes);
  form.w_slots = std::min(kMostSlots, rest / (w + kBarriersBytes));
  if (form.w_slots < 2) return std::nullopt;
  form.shared_bytes =
      static_cast<std::size_t>(kAlignment + form.x_stages * (x + kBarriersBytes) + form.w_slots * (w + kBarriersBytes));
  return form;
}

class HaloConvKernel : public Kernel {
 public:
  HaloConvKernel(const Node& node, DevicePtr device, const Form& form)
      : device_(std::move(device)),
        form_(form),
        attributes_(node.as<ProductAttributes>()),
        x_(node.inputs[0].shape()),
        earlier_(attributes_.has_history ? node.inputs.back().dim(0) : 0),
        result_(node.types[0].shape),
        weight_(node.inputs[1].shape()) {
    function_ = device_->function(form_.program(attributes_.activation), "halo_conv");
    allow_shared_bytes(*device_, function_, form_.shared_bytes);
    const std::string_view phases = form_.phases == 4 ? "4 of 2x2, " : "";
    layout_ = fmt::format("{}planes of {} taps in time, {}x8", phases, form_.kernel[0], form_.tile.columns);
    implementation_ = fmt::format("{}implicit product, wgmma, {}x{} pixels and {} a tile", phases, form_.tile.height(),
                                  form_.tile.width(), form_.tile.columns);
  }

  std::string_view implementation() const override { return implementation_; }
  std::string weight_layout(int input) const override { return input == 1 ? layout_ : "dense bf16"; }
  std::size_t packed_bytes(int input, const Type& type) const override {
    if (input != 1) return Kernel::packed_bytes(input, type);
    return static_cast<std::size_t>(form_.phases * blocks_of(weight_.dim(0), form_.tile.columns) * form_.tile.columns *
                                    weight_.dim(1) * form_.kernel[0] * form_.kernel[1] * form_.kernel[2]) *
           sizeof(std::uint16_t);
  }

  // [columns, channels, taps] becomes [phases, column blocks, stages, taps in space, depth / 8, taps in time, columns, 8].
  void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const override {
    if (input != 1) return Kernel::pack_weight(input, type, source, packed);
    if (weight_.dim(0) % form_.tile.columns != 0) std::memset(packed, 0, packed_bytes(input, type));
    const std::int64_t channels = weight_.dim(1), given_taps = weight_.count(2, 5), row = channels * given_taps;
    const std::int64_t plane_taps = form_.kernel[1] * form_.kernel[2], taps = form_.kernel[0] * plane_taps;
    const std::int64_t stages = channels / kDepth, blocks = blocks_of(weight_.dim(0), form_.tile.columns);
#pragma omp parallel for schedule(static) if (weight_.dim(0) * row > (1 << 16))
    for (std::int64_t column = 0; column < weight_.dim(0); ++column) {
      std::vector<float> given(static_cast<std::size_t>(row)), sums(static_cast<std::size_t>(channels * taps));
      source.read(column * row, row, DType::f32, given.data());
      for (std::int64_t phase = 0; phase < form_.phases; ++phase) {
        if (form_.phases == 4) sum_taps(given, static_cast<int>(phase), sums);
        else sums = given;
        for (std::int64_t channel = 0; channel < channels; ++channel)
          for (std::int64_t tap = 0; tap < taps; ++tap) {
            const std::int64_t in_stage = channel % kDepth;
            std::int64_t at = phase * blocks + column / form_.tile.columns;
            at = at * stages + channel / kDepth;
            at = at * plane_taps + tap % plane_taps;
            at = at * (kDepth / 8) + in_stage / 8;
            at = at * form_.kernel[0] + tap / plane_taps;
            at = at * form_.tile.columns + column % form_.tile.columns;
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
    const std::int64_t scale = form_.phases == 4 ? 2 : 1;
    launch.place(outputs[0]).integer(earlier_).integer(weight_.dim(1)).integer(weight_.dim(0));
    launch.integer(result_.dim(0)).integer(result_.dim(1) / scale).integer(result_.dim(2) / scale);
    for (const int pad : attributes_.pad_begin) launch.integer(pad);
    launch.integer(form_.phases);
    // Blocks stay, one a multiprocessor, and take one tile after another.
    launch.run({std::min<std::int64_t>(form_.tiles, device_->description.multiprocessors)}, {kThreads}, form_.shared_bytes);
  }

 private:
  // Boxes of all that a tile sees of a frame, 32 channels each.
  TensorMap map(const Slot& x, std::int64_t frames) const {
    const std::int64_t channels = x_.dim(3), row = x_.dim(2) * channels;
    return boxes_of(*device_, address_of(x), {channels, x_.dim(2), x_.dim(1), frames}, {channels, row, x_.dim(1) * row},
                    {kDepth, form_.tile.width() + form_.kernel[2] - 1, form_.tile.height() + form_.kernel[1] - 1, 1},
                    kTensorMapSwizzle64, "describing the input of a convolution");
  }

  const DevicePtr device_;
  const Form form_;
  const ProductAttributes attributes_;
  const Shape x_;
  const std::int64_t earlier_;  // frames of the history
  const Shape result_, weight_;
  Function function_;
  std::string layout_, implementation_;
};

// On an H200, cuDNN 9.19, convolutions of the VAE at 832x480: 1.0 to 1.6 times as fast where every multiprocessor has a tile
// (bench/compare_convs.py).
std::optional<Form> winning_form(const Node& node, const Device& device) {
  const auto form = form_for(node, device);
  return form && form->tiles >= device.description.multiprocessors ? form : std::nullopt;
}

}  // namespace

std::string halo_conv_source(const std::array<std::int64_t, 3>& kernel, const HaloTile& tile, std::int64_t x_stages,
                             std::int64_t w_slots, Activation activation) {
  return tiles_source(DType::bf16, true, activation) + kHopperSource +
         wgmma_source("multiply_pixels", tile.columns, Factor::shared, false) +
         fmt::format(
             "#define KERNEL_T {}\n#define KERNEL_H {}\n#define KERNEL_W {}\n#define COLUMNS {}\n#define PIECES_H {}\n"
             "#define PIECES_W {}\n#define GROUPS_H {}\n#define GROUPS_W {}\n#define X_STAGES {}\n#define W_SLOTS {}\n",
             kernel[0], kernel[1], kernel[2], tile.columns, tile.pieces[0], tile.pieces[1], tile.groups[0], tile.groups[1],
             x_stages, w_slots) +
         kHaloConvSource;
}

bool halo_conv_wins(const Node& node, const Device& device) { return winning_form(node, device).has_value(); }

std::vector<Device::Program> halo_conv_programs(std::span<const Node* const> nodes, const Device& device) {
  std::vector<Device::Program> programs;
  for (const Node* node : nodes)
    if (const auto form = winning_form(*node, device)) programs.push_back(form->program(node->as<ProductAttributes>().activation));
  return programs;
}

std::unique_ptr<Kernel> make_halo_conv(const Node& node, const DevicePtr& device) {
  const auto form = form_for(node, *device);
  return form ? std::make_unique<HaloConvKernel>(node, device, *form) : nullptr;
}

std::unique_ptr<Kernel> make_halo_conv(const Node& node, const DevicePtr& device, const HaloTile& tile) {
  const auto form = form_for(node, *device, &tile);
  return form ? std::make_unique<HaloConvKernel>(node, device, *form) : nullptr;
}

}  // namespace zoe::cuda
