// attention of our own: kernels/attention.cu.

#include <algorithm>

#include "base/error.h"
#include "ir/graph.h"
#include "platform/cuda/kernels.h"
#include "platform/cuda/sources.h"

namespace zoe::cuda {
namespace {

constexpr std::int64_t kMostChannels = 1024, kMostChannelsOfTensorCores = 384;

// How a program goes about heads of up to `channels` channels.
struct Tiling {
  bool tensor_cores;
  std::int64_t channels, queries, threads;  // queries and threads of a block
  std::size_t shared_bytes;
  std::string definitions;
};

Tiling with_tensor_cores(std::int64_t channels, bool few_queries) {
  const std::int64_t most = (channels + 15) / 16 * 16;
  // Registers hold the results: of 32 queries a warp, which read k and v half as often, where heads are narrow.
  const bool wide = most > 128;
  const std::int64_t warps = wide ? 8 : 4, row_tiles = wide || few_queries ? 1 : 2, keys = wide ? 32 : 64;
  const std::int64_t splits = wide && few_queries ? 2 : 1;
  const std::int64_t queries = warps / splits * row_tiles * 16, row_bytes = most * 2 + 16;
  return {
      true,
      most,
      queries,
      warps * 32,
      static_cast<std::size_t>((queries + 2 * splits * keys) * row_bytes),
      fmt::format("#define WARPS {}\n#define ROW_TILES {}\n#define KEYS {}\n#define SPLITS {}\n", warps, row_tiles, keys, splits)};
}

Tiling without_tensor_cores(std::int64_t channels, bool few_queries, std::size_t most_shared_bytes) {
  constexpr std::int64_t kDepth = 32, kThreads = 256;
  const std::int64_t most = (channels + 63) / 64 * 64;
  const auto bytes = [&](std::int64_t queries, std::int64_t keys) {
    return static_cast<std::size_t>(queries * keys + 2 * kDepth * (queries + 4 + keys + 4)) * sizeof(float);
  };
  // As many queries as registers and shared memory hold: k and v are read once a block.
  std::int64_t queries = most <= 128 && !few_queries ? 128 : 64, keys = 128;
  if (bytes(queries, keys) > most_shared_bytes) queries = 64;
  if (bytes(queries, keys) > most_shared_bytes) keys = 64;
  return {
      false, most, queries, kThreads, bytes(queries, keys), fmt::format("#define QUERIES {}\n#define KEYS {}\n", queries, keys)};
}

// How attention of this node goes on this device: the tiling that asks for least is the last resort.
Tiling tiling_for(const Node& node, const Device& device) {
  const Shape& q = node.types[0].shape;
  const std::int64_t channels = q.dim(3);
  // Blocks of 128 queries, unless they leave multiprocessors without work.
  const bool few_queries = (q.dim(1) + 127) / 128 * q.dim(0) * q.dim(2) < device.description.multiprocessors;
  if (node.types[0].dtype == DType::bf16 && has_tensor_cores(device) && channels <= kMostChannelsOfTensorCores)
    if (Tiling tiling = with_tensor_cores(channels, few_queries); tiling.shared_bytes <= device.description.shared_bytes)
      return tiling;
  return without_tensor_cores(channels, few_queries, device.description.shared_bytes);
}

class AttentionKernel : public Kernel {
 public:
  AttentionKernel(const Node& node, DevicePtr device)
      : device_(std::move(device)),
        dtype_(node.types[0].dtype),
        q_(node.types[0].shape),
        keys_(node.inputs[1].dim(1)),
        scale_(static_cast<float>(node.as<AttentionAttributes>().scale)),
        tiling_(tiling_for(node, *device_)) {
    for (int i = 0; i < 3; ++i) layouts_[i] = heads_layout(node, i);
    if (node.as<AttentionAttributes>().has_bias) {
      const Shape& bias = node.inputs[3].shape();
      std::int64_t step = bias.dim(3);
      for (const int axis : {2, 1, 0}) {
        bias_steps_[axis] = bias.dim(axis) == 1 ? 0 : step;
        step *= bias.dim(axis);
      }
      has_bias_ = true;
    }
    const std::string source = tiles_source(dtype_, tiling_.tensor_cores) +
                               fmt::format("#define CHANNELS {}\n{}", tiling_.channels, tiling_.definitions) + kAttentionSource;
    function_ = device_->function(source, "attention", "attention");
    allow_shared_bytes(*device_, function_, tiling_.shared_bytes);
    implementation_ = fmt::format("online softmax, {}, {} queries a block", tiling_.tensor_cores ? "mma" : "fma", tiling_.queries);
  }

  std::string_view implementation() const override { return implementation_; }

  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    const std::int64_t batch = q_.dim(0), queries = q_.dim(1), heads = q_.dim(2), channels = q_.dim(3);
    Launch launch(function_, stream);
    // 16 bytes of q, k and v at a time; with tensor cores two elements of the bias and the result.
    bool wide = channels % 8 == 0;
    for (std::size_t i = 0; i < 3; ++i) {
      const Slot first_head{inputs[i].buffer, inputs[i].offset + static_cast<std::size_t>(layouts_[i].first) * size_of(dtype_)};
      launch.place(first_head);
      wide = wide && address_of(first_head) % 16 == 0;
    }
    if (has_bias_) launch.place(inputs[3]);
    else launch.nowhere();
    launch.place(outputs[0]).integer(queries).integer(keys_).integer(heads).integer(channels).number(scale_);
    for (const HeadsLayout& layout : layouts_) launch.large(layout.step);
    for (const std::int64_t step : bias_steps_) launch.large(step);
    if (tiling_.tensor_cores) {
      wide = wide && address_of(outputs[0]) % 4 == 0;
      if (has_bias_) wide = wide && keys_ % 2 == 0 && address_of(inputs[3]) % 8 == 0;
    }
    launch.integer(wide);
    launch.run({(queries + tiling_.queries - 1) / tiling_.queries, heads, batch}, {tiling_.threads}, tiling_.shared_bytes);
  }

 private:
  const DevicePtr device_;
  const DType dtype_;
  const Shape q_;           // and of the result
  HeadsLayout layouts_[3];  // of q, k and v
  const std::int64_t keys_;
  const float scale_;
  const Tiling tiling_;
  bool has_bias_ = false;
  std::int64_t bias_steps_[3] = {0, 0, 0};  // elements from one batch, head, query to the next
  Function function_;
  std::string implementation_;
};

}  // namespace

Support takes_attention(const Node& node, const Device& device) {
  const std::int64_t channels = node.types[0].shape.dim(3);
  if (channels > kMostChannels) return Support::no("{} channels a head, at most {} are taken", channels, kMostChannels);
  const std::size_t needed = tiling_for(node, device).shared_bytes, most = device.description.shared_bytes;
  return needed <= most ? Support::yes() : Support::no("it needs {} bytes of shared memory, the device has {}", needed, most);
}

std::unique_ptr<Kernel> make_attention(const Node& node, const DevicePtr& device) {
  return std::make_unique<AttentionKernel>(node, device);
}

}  // namespace zoe::cuda
