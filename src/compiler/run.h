// Running a plan.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "compiler/compile.h"
#include "compiler/weights.h"

namespace zoe {

using StepClock = std::chrono::steady_clock;

// Is told of every step after it ran, the stream drained: for looking at results.
struct StepRun {
  const Plan& plan;
  std::size_t step;
  std::span<const Slot> results;  // where they lie until a later step writes there
};
using StepObserver = std::function<void(const StepRun&)>;

// Is told of every step once the run is over: for measuring. Nothing waits between steps; times are those at which the device
// passed events in the queue. A step that works beside others has its own time, at which others run too.
struct StepTime {
  const Plan& plan;
  std::size_t step;
  StepClock::time_point begin, end;
  StepClock::duration waited{};  // in front of it, the device had nothing to do but what works beside
};
using StepTimer = std::function<void(const StepTime&)>;

// CapturedGraphs of plans' blocks, for streams that can capture. The first run of a plan is queued kernel by kernel (libraries set
// themselves up then; one that fails does not count), the next one with the same arguments is captured, later ones are launched.
// Belongs to who runs the plans; plans, weights and tensors must outlive its use. One stream at a time.
class CapturedGraphs {
 public:
  std::size_t captured() const { return captured_; }  // blocks
  std::size_t launched() const { return launched_; }
  // Why some block is queued kernel by kernel; empty: none is.
  const std::string& refusal() const { return refusal_; }

 private:
  friend class PlanRun;
  // All that the addresses in a graph follow from: the plan, its arguments, its workspace and its weights.
  struct Key {
    const Plan* plan;
    const WeightStore* weights;
    std::uint64_t weights_generation;
    std::vector<const std::byte*> arguments;
    friend auto operator<=>(const Key&, const Key&) = default;
  };
  struct Block {
    std::unique_ptr<CapturedGraph> graph;
    bool refused = false;
  };
  std::set<const Plan*> ran_;
  std::map<Key, std::vector<Block>> blocks_;
  std::size_t captured_ = 0, launched_ = 0;
  std::string refusal_;
};

struct RunOptions {
  // Looked at before every step, or every block that is launched; true ends the run with an Error of kind cancelled. So that the
  // device is never far behind, at most two blocks are queued ahead of the one at work.
  const std::atomic<bool>* cancel = nullptr;
  const StepObserver* observe = nullptr;
  const StepTimer* time = nullptr;
  // If set, and if the stream can capture, blocks are captured and launched. Not with the two above.
  CapturedGraphs* captured_graphs = nullptr;
  // False: return when all is queued, without waiting for it. What the run reads and writes must live until the stream is drained.
  bool wait = true;
};

// `inputs` and `outputs` in the graph's order and of its types; `workspace` of at least plan.workspace_bytes.
// The store has the plan's weights loaded, or streams them (WeightStore::stream): copies of blocks then run beside the kernels.
// Whatever it throws, what was queued is done by then: plan, stream and store can be used again.
// An output may be the same tensor as an input where Plan::can_update_in_place says so.
void run(const Plan& plan, Stream& stream, WeightStore& weights, std::span<const Tensor> inputs, std::span<const Tensor> outputs,
         const Tensor& workspace, const RunOptions& options = {});

// A workspace for any of the plans.
Tensor make_workspace(Platform& platform, std::span<const Plan* const> plans);

}  // namespace zoe
