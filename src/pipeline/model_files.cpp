#include "pipeline/model_files.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/log.h"
#include "base/nearest.h"
#include "checkpoint/checkpoint.h"
#include "models/layouts.h"
#include "pipeline/request.h"

namespace zoe {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMaxConfigBytes = 1 << 20;

const std::vector<FileOption> kOptions{
    {"transformer",
     &ModelFiles::transformer,
     "transformer",
     "a Wan transformer",
     {"diffusion_models", "unet"},
     "Its transformer; of two experts the one for high noise"},
    {"transformer_2", &ModelFiles::transformer_2, "transformer_2", "a Wan transformer", {}, "Of two experts the one for low noise"},
    {"vae", &ModelFiles::vae, "vae", "a Wan VAE", {"vae"}, "Its VAE"},
    {"text_encoder",
     &ModelFiles::text_encoder,
     "text_encoder",
     "an umT5 text encoder",
     {"text_encoders", "clip"},
     "Its text encoder"},
    {"image_encoder", &ModelFiles::image_encoder, "image_encoder", "a CLIP image encoder", {"clip_vision"}, "Its image encoder"},
    {"tokenizer",
     &ModelFiles::tokenizer,
     "tokenizer",
     "a tokenizer",
     {},
     "Its tokenizer: spiece.model, tokenizer.json, a folder of one, or a file of weights that holds it"},
    {"models_dir", &ModelFiles::models_dir, "", "a models tree", {}, "A ComfyUI models tree, to look in for what is missing"},
};

std::string option(std::string_view name) { return spelled(name, Spelling::option); }
const FileOption& option_of(std::string_view part) {
  return *std::find_if(kOptions.begin(), kOptions.end(), [&](const FileOption& each) { return each.part == part; });
}
// Two experts are the same kind of part.
std::string_view kind_of(std::string_view part) { return part == "transformer_2" ? "transformer" : part; }

// "model-00002-of-00006.safetensors": one of several, that an index joins.
bool is_shard(const fs::path& path) {
  const std::string stem = path.stem().string();
  const std::size_t of = stem.rfind("-of-");
  if (of == std::string::npos || of == 0 || of + 4 == stem.size()) return false;
  return stem.find_first_not_of("0123456789", of + 4) == std::string::npos && stem.find_last_of("0123456789", of - 1) == of - 1;
}

std::vector<fs::path> sorted_entries(const fs::path& folder) {
  std::set<fs::path> found;
  std::error_code status;
  for (fs::directory_iterator it(folder, status), end; !status && it != end; it.increment(status)) found.insert(it->path());
  return {found.begin(), found.end()};
}

// Where tokenizers lie beside weights, "" if none does.
fs::path tokenizer_beside(const fs::path& folder) {
  std::error_code status;
  for (const char* const name : {"tokenizer", "google/umt5-xxl"})
    if (fs::is_directory(folder / name, status)) return folder / name;
  for (const char* const name : {"spiece.model", "tokenizer.json"})
    if (fs::is_regular_file(folder / name, status)) return folder / name;
  return {};
}

// Adds what a file, or a folder that is one checkpoint, holds. Empty if nothing is known of it: `why` says so.
std::vector<HeldPart> held_by(const fs::path& path, bool* has_tokenizer = nullptr) {
  const Checkpoint checkpoint(path, path.filename().string());
  std::vector<HeldPart> parts;
  for (const FoundLayout& found : find_layouts(checkpoint)) {
    const std::string part(found.layout->part);
    for (const HeldPart& other : parts)
      check(other.part != part, ErrorKind::invalid_argument, path.filename().string(),
            "holds the {} twice: got keys that begin with {} and with {}, expected one. Take a file with one.", part,
            in_quotes(other.prefix), in_quotes(found.keys.prefix));
    parts.push_back({part, std::string(found.layout->name), found.keys.prefix, path});
  }
  if (has_tokenizer) *has_tokenizer = checkpoint.has_tokenizer();
  return parts;
}

// What weights are that are no part of a model, for an error.
std::string what_else(const fs::path& path) {
  const Checkpoint checkpoint(path, path.filename().string());
  for (const TensorEntry& tensor : checkpoint.tensors())
    for (const std::string_view word : {"lora_A", "lora_down", "lora_up", "lora_B", "hada_w1", "lokr_w1"})
      if (tensor.name.find(word) != std::string::npos) return "holds a LoRA, no part of a model";
  return fmt::format("holds no part of a Wan model: got keys such as {}",
                     checkpoint.tensors().empty() ? "none" : in_quotes(checkpoint.tensors().front().name));
}

// --- Reading a model together

class Assembly {
 public:
  Assembly(const ModelFiles& files, std::string_view where) : files_(files), where_(where) {}

