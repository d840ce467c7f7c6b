// linear in bf16 on AMX tiles.

#include "base/dtype.h"
#include "base/error.h"
#include "platform/cpu/finish.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/onednn.h"
#include "platform/cpu/parallel.h"
#include "platform/cpu/tile_product.h"

namespace zoe::cpu {

namespace {

template <class Tiles>
class TileLinearKernel : public Kernel {
 public:
  TileLinearKernel(const Node& node, const DeviceInfo& device, std::string_view implementation)
      : implementation_(implementation),
        threads_(device.threads),
        rows_(node.inputs[0].shape().count(0, node.inputs[0].shape().rank() - 1)),
        depth_(node.inputs[0].dim(-1)),
        columns_(node.inputs[1].dim(0)),
        attributes_(node.as<ProductAttributes>()),
        tasks_(rows_, depth_, columns_, threads_),
        finish_(finish_loop<std::uint16_t>()) {}

  std::string_view implementation() const override { return implementation_; }
  std::size_t scratch_bytes() const override { return static_cast<std::size_t>(threads_) * tasks_.work_bytes(); }
  bool can_overwrite(int input, int) const override { return attributes_.has_residual && input == (attributes_.has_bias ? 3 : 2); }
  std::string weight_layout(int input) const override {
    return input == 1 ? "bf16 panels of 32 columns, tiles of 32x16 in pairs" : Kernel::weight_layout(input);
  }
  std::size_t packed_bytes(int input, const Type& type) const override {
    if (input != 1) return Kernel::packed_bytes(input, type);
    return static_cast<std::size_t>(blocks_of(columns_, kPanelColumns) * tasks_.steps.panel_bytes());
  }

  void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const override {
    if (input != 1) return Kernel::pack_weight(input, type, source, packed);
    parallel_ranges(blocks_of(columns_, kPanelColumns), 1, columns_ * depth_, threads_, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t panel = begin; panel < end; ++panel)
        pack_panel(source, panel * kPanelColumns, packed + panel * tasks_.steps.panel_bytes());
    });
  }

  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    const auto numbers = [](const Slot& slot) { return reinterpret_cast<std::uint16_t*>(slot.data()); };
    const std::uint16_t* const bias = attributes_.has_bias ? numbers(inputs[2]) : nullptr;
    const std::uint16_t* const residual = attributes_.has_residual ? numbers(inputs[attributes_.has_bias ? 3 : 2]) : nullptr;
    std::uint16_t* const result = numbers(outputs[0]);
    run_tile_tasks<Tiles>(
        tasks_, {inputs[0].data(), depth_ * 2, depth_, rows_, inputs[1].data(), columns_}, threads_, scratch.data(),
        [&](const float* sums, std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns) {
          const std::int64_t at = row * columns_ + column;
          finish_(
              {bias ? bias + column : nullptr, residual ? residual + at : nullptr, result + at, columns_, attributes_.activation},
              sums, kPanelColumns, rows, columns);
        },
        [&](std::int64_t row, std::int64_t rows, std::int64_t column) {
          if (!residual) return;
          for (std::int64_t r = row; r < row + rows; ++r) __builtin_prefetch(residual + r * columns_ + column, 0, 3);
        });
  }

 private:
  // 32 columns, rows of `source`, from `first` on; those that do not exist are zeros.
  void pack_panel(const WeightReader& source, std::int64_t first, std::byte* packed) const {
    constexpr std::int64_t kPiece = 8 * kStepDepth;  // of a row at a time
    alignas(64) std::array<std::uint16_t, kPanelColumns * kPiece> numbers;
    for (std::int64_t k0 = 0; k0 < depth_; k0 += kPiece) {
      const std::int64_t count = std::min(kPiece, depth_ - k0), steps = blocks_of(count, kStepDepth);
      numbers.fill(0);
      for (std::int64_t c = 0; c < std::min(kPanelColumns, columns_ - first); ++c) {
        source.read((first + c) * depth_ + k0, count, DType::bf16, numbers.data() + c * kPiece);
      }
      auto* to = reinterpret_cast<std::uint32_t*>(packed + k0 / kStepDepth * kStepBytes);  // pairs
      for (std::int64_t step = 0; step < steps; ++step)
        for (std::int64_t half = 0; half < 2; ++half)
          for (std::int64_t pair = 0; pair < kStepDepth / 2; ++pair)
            for (std::int64_t c = 0; c < 16; ++c, ++to)
              std::memcpy(to, numbers.data() + (half * 16 + c) * kPiece + step * kStepDepth + 2 * pair, sizeof *to);
    }
  }

  std::string implementation_;
  int threads_;
  std::int64_t rows_, depth_, columns_;
  ProductAttributes attributes_;
  TileTasks tasks_;
  FinishLoop<std::uint16_t> finish_;
};

}  // namespace

std::unique_ptr<Kernel> make_tile_linear(const Node& node, const DeviceInfo& device, bool emulated) {
  ZOE_INTERNAL_CHECK(tiles_take(node));
#if defined(__x86_64__)
  if (!emulated) return std::make_unique<TileLinearKernel<HardwareTiles>>(node, device, "amx tiles");
#endif
  ZOE_INTERNAL_CHECK(emulated);
  return std::make_unique<TileLinearKernel<EmulatedTiles>>(node, device, "amx tiles, emulated");
}

bool tiles_take(const Node& linear) {
  return linear.types[0].dtype == DType::bf16 && linear.inputs[1].node().opcode == Opcode::parameter;
}

}  // namespace zoe::cpu
