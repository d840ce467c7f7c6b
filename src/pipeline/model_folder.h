// A model on disk in the Diffusers layout: its parts' configurations, its weights (mapped, not read), its defaults.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "checkpoint/checkpoint.h"
#include "models/umt5/config.h"
#include "models/wan_dit/config.h"
#include "models/wan_vae/config.h"
#include "schedulers/scheduler.h"
#include "text/tokenizer.h"

namespace zoe {

// What a request takes where it says nothing. Read from `zoetrope.json` in the model's folder; Wan's own values without one.
struct GenerationDefaults {
  std::int64_t height = 480, width = 832, num_frames = 81;
  double fps = 16;
  int num_inference_steps = 50;
  double guidance_scale = 5.0;
};

struct ModelConfig {
  std::filesystem::path path;
  std::string name;  // the folder's
  Umt5Config text_encoder;
  WanDitConfig transformer;
  WanVaeConfig vae;
  SchedulerConfig scheduler;
  GenerationDefaults defaults;
};

// Reads and checks every configuration of a model folder and that its parts belong together; opens no weights.
ModelConfig read_model_config(const std::filesystem::path& path);

// A part's weights, each key matched against the part's configuration exactly once.
Checkpoint open_text_encoder(const ModelConfig& model);
Checkpoint open_transformer(const ModelConfig& model);
Checkpoint open_vae(const ModelConfig& model);

// The model's tokenizer, which fits the encoder's vocabulary.
Tokenizer open_tokenizer(const ModelConfig& model);

// The model that comes with the engine, wherever it was installed or built; an error with the places looked at if it is gone.
std::filesystem::path embedded_model_path();

}  // namespace zoe
