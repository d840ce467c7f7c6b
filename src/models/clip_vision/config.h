// What a CLIP image encoder is: the values of its config.json that matter, and the tensors its checkpoint must hold.
#pragma once

#include <cstdint>
#include <vector>

#include "base/json.h"
#include "checkpoint/expected.h"

namespace zoe {

struct ClipVisionConfig {
  std::int64_t hidden_size, intermediate_size;
  std::int64_t num_layers, num_heads;
  std::int64_t image_size, patch_size;  // pixels, of square pictures
  double eps;

  std::int64_t patches() const { return (image_size / patch_size) * (image_size / patch_size); }
  std::int64_t tokens() const { return patches() + 1; }  // with that of the class, in front
};

// From a config.json of CLIPVisionModel, missing values as its defaults. Errors: invalid_argument names a bad value; unsupported
// names another model or activation.
ClipVisionConfig parse_clip_vision_config(const JsonObject& json);

// Names and shapes as in files, also of what is not read: the last layer and the norm behind it. Files may lack "vision_model." in
// front: that is what the aliases say.
std::vector<ExpectedTensor> clip_vision_tensors(const ClipVisionConfig& config);
std::vector<TensorAlias> clip_vision_aliases(const ClipVisionConfig& config);

}  // namespace zoe
