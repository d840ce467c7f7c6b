// conv by kernels/halo_conv.cu: bf16 on devices of compute capability 9.0, kernels of up to 3 x 3 in space, no strides.

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "platform/cuda/hopper.h"
#include "platform/cuda/kernels.h"
#include "platform/cuda/sources.h"
#include "platform/upsampled_weight.h"

namespace zoe::cuda {
namespace {

constexpr std::int64_t kSide = 16;  // pixels of a tile
constexpr std::int64_t kThreads = 384;

// How a program goes about it.
struct Form {
  std::int64_t depth, columns;     // channels in a stage, columns of a block
  std::int64_t x_stages, w_slots;  // in shared memory
  std::size_t shared_bytes;
};

std::int64_t blocks_of(std::int64_t extent, std::int64_t block) { return (extent + block - 1) / block; }

// `tiles`: of 16 x 16 pixels.
std::optional<Form> form_for(std::int64_t channels, std::int64_t columns, std::int64_t kernel_h, std::int64_t kernel_w,
                             std::int64_t tiles, const DeviceDescription& device) {
  std::optional<Form> best;
  for (const std::int64_t depth : {96, 64, 32})
    for (const std::int64_t block : {192, 96, 8}) {
      if (channels % depth != 0 || (block == 8 ? columns > 8 : columns % block != 0)) continue;
      const std::int64_t positions = (kSide + kernel_h - 1) * (kSide + kernel_w - 1);
      const std::int64_t plane = (positions + (9 - positions % 8) % 8) * 16, x = depth / 8 * plane, w = depth * block * 2;
      constexpr std::int64_t kStages = 2, kLeastSlots = 3, kMostSlots = 8, kBarrierBytes = 8;
      const std::int64_t room = static_cast<std::int64_t>(device.shared_bytes) - kStages * (x + 2 * kBarrierBytes);
      const std::int64_t slots = std::min(kMostSlots, room / (w + 2 * kBarrierBytes));
      if (slots < kLeastSlots) continue;
      const Form form{depth, block, kStages, slots,
                      static_cast<std::size_t>(kStages * (x + 2 * kBarrierBytes) + slots * (w + 2 * kBarrierBytes))};
      // Wide blocks read the least, if they are enough for all multiprocessors; then few and long stages wait the least.
      const auto busy = [&](const Form& f) { return tiles * blocks_of(columns, f.columns) >= device.multiprocessors; };
      const auto rank = [&](const Form& f) { return std::tuple(busy(f), busy(f) ? f.columns : -f.columns, f.depth); };
      if (!best || rank(form) > rank(*best)) best = form;
    }
  return best;
}

class HaloConvKernel : public Kernel {
 public:
  HaloConvKernel(const Node& node, DevicePtr device, const Form& form, std::array<std::int64_t, 3> kernel, int phases)
      : device_(std::move(device)),
        form_(form),
        attributes_(node.as<ProductAttributes>()),
        x_(node.inputs[0].shape()),
        result_(node.types[0].shape),
        weight_(node.inputs[1].shape()),
        kernel_(kernel),
        phases_(phases) {
    const std::string source = tiles_source(DType::bf16, true, attributes_.activation) + kHopperSource +
                               wgmma_source("multiply_pixels", form_.columns, Factor::shared, false) +
                               fmt::format(
                                   "#define KERNEL_H {}\n#define KERNEL_W {}\n#define DEPTH {}\n#define COLUMNS {}\n"
                                   "#define X_STAGES {}\n#define W_SLOTS {}\n",
                                   kernel_[1], kernel_[2], form_.depth, form_.columns, form_.x_stages, form_.w_slots) +
                               kHaloConvSource;
    function_ = device_->function(source, "halo_conv", "conv");
    allow_shared_bytes(*device_, function_, form_.shared_bytes);
    layout_ = fmt::format("{}planes of {}x{}x8", phases_ == 4 ? "2x2 sums, " : "", form_.depth / 8, form_.columns);
    implementation_ =
        fmt::format("{}implicit product, wgmma, 16x16 pixels and {} a block", phases_ == 4 ? "4 of 2x2, " : "", form_.columns);
  }

  std::string_view implementation() const override { return implementation_; }
  std::string weight_layout(int input) const override { return input == 1 ? layout_ : "dense bf16"; }
  std::size_t packed_bytes(int input, const Type& type) const override {
    if (input != 1) return Kernel::packed_bytes(input, type);
    return static_cast<std::size_t>(phases_ * blocks_of(weight_.dim(0), form_.columns) * form_.columns * weight_.dim(1) *
                                    kernel_[0] * kernel_[1] * kernel_[2]) *
           sizeof(std::uint16_t);
  }

