#include "compiler/run.h"

#include <algorithm>
#include <deque>
#include <map>
#include <utility>

#include "base/error.h"
#include "base/log.h"

namespace zoe {

namespace {

constexpr int kEmptyEvents = 8;
constexpr std::size_t kBlocksAhead = 2;  // of the one at work: the device does not wait for the host, and stops soon

void check_types(const Plan& plan, std::string_view what, std::span<const Tensor> given, const std::vector<Value>& wanted) {
  check(given.size() == wanted.size(), ErrorKind::invalid_argument, plan.graph.name, "got {} {}s, expected {}.", given.size(), what,
        wanted.size());
  for (std::size_t i = 0; i < given.size(); ++i)
    check(given[i].type == wanted[i].type(), ErrorKind::invalid_argument, plan.graph.name, "{} {}: got {}, expected {}.", what, i,
          given[i].type.str(), wanted[i].type().str());
}

// Where the steps of each block begin, and their end.
std::vector<std::size_t> block_bounds(const Plan& plan) {
  std::vector<std::size_t> bounds;
  for (std::size_t i = 0; i < plan.steps.size(); ++i)
    if (i == 0 || plan.steps[i].block > plan.steps[i - 1].block) bounds.push_back(i);
  bounds.push_back(plan.steps.size());
  return bounds;
}

}  // namespace

class PlanRun {
 public:
  PlanRun(const Plan& plan, Stream& stream, WeightStore& weights, std::span<const Tensor> inputs, std::span<const Tensor> outputs,
          const Tensor& workspace, const RunOptions& options)
      : plan_(plan),
        stream_(stream),
        weights_(weights),
        inputs_(inputs),
        outputs_(outputs),
        workspace_(workspace),
        options_(options) {}

  void go() {
    weights_.begin_run(plan_, {.cancel = options_.cancel});
    const std::vector<std::size_t> bounds = block_bounds(plan_);
    std::vector<CapturedGraphs::Block>* const captured = captured_blocks(bounds.size() - 1);
    if (options_.time) {
      stream_.synchronize();
      for (int i = 0; i < kEmptyEvents; ++i) empty_.push_back(stream_.record_event());
      mark();
      start_ = StepClock::now();
    }
    const LoadOptions load{.cancel = options_.cancel};
    std::deque<std::unique_ptr<Event>> ahead;
    for (std::size_t s = 0; s + 1 < bounds.size(); ++s) {
      check_cancelled(bounds[s]);  // before weights are loaded for it
      const int block = plan_.steps.empty() ? 0 : plan_.steps[bounds[s]].block;
      weights_.begin_block(block, stream_, load);
      if (captured) launch(s, bounds[s], bounds[s + 1], (*captured)[s]);
      else queue(bounds[s], bounds[s + 1]);
      weights_.end_block(block, stream_, load);
      if (!options_.cancel || s + 2 == bounds.size()) continue;
      ahead.push_back(stream_.record_event());
      if (ahead.size() <= kBlocksAhead) continue;
      ahead.front()->wait();
      ahead.pop_front();
    }
    for (const auto& [step, done] : beside_) stream_.wait_for(*done);
    if (options_.wait || options_.time) stream_.synchronize();
    if (options_.captured_graphs) options_.captured_graphs->ran_.insert(&plan_);
    if (options_.time) tell_times();
  }

  // After an error: what is queued still uses memory that the caller may free next.
  void drain() {
    try {
      for (const auto& [step, done] : beside_) done->wait();
      stream_.synchronize();
    } catch (const Error&) {  // what failed first is what is told
    }
    weights_.drain();
  }

 private:
  void check_cancelled(std::size_t step) const {
    if (!options_.cancel || !options_.cancel->load(std::memory_order_relaxed)) return;
    fail(ErrorKind::cancelled, plan_.graph.name, "stopped at step {} of {}.", step, plan_.steps.size());
  }

