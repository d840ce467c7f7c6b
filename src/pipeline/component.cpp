#include "pipeline/component.h"

#include <map>

#include "base/encoding.h"
#include "base/error.h"
#include "compiler/passes/keep_stored.h"
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
  ZOE_INTERNAL_CHECK(name == "transformer" || name == "transformer_2");
  return {wan_dit_tensors(model.transformer), {}};
}

ComponentWeights weights_of(const ModelConfig& model, const std::string& name) {
  const Expected expected = expected_of(model, name);
  if (model.random_seed) return {name, expected.tensors, *model.random_seed + (name == "transformer_2" ? 1 : 0)};
  return {Checkpoint(model.path / name, name), expected.tensors, expected.aliases};
}

// The encodings by how many tensors have each, and a hash of which.
std::string key_of_storage(const ComponentWeights& weights) {
  std::map<std::string, int> counts;
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const auto& [name, weight] : weights.all()) {
    const Storage storage = weight->storage();
    if (!storage || !may_stay_stored(*storage.encoding)) continue;
    const std::string kept = fmt::format("{}{}", storage.encoding->name, storage.is_scaled ? "*scale" : "");
    ++counts[kept];
    for (const char letter : fmt::format("{} {}\n", name, kept))
      hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001b3u;
  }
  std::string key;
  for (const auto& [kept, count] : counts) key += fmt::format(" {} {}", count, kept);
  return key.empty() ? key : fmt::format(" stored{} {:016x}", key, hash);
}

}  // namespace

Checkpoint open_component(const ModelConfig& model, const std::string& name) {
  check(!model.path.empty(), ErrorKind::invalid_argument, name, "{} has no files to look at. Give a model's folder.", model.name);
  const Expected expected = expected_of(model, name);
  Checkpoint checkpoint(model.path / name, name);
  match_tensors(checkpoint, expected.tensors, expected.aliases);
  return checkpoint;
}

Component::Component(Platform& platform, const ModelConfig& model, const std::string& name)
    : source_(weights_of(model, name)), store_(platform, source_), storage_key_(key_of_storage(source_)) {}

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
