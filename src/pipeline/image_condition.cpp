#include "pipeline/image_condition.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "ir/trace.h"
#include "media/image.h"
#include "models/clip_vision/model.h"
#include "models/wan_vae/model.h"
#include "pipeline/stage_run.h"

namespace zoe {

namespace {

// The picture as a frame of width x height.
Image fitted(const Image& image, int width, int height, Fit fit) {
  constexpr auto kFilter = ResizeFilter::lanczos;
  const std::int64_t across = std::int64_t{image.width} * height, down = std::int64_t{image.height} * width;  // equal: one shape
  const auto divided = [](std::int64_t a, std::int64_t b) { return std::max(static_cast<int>((2 * a + b) / (2 * b)), 1); };
  if (fit == Fit::stretch || across == down) return resize(image, width, height, kFilter);
  if (fit == Fit::crop) {
    const int part_width = across > down ? divided(down, height) : image.width;
    const int part_height = across > down ? image.height : divided(across, width);
    return resize(crop(image, (image.width - part_width) / 2, (image.height - part_height) / 2, part_width, part_height), width,
                  height, kFilter);
  }
  const int inner_width = across > down ? width : divided(across, image.height);
  const int inner_height = across > down ? divided(down, image.width) : height;
  Image frame = black_image(width, height);
  paste(frame, (width - inner_width) / 2, (height - inner_height) / 2, resize(image, inner_width, inner_height, kFilter));
  return frame;
}

}  // namespace

struct ImageCondition::Picture {
  std::string field;
  Image image;             // as in the file
  Image fitted = {};       // of the video's size
  std::int64_t frame = 0;  // of the video
  Fit fit = Fit::crop;
};

ImageCondition::ImageCondition(const Request& request, const RecipeContext& context, bool both)
    : model_(context.model), dtype_(context.dtype), platform_(context.platform), spelling_(context.spelling) {
  const std::string first = spelled("image", spelling_);
  check(!request.image.empty(), ErrorKind::invalid_argument, first,
        "no image given: {} makes a video of a picture. Give one: {} FILE.", model_.name, first);
  pictures_.push_back({.field = first, .image = read_image(request.image, first), .fit = request.fit});
  const std::string last = spelled("last_image", spelling_);
  check(!both || !request.last_image.empty(), ErrorKind::invalid_argument, last,
        "no last image given: {} makes a video from one picture to another. Give it: {} FILE.", model_.name, last);
  if (request.last_image.empty()) return;
  check(
      both || !model_.image_encoder, ErrorKind::invalid_argument, last,
      "is not taken by this model: got {}, expected nothing, as its image encoder sees one picture. It is of flf2v, and of models "
      "without an image encoder (i2v_a14b).",
      request.last_image.string());
  pictures_.push_back({.field = last, .image = read_image(request.last_image, last), .fit = request.fit});
}
ImageCondition::~ImageCondition() = default;

Request ImageCondition::with_size(Request request) const {
  if (request.width && request.height) return request;
  const Image& image = pictures_[0].image;
  const auto& patch = model_.transformer.patch_size;
  const std::int64_t spatial = model_.vae.scale_factor_spatial, height_step = spatial * patch[1], width_step = spatial * patch[2];
  const double shape = static_cast<double>(image.height) / image.width;
  const auto side = [](double exact, std::int64_t step) {
    return std::max(static_cast<std::int64_t>(std::nearbyint(exact)) / step * step, step);
  };
  if (request.width) {
    request.height = side(static_cast<double>(*request.width) * shape, height_step);
  } else if (request.height) {
    request.width = side(static_cast<double>(*request.height) / shape, width_step);
  } else {
    const double area = static_cast<double>(model_.defaults.height) * static_cast<double>(model_.defaults.width);
    request.height = side(std::sqrt(area * shape), height_step);
    request.width = side(std::sqrt(area / shape), width_step);
  }
  return request;
}

void ImageCondition::settle(const Settled& settled) {
  settled_ = settled;
  const std::int64_t later = settled.latent_frames - 1;
  // As the decoder: where memory is the device's own, small groups do not fill it.
  if (later > 0 && !model_.expand_timesteps) group_frames_ = platform_.info().unified_memory || later % 2 != 0 ? 1 : 2;
  check(pictures_.size() == 1 || later > 0, ErrorKind::invalid_argument, pictures_.back().field,
        "needs a video of two latent frames: got {} frame, expected at least {}. Raise {}.", settled.num_frames,
        model_.vae.scale_factor_temporal + 1, spelled("num_frames", spelling_));
  if (pictures_.size() > 1) pictures_[1].frame = settled.num_frames - 1;
  const std::int64_t count = group_frames_ * model_.vae.scale_factor_temporal;
  for (std::int64_t begin = 1; count > 0 && begin < settled.num_frames; begin += count) levels_.insert(settled_level(begin, count));
  for (Picture& picture : pictures_)
    picture.fitted =
        fitted(picture.image, static_cast<int>(settled.made_width), static_cast<int>(settled.made_height), picture.fit);
}

Type ImageCondition::condition_type() const {
  const std::int64_t height = settled_.latent_height, width = settled_.latent_width;
  if (model_.expand_timesteps) return {DType::f32, {model_.vae.z_dim, 1, height, width}};
  return {DType::f32, {channels(model_.vae), settled_.latent_frames, height, width}};
}

bool ImageCondition::is_blank(std::int64_t begin, std::int64_t end) const {
  return std::none_of(pictures_.begin(), pictures_.end(),
                      [&](const Picture& picture) { return picture.frame >= begin && picture.frame < end; });
}

// The level from which a group must be encoded: the lower ones see blank frames alone, as they did for the group before.
std::int64_t ImageCondition::settled_level(std::int64_t begin, std::int64_t count) const {
  auto level = static_cast<std::int64_t>(model_.vae.dim_mult.size()) - 1;
  for (; level > 0; --level) {
    const std::int64_t from = begin - count - wan_vae_frames_seen(model_.vae, level);
    if (from > 0 && is_blank(from, begin + count)) break;
  }
  return level;
}

// A first group (no from_level), or a later one.
NamedGraph ImageCondition::trace(std::int64_t frames, std::optional<std::int64_t> from_level) const {
  const std::int64_t height = settled_.made_height, width = settled_.made_width;
  const WanVaeGraph traced = from_level ? trace_wan_vae_encode_from(model_.vae, dtype_, frames, height, width, *from_level)
                                        : trace_wan_vae_encode(model_.vae, dtype_, frames, height, width, true);
  const std::vector<Value>& outputs = traced.graph.outputs;
  std::vector<Value> results{outputs[0]};  // the mean
  NamedGraph named{{}, {"mean"}};
  for (const std::int64_t level : levels_)
    if (from_level && level > *from_level) {
      results.push_back(outputs[static_cast<std::size_t>(2 + level - *from_level - 1)]);
      named.outputs.push_back(fmt::format("given_{}", level));
    }
  for (std::size_t i = 0; i < traced.writes.size(); ++i) {
    results.push_back(outputs[traced.results + i]);
    named.outputs.push_back(fmt::format("state_{}", traced.writes[i]));
  }
  for (std::size_t i = 0; i < traced.states.size(); ++i) named.tensors.emplace_back(fmt::format("state_{}", i), traced.states[i]);
  named.graph = make_graph(traced.graph.name, traced.graph.inputs, std::move(results));
  return named;
}

void ImageCondition::add_encoder(Program& program) const {
  const ClipVisionConfig& encoder = *model_.image_encoder;
  program.plans.push_back({"image", "image", [this] {
                             return NamedGraph{trace_clip_vision(*model_.image_encoder, dtype_), {"states"}};
                           }});
  program.stages.push_back({.name = "look at the image",
                            .phase = Phase::encode,
                            .uses = {{"image", "image", "image_encoder", {{"pixels", "image.pixels"}, {"states", "image.states"}}}},
                            .tensors = {{"image_tokens", {DType::f32, {1, model_.image_rows(), encoder.hidden_size}}}},
                            .may_stream = true});
}

// CLIP's preparation: bicubic to the shorter side, the middle, normalised by channel.
void ImageCondition::encode(StageRun& run) const {
  const BoundPlan plan = run.bind("image");
  const Tensor &tokens = run.tensor("image_tokens"), &states = plan.outputs[0];
  const auto size = static_cast<int>(model_.image_encoder->image_size);
  for (std::size_t p = 0; p < pictures_.size(); ++p) {
    const Image& image = pictures_[p].image;
    const bool wide = image.width > image.height;
    const int shorter = wide ? image.height : image.width, longer = wide ? image.width : image.height;
    const auto scaled = static_cast<int>(static_cast<std::int64_t>(size) * longer / shorter);
    const Image small = resize(image, wide ? scaled : size, wide ? size : scaled, ResizeFilter::bicubic);
    const Image middle = crop(small, (small.width - size) / 2, (small.height - size) / 2, size, size);
    std::vector<float> pixels;
    for (std::size_t c = 0; c < 3; ++c)
      for (std::size_t i = c; i < middle.rgb.size(); i += 3)
        pixels.push_back((static_cast<float>(middle.rgb[i]) / 255.0f - kClipMean[c]) / kClipStd[c]);
    run.upload(plan.inputs[0], pixels);
    run.run(plan, false);
    run.copy(states, {states.type, tokens.buffer, tokens.offset + p * states.size_bytes()});
    run.progress(p + 1, pictures_.size());
  }
  const std::vector<float> seen = run.download(tokens);
  check(std::all_of(seen.begin(), seen.end(), [](float value) { return std::isfinite(value); }), ErrorKind::invalid_argument,
        "image_encoder",
        "not a number: the states of an image are not finite. A weight of image_encoder is damaged or does not fit {}: check its "
        "files, or try --dtype f32.",
        name(dtype_));
}

void ImageCondition::run(std::size_t stage, StageRun& run) {
  if (stage + 1 < stages()) encode(run);
  else make_condition(run);
}

void ImageCondition::add_to(Program& program) const {
  if (model_.image_encoder) add_encoder(program);
  Stage stage{.name = "encode the image", .phase = Phase::encode, .uses = {}, .tensors = {{tensor_name(), condition_type()}}};
  const auto add = [&](const std::string& name, std::int64_t frames, std::optional<std::int64_t> from_level) {
    std::string key = fmt::format("encode_{} {}x{} {}", name, settled_.made_height, settled_.made_width, frames);
    for (const std::int64_t level : levels_) key += fmt::format(" {}", level);
    program.plans.push_back({"encode_" + name, std::move(key), [this, frames, from_level] { return trace(frames, from_level); }});
    stage.uses.push_back({name, "encode_" + name, "vae",
                          {{"frames", name + ".pixels"}, {"mean", name + ".mean"}, {"state_*", "encoder.state_*"},
                           {"settled", fmt::format("encoder.given_{}", from_level.value_or(0))}, {"given_*", "encoder.given_*"}}});
  };
  add("first", 1, {});
  for (const std::int64_t level : levels_)
    add(fmt::format("group from {}", level), group_frames_ * model_.vae.scale_factor_temporal, level);
  program.stages.push_back(std::move(stage));
}

std::vector<float> ImageCondition::pixels(std::int64_t begin, std::int64_t count) const {
  std::vector<float> values;
  for (const Picture& picture : pictures_) {
    if (picture.frame < begin || picture.frame >= begin + count) continue;
    const std::vector<std::uint8_t>& rgb = picture.fitted.rgb;
    values.resize(static_cast<std::size_t>(count) * rgb.size());
    float* to = values.data() + static_cast<std::size_t>(picture.frame - begin) * rgb.size();
    for (const std::uint8_t value : rgb) *to++ = 2.0f * (static_cast<float>(value) / 255.0f) - 1.0f;
  }
  return values;
}

void ImageCondition::make_condition(StageRun& run) {
  const std::int64_t temporal = model_.vae.scale_factor_temporal, z = model_.vae.z_dim;
  const std::int64_t frames = model_.expand_timesteps ? 1 : settled_.latent_frames, mask = model_.expand_timesteps ? 0 : temporal;
  const auto plane = static_cast<std::size_t>(settled_.latent_height * settled_.latent_width);
  const auto row = static_cast<std::size_t>(frames) * plane;  // of one channel
  std::vector<float>& condition = condition_;
  condition.assign(static_cast<std::size_t>(mask + z) * row, 0.0f);
  for (const Picture& picture : pictures_)
    for (std::int64_t c = 0; c < mask; ++c)
      // Channel c of latent frame t stands for frame temporal * t + c, counted with the first frame `temporal` times.
      for (std::int64_t t = 0; t < frames; ++t)
        if (std::max<std::int64_t>(temporal * t + c - (temporal - 1), 0) == picture.frame)
          std::fill_n(condition.begin() +
                          static_cast<std::ptrdiff_t>(static_cast<std::size_t>(c) * row + static_cast<std::size_t>(t) * plane),
                      plane, 1.0f);

  bool blank = false;  // what the group's frames hold on the device
  std::int64_t latent = 0;
  for (std::int64_t group = 0; latent < frames; ++group) {
    const std::int64_t begin = group == 0 ? 0 : 1 + temporal * (latent - 1), count = group == 0 ? 1 : temporal * group_frames_;
    const std::int64_t from_level = group == 0 ? 0 : settled_level(begin, count);
    const BoundPlan plan = run.bind(group == 0 ? "first" : fmt::format("group from {}", from_level));
    if (from_level == 0) {
      const Tensor& into = plan.inputs[0];
      const std::vector<float> values = pixels(begin, count);
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
        condition[(static_cast<std::size_t>(mask) + channel) * row + static_cast<std::size_t>(latent) * plane +
                  i / static_cast<std::size_t>(z)] = (mean[i + channel] - offset) * inverse_std;
      }
    latent += group_latents(group);
    run.progress(static_cast<std::size_t>(latent), static_cast<std::size_t>(frames));
  }
  check(std::all_of(condition.begin(), condition.end(), [](float value) { return std::isfinite(value); }),
        ErrorKind::invalid_argument, "vae",
        "not a number: the image's latents are not finite. A weight of vae is damaged or does not fit {}: check its files, or "
        "try --dtype f32.",
        name(dtype_));
  run.upload(run.tensor(tensor_name()), condition);
}

}  // namespace zoe