  Slot slot(const Place& place) const {
    const auto index = static_cast<std::size_t>(place.index);
    switch (place.kind) {
      case Place::Kind::workspace: return {workspace_.buffer.get(), workspace_.offset + place.offset};
      case Place::Kind::input: return {inputs_[index].buffer.get(), inputs_[index].offset + place.offset};
      case Place::Kind::output: return {outputs_[index].buffer.get(), outputs_[index].offset + place.offset};
      case Place::Kind::weight: {
        const Slot weight = weights_.at(plan_.weights[index]);
        return {weight.buffer, weight.offset + place.offset};
      }
      case Place::Kind::constant: return {plan_.constants.buffer.get(), place.offset};
    }
    return {};
  }

  void queue(std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      if (!capturing_) check_cancelled(i);
      const Step& step = plan_.steps[i];
      wait_for_those_beside(step);
      operands_.clear();
      for (const Place& place : step.inputs) operands_.push_back(slot(place));
      results_.clear();
      for (const Place& place : step.outputs) results_.push_back(slot(place));
      if (step.kernel->works_beside() && !options_.observe) beside_[i] = step.kernel->start(stream_, operands_, results_);
      else step.kernel->run(stream_, operands_, results_, slot(step.scratch));
      if (options_.time) {
        const std::size_t before = events_.size() - 1;
        timed_.push_back({before, mark(), waited_});
      }
      if (!options_.observe) continue;
      stream_.synchronize();
      (*options_.observe)({plan_, i, results_});
    }
  }

  void wait_for_those_beside(const Step& step) {
    waited_ = false;
    for (const int other : step.waits_for) {
      const auto found = beside_.find(static_cast<std::size_t>(other));
      if (found == beside_.end()) continue;
      stream_.wait_for(*found->second);
      waited_ = true;
      if (options_.time) done_beside_.insert(beside_.extract(found));
      else beside_.erase(found);
    }
    if (waited_ && options_.time) mark();
  }

  // The number of an event behind all that is queued.
  std::size_t mark() {
    events_.push_back(stream_.record_event());
    return events_.size() - 1;
  }

  // Null: this run is not to be captured.
  std::vector<CapturedGraphs::Block>* captured_blocks(std::size_t count) const {
    CapturedGraphs* const captured_graphs = options_.captured_graphs;
    if (!captured_graphs || !stream_.can_capture() || options_.observe || options_.time) return nullptr;
    if (!captured_graphs->ran_.contains(&plan_)) return nullptr;
    CapturedGraphs::Key key{&plan_, &weights_, weights_.generation(), {workspace_.slot().data()}};
    for (const std::span<const Tensor> tensors : {inputs_, outputs_})
      for (const Tensor& tensor : tensors) key.arguments.push_back(tensor.slot().data());
    std::vector<CapturedGraphs::Block>& blocks = captured_graphs->blocks_[std::move(key)];
    blocks.resize(count);
    return &blocks;
  }

  void launch(std::size_t number, std::size_t begin, std::size_t end, CapturedGraphs::Block& block) {
    if (!block.graph && !block.refused)
      for (std::size_t i = begin; i < end; ++i) block.refused |= !plan_.steps[i].kernel->can_capture();
    if (!block.graph && !block.refused) {
      std::string why;
      block.graph = capture(begin, end, &why);
      block.refused = !block.graph;
      if (block.graph) ++options_.captured_graphs->captured_;
      else if (options_.captured_graphs->refusal_.empty()) options_.captured_graphs->refusal_ = why;
      if (block.refused)
        log(LogLevel::notice, fmt::format("block {} of plan {} cannot be captured, its kernels are queued one by one: {}", number,
                                          plan_.graph.name, why));
    }
    if (block.refused) return queue(begin, end);
    stream_.launch(*block.graph);
    ++options_.captured_graphs->launched_;
  }

