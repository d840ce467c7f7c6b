#include "pipeline/component.h"

#include <map>
#include <set>

#include "base/encoding.h"
#include "base/error.h"
#include "compiler/passes/keep_stored.h"
#include "models/clip_vision/config.h"
#include "models/layouts.h"
#include "models/umt5/config.h"
#include "models/wan_dit/config.h"
#include "models/wan_dit/names.h"
#include "models/wan_vae/config.h"
#include "pipeline/foreign_training.h"

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

// Weights that would make a video of nothing.
void check_training(const Checkpoint& checkpoint, const ModelConfig& model, const std::string& name) {
  std::vector<std::string> keys;
  for (const TensorEntry& tensor : checkpoint.tensors()) keys.push_back(tensor.name);
  const std::string file = model.part(name).filename().string(), trained_for = foreign_training(keys, model.name + "/" + file);
  check(trained_for.empty(), ErrorKind::unsupported, name,
        "{} was trained for {}, which is not done here. Choose a model with full attention over all frames.", model.name,
        trained_for);
}

std::string_view kind_of(std::string_view name) { return name == "transformer_2" ? "transformer" : name; }

// The names of the original repositories, which most LoRAs use.
std::vector<TensorAlias> original_names(const std::vector<ExpectedTensor>& tensors) {
  std::vector<TensorAlias> names;
  for (const ExpectedTensor& tensor : tensors)
    if (const auto stored = wan_dit_original_names().stored_of(tensor.name); stored && stored->rule->parts == 1)
      names.push_back({tensor.name, stored->key});
  return names;
}

}  // namespace

std::vector<ExpectedTensor> tensors_of(const ModelConfig& model, const std::string& name) { return expected_of(model, name).tensors; }

ComponentWeights open_weights(const ModelConfig& model, const std::string& name) {
  const Expected expected = expected_of(model, name);
  if (model.random_seed) return {name, expected.tensors, *model.random_seed + (name == "transformer_2" ? 1 : 0)};
  const Checkpoint checkpoint(model.part(name), name);
  if (kind_of(name) == "transformer") check_training(checkpoint, model, name);
  return {checkpoint, expected.tensors, expected.aliases, keys_of_part(checkpoint, kind_of(name))};
}

Storage Component::storage(const std::string& tensor, const WeightChanges& changes) const {
  return changes.contains(tensor) ? Storage() : source_(tensor)->storage();
}

// The encodings by how many tensors have each, and a hash of which.
std::string Component::storage_key(const WeightChanges& changes) const {
  std::map<std::string, int> counts;
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const auto& [name, weight] : source_.all()) {
    const Storage storage = this->storage(name, changes);
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

LoraFit fit_lora(const LoraFile& file, const ModelConfig& model, const std::string& component, double strength) {
  const std::vector<ExpectedTensor> tensors = expected_of(model, component).tensors;
  return file.fit(component, tensors, original_names(tensors), strength);
}

Checkpoint open_component(const ModelConfig& model, const std::string& name) {
  check(!model.path.empty(), ErrorKind::invalid_argument, name, "{} has no files to look at. Give a model's folder.", model.name);
  const Expected expected = expected_of(model, name);
  Checkpoint checkpoint(model.part(name), name);
  match_tensors(checkpoint, expected.tensors, expected.aliases, keys_of_part(checkpoint, kind_of(name)));
  return checkpoint;
}

Component::Component(Platform& platform, const ModelConfig& model, const std::string& name)
    : source_(open_weights(model, name)),
      store_(platform, [this](const std::string& tensor) { return changed(source_(tensor), changes_, tensor); }) {}

void Component::change(const WeightChanges& changes) {
  std::set<std::string, std::less<>> different;
  for (const auto& [tensor, of] : changes_)
    if (const auto now = changes.find(tensor); now == changes.end() || now->second != of) different.insert(tensor);
  for (const auto& [tensor, of] : changes)
    if (!changes_.contains(tensor)) different.insert(tensor);
  store_.forget(different);
  changes_ = changes;
}

void Component::load(std::span<const Plan* const> plans, const std::atomic<bool>* cancel, const LoadProgress& progress) {
  const std::size_t before = store_.size_bytes();
  for (const Plan* plan : plans) store_.load(*plan, {.cancel = cancel, .progress = progress});
  bytes_loaded_ += store_.size_bytes() - before;
}

void Component::read(const std::string& tensor, std::int64_t begin, std::int64_t count, float* out) const {
  const WeightPtr weight = changed(source_(tensor), changes_, tensor);
  weight->fetch(begin, count);
  weight->read(begin, count, DType::f32, out);
}

}  // namespace zoe
