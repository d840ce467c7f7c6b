// What a Wan transformer's tensors are called in the original repositories, in Comfy's single files and in GGUF files, which all
// use the original names, and what such files tell of its configuration.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/name_map.h"
#include "models/inferred_config.h"

namespace zoe {

// From the original names to Diffusers', which the graphs use; of all members of the family. For checkpoints and for LoRAs:
//   names_of("blocks.3.cross_attn.k_img.lora_A.weight") is {"blocks.3.attn2.add_k_proj.lora_A.weight"}
//   stored_of("blocks.0.scale_shift_table")->key is "blocks.0.modulation"
// Of all but `face_adapter.fuser_blocks.*.linear1_kv` there is one name.
const NameMap& wan_dit_original_names();

// Without what single files put in front of every name: "model.diffusion_model.", "diffusion_model.", "model." or "net.".
std::string_view without_wan_dit_prefix(std::string_view key);

// From the shapes of a file's tensors, of any member of the family. What shapes do not tell (heads, eps, where VACE's hints go) is
// as `original` says, a config.json of the original repositories, else heads are of 128, eps is 1e-6 and hints are evenly spread.
InferredConfig infer_wan_dit_config(const NamedTensors& tensors, const JsonObject* original = nullptr);

// "Wan2.1 I2V-14B", by the sizes of a Diffusers configuration; "" for one that was not published.
std::string wan_member(const JsonObject& config);

}  // namespace zoe