  // What a kernel may do at any other time, its library may refuse to have captured: that is no error of the run.
  std::unique_ptr<CapturedGraph> capture(std::size_t begin, std::size_t end, std::string* why) {
    stream_.capture_begin();
    capturing_ = true;
    std::string failure;
    try {
      queue(begin, end);
    } catch (const Error& error) {
      failure = error.what();
    } catch (...) {
      capturing_ = false;
      stream_.capture_end(why);
      throw;
    }
    capturing_ = false;
    std::unique_ptr<CapturedGraph> graph = stream_.capture_end(why);
    if (failure.empty()) return graph;
    *why = failure;
    return nullptr;
  }

  void tell_times() {
    // The device spends time on an event itself: the least of several with nothing between them is no part of a step.
    double own = empty_[1]->seconds_since(*empty_[0]);
    for (std::size_t i = 2; i < empty_.size(); ++i) own = std::min(own, empty_[i]->seconds_since(*empty_[i - 1]));
    const auto after_start = [&](double seconds) {
      return start_ + std::chrono::duration_cast<StepClock::duration>(std::chrono::duration<double>(seconds));
    };
    std::vector<double> at;  // of each mark
    for (const std::unique_ptr<Event>& event : events_) at.push_back(event->seconds_since(*events_[0]));
    done_beside_.merge(beside_);
    double end_beside = 0;  // of the last one: they go one behind the other
    for (std::size_t i = 0; i < plan_.steps.size(); ++i) {
      const Timed& timed = timed_[i];
      double begin = at[timed.begin], end = at[timed.end];
      const double waited = timed.waited ? std::max(0.0, begin - at[timed.begin - 1] - own) : 0;
      if (const auto beside = done_beside_.find(i); beside != done_beside_.end()) {
        begin = std::max(begin, end_beside);
        end_beside = end = std::max(begin, beside->second->seconds_since(*events_[0]));
      }
      (*options_.time)({plan_, i, after_start(std::min(begin + own, end)), after_start(end),
                        std::chrono::duration_cast<StepClock::duration>(std::chrono::duration<double>(waited))});
    }
  }

  const Plan& plan_;
  Stream& stream_;
  WeightStore& weights_;
  const std::span<const Tensor> inputs_, outputs_;
  const Tensor& workspace_;
  const RunOptions& options_;
  bool capturing_ = false;
  std::vector<Slot> operands_, results_;                       // of the step at hand
  std::vector<std::unique_ptr<Event>> empty_;                  // with nothing between them
  std::map<std::size_t, std::unique_ptr<Event>> beside_;       // by step: it is done, and nothing waited for it yet
  std::map<std::size_t, std::unique_ptr<Event>> done_beside_;  // the others, where times are asked for
  bool waited_ = false;                                        // in front of the step at hand
  std::vector<std::unique_ptr<Event>> events_;                 // before the first step, behind each, and behind what one waited for
  struct Timed {
    std::size_t begin, end;  // events
    bool waited;             // from the event before `begin` on
  };
  std::vector<Timed> timed_;     // by step
  StepClock::time_point start_;  // when the first event was reached
};

void run(const Plan& plan, Stream& stream, WeightStore& weights, std::span<const Tensor> inputs, std::span<const Tensor> outputs,
         const Tensor& workspace, const RunOptions& options) {
  check_types(plan, "input", inputs, plan.graph.inputs);
  check_types(plan, "output", outputs, plan.graph.outputs);
  check(workspace.size_bytes() >= plan.workspace_bytes, ErrorKind::invalid_argument, plan.graph.name,
        "workspace too small: got {} bytes, expected {}.", workspace.size_bytes(), plan.workspace_bytes);
  PlanRun run(plan, stream, weights, inputs, outputs, workspace, options);
  try {
    run.go();
  } catch (...) {
    run.drain();
    throw;
  }
}

Tensor make_workspace(Platform& platform, std::span<const Plan* const> plans) {
  std::size_t bytes = 64;
  for (const Plan* plan : plans) bytes = std::max(bytes, plan->workspace_bytes);
  return make_tensor(platform, {DType::f32, {static_cast<std::int64_t>((bytes + 3) / 4)}}, "workspace");
}

}  // namespace zoe
