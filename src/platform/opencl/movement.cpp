// concat and gather: kernels/movement.cl. The other movements are generated code.

#include "base/error.h"
#include "platform/concat_layout.h"
#include "platform/opencl/kernels.h"
#include "platform/opencl/sources.h"

namespace zoe::opencl {
namespace {

// Elements are moved as they are; their size is all that matters.
std::string movement_source(DType dtype) {
  const std::size_t size = size_of(dtype);
  return fmt::format("typedef {} T;\n", size == 4 ? "uint" : size == 2 ? "ushort" : "uchar") + kMovementSource;
}

constexpr std::size_t kGroup = 64;

class ConcatKernel : public Kernel {
 public:
  ConcatKernel(const Node& node, const DevicePtr& device)
      : device_(device),
        dtype_(node.types[0].dtype),
        layout_(node),
        copy_(device->function(movement_source(dtype_), "copy_runs", "concat")) {}
  std::string_view implementation() const override { return "copies"; }
  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    const std::size_t element = size_of(dtype_);
    for (std::size_t i = 0; i < layout_.operands.size(); ++i) {
      const Slot place{outputs[0].buffer, outputs[0].offset + static_cast<std::size_t>(layout_.operands[i].offset) * element};
      if (inputs[i].buffer == place.buffer && inputs[i].offset == place.offset) continue;  // it lies there already
      const auto length = static_cast<std::size_t>(layout_.operands[i].length), runs = static_cast<std::size_t>(layout_.runs);
      if (runs == 1) {
        const Api& api = device_->api;
        check_cl(api.clEnqueueCopyBuffer(queue_of(stream), memory_of(inputs[i]), memory_of(place), inputs[i].offset, place.offset,
                                         length * element, 0, nullptr, nullptr),
                 "clEnqueueCopyBuffer", "concat");
        continue;
      }
      Launch(*copy_, stream)
          .place(inputs[i], element)
          .place(place, element)
          .large(layout_.operands[i].length)
          .large(layout_.step)
          .run({length, runs}, {length < kGroup ? 1 : kGroup, 1});
    }
  }

 private:
  const DevicePtr device_;
  const DType dtype_;
  const ConcatLayout layout_;
  const std::shared_ptr<Function> copy_;
};

class GatherKernel : public Kernel {
 public:
  GatherKernel(const Node& node, const DevicePtr& device)
      : device_(device),
        dtype_(node.types[0].dtype),
        table_rows_(node.inputs[0].dim(0)),
        width_(node.inputs[0].dim(1)),
        count_(node.types[0].shape.count()),
        gather_(device->function(movement_source(dtype_), "gather", "gather")) {}
  std::string_view implementation() const override { return "rows"; }
  std::string weight_layout(int) const override { return "dense " + std::string(name(dtype_)); }
  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    const std::size_t element = size_of(dtype_);
    Launch(*gather_, stream)
        .place(inputs[0], element)
        .place(inputs[1], sizeof(std::int32_t))
        .place(outputs[0], element)
        .integer(table_rows_)
        .large(count_)
        .integer(width_)
        .memory(static_cast<QueueStream&>(stream).fault())
        .run({static_cast<std::size_t>(count_)}, {kGroup});
  }

 private:
  const DevicePtr device_;
  const DType dtype_;
  const std::int64_t table_rows_, width_, count_;
  const std::shared_ptr<Function> gather_;
};

}  // namespace

std::unique_ptr<Kernel> make_concat(const Node& node, const DevicePtr& device) {
  return std::make_unique<ConcatKernel>(node, device);
}
std::unique_ptr<Kernel> make_gather(const Node& node, const DevicePtr& device) {
  return std::make_unique<GatherKernel>(node, device);
}

}  // namespace zoe::opencl
