#include <atomic>
#include <cstring>
#include <functional>
#include <optional>
#include <vector>

#include "apps/capi/handles.h"
#include "base/log.h"
#include "media/video_writer.h"
#include "pipeline/model.h"
#include "pipeline/model_files.h"
#include "pipeline/parts.h"
#include "pipeline/preview.h"
#include "pipeline/recipe.h"
#include "pipeline/request.h"
#include "pipeline/session.h"
#include "pipeline/video_files.h"

namespace zoe::capi {

namespace {

struct SessionChoice : PlatformChoice {
  ModelFiles model;
  SessionOptions session;
};

template <bool SessionOptions::*Flag>
void set_flag(SessionChoice& choice, const Json& value) {
  choice.session.*Flag = value;
}

const std::vector<Option<SessionChoice>>& own_option_table() {
  static const std::vector<Option<SessionChoice>> table = {
      {"model", "text", "A folder or a file of any layout, random:MEMBER[:SEED], or the model that comes with the engine",
       [](SessionChoice& choice, const Json& value) { choice.model.model_path = value; }},
      {"dtype", "text", "Of weights and activations: auto, f32 or bf16; auto is bf16 where the device is faster in it",
       [](SessionChoice& choice, const Json& value) {
         const std::string text = value;
         if (text == "auto") return;
         check(text == "f32" || text == "bf16", ErrorKind::invalid_argument, "dtype", "got \"{}\", expected auto, f32 or bf16.",
               text);
         choice.session.dtype = parse_dtype(text, "dtype");
       }},
      {"offload", "text", "What leaves the device while it is not needed: auto, none, encoder, experts or blocks",
       [](SessionChoice& choice, const Json& value) {
         using enum Offload;
         const std::string text = value;
         for (const Offload each : {automatic, none, encoder, experts, blocks})
           if (name(each) == text) {
             choice.session.offload = each;
             return;
           }
         fail(ErrorKind::invalid_argument, "offload", "got \"{}\", expected auto, none, encoder, experts or blocks.", text);
       }},
      {"host_memory_limit_bytes", "bytes", "The most memory of this process for packed weights beside those on a device",
       [](SessionChoice& choice, const Json& value) { choice.session.host_memory_limit_bytes = value.get<std::uint64_t>(); }},
      {"compile", "true or false", "Chains of small operations become generated kernels",
       [](SessionChoice& choice, const Json& value) { choice.session.compile.compile = value; }},
      {"keep_stored", "true or false", "Weights in 8 bits and blocks stay so in memory",
       [](SessionChoice& choice, const Json& value) { choice.session.compile.keep_stored = value; }},
      {"single_request", "true or false", "What is not needed again is freed as soon as that is so, as the command does",
       set_flag<&SessionOptions::single_request>},
  };
  return table;
}

// Files of parts and options of the platform are tables of their own.
SessionChoice parse_session(const Json& object) {
  SessionChoice choice;
  Json own = Json::object(), of_platform = Json::object();
  const std::vector<Option<PlatformChoice>> platform_table = platform_option_table();
  for (const auto& [key, value] : object.items()) {
    const FileOption* file = nullptr;
    for (const FileOption& each : file_options())
      if (each.name == key) file = &each;
    if (file) {
      if (value.is_null()) continue;
      check_option_type(key, "text", value);
      choice.model.*(file->slot) = value;
    } else if (std::any_of(platform_table.begin(), platform_table.end(), [&](auto& each) { return each.name == key; })) {
      of_platform[key] = value;
    } else {
      own[key] = value;
    }
  }
  set_options(static_cast<PlatformChoice&>(choice), platform_table, of_platform, "session");
  set_options(choice, own_option_table(), own, "session");
  return choice;
}

struct SessionState {
  LogSink sink;
  std::shared_ptr<Platform> platform;
  std::optional<Session> session;
};

Json stage_json(const StageMemory& stage) {
  return {{"stage", stage.stage},           {"phase", name(stage.phase)},
          {"component", stage.component},   {"weights_bytes", stage.weights + stage.resident},
          {"tensors_bytes", stage.tensors}, {"workspace_bytes", stage.workspace},
          {"total_bytes", stage.total()},   {"streamed", stage.streamed}};
}

Json memory_json(const MemoryStatement& memory) {
  Json stages = Json::array();
  for (const StageMemory& stage : memory.stages) stages.push_back(stage_json(stage));
  return {{"peak_bytes", memory.peak()},
          {"host_peak_bytes", memory.host_peak()},
          {"free_bytes", memory.free},
          {"offload", name(memory.offload)},
          {"stages", std::move(stages)}};
}

template <class T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json settled_json(const Settled& settled) {
  return {{"height", settled.height},
          {"width", settled.width},
          {"num_frames", settled.num_frames},
          {"fps", settled.fps},
          {"num_inference_steps", settled.num_inference_steps},
          {"guidance_scale", settled.guidance_scale},
          {"guidance_scale_2", or_null(settled.guidance_scale_2)},
          {"boundary_ratio", or_null(settled.boundary_ratio)},
          {"flow_shift", settled.flow_shift},
          {"scheduler", settled.scheduler},
          {"noise_levels", settled.noise_levels},
          {"prompts", settled.prompts},
          {"seeds", settled.seeds},
          {"negative_prompt", settled.negative_prompt},
          {"batch", settled.batch}};
}

Json timings_json(const Timings& timings) {
  return {{"load", timings.load},
          {"encode", timings.encode},
          {"denoise", timings.denoise},
          {"decode", timings.decode},
          {"first_step", timings.first_step}};
}

}  // namespace

}  // namespace zoe::capi

