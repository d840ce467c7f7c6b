// Models of image to video in folders of their own: small recorded parts, the others of the embedded model by `parts` of
// zoetrope.json.
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace zoe::testing {

// `fixture`: a folder of tests/fixtures/models. "image_to_video_experts" has two experts, "image_to_video_clip" an image encoder,
// "image_to_video_flf2v" one that sees two pictures; "text_image_to_video" takes a first frame or none.
inline std::filesystem::path make_image_to_video(const std::filesystem::path& folder, const std::string& fixture,
                                                 const std::optional<double> boundary = {}) {
  namespace fs = std::filesystem;
  const fs::path models = ZOE_MODELS, recorded = fs::path(ZOE_FIXTURES) / "models";
  fs::create_directories(folder);
  std::ifstream file(models / "toy-wan-i2v/model_index.json");
  nlohmann::json index = nlohmann::json::parse(file), defaults;
  const auto put = [&](const std::string& part, const fs::path& place) {
    defaults["parts"][part] = fs::relative(place, folder).string();
  };
  for (const char* part : {"tokenizer", "text_encoder", "vae", "scheduler"}) put(part, models / "toy-wan" / part);
  put("transformer", recorded / fixture / "transformer");
  if (fs::exists(recorded / fixture / "transformer_2")) {
    put("transformer_2", recorded / fixture / "transformer_2");
    index["transformer_2"] = index["transformer"];
    index["boundary_ratio"] = boundary.value_or(0.9);
  } else if (fixture == "text_image_to_video") {
    put("vae", recorded / "wan_vae_residual");
    index["expand_timesteps"] = true;
  } else {
    put("image_encoder", recorded / "image_to_video_clip/image_encoder");
    index["image_encoder"] = {"transformers", "CLIPVisionModel"};
  }
  std::ofstream(folder / "zoetrope.json") << defaults.dump(1);
  std::ofstream(folder / "model_index.json") << index.dump(1);
  return folder;
}

}  // namespace zoe::testing
