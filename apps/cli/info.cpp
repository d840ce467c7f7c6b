#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/cli/commands.h"
#include "base/error.h"
#include "base/log.h"
#include "checkpoint/scaling.h"
#include "models/layouts.h"
#include "models/wan_dit/names.h"
#include "pipeline/component.h"
#include "pipeline/recipe.h"

namespace zoe::cli {

namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

std::string count(std::int64_t parameters) {
  const auto value = static_cast<double>(parameters);
  if (value >= 1e9) return fmt::format("{:.2f} B", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.1f} M", value / 1e6);
  return fmt::format("{:.1f} k", value / 1e3);
}

std::string mib(std::size_t bytes) { return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / 1048576.0); }

struct Stored {
  int tensors = 0;
  std::size_t bytes = 0;
};

struct PartContents {
  std::string name, what, layout;  // of a published member: which
  std::int64_t parameters = 0;
  std::size_t bytes = 0, files = 0;
  std::map<std::string, Stored> stored;  // by dtype or convention
};

// How files hold a part: in whose names, behind which prefix.
std::string layout_of(const Checkpoint& checkpoint, std::string_view part) {
  for (const FoundLayout& found : find_layouts(checkpoint))
    if (found.layout->part == part || (found.layout->part == "transformer" && part == "transformer_2"))
      return fmt::format("{} names{}", found.layout->name,
                         found.keys.prefix.empty() ? "" : " behind \"" + found.keys.prefix + "\"");
  return "unknown names";
}

PartContents part_of(std::string_view name, std::string what, const Checkpoint& checkpoint) {
  PartContents part{.name = std::string(name),
                    .what = std::move(what),
                    .layout = layout_of(checkpoint, name),
                    .parameters = checkpoint.parameter_count(),
                    .bytes = static_cast<std::size_t>(checkpoint.size_bytes()),
                    .files = checkpoint.file_names().size(),
                    .stored = {}};
  for (const TensorEntry& tensor : checkpoint.tensors()) {
    Stored& stored = part.stored[tensor.scaling ? tensor.scaling->name : std::string(tensor.dtype())];
    ++stored.tensors;
    stored.bytes += tensor.bytes.size() + (tensor.scaling ? tensor.scaling->size_bytes() : 0);
  }
  return part;
}

std::string what_of(const std::string& part, const JsonObject& config) {
  const auto number = [&](std::string_view key, std::int64_t fallback = 0) {
    return config.integer(key, 0, JsonObject::kMax, fallback);
  };
  if (part == "text_encoder")
    return fmt::format("umT5: {} layers, {} wide, {} heads of {}, vocabulary {}", number("num_layers"), number("d_model"),
                       number("num_heads"), number("d_kv"), number("vocab_size"));
  if (part == "vae")
    return fmt::format("Wan {} VAE: {} wide, {} latent channels", config.boolean("is_residual", false) ? "2.2" : "2.1",
                       number("base_dim", 96), number("z_dim", 16));
  if (part == "image_encoder") {
    const std::int64_t side = number("image_size", 224), patch = std::max<std::int64_t>(1, number("patch_size", 32));
    return fmt::format("CLIP: {} layers, {} wide, {} heads, pictures of {} pixels, {} tokens", number("num_hidden_layers", 12),
                       number("hidden_size", 768), number("num_attention_heads", 12), side, (side / patch) * (side / patch) + 1);
  }
  const std::string member = wan_member(config);
  std::vector<std::int64_t> patch{1, 2, 2};
  if (config.has("patch_size")) patch = config.integers("patch_size", 1, 16, 3, 3);
  return fmt::format("Wan: {} layers, {} wide, {} heads of {}, feed-forward {}, patch {}, {} channels to {}{}",
                     number("num_layers", 40), number("num_attention_heads", 40) * number("attention_head_dim", 128),
                     number("num_attention_heads", 40), number("attention_head_dim", 128), number("ffn_dim", 13824),
                     fmt::join(patch, "x"), number("in_channels", 16), number("out_channels", number("in_channels", 16)),
                     member.empty() ? "" : fmt::format(" ({})", member));
}

void print(const PartContents& part) {
  std::string stored;
  for (const auto& [dtype, each] : part.stored)
    stored += fmt::format("{}{} {} ({})", stored.empty() ? "" : ", ", each.tensors, dtype, mib(each.bytes));
  fmt::print("{:<13} {:>9} parameters  {:>12}  {} file{}  {}\n              tensors: {}\n              {}\n", part.name,
             count(part.parameters), mib(part.bytes), part.files, part.files == 1 ? "" : "s", part.layout, stored, part.what);
}

// What a request may give it: a prompt, and files.
std::vector<std::string> inputs_of(const Recipe& recipe) {
  std::vector<std::string> inputs;
  for (const RequestField& field : request_fields())
    if ((field.name == "prompt" || field.is_file()) && (field.taken_by & recipe.member())) inputs.emplace_back(field.name);
  return inputs;
}

