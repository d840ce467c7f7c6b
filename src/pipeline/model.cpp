#include "pipeline/model.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>

#include "base/encoding.h"
#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/nearest.h"
#include "checkpoint/checkpoint.h"
#include "compiler/passes/keep_stored.h"
#include "pipeline/model_files.h"
#include "pipeline/recipe.h"

namespace zoe {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMaxConfigBytes = 1 << 20;

JsonObject part_config(const ModelConfig& model, const std::string& part) {
  if (model.parts.contains(part)) return config_of_part(model, part);
  return read_json_object(model.part(part) / "config.json", part + "/config.json", kMaxConfigBytes);
}

// "parts": {"vae": "../toy-wan/vae"}, folders relative to the model's own.
std::map<std::string, fs::path, std::less<>> read_parts(const fs::path& path) {
  std::map<std::string, fs::path, std::less<>> parts;
  if (!fs::exists(path / "zoetrope.json")) return parts;
  const JsonObject file = read_json_object(path / "zoetrope.json", "zoetrope.json", kMaxConfigBytes);
  if (!file.has("parts")) return parts;
  static const std::vector<std::string> kParts{"image_encoder", "image_processor", "scheduler",     "text_encoder",
                                               "tokenizer",     "transformer",     "transformer_2", "vae"};
  const JsonObject said = file.object("parts");
  for (const std::string& part : said.keys()) {
    const std::string near = nearest(part, kParts);
    check(std::find(kParts.begin(), kParts.end(), part) != kParts.end(), ErrorKind::invalid_argument, "zoetrope.json",
          "unknown part in parts: got {}, expected one of {}.{}", in_quotes(part), fmt::join(kParts, ", "),
          near.empty() ? "" : " Did you mean " + near + "?");
    const fs::path folder = path / said.string(part);
    std::error_code status;
    check(fs::is_directory(folder, status), ErrorKind::invalid_argument, "zoetrope.json",
          "no folder for the part {}: got {}, expected a folder, relative to {}. Check the file.", part,
          in_quotes(said.string(part)), path.string());
    parts[part] = folder;
  }
  return parts;
}

// "loras": {"transformer_2": ["loras/low_noise.safetensors"]}, files relative to the model's folder.
std::map<std::string, std::vector<fs::path>, std::less<>> read_loras(const fs::path& path, const ModelConfig& model) {
  std::map<std::string, std::vector<fs::path>, std::less<>> loras;
  if (!fs::exists(path / "zoetrope.json")) return loras;
  const JsonObject file = read_json_object(path / "zoetrope.json", "zoetrope.json", kMaxConfigBytes);
  if (!file.has("loras")) return loras;
  const JsonObject said = file.object("loras");
  for (const std::string& part : said.keys()) {
    check(part == "transformer" || (part == "transformer_2" && model.boundary_ratio), ErrorKind::invalid_argument, "zoetrope.json",
          "unknown part in loras: got {}, expected {}. Check the file.", in_quotes(part),
          model.boundary_ratio ? "transformer or transformer_2" : "transformer");
    for (const std::string& lora : said.strings(part, 1, 16)) {
      std::error_code status;
      check(fs::is_regular_file(path / lora, status), ErrorKind::invalid_argument, "zoetrope.json",
            "no LoRA of the {}: got {}, expected a file, relative to {}. Check the file.", part, in_quotes(lora), path.string());
      loras[part].push_back(path / lora);
    }
  }
  return loras;
}

// model_index.json names the class of every part; another class is another computation.
JsonObject read_index(const fs::path& path) {
  const JsonObject index = read_json_object(path / "model_index.json", "model_index.json", kMaxConfigBytes);
  // Which of them it is follows from the transformer's channels.
  constexpr std::string_view kPipelines[] = {"WanPipeline", "WanImageToVideoPipeline", "WanVACEPipeline", "WanVideoToVideoPipeline",
                                             "WanDMDPipeline"};
  const std::string pipeline = index.string("_class_name", "");
  check(std::find(std::begin(kPipelines), std::end(kPipelines), pipeline) != std::end(kPipelines), ErrorKind::unsupported,
        "model_index.json", "unsupported pipeline: got {}, expected {}. Choose another model.",
        pipeline.empty() ? "none" : pipeline, fmt::join(kPipelines, " or "));
  // FastVideo's name for models of three steps, which are Wan's but for that.
  if (pipeline == "WanDMDPipeline")
    log(LogLevel::notice, "model_index.json names WanDMDPipeline: models of it are made for --preset dmd-3step.");
  const std::array<std::pair<const char*, const char*>, 3> classes{
      {{"transformer", pipeline == "WanVACEPipeline" ? "WanVACETransformer3DModel" : "WanTransformer3DModel"},
       {"vae", "AutoencoderKLWan"},
       {"text_encoder", "UMT5EncoderModel"}}};
  for (const auto& [part, expected] : classes) {
    const std::string got = index.strings(part, 2, 2)[1];
    check(got == expected, ErrorKind::unsupported, "model_index.json", "unsupported {}: got {}, expected {}. Choose another model.",
          part, got.empty() ? "none" : got, expected);
  }
  return index;
}

// A second transformer, if there is one; some converters write boundary_ratio beside none.
std::optional<double> read_boundary(const JsonObject& index) {
  if (!index.has("transformer_2")) return {};
  const std::string got = index.strings("transformer_2", 2, 2)[1];
  if (got.empty()) return {};
  const std::string first = index.strings("transformer", 2, 2)[1];
  check(got == first, ErrorKind::unsupported, "model_index.json",
        "unsupported transformer_2: got {}, expected {} as transformer. Choose another model.", got, first);
  check(index.has("boundary_ratio"), ErrorKind::invalid_argument, "model_index.json",
        "no boundary_ratio: got two transformers, expected the share of the timesteps that the first one takes. Check the file.");
  return index.number("boundary_ratio", 0, 1, 0);
}

GenerationDefaults read_defaults(const fs::path& path, const ModelConfig& model) {
  GenerationDefaults defaults;
  if (model.expand_timesteps) defaults = first_frame_defaults();
  if (model.boundary_ratio) defaults = two_expert_defaults(model.transformer);
  if (!fs::exists(path / "zoetrope.json")) return defaults;
  const JsonObject file = read_json_object(path / "zoetrope.json", "zoetrope.json", kMaxConfigBytes);
  defaults.height = file.integer("height", 16, 1 << 16, defaults.height);
  defaults.width = file.integer("width", 16, 1 << 16, defaults.width);
  defaults.num_frames = file.integer("num_frames", 1, 1 << 16, defaults.num_frames);
  defaults.fps = file.number("fps", 0.1, 240, defaults.fps);
  defaults.num_inference_steps = static_cast<int>(file.integer("num_inference_steps", 1, 1000, defaults.num_inference_steps));
  defaults.guidance_scale = file.number("guidance_scale", 0, 1000, defaults.guidance_scale);
  if (file.has("guidance_scale_2")) defaults.guidance_scale_2 = file.number("guidance_scale_2", 0, 1000, 0);
  return defaults;
}

std::vector<std::array<double, 3>> read_latent_rgb(const fs::path& path, const WanVaeConfig& vae) {
  std::vector<std::array<double, 3>> rows;
  if (!fs::exists(path / "zoetrope.json")) return rows;
  const JsonObject file = read_json_object(path / "zoetrope.json", "zoetrope.json", kMaxConfigBytes);
  if (!file.has("latent_rgb")) return rows;
  const auto count = 3 * static_cast<std::size_t>(vae.z_dim + 1);
  const std::vector<double> values = file.numbers("latent_rgb", -1000, 1000, count, count);
  for (std::size_t i = 0; i < count; i += 3) rows.push_back({values[i], values[i + 1], values[i + 2]});
  return rows;
}

void check_image_encoder(const ModelConfig& model) {
  const ClipVisionConfig& encoder = *model.image_encoder;
  check(encoder.hidden_size == model.transformer.image_dim, ErrorKind::invalid_argument, "transformer/config.json",
        "bad image_dim: got {}, expected the image encoder's hidden_size {}. The parts are of different models.",
        model.transformer.image_dim, encoder.hidden_size);
  check(model.transformer.image_positions == 0 || model.transformer.image_positions == 2 * encoder.tokens(),
        ErrorKind::invalid_argument, "transformer/config.json",
        "bad pos_embed_seq_len: got {}, expected {}: two pictures of {} tokens. The parts are of different models.",
        model.transformer.image_positions, 2 * encoder.tokens(), encoder.tokens());
}

}  // namespace

