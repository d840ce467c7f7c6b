// Euler steps along the flow (Esser et al. 2024, "Scaling Rectified Flow Transformers"): x += (sigma' - sigma) * output.
#pragma once

#include "schedulers/scheduler.h"

namespace zoe {

class EulerScheduler final : public Scheduler {
 public:
  // The configuration has been checked by make_scheduler.
  EulerScheduler(const SchedulerConfig& config, int steps);
  std::vector<Value> trace_step(const Value& sample, const Value& model_output, const Value& coefficients,
                                std::span<const Value> kept) const override;
  std::vector<float> coefficients(int i) const override;
};

}  // namespace zoe
