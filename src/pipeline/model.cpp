#include "pipeline/model.h"

#include <unistd.h>

#include <array>
#include <charconv>

#include "base/error.h"
#include "base/json.h"
#include "base/nearest.h"
#include "checkpoint/checkpoint.h"
#include "pipeline/model_files.h"

namespace zoe {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMaxConfigBytes = 1 << 20;

JsonObject part_config(const ModelConfig& model, const std::string& part) {
  if (model.parts.contains(part)) return config_of_part(model, part);
  return read_json_object(model.part(part) / "config.json", part + "/config.json", kMaxConfigBytes);
}

// model_index.json names the class of every part; another class is another computation.
JsonObject read_index(const fs::path& path) {
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
  return index;
}

// A second transformer, if there is one; some converters write boundary_ratio beside none.
std::optional<double> read_boundary(const JsonObject& index) {
  if (!index.has("transformer_2")) return {};
  const std::string got = index.strings("transformer_2", 2, 2)[1];
  if (got.empty()) return {};
  check(got == "WanTransformer3DModel", ErrorKind::unsupported, "model_index.json",
        "unsupported transformer_2: got {}, expected WanTransformer3DModel. Choose another model.", got);
  check(index.has("boundary_ratio"), ErrorKind::invalid_argument, "model_index.json",
        "no boundary_ratio: got two transformers, expected the share of the timesteps that the first one takes. Check the file.");
  return index.number("boundary_ratio", 0, 1, 0);
}

GenerationDefaults read_defaults(const fs::path& path, bool two_experts) {
  GenerationDefaults defaults = two_experts ? two_expert_defaults() : GenerationDefaults();
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
  model.path = path;
  model.parts = std::move(parts);
  const fs::path absolute = fs::absolute(given).lexically_normal();
  model.name = absolute.has_filename() ? absolute.filename().string() : absolute.parent_path().filename().string();
  model.text_encoder = parse_umt5_config(part_config(model, "text_encoder"));
  model.transformer = parse_wan_dit_config(part_config(model, "transformer"));
  if (model.boundary_ratio)
    check(parse_wan_dit_config(part_config(model, "transformer_2")) == model.transformer, ErrorKind::unsupported,
          "transformer_2/config.json",
          "differs from transformer/config.json: two experts of one shape are expected. Check the files.");
  model.vae = parse_wan_vae_config(part_config(model, "vae"));
  const std::string scheduler = "scheduler/scheduler_config.json";
  model.scheduler = parse_scheduler_config(read_file(path / scheduler, scheduler, kMaxConfigBytes), scheduler);
  model.defaults = read_defaults(path, model.boundary_ratio.has_value());
  check_parts(model);
  return model;
}

void check_parts(const ModelConfig& model) {
  check(model.transformer.text_dim == model.text_encoder.d_model, ErrorKind::invalid_argument, "transformer/config.json",
        "bad text_dim: got {}, expected the text encoder's d_model {}. The parts are of different models.",
        model.transformer.text_dim, model.text_encoder.d_model);
  check(model.transformer.in_channels == model.vae.z_dim && model.transformer.out_channels == model.vae.z_dim,
        ErrorKind::unsupported, "transformer/config.json",
        "in_channels {} and out_channels {} differ from the VAE's z_dim {}: image to video does not run yet.",
        model.transformer.in_channels, model.transformer.out_channels, model.vae.z_dim);
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
    const std::string_view text = rest.substr(member.size() + 1);
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
  const Checkpoint checkpoint(path, "tokenizer");
  const TensorEntry* const bytes = checkpoint.find(kTokenizerTensor);
  check(bytes, ErrorKind::invalid_argument, "tokenizer",
        "{} holds no tokenizer: got no tensor {}. Give a spiece.model or a tokenizer.json.", path.string(),
        in_quotes(kTokenizerTensor));
  if (bytes->file)
    bytes->file->fetch(static_cast<std::size_t>(bytes->bytes.data() - bytes->file->bytes().data()), bytes->bytes.size());
  return Tokenizer::of_sentencepiece({reinterpret_cast<const char*>(bytes->bytes.data()), bytes->bytes.size()}, path.string());
}

}  // namespace

Tokenizer open_tokenizer(const ModelConfig& model) {
  Tokenizer tokenizer = tokenizer_at(model.path.empty() ? embedded_model_path() / "tokenizer" : model.part("tokenizer"));
  check(tokenizer.vocab_size() <= model.text_encoder.vocab_size, ErrorKind::invalid_argument, "tokenizer",
        "has {} pieces, expected at most the encoder's vocabulary of {}. The parts are of different models.",
        tokenizer.vocab_size(), model.text_encoder.vocab_size);
  return tokenizer;
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