fs::path ModelConfig::part(std::string_view part_name) const {
  const auto elsewhere = parts.find(part_name);
  return elsewhere != parts.end() ? elsewhere->second : path / part_name;
}

ModelConfig read_model_config(const fs::path& given, std::map<std::string, fs::path, std::less<>> parts) {
  std::error_code status;
  const fs::path path = resolve_snapshot(given);
  check(fs::is_directory(path, status), ErrorKind::invalid_argument, "--model-path",
        "{} is not a folder. Give a model in the Diffusers layout (a folder with model_index.json).", path.string());
  const JsonObject index = read_index(path);
  ModelConfig model;
  model.boundary_ratio = read_boundary(index);
  model.expand_timesteps = index.boolean("expand_timesteps", false);
  model.path = path;
  model.parts = read_parts(path);
  model.loras = read_loras(path, model);
  for (auto& [part, place] : parts) model.parts.insert_or_assign(part, std::move(place));
  const fs::path absolute = fs::absolute(given).lexically_normal();
  model.name = absolute.has_filename() ? absolute.filename().string() : absolute.parent_path().filename().string();
  model.text_encoder = parse_umt5_config(part_config(model, "text_encoder"));
  model.transformer = parse_wan_dit_config(part_config(model, "transformer"));
  if (model.boundary_ratio)
    check(parse_wan_dit_config(part_config(model, "transformer_2")) == model.transformer, ErrorKind::unsupported,
          "transformer_2/config.json",
          "differs from transformer/config.json: two experts of one shape are expected. Check the files.");
  model.vae = parse_wan_vae_config(part_config(model, "vae"));
  if (model.transformer.image_dim) {
    const bool is_said = parts.contains("image_encoder");
    const std::string got = is_said ? "CLIPVisionModel" : index.has("image_encoder") ? index.strings("image_encoder", 2, 2)[1] : "";
    check(got == "CLIPVisionModel" || got == "CLIPVisionModelWithProjection", ErrorKind::unsupported, "model_index.json",
          "unsupported image_encoder: got {}, expected CLIPVisionModel, as the transformer has an image_dim. Choose another model.",
          got.empty() ? "none" : got);
    model.image_encoder = parse_clip_vision_config(part_config(model, "image_encoder"));
  }
  const std::string scheduler = "scheduler/scheduler_config.json";
  model.scheduler =
      parse_scheduler_config(read_file(model.part("scheduler") / "scheduler_config.json", scheduler, kMaxConfigBytes), scheduler);
  model.defaults = read_defaults(path, model);
  model.latent_rgb = read_latent_rgb(path, model.vae);
  check_parts(model);
  return model;
}

