// What a Wan VAE's tensors are called in the original files (Wan2.1_VAE.pth, Wan2.2_VAE.pth, Comfy's), and what a file tells of its
// configuration.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "checkpoint/checkpoint.h"
#include "checkpoint/name_map.h"
#include "models/inferred_config.h"

namespace zoe {

// The original names number the blocks of all levels in one row: which is which follows from how many there are, as `has` tells.
std::shared_ptr<const NameMap> wan_vae_original_names(const std::function<bool(std::string_view key)>& has);

InferredConfig infer_wan_vae_config(const NamedTensors& tensors);

}  // namespace zoe