void print(const ModelConfig& model, const std::vector<PartContents>& parts, int pieces) {
  fmt::print("{} ({})\n", model.name, model.path.string());
  for (const PartContents& part : parts) print(part);
  if (pieces) fmt::print("tokenizer     {} pieces\n", pieces);
  fmt::print("scheduler     {}, flow shift {}\n", name(model.scheduler.kind), model.scheduler.flow_shift);
  fmt::print("defaults      {}x{}, {} frame{} at {} fps, {} step{}, guidance {}\n", model.defaults.width, model.defaults.height,
             model.defaults.num_frames, model.defaults.num_frames == 1 ? "" : "s", model.defaults.fps,
             model.defaults.num_inference_steps, model.defaults.num_inference_steps == 1 ? "" : "s", model.defaults.guidance_scale);
}

Json to_json(const std::vector<PartContents>& parts) {
  Json json = Json::object();
  for (const PartContents& part : parts) {
    Json dtypes = Json::object(), bytes = Json::object();
    for (const auto& [dtype, stored] : part.stored) {
      dtypes[dtype] = stored.tensors;
      bytes[dtype] = stored.bytes;
    }
    json[part.name] = {{"what", part.what},   {"layout", part.layout}, {"parameters", part.parameters},  {"size_bytes", part.bytes},
                       {"files", part.files}, {"dtypes", dtypes},      {"dtype_bytes", std::move(bytes)}};
  }
  return json;
}

Json to_json(const ModelConfig& model, const std::vector<PartContents>& parts, int pieces) {
  Json json{{"model", model.name}, {"path", model.path.string()}, {"parts", to_json(parts)}};
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

// What `zoe generate` would open is opened; all that is wrong is said, and the first of it decides the exit code. Of files that are
// no whole model it is said what they hold, and what is missing.
int info(const ModelFiles& files, bool as_json) {
  std::vector<Error> problems;
  std::vector<std::string> notes;
  const LogScope scope([&](LogLevel level, std::string_view text) {
    if (level == LogLevel::notice && std::find(notes.begin(), notes.end(), text) == notes.end()) notes.emplace_back(text);
  });
  const auto attempt = [&](const auto& action) {
    try {
      action();
    } catch (const Error& error) {
      problems.push_back(error);
    }
  };
  std::optional<ModelConfig> model;
  std::vector<PartContents> parts;
  int pieces = 0;
  attempt([&] { model = open_model(files, "MODEL"); });
  if (model) {
    for (const char* const part : {"text_encoder", "transformer", "transformer_2", "image_encoder", "vae"})
      if ((part != std::string_view("transformer_2") || model->boundary_ratio) &&
          (part != std::string_view("image_encoder") || model->image_encoder))
        attempt([&] {
          const Checkpoint checkpoint = open_component(*model, part);
          parts.push_back(part_of(part, what_of(part, config_of_part(*model, part)), checkpoint));
        });
    attempt([&] { pieces = open_tokenizer(*model).vocab_size(); });
  } else if (std::error_code status; !files.model_path.empty() && fs::exists(files.model_path, status) &&
                                     !fs::exists(fs::path(files.model_path) / "model_index.json", status)) {
    try {
      for (const HeldPart& held : look_into(files.model_path).parts) {
        ModelConfig alone;
        alone.parts[held.part] = held.path;
        const Checkpoint checkpoint(held.path, held.part);
        parts.push_back(part_of(held.part, what_of(held.part, config_of_part(alone, held.part)), checkpoint));
      }
    } catch (const Error&) {  // is what keeps the model from being read, too
    }
  }
  if (as_json) {
    Json json = Json::object();
    if (model) json = to_json(*model, parts, pieces);
    else if (!parts.empty()) json = {{"path", files.model_path}, {"parts", to_json(parts)}};
    json["runs"] = problems.empty();
    json["problems"] = Json::array();
    for (const Error& problem : problems) json["problems"].push_back(problem.what());
    json["notes"] = notes;
    fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
  } else if (model || !parts.empty()) {
    if (model) {
      print(*model, parts, pieces);
    } else {
      fmt::print("{}\n", files.model_path);
      for (const PartContents& part : parts) print(part);
    }
    for (const std::string& note : notes) fmt::print("note: {}\n", note);
    if (model) {
      const std::unique_ptr<Recipe> recipe = make_recipe(*model);
      std::string inputs;
      for (const std::string& input : inputs_of(*recipe)) inputs += (inputs.empty() ? "" : ", ") + spelled(input, Spelling::option);
      fmt::print("takes         {}\n", inputs);
      if (problems.empty()) fmt::print("runs          {}: yes; every tensor of every part has its place\n", recipe->name());
    }
    for (const Error& problem : problems) fmt::print("does not run: {}\n", problem.what());
  }
  if (!problems.empty()) throw problems.front();
  return 0;
}

}  // namespace

Command add_info(CLI::App& app) {
  auto files = std::make_shared<ModelFiles>();
  auto as_json = std::make_shared<bool>(false);
  app.add_option("MODEL", files->model_path, "A folder or a file of weights, in any layout (default: the embedded toy model)");
  add_model_files(app, *files);
  add_json(app, *as_json);
  return [files, as_json] { return info(*files, *as_json); };
}

}  // namespace zoe::cli