void check_parts(const ModelConfig& model) {
  check(model.transformer.text_dim == model.text_encoder.d_model, ErrorKind::invalid_argument, "transformer/config.json",
        "bad text_dim: got {}, expected the text encoder's d_model {}. The parts are of different models.",
        model.transformer.text_dim, model.text_encoder.d_model);
  if (model.image_encoder) check_image_encoder(model);
  make_recipe(model);
}

ModelConfig read_model(const std::string& spec) {
  constexpr std::string_view kRandom = "random:";
  if (!spec.starts_with(kRandom)) return read_model(ModelFiles{.model_path = spec});
  const std::string_view rest = std::string_view(spec).substr(kRandom.size());
  const std::string_view member = rest.substr(0, rest.find(':'));
  std::optional<ModelConfig> model = published_model(member);
  const std::vector<std::string> names = published_model_names();
  const std::string near = nearest(member, names);
  check(model.has_value(), ErrorKind::invalid_argument, "--model-path", "unknown member: got {}, expected one of {}.{}",
        in_quotes(member), fmt::join(names, ", "), near.empty() ? "" : " Did you mean random:" + near + "?");
  std::uint64_t seed = 0;
  if (member.size() < rest.size()) {
    std::string_view text = rest.substr(member.size() + 1);
    if (const std::size_t colon = text.find(':'); colon != text.npos) {
      std::string encoding(text.substr(colon + 1));
      std::transform(encoding.begin(), encoding.end(), encoding.begin(), [](unsigned char c) { return std::toupper(c); });
      model->random_encoding = find_encoding(encoding);
      check(model->random_encoding && may_stay_stored(*model->random_encoding), ErrorKind::invalid_argument, "--model-path",
            "bad encoding of random weights: got {}, expected one narrower than bf16, as in random:{}:7:Q4_K.", in_quotes(encoding),
            member);
      text = text.substr(0, colon);
    }
    const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), seed);
    check(status == std::errc() && end == text.data() + text.size(), ErrorKind::invalid_argument, "--model-path",
          "bad seed of random weights: got {}, expected a whole number, as in random:{}:7.", in_quotes(text), member);
  }
  model->random_seed = seed;
  return std::move(*model);
}

