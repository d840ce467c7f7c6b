// Running a plan.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <span>
#include <vector>

#include "compiler/compile.h"
#include "compiler/weights.h"

namespace zoe {

// Is told of every step after it ran.
using StepClock = std::chrono::steady_clock;
struct StepRun {
  const Plan& plan;
  std::size_t step;
  std::span<const Slot> results;  // where they lie until a later step writes there
  StepClock::time_point begin, end;
};
using StepObserver = std::function<void(const StepRun&)>;

struct RunOptions {
  // Looked at before every step; true ends the run with an Error of kind cancelled.
  const std::atomic<bool>* cancel = nullptr;
  // Load each segment's weights before it and free them behind it, instead of expecting all of them in the store.
  bool stream_weights = false;
  const StepObserver* observe = nullptr;  // if set, the stream is synchronised after every step
};

// `inputs` and `outputs` in the graph's order and of its types; `workspace` of at least plan.workspace_bytes.
// An output may be the same tensor as an input where Plan::can_update_in_place says so.
void run(const Plan& plan, Stream& stream, WeightStore& weights, std::span<const Tensor> inputs, std::span<const Tensor> outputs,
         const Tensor& workspace, const RunOptions& options = {});

// A workspace for any of the plans.
Tensor make_workspace(Platform& platform, std::span<const Plan* const> plans);

}  // namespace zoe