  ModelConfig run() {
    take_base();
    take_options();
    search();
    if (!index_) return assemble();
    ModelConfig model = read_model_config(base_, parts_);
    if (parts_.contains("transformer_2") && !model.boundary_ratio) {
      check_experts(model);
      take_published(model, true);
    }
    return model;
  }

 private:
  void take_base() {
    const bool replaces_only = files_.transformer.empty() && files_.models_dir.empty();
    if (files_.model_path.empty()) {
      if (replaces_only) {
        base_ = embedded_model_path();
        index_ = true;
      }
      return;
    }
    std::error_code status;
    check(fs::exists(files_.model_path, status), ErrorKind::invalid_argument, where_,
          "{} is not a folder or file. Give a model: a folder with model_index.json, or weights in any other layout.",
          files_.model_path);
    base_ = resolve_snapshot(files_.model_path);
    if (fs::is_directory(base_, status) && fs::exists(base_ / "model_index.json", status)) {
      index_ = true;
      return;
    }
    const HeldParts held = look_into(base_);
    for (const HeldPart& part : held.parts) parts_.emplace(part.part, part.path);
    if (!held.tokenizer.empty()) parts_.emplace("tokenizer", held.tokenizer);
    check(!parts_.empty(), ErrorKind::invalid_argument, where_,
          "{} holds no model: got {}. Give a folder with model_index.json, or weights of a Wan model.", base_.string(),
          held.unknown.empty() ? "neither model_index.json nor weights (safetensors, GGUF, .pth)" : held.unknown.front());
    for (const std::string& unknown : held.unknown) log(LogLevel::notice, unknown + "; it is passed over");
  }

  void take_options() {
    for (const FileOption& each : kOptions) {
      const std::string& said = files_.*each.slot;
      if (said.empty()) continue;
      std::error_code status;
      const fs::path path = said;
      check(fs::exists(path, status), ErrorKind::invalid_argument, option(each.name), "no file or folder {}. Check the path.",
            said);
      if (each.part.empty()) continue;
      if (each.part == "tokenizer") {
        parts_[std::string(each.part)] = path;
        continue;
      }
      bool has_tokenizer = false;
      const std::vector<HeldPart> held = held_by(path, &has_tokenizer);
      const bool fits =
          std::any_of(held.begin(), held.end(), [&](const HeldPart& part) { return part.part == kind_of(each.part); });
      check(fits, ErrorKind::invalid_argument, option(each.name), "{} {}, expected {}.{}", said,
            held.empty() ? what_else(path) : fmt::format("holds {}", option_of(held.front().part).what), each.what,
            held.empty() ? " Check the file." : fmt::format(" Give it by {}.", option(held.front().part)));
      parts_[std::string(each.part)] = path;
      if (has_tokenizer && files_.tokenizer.empty() && !index_) parts_["tokenizer"] = path;
    }
    check(!parts_.contains("transformer_2") || parts_.contains("transformer") || index_, ErrorKind::invalid_argument,
          "--transformer-2", "is the second of two experts: got no first one, expected it too. Give --transformer FILE.");
  }

  // Whether the transformer is one that takes what an image encoder makes of a picture.
  bool sees_images() const {
    if (!parts_.contains("transformer")) return false;
    ModelConfig model;
    model.parts = parts_;
    const LogScope quiet([](LogLevel, std::string_view) {});
    return parse_wan_dit_config(config_of_part(model, "transformer")).image_dim > 0;
  }

