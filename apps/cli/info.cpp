#include <CLI/CLI.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/cli/commands.h"
#include "base/error.h"
#include "pipeline/component.h"
#include "pipeline/recipe.h"

namespace zoe::cli {

namespace {

using Json = nlohmann::ordered_json;

std::string count(std::int64_t parameters) {
  const auto value = static_cast<double>(parameters);
  if (value >= 1e9) return fmt::format("{:.2f} B", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.1f} M", value / 1e6);
  return fmt::format("{:.1f} k", value / 1e3);
}

struct Part {
  std::string name, what;
  std::int64_t parameters = 0;
  std::size_t bytes = 0, files = 0;
  std::map<std::string, int> dtypes;  // tensors of each
};

Part part_of(std::string_view name, std::string what, const Checkpoint& checkpoint) {
  Part part{.name = std::string(name),
            .what = std::move(what),
            .parameters = checkpoint.parameter_count(),
            .bytes = static_cast<std::size_t>(checkpoint.size_bytes()),
            .files = checkpoint.file_names().size(),
            .dtypes = {}};
  for (const TensorEntry& tensor : checkpoint.tensors()) ++part.dtypes[std::string(tensor.dtype())];
  return part;
}

void print(const Part& part) {
  std::string stored;
  for (const auto& [dtype, tensors] : part.dtypes) stored += fmt::format("{}{} {}", stored.empty() ? "" : ", ", tensors, dtype);
  fmt::print("{:<13} {:>9} parameters  {:>9.1f} MiB  {} file{}  tensors: {}\n              {}\n", part.name, count(part.parameters),
             static_cast<double>(part.bytes) / 1048576.0, part.files, part.files == 1 ? "" : "s", stored, part.what);
}

// What a request may give it: a prompt, and files.
std::vector<std::string> inputs_of(const Recipe& recipe) {
  std::vector<std::string> inputs;
  for (const RequestField& field : request_fields())
    if ((field.name == "prompt" || field.is_file()) && (field.taken_by & recipe.member())) inputs.emplace_back(field.name);
  return inputs;
}

void print(const ModelConfig& model, const std::vector<Part>& parts, int pieces) {
  fmt::print("{} ({})\n", model.name, model.path.string());
  for (const Part& part : parts) print(part);
  if (pieces) fmt::print("tokenizer     {} pieces\n", pieces);
  fmt::print("scheduler     {}, flow shift {}\n", name(model.scheduler.kind), model.scheduler.flow_shift);
  fmt::print("defaults      {}x{}, {} frame{} at {} fps, {} step{}, guidance {}\n", model.defaults.width, model.defaults.height,
             model.defaults.num_frames, model.defaults.num_frames == 1 ? "" : "s", model.defaults.fps,
             model.defaults.num_inference_steps, model.defaults.num_inference_steps == 1 ? "" : "s", model.defaults.guidance_scale);
}

Json to_json(const ModelConfig& model, const std::vector<Part>& parts, int pieces) {
  Json json{{"model", model.name}, {"path", model.path.string()}, {"parts", Json::object()}};
  for (const Part& part : parts)
    json["parts"][part.name] = {{"what", part.what},
                                {"parameters", part.parameters},
                                {"size_bytes", part.bytes},
                                {"files", part.files},
                                {"dtypes", part.dtypes}};
  const std::unique_ptr<Recipe> recipe = make_recipe(model);
  json["recipe"] = recipe->name();
  json["member"] = member_names(recipe->member());
  json["inputs"] = inputs_of(*recipe);
  json["tokenizer_pieces"] = pieces;
  json["scheduler"] = {{"kind", name(model.scheduler.kind)}, {"flow_shift", model.scheduler.flow_shift}};
  json["defaults"] = {{"height", model.defaults.height},
                      {"width", model.defaults.width},
                      {"num_frames", model.defaults.num_frames},
                      {"fps", model.defaults.fps},
                      {"num_inference_steps", model.defaults.num_inference_steps},
                      {"guidance_scale", model.defaults.guidance_scale}};
  return json;
}

// What `zoe generate` would open is opened; all that is wrong is said, and the first of it decides the exit code.
int info(const std::string& path, bool as_json) {
  std::vector<Error> problems;
  const auto attempt = [&](const auto& action) {
    try {
      action();
    } catch (const Error& error) {
      problems.push_back(error);
    }
  };
  std::optional<ModelConfig> model;
  std::vector<Part> parts;
  int pieces = 0;
  attempt([&] { model = open_model(path, "MODEL"); });
  if (model) {
    const Umt5Config& text = model->text_encoder;
    attempt([&] {
      parts.push_back(part_of("text_encoder",
                              fmt::format("umT5: {} layers, {} wide, {} heads of {}, vocabulary {}", text.num_layers, text.d_model,
                                          text.num_heads, text.d_kv, text.vocab_size),
                              open_component(*model, "text_encoder")));
    });
    const WanDitConfig& transformer = model->transformer;
    for (const char* const part : {"transformer", "transformer_2"})
      if (part == std::string_view("transformer") || model->boundary_ratio) attempt([&] {
      parts.push_back(
          part_of(part,
                  fmt::format("Wan: {} layers, {} wide, {} heads of {}, feed-forward {}, patch {}x{}x{}, {} channels to {}",
                              transformer.num_layers, transformer.dim(), transformer.num_heads, transformer.head_dim,
                              transformer.ffn_dim, transformer.patch_size[0], transformer.patch_size[1],
                              transformer.patch_size[2], transformer.in_channels, transformer.out_channels),
                  open_component(*model, part)));
    });
    if (model->image_encoder) attempt([&] {
        const ClipVisionConfig& image = *model->image_encoder;
        parts.push_back(part_of("image_encoder",
                                fmt::format("CLIP: {} layers, {} wide, {} heads, pictures of {} pixels, {} tokens", image.num_layers,
                                            image.hidden_size, image.num_heads, image.image_size, image.tokens()),
                                open_component(*model, "image_encoder")));
      });
    const WanVaeConfig& vae = model->vae;
    attempt([&] {
      parts.push_back(part_of("vae",
                              fmt::format("Wan 2.1 VAE: {} wide, {} latent channels, 1/{} in space, 1/{} in time", vae.base_dim,
                                          vae.z_dim, vae.scale_factor_spatial, vae.scale_factor_temporal),
                              open_component(*model, "vae")));
    });
    attempt([&] { pieces = open_tokenizer(*model).vocab_size(); });
  }
  if (as_json) {
    Json json = model ? to_json(*model, parts, pieces) : Json::object();
    json["runs"] = problems.empty();
    json["problems"] = Json::array();
    for (const Error& problem : problems) json["problems"].push_back(problem.what());
    fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
  } else if (model) {
    print(*model, parts, pieces);
    const std::unique_ptr<Recipe> recipe = make_recipe(*model);
    std::string inputs;
    for (const std::string& input : inputs_of(*recipe)) inputs += (inputs.empty() ? "" : ", ") + spelled(input, Spelling::option);
    fmt::print("takes         {}\n", inputs);
    if (problems.empty()) fmt::print("runs          {}: yes; every tensor of every part has its place\n", recipe->name());
    for (const Error& problem : problems) fmt::print("does not run: {}\n", problem.what());
  }
  if (!problems.empty()) throw problems.front();
  return 0;
}

}  // namespace

Command add_info(CLI::App& app) {
  auto path = std::make_shared<std::string>();
  auto as_json = std::make_shared<bool>(false);
  app.add_option("MODEL", *path, "A model in the Diffusers layout (default: the embedded toy model)");
  add_json(app, *as_json);
  return [path, as_json] { return info(*path, *as_json); };
}

}  // namespace zoe::cli
