#include "pipeline/image_condition.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/log.h"
#include "media/image.h"
#include "models/clip_vision/model.h"
#include "pipeline/fitted_image.h"
#include "pipeline/stage_run.h"

namespace zoe {

struct ImageCondition::Picture {
  std::string field;
  Image image;             // as in the file
  Image fitted = {};       // of the video's size
  std::int64_t frame = 0;  // of the video
  Fit fit = Fit::crop;
};

ImageCondition::ImageCondition(const Request& request, const RecipeContext& context, bool both)
    : model_(context.model), dtype_(context.dtype), spelling_(context.spelling), encode_(context) {
  const std::string first = spelled("image", spelling_);
  check(!request.image.empty(), ErrorKind::invalid_argument, first,
        "no image given: {} makes a video of a picture. Give one: {} FILE.", model_.name, first);
  pictures_.push_back({.field = first, .image = read_image(request.image, first), .fit = request.fit});
  const std::string last = spelled("last_image", spelling_);
  check(!both || !request.last_image.empty(), ErrorKind::invalid_argument, last,
        "no last image given: {} makes a video from one picture to another. Give it: {} FILE.", model_.name, last);
  if (request.last_image.empty()) return;
  if (!both && model_.image_encoder)
    log(LogLevel::notice,
        fmt::format(
            "{}: the image encoder sees the first picture alone. Fun-InP was trained for a last one, Wan 2.1's image to video "
            "was not.",
            last));
  pictures_.push_back({.field = last, .image = read_image(request.last_image, last), .fit = request.fit});
}
ImageCondition::~ImageCondition() = default;

Request ImageCondition::with_size(Request request) const {
  const Image& first = pictures_[0].image;
  return with_shape_of(first.width, first.height, std::move(request), model_);
}

void ImageCondition::settle(const Settled& settled) {
  settled_ = settled;
  const std::int64_t later = settled.latent_frames - 1;
  check(pictures_.size() == 1 || later > 0, ErrorKind::invalid_argument, pictures_.back().field,
        "needs a video of two latent frames: got {} frame, expected at least {}. Raise {}.", settled.num_frames,
        model_.vae.scale_factor_temporal + 1, spelled("num_frames", spelling_));
  if (pictures_.size() > 1) pictures_[1].frame = settled.num_frames - 1;
  for (Picture& picture : pictures_)
    picture.fitted =
        fitted(picture.image, static_cast<int>(settled.made_width), static_cast<int>(settled.made_height), picture.fit);
  const PixelVideo video = pixel_video();
  encode_.settle(settled, {&video, 1});
}

PixelVideo ImageCondition::pixel_video() const {
  return {model_.expand_timesteps ? 1 : settled_.num_frames,
          [this](std::int64_t begin, std::int64_t end) { return is_blank(begin, end); },
          [this](std::int64_t begin, std::int64_t count) { return pixels(begin, count); }};
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
  const auto seen_images = static_cast<std::size_t>(model_.encoded_images());
  for (std::size_t p = 0; p < seen_images; ++p) {
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
    run.progress(p + 1, seen_images);
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
  encode_.add_to(program, stage);
  program.stages.push_back(std::move(stage));
}

std::vector<float> ImageCondition::pixels(std::int64_t begin, std::int64_t count) const {
  std::vector<float> values;
  for (const Picture& picture : pictures_) {
    if (picture.frame < begin || picture.frame >= begin + count) continue;
    const std::vector<std::uint8_t>& rgb = picture.fitted.rgb;
    values.resize(static_cast<std::size_t>(count) * rgb.size());
    float* to = values.data() + static_cast<std::size_t>(picture.frame - begin) * rgb.size();
    for (const std::uint8_t value : rgb) *to++ = signed_pixel(value);
  }
  return values;
}

void ImageCondition::make_condition(StageRun& run) {
  const std::int64_t temporal = model_.vae.scale_factor_temporal, z = model_.vae.z_dim;
  const std::int64_t frames = model_.expand_timesteps ? 1 : settled_.latent_frames, mask = model_.expand_timesteps ? 0 : temporal;
  const auto plane = static_cast<std::size_t>(settled_.latent_height * settled_.latent_width);
  const auto row = static_cast<std::size_t>(frames) * plane;  // of one channel
  std::vector<float>& condition = condition_;
  condition.clear();
  const auto make_mask = [&] {
    condition.assign(static_cast<std::size_t>(mask + z) * row, 0.0f);
    for (const Picture& picture : pictures_)
      for (std::int64_t c = 0; c < mask; ++c)
        // Channel c of latent frame t stands for frame temporal * t + c, counted with the first frame `temporal` times.
        for (std::int64_t t = 0; t < frames; ++t)
          if (std::max<std::int64_t>(temporal * t + c - (temporal - 1), 0) == picture.frame)
            std::fill_n(condition.begin() +
                            static_cast<std::ptrdiff_t>(static_cast<std::size_t>(c) * row + static_cast<std::size_t>(t) * plane),
                        plane, 1.0f);
  };

  const std::vector<float> latents = encode_.run(pixel_video(), run, "the image's", [&](std::int64_t done) {
    if (condition.empty()) make_mask();  // while the device is at work
    run.progress(static_cast<std::size_t>(done), static_cast<std::size_t>(frames));
  });
  std::copy(latents.begin(), latents.end(), condition.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(mask) * row));
  run.upload(run.tensor(tensor_name()), condition);
}

}  // namespace zoe
