#include "pipeline/recipe.h"

#include "pipeline/text_to_video.h"

namespace zoe {

std::unique_ptr<Recipe> make_recipe(const ModelConfig& model) { return std::make_unique<TextToVideo>(model); }

}  // namespace zoe
