// concat and gather: kernels/movement.cl. The other movements are generated code.

#include <vector>

#include "base/error.h"
#include "platform/opencl/kernels.h"
#include "platform/opencl/sources.h"

namespace zoe::opencl {
namespace {

// Elements are moved as they are; their size is all that matters.
std::string movement_source(DType dtype) {
  return fmt::format("typedef {} T;\n", size_of(dtype) == 4 ? "uint" : "ushort") + kMovementSource;
}

constexpr std::size_t kGroup = 64;

class ConcatKernel : public Kernel {
 public:
  ConcatKernel(const Node& node, const DevicePtr& device)
      : device_(device), dtype_(node.types[0].dtype), copy_(device->function(movement_source(dtype_), "copy_runs", "concat")) {
    const int axis = node.as<AxisAttributes>().axis;
    const Shape& shape = node.types[0].shape;
    const std::int64_t inner = shape.count(axis + 1, shape.rank());
    step_ = shape.dim(axis) * inner;
    runs_ = shape.count(0, axis);
    std::int64_t offset = 0;
    for (const Value& part : node.inputs) {
      parts_.push_back({offset, part.dim(axis) * inner});
      offset += part.dim(axis) * inner;
    }
  }
  std::string_view implementation() const override { return "copies"; }
  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    const std::size_t element = size_of(dtype_);
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      const Slot place{outputs[0].buffer, outputs[0].offset + static_cast<std::size_t>(parts_[i].offset) * element};
      if (inputs[i].buffer == place.buffer && inputs[i].offset == place.offset) continue;  // it lies there already
      const auto length = static_cast<std::size_t>(parts_[i].length), runs = static_cast<std::size_t>(runs_);
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
          .large(parts_[i].length)
          .large(step_)
          .run({length, runs}, {length < kGroup ? 1 : kGroup, 1});
    }
  }

 private:
  struct Part {
    std::int64_t offset, length;  // elements
  };
  const DevicePtr device_;
  const DType dtype_;
  const std::shared_ptr<Function> copy_;
  std::vector<Part> parts_;
  std::int64_t step_ = 0, runs_ = 0;
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
    device_->fault_possible = true;
    const std::size_t element = size_of(dtype_);
    Launch(*gather_, stream)
        .place(inputs[0], element)
        .place(inputs[1], sizeof(std::int32_t))
        .place(outputs[0], element)
        .integer(table_rows_)
        .large(count_)
        .integer(width_)
        .memory(device_->fault)
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