struct zoe_session {
  std::shared_ptr<zoe::capi::SessionState> state;
};

struct zoe_job {
  std::shared_ptr<zoe::capi::SessionState> state;
  zoe::Request request;
  std::optional<zoe::VideoFiles> files;  // of a job with an output
  std::optional<zoe::Job> job;
  std::atomic<bool> cancel{false};
};

using namespace zoe;
using namespace zoe::capi;

zoe_status zoe_request_fields(char** json) {
  return guarded([&] {
    Json all = Json::array();
    for (const RequestField& field : request_fields())
      all.push_back({{"name", field.name},
                     {"type", field.type()},
                     {"min", field.min},
                     {"max", field.max},
                     {"unit", field.unit},
                     {"range", field.range()},
                     {"default", field.fallback},
                     {"help", field.help},
                     {"choices", field.choices()},
                     {"aliases", field.aliases},
                     {"hints", field.hints},
                     {"taken_by", member_names(field.taken_by)},
                     {"is_list", field.is_list()},
                     {"is_flag", field.is_flag()},
                     {"is_file", field.is_file()}});
    given(json, "json") = copy_text(all);
  });
}

zoe_status zoe_session_options(char** json) {
  return guarded([&] {
    Json all = Json::array();
    const auto add = [&](std::string_view name, std::string_view type, std::string_view help) {
      all.push_back({{"name", name}, {"type", type}, {"help", help}});
    };
    for (const auto& option : own_option_table()) add(option.name, option.type, option.help);
    for (const auto& option : platform_option_table()) add(option.name, option.type, option.help);
    for (const FileOption& option : file_options()) add(option.name, "text", option.help);
    given(json, "json") = copy_text(all);
  });
}

zoe_status zoe_embedded_model(const char* which, char** path) {
  return guarded([&] {
    const std::string_view name = &given(which, "which");
    check(name == "text_to_video" || name == "image_to_video", ErrorKind::invalid_argument, "embedded model",
          "got \"{}\", expected text_to_video or image_to_video.", name);
    given(path, "path") = copy_text(std::string_view(
        embedded_model_path(name == "text_to_video" ? EmbeddedModel::text_to_video : EmbeddedModel::image_to_video).string()));
  });
}

