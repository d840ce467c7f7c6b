// Runs one node on a kernel of the CPU platform and on the reference interpreter, with operands made from a seed.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "ir/interpreter.h"
#include "ir/trace.h"
#include "platform/platform.h"

namespace zoe::testing {

struct BytesBuffer : Buffer {
  explicit BytesBuffer(std::size_t size) : bytes(size + 64) {
    data = bytes.data() + (64 - reinterpret_cast<std::uintptr_t>(bytes.data()) % 64) % 64;
    size_bytes = size;
  }
  std::vector<std::byte> bytes;
};

struct InOrderStream : Stream {
  void synchronize() override {}
};

inline DeviceInfo cpu_device(bool bf16_products, int threads = 2) {
  DeviceInfo device{};
  device.platform = "cpu";
  device.threads = threads;
  device.bf16_products = bf16_products;
  return device;
}

// Normal values of the given spread that `dtype` holds exactly.
inline std::vector<double> random_values(const Type& type, unsigned seed, double spread = 1.0) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, static_cast<float>(spread));
  std::vector<double> values(static_cast<std::size_t>(type.shape.count()));
  for (double& value : values) {
    const float drawn = normal(generator);
    value = type.dtype == DType::bf16 ? bf16_to_f32(f32_to_bf16(drawn)) : drawn;
  }
  return values;
}

inline std::vector<std::byte> to_bytes(const std::vector<double>& values, DType dtype) {
  std::vector<float> wide(values.begin(), values.end());
  std::vector<std::byte> bytes(values.size() * size_of(dtype));
  convert(wide.data(), DType::f32, bytes.data(), dtype, values.size());
  return bytes;
}

struct Case {
  Value result;
  std::vector<std::vector<double>> operands;  // one per input of the node
  DType stored = DType::f32;                  // dtype of parameters before packing
};

inline std::vector<double> run_kernel(const Kernel& kernel, const Case& c) {
  const Node& node = c.result.node();
  std::vector<std::unique_ptr<BytesBuffer>> buffers;
  std::vector<Slot> slots;
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    const Type& type = node.inputs[i].type();
    const int input = static_cast<int>(i);
    if (node.inputs[i].node().opcode == Opcode::parameter && kernel.packed_bytes(input, type) != 0) {
      const std::vector<std::byte> bytes = to_bytes(c.operands[i], c.stored);
      std::vector<std::byte> shifted(bytes.size() + 1);  // an odd address, as in a mapped file
      std::memcpy(shifted.data() + 1, bytes.data(), bytes.size());
      buffers.push_back(std::make_unique<BytesBuffer>(kernel.packed_bytes(input, type)));
      kernel.pack_weight(input, type, DenseWeight(c.stored, type.shape, shifted.data() + 1),
                         static_cast<std::byte*>(buffers.back()->data));
    } else {
      const std::vector<std::byte> bytes = to_bytes(c.operands[i], type.dtype);
      buffers.push_back(std::make_unique<BytesBuffer>(bytes.size()));
      std::memcpy(buffers.back()->data, bytes.data(), bytes.size());
    }
    slots.push_back({buffers.back().get(), 0});
  }
  const Type& type = node.types[0];
  BytesBuffer output(type.size_bytes()), scratch(kernel.scratch_bytes());
  std::memset(output.data, 0xff, output.size_bytes);  // NaNs: an element left out is seen
  InOrderStream stream;
  const Slot result{&output, 0};
  kernel.run(stream, slots, {&result, 1}, {&scratch, 0});
  std::vector<float> wide(static_cast<std::size_t>(type.shape.count()));
  convert(output.data, type.dtype, wide.data(), DType::f32, wide.size());
  return {wide.begin(), wide.end()};
}

// The same on a platform. Operands that are not weights lie `shift` elements behind an aligned address.
inline std::vector<double> run_kernel(Platform& platform, const Kernel& kernel, const Case& c, std::size_t shift) {
  const Node& node = c.result.node();
  const auto stream = platform.make_stream();
  std::vector<std::shared_ptr<Buffer>> buffers;
  std::vector<Slot> slots;
  const auto upload = [&](const std::vector<std::byte>& bytes, std::size_t offset) {
    buffers.push_back(platform.allocate(offset + bytes.size(), "operand"));
    slots.push_back({buffers.back().get(), offset});
    platform.upload(*stream, bytes.data(), slots.back(), bytes.size());
  };
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    const Type& type = node.inputs[i].type();
    const int input = static_cast<int>(i);
    if (node.inputs[i].node().opcode == Opcode::parameter) {
      const std::vector<std::byte> stored = to_bytes(c.operands[i], c.stored);
      std::vector<std::byte> odd(stored.size() + 1),
          packed(kernel.packed_bytes(input, type));  // an odd address, as in a mapped file
      std::memcpy(odd.data() + 1, stored.data(), stored.size());
      kernel.pack_weight(input, type, DenseWeight(c.stored, type.shape, odd.data() + 1), packed.data());
      upload(packed, 0);
    } else {
      upload(to_bytes(c.operands[i], type.dtype), shift * size_of(type.dtype));
    }
  }
  const Type& type = node.types[0];
  std::vector<std::byte> result(type.size_bytes(), std::byte{0xff});  // NaNs: an element left out is seen
  upload(result, shift * size_of(type.dtype));
  const Slot output = slots.back();
  slots.pop_back();
  const auto scratch = platform.allocate(kernel.scratch_bytes(), "scratch");
  kernel.run(*stream, slots, {&output, 1}, {scratch.get(), 0});
  stream->synchronize();
  platform.download(*stream, output, result.data(), result.size());
  std::vector<float> wide(static_cast<std::size_t>(type.shape.count()));
  convert(result.data(), type.dtype, wide.data(), DType::f32, wide.size());
  return {wide.begin(), wide.end()};
}

// By the kernel that the platform has for the node.
inline std::vector<double> run_kernel(Platform& platform, const Case& c, std::size_t shift = 1) {
  return run_kernel(platform, *platform.make_kernel(c.result.node()), c, shift);
}

// The node in f64.
inline std::vector<double> run_reference(const Case& c) {
  const Node& node = c.result.node();
  std::vector<Value> arguments;
  std::vector<ReferenceTensor> tensors;
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    arguments.push_back(input("x" + std::to_string(i), node.inputs[i].dtype(), node.inputs[i].shape()));
    tensors.push_back({node.inputs[i].shape(), c.operands[i]});
  }
  const Graph graph = make_graph("case", arguments, {with_inputs(node, arguments, "")});
  return interpret(graph, tensors, {})[0].values;
}

inline double relative_rms(const std::vector<double>& got, const std::vector<double>& expected) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    error += (got[i] - expected[i]) * (got[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  EXPECT_GT(norm, 0.0);  // zeros prove nothing
  return std::sqrt(error / norm);
}

// f32: sums of up to a few thousand products, in sequence on some cores. bf16: one rounding of the result to 8 bits (at most 2^-9
// each).
inline double tolerance(DType dtype) { return dtype == DType::f32 ? 2e-6 : 2.2e-3; }

}  // namespace zoe::testing
