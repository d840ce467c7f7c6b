#include "pipeline/model_folder.h"

#include <unistd.h>

#include <array>

#include "base/error.h"
#include "base/json.h"
#include "models/umt5/model.h"
#include "models/wan_dit/model.h"
#include "models/wan_vae/model.h"

namespace zoe {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMaxConfigBytes = 1 << 20;

JsonObject part_config(const fs::path& path, const std::string& part) {
  return read_json_object(path / part / "config.json", part + "/config.json", kMaxConfigBytes);
}

// model_index.json names the class of every part; another class is another computation.
void check_index(const fs::path& path) {
  const JsonObject index = read_json_object(path / "model_index.json", "model_index.json", kMaxConfigBytes);
  const std::string pipeline = index.string("_class_name", "");
  check(pipeline == "WanPipeline", ErrorKind::unsupported, "model_index.json",
        "unsupported pipeline: got {}, expected WanPipeline (Wan text to video). Choose another model.",
        pipeline.empty() ? "none" : pipeline);
  const std::array<std::pair<const char*, const char*>, 3> classes{
      {{"transformer", "WanTransformer3DModel"}, {"vae", "AutoencoderKLWan"}, {"text_encoder", "UMT5EncoderModel"}}};
  for (const auto& [part, expected] : classes) {
    const std::string got = index.strings(part, 2, 2)[1];
    check(got == expected, ErrorKind::unsupported, "model_index.json", "unsupported {}: got {}, expected {}. Choose another model.",
          part, got.empty() ? "none" : got, expected);
  }
  check(!index.has("boundary_ratio") && (!index.has("transformer_2") || index.strings("transformer_2", 2, 2)[1].empty()),
        ErrorKind::unsupported, "model_index.json", "unsupported: two transformers (Wan2.2 A14B). Wan2.1 text to video runs.");
}

GenerationDefaults read_defaults(const fs::path& path) {
  GenerationDefaults defaults;
  if (!fs::exists(path / "zoetrope.json")) return defaults;
  const JsonObject file = read_json_object(path / "zoetrope.json", "zoetrope.json", kMaxConfigBytes);
  defaults.height = file.integer("height", 16, 1 << 16, defaults.height);
  defaults.width = file.integer("width", 16, 1 << 16, defaults.width);
  defaults.num_frames = file.integer("num_frames", 1, 1 << 16, defaults.num_frames);
  defaults.fps = file.number("fps", 0.1, 240, defaults.fps);
  defaults.num_inference_steps = static_cast<int>(file.integer("num_inference_steps", 1, 1000, defaults.num_inference_steps));
  defaults.guidance_scale = file.number("guidance_scale", 0, 1000, defaults.guidance_scale);
  return defaults;
}

}  // namespace

ModelConfig read_model_config(const fs::path& given) {
  std::error_code status;
  const fs::path path = resolve_snapshot(given);
  check(fs::is_directory(path, status), ErrorKind::invalid_argument, "--model-path",
        "{} is not a folder. Give a model in the Diffusers layout (a folder with model_index.json).", path.string());
  check_index(path);
  ModelConfig model;
  model.path = path;
  const fs::path absolute = fs::absolute(given).lexically_normal();
  model.name = absolute.has_filename() ? absolute.filename().string() : absolute.parent_path().filename().string();
  model.text_encoder = parse_umt5_config(part_config(path, "text_encoder"));
  model.transformer = parse_wan_dit_config(part_config(path, "transformer"));
  model.vae = parse_wan_vae_config(part_config(path, "vae"));
  const std::string scheduler = "scheduler/scheduler_config.json";
  model.scheduler = parse_scheduler_config(read_file(path / scheduler, scheduler, kMaxConfigBytes), scheduler);
  model.defaults = read_defaults(path);
  check(model.transformer.text_dim == model.text_encoder.d_model, ErrorKind::invalid_argument, "transformer/config.json",
        "bad text_dim: got {}, expected the text encoder's d_model {}. The parts are of different models.",
        model.transformer.text_dim, model.text_encoder.d_model);
  check(model.transformer.in_channels == model.vae.z_dim && model.transformer.out_channels == model.vae.z_dim,
        ErrorKind::unsupported, "transformer/config.json",
        "in_channels {} and out_channels {} differ from the VAE's z_dim {}: image to video does not run yet.",
        model.transformer.in_channels, model.transformer.out_channels, model.vae.z_dim);
  return model;
}

Checkpoint open_text_encoder(const ModelConfig& model) {
  Checkpoint checkpoint(model.path / "text_encoder", "text_encoder");
  match_tensors(checkpoint, umt5_tensors(model.text_encoder), umt5_aliases(model.text_encoder));
  return checkpoint;
}

Checkpoint open_transformer(const ModelConfig& model) {
  Checkpoint checkpoint(model.path / "transformer", "transformer");
  match_tensors(checkpoint, wan_dit_tensors(model.transformer));
  return checkpoint;
}

Checkpoint open_vae(const ModelConfig& model) {
  Checkpoint checkpoint(model.path / "vae", "vae");
  match_tensors(checkpoint, wan_vae_tensors(model.vae));
  return checkpoint;
}

fs::path embedded_model_path() {
  std::error_code status;
  const fs::path folder = fs::read_symlink("/proc/self/exe", status).parent_path();
  // A link in the build folder, and where `cmake --install` puts it.
  const fs::path places[] = {folder / "models/toy-wan", folder / "../share/zoetrope/models/toy-wan"};
  for (const fs::path& place : places)
    if (fs::exists(place / "model_index.json", status)) return place.lexically_normal();
  fail(ErrorKind::invalid_argument, "--model-path", "the embedded model is gone: not in {} nor {}. Give --model-path.",
       places[0].lexically_normal().string(), places[1].lexically_normal().string());
}

}  // namespace zoe
