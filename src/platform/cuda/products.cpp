// linear and conv of our own: kernels/product.cu. A convolution that makes its picture twice as high and wide becomes four with 2x2
// kernels, in one launch (platform/upsampled_weight.h).

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <vector>

#include "base/error.h"
#include "codegen/c_printer.h"
#include "platform/cuda/kernels.h"
#include "platform/cuda/sources.h"
#include "platform/upsampled_weight.h"

namespace zoe::cuda {
namespace {

constexpr std::int64_t kThreads = 256;

// A block's part of the result.
struct Tile {
  bool tensor_cores;
  int rows, columns;
  std::size_t shared_bytes;
};

// As few columns past the end as can be, then blocks as large as can be: those read the least.
Tile tile_for(const Device& device, DType dtype, std::int64_t rows, std::int64_t columns) {
  const auto padded = [](std::int64_t extent, int tile) { return (extent + tile - 1) / tile * tile; };
  if (dtype == DType::bf16 && has_tensor_cores(device)) {
    int best = 128;
    for (const int tile : {96, 64, 32})
      if (padded(columns, tile) < padded(columns, best)) best = tile;
    constexpr std::size_t kStages = 4, kDepthBytes = 64;
    return {true, 128, best, kStages * kDepthBytes * static_cast<std::size_t>(128 + best)};
  }
  // Large blocks where they keep every multiprocessor busy.
  const std::int64_t blocks = padded(rows, 128) / 128 * padded(columns, 128) / 128;
  const bool large = blocks >= device.description.multiprocessors && padded(columns, 128) == padded(columns, 64);
  return large ? Tile{false, 128, 128, 0} : Tile{false, 64, 64, 0};
}

class ProductKernel : public Kernel {
 public:
  ProductKernel(const Node& node, DevicePtr device)
      : device_(std::move(device)),
        dtype_(node.types[0].dtype),
        attributes_(node.as<ProductAttributes>()),
        result_(node.types[0].shape),
        weight_(node.inputs[1].shape()),
        weight_is_computed_(node.inputs[1].node().opcode != Opcode::parameter) {
    ZOE_INTERNAL_CHECK(!attributes_.has_history);
    columns_ = weight_.dim(0);
    channels_ = weight_.dim(1);
    if (node.opcode == Opcode::conv) {
      for (std::size_t axis = 0; axis < 3; ++axis) {
        x_[axis] = node.inputs[0].dim(static_cast<int>(axis));
        kernel_[axis] = weight_.dim(static_cast<int>(axis) + 2);
      }
      out_h_ = result_.dim(1);
      out_w_ = result_.dim(2);
      const auto is_plane = [](const std::array<int, 3>& a, int value) { return a[1] == value && a[2] == value; };
      if (attributes_.upsample == 2 && kernel_[1] == 3 && kernel_[2] == 3 && attributes_.stride == std::array{1, 1, 1} &&
          is_plane(attributes_.pad_begin, 1) && is_plane(attributes_.pad_end, 1) && !weight_is_computed_) {
        phases_ = 4;
        kernel_[1] = kernel_[2] = 2;
        out_h_ /= 2;
        out_w_ /= 2;
      }
    }
    rows_ = result_.count() / columns_ / phases_;
    if (node.opcode == Opcode::linear) x_[2] = out_w_ = rows_;
    taps_ = kernel_[0] * kernel_[1] * kernel_[2];
    tile_ = tile_for(*device_, dtype_, rows_, columns_);
    const bool flat = taps_ > 1 && channels_ < 8;
    const std::string source =
        tiles_source(dtype_, tile_.tensor_cores, attributes_.activation) +
        (tile_.tensor_cores ? fmt::format("#define COLUMNS {}\n#define FLAT {}\n", tile_.columns, flat ? 1 : 0)
                            : fmt::format("#define SIDE {}\n", tile_.columns)) +
        kProductSource;
    function_ = device_->function(source, "product", name(node.opcode));
    allow_shared_bytes(*device_, function_, tile_.shared_bytes);
    if (is_packed() && weight_is_computed_) pack_ = device_->function(source, "pack", "pack");
    layout_ = fmt::format("{}{}",
                          phases_ == 4 ? "2x2 sums, taps before channels "
                          : taps_ > 1  ? "taps before channels "
                                       : "dense ",
                          name(dtype_));
    implementation_ = fmt::format("{}{}, {}x{} a block",
                                  phases_ == 4 ? "4 of 2x2, "
                                  : taps_ > 1  ? "implicit product, "
                                               : "",
                                  tile_.tensor_cores ? "mma" : "fma", tile_.rows, tile_.columns);
  }

  std::string_view implementation() const override { return implementation_; }
  std::size_t scratch_bytes() const override { return is_packed() && weight_is_computed_ ? weight_bytes() : 0; }
  std::string weight_layout(int input) const override { return input == 1 ? layout_ : "dense " + std::string(name(dtype_)); }
  std::size_t packed_bytes(int input, const Type& type) const override {
    return input == 1 ? weight_bytes() : Kernel::packed_bytes(input, type);
  }

