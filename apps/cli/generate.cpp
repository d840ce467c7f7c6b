#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "apps/cli/generate.h"
#include "apps/cli/progress.h"
#include "apps/cli/prompts.h"
#include "apps/cli/signals.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/nearest.h"
#include "compiler/profile.h"
#include "media/metadata.h"
#include "media/video_writer.h"
#include "pipeline/model.h"
#include "pipeline/resident_memory.h"
#include "pipeline/step_times.h"
#include "pipeline/video_files.h"

namespace zoe::cli {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

// The run that a file says it comes from, before options beside it.
void take_from(GenerateOptions& options, const std::string& path) {
  options.from = path;
  options.request = request_from_json(read_video_metadata(path, "--from"), "--from", &options.made_with);
}

// What --from says beside the request, where no option says it.
void follow(GenerateOptions& options) {
  const std::string made_by = options.made_with["model"];
  const auto is = [&](EmbeddedModel which) { return made_by == embedded_model_path(which).filename().string(); };
  check(options.model != ModelFiles() || is(EmbeddedModel::text_to_video) || is(EmbeddedModel::image_to_video),
        ErrorKind::invalid_argument, "--from",
        "{} was made with the model {}, which is not an embedded one. Say where it is with --model-path.", options.from,
        in_quotes(made_by));
  if (const auto dtype = options.made_with.find("dtype"); dtype != options.made_with.end() && !options.has_dtype)
    options.device.dtype = dtype->second;
}

// What a run reads, it may not overwrite.
void check_output_apart(std::string_view where, const fs::path& output, const GenerateOptions& options) {
  std::vector<fs::path> paths{options.model.model_path.empty() ? embedded_model_path() : fs::path(options.model.model_path)};
  for (const FileOption& each : file_options())
    if (!(options.model.*each.slot).empty()) paths.emplace_back(options.model.*each.slot);
  for (const fs::path& path : paths)
    check(!is_inside(output, path), ErrorKind::invalid_argument, where,
          "{} lies in the model folder {}. Choose a path outside of it.", output.string(), path.string());
  check(options.prompt_file.empty() || !same_file(output, options.prompt_file), ErrorKind::invalid_argument, where,
        "{} is the file of the prompts. Choose another path.", output.string());
  for (const RequestField& field : request_fields())
    if (field.is_file())
      for (const std::string& path : get_field(options.request, field))
        check(!same_file(output, path), ErrorKind::invalid_argument, where, "{} is the file of {}. Choose another path.",
              output.string(), spelled(field.name, Spelling::option));
}

// What is written beside the output may not be it, nor what the run reads.
void check_beside(std::string_view where, const std::string& path, const GenerateOptions& options) {
  if (path.empty()) return;
  check_output_apart(where, path, options);
  check(fs::absolute(path).lexically_normal() != fs::absolute(options.output).lexically_normal(), ErrorKind::invalid_argument,
        where, "{} is the output. Choose another path.", path);
}

// Nor may one of them be another.
void check_apart(const GenerateOptions& options) {
  const std::pair<std::string_view, const std::string*> beside[] = {
      {"--profile", &options.profile}, {"--preview", &options.preview}, {"--save-state", &options.save_state}};
  for (const auto& [where, path] : beside) {
    if (where != "--profile") check_beside(where, *path, options);
    else if (!path->empty())
      check_output_apart(where, *path, options);  // a trace that is the output is refused where both are opened
    for (const auto& [other, its] : beside)
      check(other == where || path->empty() || its->empty() ||
                fs::absolute(*path).lexically_normal() != fs::absolute(*its).lexically_normal(),
            ErrorKind::invalid_argument, where, "{} is the file of {}, too. Choose another path.", *path, other);
  }
}

// A state that is there already may be all that is left of hours of work.
void check_state(const GenerateOptions& options) {
  std::error_code status;
  check(options.saved || !fs::exists(options.save_state, status), ErrorKind::invalid_argument, "--save-state",
        "{} exists: go on with `zoe resume {}`, or remove it to begin anew.", options.save_state, options.save_state);
}

// Whether an argument is also of the run that goes on, or of this process alone.
bool stays(const std::string& argument) {
  constexpr std::string_view kOwn[] = {
      "from",   "prompt-file", "profile",   "quiet",    "verbose", "json",
      "output", "save-state",  "cuda-path", "cache-dir"};  // the last two say what code is loaded: not for a file to say
  const std::string name = argument.substr(2, argument.find('=') - 2);
  return std::find(std::begin(kOwn), std::end(kOwn), name) == std::end(kOwn);
}

// What is kept of a prepared run, beside its state.
SavedRun run_to_save(const GenerateOptions& options, const Session& session, const VideoFiles& files, const Job& job,
                     bool numbers) {
  const DeviceInfo& device = session.platform().info();
  SavedRun run;
  run.request = files.decided(job);
  if (job.settled().token_pieces > 1) run.request.token_pieces = static_cast<int>(job.settled().token_pieces);
  run.batch = job.settled().batch;
  run.device = fmt::format("{} ({})", device.platform, device.name);
  run.inputs = options.saved ? options.saved->inputs : digests_of(session.model(), run.request);
  std::vector<std::string> arguments = options.arguments;
  std::erase_if(arguments, [](const std::string& argument) { return !stays(argument); });
  arguments.push_back("--output=" + fs::absolute(options.output).string());
  arguments.push_back(fmt::format("--dtype={}", name(session.dtype())));
  run.settings = {{"arguments", Json(arguments).dump(-1, ' ', false, Json::error_handler_t::replace)},
                  {"numbered", numbers ? "true" : "false"}};
  return run;
}

}  // namespace