  // Whether a part found in the tree is of the transformer's size.
  bool fits(const HeldPart& found) const {
    if (!parts_.contains("transformer")) return true;
    ModelConfig model;
    model.parts = parts_;
    const WanDitConfig transformer = parse_wan_dit_config(config_of_part(model, "transformer"));
    model.parts[found.part] = found.path;
    if (found.part == "text_encoder") return parse_umt5_config(config_of_part(model, found.part)).d_model == transformer.text_dim;
    if (found.part == "image_encoder")
      return parse_clip_vision_config(config_of_part(model, found.part)).hidden_size == transformer.image_dim;
    if (found.part == "vae") return config_of_part(model, found.part).integer("z_dim", 1, 1024, 16) == transformer.out_channels;
    return true;
  }

  void search() {
    if (files_.models_dir.empty()) return;
    std::error_code status;
    check(fs::is_directory(files_.models_dir, status), ErrorKind::invalid_argument, "--models-dir",
          "{} is not a folder. Give a ComfyUI models tree.", files_.models_dir);
    for (const FileOption& each : kOptions) {
      const std::string part(each.part);
      if (each.folders.empty() || parts_.contains(part) || (part == "image_encoder" && !sees_images())) continue;
      if (index_) continue;  // has it
      std::vector<HeldPart> found;
      bool tokenizer_inside = false;
      for (const std::string_view folder : each.folders)
        for (const fs::path& path : sorted_entries(fs::path(files_.models_dir) / folder)) {
          if (!is_weights_file(path)) continue;
          bool inside = false;
          try {
            const LogScope quiet([](LogLevel, std::string_view) {});
            for (const HeldPart& held : held_by(path, &inside))
              if (held.part == part && fits(held)) {
                found.push_back(held);
                tokenizer_inside = inside;
              }
          } catch (const Error& error) {
            log(LogLevel::detail, fmt::format("{} is passed over: {}", path.string(), error.what()));
          }
        }
      if (found.empty()) continue;
      check(found.size() == 1, ErrorKind::invalid_argument, option(each.name),
            "several files in {} hold {} that fits: got {} and {}, expected one. Choose with {} FILE.", files_.models_dir,
            each.what, found[0].path.filename().string(), found.back().path.filename().string(), option(each.name));
      log(LogLevel::notice, fmt::format("{}: {} is taken.", part, found[0].path.string()));
      parts_[part] = found[0].path;
      if (tokenizer_inside && !parts_.contains("tokenizer")) parts_["tokenizer"] = found[0].path;
    }
  }

  ModelConfig assemble() {
    if (!parts_.contains("tokenizer") && parts_.contains("text_encoder")) {
      const fs::path& encoder = parts_["text_encoder"];
      std::error_code status;
      const fs::path beside = tokenizer_beside(fs::is_directory(encoder, status) ? encoder : fs::absolute(encoder).parent_path());
      bool inside = false;
      held_by(encoder, &inside);
      if (inside) parts_["tokenizer"] = encoder;
      else if (!beside.empty()) parts_["tokenizer"] = beside;
    }
    std::vector<std::string> missing;
    for (const char* const part : {"transformer", "text_encoder", "image_encoder", "vae", "tokenizer"})
      if (!parts_.contains(part) && (part != std::string_view("image_encoder") || sees_images()))
        missing.push_back(fmt::format("{} ({} FILE)", option_of(part).what, option(option_of(part).name)));
    check(missing.empty(), ErrorKind::invalid_argument, where_,
          "missing to run: {}. Give what is missing, or --models-dir with a ComfyUI models tree that has it.",
          fmt::join(missing, ", "));
    ModelConfig model;
    model.path = base_.empty() ? parts_["transformer"] : base_;
    const fs::path absolute = fs::absolute(model.path).lexically_normal();
    model.name = fs::is_directory(absolute) ? (absolute.has_filename() ? absolute : absolute.parent_path()).filename().string()
                                            : absolute.stem().string();
    model.parts = parts_;
    model.transformer = parse_wan_dit_config(config_of_part(model, "transformer"));
    model.text_encoder = parse_umt5_config(config_of_part(model, "text_encoder"));
    model.vae = parse_wan_vae_config(config_of_part(model, "vae"));
    model.expand_timesteps = model.vae.is_residual;  // one member has this VAE, Wan 2.2 TI2V
    if (model.transformer.image_dim) model.image_encoder = parse_clip_vision_config(config_of_part(model, "image_encoder"));
    check(model.transformer.image_dim || files_.image_encoder.empty(), ErrorKind::invalid_argument, "--image-encoder",
          "is not taken by this transformer: got {}, expected nothing. Leave it out.", files_.image_encoder);
    const bool two_experts = parts_.contains("transformer_2");
    if (two_experts) check_experts(model);
    take_published(model, two_experts);
    check_parts(model);
    return model;
  }

