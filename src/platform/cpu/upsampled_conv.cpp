// A 3x3 convolution of a picture made twice as high and wide, without making that picture.
//
// Each pixel of the result sees nine taps, but only four different pixels of the original, so the result is four convolutions with
// 2x2 kernels (platform/upsampled_weight.h): 4/9 of the operations. The sums of taps are made in f32 when the weight is packed, and
// rounded where the product is in bf16.

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "ir/trace.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/onednn.h"
#include "platform/cpu/parallel.h"
#include "platform/upsampled_weight.h"

namespace zoe::cpu {

namespace {

class UpsampledConvKernel : public Kernel {
 public:
  UpsampledConvKernel(const Node& node, const DeviceInfo& device, Making& making) : threads_(device.threads) {
    const auto& attributes = node.as<ProductAttributes>();
    const Type &x = node.inputs[0].type(), &weight = node.inputs[1].type();
    phase_weight_ = {weight.dtype, {weight.shape.dim(0), weight.shape.dim(1), weight.shape.dim(2), 2, 2}};
    for (std::size_t phase = 0; phase < kPhases; ++phase) {
      const int row = static_cast<int>(phase / 2), column = static_cast<int>(phase % 2);
      ConvWindow window{.pad_begin = {attributes.pad_begin[0], 1 - row, 1 - column},
                        .pad_end = {attributes.pad_end[0], row, column}};
      ProductOptions options{.activation = attributes.activation};
      if (attributes.has_bias) options.bias = parameter("bias", weight.dtype, {weight.shape.dim(0)});
      const Value small =
          conv(input("x", x.dtype, x.shape), parameter("weight", weight.dtype, phase_weight_.shape), window, options);
      phases_[phase] = making.part(small.node());
      phase_type_ = small.type();
      weight_places_[phase] = packed_bytes_;
      packed_bytes_ += aligned(phases_[phase]->packed_bytes(1, phase_weight_));
      layout_ += (phase ? "; " : "2x2 sums: ") + phases_[phase]->weight_layout(1);
      product_scratch_ = std::max(product_scratch_, aligned(phases_[phase]->scratch_bytes()));
    }
    implementation_ = fmt::format("4 of 2x2, {}", phases_[0]->implementation());
  }

  std::string_view implementation() const override { return implementation_; }
  std::size_t scratch_bytes() const override { return product_scratch_ + aligned(phase_type_.size_bytes()); }
  std::string weight_layout(int input) const override { return input == 1 ? layout_ : phases_[0]->weight_layout(input); }
  std::size_t packed_bytes(int input, const Type& type) const override {
    return input == 1 ? packed_bytes_ : phases_[0]->packed_bytes(input, type);
  }

  void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const override {
    if (input != 1) return phases_[0]->pack_weight(input, type, source, packed);
    const auto kernels = static_cast<std::size_t>(type.shape.count(0, 3));  // 3x3 each
    std::vector<float> taps(kernels * 9), sums(kernels * 4);
    source.read(0, source.count(), DType::f32, taps.data());
    for (std::size_t phase = 0; phase < kPhases; ++phase) {
      sum_taps(taps, static_cast<int>(phase), sums);
      const DenseWeight summed(DType::f32, phase_weight_.shape, reinterpret_cast<const std::byte*>(sums.data()));
      phases_[phase]->pack_weight(1, phase_weight_, summed, packed + weight_places_[phase]);
    }
  }

  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    const Slot result{scratch.buffer, scratch.offset + product_scratch_};
    std::vector<Slot> operands(inputs.begin(), inputs.end());
    for (std::size_t phase = 0; phase < kPhases; ++phase) {
      operands[1] = {inputs[1].buffer, inputs[1].offset + weight_places_[phase]};
      phases_[phase]->run(stream, operands, {&result, 1}, scratch);
      interleave(result.data(), outputs[0].data(), static_cast<std::int64_t>(phase / 2), static_cast<std::int64_t>(phase % 2));
    }
  }

 private:
  static constexpr std::size_t kPhases = 4;

  // Spreads one phase's pixels [T,H,W,O] over those of their parity in [T,2H,2W,O].
  void interleave(const std::byte* src, std::byte* dst, std::int64_t row_parity, std::int64_t column_parity) const {
    const Shape& shape = phase_type_.shape;
    const std::int64_t width = shape.dim(2), pixel = shape.dim(3) * static_cast<std::int64_t>(size_of(phase_type_.dtype));
    parallel_ranges(shape.count(0, 2), 1, shape.count(), threads_, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const std::byte* from = src + row * width * pixel;
        std::byte* to = dst + ((2 * row + row_parity) * 2 * width + column_parity) * pixel;
        for (std::int64_t x = 0; x < width; ++x) std::memcpy(to + 2 * x * pixel, from + x * pixel, static_cast<std::size_t>(pixel));
      }
    });
  }

  int threads_;
  Type phase_type_, phase_weight_;
  std::array<std::unique_ptr<Kernel>, kPhases> phases_;  // even row and column, even row, even column, odd ones
  std::array<std::size_t, kPhases> weight_places_{};
  std::size_t packed_bytes_ = 0, product_scratch_ = 0;
  std::string layout_, implementation_;
};

}  // namespace

Support upsampled_conv_takes(const Node& node) {
  const auto& attributes = node.as<ProductAttributes>();
  const Shape& kernel = node.inputs[1].shape();
  const auto is = [](const std::array<int, 3>& a, int value) { return a[1] == value && a[2] == value; };
  if (attributes.upsample == 1) return Support::no("it does not upsample");
  const bool plain = kernel.dim(3) == 3 && kernel.dim(4) == 3 && attributes.stride == std::array{1, 1, 1} &&
                     is(attributes.pad_begin, 1) && is(attributes.pad_end, 1) && !attributes.has_residual &&
                     node.inputs[1].node().opcode == Opcode::parameter;
  return plain ? Support::yes() : Support::no("takes a 3x3 parameter, stride 1, padded by 1, no residual: got {}", kernel.str());
}

std::unique_ptr<Kernel> make_upsampled_conv(const Node& node, const DeviceInfo& device, Making& making) {
  return std::make_unique<UpsampledConvKernel>(node, device, making);
}

}  // namespace zoe::cpu
