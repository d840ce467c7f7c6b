// attention: kernels/attention.cl. On CPUs the keys are first laid out in panels, in scratch memory.

#include <algorithm>

#include "platform/opencl/kernels.h"
#include "platform/opencl/sources.h"

namespace zoe::opencl {
namespace {

constexpr std::int64_t kMostChannels = 1024, kChannelStep = 64;

class AttentionKernel : public Kernel {
 public:
  AttentionKernel(const Node& node, DevicePtr device)
      : device_(std::move(device)),
        tile_(product_tile(*device_)),
        dtype_(node.types[0].dtype),
        q_(node.inputs[0].shape()),
        keys_(node.inputs[1].dim(1)),
        scale_(static_cast<float>(node.as<AttentionAttributes>().scale)) {
    const std::int64_t channels = q_.dim(3);
    if (node.as<AttentionAttributes>().has_bias) {
      const Shape& bias = node.inputs[3].shape();
      std::int64_t step = bias.dim(3);
      for (const int axis : {2, 1, 0}) {
        bias_steps_[axis] = bias.dim(axis) == 1 ? 0 : step;
        step *= bias.dim(axis);
      }
      has_bias_ = true;
    }
    // Few programs serve all heads: their widths are rounded up to 64, 128, 256, 512 or 1,024.
    std::int64_t most = kChannelStep;
    while (most < channels) most *= 2;
    const std::string source =
        with_prelude(tile_, dtype_, kAttentionSource,
                     fmt::format("#define MAX_CHANNELS {}\n{}", most, tile_.rows ? "" : "#define SCALAR_MATH\n"));
    function_ = device_->function(source, "attention", "attention");
    if (tile_.rows > 0) pack_ = device_->function(source, "pack_keys", "attention");
    panels_ = (keys_ + tile_.panel - 1) / tile_.panel;
    implementation_ = tile_.rows ? fmt::format("online softmax, {} queries a work-item", tile_.rows)
                                 : std::string("online softmax, 16 queries a group");
  }

  std::string_view implementation() const override { return implementation_; }
  std::size_t scratch_bytes() const override {
    return pack_ ? static_cast<std::size_t>(q_.dim(0) * q_.dim(2) * panels_ * tile_.panel * q_.dim(3)) * size_of(dtype_) : 0;
  }

  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    const std::size_t element = size_of(dtype_);
    const std::int64_t batch = q_.dim(0), queries = q_.dim(1), heads = q_.dim(2), channels = q_.dim(3);
    const auto size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
    if (pack_)
      Launch(*pack_, stream)
          .place(inputs[1], element)
          .place(scratch, element)
          .integer(keys_)
          .integer(heads)
          .integer(channels)
          .run({size(panels_), size(channels), size(batch * heads)}, {1, 1, 1});
    Launch launch(*function_, stream);
    launch.place(inputs[0], element).place(pack_ ? scratch : inputs[1], element).place(inputs[2], element);
    if (has_bias_) launch.place(inputs[3], sizeof(float));
    else launch.nowhere();
    launch.place(outputs[0], element).integer(queries).integer(keys_).integer(heads).integer(channels).number(scale_);
    for (const std::int64_t step : bias_steps_) launch.large(step);
    if (pack_) launch.run({size((queries + tile_.rows - 1) / tile_.rows), size(heads), size(batch)}, {1, 1, 1});
    else launch.run({size((queries + 15) / 16 * 64), size(heads), size(batch)}, {64, 1, 1});
  }

 private:
  const DevicePtr device_;
  const ProductTile tile_;
  const DType dtype_;
  const Shape q_;
  const std::int64_t keys_;
  const float scale_;
  bool has_bias_ = false;
  std::int64_t bias_steps_[3] = {0, 0, 0};  // elements from one batch, head, query to the next
  std::int64_t panels_ = 0;
  std::shared_ptr<Function> function_, pack_;
  std::string implementation_;
};

}  // namespace

Support takes_attention(const Node& node) {
  const std::int64_t channels = node.inputs[0].dim(3);
  if (node.as<AttentionAttributes>().heads != 0) return Support::no("q, k or v are heads that lie among others");
  return channels <= kMostChannels ? Support::yes()
                                   : Support::no("{} channels a head, at most {} are taken", channels, kMostChannels);
}

std::unique_ptr<Kernel> make_attention(const Node& node, const DevicePtr& device) {
  return std::make_unique<AttentionKernel>(node, device);
}

}  // namespace zoe::opencl
