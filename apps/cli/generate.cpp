#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>

#include "apps/cli/commands.h"
#include "apps/cli/progress.h"
#include "apps/cli/signals.h"
#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "compiler/profile.h"
#include "media/video_writer.h"
#include "pipeline/generate.h"

namespace zoe::cli {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxPromptFileBytes = 16 << 20, kMaxPrompts = 9999;

struct GenerateOptions {
  DeviceOptions device;
  std::string model_path, prompt, prompt_file, output = "out.mp4", profile;
  CompileOptions compile;
  GenerateSettings settings;
  bool has_prompt = false, quiet = false, verbose = false;
};

std::vector<std::string> read_prompts(const std::string& path) {
  const std::string text = read_file(path, "--prompt-file", kMaxPromptFileBytes);
  std::vector<std::string> prompts;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.find_first_not_of(" \t") != std::string::npos) prompts.push_back(std::move(line));
    begin = end + 1;
  }
  check(!prompts.empty() && prompts.size() <= kMaxPrompts, ErrorKind::invalid_argument, "--prompt-file",
        "bad number of prompts in {}: got {}, expected 1 to {} lines. Write one prompt a line.", path, prompts.size(), kMaxPrompts);
  return prompts;
}

// What a run reads, it may not overwrite.
void check_output_apart(std::string_view where, const fs::path& output, const GenerateOptions& options, const fs::path& model) {
  check(!is_inside(output, model), ErrorKind::invalid_argument, where,
        "{} lies in the model folder {}. Choose a path outside of it.", output.string(), model.string());
  check(options.prompt_file.empty() || !same_file(output, options.prompt_file), ErrorKind::invalid_argument, where,
        "{} is the file of the prompts. Choose another path.", output.string());
}

std::string mib(std::size_t bytes) { return fmt::format("{:.0f} MiB", static_cast<double>(bytes) / 1048576.0); }

// What is known of the file before anything is planned: enough to refuse it, and to say what its encoder will need.
VideoSettings video_frame(const VideoShape& shape, double fps, const Platform& platform) {
  VideoSettings video;
  video.width = static_cast<int>(shape.width);
  video.height = static_cast<int>(shape.height);
  video.frames = static_cast<int>(shape.num_frames);
  video.fps = fps;
  video.threads = std::min(2, platform.info().threads);
  return video;
}

VideoSettings video_settings(const GenerateOptions& options, const Job& job, const Pipeline& pipeline, const Platform& platform,
                             const std::string& prompt) {
  const GenerateSettings& settings = options.settings;
  VideoSettings video = video_frame(job.shape, job.fps, platform);
  video.software = fmt::format("Zoetrope {}", kVersion);
  video.metadata = {{"prompt", prompt},
                    {"negative_prompt", settings.negative_prompt},
                    {"model", pipeline.model().name},
                    {"seed", fmt::format("{}", job.seed)},
                    {"width", fmt::format("{}", job.shape.width)},
                    {"height", fmt::format("{}", job.shape.height)},
                    {"num_frames", fmt::format("{}", job.shape.num_frames)},
                    {"fps", fmt::format("{}", job.fps)},
                    {"num_inference_steps", fmt::format("{}", job.num_inference_steps)},
                    {"guidance_scale", fmt::format("{}", job.guidance_scale)},
                    {"flow_shift", fmt::format("{}", job.scheduler.flow_shift)},
                    {"scheduler", std::string(name(job.scheduler.kind))},
                    {"dtype", std::string(name(pipeline.dtype()))},
                    {"platform", platform.info().platform},
                    {"software", video.software}};
  return video;
}

