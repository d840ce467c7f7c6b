// Models of image to video in folders of their own: small recorded transformers, the other parts those of the embedded model or of
// other fixtures, by `parts` of zoetrope.json.
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace zoe::testing {

// As Wan 2.2 TI2V: a timestep a token, the VAE of Wan 2.2.
inline std::filesystem::path make_text_or_image(const std::filesystem::path& folder) {
  namespace fs = std::filesystem;
  const fs::path models = ZOE_MODELS, fixtures = fs::path(ZOE_FIXTURES) / "models";
  fs::create_directories(folder);
  nlohmann::json defaults;
  for (const char* part : {"tokenizer", "text_encoder", "scheduler"})
    defaults["parts"][part] = fs::relative(models / "toy-wan" / part, folder).string();
  defaults["parts"]["transformer"] = fs::relative(fixtures / "text_or_image_to_video/transformer", folder).string();
  defaults["parts"]["vae"] = fs::relative(fixtures / "wan_vae_residual", folder).string();
  std::ofstream(folder / "zoetrope.json") << defaults.dump(1);
  std::ifstream file(models / "toy-wan/model_index.json");
  nlohmann::json index = nlohmann::json::parse(file);
  index["expand_timesteps"] = true;
  std::ofstream(folder / "model_index.json") << index.dump(1);
  return folder;
}

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
