// attention from 8-bit codes by kernels/coded_attention.cu: bf16 on devices of compute capability 9.0, heads of 64 or 128 channels.

#include <algorithm>
#include <array>

#include "base/error.h"
#include "ir/graph.h"
#include "platform/cuda/hopper.h"
#include "platform/cuda/kernels.h"
#include "platform/cuda/sources.h"

namespace zoe::cuda {
namespace {

constexpr std::int64_t kQueries = 192, kKeys = 128, kThreads = 512, kStages = 3;
constexpr std::int64_t kCoders = 256, kChunk = 512;  // threads that make codes, tokens whose statistics a block of them makes
constexpr std::int64_t kAlignment = 256;             // of what lies in scratch memory

std::int64_t shared_bytes_for(std::int64_t channels) {
  return 1024 + (kQueries + kStages * 2 * kKeys) * channels + 8 * (1 + 4 * kStages);
}

class CodedAttentionKernel : public Kernel {
 public:
  CodedAttentionKernel(const Node& node, DevicePtr device)
      : device_(std::move(device)),
        q_(node.types[0].shape),
        keys_(node.inputs[1].dim(1)),
        channels_(q_.dim(3)),
        heads_(q_.dim(0) * q_.dim(2)),
        q_tiles_(blocks_of(q_.dim(1), kQueries)),
        k_tiles_(blocks_of(keys_, kKeys)),
        chunks_(blocks_of(keys_, kChunk)),
        // Exponentials are powers of two here.
        factor_(static_cast<float>(node.as<AttentionAttributes>().scale * 1.4426950408889634)) {
    for (int i = 0; i < 3; ++i) layouts_[i] = heads_layout(node, i);
    const Device::Program program = coded_attention_program(node);
    statistics_ = device_->function(program, "attention_statistics");
    scales_ = device_->function(program, "attention_scales");
    make_codes_ = device_->function(program, "attention_codes");
    attend_ = device_->function(program, "coded_attention");
    allow_shared_bytes(*device_, attend_, static_cast<std::size_t>(shared_bytes_for(channels_)));
    const std::int64_t q_rows = q_tiles_ * kQueries, k_rows = k_tiles_ * kKeys, number = sizeof(float);
    const std::array sizes{q_rows * channels_,
                           k_rows * channels_,
                           k_rows * channels_,
                           q_rows * number,
                           k_tiles_ * number,
                           3 * channels_ * number,
                           chunks_ * 3 * channels_ * number};
    for (std::size_t i = 0; i < sizes.size(); ++i)
      places_[i + 1] = places_[i] + static_cast<std::size_t>(blocks_of(heads_ * sizes[i], kAlignment) * kAlignment);
  }

