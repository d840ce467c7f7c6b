#include "schedulers/dpmpp.h"

#include <cmath>
#include <cstddef>

#include "ir/trace.h"
#include "schedulers/sigmas.h"

namespace zoe {

namespace {

// Diffusers spaces the levels evenly between 1 - 1 / N and 0, and leaves out the 0: N training steps.
std::vector<double> spaced_sigmas(const SchedulerConfig& config, int steps) {
  const double end = 1.0 / static_cast<double>(config.num_train_timesteps), stride = (end - 1.0) / steps;
  std::vector<double> sigmas;
  for (int i = steps - config.skipped; i > 0; --i) {
    const double sigma = 1.0 - (i == steps ? end : static_cast<double>(i) * stride + 1.0);
    sigmas.push_back(config.flow_shift * sigma / (1.0 + (config.flow_shift - 1.0) * sigma));
  }
  return sigmas;
}

}  // namespace

DpmppScheduler::DpmppScheduler(const SchedulerConfig& config, int steps) {
  const std::vector<double> sigmas = config.sigmas.empty() ? spaced_sigmas(config, steps) : shifted_sigmas(config, steps);
  for (const double sigma : sigmas) {
    timesteps_.push_back(static_cast<float>(static_cast<std::int64_t>(sigma * static_cast<double>(config.num_train_timesteps))));
    sigmas_.push_back(static_cast<float>(sigma));
  }
  sigmas_.push_back(0.0f);
  steps -= config.skipped;
  // Of level 1 it is minus infinity, of 0 infinity: both come out right below.
  const auto lambda = [&](std::size_t i) {
    const auto sigma = static_cast<double>(sigmas_[i]);
    return std::log(1.0 - sigma) - std::log(sigma);
  };
  for (std::size_t i = 0; i < static_cast<std::size_t>(steps); ++i) {
    const auto sigma = static_cast<double>(sigmas_[i]), next = static_cast<double>(sigmas_[i + 1]);
    const double h = lambda(i + 1) - lambda(i), factor = -(1.0 - next) * std::expm1(-h);
    double slope = 0;
    if (i > 0 && i + 1 < static_cast<std::size_t>(steps) && config.solver_order > 1) slope = 0.5 * h / (lambda(i) - lambda(i - 1));
    table_.push_back({static_cast<float>(sigma), static_cast<float>(next / sigma), static_cast<float>(factor * (1.0 + slope)),
                      static_cast<float>(-factor * slope)});
  }
}

std::vector<float> DpmppScheduler::coefficients(int i) const {
  const std::array<float, 4>& row = table_[static_cast<std::size_t>(i)];
  return {row.begin(), row.end()};
}

std::vector<Value> DpmppScheduler::trace_step(const Value& sample, const Value& model_output, const Value& coefficients,
                                              std::span<const Value> kept) const {
  const auto coefficient = [&](std::int64_t i) { return slice(coefficients, 0, i, i + 1); };
  const Value clean = sample - coefficient(0) * model_output;
  return {coefficient(1) * sample + coefficient(2) * clean + coefficient(3) * kept[0], clean};
}

}  // namespace zoe