  static void check_experts(const ModelConfig& model) {
    check(parse_wan_dit_config(config_of_part(model, "transformer_2")) == model.transformer, ErrorKind::unsupported,
          "transformer_2", "is of another shape than the transformer: two experts of one shape are expected. Check the files.");
  }

  // Settings of the published member that the shapes are of, else Wan's own.
  static void take_published(ModelConfig& model, bool two_experts) {
    for (const std::string& name : published_model_names()) {
      const ModelConfig member = *published_model(name);
      if (member.transformer != model.transformer || member.boundary_ratio.has_value() != two_experts ||
          member.expand_timesteps != model.expand_timesteps)
        continue;
      model.boundary_ratio = member.boundary_ratio;
      model.scheduler = member.scheduler;
      model.defaults = member.defaults;
      log(LogLevel::notice, fmt::format("{}: steps, guidance and shift are those of {}, whose shapes it has.", model.name, name));
      return;
    }
    if (model.expand_timesteps) model.defaults = first_frame_defaults();
    if (two_experts) {
      const bool has_condition = model.transformer.condition_channels() > 0;
      const double boundary = has_condition ? 0.9 : 0.875;  // of Wan 2.2's image to video and text to video
      model.boundary_ratio = boundary;
      model.defaults = two_expert_defaults(model.transformer);
      log(LogLevel::notice,
          fmt::format("{}: of two experts the first takes the noise levels above {}, as in Wan 2.2; --boundary-ratio says another.",
                      model.name, boundary));
    }
  }

  const ModelFiles& files_;
  std::string where_;
  fs::path base_;
  bool index_ = false;  // base_ is in the Diffusers layout
  std::map<std::string, fs::path, std::less<>> parts_;
};

// A configuration beside weights, if it is one of this kind of part.
std::optional<JsonObject> config_beside(const fs::path& path, std::string_view part) {
  std::error_code status;
  const fs::path file = (fs::is_directory(path, status) ? path : fs::absolute(path).parent_path()) / "config.json";
  if (!fs::is_regular_file(file, status)) return {};
  JsonObject json = read_json_object(file, fmt::format("{}/config.json", part), kMaxConfigBytes);
  if (!is_config_of(json, kind_of(part))) return {};
  return json;
}

// Whether two configurations are of one size, by what both say.
bool same_size(const JsonObject& a, const JsonObject& b) {
  for (const std::string_view key : {"num_layers", "ffn_dim", "in_channels", "d_model", "d_ff", "vocab_size", "base_dim", "z_dim",
                                     "hidden_size", "num_hidden_layers"})
    if (a.has(key) && b.has(key) &&
        a.integer(key, JsonObject::kMin, JsonObject::kMax) != b.integer(key, JsonObject::kMin, JsonObject::kMax))
      return false;
  return true;
}

}  // namespace

std::span<const FileOption> file_options() { return kOptions; }

bool is_weights_file(const fs::path& path) {
  std::error_code status;
  if (!std::filesystem::is_regular_file(path, status)) return false;
  const std::string extension = path.extension().string();
  for (const std::string_view known : {".safetensors", ".gguf", ".pth", ".pt", ".bin", ".ckpt"})
    if (extension == known) return true;
  return false;
}

