// Writes a model's weights anew: as another kind of file, in another encoding, with LoRAs merged. Streams: what is held of a model
// is a few MiB of one tensor and a LoRA's factors for it.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/model.h"
#include "pipeline/request.h"

namespace zoe {

struct ConvertOptions {
  // NAME.safetensors or NAME.gguf: one part under the original names; else a folder in the Diffusers layout. Must not exist.
  std::filesystem::path output;
  // bf16, f16, f32; of safetensors also fp8_scaled; of GGUF q8_0, q5_0, q4_0, q6_k, q4_k.
  std::string type = "bf16";
  // What a single file gets: "transformer", "transformer_2"; of safetensors also "vae" and "text_encoder", under Diffusers' and
  // Transformers' names.
  std::string part = "transformer";
  Request loras = {};  // its LoRAs are merged; the rest is not looked at
  Spelling spelling = Spelling::key;
  const std::atomic<bool>* cancel = nullptr;                               // true ends it with an Error of kind cancelled
  std::function<void(std::size_t done, std::size_t total)> progress = {};  // bytes as they are stored in the source
};

struct Converted {
  std::size_t tensors = 0, bytes = 0;  // of weights that were written
  std::vector<std::string> notes;      // what is stored otherwise than asked: rows that do not divide into blocks
};

std::vector<std::string_view> convert_types();

// A whole model, as read_model does, or the file (or folder) of a transformer alone, in any layout: no other part is known then.
ModelConfig read_model_to_convert(const std::string& spec, std::string_view where = "--model-path");

// In a quantised type are the matrices of the blocks; vectors, modulations and the patch embedding stay f32, all other matrices
// bf16. The part's configuration is in the metadata ("config", as config.json has it). Errors (invalid_argument): an output that
// exists or lies in the model, a type that the output cannot have, a part that the model lacks, a weight that is not finite where
// blocks are made; those of LoRAs; io where writing fails. Nothing is left behind then.
Converted convert(const ModelConfig& model, const ConvertOptions& options);

}  // namespace zoe
