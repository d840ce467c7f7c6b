// `zoe bench session`: what a request costs beyond its steps when the session has served one before.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "apps/cli/commands.h"
#include "base/error.h"
#include "pipeline/model.h"
#include "pipeline/resident_memory.h"
#include "pipeline/session.h"

namespace zoe::cli {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

struct Times {
  double prepare = 0, encode = 0, first_step = 0, step = 0,
         total = 0;  // seconds; first_step from the call to its end; step: the median of the others
  nlohmann::ordered_json stages;
};

Times run_request(Session& session, const Request& request) {
  Times times;
  const auto start = Clock::now();
  Job job = session.prepare(request);
  times.prepare = seconds_between(start, Clock::now());
  Callbacks callbacks;
  std::vector<Clock::time_point> ends;
  callbacks.progress = [&](const Progress& progress) {
    if (progress.phase == Phase::denoise && progress.done > 0) ends.push_back(Clock::now());
  };
  const Timings timings = session.run(job, callbacks);
  times.total = seconds_between(start, Clock::now());
  times.encode = timings.encode;
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

}  // namespace zoe::cli
