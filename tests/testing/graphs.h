// Running graphs in tests, by the reference interpreter or on a platform, with tensors and weights from safetensors files.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "compiler/compile.h"
#include "compiler/run.h"
#include "compiler/weights.h"
#include "ir/interpreter.h"

namespace zoe::testing {

inline ReferenceTensor make_reference(Shape shape, const std::vector<float>& values) {
  return {std::move(shape), {values.begin(), values.end()}};
}

// A tensor of a file, integers too.
inline ReferenceTensor read_tensor(const Checkpoint& file, const std::string& name) {
  const TensorEntry* entry = file.find(name);
  if (!entry) throw std::runtime_error(file.where() + " has no tensor " + name);
  if (entry->dtype() == "I32") {
    std::vector<std::int32_t> values(entry->bytes.size() / 4);
    std::memcpy(values.data(), entry->bytes.data(), entry->bytes.size());
    return {entry->shape, {values.begin(), values.end()}};
  }
  std::vector<float> values(static_cast<std::size_t>(entry->shape.count()));
  weight_of(*entry, file.where())->read(0, entry->shape.count(), DType::f32, values.data());
  return make_reference(entry->shape, values);
}

constexpr std::string_view kUncompiled = "_uncompiled";
inline std::string platform_of(const std::string& runner) {
  return runner.ends_with(kUncompiled) ? runner.substr(0, runner.size() - kUncompiled.size()) : runner;
}

// False, with the reason in `why`, if the runner's platform does not open here.
inline bool runs_here(const std::string& runner, std::string& why) {
  if (runner == "interpreter") return true;
  try {
    open_platform(platform_of(runner));
    return true;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::unsupported) throw;
    why = error.what();
    return false;
  }
}

// Runs the graph by the interpreter ("interpreter"), or on the platform of that name, with "_uncompiled" behind it node by node.
// Weights come from `weights` (null: the graph has none), rounded to the parameters' dtypes.
inline std::vector<ReferenceTensor> run_graph(const std::string& runner, const Graph& graph,
                                              const std::vector<ReferenceTensor>& inputs, const Checkpoint* weights = nullptr) {
  if (runner == "interpreter") {
    return interpret(graph, inputs, [&](const Node& parameter) {
      ReferenceTensor tensor = read_tensor(*weights, parameter.name);
      tensor.shape = parameter.types[0].shape;
      if (parameter.types[0].dtype == DType::bf16)
        for (double& value : tensor.values) value = static_cast<double>(bf16_to_f32(f32_to_bf16(static_cast<float>(value))));
      return tensor;
    });
  }
  const auto platform = open_platform(platform_of(runner));
  const auto stream = platform->make_stream();
  const Plan plan = compile(graph, *platform, {.compile = !runner.ends_with(kUncompiled)});
  WeightStore store(*platform, [&](const std::string& name) {
    const TensorEntry* entry = weights->find(name);
    if (!entry) throw std::runtime_error(weights->where() + " has no tensor " + name);
    return weight_of(*entry, weights->where());
  });
  store.load(plan);
  std::vector<Tensor> given, results;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    given.push_back(make_tensor(*platform, graph.inputs[i].type(), "input"));
    if (graph.inputs[i].dtype() == DType::i32)
      upload(*platform, *stream,
             std::span<const std::int32_t>(std::vector<std::int32_t>(inputs[i].values.begin(), inputs[i].values.end())),
             given.back());
    else
      upload(*platform, *stream, std::span<const float>(std::vector<float>(inputs[i].values.begin(), inputs[i].values.end())),
             given.back());
  }
  for (const Value& output : graph.outputs) results.push_back(make_tensor(*platform, output.type(), "output"));
  const Plan* const plans[] = {&plan};
  run(plan, *stream, store, given, results, make_workspace(*platform, plans));
  std::vector<ReferenceTensor> outputs;
  for (const Tensor& result : results) {
    std::vector<float> values(static_cast<std::size_t>(result.type.shape.count()));
    download(*platform, *stream, result, values);
    outputs.push_back(make_reference(result.type.shape, values));
  }
  return outputs;
}

}  // namespace zoe::testing
