// linear from 8-bit codes by kernels/codes.cu and kernels/coded_linear.cu: bf16 on devices of compute capability 9.0.

#include <algorithm>
#include <utility>
#include <vector>

#include "base/codes.h"
#include "base/error.h"
#include "platform/coded_weight.h"
#include "platform/cuda/hopper.h"
#include "platform/cuda/kernels.h"
#include "platform/cuda/sources.h"

namespace zoe::cuda {
namespace {

constexpr std::int64_t kRows = 128, kColumns = 256, kDepth = 128, kStages = 4, kThreads = 384;
constexpr std::int64_t kTilesAtOnce = 16;  // of rows: with 256 columns each, codes of 16 by 132 tiles fit the L2 cache
constexpr std::int64_t kSharedBytes =
    1024 + kStages * ((kRows + kColumns) * kDepth + 16) + kRows / 16 * 2048 + kRows / 64 * kColumns * 8;
constexpr std::int64_t kMostOfRow = 32 * 1024;  // numbers that a block of 1,024 threads holds
constexpr std::int64_t kAlignment = 256;        // of what lies in scratch memory

// How a row is split: runs of sixteen numbers a thread. Two, where there are enough, share what a thread does once.
struct RowSplit {
  std::int64_t runs, threads;
  std::size_t shared_bytes;
};
RowSplit split(std::int64_t columns) {
  const std::int64_t runs = columns < 1024 ? 1 : 2, warps = blocks_of(columns, 512 * runs);
  constexpr std::int64_t kExchangedBytes = (256 + 272) * 4;  // of a warp
  return {runs, warps * 32, static_cast<std::size_t>(rotation_of(columns) > 16 ? warps * kExchangedBytes : 0)};
}

std::vector<Device::Program> programs_of(std::int64_t depth, Activation activation) {
  return {{codes_source(depth), "make_codes", "codes"}, {coded_linear_source(activation), "coded_linear", "linear"}};
}

class CodedLinearKernel : public Kernel {
 public:
  CodedLinearKernel(const Node& node, DevicePtr device)
      : device_(std::move(device)),
        attributes_(node.as<ProductAttributes>()),
        weight_(node.inputs[1].type()),
        columns_(weight_.shape.dim(0)),
        depth_(weight_.shape.dim(1)),
        rows_(node.types[0].shape.count() / columns_),
        split_(split(depth_)) {
    const std::vector<Device::Program> programs = programs_of(depth_, attributes_.activation);
    make_codes_ = device_->function(programs[0], "make_codes");
    multiply_ = device_->function(programs[1], "coded_linear");
    allow_shared_bytes(*device_, make_codes_, split_.shared_bytes);
    allow_shared_bytes(*device_, multiply_, kSharedBytes);
  }

  std::string_view implementation() const override { return "codes of 8 bits, wgmma, 128x256 a tile"; }
  std::size_t scratch_bytes() const override {
    return static_cast<std::size_t>(kAlignment + scales_offset() + rows_ * static_cast<std::int64_t>(sizeof(float)));
  }
  std::string weight_layout(int input) const override { return input == 1 ? std::string(kCodedLayout) : "dense bf16"; }
  std::size_t packed_bytes(int input, const Type& type) const override {
    return input == 1 ? coded_bytes(type) : Kernel::packed_bytes(input, type);
  }
  void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const override {
    return input == 1 ? pack_coded(type, source, packed) : Kernel::pack_weight(input, type, source, packed);
  }