int generate(GenerateOptions& options) {
  const auto start = Clock::now();
  MemoryWatch watch;
  Reporter reporter(options.quiet, options.verbose);
  set_log_sink([&](LogLevel level, std::string_view text) {
    if (level == LogLevel::notice) reporter.line(fmt::format("note: {}", text));
    else reporter.detail(text);
  });
  const bool from_file = !options.prompt_file.empty();
  check(options.has_prompt != from_file, ErrorKind::invalid_argument, "generate",
        "{}. Say what to show with --prompt \"...\" or --prompt-file FILE.",
        from_file ? "got both --prompt and --prompt-file, expected one" : "no prompt given");
  options.settings.prompts = from_file ? read_prompts(options.prompt_file) : std::vector<std::string>{options.prompt};
  const VideoFormat format = video_format(options.output);
  const fs::path model_path = options.model_path.empty() ? embedded_model_path() : fs::path(options.model_path);
  check_output_apart("output", options.output, options, model_path);
  if (!options.profile.empty()) check_output_apart("--profile", options.profile, options, model_path);
  Profile profile;
  std::optional<PendingOutput> profile_file;
  if (!options.profile.empty()) profile_file.emplace(options.profile, PendingOutput::Kind::file, "--profile");

  const auto platform = open(options.device);
  const DType dtype = chosen_dtype(options.device, *platform);
  Pipeline pipeline(read_model_config(model_path), *platform, dtype, options.compile);
  const auto outputs = [&](std::size_t i) { return from_file ? numbered_output(options.output, i + 1) : fs::path(options.output); };
  Job job = pipeline.prepare(options.settings, [&](const VideoShape& shape) {
    const VideoSettings video = video_frame(shape, options.settings.fps.value_or(pipeline.model().defaults.fps), *platform);
    for (std::size_t i = 0; i < options.settings.prompts.size(); ++i) check_output(outputs(i), video);
    return encoder_bytes(format, video);
  });
  reporter.line(fmt::format("{}: {}x{}, {} frames, {} steps of {}, guidance {}{}, seed {}, {} on {} ({})", pipeline.model().name,
                            job.shape.width, job.shape.height, job.shape.num_frames, job.num_inference_steps,
                            name(job.scheduler.kind), job.guidance_scale, job.batch == 2 ? " (a batch of two)" : "", job.seed,
                            name(dtype), platform->info().platform, platform->info().name));
  reporter.line(fmt::format("memory: {} planned (encode {}, denoise {}, decode {})", mib(job.memory.peak()), mib(job.memory.encode),
                            mib(job.memory.denoise), mib(job.memory.decode)));

  double write_seconds = 0, frame_seconds = 0;  // of that, what falls into decoding
  std::unique_ptr<VideoWriter> writer;
  Callbacks callbacks;
  callbacks.cancel = &stop_at_next_step();
  callbacks.profile = profile_file ? &profile : nullptr;
  const auto wrote = [&](Clock::time_point begin) {
    const auto end = Clock::now();
    const double seconds = std::chrono::duration<double>(end - begin).count();
    write_seconds += seconds;
    if (profile_file) profile.phase("write", begin, end);
    return seconds;
  };
  callbacks.progress = [&](const Progress& progress) { reporter.progress(progress); };
  callbacks.frame = [&](std::size_t prompt, std::int64_t frame, std::span<const std::uint8_t> rgb) {
    const auto begin = Clock::now();
    if (frame == 0)
      writer =
          VideoWriter::open(outputs(prompt), video_settings(options, job, pipeline, *platform, options.settings.prompts[prompt]));
    writer->write(rgb);
    frame_seconds += wrote(begin);
  };
  callbacks.finished = [&](std::size_t prompt) {
    const auto begin = Clock::now();
    writer->finish();
    watch.sample();
    writer.reset();
    wrote(begin);
    reporter.line(
        fmt::format("wrote {} ({:.2f} s of video)", outputs(prompt).string(), static_cast<double>(job.shape.num_frames) / job.fps));
  };
  const auto run_start = Clock::now();
  if (profile_file) profile.phase("prepare", start, run_start);
  const Timings timings = pipeline.run(job, callbacks, &watch);
  const double total = std::chrono::duration<double>(Clock::now() - start).count();
  const double prepare = std::chrono::duration<double>(run_start - start).count();
  reporter.line(fmt::format(
      "time: {:.2f} s (prepare {:.2f}, load {:.2f}, encode {:.2f}, denoise {:.2f} at {:.3f} s/step, decode {:.2f}, write {:.2f}), "
      "first step after {:.2f} s",
      total, prepare, timings.load, timings.encode, timings.denoise,
      timings.denoise / job.num_inference_steps / static_cast<double>(job.prompt_count), timings.decode - frame_seconds,
      write_seconds, prepare + timings.first_step));
  if (profile_file) {
    profile.write(profile_file->path());
    profile_file->commit();
    reporter.line(fmt::format("wrote {}: open it with ui.perfetto.dev", options.profile));
  }
  if (platform->host_addressable())
    reporter.line(fmt::format("peak memory: {} ({} planned)", mib(watch.peak_bytes()), mib(job.memory.peak())));
  else
    reporter.line(fmt::format("memory: {} planned on the device, {} at most in this process", mib(job.memory.peak()),
                              mib(watch.peak_bytes())));
  return 0;
}

}  // namespace

