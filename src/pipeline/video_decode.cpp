#include "pipeline/video_decode.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>

#include "base/error.h"
#include "ir/trace.h"
#include "models/wan_vae/model.h"
#include "pipeline/parts.h"
#include "pipeline/rgb8.h"
#include "pipeline/settle.h"
#include "pipeline/stage_run.h"
#include "pipeline/vae_states.h"

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

}  // namespace

VideoDecode::VideoDecode(const RecipeContext& context)
    : model_(context.model), dtype_(context.dtype), platform_(context.platform), free_bytes_(context.free_bytes) {}

void VideoDecode::settle(const Settled& settled) {
  settled_ = settled;
  if (settled.latent_frames > 1)
    group_frames_ = decode_group_frames(model_, dtype_, {settled.made_height, settled.made_width, settled.num_frames, 0}, platform_,
                                        free_bytes_);
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

void VideoDecode::add_to(Program& program, std::size_t caller_bytes) const {
  const std::string size = fmt::format("{}x{}", settled_.latent_height, settled_.latent_width);
  Stage stage{.name = "decode", .phase = Phase::decode, .uses = {}, .caller_bytes = caller_bytes};
  const std::int64_t groups = group_frames_ ? (settled_.latent_frames - 1) / group_frames_ + 1 : 1;
  const auto add = [&](const std::string& name, std::int64_t frames, bool first) {
    program.plans.push_back({"decode_" + name, fmt::format("decode_{} {} {}", name, size, frames),
                             [this, frames, first] { return trace(frames, first); }});
    stage.uses.push_back({name, "decode_" + name, "vae",
                          {{"latent", name + ".latent"}, {"frames", name + ".frames"}, {"finite", name + ".finite"},
                           {"state_*", "decoder.state_*"}}});
  };
  add("first", 1, true);
  if (group_frames_) {
    add("group", group_frames_, false);
    // While one group is copied out the next is made.
    const std::int64_t frames = group_frames_ * model_.vae.scale_factor_temporal;
    stage.tensors.push_back({"group.frames.second", {DType::u8, {frames, settled_.made_height, settled_.made_width, 3}}});
  }
  stage.tensors.push_back({"all latents", latent_type(settled_.latent_frames)});
  stage.tensors.push_back({"finite frames", {DType::f32, {groups, kFiniteRow}}});
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

void VideoDecode::run(const std::vector<float>& latents, std::size_t video, StageRun& run) const {
  const Callbacks& callbacks = run.callbacks();
  const Tensor &all = run.tensor("all latents"), &flags = run.tensor("finite frames");
  run.upload(all, denormalised(latents));
  BoundPlan first = run.bind("first"), group = group_frames_ ? run.bind("group") : BoundPlan{};
  std::vector<Tensor> free_frames;
  if (group_frames_) free_frames = {run.tensor("group.frames"), run.tensor("group.frames.second")};

  struct Decoded {  // a group of frames that the device has or will have made
    Tensor frames;
    std::unique_ptr<Mark> mark;
    std::size_t latent_frames;
  };
  // While the device decodes a group, the one before is copied out and written. Where work is done as it is queued, each group is
  // written at once.
  constexpr std::size_t kGroupsAhead = 1;
  std::deque<Decoded> ahead;
  std::int64_t frame_number = 0;
  std::size_t done = 0;
  const auto total = static_cast<std::size_t>(settled_.latent_frames);
  std::vector<std::uint8_t> rgb, cropped;
  const auto emit = [&](const Tensor& frames) {
    rgb.resize(frames.size_bytes());
    run.platform().download(run.downloads(), frames.slot(), rgb.data(), rgb.size());
    run.downloads().synchronize();
    const auto frame_size = static_cast<std::size_t>(frames.type.shape.count(1, 4));
    for (std::size_t begin = 0; begin < rgb.size(); begin += frame_size) {
      std::span<const std::uint8_t> frame{rgb.data() + begin, frame_size};
      if (settled_.made_height != settled_.height || settled_.made_width != settled_.width) {
        crop(frame, settled_.made_height, settled_.made_width, settled_.height, settled_.width, cropped);
        frame = cropped;
      }
      if (callbacks.frame) callbacks.frame(video, frame_number++, frame);
    }
  };
  const auto write_done = [&](std::size_t most_ahead) {
    for (; !ahead.empty() && (ahead.size() > most_ahead || ahead.front().mark->reached()); ahead.pop_front()) {
      run.downloads().wait_for(*ahead.front().mark);
      emit(ahead.front().frames);
      done += ahead.front().latent_frames;
      run.progress(done, total);
      if (done > 1) free_frames.push_back(ahead.front().frames);
    }
  };
  std::int64_t number = 0;  // of the group
  for (std::size_t begin = 0; begin < total; ++number) {
    const auto group_start = StepClock::now();
    BoundPlan& plan = begin == 0 ? first : group;
    const Tensor& latent = plan.inputs[0];
    const std::size_t frame_bytes = latent.size_bytes() / static_cast<std::size_t>(latent.type.shape.dim(0));
    run.copy({latent.type, all.buffer, all.offset + begin * frame_bytes}, latent);
    if (begin > 0) {
      plan.set_output("frames", free_frames.front());
      free_frames.erase(free_frames.begin());
    }
    run.run(plan);
    run.copy(plan.outputs[1], row_of(flags, number, plan.outputs[1].type));
    const std::size_t count = begin == 0 ? 1 : static_cast<std::size_t>(group_frames_);
    ahead.push_back({plan.outputs[0], run.stream().mark(), count});
    begin += count;
    run.phase(fmt::format("decode {}", begin), group_start);
    write_done(kGroupsAhead);
  }
  write_done(0);
  const std::vector<float> finite = run.download(flags);
  for (std::int64_t i = 0; i < number; ++i)
    check(std::isfinite(finite[static_cast<std::size_t>(i * kFiniteRow)]), ErrorKind::invalid_argument, "vae",
          "not a number: frames of group {} of {} are not finite. A weight of vae is damaged or does not fit {}: check its files, or "
          "try --dtype f32.",
          i + 1, number, name(dtype_));
}

}  // namespace zoe
