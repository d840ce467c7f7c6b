#include "server/device.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "media/image.h"
#include "media/video_writer.h"
#include "pipeline/preview.h"
#include "pipeline/saved_state.h"
#include "pipeline/video_files.h"
#include "server/errors.h"

namespace zoe::server {

namespace fs = std::filesystem;

namespace {

using Clock = std::chrono::steady_clock;
double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}
double seconds_since(Clock::time_point begin) { return seconds_between(begin, Clock::now()); }

constexpr int kMostStarts = 5;  // of a job that never gets further
constexpr int kThumbnailWidth = 320, kCellWidth = 240;
constexpr std::int64_t kMostCells = 16;  // of the sheet

// Pictures beside a video: the middle frame, and some of all frames.
class Pictures {
 public:
  explicit Pictures(const Settled& settled) : settled_(settled) {
    const std::int64_t cells = std::min(kMostCells, settled.num_frames);
    for (std::int64_t i = 0; i < cells; ++i) wanted_.push_back(cells == 1 ? 0 : i * (settled.num_frames - 1) / (cells - 1));
  }

  void frame(std::int64_t number, std::span<const std::uint8_t> rgb) {
    const bool is_middle = number == settled_.num_frames / 2;
    const bool is_cell = std::find(wanted_.begin(), wanted_.end(), number) != wanted_.end();
    if (!is_middle && !is_cell) return;
    const Image whole{static_cast<int>(settled_.width), static_cast<int>(settled_.height), {rgb.begin(), rgb.end()}};
    if (is_middle) thumbnail_ = shrunk(whole, kThumbnailWidth);
    if (is_cell) cells_.push_back(shrunk(whole, kCellWidth));
  }

  void write(const fs::path& thumbnail, const fs::path& sheet) const {
    write_png(thumbnail, {&thumbnail_, 1});
    write_png(sheet, cells_);
  }

 private:
  static Image shrunk(const Image& whole, int width) {
    if (whole.width <= width) return whole;
    const int height = std::max(1, static_cast<int>(static_cast<std::int64_t>(whole.height) * width / whole.width));
    return resize(whole, width, height, ResizeFilter::lanczos);
  }
  void write_png(const fs::path& path, std::span<const Image> images) const {
    const auto writer = VideoWriter::open(path, {.width = images.front().width,
                                                 .height = images.front().height,
                                                 .frames = static_cast<int>(images.size()),
                                                 .fps = settled_.fps,
                                                 .software = fmt::format("Zoetrope {}", version())});
    for (const Image& image : images) writer->write(image.rgb);
    writer->finish();
  }

  const Settled& settled_;
  std::vector<std::int64_t> wanted_;
  Image thumbnail_;
  std::vector<Image> cells_;
};

std::string_view phase_name(Phase phase) { return name(phase); }

}  // namespace

Device::Device(DeviceSetup setup, Shared shared) : setup_(std::move(setup)), shared_(std::move(shared)) {}

void Device::start() {
  thread_ = std::thread([this] { work(); });
}

Device::~Device() {
  if (thread_.joinable()) thread_.join();
}

std::vector<std::string> Device::loaded() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const Loaded& each : loaded_) names.push_back(each.model->name);
  return names;
}

void Device::work() {
  // Answers go before: this thread, and the threads of the platform that it starts, give way.
  constexpr int kNice = 5;
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNice);
  while (const std::shared_ptr<RunningJob> job = shared_.jobs.take(setup_.name)) run(job);
  const std::lock_guard lock(mutex_);
  loaded_.clear();
}

Session& Device::session_of(const ServedModel& model) {
  const auto found = std::find_if(loaded_.begin(), loaded_.end(), [&](const Loaded& each) { return each.model == &model; });
  if (found != loaded_.end()) {
    const std::lock_guard lock(mutex_);
    loaded_.splice(loaded_.begin(), loaded_, found);
    shared_.metrics.count("zoe_model_hits_total");
    return *loaded_.front().session;
  }
  auto session = new_session(model);
  shared_.metrics.count("zoe_models_loaded_total");
  const std::lock_guard lock(mutex_);
  loaded_.push_front({&model, std::move(session)});
  return *loaded_.front().session;
}

std::unique_ptr<Session> Device::new_session(const ServedModel& model) const {
  return std::make_unique<Session>(model.config, setup_.platform, setup_.session);
}

