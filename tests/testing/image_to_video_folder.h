// A model of image to video with two experts in a folder of its own: the small recorded transformers, the other parts of the embedded
// model by `parts` of zoetrope.json.
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace zoe::testing {

inline std::filesystem::path make_image_experts(const std::filesystem::path& folder, double boundary = 0.9) {
  namespace fs = std::filesystem;
  const fs::path models = ZOE_MODELS, experts = fs::path(ZOE_FIXTURES) / "models/image_to_video_experts";
  fs::create_directories(folder);
  nlohmann::json defaults;
  for (const char* part : {"tokenizer", "text_encoder", "vae", "scheduler"})
    defaults["parts"][part] = fs::relative(models / "toy-wan" / part, folder).string();
  for (const char* part : {"transformer", "transformer_2"}) defaults["parts"][part] = fs::relative(experts / part, folder).string();
  std::ofstream(folder / "zoetrope.json") << defaults.dump(1);
  std::ifstream file(models / "toy-wan-i2v/model_index.json");
  nlohmann::json index = nlohmann::json::parse(file);
  index["transformer_2"] = index["transformer"];
  index["boundary_ratio"] = boundary;
  std::ofstream(folder / "model_index.json") << index.dump(1);
  return folder;
}

}  // namespace zoe::testing
