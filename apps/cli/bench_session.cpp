// `zoe bench session`: what a request costs beyond its steps when the session has served one before. `zoe bench devices`: a request
// on a group of devices, shared in each way, beside one of them.
#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "apps/cli/commands.h"
#include "base/error.h"
#include "compiler/profile.h"
#include "pipeline/model.h"
#include "pipeline/resident_memory.h"
#include "pipeline/session.h"
#include "platform/group.h"

namespace zoe::cli {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

struct Times {
  double prepare = 0, encode = 0, first_step = 0, step = 0, decode = 0,
         total = 0;  // seconds; first_step from the call to its end; step: the median of the others
  nlohmann::ordered_json stages;
};

Times run_request(Session& session, const Request& request, std::vector<float>* latents = nullptr, Profile* profile = nullptr) {
  Times times;
  const auto start = Clock::now();
  Job job = session.prepare(request);
  times.prepare = seconds_between(start, Clock::now());
  Callbacks callbacks;
  std::vector<Clock::time_point> ends;
  callbacks.progress = [&](const Progress& progress) {
    if (progress.phase == Phase::denoise && progress.done > 0) ends.push_back(Clock::now());
  };
  callbacks.profile = profile;
  if (latents) callbacks.latents = [&](std::size_t, std::span<const float> made) { latents->assign(made.begin(), made.end()); };
  const Timings timings = session.run(job, callbacks);
  times.total = seconds_between(start, Clock::now());
  times.encode = timings.encode;
  times.decode = timings.decode;
  times.stages = stages_json(timings);
  times.first_step = times.prepare + timings.first_step;
  std::vector<double> steps;
  for (std::size_t i = 1; i < ends.size(); ++i) steps.push_back(seconds_between(ends[i - 1], ends[i]));
  std::sort(steps.begin(), steps.end());
  if (!steps.empty()) times.step = steps[steps.size() / 2];
  return times;
}

}  // namespace

int bench_session(const SessionBench& bench) {
  check(bench.steps >= 3, ErrorKind::invalid_argument, "--num-inference-steps", "got {}, expected at least 3.", bench.steps);
  const std::shared_ptr<Platform> platform = open(bench.device);
  const DType dtype = chosen_dtype(bench.device, *platform);
  auto start = Clock::now();
  Session session(read_model(bench.model), platform, {.dtype = dtype, .compile = bench.compile});
  const double open_seconds = seconds_between(start, Clock::now());
  Request request;
  request.height = bench.height, request.width = bench.width, request.num_frames = bench.num_frames;
  request.num_inference_steps = static_cast<int>(bench.steps);
  request.image = bench.image;
  request.guidance_scale = bench.guidance_scale;
  // Prompts of rising length: 12 to 500 tokens or so.
  for (int number = 0; number < bench.repeat + 1; ++number) {
    std::string prompt = "a big red circle moving right on a white background";
    for (int i = 0; i < number * 40 / std::max(1, static_cast<int>(bench.repeat)); ++i)
      prompt += " and a small blue square, spinning";
    request.prompts = {prompt};
    const Session::Counts before = session.counts();
    const Times times = run_request(session, request);
    const Session::Counts after = session.counts();
    const nlohmann::ordered_json line = {
        {"request", number},
        {"model", session.model().name},
        {"platform", platform->info().platform},
        {"device", platform->info().name},
        {"dtype", name(dtype)},
        {"prompt_bytes", prompt.size()},
        {"open_s", number == 0 ? open_seconds : 0.0},
        {"prepare_s", times.prepare},
        {"encode_s", times.encode},
        {"first_step_s", times.first_step},
        {"step_s", times.step},
        {"beyond_s", times.first_step - times.encode - times.step},
        {"total_s", times.total},
        {"stages_s", times.stages},
        {"plans_compiled", after.plans_compiled - before.plans_compiled},
        {"weight_mib_loaded", static_cast<double>(after.weight_bytes_loaded - before.weight_bytes_loaded) / 1048576.0},
        {"process_mib", static_cast<double>(anonymous_memory_bytes()) / 1048576.0},
        {"device_free_mib", static_cast<double>(platform->free_bytes()) / 1048576.0}};
    fmt::print("{}\n", line.dump());
  }
  return 0;
}

