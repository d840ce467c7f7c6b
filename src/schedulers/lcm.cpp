#include "schedulers/lcm.h"

#include <cstddef>

#include "ir/trace.h"
#include "schedulers/sigmas.h"

namespace zoe {

LcmScheduler::LcmScheduler(const SchedulerConfig& config, int steps) {
  sigmas_ = flow_match_sigmas(config, steps);
  if (config.kind == SchedulerKind::rcm) initial_scale_ = sigmas_.front();
  for (int i = 0; i < steps - config.skipped; ++i)
    timesteps_.push_back(sigmas_[static_cast<std::size_t>(i)] * static_cast<float>(config.num_train_timesteps));
}

std::vector<float> LcmScheduler::coefficients(int i) const {
  const auto s = static_cast<std::size_t>(i);
  return {sigmas_[s], 1.0f - sigmas_[s + 1], sigmas_[s + 1]};
}

std::vector<Value> LcmScheduler::trace_step(const Value& sample, const Value& model_output, const Value& coefficients,
                                            std::span<const Value> kept) const {
  const auto coefficient = [&](std::int64_t i) { return slice(coefficients, 0, i, i + 1); };
  const Value clean = sample - coefficient(0) * model_output;
  return {coefficient(1) * clean + coefficient(2) * kept[0]};
}

}  // namespace zoe
