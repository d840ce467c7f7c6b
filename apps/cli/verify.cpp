#include <CLI/CLI.hpp>

#include "apps/cli/commands.h"
#include "base/error.h"
#include "pipeline/verify.h"

namespace zoe::cli {

namespace {

struct VerifyOptions {
  DeviceOptions device;
  CompileOptions compile;
  GenerateSettings settings;
  std::string model, prompt = "a big red circle moving right on a white background";
  std::int64_t height = 64, width = 64, num_frames = 5, steps = 2;
};

int verify(const VerifyOptions& options) {
  check(options.compile.compile, ErrorKind::invalid_argument, "--compile", "off leaves nothing to compare: got off, expected on.");
  const auto platform = open(options.device);
  const DType dtype = chosen_dtype(options.device, *platform);
  const ModelConfig model = read_model_config(options.model.empty() ? embedded_model_path() : std::filesystem::path(options.model));
  GenerateSettings settings = options.settings;
  settings.prompts = {options.prompt};
  settings.height = options.height;
  settings.width = options.width;
  settings.num_frames = options.num_frames;
  settings.num_inference_steps = static_cast<int>(options.steps);
  const VerifyReport report = zoe::verify(model, *platform, dtype, settings, options.compile);

  const std::string promise =
      report.allowed_ulps == 0 ? "the same bits" : fmt::format("within {} units of the last place", report.allowed_ulps);
  fmt::print("{}: {}x{}, {} frames, {} steps, {} on {} ({}); promised: {}\n", model.name, options.width, options.height,
             options.num_frames, options.steps, name(dtype), platform->info().platform, platform->info().name, promise);
  fmt::print("{:<6} {:>5} {:>10} {:>10} {:>10} {:>9}  {}\n", "", "runs", "values", "different", "max abs", "max ulp",
             "plan: chain (implementation)");
  std::size_t chains = 0, bad = 0, others = 0, other_values = 0;
  for (const ChainDifference& chain : report.chains) {
    const bool passes = report.passes(chain);
    if (!passes) ++bad;
    if (!chain.fused && passes) {  // products and copies in a line of their own
      others += chain.runs;
      other_values += chain.values;
      continue;
    }
    if (chain.fused) ++chains;
    fmt::print("{:<6} {:5} {:10} {:10} {:10.3g} {:9.3g}  {}: {} ({}){}\n", passes ? "ok" : "DIFFER", chain.runs, chain.values,
               chain.different, chain.max_absolute, chain.max_ulps, chain.plan, chain.what, chain.implementation,
               chain.unmatched ? fmt::format(", {} results without a twin", chain.unmatched) : "");
  }
  if (others) fmt::print("{:<6} {:5} {:10}  other steps (products, attention, copies)\n", "ok", others, other_values);
  const LatentDifference& latents = report.latents;
  fmt::print("{:<6} {:5} {:10} {:10} {:10.3g} {:9}  final latents, relative RMS {:.3g}\n", report.latents_pass() ? "ok" : "DIFFER",
             1, latents.values, latents.different, latents.max_absolute, "", latents.relative_rms);
  check(report.passed(), ErrorKind::internal, "verify", "{} of {} chains and {} differ from the uncompiled run. Use --compile off.",
        bad, chains, report.latents_pass() ? "not the latents" : "the final latents");
  fmt::print("{} chains hold\n", chains);
  return 0;
}

}  // namespace

Command add_verify(CLI::App& app) {
  auto options = std::make_shared<VerifyOptions>();
  app.add_option("MODEL", options->model, "A model in the Diffusers layout (default: the embedded toy model)");
  app.add_option("-p,--prompt", options->prompt, "What to run it on")->type_name("TEXT");
  const auto integer = [&app](const char* flag, std::int64_t& target, std::int64_t min, std::int64_t max, const char* text) {
    app.add_option_function<std::string>(
           flag, [&target, flag, min, max](const std::string& value) { target = parse_integer(flag, value, min, max); }, text)
        ->type_name("N");
  };
  integer("--height", options->height, 16, 8192, "Pixels (default 64)");
  integer("--width", options->width, 16, 8192, "Pixels (default 64)");
  integer("--num-frames", options->num_frames, 1, 1025, "Frames (default 5)");
  integer("--num-inference-steps", options->steps, 1, 1000, "Denoising steps (default 2)");
  add_guidance_batch(app, options->settings);
  add_device_options(app, options->device);
  add_compile_options(app, options->compile);
  return [options] { return verify(*options); };
}

}  // namespace zoe::cli
