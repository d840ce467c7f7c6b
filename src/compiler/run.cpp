#include "compiler/run.h"

#include <algorithm>

#include "base/error.h"

namespace zoe {

namespace {

void check_types(const Plan& plan, std::string_view what, std::span<const Tensor> given, const std::vector<Value>& wanted) {
  check(given.size() == wanted.size(), ErrorKind::invalid_argument, plan.graph.name, "got {} {}s, expected {}.", given.size(), what,
        wanted.size());
  for (std::size_t i = 0; i < given.size(); ++i)
    check(given[i].type == wanted[i].type(), ErrorKind::invalid_argument, plan.graph.name, "{} {}: got {}, expected {}.", what, i,
          given[i].type.str(), wanted[i].type().str());
}

}  // namespace

void run(const Plan& plan, Stream& stream, WeightStore& weights, std::span<const Tensor> inputs, std::span<const Tensor> outputs,
         const Tensor& workspace, const RunOptions& options) {
  check_types(plan, "input", inputs, plan.graph.inputs);
  check_types(plan, "output", outputs, plan.graph.outputs);
  check(workspace.size_bytes() >= plan.workspace_bytes, ErrorKind::invalid_argument, plan.graph.name,
        "workspace too small: got {} bytes, expected {}.", workspace.size_bytes(), plan.workspace_bytes);

  const auto slot = [&](const Place& place) -> Slot {
    const auto index = static_cast<std::size_t>(place.index);
    switch (place.kind) {
      case Place::Kind::workspace: return {workspace.buffer.get(), workspace.offset + place.offset};
      case Place::Kind::input: return {inputs[index].buffer.get(), inputs[index].offset + place.offset};
      case Place::Kind::output: return {outputs[index].buffer.get(), outputs[index].offset + place.offset};
      case Place::Kind::weight: return {&weights.at(plan.weights[index]), place.offset};
      case Place::Kind::constant: return {plan.constants.buffer.get(), place.offset};
    }
    return {};
  };
  int loaded = -1;  // segments up to this one have been loaded
  std::vector<Slot> operands, results;
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    const Step& step = plan.steps[i];
    if (options.cancel && options.cancel->load(std::memory_order_relaxed)) {
      stream.synchronize();
      fail(ErrorKind::cancelled, plan.graph.name, "stopped at step {} of {}.", i, plan.steps.size());
    }
    if (options.stream_weights && step.node->segment > loaded) {
      stream.synchronize();
      if (loaded > 0) weights.release(plan, loaded);  // segment 0 holds what every segment reads
      for (; loaded < step.node->segment; ++loaded) weights.load(plan, loaded + 1);
    }
    operands.clear();
    for (const Place& place : step.inputs) operands.push_back(slot(place));
    results.clear();
    for (const Place& place : step.outputs) results.push_back(slot(place));
    const auto begin = options.observe ? StepClock::now() : StepClock::time_point{};
    step.kernel->run(stream, operands, results, slot(step.scratch));
    if (options.observe) {
      stream.synchronize();
      (*options.observe)({plan, i, results, begin, StepClock::now()});
    }
  }
  stream.synchronize();
  if (options.stream_weights)
    for (int segment = 0; segment < plan.segment_count; ++segment) weights.release(plan, segment);
}

Tensor make_workspace(Platform& platform, std::span<const Plan* const> plans) {
  std::size_t bytes = 64;
  for (const Plan* plan : plans) bytes = std::max(bytes, plan->workspace_bytes);
  return make_tensor(platform, {DType::f32, {static_cast<std::int64_t>((bytes + 3) / 4)}}, "workspace");
}

}  // namespace zoe
