// DPM-Solver++ (Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models"), the multistep
// version of second order (2M, midpoint) for flow matching: x_sigma = (1 - sigma) x0 + sigma noise.
//
// With lambda = log((1 - sigma) / sigma), h = lambda' - lambda, r = (lambda - lambda of the step before) / h:
//   x' = (sigma' / sigma) x - (1 - sigma') (e^-h - 1) (x0 + (x0 - x0 of the step before) / (2 r))
// The first step, and the last one to 0, are of first order: without the last term.
#pragma once

#include <array>

#include "schedulers/scheduler.h"

namespace zoe {

class DpmppScheduler final : public Scheduler {
 public:
  // The configuration has been checked by make_scheduler. A solver_order of 3 counts as 2.
  DpmppScheduler(const SchedulerConfig& config, int steps);
  std::vector<Value> trace_step(const Value& sample, const Value& model_output, const Value& coefficients,
                                std::span<const Value> kept) const override;
  std::vector<float> coefficients(int i) const override;
  int kept_count() const override { return 2; }  // x0 of this step and of the one before, by turns
  std::vector<int> reads(int i) const override { return {(i + 1) % 2}; }
  std::vector<int> writes(int i) const override { return {i % 2}; }

 private:
  std::vector<std::array<float, 4>> table_;  // sigma, then the factors of x, x0 and the x0 before
};

}  // namespace zoe
