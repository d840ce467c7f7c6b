// What a model is: its parts' configurations, its defaults, and where its weights come from.
//
// A folder in the Diffusers layout, files of other layouts (model_files.h), a published member of the family by name
// (configurations only), or one of those with random weights, made in memory: `random:wan2.2-t2v-a14b:7`.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/encoding.h"
#include "models/clip_vision/config.h"
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
  std::optional<double> guidance_scale_2 = {};  // of the low-noise expert; none: as guidance_scale
};

struct ModelConfig {
  std::filesystem::path path;  // a folder or a file; empty: no files
  std::string name;            // the folder's, the file's, or the member's
  // Parts that are not in the folder of their name inside `path`: folders or files.
  std::map<std::string, std::filesystem::path, std::less<>> parts = {};
  // LoRAs that are a part of the model, by the transformer they change ("transformer_2"): merged in front of a request's.
  std::map<std::string, std::vector<std::filesystem::path>, std::less<>> loras = {};
  Umt5Config text_encoder;
  WanDitConfig transformer;  // two experts have one configuration
  // Of two experts: steps from this share of the training timesteps on are the high-noise one's (`transformer`), the others
  // `transformer_2`'s. None: there is one transformer.
  std::optional<double> boundary_ratio = {};
  // Wan 2.2 TI2V: a picture may be the first latent frame itself, at timestep 0.
  bool expand_timesteps = false;
  WanVaeConfig vae;
  std::optional<ClipVisionConfig> image_encoder = {};  // of a transformer with an image_dim
  SchedulerConfig scheduler;
  GenerationDefaults defaults;
  std::vector<std::array<double, 3>> latent_rgb = {};  // of zoetrope.json, see preview.h; empty: it says nothing
  std::optional<std::uint64_t> random_seed = {};       // weights are made from it
  const Encoding* random_encoding = nullptr;           // that the matrices of text encoder and transformers are then stored in

  std::filesystem::path part(std::string_view part_name) const;  // a folder or a file; of a model with files
  // Pictures that the transformer sees through the image encoder, and their tokens together: one, or first and last; 0 without.
  std::int64_t encoded_images() const { return !image_encoder ? 0 : transformer.image_positions ? 2 : 1; }
  std::int64_t image_rows() const { return image_encoder ? encoded_images() * image_encoder->tokens() : 0; }
};

// Reads and checks every configuration of a folder in the Diffusers layout and that its parts belong together and have a recipe;
// opens no weights but those of `parts`, which stand in the place of the folder's own.
ModelConfig read_model_config(const std::filesystem::path& path,
                              std::map<std::string, std::filesystem::path, std::less<>> parts = {});
void check_parts(const ModelConfig& model);  // that they belong together

// What --model-path says: "" is the embedded model, "random:MEMBER[:SEED[:ENCODING]]" a published member with random weights, as
// wide as they are computed with or stored as a file of that encoding stores them, else a folder or a file of any layout.
ModelConfig read_model(const std::string& spec);

// The published members of the family, whose configurations are known without files.
std::vector<std::string> published_model_names();
std::optional<ModelConfig> published_model(std::string_view name);
// Of a folder with two transformers that says nothing itself.
GenerationDefaults two_expert_defaults(const WanDitConfig& transformer);
GenerationDefaults first_frame_defaults();  // and of one with expand_timesteps

// Of a model without files it is the embedded one's: ids of any text are below every published vocabulary.
Tokenizer open_tokenizer(const ModelConfig& model);

// The models that come with the engine, wherever it was installed or built: the one of text to video, or the one that takes an
// image. An error with the places looked at if it is gone.
enum class EmbeddedModel { text_to_video, image_to_video };
std::filesystem::path embedded_model_path(EmbeddedModel which = EmbeddedModel::text_to_video);

}  // namespace zoe