  // [columns, channels, taps] becomes [phases, column blocks, taps in time, stages, taps in space, depth / 8, columns, 8].
  void pack_weight(int input, const Type& type, const HostTensor& source, std::byte* packed) const override {
    if (input != 1) return Kernel::pack_weight(input, type, source, packed);
    if (weight_.dim(0) % form_.columns != 0) std::memset(packed, 0, packed_bytes(input, type));
    const std::int64_t channels = weight_.dim(1), given_taps = weight_.count(2, 5), row = channels * given_taps;
    const std::int64_t plane_taps = kernel_[1] * kernel_[2], taps = kernel_[0] * plane_taps;
    const std::int64_t stages = channels / form_.depth, blocks = blocks_of(weight_.dim(0), form_.columns);
#pragma omp parallel for schedule(static) if (weight_.dim(0) * row > (1 << 16))
    for (std::int64_t column = 0; column < weight_.dim(0); ++column) {
      std::vector<std::byte> aligned(static_cast<std::size_t>(row) * size_of(source.dtype));
      std::vector<float> given(static_cast<std::size_t>(row)), sums(static_cast<std::size_t>(channels * taps));
      std::memcpy(aligned.data(), source.data + static_cast<std::size_t>(column) * aligned.size(), aligned.size());
      convert(aligned.data(), source.dtype, given.data(), DType::f32, given.size());
      for (std::int64_t phase = 0; phase < phases_; ++phase) {
        if (phases_ == 4) sum_taps(given, static_cast<int>(phase), sums);
        else sums = given;
        for (std::int64_t channel = 0; channel < channels; ++channel)
          for (std::int64_t tap = 0; tap < taps; ++tap) {
            const std::int64_t in_stage = channel % form_.depth;
            std::int64_t at = phase * blocks + column / form_.columns;
            at = at * kernel_[0] + tap / plane_taps;
            at = at * stages + channel / form_.depth;
            at = at * plane_taps + tap % plane_taps;
            at = at * (form_.depth / 8) + in_stage / 8;
            at = at * form_.columns + column % form_.columns;
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
    ZOE_INTERNAL_CHECK(address_of(inputs[1]) % 16 == 0);  // the weight goes in blocks of whole lines
    Launch launch(function_, stream);
    launch.place(inputs[0]).place(inputs[1]);
    std::size_t next = 2;
    for (const bool present : {attributes_.has_bias, attributes_.has_residual}) {
      if (present) launch.place(inputs[next++]);
      else launch.nowhere();
    }
    launch.place(outputs[0]).integer(weight_.dim(1)).integer(weight_.dim(0));
    launch.integer(address_of(inputs[0]) % 16 == 0).integer(takes_wide_epilogue(inputs, outputs[0], DType::bf16, weight_.dim(0)));
    for (int axis = 0; axis < 3; ++axis) launch.integer(x_.dim(axis));
    const std::int64_t scale = phases_ == 4 ? 2 : 1, t = result_.dim(0), h = result_.dim(1) / scale, w = result_.dim(2) / scale;
    launch.integer(t).integer(h).integer(w).integer(kernel_[0]);
    for (const int pad : attributes_.pad_begin) launch.integer(pad);
    launch.integer(phases_);
    // Blocks stay, one a multiprocessor, and take one tile after another.
    const std::int64_t tiles =
        phases_ * blocks_of(weight_.dim(0), form_.columns) * t * ((h + kSide - 1) / kSide) * ((w + kSide - 1) / kSide);
    launch.run({std::min<std::int64_t>(tiles, device_->description.multiprocessors)}, {kThreads}, form_.shared_bytes);
  }

 private:
  const DevicePtr device_;
  const Form form_;
  const ProductAttributes attributes_;
  const Shape x_, result_, weight_;
  const std::array<std::int64_t, 3> kernel_;  // of a phase
  const int phases_;
  Function function_;
  std::string layout_, implementation_;
};

}  // namespace

std::unique_ptr<Kernel> make_halo_conv(const Node& node, const DevicePtr& device) {
  const auto& attributes = node.as<ProductAttributes>();
  const Shape& weight = node.inputs[1].shape();
  if (node.opcode != Opcode::conv || node.types[0].dtype != DType::bf16 || !is_hopper(*device)) return nullptr;
  if (node.inputs[1].node().opcode != Opcode::parameter || attributes.stride != std::array{1, 1, 1}) return nullptr;
  std::array<std::int64_t, 3> kernel = {weight.dim(2), weight.dim(3), weight.dim(4)};
  const auto pads_one = [](const std::array<int, 3>& pad) { return pad[1] == 1 && pad[2] == 1; };
  if (kernel[1] > 3 || kernel[2] > 3 || kernel[1] * kernel[2] == 1) return nullptr;
  int phases = 1;
  if (attributes.upsample == 2) {
    if (kernel[1] != 3 || kernel[2] != 3 || !pads_one(attributes.pad_begin) || !pads_one(attributes.pad_end)) return nullptr;
    phases = 4;
    kernel[1] = kernel[2] = 2;
  }
  const Shape& result = node.types[0].shape;
  const std::int64_t scale = phases == 4 ? 2 : 1;
  const std::int64_t tiles =
      phases * result.dim(0) * blocks_of(result.dim(1) / scale, kSide) * blocks_of(result.dim(2) / scale, kSide);
  const auto form = form_for(weight.dim(1), weight.dim(0), kernel[1], kernel[2], tiles, device->description);
  if (!form) return nullptr;
  return std::make_unique<HaloConvKernel>(node, device, *form, kernel, phases);
}

}  // namespace zoe::cuda