  std::string_view implementation() const override { return "codes of 8 bits, wgmma, 192 queries and 128 keys at a time"; }
  std::size_t scratch_bytes() const override { return kAlignment + places_.back(); }

  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    scratch.offset += (kAlignment - address_of(scratch) % kAlignment) % kAlignment;
    const auto place = [&](int i) { return Slot{scratch.buffer, scratch.offset + places_[static_cast<std::size_t>(i)]}; };
    const Slot q_codes = place(0), k_codes = place(1), v_codes = place(2), q_scales = place(3), k_scales = place(4),
               scales = place(5), partials = place(6);
    const auto first_head = [&](int i) {
      const Address address = address_of(inputs[static_cast<std::size_t>(i)]) + static_cast<Address>(layouts_[i].first) * 2;
      ZOE_INTERNAL_CHECK(address % 16 == 0 && layouts_[i].step % 8 == 0);
      return address;
    };
    const std::int64_t heads = q_.dim(2), q_rows = q_tiles_ * kQueries;
    Launch(statistics_, stream)
        .address(first_head(1))
        .address(first_head(2))
        .place(partials)
        .integer(keys_)
        .integer(heads)
        .large(layouts_[1].step)
        .large(layouts_[2].step)
        .run({chunks_, heads_}, {kCoders});
    Launch(scales_, stream).place(partials).place(scales).integer(chunks_).integer(keys_).run({heads_}, {channels_});
    Launch codes(make_codes_, stream);
    for (int i = 0; i < 3; ++i) codes.address(first_head(i));
    for (const Slot& slot : {scales, q_codes, k_codes, v_codes, q_scales, k_scales}) codes.place(slot);
    codes.integer(q_.dim(1)).integer(keys_).integer(heads).integer(q_rows).integer(k_tiles_);
    for (const HeadsLayout& layout : layouts_) codes.large(layout.step);
    codes.run({std::max(blocks_of(q_rows, kKeys), k_tiles_), heads_, 3}, {kCoders});
    Launch attend(attend_, stream);
    attend.tensor(boxes(q_codes, heads_ * q_rows, channels_, kQueries))
        .tensor(boxes(k_codes, heads_ * k_tiles_ * kKeys, channels_, kKeys))
        .tensor(boxes(v_codes, heads_ * k_tiles_ * channels_, kKeys, channels_));
    attend.place(q_scales).place(k_scales).place(scales).place(outputs[0]);
    attend.integer(q_.dim(1)).integer(keys_).integer(heads).integer(q_tiles_).integer(k_tiles_).number(factor_);
    attend.run({q_tiles_ * heads_}, {kThreads}, static_cast<std::size_t>(shared_bytes_for(channels_)));
  }

 private:
  // Boxes of whole rows of so many codes, two an element.
  TensorMap boxes(const Slot& codes, std::int64_t rows, std::int64_t columns, std::int64_t box_rows) const {
    const std::int64_t elements = columns / 2;
    return boxes_of(*device_, address_of(codes), {elements, rows, 1, 1}, {elements, elements * rows, elements * rows},
                    {elements, box_rows, 1, 1}, columns == 128 ? kTensorMapSwizzle128 : kTensorMapSwizzle64,
                    "describing codes of attention");
  }

  const DevicePtr device_;
  const Shape q_;  // and of the result
  const std::int64_t keys_, channels_;
  const std::int64_t heads_;  // of all batches
  const std::int64_t q_tiles_, k_tiles_, chunks_;
  const float factor_;
  HeadsLayout layouts_[3];               // of q, k and v
  std::array<std::size_t, 8> places_{};  // in scratch memory, and its end
  Function statistics_, scales_, make_codes_, attend_;
};

}  // namespace

std::string coded_attention_source(std::int64_t channels) {
  return tiles_source(DType::bf16, true) + kHopperSource + integer_wgmma_source("multiply_keys", kKeys, Factor::shared) +
         integer_wgmma_source("multiply_values", 64, Factor::registers) +
         fmt::format("#define CHANNELS {}\n#define STAGES {}\n", channels, kStages) + kCodedAttentionSource;
}

Device::Program coded_attention_program(const Node& node) {
  return {coded_attention_source(node.inputs[0].dim(3)), "coded_attention", "attention"};
}

Support coded_attention_takes(const Node& node, const Device& device) {
  const std::int64_t channels = node.types[0].shape.dim(3);
  if (!is_hopper(device)) return Support::no("needs wgmma: compute capability 9.0");
  if (node.inputs[0].dtype() != DType::bf16) return Support::no("takes bf16");
  if (channels != 64 && channels != 128) return Support::no("takes heads of 64 or 128 channels: got {}", channels);
  if (!(node.as<AttentionAttributes>().scale > 0)) return Support::no("takes a positive scale");
  const std::int64_t needed = shared_bytes_for(channels), most = static_cast<std::int64_t>(device.description.shared_bytes);
  return needed <= most ? Support::yes() : Support::no("it needs {} bytes of shared memory, the device has {}", needed, most);
}

std::unique_ptr<Kernel> make_coded_attention(const Node& node, const DevicePtr& device) {
  return std::make_unique<CodedAttentionKernel>(node, device);
}

}  // namespace zoe::cuda
