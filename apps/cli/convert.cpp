// zoe convert: a model's weights as another kind of file, in another encoding, with LoRAs merged.
#include <CLI/CLI.hpp>
#include <chrono>
#include <nlohmann/json.hpp>

#include "apps/cli/commands.h"
#include "apps/cli/progress.h"
#include "apps/cli/signals.h"
#include "base/error.h"
#include "base/log.h"
#include "pipeline/convert.h"

namespace zoe::cli {

namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string model;
  ConvertOptions convert;
  bool quiet = false, json = false;
};

int run(Options& options) {
  const auto start = std::chrono::steady_clock::now();
  Reporter reporter(options.quiet || options.json, false);
  Json notes = Json::array();
  const auto note = [&](std::string_view text) {
    reporter.line(fmt::format("note: {}", text));
    notes.push_back(text);
  };
  const LogScope log_scope([&](LogLevel level, std::string_view text) {
    if (level == LogLevel::notice) note(text);
  });
  const ModelConfig model = read_model_to_convert(options.model, "MODEL");
  options.convert.spelling = Spelling::option;
  options.convert.cancel = &stop_at_next_step();
  options.convert.progress = [&](std::size_t done, std::size_t total) { reporter.progress({Phase::load, 0, done, total}); };
  const Converted converted = convert(model, options.convert);
  for (const std::string& text : converted.notes) note(text);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::string path = options.convert.output.string();
  reporter.line(fmt::format("wrote {}: {} tensors, {:.1f} MiB in {:.1f} s", path, converted.tensors,
                            static_cast<double>(converted.bytes) / 1048576.0, seconds));
  if (options.json) {
    const Json summary{{"path", path},
                       {"model", model.name},
                       {"type", options.convert.type},
                       {"tensors", converted.tensors},
                       {"bytes", converted.bytes},
                       {"seconds", seconds},
                       {"notes", std::move(notes)}};
    fmt::print("{}\n", summary.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  return 0;
}

}  // namespace

Command add_convert(CLI::App& app) {
  auto options = std::make_shared<Options>();
  app.add_option("MODEL", options->model,
                 "A model, as --model-path of generate takes it, or the file of a transformer (default: the embedded toy model)");
  app.add_option(
         "-o,--output", options->convert.output,
         "NAME.safetensors or NAME.gguf: one transformer under the original names; else a new folder in the Diffusers layout")
      ->type_name("PATH")
      ->required();
  app.add_option("--type", options->convert.type, "Of weights (blocks for .gguf, fp8_scaled for .safetensors)")
      ->type_name(fmt::format("{}", fmt::join(convert_types(), "|")))
      ->capture_default_str();
  app.add_option("--part", options->convert.part, "What a single file gets")
      ->type_name("transformer|transformer_2|vae|text_encoder")
      ->capture_default_str();
  for (const char* field : {"lora", "lora_high", "lora_low", "lora_allow_unused"})
    add_request_field(app, options->convert.loras, field);
  app.add_flag("-q,--quiet", options->quiet, "Print nothing but errors");
  add_json(app, options->json);
  return [options] { return run(*options); };
}

}  // namespace zoe::cli