bool Device::forget_oldest(const ServedModel& but) {
  std::unique_ptr<Session> gone;  // outside of the lock: it may take its time
  const std::lock_guard lock(mutex_);
  for (auto each = loaded_.rbegin(); each != loaded_.rend(); ++each)
    if (each->model != &but) {
      gone = std::move(each->session);
      loaded_.erase(std::next(each).base());
      shared_.metrics.count("zoe_models_dropped_total");
      return true;
    }
  return false;
}

void Device::run(const std::shared_ptr<RunningJob>& job) {
  JobRecord& record = job->record;
  Metrics& metrics = shared_.metrics;
  metrics.observe("zoe_queue_seconds", std::max(0.0, record.started_at - record.created_at));
  std::vector<std::string> notes;
  try {
    notes = nlohmann::json::parse(record.notes).get<std::vector<std::string>>();
  } catch (const nlohmann::json::exception&) {
  }
  const LogScope sink([&](LogLevel level, std::string_view text) {
    if (level == LogLevel::notice && std::find(notes.begin(), notes.end(), text) == notes.end()) notes.emplace_back(text);
  });
  const auto failed = [&](std::string_view code, std::string message) {
    record.status = JobStatus::failed;
    record.error_code = code;
    record.error_message = shared_.folders.without_root(std::move(message));
  };
  try {
    check(record.starts <= kMostStarts, ErrorKind::internal, "serve",
          "the server ended {} times while it worked on this, which is not tried again.", kMostStarts);
    const ServedModel* const model = shared_.models.find(record.model);
    check(model != nullptr, ErrorKind::invalid_argument, "model", "{} is not served any more. Send it again with another model.",
          record.model);
    for (;;) {
      try {
        make(*job, *model);
        record.status = JobStatus::completed;
        break;
      } catch (const Error& error) {
        // More was taken than was planned, perhaps by others: models that are not at work may be in the way.
        if (error.kind() != ErrorKind::out_of_memory || !forget_oldest(*model)) throw;
      }
    }
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::cancelled && job->stop == RunningJob::Stop::shutdown) {
      shared_.jobs.put_back(job);
      return;
    }
    const bool crashed = record.starts > kMostStarts;
    record.cancelled = error.kind() == ErrorKind::cancelled;
    failed(crashed ? "crashed" : code_of(error.kind()), record.cancelled ? "[serve] cancelled by a client." : error.what());
  } catch (const std::bad_alloc&) {
    failed("out_of_memory", "[memory] out of memory. Lower width, height or num_frames.");
  } catch (const std::exception& error) {
    failed("internal", error.what());
  }
  record.completed_at = unix_seconds();
  record.notes = nlohmann::json(notes).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  metrics.count("zoe_jobs_total", fmt::format("result=\"{}\"", record.status == JobStatus::completed ? "completed"
                                                               : record.cancelled                    ? "cancelled"
                                                                                                     : "failed"));
  metrics.observe("zoe_job_seconds", record.completed_at - record.started_at);
  try {
    shared_.jobs.finish(job);
  } catch (const Error&) {
    // The disk takes no more: the job is begun anew when the server starts again, and its file is whole or absent.
  }
}