zoe_status zoe_session_open(const char* options, zoe_log log, void* user, zoe_session** session) {
  return guarded([&] {
    given(session, "session");
    auto state = std::make_shared<SessionState>();
    if (log)
      state->sink = [log, user](LogLevel level, std::string_view text) {
        log(user, level == LogLevel::notice, std::string(text).c_str());
      };
    const LogScope scope(state->sink);
    const SessionChoice choice = parse_session(parse_object(options, "session"));
    state->platform = open_platform(choice.platform, choice.options);
    state->session.emplace(read_model(choice.model, "model"), state->platform, choice.session);
    *session = new zoe_session{std::move(state)};
  });
}

void zoe_session_close(zoe_session* session) { delete session; }

zoe_status zoe_session_info(zoe_session* session, char** json) {
  return guarded([&] {
    const SessionState& state = *given(session, "session").state;
    const Session& open = *state.session;
    const ModelConfig& model = open.model();
    const GenerationDefaults& defaults = model.defaults;
    Json info = device_json(*state.platform);
    info["model"] = model.name;
    info["recipe"] = open.recipe();
    info["latent_rgb"] = latent_rgb(model);
    info["experts"] = model.boundary_ratio ? 2 : 1;
    info["dtype"] = name(open.dtype());
    info["defaults"] = {{"height", defaults.height},
                        {"width", defaults.width},
                        {"num_frames", defaults.num_frames},
                        {"fps", defaults.fps},
                        {"num_inference_steps", defaults.num_inference_steps},
                        {"guidance_scale", defaults.guidance_scale},
                        {"guidance_scale_2", or_null(defaults.guidance_scale_2)}};
    given(json, "json") = copy_text(info);
  });
}

zoe_status zoe_session_counts(zoe_session* session, char** json) {
  return guarded([&] {
    const Session::Counts counts = given(session, "session").state->session->counts();
    given(json, "json") = copy_text(Json{{"plans_compiled", counts.plans_compiled},
                                         {"plans_kept", counts.plans_kept},
                                         {"tensors_made", counts.tensors_made},
                                         {"weight_bytes_loaded", counts.weight_bytes_loaded}});
  });
}

zoe_status zoe_job_prepare(zoe_session* session, const char* request, const char* output, int plan_only, zoe_job** job) {
  return guarded([&] {
    given(job, "job");
    auto made = std::make_unique<zoe_job>();
    made->state = given(session, "session").state;
    SessionState& state = *made->state;
    Session& open = *state.session;
    const LogScope scope(state.sink);
    made->request = request_from_json(&given(request, "request"), "request");
    if (output) {
      const std::filesystem::path path(output);
      static_cast<void>(video_format(path));  // refused before anything is planned
      const bool numbers = made->request.prompts.size() * made->request.seeds.size() > 1;
      made->files.emplace(open, made->request, FileOptions{.path = [=](std::size_t video) {
                            return numbers ? numbered_output(path, video + 1) : path;
                          }});
      made->job.emplace(plan_only ? made->files->plan() : made->files->prepare());
    } else {
      made->job.emplace(plan_only ? open.plan(made->request) : open.prepare(made->request));
    }
    const Settled& settled = made->job->settled();
    Request said = made->request;
    said.sigmas = settled.sigmas;  // also a preset's
    for (const std::string& notice :
         request_notices(said, settled.num_inference_steps, settled.guidance_scale,
                         parse_scheduler_kind(settled.scheduler, "scheduler"), open.model().defaults.num_frames, Spelling::key))
      zoe::log(LogLevel::notice, notice);
    *job = made.release();
  });
}

void zoe_job_close(zoe_job* job) { delete job; }

