// UniPC (Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models"), the
// multistep B(h) version on predicted clean samples, for flow matching: x_sigma = (1 - sigma) x0 + sigma noise.
#pragma once

#include <array>

#include "schedulers/scheduler.h"

namespace zoe {

class UniPCScheduler final : public Scheduler {
 public:
  // The configuration has been checked by make_scheduler.
  UniPCScheduler(const SchedulerConfig& config, int steps);
  std::vector<Value> trace_step(const Value& sample, const Value& model_output, const Value& coefficients,
                                std::span<const Value> kept) const override;
  std::vector<float> coefficients(int i) const override;
  // Two for the corrected sample, by turns, then a ring of x0: one more than the order, as the newest is written beside those read.
  int kept_count() const override { return 2 + ring(); }
  std::vector<int> reads(int i) const override;
  std::vector<int> writes(int i) const override { return {(i + 1) % 2, 2 + i % ring()}; }

 private:
  int ring() const { return order_ + 1; }
  static constexpr int kMaxOrder = 3;

  // One step, in terms of x0 = sample - sigma * output, the x0 of the three steps before (most recent first), and the
  // corrected sample the step before started from.
  struct Step {
    float sigma;
    struct Corrector {
      float sample = 1, last = 0, x0 = 0;
      std::array<float, kMaxOrder> past{};
    } corrected;
    struct Predictor {
      float corrected, x0;
      std::array<float, kMaxOrder> past{};  // the last one stays 0: order 3 looks back two steps
    } next;
  };

  std::vector<Step> table_;
  int order_;  // the highest, which is how many x0 are kept
};

}  // namespace zoe
