// attention of our own: kernels/attention.cu.

#include <algorithm>

#include "base/error.h"
#include "codegen/c_printer.h"
#include "platform/cuda/kernels.h"
#include "platform/cuda/sources.h"

namespace zoe::cuda {
namespace {

constexpr std::int64_t kMostChannels = 512, kChunk = 64, kThreads = 256;

std::size_t shared_bytes(std::int64_t queries, std::int64_t channels) {
  constexpr std::int64_t kKeys = 64;
  return static_cast<std::size_t>(channels * (queries + 4) + kKeys * queries + 2 * kChunk * (kKeys + 4)) * sizeof(float);
}

class AttentionKernel : public Kernel {
 public:
  AttentionKernel(const Node& node, DevicePtr device)
      : device_(std::move(device)),
        q_(node.inputs[0].shape()),
        keys_(node.inputs[1].dim(1)),
        scale_(static_cast<float>(node.as<AttentionAttributes>().scale)) {
    const std::int64_t channels = q_.dim(3);
    check(channels <= kMostChannels, ErrorKind::unsupported, device_->vendor.platform,
          "attention over {} channels a head, expected at most {}.", channels, kMostChannels);
    if (node.as<AttentionAttributes>().has_bias) {
      const Shape& bias = node.inputs[3].shape();
      std::int64_t step = bias.dim(3);
      for (const int axis : {2, 1, 0}) {
        bias_steps_[axis] = bias.dim(axis) == 1 ? 0 : step;
        step *= bias.dim(axis);
      }
      has_bias_ = true;
    }
    const std::int64_t most = (channels + kChunk - 1) / kChunk * kChunk;
    // As many queries a block as registers and shared memory hold: keys are read once a block.
    queries_ = most <= 256 && q_.dim(1) > 64 ? 128 : 64;
    while (queries_ > 32 && shared_bytes(queries_, most) > device_->description.shared_bytes) queries_ /= 2;
    const std::size_t shared = shared_bytes(queries_, most);
    check(shared <= device_->description.shared_bytes, ErrorKind::unsupported, device_->vendor.platform,
          "attention over {} channels a head needs {} bytes of shared memory, the device has {}.", channels, shared,
          device_->description.shared_bytes);
    const std::string source = prelude(kCudaDialect) +
                               fmt::format("#define BF16 {}\n#define CHANNELS {}\n#define QUERIES {}\n",
                                           node.types[0].dtype == DType::bf16 ? 1 : 0, most, queries_) +
                               kAttentionSource;
    function_ = device_->function(source, "attention", "attention");
    allow_shared_bytes(*device_, function_, shared);
    shared_bytes_ = shared;
    implementation_ = fmt::format("online softmax, {} queries a block", queries_);
  }

  std::string_view implementation() const override { return implementation_; }

  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    const std::int64_t batch = q_.dim(0), queries = q_.dim(1), heads = q_.dim(2), channels = q_.dim(3);
    Launch launch(function_, stream);
    launch.place(inputs[0]).place(inputs[1]).place(inputs[2]);
    if (has_bias_) launch.place(inputs[3]);
    else launch.nowhere();
    launch.place(outputs[0]).integer(queries).integer(keys_).integer(heads).integer(channels).number(scale_);
    for (const std::int64_t step : bias_steps_) launch.large(step);
    launch.run({(queries + queries_ - 1) / queries_, heads, batch}, {kThreads}, shared_bytes_);
  }

 private:
  const DevicePtr device_;
  const Shape q_;
  const std::int64_t keys_;
  const float scale_;
  bool has_bias_ = false;
  std::int64_t bias_steps_[3] = {0, 0, 0};  // elements from one batch, head, query to the next
  std::int64_t queries_ = 0;                // of a block
  std::size_t shared_bytes_ = 0;
  Function function_;
  std::string implementation_;
};

}  // namespace

std::unique_ptr<Kernel> make_attention(const Node& node, const DevicePtr& device) {
  return std::make_unique<AttentionKernel>(node, device);
}

}  // namespace zoe::cuda
