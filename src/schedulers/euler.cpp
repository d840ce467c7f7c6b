#include "schedulers/euler.h"

#include <cstddef>

#include "ir/trace.h"
#include "schedulers/sigmas.h"

namespace zoe {

EulerScheduler::EulerScheduler(const SchedulerConfig& config, int steps) {
  sigmas_ = flow_match_sigmas(config, steps);
  for (int i = 0; i < steps - config.skipped; ++i)
    timesteps_.push_back(sigmas_[static_cast<std::size_t>(i)] * static_cast<float>(config.num_train_timesteps));
}

std::vector<float> EulerScheduler::coefficients(int i) const {
  const auto s = static_cast<std::size_t>(i);
  return {sigmas_[s + 1] - sigmas_[s]};
}

std::vector<Value> EulerScheduler::trace_step(const Value& sample, const Value& model_output, const Value& coefficients,
                                              std::span<const Value>) const {
  return {sample + slice(coefficients, 0, 0, 1) * model_output};
}

}  // namespace zoe