  // A thread reads its elements of the residual before it writes the results there.
  bool can_overwrite(int input, int) const override { return attributes_.has_residual && input == (attributes_.has_bias ? 3 : 2); }

  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    scratch.offset += (kAlignment - address_of(scratch) % kAlignment) % kAlignment;
    const Slot scales{scratch.buffer, scratch.offset + static_cast<std::size_t>(scales_offset())},
        weight_scales{inputs[1].buffer, inputs[1].offset + coded_scales_offset(weight_)};
    Address together = outputs[0].data() ? address_of(outputs[0]) : 0;
    for (const Slot& input : inputs) together |= address_of(input);
    ZOE_INTERNAL_CHECK(together % 16 == 0);  // plans align what they place, and rows are multiples of that
    Launch(make_codes_, stream)
        .place(inputs[0])
        .place(scratch)
        .place(scales)
        .integer(depth_)
        .run({rows_}, {split_.threads}, split_.shared_bytes);
    Launch multiply(multiply_, stream);
    multiply.tensor(boxes_of_rows(scratch, rows_, kRows)).tensor(boxes_of_rows(inputs[1], columns_, kColumns));
    multiply.place(scales).place(weight_scales);
    std::size_t next = 2;
    for (const bool present : {attributes_.has_bias, attributes_.has_residual}) {
      if (present) multiply.place(inputs[next++]);
      else multiply.nowhere();
    }
    multiply.place(outputs[0]).integer(rows_).integer(depth_).integer(columns_).integer(kTilesAtOnce);
    const std::int64_t tiles = blocks_of(rows_, kRows) * blocks_of(columns_, kColumns);
    multiply.run({std::min<std::int64_t>(tiles, device_->description.multiprocessors)}, {kThreads}, kSharedBytes);
  }

 private:
  std::int64_t scales_offset() const { return blocks_of(rows_ * depth_, kAlignment) * kAlignment; }
  // Boxes of 128 codes of so many rows, two an element.
  TensorMap boxes_of_rows(const Slot& codes, std::int64_t rows, std::int64_t box_rows) const {
    const std::int64_t elements = depth_ / 2;
    return boxes_of(*device_, address_of(codes), {elements, rows, 1, 1}, {elements, elements * rows, elements * rows},
                    {kDepth / 2, box_rows, 1, 1}, kTensorMapSwizzle128, "describing codes of a product");
  }

  const DevicePtr device_;
  const ProductAttributes attributes_;
  const Type weight_;
  const std::int64_t columns_, depth_, rows_;
  const RowSplit split_;
  Function make_codes_, multiply_;
};

}  // namespace

std::string codes_source(std::int64_t columns) {
  const RowSplit of_row = split(columns);
  return tiles_source(DType::bf16, true) + kHopperSource +
         fmt::format("#define GROUP {}\n#define RUNS {}\n#define THREADS {}\n", rotation_of(columns), of_row.runs, of_row.threads) +
         kCodesSource;
}

std::string coded_linear_source(Activation activation) {
  return tiles_source(DType::bf16, true) + kHopperSource + integer_wgmma_source("multiply_codes", kColumns, Factor::shared) +
         fmt::format("#define COLUMNS {}\n#define STAGES {}\n#define GELU {}\n#define SILU {}\n", kColumns, kStages,
                     activation == Activation::gelu_tanh ? 1 : 0, activation == Activation::silu ? 1 : 0) +
         kCodedLinearSource;
}

std::vector<Device::Program> coded_linear_programs(const Node& node) {
  return programs_of(node.inputs[1].dim(1), node.as<ProductAttributes>().activation);
}

Support coded_linear_takes(const Node& node, const Device& device) {
  if (!is_hopper(device)) return Support::no("needs wgmma: compute capability 9.0");
  if (node.types[0].dtype != DType::bf16) return Support::no("takes bf16");
  if (node.inputs[1].node().opcode != Opcode::parameter) return Support::no("codes are made of parameters only");
  const Shape& weight = node.inputs[1].shape();
  if (weight.dim(1) % 32 != 0 || weight.dim(1) > kMostOfRow)
    return Support::no("takes rows of a multiple of 32 numbers, at most {}: got {}", kMostOfRow, weight.dim(1));
  if (weight.dim(0) % 8 != 0) return Support::no("makes a multiple of 8 columns: got {}", weight.dim(0));
  const std::size_t most = device.description.shared_bytes;
  return kSharedBytes <= static_cast<std::int64_t>(most)
             ? Support::yes()
             : Support::no("it needs {} bytes of shared memory, the device has {}", kSharedBytes, most);
}

std::unique_ptr<Kernel> make_coded_linear(const Node& node, const DevicePtr& device) {
  return std::make_unique<CodedLinearKernel>(node, device);
}

}  // namespace zoe::cuda
