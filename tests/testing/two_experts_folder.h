// A model with two experts in a folder of its own: the small recorded transformers, the other parts of the embedded model.
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace zoe::testing {

// `boundary`: of model_index.json. Parts are links.
inline std::filesystem::path make_two_experts(const std::filesystem::path& folder, double boundary = 0.875) {
  namespace fs = std::filesystem;
  const fs::path toy = fs::path(ZOE_MODELS) / "toy-wan", experts = fs::path(ZOE_FIXTURES) / "models/two_experts";
  fs::create_directories(folder);
  for (const char* part : {"tokenizer", "text_encoder", "vae", "scheduler"})
    fs::create_directory_symlink(toy / part, folder / part);
  for (const char* part : {"transformer", "transformer_2"}) fs::create_directory_symlink(experts / part, folder / part);
  std::ifstream file(toy / "model_index.json");
  nlohmann::json index = nlohmann::json::parse(file);
  index["transformer_2"] = index["transformer"];
  index["boundary_ratio"] = boundary;
  std::ofstream(folder / "model_index.json") << index.dump(1);
  return folder;
}

}  // namespace zoe::testing
