#include "pipeline/video_encode.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "ir/trace.h"
#include "models/wan_vae/model.h"
#include "pipeline/stage_run.h"
#include "pipeline/vae_states.h"
#include "platform/group.h"

namespace zoe {

namespace {

void zero_states(std::string_view of, std::size_t begin, std::size_t end, const StageRun& run) {  // they are an earlier video's
  for (std::size_t i = begin; i < end; ++i) {
    const Tensor& state = run.tensor(fmt::format("{}.state_{}", of, i));
    run.platform().zero(run.stream(), state.slot(), state.size_bytes());
  }
}

}  // namespace

VideoEncode::VideoEncode(const RecipeContext& context) : model_(context.model), dtype_(context.dtype), platform_(context.platform) {
  if (context.parallel != Parallel::none && platform_.group()) devices_ = static_cast<int>(platform_.group()->size());
}

void VideoEncode::settle(const Settled& settled, std::span<const PixelVideo> videos) {
  height_ = settled.made_height, width_ = settled.made_width;
  const std::int64_t smallest = model_.vae.scale_factor_spatial;
  states_ = trace_wan_vae_encode(model_.vae, dtype_, 1, smallest, smallest, true).states.size();
  for (const PixelVideo& video : videos) {
    const std::int64_t later = (video.frames - 1) / model_.vae.scale_factor_temporal;
    // As the decoder: where memory is the device's own, small groups do not fill it. All videos of several frames have as many.
    if (later > 0) group_frames_ = platform_.info().unified_memory || later % 2 != 0 ? 1 : 2;
  }
  levels_ = levels_of(videos);
  if (group_frames_ > 1 && levels_ != std::set<std::int64_t>{0}) {
    group_frames_ = 1;  // levels are skipped sooner
    levels_ = levels_of(videos);
  }
  for (const PixelVideo& video : videos) frames_ = std::max(frames_, video.frames);
  set_tiles(std::max<std::int64_t>(1, settled.vae_tiles));
  // Where groups skip levels, one device has less to do than each of several would have.
  if (settled.vae_tiles > 0 || devices_ == 1 || levels_ != std::set<std::int64_t>{0}) return;
  set_tiles(devices_);
  if (!tiles_.are_much_smaller(settled.latent_height * settled.latent_width)) set_tiles(1);
}

void VideoEncode::set_tiles(std::int64_t count) {
  tiles_ = {};
  if (count == 1) return;
  const WanVaeGraph image = trace_wan_vae_encode_image_side(model_.vae, dtype_, 1, height_, width_, true);
  features_ = image.graph.outputs[0].type();
  first_state_ = image.states.size();
  tiles_ = lay_out_tiles(features_.shape.dim(1), features_.shape.dim(2), count, image.reach);
}

NamedGraph VideoEncode::trace_side(std::int64_t frames, bool first, bool of_image) const {
  const std::int64_t spatial = model_.vae.scale_factor_spatial;
  const WanVaeGraph traced = of_image ? trace_wan_vae_encode_image_side(model_.vae, dtype_, frames, tiles_.window_height * spatial,
                                                                        tiles_.window_width * spatial, first)
                                      : trace_wan_vae_encode_latent_side(model_.vae, dtype_, frames, height_, width_, first);
  return with_states(traced, {traced.graph.outputs[0]}, {of_image ? "features_0" : "mean"});
}

void VideoEncode::add_tiles_to(Program& program, Stage& stage) const {
  const auto add = [&](const std::string& name, std::int64_t frames, bool first) {
    for (int device = 0; device < used_devices(); ++device) {
      const std::string here = device_prefix(device);
      program.plans.push_back(
          {.name = here + "encode_tile_" + name,
           .key = fmt::format("encode_tile_{} {}x{} {}", name, tiles_.window_height, tiles_.window_width, frames),
           .trace = [this, frames, first] { return trace_side(frames, first, true); },
           .device = device});
      stage.uses.push_back({here + name,
                            here + "encode_tile_" + name,
                            here + "vae",
                            {{"frames", here + name + ".pixels"},
                             {"features_0", here + name + ".features"},
                             {"state_*", here + "encoder.tile.state_*"}}});
    }
    program.plans.push_back({"encode_latents_" + name, fmt::format("encode_latents_{} {}x{} {}", name, height_, width_, frames),
                             [this, frames, first] { return trace_side(frames, first, false); }});
    stage.uses.push_back({"latents " + name,
                          "encode_latents_" + name,
                          "vae",
                          {{"features_0", name + ".all features"}, {"mean", name + ".mean"}, {"state_*", "encoder.state_*"}}});
  };
  add("first", 1, true);
  if (group_frames_) add("group", group_pixel_frames(), false);
  // All tiles' features wait in this process for the last one's.
  if (platform_.info().unified_memory)
    stage.caller_bytes += features_.size_bytes() * static_cast<std::size_t>((frames_ - 1) / model_.vae.scale_factor_temporal + 1);
}

std::set<std::int64_t> VideoEncode::levels_of(std::span<const PixelVideo> videos) const {
  std::set<std::int64_t> levels;
  const std::int64_t count = group_pixel_frames();
  for (const PixelVideo& video : videos)
    for (std::int64_t begin = 1; begin < video.frames; begin += count) levels.insert(settled_level(video, begin, count));
  return levels;
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
  if (is_tiled()) return add_tiles_to(program, stage);
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
  stage.tensors.push_back({"encoder.means",
                           {DType::f32,
                            {(frames_ - 1) / model_.vae.scale_factor_temporal + 1, height_ / model_.vae.scale_factor_spatial,
                             width_ / model_.vae.scale_factor_spatial, model_.vae.z_dim}}});
  add("first", 1, {});
  for (const std::int64_t level : levels_) add(fmt::format("group from {}", level), group_pixel_frames(), level);
}

std::vector<VideoEncode::Group> VideoEncode::groups(const PixelVideo& video) const {
  std::vector<Group> all{{0, 1, 0, 1}};
  for (std::int64_t begin = 1; begin < video.frames; begin += group_pixel_frames())
    all.push_back({all.back().latent + all.back().latent_frames, group_frames_, begin, group_pixel_frames()});
  return all;
}

void VideoEncode::take_mean(const std::vector<float>& mean, std::int64_t latent, std::string_view whose,
                            std::vector<float>& latents) const {
  check(std::ranges::all_of(mean, [](float value) { return std::isfinite(value); }), ErrorKind::invalid_argument, "vae",
        "not a number: {} latents are not finite. A weight of vae is damaged or does not fit {}: check its files, or try --dtype "
        "f32.",
        whose, name(dtype_));
  const std::int64_t z = model_.vae.z_dim, spatial = model_.vae.scale_factor_spatial;
  const auto plane = static_cast<std::size_t>(height_ / spatial * (width_ / spatial));
  const std::size_t row = latents.size() / static_cast<std::size_t>(z);  // of one channel
  for (std::size_t i = 0; i < mean.size(); i += static_cast<std::size_t>(z))
    for (std::int64_t c = 0; c < z; ++c) {
      const auto channel = static_cast<std::size_t>(c);
      const auto offset = static_cast<float>(model_.vae.latents_mean[channel]);
      const float inverse_std = 1.0f / static_cast<float>(model_.vae.latents_std[channel]);
      latents[channel * row + static_cast<std::size_t>(latent) * plane + i / static_cast<std::size_t>(z)] =
          (mean[i + channel] - offset) * inverse_std;
    }
}

std::vector<float> VideoEncode::run(const PixelVideo& video, StageRun& run, std::string_view whose,
                                    const std::function<void(std::int64_t latent_frames)>& encoded) const {
  return is_tiled() ? run_tiles(video, run, whose, encoded) : run_whole(video, run, whose, encoded);
}

std::vector<float> VideoEncode::run_whole(const PixelVideo& video, StageRun& run, std::string_view whose,
                                          const std::function<void(std::int64_t latent_frames)>& encoded) const {
  const std::vector<Group> all = groups(video);
  const std::int64_t spatial = model_.vae.scale_factor_spatial, frames = all.back().latent + all.back().latent_frames;
  std::vector<float> latents;
  zero_states("encoder", 0, states_, run);
  bool blank = false;  // what the group's frames hold on the device
  // A group's results wait in a place of their own until the next one is queued: the device has something to do meanwhile.
  const Tensor& means = run.tensor("encoder.means");
  const auto mean_of = [&](const Group& group) {
    const Shape& shape = means.type.shape;
    const Type type{DType::f32, {group.latent_frames, shape.dim(1), shape.dim(2), shape.dim(3)}};
    return Tensor{
        type, means.buffer,
        means.offset + means.size_bytes() / static_cast<std::size_t>(shape.dim(0)) * static_cast<std::size_t>(group.latent)};
  };
  std::unique_ptr<Event> made;
  std::vector<float> mean;
  const auto take = [&](const Group& group) {
    run.downloads().wait_for(*made);
    mean.resize(static_cast<std::size_t>(mean_of(group).type.shape.count()));
    zoe::download(run.platform(), run.downloads(), mean_of(group), mean);
    latents.resize(static_cast<std::size_t>(model_.vae.z_dim * frames * (height_ / spatial) * (width_ / spatial)));
    take_mean(mean, group.latent, whose, latents);
    encoded(group.latent + group.latent_frames);
  };
  for (std::size_t number = 0; number < all.size(); ++number) {
    const Group& group = all[number];
    const std::int64_t from_level = number == 0 ? 0 : settled_level(video, group.begin, group.frames);
    const BoundPlan plan = run.bind(number == 0 ? "first" : fmt::format("group from {}", from_level));
    if (number < 2) blank = false;  // another plan's frames
    if (from_level == 0) {
      const Tensor& into = plan.inputs[0];
      const std::vector<float> values = video.pixels(group.begin, group.frames);
      if (!values.empty()) run.upload(into, values);
      else if (!blank) run.platform().zero(run.stream(), into.slot(), into.size_bytes());
      blank = values.empty();
    }
    run.run(plan);
    run.copy(plan.outputs[0], mean_of(group));
    std::unique_ptr<Event> made_next = run.stream().record_event();
    if (number > 0) take(all[number - 1]);
    made = std::move(made_next);
  }
  take(all.back());
  return latents;
}

// Tile by tile down to the latents' resolution, then the whole picture of that.
std::vector<float> VideoEncode::run_tiles(const PixelVideo& video, StageRun& run, std::string_view whose,
                                          const std::function<void(std::int64_t latent_frames)>& encoded) const {
  const std::vector<Group> all = groups(video);
  const std::int64_t spatial = model_.vae.scale_factor_spatial, frames = all.back().latent + all.back().latent_frames;
  const std::int64_t height = height_ / spatial, width = width_ / spatial;
  const std::size_t pixel = features_.size_bytes() / static_cast<std::size_t>(height * width);
  std::vector<std::byte> features(features_.size_bytes() * static_cast<std::size_t>(frames));
  const auto take_tile = [&](const PictureTile& tile, const StageRun& own) {
    std::vector<std::byte> window;
    zero_states("encoder.tile", 0, first_state_, own);
    for (const Group& group : all) {
      const BoundPlan plan = own.bind(group.latent == 0 ? "first" : "group");
      const Tensor &into = plan.inputs[0], &made = plan.outputs[0];
      const std::vector<float> values = video.pixels(group.begin, group.frames);
      if (values.empty()) own.platform().zero(own.stream(), into.slot(), into.size_bytes());
      else own.upload(into, cut_out(values, group.frames, tile));
      own.run(plan);
      window.resize(made.size_bytes());
      own.platform().download(own.stream(), made.slot(), window.data(), window.size());
      own.stream().synchronize();
      for (std::int64_t frame = 0; frame < group.latent_frames; ++frame)
        for (std::int64_t row = 0; row < tile.height; ++row)
          std::memcpy(features.data() +
                          static_cast<std::size_t>(((group.latent + frame) * height + tile.top + row) * width + tile.left) * pixel,
                      window.data() + static_cast<std::size_t>((frame * tiles_.window_height + tile.top - tile.window_top + row) *
                                                                   tiles_.window_width +
                                                               tile.left - tile.window_left) *
                                          pixel,
                      static_cast<std::size_t>(tile.width) * pixel);
    }
  };
  run.at_once(used_devices(), [&](int device, const StageRun& own) {
    for (std::size_t i = static_cast<std::size_t>(device); i < tiles_.tiles.size(); i += static_cast<std::size_t>(used_devices()))
      take_tile(tiles_.tiles[i], own);
  });
  std::vector<float> latents(static_cast<std::size_t>(model_.vae.z_dim * frames * height * width));
  zero_states("encoder", first_state_, states_, run);
  for (const Group& group : all) {
    const BoundPlan plan = run.bind(group.latent == 0 ? "latents first" : "latents group");
    run.platform().upload(run.stream(), features.data() + static_cast<std::size_t>(group.latent) * features_.size_bytes(),
                          plan.inputs[0].slot(), plan.inputs[0].size_bytes());
    run.run(plan);
    take_mean(run.download(plan.outputs[0]), group.latent, whose, latents);
    encoded(group.latent + group.latent_frames);
  }
  return latents;
}

// Of frames [count,H,W,3] what a tile's window shows.
std::vector<float> VideoEncode::cut_out(const std::vector<float>& frames, std::int64_t count, const PictureTile& tile) const {
  const std::int64_t spatial = model_.vae.scale_factor_spatial, width = tiles_.window_width * spatial;
  std::vector<float> window;
  window.reserve(static_cast<std::size_t>(count * tiles_.window_height * spatial * width * 3));
  for (std::int64_t frame = 0; frame < count; ++frame)
    for (std::int64_t row = 0; row < tiles_.window_height * spatial; ++row) {
      const auto from =
          frames.begin() + ((frame * height_ + tile.window_top * spatial + row) * width_ + tile.window_left * spatial) * 3;
      window.insert(window.end(), from, from + width * 3);
    }
  return window;
}

}  // namespace zoe
