#include "pipeline/preview.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "media/image.h"
#include "media/video_writer.h"

namespace zoe {

namespace {

// What is no number is black: the run itself names it, when it is done.
std::uint8_t to_8_bits(float value) { return value > 0 ? static_cast<std::uint8_t>(std::min(value, 255.0f)) : 0; }

}  // namespace

std::vector<std::uint8_t> latent_frame_rgb(std::span<const float> latents, std::int64_t frames, std::int64_t frame,
                                           const std::vector<std::array<double, 3>>& map) {
  const std::size_t channels = map.size() - 1, plane = latents.size() / channels / static_cast<std::size_t>(frames);
  std::vector<std::uint8_t> rgb(3 * plane);
  std::vector<float> sums(plane);
  for (std::size_t colour = 0; colour < 3; ++colour) {
    std::fill(sums.begin(), sums.end(), static_cast<float>(map.back()[colour]));
    for (std::size_t c = 0; c < channels; ++c) {
      const float* const values = latents.data() + (c * static_cast<std::size_t>(frames) + static_cast<std::size_t>(frame)) * plane;
      const auto factor = static_cast<float>(map[c][colour]);
      for (std::size_t i = 0; i < plane; ++i) sums[i] += factor * values[i];
    }
    for (std::size_t i = 0; i < plane; ++i) rgb[3 * i + colour] = to_8_bits(127.5f * sums[i] + 128.0f);
  }
  return rgb;
}

Preview::Preview(std::filesystem::path path, int every, const ModelConfig& model, const Settled& settled,
                 std::unique_ptr<PreviewDecoder> decoder)
    : path_(std::move(path)),
      every_(every),
      decoder_(std::move(decoder)),
      map_(latent_rgb(model)),
      frames_(settled.latent_frames),
      height_(settled.latent_height),
      width_(settled.latent_width),
      scale_(static_cast<int>(std::max<std::int64_t>(1, model.vae.scale_factor_spatial / 2))),
      fps_(decoder_ ? settled.fps : std::max(0.1, settled.fps / static_cast<double>(model.vae.scale_factor_temporal))) {
  check(decoder_ || !map_.empty(), ErrorKind::unsupported, "--preview",
        "how the latents of {} look is not known: its VAE is none of Wan's and its zoetrope.json has no latent_rgb. Leave "
        "--preview out, or give a decoder with --preview-decoder.",
        model.name);
  check(video_format(path_) != VideoFormat::folder, ErrorKind::invalid_argument, "--preview",
        "{} would be a folder, expected one file that is replaced: .gif, .png, .webm, .mp4, .mov or .mkv.", path_.string());
  check_output(path_, picture());
}

VideoSettings Preview::picture() const {
  if (decoder_)
    return {.width = static_cast<int>(decoder_->width()),
            .height = static_cast<int>(decoder_->height()),
            .frames = static_cast<int>(decoder_->frames()),
            .fps = fps_};
  return {.width = static_cast<int>(width_) * scale_,
          .height = static_cast<int>(height_) * scale_,
          .frames = static_cast<int>(frames_),
          .fps = fps_};
}

void Preview::step(const StepDone& done) {
  if ((done.step + 1) % every_ != 0 && done.step + 1 != done.total) return;
  const auto start = std::chrono::steady_clock::now();
  try {
    draw(done.clean(), done);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::io) throw;
    if (!std::exchange(failed_, true)) log(LogLevel::notice, fmt::format("the run goes on without previews: {}", error.what()));
  }
  seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Preview::draw(const std::vector<float>& latents, const StepDone& done) const {
  VideoSettings settings = picture();
  settings.software = fmt::format("Zoetrope {}", version());
  settings.metadata = {{"preview", fmt::format("video {}, step {} of {}", done.video + 1, done.step + 1, done.total)}};
  const std::unique_ptr<VideoWriter> writer = VideoWriter::open(path_, settings);
  if (decoder_) decoder_->decode(latents, [&](std::span<const std::uint8_t> frame) { writer->write(frame); });
  Image small = black_image(static_cast<int>(width_), static_cast<int>(height_));
  for (std::int64_t frame = 0; !decoder_ && frame < frames_; ++frame) {
    small.rgb = latent_frame_rgb(latents, frames_, frame, map_);
    writer->write(resize(small, settings.width, settings.height, ResizeFilter::bicubic).rgb);
  }
  writer->finish();
}

}  // namespace zoe
