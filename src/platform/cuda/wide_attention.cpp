// attention by kernels/wide_attention.cu: bf16 on devices of compute capability 9.0, heads of more than 256 channels.

#include <algorithm>
#include <array>
#include <vector>

#include "base/error.h"
#include "ir/graph.h"
#include "platform/cuda/hopper.h"
#include "platform/cuda/kernels.h"
#include "platform/cuda/sources.h"

namespace zoe::cuda {
namespace {

constexpr std::int64_t kRows = 256, kColumns = 128, kDepth = 64, kThreads = 384, kThreadsOfRow = 256;
constexpr std::int64_t kMostScratchBytes = std::int64_t{256} << 20;
constexpr std::size_t kSharedBytes = 1024 + 4 * (kRows + kColumns) * kDepth * 2 + 4 * 2 * 8;

class WideAttentionKernel : public Kernel {
 public:
  WideAttentionKernel(const Node& node, DevicePtr device)
      : device_(std::move(device)),
        q_(node.types[0].shape),
        keys_(node.inputs[1].dim(1)),
        pitch_((keys_ + 7) / 8 * 8),
        rows_(std::min(q_.dim(1), std::max(kMostScratchBytes / (pitch_ * kScoreBytes) / kRows, std::int64_t{1}) * kRows)),
        items_(std::clamp<std::int64_t>(kMostScratchBytes / (rows_ * pitch_ * kScoreBytes), 1, q_.dim(0) * q_.dim(2))),
        // Exponentials are powers of two here.
        factor_(static_cast<float>(node.as<AttentionAttributes>().scale * 1.4426950408889634)) {
    for (int i = 0; i < 3; ++i) layouts_[i] = heads_layout(node, i);
    const Device::Program program = wide_attention_program();
    scores_ = device_->function(program, "scores_of_keys");
    weights_ = device_->function(program, "weights_of_scores");
    values_ = device_->function(program, "values_by_weights");
    for (Function* function : {&scores_, &values_}) allow_shared_bytes(*device_, *function, kSharedBytes);
    implementation_ = fmt::format("two products, wgmma, and a softmax, {} queries at a time", rows_);
  }

  std::string_view implementation() const override { return implementation_; }
  std::size_t scratch_bytes() const override { return static_cast<std::size_t>(items_ * rows_ * pitch_ * kScoreBytes); }

  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    const std::int64_t queries = q_.dim(1), heads = q_.dim(2), channels = q_.dim(3), all_items = q_.dim(0) * heads;
    const TensorMap q = map(inputs[0], layouts_[0], queries, kRows), k = map(inputs[1], layouts_[1], keys_, kColumns),
                    v = map(inputs[2], layouts_[2], keys_, kDepth);
    for (std::int64_t item = 0; item < all_items; item += items_)
      for (std::int64_t query = 0; query < queries; query += rows_) {
        const std::int64_t items = std::min(items_, all_items - item), rows = std::min(rows_, queries - query);
        Launch scores(scores_, stream);
        scores.tensor(q).tensor(k).place(scratch).integer(query).integer(rows).integer(item).integer(heads);
        scores.integer(keys_).integer(channels).integer(pitch_);
        scores.run({blocks_of(keys_, kColumns), blocks_of(rows, kRows), items}, {kThreads}, kSharedBytes);
        Launch weights(weights_, stream);
        weights.place(scratch).integer(keys_).integer(pitch_).number(factor_);
        weights.run({rows, items}, {kThreadsOfRow});
        // A row of weights begins where its scores did, which are twice as wide.
        const std::int64_t row = 2 * pitch_;
        const TensorMap in_scratch = boxes_of(*device_, address_of(scratch), {keys_, 1, rows, items}, {row, row, row * rows},
                                              {kDepth, 1, kRows, 1}, kTensorMapSwizzle128, "describing the weights of attention");
        Launch values(values_, stream);
        values.tensor(in_scratch).tensor(v).place(outputs[0]).integer(query).integer(rows).integer(item).integer(heads);
        values.integer(queries).integer(keys_).integer(channels);
        values.run({blocks_of(channels, kColumns), blocks_of(rows, kRows), items}, {kThreads}, kSharedBytes);
      }
  }

 private:
  static constexpr std::int64_t kScoreBytes = 4;

  // Boxes of `rows` of `length` tokens of a head, 64 channels each.
  TensorMap map(const Slot& slot, const HeadsLayout& layout, std::int64_t length, std::int64_t rows) const {
    const Address first_head = address_of(slot) + static_cast<Address>(layout.first) * size_of(DType::bf16);
    return boxes_of(*device_, first_head, {q_.dim(3), q_.dim(2), length, q_.dim(0)}, {q_.dim(3), layout.step, layout.step * length},
                    {kDepth, 1, rows, 1}, kTensorMapSwizzle128, "describing an operand of attention");
  }

  const DevicePtr device_;
  const Shape q_;  // and of the result
  const std::int64_t keys_, pitch_;
  const std::int64_t rows_, items_;  // queries of a head, and heads of a batch, whose scores there is room for
  HeadsLayout layouts_[3];           // of q, k and v
  const float factor_;
  Function scores_, weights_, values_;
  std::string implementation_;
};

}  // namespace

std::string wide_attention_source() {
  return tiles_source(DType::bf16, true) + kHopperSource + wgmma_source("multiply_keys", kColumns, Factor::shared, false) +
         wgmma_source("multiply_values", kColumns, Factor::shared, true) + kWideAttentionSource;
}

Device::Program wide_attention_program() { return {wide_attention_source(), "scores_of_keys", "attention"}; }

// Narrower heads are flash attention's or cuDNN's. Below kFewKeys (pictures of less than 180x180 pixels, 360x360 of the VAE 2.2)
// three launches of small products are no gain to count on; where exactly the general kernel becomes the faster one was not
// measured.
Support wide_attention_takes(const Node& node, const Device& device) {
  constexpr std::int64_t kNarrowChannels = 256, kFewKeys = 512;
  const std::int64_t channels = node.inputs[0].dim(3), keys = node.inputs[1].dim(1);
  if (!is_hopper(device)) return Support::no("needs wgmma: compute capability 9.0");
  if (node.inputs[0].dtype() != DType::bf16) return Support::no("takes bf16");
  if (node.as<AttentionAttributes>().has_bias) return Support::no("takes no bias");
  if (channels <= kNarrowChannels || channels % 8 != 0)
    return Support::no("takes heads of a multiple of 8 channels above {}: got {}", kNarrowChannels, channels);
  if (keys < kFewKeys) return Support::no("{} keys: below {} three launches are taken for no gain", keys, kFewKeys);
  const std::size_t most = device.description.shared_bytes;
  return kSharedBytes <= most ? Support::yes()
                              : Support::no("it needs {} bytes of shared memory, the device has {}", kSharedBytes, most);
}

std::unique_ptr<Kernel> make_wide_attention(const Node& node, const DevicePtr& device) {
  return std::make_unique<WideAttentionKernel>(node, device);
}

}  // namespace zoe::cuda
