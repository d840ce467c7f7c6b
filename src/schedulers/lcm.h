// Steps of models that predict the clean sample in one go (Luo et al. 2023, "Latent Consistency Models"; Yin et al. 2024, "One-step
// Diffusion with Distribution Matching Distillation"): to that sample, and from there to the next level with fresh noise.
//
//   x0 = x - sigma output; x' = (1 - sigma') x0 + sigma' noise
//
// rCM (Zheng et al. 2025, "Large Scale Diffusion Distillation via Score-Regularized Continuous-Time Consistency") begins below
// level 1, at the level of an angle of TrigFlow, sin / (sin + cos), with the noise of that level: x = sigma noise.
#pragma once

#include "schedulers/scheduler.h"

namespace zoe {

class LcmScheduler final : public Scheduler {
 public:
  // The configuration has been checked by make_scheduler.
  LcmScheduler(const SchedulerConfig& config, int steps);
  std::vector<Value> trace_step(const Value& sample, const Value& model_output, const Value& coefficients,
                                std::span<const Value> kept) const override;
  std::vector<float> coefficients(int i) const override;
  int kept_count() const override { return 1; }
  std::vector<int> reads(int) const override { return {0}; }
  std::optional<int> noise() const override { return 0; }
  float initial_scale() const override { return initial_scale_; }

 private:
  float initial_scale_ = 1;
};

}  // namespace zoe