zoe_status zoe_job_info(zoe_job* job, char** json) {
  return guarded([&] {
    const zoe_job& of = given(job, "job");
    const Settled& settled = of.job->settled();
    given(json, "json") = copy_text(Json{
        {"settled", settled_json(settled)},
        {"memory", memory_json(of.job->memory())},
        {"refusal", of.job->refusal()},
        {"latents", {of.state->session->model().vae.z_dim, settled.latent_frames, settled.latent_height, settled.latent_width}},
        {"request", Json::parse(to_json(of.request))}});
  });
}

zoe_status zoe_step_latents(const zoe_step* step, int clean, float* latents, size_t count) {
  return guarded([&] {
    const StepDone& done = *static_cast<const StepDone*>(given(step, "step").internal);
    const std::vector<float> values = clean ? done.clean() : done.latents();
    check(count == values.size(), ErrorKind::invalid_argument, "latents", "got room for {} floats, expected {}.", count,
          values.size());
    std::memcpy(&given(latents, "latents"), values.data(), values.size() * sizeof(float));
  });
}

zoe_status zoe_job_run(zoe_job* job, const zoe_callbacks* callbacks, const zoe_results* results, char** timings) {
  return guarded([&] {
    zoe_job& of = given(job, "job");
    // A cancel ends one run: this one, whether it came before or within.
    const auto reset = [](zoe_job* ended) { ended->cancel = false; };
    const std::unique_ptr<zoe_job, decltype(reset)> at_end(&of, reset);
    check(of.job->refusal().empty(), ErrorKind::out_of_memory, "run", "{}", of.job->refusal());
    const Settled& settled = of.job->settled();
    const std::size_t videos = settled.prompts.size();
    const auto frame_bytes = static_cast<std::size_t>(settled.height * settled.width * 3);
    const std::size_t video_bytes = frame_bytes * static_cast<std::size_t>(settled.num_frames);
    const std::size_t latent_bytes =
        sizeof(float) * static_cast<std::size_t>(of.state->session->model().vae.z_dim * settled.latent_frames *
                                                 settled.latent_height * settled.latent_width);
    if (results && results->frames)
      check(results->frames_bytes == videos * video_bytes, ErrorKind::invalid_argument, "frames", "got {} bytes, expected {}.",
            results->frames_bytes, videos * video_bytes);
    if (results && results->latents)
      check(results->latents_bytes == videos * latent_bytes, ErrorKind::invalid_argument, "latents", "got {} bytes, expected {}.",
            results->latents_bytes, videos * latent_bytes);

    const LogScope scope(of.state->sink);
    Callbacks own;
    own.cancel = &of.cancel;
    if (results && results->frames)
      own.frame = [&](std::size_t video, std::int64_t frame, std::span<const std::uint8_t> rgb) {
        std::memcpy(results->frames + video * video_bytes + static_cast<std::size_t>(frame) * frame_bytes, rgb.data(), rgb.size());
      };
    if (results && results->latents)
      own.latents = [&](std::size_t video, std::span<const float> latents) {
        check(latents.size_bytes() == latent_bytes, ErrorKind::internal, "latents", "{} bytes, expected {}", latents.size_bytes(),
              latent_bytes);
        std::memcpy(results->latents + video * latent_bytes / sizeof(float), latents.data(), latents.size_bytes());
      };
    if (callbacks && callbacks->progress)
      own.progress = [&](const Progress& progress) {
        if (callbacks->progress(callbacks->user, std::string(name(progress.phase)).c_str(), progress.video, progress.done,
                                progress.total))
          of.cancel = true;
      };
    if (callbacks && callbacks->step)
      own.step = [&](const StepDone& done) {
        const zoe_step step{done.video, done.step, done.total, done.sigma, &done};
        if (callbacks->step(callbacks->user, &step)) of.cancel = true;
      };
    const Timings took = of.files ? of.files->run(*of.job, own) : of.state->session->run(*of.job, own);
    if (timings) *timings = copy_text(timings_json(took));
  });
}