Command add_generate(CLI::App& app) {
  auto options = std::make_shared<GenerateOptions>();
  GenerateSettings& settings = options->settings;
  app.add_option("--model-path", options->model_path, "A Wan model in the Diffusers layout (default: the embedded toy model)")
      ->type_name("FOLDER");
  app.add_option_function<std::string>(
         "-p,--prompt", [o = options.get()](const std::string& text) { o->prompt = text, o->has_prompt = true; }, "What to show")
      ->type_name("TEXT");
  app.add_option("--prompt-file", options->prompt_file, "One prompt a line: as many videos for one load, OUT-0001.mp4 and so on")
      ->type_name("FILE");
  app.add_option("-n,--negative-prompt", settings.negative_prompt, "What not to show")->type_name("TEXT");
  const auto integer = [&app](const char* flag, auto& target, std::int64_t min, std::int64_t max, const char* text) {
    using Integer = typename std::remove_reference_t<decltype(target)>::value_type;
    const char* const spelled = flag;
    app.add_option_function<std::string>(
           flag,
           [&target, spelled, min, max](const std::string& value) {
             target = static_cast<Integer>(parse_integer(spelled, value, min, max));
           },
           text)
        ->type_name("N");
  };
  const auto number = [&app](const char* flag, std::optional<double>& target, double min, double max, const char* text) {
    app.add_option_function<std::string>(
           flag, [&target, flag, min, max](const std::string& value) { target = parse_number(flag, value, min, max); }, text)
        ->type_name("X");
  };
  integer("--height", settings.height, 1, 65536, "Pixels, rounded down to a multiple of 16 (default: the model's)");
  integer("--width", settings.width, 1, 65536, "Pixels, rounded down to a multiple of 16 (default: the model's)");
  integer("--num-frames", settings.num_frames, 1, 65536, "Frames, made one more than a multiple of 4 (default: the model's)");
  number("--fps", settings.fps, 0.1, 240, "Frames a second of the file (default: the model's)");
  integer("--num-inference-steps", settings.num_inference_steps, 1, 1000, "Denoising steps (default: the model's)");
  number("--guidance-scale", settings.guidance_scale, 0, 1000,
         "Classifier-free guidance; up to 1 switches it off (default: the model's)");
  add_guidance_batch(app, settings);
  number("--flow-shift", settings.flow_shift, 1e-3, 1000, "Shift of the noise levels (default: the model's)");
  app.add_option_function<std::string>(
         "--scheduler", [&settings](const std::string& text) { settings.scheduler = parse_scheduler_kind(text, "--scheduler"); },
         "unipc or euler (default: the model's)")
      ->type_name("NAME");
  app.add_option_function<std::string>(
         "--seed", [&settings](const std::string& text) { settings.seed = parse_seed("--seed", text); },
         "Of the initial noise, as torch.Generator(\"cpu\").manual_seed (default: 0)")
      ->type_name("N");
  app.add_option("-o,--output", options->output, "By suffix: .mp4 .mov .mkv .webm .gif .png, or a folder for numbered PNG frames")
      ->type_name("PATH")
      ->capture_default_str();
  add_device_options(app, options->device);
  add_compile_options(app, options->compile);
  app.add_option("--profile", options->profile, "A trace of every step for Perfetto: op, bytes, GB/s, GFLOP/s (adds a little time)")
      ->type_name("FILE");
  app.add_flag("-q,--quiet", options->quiet, "Print nothing but errors");
  app.add_flag("-v,--verbose", options->verbose, "Also print the plans: steps, kernels, memory");
  return [options] { return generate(*options); };
}

}  // namespace zoe::cli
