// Noise levels as Diffusers spaces and shifts them, rounding as it rounds. Internal to this folder.
#pragma once

#include <vector>

#include "schedulers/scheduler.h"

namespace zoe {

// Of UniPC: config.sigmas or even steps from 1, shifted and stretched in f64; [steps - config.skipped], without the last.
std::vector<double> shifted_sigmas(const SchedulerConfig& config, int steps);

// Of the FlowMatch classes: the last, 0, is among them; [steps - config.skipped + 1].
std::vector<float> flow_match_sigmas(const SchedulerConfig& config, int steps);

}  // namespace zoe
