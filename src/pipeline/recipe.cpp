#include "pipeline/recipe.h"

#include <algorithm>

#include "base/error.h"
#include "pipeline/control_condition.h"
#include "pipeline/image_condition.h"
#include "pipeline/video_recipe.h"

namespace zoe {

namespace {

bool is_image_to_video(const ModelConfig& model) {
  return model.transformer.condition_channels() == ImageCondition::channels(model.vae);
}

bool is_text_to_video(const ModelConfig& model) {
  return model.transformer.condition_channels() == 0 && model.transformer.image_dim == 0 && model.transformer.vace_layers.empty();
}

bool is_led(const ModelConfig& model) {
  return !model.transformer.vace_layers.empty() && model.transformer.condition_channels() == 0 && !model.expand_timesteps;
}

// The channels that the transformer sees beside the noise tell most kinds apart. The first that fits counts.
using Images = VideoKind::Images;
constexpr VideoKind kKinds[] = {
    {"text or image to video", members::ti2v_5b, members::ti2v_5b, Images::maybe,
     [](const ModelConfig& model) { return is_text_to_video(model) && model.expand_timesteps; }},
    {"text to video", members::t2v, members::t2v_a14b, Images::none, is_text_to_video},
    {"first and last frame to video", members::flf2v, members::flf2v, Images::both,
     [](const ModelConfig& model) { return is_image_to_video(model) && model.transformer.image_positions > 0; }},
    {"image to video", members::i2v, members::i2v_a14b, Images::first, is_image_to_video},
    {"text, video or reference images to video", members::vace, members::vace_a14b, Images::none, is_led}};

}  // namespace

std::unique_ptr<Recipe> make_recipe(const ModelConfig& model) {
  const WanDitConfig& transformer = model.transformer;
  check(transformer.vace_layers.empty() || transformer.vace_channels == ControlCondition::channels(model.vae),
        ErrorKind::unsupported, "transformer/config.json",
        "bad vace_in_channels: got {}, expected {} with a VAE of z_dim {}. Choose another model.", transformer.vace_channels,
        ControlCondition::channels(model.vae), model.vae.z_dim);
  const auto* const kind =
      std::find_if(std::begin(kKinds), std::end(kKinds), [&](const VideoKind& each) { return each.fits(model); });
  check(kind != std::end(kKinds) && transformer.out_channels == model.vae.z_dim, ErrorKind::unsupported, "transformer/config.json",
        "in_channels {} and out_channels {} are of no member that runs here with a VAE of z_dim {}: expected {} and {} (text to "
        "video) "
        "or {} and {} (image to video). Choose another model.",
        transformer.in_channels, transformer.out_channels, model.vae.z_dim, model.vae.z_dim, model.vae.z_dim,
        model.vae.z_dim + ImageCondition::channels(model.vae), model.vae.z_dim);
  return std::make_unique<VideoRecipe>(*kind, model);
}

}  // namespace zoe