void zoe_job_cancel(zoe_job* job) {
  if (job) job->cancel = true;
}

zoe_status zoe_session_explain(zoe_session* session, const char* options, char** text) {
  return guarded([&] {
    SessionState& state = *given(session, "session").state;
    const Session& open = *state.session;
    const LogScope scope(state.sink);
    struct Explained {
      std::string part = "transformer";
      PartSize size;
      bool source = false;
    } explained;
    const GenerationDefaults& defaults = open.model().defaults;
    explained.size = {.height = defaults.height, .width = defaults.width, .num_frames = defaults.num_frames, .text_tokens = 512};
    const Option<Explained> table[] = {
        {"part", "text", "", [](Explained& to, const Json& value) { to.part = value; }},
        {"height", "whole number", "", [](Explained& to, const Json& value) { to.size.height = value; }},
        {"width", "whole number", "", [](Explained& to, const Json& value) { to.size.width = value; }},
        {"num_frames", "whole number", "", [](Explained& to, const Json& value) { to.size.num_frames = value; }},
        {"text_tokens", "whole number", "", [](Explained& to, const Json& value) { to.size.text_tokens = value; }},
        {"batch", "whole number", "", [](Explained& to, const Json& value) { to.size.batch = value; }},
        {"source", "true or false", "", [](Explained& to, const Json& value) { to.source = value; }},
    };
    set_options(explained, table, parse_object(options, "explain"), "explain");
    const auto in_range = [](std::string_view what, std::int64_t value, std::int64_t least, std::int64_t most) {
      check(value >= least && value <= most, ErrorKind::invalid_argument, what, "got {}, expected {} to {}.", value, least, most);
    };
    in_range("height", explained.size.height, 16, 8192);
    in_range("width", explained.size.width, 16, 8192);
    in_range("num_frames", explained.size.num_frames, 1, 1025);
    in_range("text_tokens", explained.size.text_tokens, 1, 512);
    in_range("batch", explained.size.batch, 1, 8);
    std::string all;
    for (const PartGraph& part : trace_part(open.model(), explained.part, open.dtype(), explained.size)) {
      const Plan plan = compile(part.graph, *state.platform);
      all += fmt::format("{}{}\n", describe(plan), part.times > 1 ? fmt::format("; runs {} times", part.times) : "");
      if (!explained.source) continue;
      std::vector<const Kernel*> seen;
      for (const Step& step : plan.steps)
        if (step.kernel && !step.kernel->source().empty() && std::find(seen.begin(), seen.end(), step.kernel.get()) == seen.end()) {
          seen.push_back(step.kernel.get());
          all += fmt::format("\n// {} ({})\n{}\n", step.node->name, headline(*step.node), step.kernel->source());
        }
    }
    given(text, "text") = copy_text(std::string_view(all));
  });
}

zoe_status zoe_write_video(const char* path, const uint8_t* frames, size_t count, size_t height, size_t width, double fps,
                           int crf) {
  return guarded([&] {
    constexpr std::size_t kMost = 1 << 16;
    check(count > 0 && height > 0 && width > 0 && count <= kMost && height <= kMost && width <= kMost, ErrorKind::invalid_argument,
          "frames", "got {} of {}x{}, expected 1 to {} each.", count, width, height, kMost);
    VideoSettings settings{
        .width = static_cast<int>(width), .height = static_cast<int>(height), .frames = static_cast<int>(count), .fps = fps};
    if (crf >= 0) settings.crf = crf;
    settings.software = fmt::format("Zoetrope {}", version());
    settings.threads = 2;
    check_output(&given(path, "path"), settings);
    const auto writer = VideoWriter::open(path, settings);
    const std::size_t frame_bytes = height * width * 3;
    for (std::size_t i = 0; i < count; ++i) writer->write({&given(frames, "frames") + i * frame_bytes, frame_bytes});
    writer->finish();
  });
}
