#include "pipeline/component.h"

#include "base/error.h"
#include "models/umt5/config.h"
#include "models/wan_dit/config.h"
#include "models/wan_vae/config.h"

namespace zoe {

Checkpoint open_component(const ModelConfig& model, const std::string& name) {
  Checkpoint checkpoint(model.path / name, name);
  if (name == "text_encoder") match_tensors(checkpoint, umt5_tensors(model.text_encoder), umt5_aliases());
  else if (name == "vae") match_tensors(checkpoint, wan_vae_tensors(model.vae));
  else match_tensors(checkpoint, wan_dit_tensors(model.transformer));
  return checkpoint;
}

namespace {

WeightSource source_of(const Checkpoint& checkpoint) {
  return [&checkpoint](const std::string& name) {
    const TensorEntry* entry = checkpoint.find(name);
    check(entry != nullptr, ErrorKind::internal, checkpoint.where(), "no tensor {}.", name);
    return HostTensor{weight_dtype(*entry, checkpoint.where()), entry->shape, entry->bytes.data()};
  };
}

}  // namespace

Component::Component(Platform& platform, const ModelConfig& model, const std::string& name)
    : checkpoint_(open_component(model, name)), store_(platform, source_of(checkpoint_)) {}

void Component::load(std::span<const Plan* const> plans, const std::atomic<bool>* cancel, const LoadProgress& progress) {
  const std::size_t before = store_.size_bytes();
  static_cast<void>(cancel);
  static_cast<void>(progress);
  for (const Plan* plan : plans) store_.load(*plan);
  bytes_loaded_ += store_.size_bytes() - before;
}

void Component::read(std::string_view tensor, std::int64_t begin, std::int64_t count, float* out) const {
  const TensorEntry* entry = checkpoint_.find(tensor);
  for (const TensorAlias& alias : umt5_aliases())
    if (!entry && alias.name == tensor) entry = checkpoint_.find(alias.alias);
  check(entry != nullptr, ErrorKind::internal, checkpoint_.where(), "no tensor {}.", tensor);
  read_elements(*entry, begin, count, DType::f32, out);
}

}  // namespace zoe
