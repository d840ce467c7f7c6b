// concat and gather: kernels/movement.cu. The other movements are generated code.

#include <fmt/format.h>

#include "base/error.h"
#include "platform/concat_layout.h"
#include "platform/cuda/kernels.h"
#include "platform/cuda/sources.h"

namespace zoe::cuda {
namespace {

// Elements are moved as they are; their size is all that matters.
std::string movement_source(DType dtype) {
  const std::size_t size = size_of(dtype);
  return fmt::format("typedef {} T;\n", size == 4 ? "unsigned" : size == 2 ? "unsigned short" : "unsigned char") + kMovementSource;
}

constexpr std::int64_t kThreads = 256;

Extent blocks_for(std::int64_t count) { return {(count + kThreads - 1) / kThreads}; }

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
      if (address_of(inputs[i]) == address_of(place)) continue;  // it lies there already
      if (layout_.runs == 1) {
        device_->make_current();
        device_->check_status(
            device_->api.copy_async(address_of(place), address_of(inputs[i]),
                                    static_cast<std::size_t>(layout_.operands[i].length) * element, handle_of(stream)),
            "a copy", "concat");
        continue;
      }
      Launch(copy_, stream)
          .place(inputs[i])
          .place(place)
          .large(layout_.operands[i].length)
          .large(layout_.step)
          .large(layout_.runs)
          .run(blocks_for(layout_.operands[i].length * layout_.runs), {kThreads});
    }
  }

 private:
  const DevicePtr device_;
  const DType dtype_;
  const ConcatLayout layout_;
  const Function copy_;
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
    Launch(gather_, stream)
        .place(inputs[0])
        .place(inputs[1])
        .place(outputs[0])
        .integer(table_rows_)
        .large(count_)
        .integer(width_)
        .address(static_cast<DeviceStream&>(stream).fault())
        .run(blocks_for(count_), {kThreads});
  }

 private:
  const DevicePtr device_;
  const DType dtype_;
  const std::int64_t table_rows_, width_, count_;
  const Function gather_;
};

}  // namespace

std::unique_ptr<Kernel> make_concat(const Node& node, const DevicePtr& device) {
  return std::make_unique<ConcatKernel>(node, device);
}
std::unique_ptr<Kernel> make_gather(const Node& node, const DevicePtr& device) {
  return std::make_unique<GatherKernel>(node, device);
}

}  // namespace zoe::cuda
