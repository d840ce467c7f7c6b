// A VACE model in a folder of its own: the small recorded transformer, once or as both experts, the other parts of the embedded
// model.
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace zoe::testing {

inline std::filesystem::path make_vace(const std::filesystem::path& folder, bool two_experts) {
  namespace fs = std::filesystem;
  const fs::path toy = fs::path(ZOE_MODELS) / "toy-wan", recorded = fs::path(ZOE_FIXTURES) / "models/vace";
  fs::create_directories(folder);
  for (const char* part : {"tokenizer", "text_encoder", "vae", "scheduler"})
    fs::create_directory_symlink(toy / part, folder / part);
  std::ifstream file(toy / "model_index.json");
  nlohmann::json index = nlohmann::json::parse(file);
  index["_class_name"] = "WanVACEPipeline";
  index["transformer"] = {"diffusers", "WanVACETransformer3DModel"};
  fs::create_directory_symlink(recorded / "transformer", folder / "transformer");
  if (two_experts) {
    fs::create_directory_symlink(recorded / "transformer", folder / "transformer_2");
    index["transformer_2"] = index["transformer"];
    index["boundary_ratio"] = 0.875;
  }
  std::ofstream(folder / "model_index.json") << index.dump(1);
  return folder;
}

}  // namespace zoe::testing
