// attention by kernels/flash_attention.cu: bf16 on devices of compute capability 9.0, heads of 64 or 128 channels.

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "base/error.h"
#include "ir/graph.h"
#include "platform/cuda/hopper.h"
#include "platform/cuda/kernels.h"
#include "platform/cuda/sources.h"

namespace zoe::cuda {
namespace {

constexpr std::int64_t kQueries = 128, kThreads = 384, kStages = 2, kBlockColumns = 64;
constexpr std::int64_t kMostTilesToStay = 16;
constexpr std::int64_t kWarps = 8;       // that make results
constexpr std::int64_t kMostKeys = 144;  // of a tile, as registers hold the scores of so many

// Keys of a tile: all if they are few, else so many that tiles, and what each costs beside its products, are the least work.
std::int64_t tile_keys(std::int64_t keys) {
  if (keys <= kMostKeys) return (keys + 15) / 16 * 16;
  constexpr std::int64_t kCostOfTile = 4;
  std::int64_t best = 0, least = std::numeric_limits<std::int64_t>::max();
  for (const std::int64_t tile : {std::int64_t{112}, std::int64_t{128}, kMostKeys}) {
    const std::int64_t work = (keys + tile - 1) / tile * (tile + kCostOfTile);
    if (work <= least) best = tile, least = work;
  }
  return best;
}

// How a program goes about a node.
struct Tiling {
  std::int64_t channels, tile;
  bool has_bias;
  bool stays;  // blocks take one item after another
  std::size_t shared_bytes;

  Device::Program program() const {
    return {flash_attention_source(channels, tile, has_bias, stays), "flash_attention", "attention"};
  }
};

Tiling tiling_for(const Node& node) {
  constexpr std::int64_t kAlignment = 1024, kBarriers = 2 + 4 * kStages;
  const std::int64_t channels = node.inputs[0].dim(3), keys = node.inputs[1].dim(1), tile = tile_keys(keys);
  const bool has_bias = node.as<AttentionAttributes>().has_bias;
  std::int64_t bytes = kAlignment + (kQueries + 2 * kStages * tile) * channels * 2 + kBarriers * 8;
  if (has_bias) bytes += 2 * ((keys + tile - 1) / tile) * tile * 4;  // both warpgroups hold a row of it
  return {channels, tile, has_bias, keys <= kMostTilesToStay * tile, static_cast<std::size_t>(bytes)};
}

class FlashAttentionKernel : public Kernel {
 public:
  FlashAttentionKernel(const Node& node, DevicePtr device, const Tiling& tiling)
      : device_(std::move(device)),
        tiling_(tiling),
        q_(node.types[0].shape),
        keys_(node.inputs[1].dim(1)),
        // Exponentials are powers of two here.
        factor_(static_cast<float>(node.as<AttentionAttributes>().scale * 1.4426950408889634)) {
    for (int i = 0; i < 3; ++i) layouts_[i] = heads_layout(node, i);
    if (tiling_.has_bias) {
      const Shape& bias = node.inputs[3].shape();
      bias_head_ = bias.dim(1) == 1 ? 0 : bias.dim(3);
      bias_batch_ = bias.dim(0) == 1 ? 0 : bias.dim(1) * bias.dim(3);
    }
    const Device::Program program = tiling_.program();
    function_ = device_->function(program, "flash_attention");
    again_ = device_->function(program, "flash_attention_again");
    for (Function* function : {&function_, &again_}) allow_shared_bytes(*device_, *function, tiling_.shared_bytes);
    implementation_ = fmt::format("flash attention, wgmma, {} queries and {} keys at a time", kQueries, tiling_.tile);
  }

  std::string_view implementation() const override { return implementation_; }
  std::size_t scratch_bytes() const override { return static_cast<std::size_t>(items() * kWarps); }

  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    const TensorMap q = map(inputs[0], layouts_[0], q_.dim(1), kQueries), k = map(inputs[1], layouts_[1], keys_, tiling_.tile),
                    v = map(inputs[2], layouts_[2], keys_, tiling_.tile);
    const auto launch = [&](const Function& function, std::int64_t blocks) {
      Launch call(function, stream);
      call.tensor(q).tensor(k).tensor(v);
      if (tiling_.has_bias) call.place(inputs[3]);
      else call.nowhere();
      call.place(outputs[0]).place(scratch).integer(q_.dim(1)).integer(keys_).integer(q_.dim(2)).integer(q_.dim(0));
      call.number(factor_).large(bias_batch_).large(bias_head_);
      call.run({blocks}, {kThreads}, tiling_.shared_bytes);
    };
    const std::int64_t at_once = std::min<std::int64_t>(items(), device_->description.multiprocessors);
    launch(function_, tiling_.stays ? at_once : items());
    launch(again_, at_once);
  }

 private:
  std::int64_t items() const { return (q_.dim(1) + kQueries - 1) / kQueries * q_.dim(2) * q_.dim(0); }

  // Boxes of `rows` of `length` tokens of a head, 64 channels each.
  TensorMap map(const Slot& slot, const HeadsLayout& layout, std::int64_t length, std::int64_t rows) const {
    const Address first_head = address_of(slot) + static_cast<Address>(layout.first) * size_of(DType::bf16);
    return boxes_of(*device_, first_head, {q_.dim(3), q_.dim(2), length, q_.dim(0)}, {q_.dim(3), layout.step, layout.step * length},
                    {kBlockColumns, 1, rows, 1}, kTensorMapSwizzle128, "describing an operand of attention");
  }

  const DevicePtr device_;
  const Tiling tiling_;
  const Shape q_;  // and of the result
  const std::int64_t keys_;
  HeadsLayout layouts_[3];  // of q, k and v
  const float factor_;
  std::int64_t bias_batch_ = 0, bias_head_ = 0;  // elements from one batch or head to the next
  Function function_, again_;
  std::string implementation_;
};

}  // namespace

std::string flash_attention_source(std::int64_t channels, std::int64_t tile_keys, bool has_bias, bool stays) {
  return tiles_source(DType::bf16, true) + kHopperSource + wgmma_source("multiply_keys", tile_keys, Factor::registers, false) +
         wgmma_source("multiply_values", channels, Factor::registers, true) +
         fmt::format("#define CHANNELS {}\n#define KEYS {}\n#define HAS_BIAS {}\n#define STAYS {}\n", channels, tile_keys,
                     has_bias ? 1 : 0, stays ? 1 : 0) +
         kFlashAttentionSource;
}

Device::Program flash_attention_program(const Node& node) { return tiling_for(node).program(); }

Support flash_attention_takes(const Node& node, const Device& device) {
  const std::int64_t channels = node.inputs[0].dim(3);
  if (!is_hopper(device)) return Support::no("needs wgmma: compute capability 9.0");
  if (node.inputs[0].dtype() != DType::bf16) return Support::no("takes bf16");
  if (channels != 64 && channels != 128) return Support::no("takes heads of 64 or 128 channels: got {}", channels);
  if (node.as<AttentionAttributes>().has_bias && node.inputs[3].dim(2) != 1) return Support::no("takes one bias for all queries");
  const std::size_t needed = tiling_for(node).shared_bytes, most = device.description.shared_bytes;
  return needed <= most ? Support::yes() : Support::no("it needs {} bytes of shared memory, the device has {}", needed, most);
}

std::unique_ptr<Kernel> make_flash_attention(const Node& node, const DevicePtr& device) {
  return std::make_unique<FlashAttentionKernel>(node, device, tiling_for(node));
}

}  // namespace zoe::cuda
