#include "pipeline/video_files.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "compiler/profile.h"
#include "media/video_writer.h"
#include "pipeline/model.h"
#include "platform/platform.h"

namespace zoe {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

// Paths may hold anything: several are a list of JSON, and so is one that could be taken for it.
std::string one_text(const RequestField& field, const std::vector<std::string>& texts) {
  if (field.is_file() && field.is_list() && (texts.size() > 1 || texts[0].starts_with('['))) return nlohmann::json(texts).dump();
  return fmt::format("{}", fmt::join(texts, ","));
}

}  // namespace

struct VideoFiles::State {
  Session& session;
  Request request;
  FileOptions options;
  double write_seconds = 0, while_decoding = 0;

  // What is known of a file before anything is planned: enough to refuse it, and to say what its encoder will need.
  VideoSettings frame(const Settled& settled) const {
    VideoSettings video;
    video.width = static_cast<int>(settled.width);
    video.height = static_cast<int>(settled.height);
    video.frames = static_cast<int>(settled.num_frames);
    video.fps = settled.fps;
    video.crf = request.crf;
    // Of a cpu they are busy with the frames; else they have nothing to do.
    const DeviceInfo& platform = session.platform().info();
    const int idle = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1U, 16U));
    video.threads = platform.unified_memory ? std::min(2, platform.threads) : idle;
    return video;
  }

  // The most that a file's encoder needs; paths that cannot be written are refused.
  std::size_t writer_bytes(const Settled& settled) const {
    const VideoSettings video = frame(settled);
    std::size_t most = 0;
    for (std::size_t i = 0; i < settled.prompts.size(); ++i) {
      const std::filesystem::path path = options.path(i);
      check_output(path, video);
      most = std::max(most, encoder_bytes(video_format(path), video));
    }
    return most;
  }
};

VideoFiles::VideoFiles(Session& session, Request request, FileOptions options)
    : state_(new State{session, std::move(request), std::move(options)}) {}
VideoFiles::~VideoFiles() = default;

Job VideoFiles::prepare() {
  return state_->session.prepare(state_->request, [this](const Settled& settled) { return state_->writer_bytes(settled); });
}

Job VideoFiles::plan() {
  return state_->session.plan(state_->request, [this](const Settled& settled) { return state_->writer_bytes(settled); });
}

Request VideoFiles::decided(const Job& job) const {
  const Settled& settled = job.settled();
  Request all = state_->request;
  all.width = settled.width;
  all.height = settled.height;
  all.num_frames = settled.num_frames;
  all.fps = settled.fps;
  all.num_inference_steps = settled.num_inference_steps;
  all.guidance_scale = settled.guidance_scale;
  all.guidance_scale_2 = settled.guidance_scale_2;
  all.boundary_ratio = settled.boundary_ratio;
  all.flow_shift = settled.flow_shift;
  all.sigmas = settled.sigmas;
  all.preset = Preset::none;
  all.scheduler = parse_scheduler_kind(settled.scheduler, "scheduler");
  return all;
}

Request VideoFiles::decided(const Job& job, std::size_t video) const {
  Request one = decided(job);
  one.prompts = {job.settled().prompts[video]};
  one.seeds = {job.settled().seeds[video]};
  return one;
}

std::vector<std::pair<std::string, std::string>> VideoFiles::metadata(const Job& job, std::size_t video) const {
  Request one = decided(job, video);
  for (std::vector<LoraChoice>* loras : {&one.loras, &one.loras_high, &one.loras_low})
    for (LoraChoice& each : *loras) each.path = std::filesystem::path(each.path).filename().string();
  if (!state_->options.tells_folders) {
    for (std::filesystem::path* path : {&one.image, &one.last_image, &one.video, &one.mask}) *path = path->filename();
    for (std::filesystem::path& path : one.reference_images) path = path.filename();
  }
  const Session& session = state_->session;
  std::vector<std::pair<std::string, std::string>> all;
  for (const RequestField& field : request_fields())
    if (const std::vector<std::string> texts = get_field(one, field); !texts.empty())
      all.emplace_back(field.name, one_text(field, texts));
  all.emplace_back("model", session.model().name);
  if (session.model().random_seed)
    all.emplace_back("weights", fmt::format("random, seed {}: the video is noise", *session.model().random_seed));
  all.emplace_back("dtype", std::string(name(session.dtype())));
  all.emplace_back("platform", session.platform().info().platform);
  all.emplace_back("software", fmt::format("Zoetrope {}", version()));
  return all;
}

Timings VideoFiles::run(Job& job, Callbacks callbacks) {
  State& state = *state_;
  std::unique_ptr<VideoWriter> writer;
  const auto wrote = [&](Clock::time_point begin) {
    const auto end = Clock::now();
    state.write_seconds += seconds_between(begin, end);
    if (callbacks.profile) callbacks.profile->phase("write", begin, end);
    return seconds_between(begin, end);
  };
  Callbacks own = callbacks;
  own.frame = [&](std::size_t video, std::int64_t frame, std::span<const std::uint8_t> rgb) {
    const auto begin = Clock::now();
    if (frame == 0) {
      VideoSettings settings = state.frame(job.settled());
      settings.software = fmt::format("Zoetrope {}", version());
      settings.metadata = metadata(job, video);
      writer = VideoWriter::open(state.options.path(video), settings);
    }
    writer->write(rgb);
    state.while_decoding += wrote(begin);
    if (callbacks.frame) callbacks.frame(video, frame, rgb);
  };
  own.finished = [&](std::size_t video) {
    const auto begin = Clock::now();
    writer->finish();
    writer.reset();
    wrote(begin);
    if (callbacks.finished) callbacks.finished(video);
  };
  return state.session.run(job, own);
}

double VideoFiles::write_seconds() const { return state_->write_seconds; }
double VideoFiles::write_seconds_while_decoding() const { return state_->while_decoding; }

}  // namespace zoe
