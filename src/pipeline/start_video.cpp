#include "pipeline/start_video.h"

#include <algorithm>

#include "base/error.h"
#include "pipeline/fitted_image.h"
#include "pipeline/stage_run.h"

namespace zoe {

int skipped_steps(int steps, double strength, Spelling spelling) {
  const int taken = std::min(static_cast<int>(static_cast<double>(steps) * strength), steps);
  check(taken > 0, ErrorKind::invalid_argument, spelled("strength", spelling),
        "leaves no step: got {} of {} steps, expected at least {:.4g}. Raise it, or {}.", strength, steps, 1.0 / steps,
        spelled("num_inference_steps", spelling));
  return steps - taken;
}

StartVideo::StartVideo(const Request& request, const RecipeContext& context)
    : model_(context.model),
      fit_(request.fit),
      spelling_(context.spelling),
      input_(request.video, spelled("video", context.spelling)),
      encode_(context) {}

void StartVideo::settle(const Settled& settled) {
  frames_ = input_.read(settled.num_frames, static_cast<int>(settled.made_width), static_cast<int>(settled.made_height), fit_,
                        model_.vae.scale_factor_temporal, spelling_);
  const PixelVideo video = pixel_video();
  encode_.settle(settled, {&video, 1});
}

PixelVideo StartVideo::pixel_video() const {
  return {static_cast<std::int64_t>(frames_.size()), [](std::int64_t, std::int64_t) { return false; },
          [this](std::int64_t begin, std::int64_t count) {
            std::vector<float> values;
            for (std::int64_t i = begin; i < begin + count; ++i)
              for (const std::uint8_t value : frames_[static_cast<std::size_t>(i)].rgb) values.push_back(signed_pixel(value));
            return values;
          }};
}

void StartVideo::add_to(Program& program) const {
  Stage stage{.name = "encode the video", .phase = Phase::encode, .uses = {}};
  encode_.add_to(program, stage);
  program.stages.push_back(std::move(stage));
}

void StartVideo::run(StageRun& run) {
  const std::size_t total = (frames_.size() - 1) / static_cast<std::size_t>(model_.vae.scale_factor_temporal) + 1;
  latents_ = encode_.run(pixel_video(), run, "the video's",
                         [&](std::int64_t done) { run.progress(static_cast<std::size_t>(done), total); });
}

void StartVideo::mix_into(std::span<float> noise, float sigma) const {
  ZOE_INTERNAL_CHECK(noise.size() == latents_.size());
  for (std::size_t i = 0; i < noise.size(); ++i) noise[i] = (1.0f - sigma) * latents_[i] + sigma * noise[i];
}

}  // namespace zoe
