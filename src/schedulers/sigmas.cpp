#include "schedulers/sigmas.h"

#include <cmath>
#include <cstddef>

#include "base/error.h"

namespace zoe {
namespace {

// In f32 Diffusers' numbers stay f32 beside the Python numbers of the configuration, which are rounded first.
template <class T>
void shift_and_stretch(const SchedulerConfig& config, std::vector<T>* sigmas) {
  const auto shift = static_cast<T>(config.flow_shift), shift_minus_1 = static_cast<T>(config.flow_shift - 1.0);
  for (T& sigma : *sigmas) sigma = shift * sigma / (T{1} + shift_minus_1 * sigma);
  if (config.shift_terminal == 0) return;
  const T scale = (T{1} - sigmas->back()) / static_cast<T>(1.0 - config.shift_terminal);
  check(scale > 0, ErrorKind::unsupported, "scheduler",
        "shift_terminal cannot be reached: got a last noise level of {} before it, expected one below 1. Use more steps.",
        sigmas->back());
  for (T& sigma : *sigmas) sigma = T{1} - (T{1} - sigma) / scale;
}

template <class T>
void skip(const SchedulerConfig& config, std::vector<T>* sigmas) {
  sigmas->erase(sigmas->begin(), sigmas->begin() + config.skipped);
}

}  // namespace

std::vector<double> shifted_sigmas(const SchedulerConfig& config, int steps) {
  std::vector<double> sigmas = config.sigmas;
  const double stride = (1.0 / static_cast<double>(config.num_train_timesteps) - 1.0) / static_cast<double>(steps);
  if (sigmas.empty())
    for (int i = 0; i < steps; ++i) sigmas.push_back(static_cast<double>(i) * stride + 1.0);
  shift_and_stretch(config, &sigmas);
  skip(config, &sigmas);
  return sigmas;
}

std::vector<float> flow_match_sigmas(const SchedulerConfig& config, int steps) {
  std::vector<float> sigmas;
  if (!config.sigmas.empty()) {
    for (const double sigma : config.sigmas) sigmas.push_back(static_cast<float>(sigma));
    shift_and_stretch(config, &sigmas);
  } else {
    // Diffusers shifts twice: first, in f32, the two ends of the training levels, then, in f64, the levels spaced evenly between.
    const auto train = static_cast<double>(config.num_train_timesteps);
    const auto shift = static_cast<float>(config.flow_shift), shift_minus_1 = static_cast<float>(config.flow_shift - 1.0);
    const auto end = [&](float sigma) { return static_cast<double>(shift * sigma / (1.0f + shift_minus_1 * sigma)) * train; };
    const double first = end(1.0f), last = end(1.0f / static_cast<float>(train));
    const double stride = steps > 1 ? (last - first) / static_cast<double>(steps - 1) : 0.0;
    std::vector<double> spaced;
    for (int i = 0; i < steps; ++i)
      spaced.push_back((i > 0 && i + 1 == steps ? last : static_cast<double>(i) * stride + first) / train);
    shift_and_stretch(config, &spaced);
    for (const double sigma : spaced) sigmas.push_back(static_cast<float>(sigma));
  }
  skip(config, &sigmas);
  sigmas.push_back(0.0f);
  return sigmas;
}

}  // namespace zoe
