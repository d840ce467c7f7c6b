// What a CLIP image encoder's tensors are called elsewhere, and what a file tells of its configuration.
#pragma once

#include "checkpoint/checkpoint.h"
#include "checkpoint/name_map.h"
#include "models/inferred_config.h"

namespace zoe {

const NameMap& clip_vision_transformers_names();  // of Transformers, behind "vision_model." or nothing, and of ComfyUI
const NameMap& clip_vision_open_clip_names();  // of Wan's models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth, behind "visual."

// Heads are of 80, as in ViT-H/14: shapes do not tell.
InferredConfig infer_clip_vision_config(const NamedTensors& tensors);

}  // namespace zoe
