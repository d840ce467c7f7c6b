#include "pipeline/video_encode.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "ir/trace.h"
#include "models/wan_vae/model.h"
#include "pipeline/stage_run.h"
#include "pipeline/vae_states.h"

namespace zoe {

VideoEncode::VideoEncode(const RecipeContext& context)
    : model_(context.model), dtype_(context.dtype), platform_(context.platform) {}

void VideoEncode::settle(const Settled& settled, std::span<const PixelVideo> videos) {
  height_ = settled.made_height, width_ = settled.made_width;
  const std::int64_t smallest = model_.vae.scale_factor_spatial;
  states_ = trace_wan_vae_encode(model_.vae, dtype_, 1, smallest, smallest, true).states.size();
  for (const PixelVideo& video : videos) {
    const std::int64_t later = (video.frames - 1) / model_.vae.scale_factor_temporal;
    if (later == 0) continue;
    // As the decoder: where memory is the device's own, small groups do not fill it. All videos of several frames have as many.
    group_frames_ = platform_.info().unified_memory || later % 2 != 0 ? 1 : 2;
    const std::int64_t count = group_pixel_frames();
    for (std::int64_t begin = 1; begin < video.frames; begin += count) levels_.insert(settled_level(video, begin, count));
  }
}

// The level from which a group must be encoded: the lower ones see blank frames alone, as they did for the group before.
std::int64_t VideoEncode::settled_level(const PixelVideo& video, std::int64_t begin, std::int64_t count) const {
  auto level = static_cast<std::int64_t>(model_.vae.dim_mult.size()) - 1;
  for (; level > 0; --level) {
    const std::int64_t from = begin - count - wan_vae_frames_seen(model_.vae, level);
    if (from > 0 && video.is_blank(from, begin + count)) break;
  }
  return level;
}

// A first group (no from_level), or a later one.
NamedGraph VideoEncode::trace(std::int64_t frames, std::optional<std::int64_t> from_level) const {
  const WanVaeGraph traced = from_level ? trace_wan_vae_encode_from(model_.vae, dtype_, frames, height_, width_, *from_level)
                                        : trace_wan_vae_encode(model_.vae, dtype_, frames, height_, width_, true);
  const std::vector<Value>& outputs = traced.graph.outputs;
  std::vector<Value> results{outputs[0]};  // the mean
  std::vector<std::string> names{"mean"};
  for (const std::int64_t level : levels_)
    if (from_level && level > *from_level) {
      results.push_back(outputs[static_cast<std::size_t>(2 + level - *from_level - 1)]);
      names.push_back(fmt::format("given_{}", level));
    }
  return with_states(traced, std::move(results), std::move(names));
}

void VideoEncode::add_to(Program& program, Stage& stage) const {
  const auto add = [&](const std::string& name, std::int64_t frames, std::optional<std::int64_t> from_level) {
    std::string key = fmt::format("encode_{} {}x{} {}", name, height_, width_, frames);
    for (const std::int64_t level : levels_) key += fmt::format(" {}", level);
    program.plans.push_back({"encode_" + name, std::move(key), [this, frames, from_level] { return trace(frames, from_level); }});
    stage.uses.push_back({name,
                          "encode_" + name,
                          "vae",
                          {{"frames", name + ".pixels"},
                           {"mean", name + ".mean"},
                           {"state_*", "encoder.state_*"},
                           {"settled", fmt::format("encoder.given_{}", from_level.value_or(0))},
                           {"given_*", "encoder.given_*"}}});
  };
  add("first", 1, {});
  for (const std::int64_t level : levels_) add(fmt::format("group from {}", level), group_pixel_frames(), level);
}

std::vector<float> VideoEncode::run(const PixelVideo& video, StageRun& run, std::string_view whose,
                                    const std::function<void(std::int64_t latent_frames)>& encoded) const {
  const std::int64_t temporal = model_.vae.scale_factor_temporal, z = model_.vae.z_dim, spatial = model_.vae.scale_factor_spatial;
  const std::int64_t frames = (video.frames - 1) / temporal + 1;
  const auto plane = static_cast<std::size_t>(height_ / spatial * (width_ / spatial));
  const auto row = static_cast<std::size_t>(frames) * plane;  // of one channel
  std::vector<float> latents(static_cast<std::size_t>(z) * row);
  for (std::size_t i = 0; i < states_; ++i) {  // an earlier video's
    const Tensor& state = run.tensor(fmt::format("encoder.state_{}", i));
    run.platform().zero(run.stream(), state.slot(), state.size_bytes());
  }

  bool blank = false;  // what the group's frames hold on the device
  std::int64_t latent = 0;
  for (std::int64_t group = 0; latent < frames; ++group) {
    const std::int64_t begin = group == 0 ? 0 : 1 + temporal * (latent - 1), count = group == 0 ? 1 : group_pixel_frames();
    const std::int64_t from_level = group == 0 ? 0 : settled_level(video, begin, count);
    const BoundPlan plan = run.bind(group == 0 ? "first" : fmt::format("group from {}", from_level));
    if (group < 2) blank = false;  // another plan's frames
    if (from_level == 0) {
      const Tensor& into = plan.inputs[0];
      const std::vector<float> values = video.pixels(begin, count);
      if (!values.empty()) run.upload(into, values);
      else if (!blank) run.platform().zero(run.stream(), into.slot(), into.size_bytes());
      blank = values.empty();
    }
    run.run(plan);
    const std::vector<float> mean = run.download(plan.outputs[0]);  // [T,h,w,z]
    for (std::size_t i = 0; i < mean.size(); i += static_cast<std::size_t>(z))
      for (std::int64_t c = 0; c < z; ++c) {
        const auto channel = static_cast<std::size_t>(c);
        const auto offset = static_cast<float>(model_.vae.latents_mean[channel]);
        const float inverse_std = 1.0f / static_cast<float>(model_.vae.latents_std[channel]);
        latents[channel * row + static_cast<std::size_t>(latent) * plane + i / static_cast<std::size_t>(z)] =
            (mean[i + channel] - offset) * inverse_std;
      }
    latent += group == 0 ? 1 : group_frames_;
    encoded(latent);
  }
  check(std::all_of(latents.begin(), latents.end(), [](float value) { return std::isfinite(value); }), ErrorKind::invalid_argument,
        "vae",
        "not a number: {} latents are not finite. A weight of vae is damaged or does not fit {}: check its files, or try --dtype "
        "f32.",
        whose, name(dtype_));
  return latents;
}

}  // namespace zoe