int bench_devices(const SessionBench& bench) {
  const std::shared_ptr<Platform> group = open(bench.device);
  check(group->group() != nullptr, ErrorKind::invalid_argument, "--platform", "got {}, expected several devices, as in cuda:0,1.",
        bench.device.platform);
  const std::string& names = bench.device.platform;
  DeviceOptions first = bench.device;
  first.platform = names.ends_with(":all") ? names.substr(0, names.size() - 3) + "0" : names.substr(0, names.find(','));
  const std::shared_ptr<Platform> one = open(first);
  const DType dtype = chosen_dtype(bench.device, *group);
  Request request;
  request.prompts = {"a big red circle moving right on a white background"};
  request.height = bench.height, request.width = bench.width, request.num_frames = bench.num_frames;
  request.num_inference_steps = static_cast<int>(bench.steps);

  struct Run {
    Times times;
    std::vector<float> latents;
  };
  std::map<bool, Run> alone;  // by guided
  for (const Parallel parallel : {Parallel::none, Parallel::guidance, Parallel::sequence}) {
    const bool is_alone = parallel == Parallel::none;
    if (parallel == Parallel::guidance && group->group()->size() != 2) continue;
    const std::shared_ptr<Platform>& platform = is_alone ? one : group;
    Session session(read_model(bench.model), platform, {.dtype = dtype, .compile = bench.compile, .parallel = parallel});
    for (const bool guided : {true, false}) {
      if (!guided && parallel == Parallel::guidance) continue;
      request.guidance_scale = guided ? 5 : 1;
      Run run;
      run.times = run_request(session, request, &run.latents);
      const Run& base = is_alone ? alone[guided] = run : alone.at(guided);
      double error = 0, power = 0;
      for (std::size_t i = 0; i < run.latents.size(); ++i) {
        error += std::pow(static_cast<double>(run.latents[i]) - static_cast<double>(base.latents[i]), 2);
        power += std::pow(static_cast<double>(base.latents[i]), 2);
      }
      const nlohmann::ordered_json line = {{"model", session.model().name},
                                           {"device", platform->info().name},
                                           {"dtype", name(dtype)},
                                           {"devices", is_alone ? 1 : group->group()->size()},
                                           {"parallel", name(parallel)},
                                           {"guided", guided},
                                           {"step_s", run.times.step},
                                           {"step_of_one", base.times.step / run.times.step},
                                           {"decode_s", run.times.decode},
                                           {"decode_of_one", base.times.decode / run.times.decode},
                                           {"same_bits", run.latents == base.latents},
                                           {"relative_rms", std::sqrt(error / power)}};
      fmt::print("{}\n", line.dump());
      std::fflush(stdout);
      if (parallel != Parallel::sequence || guided) continue;
      // Where its time goes, by events in the first device's queues: what exchanges take, and for how long others waited for them.
      Profile profile;
      run_request(session, request, nullptr, &profile);
      const auto a_step = [&](bool (*of)(Opcode)) { return profile.seconds(of) / static_cast<double>(bench.steps); };
      const nlohmann::ordered_json parts = {{"parallel", name(parallel)},
                                            {"step_exchanges_s", a_step(is_exchange)},
                                            {"step_exposed_s", profile.waited_seconds() / static_cast<double>(bench.steps)},
                                            {"step_attention_s", a_step([](Opcode o) { return o == Opcode::attention; })},
                                            {"step_linear_s", a_step([](Opcode o) { return o == Opcode::linear; })},
                                            {"step_fused_s", a_step([](Opcode o) { return o == Opcode::fused; })}};
      fmt::print("{}\n", parts.dump());
    }
  }
  return 0;
}

}  // namespace zoe::cli
