#include "pipeline/video_decode.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <deque>
#include <numeric>

#include "base/error.h"
#include "compiler/passes/rebuild.h"
#include "ir/trace.h"
#include "models/wan_vae/model.h"
#include "pipeline/parts.h"
#include "pipeline/rgb8.h"
#include "pipeline/settle.h"
#include "pipeline/stage_run.h"
#include "pipeline/vae_states.h"
#include "platform/group.h"

namespace zoe {

namespace {

// The middle of a frame [from_height, from_width, 3], as [height, width, 3].
void crop(std::span<const std::uint8_t> frame, std::int64_t from_height, std::int64_t from_width, std::int64_t height,
          std::int64_t width, std::vector<std::uint8_t>& out) {
  const std::int64_t top = (from_height - height) / 2, left = (from_width - width) / 2;
  out.resize(static_cast<std::size_t>(height * width * 3));
  for (std::int64_t row = 0; row < height; ++row)
    std::memcpy(out.data() + row * width * 3, frame.data() + ((top + row) * from_width + left) * 3,
                static_cast<std::size_t>(width * 3));
}

// The tile in the middle of its window's frame, to where it lies in the whole picture.
void paste(std::span<const std::uint8_t> window, std::int64_t window_width, const PictureTile& tile, std::int64_t scale,
           std::uint8_t* picture, std::int64_t picture_width) {
  const std::int64_t down = (tile.top - tile.window_top) * scale, across = (tile.left - tile.window_left) * scale;
  for (std::int64_t row = 0; row < tile.height * scale; ++row)
    std::memcpy(picture + ((tile.top * scale + row) * picture_width + tile.left * scale) * 3,
                window.data() + ((down + row) * window_width + across) * 3, static_cast<std::size_t>(tile.width * scale * 3));
}

// As many frames as `type` has, from `begin` on.
Tensor frames_of(const Tensor& all, std::int64_t begin, const Type& type) {
  const std::size_t frame = type.size_bytes() / static_cast<std::size_t>(type.shape.dim(0));
  return {type, all.buffer, all.offset + static_cast<std::size_t>(begin) * frame};
}

}  // namespace

VideoDecode::VideoDecode(const RecipeContext& context)
    : model_(context.model), dtype_(context.dtype), platform_(context.platform), free_bytes_(context.free_bytes) {
  if (context.parallel != Parallel::none && platform_.group()) devices_ = static_cast<int>(platform_.group()->size());
}

void VideoDecode::settle(const Settled& settled) {
  settled_ = settled;
  if (settled.latent_frames > 1)
    group_frames_ = decode_group_frames(model_, dtype_, {settled.made_height, settled.made_width, settled.num_frames, 0}, platform_,
                                        free_bytes_);
  set_tiles(std::max<std::int64_t>(1, settled.vae_tiles));
  if (settled.vae_tiles > 0 || devices_ == 1) return;
  VideoDecode shared = *this;
  shared.set_tiles(devices_);
  if (gets_much_smaller(shared.tiles_)) set_tiles(devices_);
}

bool VideoDecode::gets_much_smaller(const PictureTiles& tiles) const {
  const std::int64_t window =
      is_tiled() ? tiles_.window_height * tiles_.window_width : settled_.latent_height * settled_.latent_width;
  return tiles.are_much_smaller(window);
}

void VideoDecode::set_tiles(std::int64_t count) {
  settled_.vae_tiles = count;
  tiles_ = {};
  crops_.clear();
  if (count == 1) return;
  const WanVaeGraph latents =
      trace_wan_vae_decode_latent_side(model_.vae, dtype_, 1, settled_.latent_height, settled_.latent_width, true);
  const WanVaeGraph image =
      trace_wan_vae_decode_image_side(model_.vae, dtype_, 1, settled_.latent_height, settled_.latent_width, true);
  features_.clear();
  for (std::size_t i = 0; i < latents.results; ++i) features_.push_back(latents.graph.outputs[i].type());
  scale_ = settled_.made_height / settled_.latent_height;
  first_state_ = image.first_state, states_ = image.states.size();
  tiles_ = lay_out_tiles(settled_.latent_height, settled_.latent_width, count, image.reach);
  std::int64_t height = settled_.latent_height, width = settled_.latent_width;
  for (const std::int64_t reach : image.reaches) crops_.push_back(doubled(seen(), height *= 2, width *= 2, reach));
}

std::int64_t VideoDecode::more_tiles() const {
  constexpr std::int64_t kMostTiles = 64;
  const std::int64_t now = std::max<std::int64_t>(1, settled_.vae_tiles);
  for (std::int64_t more = 2 * now; more <= kMostTiles; more *= 2) {
    VideoDecode other = *this;
    other.set_tiles(more);
    if (gets_much_smaller(other.tiles_)) return more;
  }
  return 0;
}

Type VideoDecode::latent_type(std::int64_t frames) const {
  return {DType::f32, {frames, settled_.latent_height, settled_.latent_width, model_.vae.z_dim}};
}

// The decoder with 8-bit frames in place of its f32 ones, and a flag of what they were made of.
NamedGraph VideoDecode::trace(std::int64_t latent_frames, bool first) const {
  const WanVaeGraph traced =
      trace_wan_vae_decode(model_.vae, dtype_, latent_frames, settled_.latent_height, settled_.latent_width, first, true);
  const std::vector<Value>& outputs = traced.graph.outputs;
  const Value& pixels = outputs[traced.results - 1];  // of the last convolution, not clamped
  return with_states(traced, {to_rgb8(outputs[0]), finite_flag(pixels)}, {"frames", "finite"});
}

NamedGraph VideoDecode::trace_latent_side(std::int64_t latent_frames, bool first) const {
  const WanVaeGraph traced =
      trace_wan_vae_decode_latent_side(model_.vae, dtype_, latent_frames, settled_.latent_height, settled_.latent_width, first);
  std::vector<Value> results(traced.graph.outputs.begin(),
                             traced.graph.outputs.begin() + static_cast<std::ptrdiff_t>(traced.results));
  std::vector<std::string> names;
  for (std::size_t i = 0; i < traced.results; ++i) names.push_back(fmt::format("features_{}", i));
  return with_states(traced, std::move(results), std::move(names));
}

// The image side of a window's features, which it picks from the whole picture's by their numbers: one plan serves all windows.
NamedGraph VideoDecode::trace_tile(std::int64_t latent_frames, bool first) const {
  std::vector<PictureSize> crops;
  for (const PictureTiles& crop : crops_) crops.push_back({crop.window_height, crop.window_width});
  WanVaeGraph traced =
      trace_wan_vae_decode_image_side(model_.vae, dtype_, latent_frames, tiles_.window_height, tiles_.window_width, first, crops);
  const Value window = input("window", DType::i32, {latent_frames * tiles_.window_height * tiles_.window_width});
  std::vector<Value> inputs, arguments;
  for (std::size_t i = 0; i < features_.size(); ++i) {
    Type type = features_[i];
    type.shape.dim(0) = latent_frames;
    inputs.push_back(input(fmt::format("features_{}", i), type.dtype, type.shape));
    const Value pixels = reshape(inputs.back(), {type.shape.count(0, 3), type.shape.dim(3)});
    arguments.push_back(reshape(gather(pixels, window), traced.graph.inputs[i].shape()));
  }
  inputs.push_back(window);
  for (std::size_t i = features_.size(); i < traced.graph.inputs.size(); ++i) {
    inputs.push_back(traced.graph.inputs[i]);
    arguments.push_back(traced.graph.inputs[i]);
  }
  traced.graph.outputs = rebuild(traced.graph, arguments,
                                 [](const Node& node, std::vector<Value> operands) { return keep(node, std::move(operands)); });
  traced.graph.inputs = std::move(inputs);
  const Value frames = traced.graph.outputs[0], pixels = traced.graph.outputs[traced.results - 1];
  return with_states(traced, {to_rgb8(frames), finite_flag(pixels)}, {"frames", "finite"});
}

void VideoDecode::add_tiles_to(Program& program, Stage& stage) const {
  const std::string size = fmt::format("{}x{}", settled_.latent_height, settled_.latent_width);
  std::string window = fmt::format("{} window {}x{}", size, tiles_.window_height, tiles_.window_width);
  for (const PictureTiles& crop : crops_) window += fmt::format(", {}x{}", crop.window_height, crop.window_width);
  const auto add_latents = [&](const std::string& name, std::int64_t frames, bool first) {
    program.plans.push_back({"decode_latents_" + name, fmt::format("decode_latents_{} {} {}", name, size, frames),
                             [this, frames, first] { return trace_latent_side(frames, first); }});
    stage.uses.push_back({"latents " + name,
                          "decode_latents_" + name,
                          "vae",
                          {{"latent", name + ".latent"}, {"features_*", name + ".features_*"}, {"state_*", "decoder.state_*"}}});
  };
  const auto add_tile = [&](int device, const std::string& name, std::int64_t frames, bool first) {
    const std::string here = device_prefix(device);
    program.plans.push_back({.name = here + "decode_tile_" + name,
                             .key = fmt::format("decode_tile_{} {} {}", name, window, frames),
                             .trace = [this, frames, first] { return trace_tile(frames, first); },
                             .device = device});
    stage.uses.push_back({here + name,
                          here + "decode_tile_" + name,
                          here + "vae",
                          {{"features_*", here + name + ".features_*"},
                           {"window", here + name + ".window"},
                           {"crop_*", here + name + ".crop_*"},
                           {"frames", here + name + ".frames"},
                           {"finite", here + name + ".finite"},
                           {"state_*", here + "decoder.tile.state_*"}}});
  };
  add_latents("first", 1, true);
  if (group_frames_) add_latents("group", group_frames_, false);
  for (int device = 0; device < used_devices(); ++device) {
    const std::string here = device_prefix(device);
    add_tile(device, "first", 1, true);
    if (group_frames_) {
      add_tile(device, "group", group_frames_, false);
      const std::int64_t frames = group_frames_ * model_.vae.scale_factor_temporal;
      stage.tensors.push_back(
          {.name = here + "group.frames.second",
           .type = {DType::u8, {frames, seen().window_height * seen_scale(), seen().window_width * seen_scale(), 3}},
           .device = device});
    }
    for (std::size_t i = 0; i < features_.size(); ++i) {
      Type all = features_[i];
      all.shape.dim(0) = settled_.latent_frames;
      stage.tensors.push_back({.name = fmt::format("{}all features_{}", here, i), .type = all, .device = device});
    }
  }
  // All frames wait in this process for the last tile.
  if (platform_.info().unified_memory)
    stage.caller_bytes += static_cast<std::size_t>(settled_.num_frames * settled_.made_height * settled_.made_width * 3);
}

void VideoDecode::add_to(Program& program, std::size_t caller_bytes) const {
  const std::string size = fmt::format("{}x{}", settled_.latent_height, settled_.latent_width);
  Stage stage{.name = "decode", .phase = Phase::decode, .uses = {}, .caller_bytes = caller_bytes};
  const auto add = [&](const std::string& name, std::int64_t frames, bool first) {
    program.plans.push_back({"decode_" + name, fmt::format("decode_{} {} {}", name, size, frames),
                             [this, frames, first] { return trace(frames, first); }});
    stage.uses.push_back({name,
                          "decode_" + name,
                          "vae",
                          {{"latent", name + ".latent"},
                           {"frames", name + ".frames"},
                           {"finite", name + ".finite"},
                           {"state_*", "decoder.state_*"}}});
  };
  if (is_tiled()) add_tiles_to(program, stage);
  else add("first", 1, true);
  if (group_frames_ && !is_tiled()) {
    add("group", group_frames_, false);
    // While one group is copied out the next is made.
    const std::int64_t frames = group_frames_ * model_.vae.scale_factor_temporal;
    stage.tensors.push_back({"group.frames.second", {DType::u8, {frames, settled_.made_height, settled_.made_width, 3}}});
  }
  stage.tensors.push_back({"all latents", latent_type(settled_.latent_frames)});
  const std::size_t flags = groups() * std::max<std::size_t>(1, tiles_.tiles.size());
  for (int device = 0; device < used_devices(); ++device)
    stage.tensors.push_back({.name = device_prefix(device) + "finite frames",
                             .type = {DType::f32, {static_cast<std::int64_t>(flags), kFiniteRow}},
                             .device = device});
  program.stages.push_back(std::move(stage));
}

// [C,T,h,w] to [T,h,w,C], undoing the normalisation with the division Diffusers uses (by 1/std), for the same bits.
std::vector<float> VideoDecode::denormalised(const std::vector<float>& latents) const {
  const std::int64_t channels = model_.vae.z_dim, count = static_cast<std::int64_t>(latents.size()) / channels;
  std::vector<float> values(latents.size());
  for (std::int64_t c = 0; c < channels; ++c) {
    const auto mean = static_cast<float>(model_.vae.latents_mean[static_cast<std::size_t>(c)]);
    const float inverse_std = 1.0f / static_cast<float>(model_.vae.latents_std[static_cast<std::size_t>(c)]);
    const float* src = latents.data() + c * count;
    for (std::int64_t i = 0; i < count; ++i) values[static_cast<std::size_t>(i * channels + c)] = src[i] / inverse_std + mean;
  }
  return values;
}

// What the image side begins with, of all frames.
void VideoDecode::make_features(StageRun& run) const {
  const Tensor& all = run.tensor("all latents");
  const BoundPlan first = run.bind("latents first"), group = group_frames_ ? run.bind("latents group") : BoundPlan{};
  for (std::int64_t begin = 0; begin < settled_.latent_frames;) {
    const BoundPlan& plan = begin == 0 ? first : group;
    run.copy(frames_of(all, begin, plan.inputs[0].type), plan.inputs[0]);
    run.run(plan);
    for (std::size_t i = 0; i < features_.size(); ++i)
      run.copy(plan.outputs[i], frames_of(run.tensor(fmt::format("all features_{}", i)), begin, plan.outputs[i].type));
    begin += plan.inputs[0].type.shape.dim(0);
  }
}

// The numbers of the pixels that its window shows, and states as before a video.
void VideoDecode::begin_tile(std::size_t number, const StageRun& run) const {
  for (std::size_t i = first_state_; i < states_; ++i) {
    const Tensor& state = run.tensor(fmt::format("decoder.tile.state_{}", i));
    run.platform().zero(run.stream(), state.slot(), state.size_bytes());
  }
  // Of `inner`'s window the pixels' numbers in all frames of height x width, which begin at `top`, `left`.
  const auto fill = [&](const Tensor& tensor, const PictureTiles& inner, std::int64_t height, std::int64_t width, std::int64_t top,
                        std::int64_t left) {
    const PictureTile& tile = inner.tiles[number];
    const std::int64_t frames = tensor.type.shape.count() / (inner.window_height * inner.window_width);
    std::vector<std::int32_t> numbers(static_cast<std::size_t>(tensor.type.shape.count()));
    auto to = numbers.begin();
    for (std::int64_t frame = 0; frame < frames; ++frame)
      for (std::int64_t row = 0; row < inner.window_height; ++row, to += inner.window_width)
        std::iota(to, to + inner.window_width,
                  static_cast<std::int32_t>((frame * height + tile.window_top - top + row) * width + tile.window_left - left));
    run.upload(tensor, numbers);
  };
  for (const std::string name : {"first", "group"}) {
    if (name == "group" && !group_frames_) continue;
    fill(run.tensor(name + ".window"), tiles_, settled_.latent_height, settled_.latent_width, 0, 0);
    const PictureTiles* outer = &tiles_;
    for (std::size_t i = 0; i < crops_.size(); ++i) {
      const PictureTile& around = outer->tiles[number];
      fill(run.tensor(fmt::format("{}.crop_{}", name, i + 1)), crops_[i], 2 * outer->window_height, 2 * outer->window_width,
           2 * around.window_top, 2 * around.window_left);
      outer = &crops_[i];
    }
  }
}

void VideoDecode::run(const std::vector<float>& latents, std::size_t video, StageRun& run) const {
  const Callbacks& callbacks = run.callbacks();
  const Tensor& all = run.tensor("all latents");
  run.upload(all, denormalised(latents));
  if (is_tiled()) {
    const auto start = StepClock::now();
    make_features(run);
    run.phase("decode latents' side", start);
  }
  const std::unique_ptr<Event> ready = run.stream().record_event();
  const auto frame_size = static_cast<std::size_t>(settled_.made_height * settled_.made_width * 3);
  std::vector<std::uint8_t> cropped, whole(is_tiled() ? frame_size * static_cast<std::size_t>(settled_.num_frames) : 0);
  const auto emit = [&](std::int64_t number, std::span<const std::uint8_t> frame) {
    if (settled_.made_height != settled_.height || settled_.made_width != settled_.width) {
      crop(frame, settled_.made_height, settled_.made_width, settled_.height, settled_.width, cropped);
      frame = cropped;
    }
    if (callbacks.frame) callbacks.frame(video, number, frame);
  };
  // Frames are handed out as they come, those of tiles when all tiles of them are there: by the first device's thread, the
  // caller's.
  std::vector<std::atomic<std::size_t>> tiles_there(is_tiled() ? static_cast<std::size_t>(settled_.num_frames) : 0);
  std::size_t next = 0;
  const auto emit_whole = [&] {
    for (; next < tiles_there.size() && tiles_there[next] == tiles_.tiles.size(); ++next)
      emit(static_cast<std::int64_t>(next), {whole.data() + next * frame_size, frame_size});
  };
  run.at_once(used_devices(), [&](int device, const StageRun& own) {
    if (device > 0) {
      own.stream().wait_for(*ready);
      for (std::size_t i = 0; i < features_.size(); ++i) {
        const std::string features = fmt::format("all features_{}", i);
        own.pull(run, run.tensor(features), own.tensor(features));
      }
    }
    std::vector<const PictureTile*> tiles;
    for (std::size_t i = static_cast<std::size_t>(device); i < tiles_.tiles.size(); i += static_cast<std::size_t>(used_devices()))
      tiles.push_back(&tiles_.tiles[i]);
    if (tiles.empty()) tiles.push_back(nullptr);
    decode(tiles, own, [&](const PictureTile* tile, std::int64_t number, std::span<const std::uint8_t> frame, std::int64_t width) {
      if (!tile) return emit(number, frame);
      const auto place = static_cast<std::size_t>(number);
      paste(frame, width, seen().tiles[static_cast<std::size_t>(tile - tiles_.tiles.data())], seen_scale(),
            whole.data() + place * frame_size, settled_.made_width);
      ++tiles_there[place];
      if (device == 0) emit_whole();
    });
  });
  emit_whole();
}

// On one device: its tiles one behind the other, null for all of the picture.
void VideoDecode::decode(const std::vector<const PictureTile*>& tiles, const StageRun& run, const TakeFrame& take_frame) const {
  const bool reports = &run.platform() == &platform_;  // the caller hears of the first device's
  BoundPlan first = run.bind("first"), group = group_frames_ ? run.bind("group") : BoundPlan{};
  const Tensor& flags = run.tensor("finite frames");
  std::vector<Tensor> free_frames;
  if (group_frames_) free_frames = {run.tensor("group.frames"), run.tensor("group.frames.second")};

  struct Decoded {  // a group of frames that the device has or will have made
    Tensor frames;
    std::unique_ptr<Event> event;
    std::size_t latent_frames;
    const PictureTile* tile;  // that these are of
    std::int64_t first_frame;
  };
  // While the device decodes a group, the one before is copied out and written. Where work is done as it is queued, each group is
  // written at once.
  constexpr std::size_t kGroupsAhead = 1;
  std::deque<Decoded> ahead;
  std::size_t done = 0;
  const auto latent_frames = static_cast<std::size_t>(settled_.latent_frames);
  std::vector<std::uint8_t> rgb;
  const auto take = [&](const Decoded& decoded) {
    rgb.resize(decoded.frames.size_bytes());
    run.platform().download(run.downloads(), decoded.frames.slot(), rgb.data(), rgb.size());
    run.downloads().synchronize();
    const Shape& shape = decoded.frames.type.shape;
    const auto size = static_cast<std::size_t>(shape.count(1, 4));
    for (std::int64_t i = 0; i < shape.dim(0); ++i)
      take_frame(decoded.tile, decoded.first_frame + i, {rgb.data() + static_cast<std::size_t>(i) * size, size}, shape.dim(2));
  };
  const auto take_done = [&](std::size_t most_ahead) {
    for (; !ahead.empty() && (ahead.size() > most_ahead || ahead.front().event->reached()); ahead.pop_front()) {
      run.downloads().wait_for(*ahead.front().event);
      take(ahead.front());
      done += ahead.front().latent_frames;
      if (reports) run.progress(done, latent_frames * tiles.size());
      if (ahead.front().first_frame > 0) free_frames.push_back(ahead.front().frames);
    }
  };
  std::int64_t number = 0;  // of the group
  for (const PictureTile* const tile : tiles) {
    take_done(0);  // the first group's frames have one place
    if (tile) begin_tile(static_cast<std::size_t>(tile - tiles_.tiles.data()), run);
    std::int64_t frame = 0;
    for (std::size_t begin = 0; begin < latent_frames; ++number) {
      const auto group_start = StepClock::now();
      BoundPlan& plan = begin == 0 ? first : group;
      const std::size_t inputs = tile ? features_.size() : 1;
      for (std::size_t i = 0; i < inputs; ++i)
        run.copy(frames_of(run.tensor(tile ? fmt::format("all features_{}", i) : "all latents"), static_cast<std::int64_t>(begin),
                           plan.inputs[i].type),
                 plan.inputs[i]);
      if (begin > 0) {
        plan.set_output("frames", free_frames.front());
        free_frames.erase(free_frames.begin());
      }
      run.run(plan);
      run.copy(plan.outputs[1], row_of(flags, number, plan.outputs[1].type));
      const std::size_t count = begin == 0 ? 1 : static_cast<std::size_t>(group_frames_);
      ahead.push_back({plan.outputs[0], run.stream().record_event(), count, tile, frame});
      begin += count;
      frame += plan.outputs[0].type.shape.dim(0);
      if (reports) run.phase(fmt::format("decode {}", begin), group_start);
      take_done(kGroupsAhead);
    }
  }
  take_done(0);
  const std::vector<float> finite = run.download(flags);
  for (std::int64_t i = 0; i < number; ++i)
    check(
        std::isfinite(finite[static_cast<std::size_t>(i * kFiniteRow)]), ErrorKind::invalid_argument, "vae",
        "not a number: frames of group {} of {} are not finite. A weight of vae is damaged or does not fit {}: check its files, or "
        "try --dtype f32.",
        i % static_cast<std::int64_t>(groups()) + 1, groups(), name(dtype_));
}

}  // namespace zoe