  // [columns, channels, taps] becomes [phases, columns, taps, channels].
  void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const override {
    if (input != 1 || !is_packed()) return Kernel::pack_weight(input, type, source, packed);
    const std::int64_t given_taps = weight_.count(2, 5), row = channels_ * given_taps, packed_row = channels_ * taps_;
    const std::size_t element = size_of(dtype_);
#pragma omp parallel for schedule(static) if (columns_ * row > (1 << 16))
    for (std::int64_t column = 0; column < columns_; ++column) {
      std::vector<float> taps(static_cast<std::size_t>(row)), sums(static_cast<std::size_t>(packed_row)), turned(sums.size());
      source.read(column * row, row, DType::f32, taps.data());
      for (int phase = 0; phase < phases_; ++phase) {
        if (phases_ == 4) sum_taps(taps, phase, sums);
        else sums = taps;
        for (std::int64_t tap = 0; tap < taps_; ++tap)
          for (std::int64_t channel = 0; channel < channels_; ++channel)
            turned[static_cast<std::size_t>(tap * channels_ + channel)] = sums[static_cast<std::size_t>(channel * taps_ + tap)];
        convert(turned.data(), DType::f32, packed + static_cast<std::size_t>((phase * columns_ + column) * packed_row) * element,
                dtype_, turned.size());
      }
    }
  }

  // A thread reads an element of the residual just before it writes the result there.
  bool can_overwrite(int input, int) const override { return attributes_.has_residual && input == (attributes_.has_bias ? 3 : 2); }

  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    Slot weight = inputs[1];
    if (pack_) {
      const std::int64_t count = weight_.count();
      Launch(*pack_, stream)
          .place(weight)
          .place(scratch)
          .integer(channels_)
          .integer(taps_)
          .large(count)
          .run({(count + kThreads - 1) / kThreads}, {kThreads});
      weight = scratch;
    }
    Launch launch(function_, stream);
    launch.place(inputs[0]).place(weight);
    std::size_t next = 2;
    for (const bool present : {attributes_.has_bias, attributes_.has_residual}) {
      if (present) launch.place(inputs[next++]);
      else launch.nowhere();
    }
    launch.place(outputs[0]).integer(rows_).integer(channels_).integer(columns_);
    // 16 bytes of x and the weight at a time.
    const bool wide_loads = channels_ % 8 == 0 && address_of(inputs[0]) % 16 == 0 && address_of(weight) % 16 == 0;
    const bool wide_stores = takes_wide_epilogue(inputs, outputs[0], dtype_, columns_);
    launch.integer(wide_loads).integer(wide_stores);
    for (const std::int64_t extent : x_) launch.integer(extent);
    launch.integer(out_h_).integer(out_w_);
    for (const std::int64_t extent : kernel_) launch.integer(extent);
    for (const int stride : attributes_.stride) launch.integer(stride);
    for (const int pad : attributes_.pad_begin) launch.integer(pad);
    launch.integer(attributes_.upsample == 2 && phases_ == 1 ? 1 : 0);
    const std::int64_t blocks = ((rows_ + tile_.rows - 1) / tile_.rows) * ((columns_ + tile_.columns - 1) / tile_.columns);
    launch.run({blocks, phases_}, {kThreads}, tile_.shared_bytes);
  }

 private:
  bool is_packed() const { return taps_ > 1; }
  std::size_t weight_bytes() const { return static_cast<std::size_t>(phases_ * columns_ * taps_ * channels_) * size_of(dtype_); }

  const DevicePtr device_;
  const DType dtype_;
  const ProductAttributes attributes_;
  const Shape result_, weight_;
  const bool weight_is_computed_;
  int phases_ = 1;
  std::array<std::int64_t, 3> x_ = {1, 1, 1}, kernel_ = {1, 1, 1};
  std::int64_t out_h_ = 1, out_w_ = 1, rows_ = 0, channels_ = 0, columns_ = 0, taps_ = 1;
  Tile tile_{};
  Function function_;
  std::optional<Function> pack_;
  std::string layout_, implementation_;
};

}  // namespace

bool has_tensor_cores(const Device& device) { return device.vendor.column == kCuda.column && device.description.major >= 8; }

bool takes_wide_epilogue(std::span<const Slot> inputs, const Slot& output, DType dtype, std::int64_t columns) {
  // Two bf16 of bias, residual and result at a time; of f32, four of the result.
  if (dtype != DType::bf16) return columns % 4 == 0 && address_of(output) % 16 == 0;
  bool wide = columns % 2 == 0 && address_of(output) % 4 == 0;
  for (std::size_t i = 2; i < inputs.size(); ++i) wide = wide && address_of(inputs[i]) % 4 == 0;
  return wide;
}

std::string tiles_source(DType dtype, bool tensor_cores, Activation activation) {
  constexpr std::array<std::string_view, 3> kFunctions = {"", "zoe_gelu_tanh", "zoe_silu"};
  return prelude(kCudaDialect) +
         fmt::format("#define BF16 {}\n#define TENSOR_CORES {}\n#define ACTIVATION {}\n", dtype == DType::bf16 ? 1 : 0,
                     tensor_cores ? 1 : 0, kFunctions[static_cast<std::size_t>(activation)]) +
         kTilesSource;
}

void allow_shared_bytes(const Device& device, Function& function, std::size_t bytes) {
  constexpr std::size_t kAlways = 48 << 10;
  function.max_shared_bytes = std::max(bytes, kAlways);
  if (bytes <= kAlways) return;
  device.make_current();
  if (!device.api.function_set) return;  // this vendor lets them ask
  device.check_status(device.api.function_set(function.handle, kFunctionMaxDynamicSharedBytes, static_cast<int>(bytes)),
                      "asking for shared memory", function.name);
}

std::unique_ptr<Kernel> make_product(const Node& node, const DevicePtr& device) {
  return std::make_unique<ProductKernel>(node, device);
}

}  // namespace zoe::cuda
