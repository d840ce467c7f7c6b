// What an umT5 encoder's tensors are called elsewhere than in Transformers, and what a file tells of its configuration.
#pragma once

#include "checkpoint/checkpoint.h"
#include "checkpoint/name_map.h"
#include "models/inferred_config.h"

namespace zoe {

const NameMap& umt5_original_names();  // of Wan's own models_t5_umt5-xxl-enc-bf16.pth
const NameMap& umt5_llama_names();     // of GGUF files of llama.cpp, also of whole models of which the encoder is a half

InferredConfig infer_umt5_config(const NamedTensors& tensors);

}  // namespace zoe
