// What outlives a group of frames in the VAE: the encoder and the decoder hand it from plan to plan under the same names.
#pragma once

#include <string>
#include <vector>

#include "models/wan_vae/model.h"
#include "pipeline/program.h"

namespace zoe {

// The graph of a group with `results`, called `names`, and behind them the states it writes, called state_0, state_1, ... by their
// numbers in the whole model; all of these belong to it, also those it does not touch.
NamedGraph with_states(const WanVaeGraph& traced, std::vector<Value> results, std::vector<std::string> names);

}  // namespace zoe
