#include "schedulers/euler.h"

#include <cstddef>

#include "base/error.h"
#include "ir/trace.h"

namespace zoe {

// Diffusers shifts twice: first, in f32, the two ends of the training levels, then, in f64, the levels spaced evenly between.
EulerScheduler::EulerScheduler(const SchedulerConfig& config, int steps, std::span<const double> levels) {
  const auto n = static_cast<std::size_t>(steps);
  const auto train = static_cast<double>(config.num_train_timesteps);
  const auto shift = static_cast<float>(config.flow_shift), shift_minus_1 = static_cast<float>(config.flow_shift - 1.0);
  const auto end = [&](float sigma) { return static_cast<double>(shift * sigma / (1.0f + shift_minus_1 * sigma)) * train; };
  const double first = end(1.0f), last = end(1.0f / static_cast<float>(train));
  const double stride = n > 1 ? (last - first) / static_cast<double>(n - 1) : 0.0;
  for (const double level : levels) {  // in f32, and shifted once
    const auto l = static_cast<float>(level);
    sigmas_.push_back(shift * l / (1.0f + shift_minus_1 * l));
    timesteps_.push_back(sigmas_.back() * static_cast<float>(train));
  }
  for (std::size_t i = 0; i < n && levels.empty(); ++i) {
    const double timestep = i > 0 && i + 1 == n ? last : static_cast<double>(i) * stride + first;
    const double sigma = timestep / train;
    sigmas_.push_back(static_cast<float>(config.flow_shift * sigma / (1.0 + (config.flow_shift - 1.0) * sigma)));
    timesteps_.push_back(sigmas_.back() * static_cast<float>(train));
  }
  sigmas_.push_back(0.0f);
}

void EulerScheduler::step(int i, std::span<float> sample, std::span<const float> model_output) {
  ZOE_INTERNAL_CHECK(i >= 0 && i < steps() && sample.size() == model_output.size());
  const auto s = static_cast<std::size_t>(i);
  const float dt = sigmas_[s + 1] - sigmas_[s];
  for (std::size_t e = 0; e < sample.size(); ++e) sample[e] += dt * model_output[e];
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
