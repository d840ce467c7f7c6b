// linear and conv: weights in panels, one kernel of kernels/product.cl. A convolution that makes its picture twice
// as high and wide becomes four with 2x2 kernels, in one launch (platform/upsampled_weight.h).

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "ir/math_text.h"
#include "platform/opencl/kernels.h"
#include "platform/opencl/sources.h"
#include "platform/upsampled_weight.h"

namespace zoe::opencl {

ProductTile product_tile(const Device& device) {
  if (device.local_tiles) return {.vector = 8, .panel = 64, .rows = 0};
  // As many sums as the registers of such a core hold, besides two vectors of weights.
  if (device.description.vector_floats >= 16) return {.vector = 16, .panel = 32, .rows = 8};
  if (device.description.vector_floats >= 8) return {.vector = 8, .panel = 16, .rows = 6};
  return {.vector = 4, .panel = 8, .rows = 4};
}

std::string with_prelude(const ProductTile& tile, DType dtype, std::string_view kernels, std::string_view more_definitions) {
  std::string text =
      fmt::format("#define BF16 {}\n#define VEC {}\n#define PANEL {}\n", dtype == DType::bf16 ? 1 : 0, tile.vector, tile.panel);
  if (tile.rows > 0) text += fmt::format("#define ROWS {}\n", tile.rows);
  return text.append(more_definitions).append(kStorageSource).append(kMathText).append(kernels);
}

// Few columns leave half of a panel unused: then one of half the width, for more rows.
ProductTile product_tile(const Device& device, std::int64_t columns) {
  ProductTile tile = product_tile(device);
  if (tile.rows > 0 && columns <= tile.vector) {
    tile.panel = tile.vector;
    tile.rows = tile.rows * 3 / 2;  // more would not leave registers for the rows' addresses
  }
  return tile;
}

namespace {

class ProductKernel : public Kernel {
 public:
  ProductKernel(const Node& node, DevicePtr device)
      : device_(std::move(device)),
        tile_(product_tile(*device_, node.inputs[1].dim(0))),
        dtype_(node.types[0].dtype),
        attributes_(node.as<ProductAttributes>()),
        x_(node.inputs[0].shape()),
        weight_(node.inputs[1].shape()),
        result_(node.types[0].shape),
        weight_is_computed_(node.inputs[1].node().opcode != Opcode::parameter) {
    columns_ = weight_.dim(0);
    channels_ = weight_.dim(1);
    const auto is = [](const std::array<int, 3>& a, int value) {
      return std::all_of(a.begin(), a.end(), [=](int i) { return i == value; });
    };
    const auto is_plane = [](const std::array<int, 3>& a, int value) { return a[1] == value && a[2] == value; };
    // A kernel of one point is a product of all points' channels.
    is_conv_ =
        node.opcode == Opcode::conv && !(weight_.count(2, 5) == 1 && is(attributes_.stride, 1) && is(attributes_.pad_begin, 0) &&
                                         is(attributes_.pad_end, 0) && attributes_.upsample == 1);
    if (is_conv_) {
      kernel_ = {static_cast<int>(weight_.dim(2)), static_cast<int>(weight_.dim(3)), static_cast<int>(weight_.dim(4))};
      if (attributes_.upsample == 2 && kernel_[1] == 3 && kernel_[2] == 3 && is(attributes_.stride, 1) &&
          is_plane(attributes_.pad_begin, 1) && is_plane(attributes_.pad_end, 1) && !weight_is_computed_) {
        phases_ = 4;
        kernel_[1] = kernel_[2] = 2;
      }
    }
    rows_ = result_.count() / columns_ / phases_;
    panels_ = (columns_ + tile_.panel - 1) / tile_.panel;
    taps_ = std::int64_t{kernel_[0]} * kernel_[1] * kernel_[2];
    packed_elements_ = phases_ * panels_ * taps_ * channels_ * tile_.panel;
    const std::string source = with_prelude(tile_, dtype_, kProductSource);
    function_ = device_->function(source, is_conv_ ? "conv" : "linear", name(node.opcode));
    if (weight_is_computed_) pack_ = device_->function(source, "pack", "pack");
    layout_ = fmt::format("panels of {} {}{}", tile_.panel, name(dtype_),
                          phases_ == 4 ? ", 2x2 sums"
                          : is_conv_   ? ", zeros behind"
                                       : "");
    implementation_ = fmt::format("{}{}", is_conv_ ? phases_ == 4 ? "4 of 2x2, " : "implicit product, " : "",
                                  tile_.rows ? fmt::format("{}x{} a work-item", tile_.rows, tile_.panel) : "64x64 in local memory");
  }

  std::string_view implementation() const override { return implementation_; }
  std::size_t scratch_bytes() const override { return weight_is_computed_ ? weight_bytes() : 0; }
  std::string weight_layout(int input) const override { return input == 1 ? layout_ : "dense " + std::string(name(dtype_)); }
  std::size_t packed_bytes(int input, const Type& type) const override {
    return input == 1 ? weight_bytes() : Kernel::packed_bytes(input, type);
  }