HeldParts look_into(const fs::path& path) {
  HeldParts out;
  std::error_code status;
  const bool is_folder = fs::is_directory(path, status);
  const auto take = [&](const fs::path& file, std::string_view as = {}) {
    bool has_tokenizer = false;
    std::vector<HeldPart> held;
    try {
      held = held_by(file, &has_tokenizer);
      if (held.empty()) out.unknown.push_back(fmt::format("{} {}", file.filename().string(), what_else(file)));
    } catch (const Error& error) {
      if (!is_folder) throw;
      out.unknown.push_back(fmt::format("{} cannot be read: {}", file.filename().string(), error.what()));
    }
    for (HeldPart& part : held) {
      if (!as.empty() && part.part == kind_of(as)) part.part = as;
      for (const HeldPart& other : out.parts)
        check(other.part != part.part, ErrorKind::invalid_argument, option(part.part),
              "two files hold {}: got {} and {}, expected one. Choose with {} FILE.", option_of(part.part).what,
              other.path.filename().string(), part.path.filename().string(), option(part.part));
      out.parts.push_back(std::move(part));
    }
    if (has_tokenizer) out.tokenizer = file;
  };
  if (!is_folder) {
    take(path);
    return out;
  }
  for (const char* const index : {"diffusion_pytorch_model.safetensors.index.json", "model.safetensors.index.json"})
    if (fs::exists(path / index, status)) {
      take(path);
      break;
    }
  for (const fs::path& file : sorted_entries(path))
    if (fs::is_regular_file(file, status) && is_weights_file(file) && !is_shard(file)) take(file);
  // Wan 2.2's experts have the same keys: their folders say which is which.
  const bool two = fs::is_directory(path / "high_noise_model", status) && fs::is_directory(path / "low_noise_model", status);
  if (two) {
    take(path / "high_noise_model", "transformer");
    take(path / "low_noise_model", "transformer_2");
  }
  if (const fs::path tokenizer = tokenizer_beside(path); !tokenizer.empty()) out.tokenizer = tokenizer;
  return out;
}

JsonObject config_of_part(const ModelConfig& model, const std::string& part) {
  const fs::path path = model.part(part);
  std::error_code status;
  std::optional<JsonObject> said = config_beside(path, part);
  const bool is_original = said && is_original_config(*said);
  if (said && !is_original && fs::is_directory(path, status)) return *said;
  const Checkpoint checkpoint(path, part);
  const FoundLayout* found = nullptr;
  const std::vector<FoundLayout> layouts = find_layouts(checkpoint);
  for (const FoundLayout& each : layouts)
    if (each.layout->part == kind_of(part)) found = &each;
  check(found, ErrorKind::invalid_argument, part, "{} holds no {}. Check the file.", path.string(), option_of(part).what);
  for (const char* const key : {"config", "zoetrope.config"})
    if (const auto stored = checkpoint.metadata().find(key);
        stored != checkpoint.metadata().end() && stored->second.starts_with('{')) {
      const JsonObject json = parse_json_object(stored->second, fmt::format("{}'s metadata", part));
      if (is_config_of(json, kind_of(part))) return json;
    }
  if (said && !is_original) {
    try {
      if (same_size(*said, infer_config(checkpoint, *found).json)) return *said;
    } catch (const Error&) {  // of a size that cannot be told without a configuration
      return *said;
    }
    log(LogLevel::notice, fmt::format("{}: config.json beside it is of another model and is passed over.", part));
  }
  const FoundConfig inferred = infer_config(checkpoint, *found, is_original ? &*said : nullptr);
  log(LogLevel::notice, fmt::format("{}: {} names, no config.json: its sizes are those of its tensors; taken by default: {}.", part,
                                    found->layout->name, inferred.assumed));
  return inferred.json;
}

ModelConfig read_model(const ModelFiles& files, std::string_view where) {
  const bool alone = files == ModelFiles{.model_path = files.model_path};
  if (files.model_path.starts_with("random:")) {
    check(alone, ErrorKind::invalid_argument, where,
          "{} makes all parts up: got files of parts beside it, expected none. Leave them out.", files.model_path);
    return read_model(files.model_path);
  }
  return Assembly(files, where).run();
}

}  // namespace zoe