void Device::make(RunningJob& job, const ServedModel& model) {
  const auto start = Clock::now();
  Session& session = session_of(model);
  JobRecord& record = job.record;
  const std::string& id = record.id;
  const Folders& folders = shared_.folders;
  Metrics& metrics = shared_.metrics;
  Request request = shared_.models.with_files(request_from_json(record.request, "request"), folders.work(id));

  // What was saved of it, if it is of this model still.
  std::optional<SavedRun> saved;
  std::error_code status;
  if (fs::exists(folders.state(id), status)) {
    try {
      saved = read_saved_run(folders.state(id), "resume");
      check_same_inputs(*saved, session.model(), "resume");
      request = saved->request;
      if (saved->batch == 1 && request.guidance_scale.value_or(0) > 1 && request.guidance_batch == GuidanceBatch::automatic)
        request.guidance_batch = GuidanceBatch::off;
    } catch (const Error& error) {
      saved.reset();
      log(LogLevel::notice, fmt::format("it begins anew: {}", error.what()));
    }
  }

  const Session::Counts before = session.counts();
  VideoFiles files(session, request, {.path = [&](std::size_t) { return folders.video(id); }, .tells_folders = false});
  // Before it does with less for want of memory (weights that leave behind a request, blocks that come and go), models that are not
  // at work go, the one used longest ago first.
  if (loaded_.size() > 1) {
    const LogScope quiet([](LogLevel, std::string_view) {});  // what it would have done then is no news
    while (files.plan().memory().wants_more && forget_oldest(model)) {
    }
  }
  Job prepared = files.prepare();
  const Settled& settled = prepared.settled();
  free_bytes_ = std::max<std::uint64_t>(free_bytes_, prepared.memory().free);
  const double prepare_seconds = seconds_since(start);
  const std::size_t compiled = session.counts().plans_compiled - before.plans_compiled;
  if (compiled == 0) metrics.count("zoe_plan_hits_total");
  metrics.count("zoe_plans_compiled_total", {}, static_cast<double>(compiled));

  // How much of the work each part is, from what is known, and how far it is.
  const VideoSize size{settled.width, settled.height, settled.num_frames};
  const std::optional<Pace::Seconds> pace = shared_.pace.guess(record.model, setup_.name, size);
  const int steps = settled.num_inference_steps, first_step = saved ? saved->state.next_step : 0;
  double step_seconds = pace ? pace->step : 0;
  const double after_seconds = pace ? pace->after : 0;
  constexpr double kDecodeShare = 0.15;  // where nothing is known
  const double decode_share =
      pace && pace->total(steps) > 0 ? std::clamp(pace->after / pace->total(steps), 0.01, 0.9) : kDecodeShare;
  auto last_step = Clock::now();
  bool is_timing = false;
  const auto report = [&](const std::string& phase, int step, std::int64_t frame, bool now) {
    {
      const std::lock_guard lock(job.mutex);
      JobProgress& at = job.now;
      at.phase = phase;
      at.step = std::max(at.step, step);
      at.frame = frame;
      const double done = (1 - decode_share) * at.step / std::max(1, steps) +
                          decode_share * static_cast<double>(frame) / static_cast<double>(std::max<std::int64_t>(1, at.frames));
      at.percent = std::max(at.percent, std::min(99, static_cast<int>(100 * done)));
      at.seconds_left.reset();
      if (step_seconds > 0 && (after_seconds > 0 || frame > 0))
        at.seconds_left = std::max(0.0, step_seconds * (steps - at.step) +
                                            after_seconds * (1 - static_cast<double>(frame) / static_cast<double>(at.frames)));
    }
    shared_.jobs.progressed(job, now);
  };
  {
    const std::lock_guard lock(job.mutex);
    job.now.frames = settled.num_frames;
  }
  report("load", first_step, 0, true);

  Pictures pictures(settled);
  Callbacks callbacks;
  callbacks.cancel = &job.cancel;
  callbacks.frame = [&](std::size_t, std::int64_t frame, std::span<const std::uint8_t> rgb) {
    pictures.frame(frame, rgb);
    report("decode", steps, frame + 1, false);
  };
  callbacks.progress = [&](const Progress& progress) {
    if (progress.phase == Phase::decode) return;  // frames say more
    report(std::string(phase_name(progress.phase)), progress.phase == Phase::denoise ? static_cast<int>(progress.done) : first_step,
           0, progress.done == 0);
  };

  std::optional<StateSaver> saver;
  const auto save = [&](const StepDone& done) {
    if (!saver) {
      fs::create_directories(folders.work(id), status);
      SavedRun run;
      run.request = files.decided(prepared);
      run.batch = settled.batch;
      run.device = fmt::format("{} ({})", session.platform().info().platform, session.platform().info().name);
      run.inputs = saved ? saved->inputs : digests_of(session.model(), run.request);
      saver.emplace(folders.state(id), 1, std::move(run));
    }
    saver->step(done);
    shared_.store.mark_progress(id);
  };
  std::optional<Preview> preview;
  auto last_saved = Clock::now(), last_drawn = Clock::time_point();
  constexpr double kPreviewSeconds = 1;
  const bool has_preview = !latent_rgb(session.model()).empty();
  callbacks.step = [&](const StepDone& done) {
    const auto now = Clock::now();
    if (std::exchange(is_timing, true)) {
      const double seconds = seconds_between(last_step, now);
      metrics.observe("zoe_step_seconds", seconds);
      constexpr double kOfNew = 0.5;
      step_seconds = step_seconds > 0 ? step_seconds + kOfNew * (seconds - step_seconds) : seconds;
    }
    last_step = now;
    metrics.count("zoe_steps_total");
    // Asked to stop with steps to go: what is done is kept for the next start.
    if (job.stop == RunningJob::Stop::shutdown && done.step + 1 < done.total && !job.cancel) {
      save(done);
      job.cancel = true;
      return;
    }
    // Behind the last step also where the decode may be long.
    const bool is_last = done.step + 1 == done.total;
    if (seconds_between(is_last ? start : last_saved, now) >= setup_.save_seconds) {
      save(done);
      last_saved = Clock::now();
    }
    if (has_preview && !is_last && seconds_between(last_drawn, now) >= kPreviewSeconds && shared_.jobs.wants_preview(id)) {
      fs::create_directories(folders.work(id), status);
      if (!preview) preview.emplace(folders.preview(id), 1, session.model(), settled);
      preview->step(done);
      last_drawn = Clock::now();
      last_step = last_drawn;
      if (fs::exists(folders.preview(id), status)) shared_.jobs.preview_drawn(job, done.step + 1);
    }
  };
  if (saved) {
    callbacks.resume = saved->state;
    metrics.count("zoe_jobs_resumed_total");
    log(LogLevel::notice, fmt::format("goes on behind step {} of {}", first_step, steps));
  }

  const Timings timings = files.run(prepared, callbacks);
  const auto written = Clock::now();
  pictures.write(folders.thumbnail(id), folders.sheet(id));
  for (const fs::path& path : {folders.video(id), folders.thumbnail(id), folders.sheet(id)})
    record.bytes += static_cast<std::int64_t>(fs::file_size(path, status));
  const double frame_seconds = files.write_seconds_while_decoding();
  const double write_seconds = files.write_seconds() + seconds_since(written);
  nlohmann::ordered_json spent{{"queue", std::max(0.0, record.started_at - record.created_at)},
                               {"prepare", prepare_seconds},
                               {"load", timings.load},
                               {"encode", timings.encode},
                               {"denoise", timings.denoise},
                               {"decode", timings.decode - frame_seconds},
                               {"write", write_seconds},
                               {"first_step", prepare_seconds + timings.first_step},
                               {"total", seconds_since(start)}};
  for (const auto& [stage, seconds] : spent.items())
    if (stage != "queue" && stage != "total" && stage != "first_step")
      metrics.observe("zoe_stage_seconds", seconds.get<double>(), fmt::format("stage=\"{}\"", stage));
  if (!saved) metrics.observe("zoe_first_step_seconds", prepare_seconds + timings.first_step);
  metrics.count("zoe_frames_total", {}, static_cast<double>(settled.num_frames));
  metrics.count("zoe_weight_bytes_loaded_total", {},
                static_cast<double>(session.counts().weight_bytes_loaded - before.weight_bytes_loaded));
  if (!saved)
    shared_.pace.learn(record.model, setup_.name, size,
                       {.before = prepare_seconds + timings.load + timings.encode,
                        .step = timings.denoise / std::max(1, steps),
                        .after = timings.decode - frame_seconds + write_seconds});
  record.timings = spent.dump();
}

Device::Plan Device::plan(const ServedModel& model, const Request& request) {
  const std::lock_guard lock(planning_);
  auto found = std::find_if(planners_.begin(), planners_.end(), [&](const Loaded& each) { return each.model == &model; });
  if (found == planners_.end()) {
    planners_.push_front({&model, new_session(model)});
    found = planners_.begin();
  }
  VideoFiles files(*found->session, request,
                   {.path = [&](std::size_t) { return shared_.folders.video("plan"); }, .tells_folders = false});
  const Job job = files.plan();
  Plan plan{job.settled(), job.memory(), job.refusal()};
  // What sessions of this device hold they can let go.
  if (free_bytes_ > plan.memory.free) {
    plan.memory.free = free_bytes_;
    if (plan.memory.peak() <= plan.memory.free) plan.refusal.clear();
  }
  return plan;
}

}  // namespace zoe::server