  void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const override {
    if (input != 1) return Kernel::pack_weight(input, type, source, packed);
    std::memset(packed, 0, weight_bytes());
    const std::int64_t given_taps = weight_.rank() == 5 ? weight_.count(2, 5) : 1, row = channels_ * given_taps;
    const std::size_t element = size_of(dtype_);
#pragma omp parallel for schedule(static) if (columns_ * row > (1 << 16))
    for (std::int64_t panel = 0; panel < panels_; ++panel) {
      std::vector<float> taps(static_cast<std::size_t>(row)), sums(static_cast<std::size_t>(channels_ * taps_));
      std::vector<std::byte> converted(sums.size() * element);
      for (std::int64_t lane = 0; lane < std::min<std::int64_t>(tile_.panel, columns_ - panel * tile_.panel); ++lane) {
        const std::int64_t column = panel * tile_.panel + lane;
        source.read(column * row, row, DType::f32, taps.data());
        for (int phase = 0; phase < phases_; ++phase) {
          if (phases_ == 4) sum_taps(taps, phase, sums);
          convert(phases_ == 4 ? sums.data() : taps.data(), DType::f32, converted.data(), dtype_, sums.size());
          std::byte* to =
              packed + static_cast<std::size_t>((phase * panels_ + panel) * taps_ * channels_ * tile_.panel + lane) * element;
          for (std::int64_t tap = 0; tap < taps_; ++tap)
            for (std::int64_t channel = 0; channel < channels_; ++channel)
              std::memcpy(to + static_cast<std::size_t>((tap * channels_ + channel) * tile_.panel) * element,
                          converted.data() + static_cast<std::size_t>(channel * taps_ + tap) * element, element);
        }
      }
    }
  }

  // An item reads an element of the residual just before it writes the result there.
  bool can_overwrite(int input, int) const override { return attributes_.has_residual && input == (attributes_.has_bias ? 3 : 2); }

  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    const std::size_t element = size_of(dtype_);
    if (weight_is_computed_)
      Launch(*pack_, stream)
          .place(inputs[1], element)
          .place(scratch, element)
          .integer(channels_)
          .integer(columns_)
          .integer(taps_)
          .large(static_cast<std::int64_t>(weight_bytes() / element))
          .run({weight_bytes() / element}, {64});
    Launch launch(*function_, stream);
    launch.place(inputs[0], element).place(weight_is_computed_ ? scratch : inputs[1], element);
    std::size_t next = 2;
    for (const bool present : {attributes_.has_bias, attributes_.has_residual}) {
      if (present) launch.place(inputs[next++], element);
      else launch.nowhere();
    }
    launch.place(outputs[0], element).integer(rows_).integer(channels_).integer(columns_);
    launch.integer(attributes_.activation == Activation::none ? 0 : attributes_.activation == Activation::gelu_tanh ? 1 : 2);
    if (is_conv_) {
      for (int axis = 0; axis < 3; ++axis) launch.integer(x_.dim(axis));
      const int scale = phases_ == 4 ? 2 : 1;
      launch.integer(result_.dim(1) / scale).integer(result_.dim(2) / scale);
      for (const int extent : kernel_) launch.integer(extent);
      for (const int stride : attributes_.stride) launch.integer(stride);
      for (const int pad : attributes_.pad_begin) launch.integer(pad);
      launch.integer(attributes_.upsample == 2 && phases_ == 1 ? 1 : 0).integer(phases_);
    }
    const auto panels = static_cast<std::size_t>(panels_), rows = static_cast<std::size_t>(rows_),
               phases = static_cast<std::size_t>(phases_);
    if (tile_.rows == 0) return launch.run({panels * 8, (rows + 63) / 64 * 8, phases}, {8, 8, 1});
    const std::size_t blocks = (rows + static_cast<std::size_t>(tile_.rows) - 1) / static_cast<std::size_t>(tile_.rows);
    // The items of a group share a panel, which stays in the cache.
    launch.run({panels, blocks, phases}, {1, blocks < 8 ? 1u : 8u, 1});
  }

 private:
  std::size_t weight_bytes() const {
    return static_cast<std::size_t>(packed_elements_ + (is_conv_ ? channels_ : 0)) * size_of(dtype_);
  }

  const DevicePtr device_;
  const ProductTile tile_;
  const DType dtype_;
  const ProductAttributes attributes_;
  const Shape x_, weight_, result_;
  const bool weight_is_computed_;
  bool is_conv_ = false;
  int phases_ = 1;
  std::array<int, 3> kernel_ = {1, 1, 1};
  std::int64_t rows_ = 0, channels_ = 0, columns_ = 0, panels_ = 0, taps_ = 0, packed_elements_ = 0;
  std::shared_ptr<Function> function_, pack_;
  std::string layout_, implementation_;
};

}  // namespace

std::unique_ptr<Kernel> make_product(const Node& node, const DevicePtr& device) {
  return std::make_unique<ProductKernel>(node, device);
}

}  // namespace zoe::opencl