namespace {

// A file or folder of its own, or inside a file of weights.
Tokenizer tokenizer_at(const fs::path& path) {
  if (!is_weights_file(path)) return Tokenizer(path);
  const std::string bytes = Checkpoint(path, "tokenizer").sentencepiece();
  check(
      !bytes.empty(), ErrorKind::invalid_argument, "tokenizer",
      "{} holds no tokenizer: got neither a tensor {} nor one in a GGUF file's metadata. Give a spiece.model or a tokenizer.json.",
      path.string(), in_quotes(kTokenizerTensor));
  return Tokenizer::of_sentencepiece(bytes, path.string());
}

}  // namespace

Tokenizer open_tokenizer(const ModelConfig& model) {
  Tokenizer tokenizer = tokenizer_at(model.path.empty() ? embedded_model_path() / "tokenizer" : model.part("tokenizer"));
  check(tokenizer.vocab_size() <= model.text_encoder.vocab_size, ErrorKind::invalid_argument, "tokenizer",
        "has {} pieces, expected at most the encoder's vocabulary of {}. The parts are of different models.",
        tokenizer.vocab_size(), model.text_encoder.vocab_size);
  return tokenizer;
}

namespace {

// Of the program, and before it, where the engine is a shared library, of that.
std::vector<fs::path> code_folders() {
  std::error_code status;
  std::vector<fs::path> folders{fs::read_symlink("/proc/self/exe", status).parent_path()};
  Dl_info loaded{};
  if (dladdr(reinterpret_cast<const void*>(&embedded_model_path), &loaded) == 0 || !loaded.dli_fname) return folders;
  const fs::path folder = fs::weakly_canonical(loaded.dli_fname, status).parent_path();
  if (!folder.empty() && folder != folders.front()) folders.insert(folders.begin(), folder);
  return folders;
}

}  // namespace

fs::path embedded_model_path(EmbeddedModel which) {
  const std::string_view name = which == EmbeddedModel::image_to_video ? "toy-wan-i2v" : "toy-wan";
  std::error_code status;
  std::string looked_at;
  for (const fs::path& folder : code_folders())
    // Beside it: a link in the build folder, or Python's package. Or where `cmake --install` puts it.
    for (const fs::path& place : {folder / "models" / name, folder / "../share/zoetrope/models" / name}) {
      if (fs::exists(place / "model_index.json", status)) return place.lexically_normal();
      looked_at += fmt::format("{}{}", looked_at.empty() ? "" : " nor ", place.lexically_normal().string());
    }
  fail(ErrorKind::invalid_argument, "--model-path", "the embedded model is gone: not in {}. Give --model-path.", looked_at);
}

}  // namespace zoe
