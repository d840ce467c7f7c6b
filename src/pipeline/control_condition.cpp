#include "pipeline/control_condition.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "pipeline/fitted_image.h"
#include "pipeline/stage_run.h"

namespace zoe {

namespace {

constexpr std::size_t kMostReferences = 16;
constexpr std::uint8_t kMade = 128;  // of a mask: from here on, more than a half, a pixel is to be made

// Luma as Pillow's convert("L") has it: grey stays what it is.
std::uint8_t luma(const std::uint8_t* rgb) {
  return static_cast<std::uint8_t>((19595u * rgb[0] + 38470u * rgb[1] + 7471u * rgb[2] + 32768u) >> 16);
}

}  // namespace

ControlCondition::ControlCondition(const Request& request, const RecipeContext& context)
    : model_(context.model),
      fit_(request.fit),
      spelling_(context.spelling),
      scale_(request.conditioning_scale.value_or(1.0)),
      encode_(context) {
  const auto field = [&](std::string_view name) { return spelled(name, spelling_); };
  if (!request.video.empty()) video_.emplace(request.video, field("video"));
  if (!request.mask.empty()) {
    check(video_.has_value(), ErrorKind::invalid_argument, field("mask"),
          "is of no video: got a mask alone, expected {} too. Without a video all is made.", field("video"));
    mask_.emplace(request.mask, field("mask"));
    check(mask_->width() == video_->width() && mask_->height() == video_->height(), ErrorKind::invalid_argument, field("mask"),
          "is of another size than the video: got {}x{}, expected {}x{}. Make a mask for each pixel of it.", mask_->width(),
          mask_->height(), video_->width(), video_->height());
  }
  check(request.reference_images.size() <= kMostReferences, ErrorKind::invalid_argument, field("reference_image"),
        "too many: got {}, expected at most {}. Each is a latent frame more.", request.reference_images.size(), kMostReferences);
  for (const std::filesystem::path& path : request.reference_images)
    reference_images_.push_back(read_image(path, field("reference_image")));
}

Request ControlCondition::settle_request(Request request) const {
  return video_ ? video_->settle_request(std::move(request), model_) : request;
}

void ControlCondition::settle(const Settled& settled) {
  settled_ = settled;
  const auto read = [&](const VideoInput& input, std::int64_t frames) {
    return input.read(frames, static_cast<int>(settled.made_width), static_cast<int>(settled.made_height), fit_,
                      model_.vae.scale_factor_temporal, spelling_);
  };
  if (video_) frames_ = read(*video_, settled.num_frames);
  if (mask_) {
    for (const Image& frame : read(*mask_, mask_->is_still() ? 1 : settled.num_frames)) {
      std::vector<std::uint8_t> grey(frame.rgb.size() / 3);
      for (std::size_t i = 0; i < grey.size(); ++i) grey[i] = luma(frame.rgb.data() + 3 * i);
      const auto [least, most] = std::minmax_element(grey.begin(), grey.end());
      const bool has_made = *most >= kMade, has_kept = *least < kMade;
      masks_.push_back({std::move(grey), has_made, has_kept});
    }
    masks_.resize(frames_.size(), Mask(masks_[0]));  // one for all
  }
  for (const Image& image : reference_images_) references_.push_back(on_white(image));
  const PixelVideo videos[] = {masked(false), masked(true)};
  encode_.settle(settled, videos);
}

// The whole picture in the middle of a white one: sides rounded down to what the VAE takes, then scaled between its pixels, without
// a filter where it becomes smaller, as Diffusers does it.
std::vector<float> ControlCondition::on_white(const Image& image) const {
  const auto step = static_cast<int>(model_.vae.scale_factor_spatial);
  const Image source =
      resize(image, std::max(image.width / step * step, step), std::max(image.height / step * step, step), ResizeFilter::lanczos);
  const std::int64_t height = settled_.made_height, width = settled_.made_width;
  const double scale = std::min(static_cast<double>(height) / source.height, static_cast<double>(width) / source.width);
  const auto inner_height = std::max<std::int64_t>(static_cast<std::int64_t>(source.height * scale), 1);
  const auto inner_width = std::max<std::int64_t>(static_cast<std::int64_t>(source.width * scale), 1);
  const std::int64_t top = (height - inner_height) / 2, left = (width - inner_width) / 2;

  struct Between {  // two rows or columns, and the second's weight
    int first, second;
    float weight;
  };
  const auto between = [](std::int64_t to, std::int64_t made, int extent) {
    const float ratio = static_cast<float>(extent) / static_cast<float>(made);
    const float at = std::max((static_cast<float>(to) + 0.5f) * ratio - 0.5f, 0.0f);
    const int first = std::min(static_cast<int>(at), extent - 1);
    return Between{first, std::min(first + 1, extent - 1), at - static_cast<float>(first)};
  };
  std::vector<float> out(static_cast<std::size_t>(height * width * 3), 1.0f);
  for (std::int64_t y = 0; y < inner_height; ++y) {
    const Between row = between(y, inner_height, source.height);
    for (std::int64_t x = 0; x < inner_width; ++x) {
      const Between column = between(x, inner_width, source.width);
      float* to = out.data() + 3 * ((top + y) * width + left + x);
      for (int c = 0; c < 3; ++c) {
        const auto at = [&](int from_y, int from_x) { return signed_pixel(source.row(from_y)[3 * from_x + c]); };
        const float upper = (1.0f - column.weight) * at(row.first, column.first) + column.weight * at(row.first, column.second);
        const float lower = (1.0f - column.weight) * at(row.second, column.first) + column.weight * at(row.second, column.second);
        to[c] = (1.0f - row.weight) * upper + row.weight * lower;
      }
    }
  }
  return out;
}

PixelVideo ControlCondition::masked(bool made) const {
  const auto is_blank = [this, made](std::int64_t begin, std::int64_t end) {
    if (frames_.empty() || (masks_.empty() && !made)) return true;
    if (masks_.empty()) return false;
    const auto from = static_cast<std::ptrdiff_t>(begin);
    return std::none_of(masks_.begin() + from, masks_.begin() + static_cast<std::ptrdiff_t>(end),
                        [&](const Mask& mask) { return made ? mask.has_made : mask.has_kept; });
  };
  const auto pixels = [this, made, is_blank](std::int64_t begin, std::int64_t count) {
    std::vector<float> values;
    if (is_blank(begin, begin + count)) return values;
    for (auto f = static_cast<std::size_t>(begin); f < static_cast<std::size_t>(begin + count); ++f) {
      const std::vector<std::uint8_t>& rgb = frames_[f].rgb;
      for (std::size_t i = 0; i < rgb.size(); ++i)
        values.push_back((masks_.empty() || masks_[f].grey[i / 3] >= kMade) == made ? signed_pixel(rgb[i]) : 0.0f);
    }
    return values;
  };
  return {settled_.num_frames, is_blank, pixels};
}

PixelVideo ControlCondition::reference(std::size_t i) const {
  return {1, [](std::int64_t, std::int64_t) { return false; }, [this, i](std::int64_t, std::int64_t) { return references_[i]; }};
}

Type ControlCondition::control_type() const {
  return {DType::f32, {channels(model_.vae), references() + settled_.latent_frames, settled_.latent_height, settled_.latent_width}};
}

void ControlCondition::add_to(Program& program) const {
  const auto hints = static_cast<std::int64_t>(model_.transformer.vace_layers.size());
  Stage stage{.name = "encode the control",
              .phase = Phase::encode,
              .uses = {},
              .tensors = {{"control", control_type()}, {"control_scale", {DType::f32, {hints}}}}};
  encode_.add_to(program, stage);
  program.stages.push_back(std::move(stage));
}

void ControlCondition::run(StageRun& run) const {
  const std::int64_t z = model_.vae.z_dim, step = model_.vae.scale_factor_spatial, frames = settled_.latent_frames;
  const std::int64_t height = settled_.latent_height, width = settled_.latent_width, all = references() + frames;
  const auto plane = static_cast<std::size_t>(height * width);
  std::vector<float> control(static_cast<std::size_t>(control_type().shape.count()));
  const auto put = [&](const std::vector<float>& latents, std::int64_t channel, std::int64_t frame) {  // [z,T,h,w]
    const std::size_t row = latents.size() / static_cast<std::size_t>(z);
    for (std::int64_t c = 0; c < z; ++c)
      std::copy_n(latents.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(c) * row), row,
                  control.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>((channel + c) * all + frame) * plane));
  };

  const bool is_blank = frames_.empty();  // then both parts of it are the same
  const std::int64_t total = references() + (is_blank ? 1 : 2) * frames;
  std::int64_t before = 0;
  const auto encode = [&](const PixelVideo& video, std::string_view whose) {
    std::vector<float> latents = encode_.run(video, run, whose, [&](std::int64_t done) {
      run.progress(static_cast<std::size_t>(before + done), static_cast<std::size_t>(total));
    });
    before += static_cast<std::int64_t>(latents.size() / plane) / z;
    return latents;
  };
  const std::vector<float> kept = encode(masked(false), "the video's");
  put(kept, 0, references());
  put(is_blank ? kept : encode(masked(true), "the video's"), z, references());
  for (std::size_t i = 0; i < references_.size(); ++i)
    put(encode(reference(i), "a reference image's"), 0, references() - 1 - static_cast<std::int64_t>(i));

  // Of the frames that a latent one stands for the middle one's mask: floor((t + 1/2) F / T).
  const float ratio = static_cast<float>(settled_.num_frames) / static_cast<float>(frames);
  for (std::int64_t t = 0; t < frames; ++t) {
    const auto f =
        std::min<std::int64_t>(static_cast<std::int64_t>((static_cast<float>(t) + 0.5f) * ratio), settled_.num_frames - 1);
    for (std::int64_t c = 0; c < step * step; ++c) {  // row, then column of a square
      float* to = control.data() + static_cast<std::size_t>((2 * z + c) * all + references() + t) * plane;
      for (std::int64_t y = 0; y < height; ++y)
        for (std::int64_t x = 0; x < width; ++x) {
          if (masks_.empty()) {
            *to++ = 1.0f;
            continue;
          }
          const std::vector<std::uint8_t>& mask = masks_[static_cast<std::size_t>(f)].grey;
          const std::int64_t from = (y * step + c / step) * settled_.made_width + x * step + c % step;
          *to++ = (signed_pixel(mask[static_cast<std::size_t>(from)]) + 1.0f) / 2.0f;
        }
    }
  }
  run.upload(run.tensor("control"), control);
  const Tensor& scale = run.tensor("control_scale");
  run.upload(scale, std::vector<float>(static_cast<std::size_t>(scale.type.shape.count()), static_cast<float>(scale_)));
}

}  // namespace zoe
