// What a Wan transformer's tensors are called in the original repositories, in Comfy's single files and in GGUF files, which all
// use the original names.
#pragma once

#include <string_view>

#include "checkpoint/name_map.h"

namespace zoe {

// From the original names to Diffusers', which the graphs use; of all members of the family. For checkpoints and for LoRAs:
//   names_of("blocks.3.cross_attn.k_img.lora_A.weight") is {"blocks.3.attn2.add_k_proj.lora_A.weight"}
//   stored_of("blocks.0.scale_shift_table")->key is "blocks.0.modulation"
// Of all but `face_adapter.fuser_blocks.*.linear1_kv` there is one name.
const NameMap& wan_dit_original_names();

// Without what single files put in front of every name: "model.diffusion_model.", "diffusion_model.", "model." or "net.".
std::string_view without_wan_dit_prefix(std::string_view key);

}  // namespace zoe