Json stages_json(const Timings& timings) {
  Json stages = Json::array();
  for (const StageTime& each : timings.stages) stages.push_back({{"stage", each.stage}, {"load", each.load}, {"run", each.run}});
  return stages;
}

int generate(GenerateOptions& options) {
  const auto start = Clock::now();
  MemoryWatch watch;
  Reporter reporter(options.quiet || options.json, options.verbose);
  Json notes = Json::array();
  const LogScope log_scope([&](LogLevel level, std::string_view text) {
    if (level == LogLevel::notice) {
      reporter.line(fmt::format("note: {}", text));
      notes.push_back(text);
    } else {
      reporter.detail(text);
    }
  });
  const bool from_file = !options.prompt_file.empty(), saves = !options.save_state.empty();
  if (!options.from.empty()) follow(options);
  if (options.model == ModelFiles() && !options.request.image.empty())
    options.model.model_path = embedded_model_path(EmbeddedModel::image_to_video).string();
  check(from_file ? !options.has_prompt : !options.request.prompts.empty(), ErrorKind::invalid_argument, "generate",
        "{}. Say what to show with --prompt \"...\" or --prompt-file FILE.",
        from_file ? "got both --prompt and --prompt-file, expected one" : "no prompt given");
  if (from_file) options.request.prompts = read_prompts(options.prompt_file);
  static_cast<void>(video_format(options.output));  // refused before anything is opened
  check_output_apart("output", options.output, options);
  check_apart(options);
  if (saves) check_state(options);
  Profile profile;
  std::optional<PendingOutput> profile_file;
  if (!options.profile.empty()) profile_file.emplace(options.profile, PendingOutput::Kind::file, "--profile");

  auto phase_start = Clock::now();
  const auto phase = [&](const char* name) {
    const auto now = Clock::now();
    reporter.detail(fmt::format("{} in {:.2f} s", name, std::chrono::duration<double>(now - phase_start).count()));
    profile.phase(name, phase_start, now);
    phase_start = now;
  };
  const std::shared_ptr<Platform> platform = open(options.device);
  const DType dtype = chosen_dtype(options.device, *platform);
  phase("open the device");
  options.session.dtype = dtype;
  Session session(open_model(options.model, "--model-path"), platform, options.session);
  phase("open the model");
  const ModelConfig& model = session.model();
  if (options.saved) check_same_inputs(*options.saved, model, "resume");
  const bool numbers = options.numbered || from_file || options.request.prompts.size() * options.request.seeds.size() > 1;
  const auto outputs = [&](std::size_t video) {
    return numbers ? numbered_output(options.output, video + 1) : fs::path(options.output);
  };
  // Texts one behind the other may have other bits than a batch of two has: what ran so goes on so.
  if (options.saved && options.saved->batch == 1 && options.request.guidance_scale.value_or(0) > 1 &&
      options.request.guidance_batch == GuidanceBatch::automatic)
    options.request.guidance_batch = GuidanceBatch::off;
  VideoFiles files(session, options.request, {.path = outputs});
  std::unique_ptr<PreviewDecoder> decoder;
  if (!options.preview_decoder.empty()) {
    check(!options.preview.empty(), ErrorKind::invalid_argument, "--preview-decoder",
          "draws nothing without --preview FILE. Say where the preview goes, or leave this out.");
    // Before the request is prepared: that plans with what memory is left.
    decoder = std::make_unique<PreviewDecoder>(options.preview_decoder, model, files.plan().settled(), *platform, dtype,
                                               options.session.compile);
  }
  Job job = files.prepare();
  phase("plan");
  const Settled& settled = job.settled();
  const MemoryStatement& memory = job.memory();
  Request said = options.request;
  said.sigmas = settled.sigmas;  // also a preset's
  for (const std::string& notice :
       request_notices(said, settled.num_inference_steps, settled.guidance_scale,
                       parse_scheduler_kind(settled.scheduler, "scheduler"), model.defaults.num_frames, Spelling::option))
    log(LogLevel::notice, notice);
  const std::string low_noise = settled.guidance_scale_2 ? fmt::format(" and {}", *settled.guidance_scale_2) : "";
  reporter.line(fmt::format("{}: {}x{}, {} frame{}, {} step{} of {}, guidance {}{}{}, seed {}, {} on {} ({})", model.name,
                            settled.width, settled.height, settled.num_frames, settled.num_frames == 1 ? "" : "s",
                            settled.num_inference_steps, settled.num_inference_steps == 1 ? "" : "s", settled.scheduler,
                            settled.guidance_scale, low_noise, settled.batch == 2 ? " (a batch of two)" : "",
                            fmt::join(options.request.seeds, ","), name(dtype), platform->info().platform, platform->info().name));
  if (const std::string text = arithmetic_text(settled); !text.empty()) reporter.line("not exact: " + text);
  if (model.random_seed) log(LogLevel::notice, "the weights are random: the video is noise");
  if (!settled.sigmas.empty()) {
    std::string levels;
    for (const double level : settled.noise_levels) levels += fmt::format("{}{:.4g}", levels.empty() ? "" : ", ", level);
    reporter.line(fmt::format("noise levels: {}", levels));
  }
  reporter.line(memory_line(memory));

  Callbacks callbacks;
  callbacks.cancel = &stop_at_next_step();
  callbacks.profile = profile_file ? &profile : nullptr;
  callbacks.progress = [&](const Progress& progress) {
    watch.sample();
    reporter.progress(progress);
  };
  std::optional<StateSaver> saver;
  if (saves) {
    saver.emplace(options.save_state, options.save_every, run_to_save(options, session, files, job, numbers));
    reporter.line(fmt::format("state: {} every {} step{}; `zoe resume {}` goes on from it", options.save_state, options.save_every,
                              options.save_every == 1 ? "" : "s", options.save_state));
  }
  std::optional<Preview> preview;
  if (!options.preview.empty()) preview.emplace(options.preview, options.preview_every, model, settled, std::move(decoder));
  if (saver || preview)
    callbacks.step = [&](const StepDone& done) {
      if (saver) saver->step(done);
      if (preview) preview->step(done);
    };
  std::size_t steps_to_do = settled.prompts.size() * static_cast<std::size_t>(settled.num_inference_steps);
  if (options.saved) {
    const DenoiseState& state = options.saved->state;
    callbacks.resume = state;
    steps_to_do -= state.video * static_cast<std::size_t>(settled.num_inference_steps) + static_cast<std::size_t>(state.next_step);
    reporter.line(
        fmt::format("goes on behind step {} of {}{}", state.next_step, settled.num_inference_steps,
                    settled.prompts.size() == 1 ? "" : fmt::format(" of video {} of {}", state.video + 1, settled.prompts.size())));
    if (const std::string here = fmt::format("{} ({})", platform->info().platform, platform->info().name);
        here != options.saved->device)
      log(LogLevel::notice, fmt::format("the run began on {}: here the rest may differ in its bits", options.saved->device));
    if (settled.batch != options.saved->batch)
      log(LogLevel::notice,
          "the run began with guidance as a batch of two, for which there is no memory here: the rest may differ in its bits");
  }
  callbacks.finished = [&](std::size_t video) {
    watch.sample();
    reporter.line(fmt::format("wrote {} ({:.2f} s of video)", outputs(video).string(),
                              static_cast<double>(settled.num_frames) / settled.fps));
  };
  const auto run_start = Clock::now();
  if (profile_file) profile.phase("prepare", start, run_start);
  const Timings timings = files.run(job, callbacks);
  if (saver) saver->done();
  if (steps_to_do > 1)
    StepTimes(options.device.cache_dir)
        .keep(step_key(session, settled, memory), timings.denoise / static_cast<double>(steps_to_do), step_work(memory));
  const double frame_seconds = files.write_seconds_while_decoding(), write_seconds = files.write_seconds();
  const double total = std::chrono::duration<double>(Clock::now() - start).count();
  const double prepare = std::chrono::duration<double>(run_start - start).count();
  reporter.line(fmt::format(
      "time: {:.2f} s (prepare {:.2f}, load {:.2f}, encode {:.2f}, denoise {:.2f} at {:.3f} s/step, decode {:.2f}, write {:.2f}), "
      "first step after {:.2f} s",
      total, prepare, timings.load, timings.encode, timings.denoise,
      timings.denoise / static_cast<double>(std::max<std::size_t>(steps_to_do, 1)), timings.decode - frame_seconds, write_seconds,
      prepare + timings.first_step));
  if (profile_file) {
    profile.write(profile_file->path());
    profile_file->commit();
    reporter.line(fmt::format("wrote {}: open it with ui.perfetto.dev", options.profile));
  }
  if (options.json) {
    Json videos = Json::array();
    for (std::size_t video = 0; video < settled.prompts.size(); ++video)
      videos.push_back({{"path", outputs(video).string()}, {"request", Json::parse(to_json(files.decided(job, video)))}});
    const Json summary{{"videos", std::move(videos)},
                       {"model", model.name},
                       {"dtype", name(dtype)},
                       {"platform", platform->info().platform},
                       {"device", platform->info().name},
                       {"guidance_batch_size", settled.batch},
                       {"guidance_devices", settled.guidance_devices},
                       {"sequence_devices", settled.sequence_devices},
                       {"not_exact", arithmetic_text(settled)},
                       {"token_pieces", settled.token_pieces},
                       {"vae_tiles", settled.vae_tiles},
                       {"offload", name(memory.offload)},
                       {"memory_bytes",
                        {{"planned", memory.peak()},
                         {"planned_host", memory.host_peak()},
                         {"device_peak", platform->peak_bytes()},
                         {"process_peak", watch.peak_bytes()}}},
                       {"stages", stages_json(timings)},
                       {"seconds",
                        {{"total", total},
                         {"prepare", prepare},
                         {"load", timings.load},
                         {"encode", timings.encode},
                         {"denoise", timings.denoise},
                         {"decode", timings.decode - frame_seconds},
                         {"write", write_seconds},
                         {"first_step", prepare + timings.first_step}}},
                       {"notes", std::move(notes)}};
    fmt::print("{}\n", summary.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  constexpr std::size_t kHalf = 1 << 19;  // MiB, rounded
  if (platform->info().host_addressable)
    reporter.line(
        fmt::format("peak memory: {} MiB ({} MiB planned)", (watch.peak_bytes() + kHalf) >> 20, (memory.peak() + kHalf) >> 20));
  else
    reporter.line(fmt::format("memory: {} planned on the device, {} taken there; {} at most in this process",
                              bytes_text(memory.peak()), bytes_text(platform->peak_bytes()), bytes_text(watch.peak_bytes())));
  return 0;
}

void add_run_options(CLI::App& app, GenerateOptions& options) {
  app.add_option("-m,--model-path,--model,--model_path,--ckpt-dir,--ckpt_dir", options.model.model_path,
                 "A Wan model: a folder or a file of any layout (default: the embedded toy model)")
      ->type_name("PATH");
  add_model_files(app, options.model);
  app.add_option("-o,--output", options.output, "By suffix: .mp4 .mov .mkv .webm .gif .png, or a folder for numbered PNG frames")
      ->type_name("PATH")
      ->capture_default_str();
  app.add_option("--save-state", options.save_state,
                 "Keep what `zoe resume FILE` goes on from, until every video is whole (docs/resume.md)")
      ->type_name("FILE");
  app.add_option_function<std::string>(
         "--save-every",
         [&options](const std::string& text) {
           options.save_every = static_cast<int>(parse_integer("--save-every", text, 1, 1000));
         },
         "Steps from one saved state to the next; the last step's is always saved (default 5)")
      ->type_name("N");
  app.add_option(
         "--preview", options.preview,
         "A small animated picture of what is being made, replaced as the run goes on (.gif .png .webm .mp4; docs/resume.md)")
      ->type_name("FILE");
  app.add_option_function<std::string>(
         "--preview-every",
         [&options](const std::string& text) {
           options.preview_every = static_cast<int>(parse_integer("--preview-every", text, 1, 1000));
         },
         "Steps from one preview to the next (default 5)")
      ->type_name("N");
  app.add_option("--preview-decoder", options.preview_decoder,
                 "A tiny decoder that draws it, as taew2_1.pth (taew2_2.pth for Wan 2.2's VAE); without it a linear map does")
      ->type_name("FILE");
  add_device_options(app, options.device);
  add_memory_options(app, options.session);
  add_compile_options(app, options.session.compile);
  app.add_option("--profile", options.profile, "A trace of every step for Perfetto: op, bytes, GB/s, GFLOP/s (adds a little time)")
      ->type_name("FILE");
  app.add_flag("-q,--quiet", options.quiet, "Print nothing but errors");
  app.add_flag("-v,--verbose", options.verbose, "Also print the plans: steps, kernels, memory");
  add_json(app, options.json);
}

std::vector<std::string> said_arguments(const CLI::App& app) {
  std::vector<std::string> arguments;
  for (const CLI::Option* option : app.get_options()) {
    if (option->count() == 0 || option->get_positional() || find_field(option->get_lnames().front())) continue;
    const std::string name = "--" + option->get_lnames().front();
    if (option->get_items_expected_max() == 0) {
      arguments.push_back(name);
      continue;
    }
    std::string value = option->results().back();
    const std::string type = option->get_type_name();
    std::error_code status;
    // A PATH may also be something else, as random:MEMBER.
    if (type == "FILE" || type == "FOLDER" || (type == "PATH" && fs::exists(value, status))) value = fs::absolute(value).string();
    arguments.push_back(fmt::format("{}={}", name, value));
  }
  return arguments;
}

Command add_generate(CLI::App& app) {
  auto options = std::make_shared<GenerateOptions>();
  // Before the fields: what they say is on top of it. (Actions run in the order in which options were added.)
  app.add_option_function<std::string>(
         "--from", [o = options.get()](const std::string& path) { take_from(*o, path); },
         "Run again what a video or picture says it was made by; options beside it come on top")
      ->type_name("VIDEO");
  for (const RequestField& field : request_fields()) add_request_field(app, options->request, field);
  app.add_option("--prompt-file", options->prompt_file,
                 "One prompt a line, - for stdin: as many videos for one load, OUT-0001.mp4 and so on")
      ->type_name("FILE");
  add_run_options(app, *options);
  return [options, &app] {
    const auto said = [&](const char* name) { return app.get_option(name)->count() > 0; };
    options->has_prompt = said("--prompt");
    options->has_dtype = said("--dtype");
    // Levels and steps belong together: one that is said replaces both of the file's.
    if (said("--sigmas") && !said("--num-inference-steps")) options->request.num_inference_steps.reset();
    if (said("--num-inference-steps") && !said("--sigmas")) options->request.sigmas.clear();
    options->arguments = said_arguments(app);
    return generate(*options);
  };
}

}  // namespace zoe::cli
