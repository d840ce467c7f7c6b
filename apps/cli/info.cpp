#include <CLI/CLI.hpp>
#include <map>

#include "apps/cli/commands.h"
#include "base/error.h"
#include "pipeline/model_folder.h"

namespace zoe::cli {

namespace {

std::string count(std::int64_t parameters) {
  const auto value = static_cast<double>(parameters);
  if (value >= 1e9) return fmt::format("{:.2f} B", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.1f} M", value / 1e6);
  return fmt::format("{:.1f} k", value / 1e3);
}

void describe_part(std::string_view part, std::string_view what, const Checkpoint& checkpoint) {
  std::map<std::string_view, int> dtypes;
  for (const TensorEntry& tensor : checkpoint.tensors()) ++dtypes[tensor.dtype()];
  std::string stored;
  for (const auto& [dtype, tensors] : dtypes) stored += fmt::format("{}{} {}", stored.empty() ? "" : ", ", tensors, dtype);
  fmt::print("{:<13} {:>9} parameters  {:>9.1f} MiB  {} file{}  tensors: {}\n              {}\n", part,
             count(checkpoint.parameter_count()), static_cast<double>(checkpoint.size_bytes()) / 1048576.0,
             checkpoint.file_names().size(), checkpoint.file_names().size() == 1 ? "" : "s", stored, what);
}

int info(const std::string& path) {
  const ModelConfig model = read_model_config(path.empty() ? embedded_model_path() : std::filesystem::path(path));
  fmt::print("{} ({})\n", model.name, model.path.string());
  describe_part(
      "text_encoder",
      fmt::format("umT5: {} layers, {} wide, {} heads of {}, vocabulary {}", model.text_encoder.num_layers,
                  model.text_encoder.d_model, model.text_encoder.num_heads, model.text_encoder.d_kv, model.text_encoder.vocab_size),
      open_text_encoder(model));
  describe_part(
      "transformer",
      fmt::format("Wan: {} layers, {} wide, {} heads of {}, feed-forward {}, patch {}x{}x{}", model.transformer.num_layers,
                  model.transformer.dim(), model.transformer.num_heads, model.transformer.head_dim, model.transformer.ffn_dim,
                  model.transformer.patch_size[0], model.transformer.patch_size[1], model.transformer.patch_size[2]),
      open_transformer(model));
  describe_part("vae",
                fmt::format("Wan 2.1 VAE: {} wide, {} latent channels, 1/{} in space, 1/{} in time", model.vae.base_dim,
                            model.vae.z_dim, model.vae.scale_factor_spatial, model.vae.scale_factor_temporal),
                open_vae(model));
  fmt::print("scheduler     {}, flow shift {}\n", name(model.scheduler.kind), model.scheduler.flow_shift);
  fmt::print("defaults      {}x{}, {} frames at {} fps, {} steps, guidance {}\n", model.defaults.width, model.defaults.height,
             model.defaults.num_frames, model.defaults.fps, model.defaults.num_inference_steps, model.defaults.guidance_scale);
  fmt::print("runs          text to video: yes; every tensor of every part has its place\n");
  return 0;
}

}  // namespace

Command add_info(CLI::App& app) {
  auto path = std::make_shared<std::string>();
  app.add_option("MODEL", *path, "A model in the Diffusers layout (default: the embedded toy model)");
  return [path] { return info(*path); };
}

}  // namespace zoe::cli
