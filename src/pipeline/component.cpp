#include "pipeline/component.h"

#include <algorithm>
#include <map>
#include <optional>
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

std::vector<ExpectedTensor> tensors_of(const ModelConfig& model, const std::string& name) {
  return expected_of(model, name).tensors;
}

ComponentWeights open_weights(const ModelConfig& model, const std::string& name) {
  const Expected expected = expected_of(model, name);
  const bool is_narrow = name == "text_encoder" || kind_of(name) == "transformer";
  if (model.random_seed)
    return {name, expected.tensors, *model.random_seed + (name == "transformer_2" ? 1 : 0),
            is_narrow ? model.random_encoding : nullptr};
  const Checkpoint checkpoint(model.part(name), name);
  if (kind_of(name) == "transformer") check_training(checkpoint, model, name);
  return {checkpoint, expected.tensors, expected.aliases, keys_of_part(checkpoint, kind_of(name))};
}

Storage Component::storage(const std::string& tensor, const ComponentChanges& changes) const {
  return changes.merged.contains(tensor) ? Storage() : source_(tensor)->storage();
}

std::int64_t Component::rank(const std::string& tensor, const ComponentChanges& changes) const {
  const auto found = changes.beside.find(tensor);
  if (found == changes.beside.end()) return 0;
  std::int64_t rank = 0;
  for (const WeightChange& change : found->second)
    for (const LowRankChange& each : change.low_rank) rank += each.rank();
  return (rank + kRankStep - 1) / kRankStep * kRankStep;
}

bool Component::stays_stored(const WeightReader& weight) const {
  const Storage storage = weight.storage();
  return storage && may_stay_stored(*storage.encoding) && platform_.keeps_stored(*storage.encoding);
}

ComponentChanges Component::split(const WeightChanges& changes, LoraMode mode) const {
  ComponentChanges made;
  for (const auto& [tensor, of] : changes) {
    const WeightReader& weight = *source_(tensor);
    const bool is_low_rank = mode != LoraMode::merge && weight.shape().rank() == 2 &&
                             (mode == LoraMode::beside || stays_stored(weight)) &&
                             std::none_of(of.begin(), of.end(), [](const WeightChange& each) { return each.low_rank.empty(); });
    if (is_low_rank) {
      made.beside.insert({tensor, of});
      const std::int64_t rows = weight.shape().dim(0), columns = weight.shape().dim(1);
      if (rank(tensor, made) * (rows + columns) < rows * columns) continue;
      made.beside.erase(tensor);
    }
    made.merged.insert({tensor, of});
  }
  return made;
}

// The encodings by how many tensors have each, and a hash of which, and of what is beside them.
std::string Component::storage_key(const ComponentChanges& changes) const {
  std::map<std::string, int> counts;
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const auto& [name, weight] : source_.all()) {
    const Storage storage = this->storage(name, changes);
    std::string kept;
    if (storage && may_stay_stored(*storage.encoding))
      kept = fmt::format("{}{}", storage.encoding->name, storage.is_scaled ? "*scale" : "");
    if (const std::int64_t beside = rank(name, changes); beside > 0) kept += fmt::format("+{}", beside);
    if (kept.empty()) continue;
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
    : platform_(platform),
      source_(open_weights(model, name)),
      store_(platform, [this](const std::string& wanted) { return weight(wanted); }) {}

WeightPtr Component::weight(const std::string& name) const {
  const std::optional<ChangeFactor> factor = parse_factor_name(name);
  if (!factor) return changed(source_(name), changes_.merged, name);
  std::vector<LowRankChange> all;
  if (const auto found = changes_.beside.find(factor->tensor); found != changes_.beside.end())
    for (const WeightChange& change : found->second) all.insert(all.end(), change.low_rank.begin(), change.low_rank.end());
  return low_rank_factor(std::move(all), factor->is_up, source_(factor->tensor)->shape().dim(factor->is_up ? 0 : 1), factor->rank);
}

void Component::change(const ComponentChanges& changes) {
  std::set<std::string, std::less<>> different;
  const auto each_difference = [](const WeightChanges& before, const WeightChanges& now, const auto& body) {
    for (const auto& [tensor, of] : before)
      if (const auto found = now.find(tensor); found == now.end() || found->second != of) body(tensor);
    for (const auto& [tensor, of] : now)
      if (!before.contains(tensor)) body(tensor);
  };
  each_difference(changes_.merged, changes.merged, [&](const std::string& tensor) { different.insert(tensor); });
  each_difference(changes_.beside, changes.beside, [&](const std::string& tensor) {
    // Also zeros that were there because of a product beside.
    for (const std::int64_t rank : {rank(tensor, changes_), rank(tensor, changes), kRankStep})
      for (const bool is_up : {true, false}) different.insert(factor_name({tensor, is_up, rank}));
    // What is as wide as it is computed with lies in another layout where something is beside it.
    if (changes_.beside.contains(tensor) != changes.beside.contains(tensor) && !stays_stored(*source_(tensor)))
      different.insert(tensor);
  });
  store_.forget(different);
  changes_ = changes;
}

void Component::load(std::span<const Plan* const> plans, const std::atomic<bool>* cancel, const LoadProgress& progress) {
  const std::size_t before = store_.size_bytes();
  for (const Plan* plan : plans) store_.load(*plan, {.cancel = cancel, .progress = progress});
  bytes_loaded_ += store_.size_bytes() - before;
}

void Component::read(const std::string& tensor, std::int64_t begin, std::int64_t count, float* out) const {
  const WeightPtr weight = changed(changed(source_(tensor), changes_.merged, tensor), changes_.beside, tensor);
  weight->fetch(begin, count);
  weight->read(begin, count, DType::f32, out);
}

}  // namespace zoe
