#include "pipeline/video_input.h"

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "media/video_reader.h"
#include "pipeline/fitted_image.h"

namespace zoe {

VideoInput::VideoInput(const std::filesystem::path& path, std::string field) : path_(path), field_(std::move(field)) {
  const std::unique_ptr<VideoReader> reader = open_video(path_, field_);
  const Image first = reader->next().value();  // without one it throws
  width_ = first.width, height_ = first.height;
  is_still_ = !reader->next();
}

std::int64_t VideoInput::count(std::int64_t most) const {
  const std::unique_ptr<VideoReader> reader = open_video(path_, field_);
  std::int64_t frames = 0;
  while (frames < most && reader->next()) ++frames;
  return frames;
}

Request VideoInput::settle_request(Request request, const ModelConfig& model) const {
  if (!request.num_frames) {
    const std::int64_t temporal = model.vae.scale_factor_temporal, has = count(model.defaults.num_frames);
    request.num_frames = (has - 1) / temporal * temporal + 1;
    if (has < model.defaults.num_frames)
      log(LogLevel::notice, fmt::format("{}: {} has {} frame{}, so {} {} made", field_, path_.string(), has, has == 1 ? "" : "s",
                                        *request.num_frames, *request.num_frames == 1 ? "is" : "are"));
  }
  return with_shape_of(width_, height_, std::move(request), model);
}

std::vector<Image> VideoInput::read(std::int64_t frames, int width, int height, Fit fit, std::int64_t temporal,
                                    Spelling spelling) const {
  const std::unique_ptr<VideoReader> reader = open_video(path_, field_);
  std::vector<Image> all;
  for (std::optional<Image> frame = reader->next(); frame; frame = reader->next()) {
    if (static_cast<std::int64_t>(all.size()) == frames) {
      log(LogLevel::notice, fmt::format("{}: of {} the first {} frames are taken", field_, path_.string(), frames));
      break;
    }
    all.push_back(fitted(*frame, width, height, fit));
  }
  const auto has = static_cast<std::int64_t>(all.size());
  check(has == frames, ErrorKind::invalid_argument, field_, "{} is too short: got {} frames, expected at least {}. Lower {} to {}.",
        path_.string(), has, frames, spelled("num_frames", spelling), (has - 1) / temporal * temporal + 1);
  return all;
}

}  // namespace zoe
