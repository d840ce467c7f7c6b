#include "pipeline/component.h"

#include "base/error.h"
#include "models/clip_vision/config.h"
#include "models/umt5/config.h"
#include "models/wan_dit/config.h"
#include "models/wan_vae/config.h"

namespace zoe {

namespace {

struct Expected {
  std::vector<ExpectedTensor> tensors;
  std::vector<TensorAlias> aliases;
};

Expected expected_of(const ModelConfig& model, const std::string& name) {
  if (name == "text_encoder") return {umt5_tensors(model.text_encoder), umt5_aliases(model.text_encoder)};
  if (name == "vae") return {wan_vae_tensors(model.vae), {}};
  if (name == "image_encoder") return {clip_vision_tensors(*model.image_encoder), clip_vision_aliases(*model.image_encoder)};
  ZOE_INTERNAL_CHECK(name == "transformer" || name == "transformer_2");
  return {wan_dit_tensors(model.transformer), {}};
}

ComponentWeights weights_of(const ModelConfig& model, const std::string& name) {
  const Expected expected = expected_of(model, name);
  if (model.random_seed) return {name, expected.tensors, *model.random_seed + (name == "transformer_2" ? 1 : 0)};
  return {Checkpoint(model.part(name), name), expected.tensors, expected.aliases};
}

}  // namespace

Checkpoint open_component(const ModelConfig& model, const std::string& name) {
  check(!model.path.empty(), ErrorKind::invalid_argument, name, "{} has no files to look at. Give a model's folder.", model.name);
  const Expected expected = expected_of(model, name);
  Checkpoint checkpoint(model.part(name), name);
  match_tensors(checkpoint, expected.tensors, expected.aliases);
  return checkpoint;
}

Component::Component(Platform& platform, const ModelConfig& model, const std::string& name)
    : source_(weights_of(model, name)), store_(platform, source_) {}

void Component::load(std::span<const Plan* const> plans, const std::atomic<bool>* cancel, const LoadProgress& progress) {
  const std::size_t before = store_.size_bytes();
  for (const Plan* plan : plans) store_.load(*plan, {.cancel = cancel, .progress = progress});
  bytes_loaded_ += store_.size_bytes() - before;
}

void Component::read(const std::string& tensor, std::int64_t begin, std::int64_t count, float* out) const {
  const WeightReader& weight = *source_(tensor);
  weight.fetch(begin, count);
  weight.read(begin, count, DType::f32, out);
}

}  // namespace zoe
