// Running one node's kernel on a platform, on values the test gives as doubles.
#pragma once

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "ir/interpreter.h"
#include "ir/trace.h"
#include "platform/platform.h"

namespace zoe::testing {

inline double rounded(double value, DType dtype) {
  const auto narrow = static_cast<float>(value);
  std::uint32_t stored = 0;
  float back = 0;
  convert(&narrow, DType::f32, &stored, dtype, 1);
  convert(&stored, dtype, &back, DType::f32, 1);
  return static_cast<double>(back);
}

// Values of both signs over several binades, rounded to the dtype; of 8 bits, all there are.
inline ReferenceTensor random_tensor(DType dtype, Shape shape, std::uint32_t seed) {
  std::mt19937 engine(seed);
  ReferenceTensor tensor{std::move(shape), {}};
  for (std::int64_t i = 0; i < tensor.shape.count(); ++i) {
    if (is_byte(dtype)) {
      tensor.values.push_back(static_cast<double>(engine() % 256) - (dtype == DType::i8 ? 128.0 : 0.0));
      continue;
    }
    const double unit = static_cast<double>(engine()) / 4294967296.0;
    tensor.values.push_back(rounded((engine() % 2 ? 8.0 : -8.0) * unit * unit * unit + (engine() % 2 ? 1e-3 : -1e-3), dtype));
  }
  return tensor;
}

struct NodeRun {
  std::vector<double> values;
  std::string implementation;
};

// The bytes of `values` as elements of `dtype`, one element behind the beginning.
inline std::vector<std::byte> shifted_bytes(const std::vector<double>& values, DType dtype) {
  const std::size_t size = size_of(dtype);
  std::vector<std::byte> bytes((values.size() + 1) * size);
  for (std::size_t k = 0; k < values.size(); ++k) {
    std::byte* const at = bytes.data() + (k + 1) * size;
    if (dtype == DType::i32) {
      const auto index = static_cast<std::int32_t>(values[k]);
      std::memcpy(at, &index, size);
    } else {
      const auto element = static_cast<float>(values[k]);
      convert(&element, DType::f32, at, dtype, 1);
    }
  }
  return bytes;
}

// `kernel`: of the value's node.
inline NodeRun run_node(const Kernel& kernel, const Value& value, const std::vector<ReferenceTensor>& inputs, Platform& platform) {
  const Node& node = value.node();
  const auto stream = platform.make_stream();
  std::vector<std::shared_ptr<Buffer>> buffers;
  std::vector<Slot> slots;
  // One element of distance from an aligned address: kernels may not count on more than their elements' alignment.
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const DType dtype = node.inputs[i].dtype();
    const std::vector<std::byte> bytes = shifted_bytes(inputs[i].values, dtype);
    buffers.push_back(platform.allocate(bytes.size(), "input"));
    platform.upload(*stream, bytes.data(), {buffers.back().get(), 0}, bytes.size());
    slots.push_back({buffers.back().get(), size_of(dtype)});
  }
  const Type& type = value.type();
  const auto count = static_cast<std::size_t>(type.shape.count());
  const std::size_t size = size_of(type.dtype), guard = 64;
  std::vector<std::byte> result(size + count * size + guard, std::byte{0xa5});
  const auto output = platform.allocate(result.size(), "output");
  platform.upload(*stream, result.data(), {output.get(), 0}, result.size());
  const Slot place{output.get(), size};
  kernel.run(*stream, slots, {&place, 1}, Slot{});
  stream->synchronize();
  platform.download(*stream, {output.get(), 0}, result.data(), result.size());
  for (std::size_t i = 0; i < result.size(); ++i)
    if ((i < size || i >= size + count * size) && result[i] != std::byte{0xa5})
      throw std::runtime_error("the kernel wrote outside its result");
  NodeRun run{{}, std::string(kernel.implementation())};
  for (std::size_t k = 0; k < count; ++k) {
    float element = 0;
    convert(result.data() + (k + 1) * size, type.dtype, &element, DType::f32, 1);
    run.values.push_back(static_cast<double>(element));
  }
  return run;
}

inline NodeRun run_node(const Value& value, const std::vector<ReferenceTensor>& inputs, Platform& platform) {
  return run_node(*platform.make_kernel(value.node()), value, inputs, platform);
}

// The interpreter's result of the graph of this one node, whose operands are inputs.
inline std::vector<double> interpret_node(const Value& value, const std::vector<ReferenceTensor>& inputs) {
  return interpret(make_graph("node", value.node().inputs, {value}), inputs, {}).front().values;
}

}  // namespace zoe::testing
