// A part of a model with weights of its own: its files, opened and matched once, and what is packed of them on a platform.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "checkpoint/checkpoint.h"
#include "checkpoint/component_weights.h"
#include "checkpoint/lora.h"
#include "compiler/weights.h"
#include "pipeline/model.h"
#include "pipeline/request.h"

namespace zoe {

// The files of "text_encoder", "image_encoder", "transformer", "transformer_2" or "vae", every tensor matched. An error if one is
// missing, unknown or of another shape than the configuration says.
Checkpoint open_component(const ModelConfig& model, const std::string& name);

// What a LoRA changes in a transformer of the model: "transformer" or "transformer_2". Errors of LoraFile::fit.
LoraFit fit_lora(const LoraFile& file, const ModelConfig& model, const std::string& component, double strength);

// What a component of the model has: "text_encoder", "transformer", "transformer_2", "vae".
std::vector<ExpectedTensor> tensors_of(const ModelConfig& model, const std::string& name);
// As open_component, as readers; of a model with random weights nothing is opened.
ComponentWeights open_weights(const ModelConfig& model, const std::string& name);

// What LoRAs do to a component's tensors.
struct ComponentChanges {
  WeightChanges merged;  // into tensors as they are read
  WeightChanges beside;  // low-rank ones of matrices that stay as they are: added where a matrix is used
};

class Component {
 public:
  // As open_component; of a model with random weights nothing is opened.
  Component(Platform& platform, const ModelConfig& model, const std::string& name);
  Component(const Component&) = delete;
  Component& operator=(const Component&) = delete;
  WeightStore& weights() { return store_; }
  // Which changes stay beside: of those that are nothing but low-rank sums, and smaller than their matrix, those of matrices that
  // stay as they are stored here, or of all; none where weights are widened as they are loaded.
  ComponentChanges split(const WeightChanges& changes, LoraMode mode) const;
  // How a tensor is stored, which one with merged changes is not; the rank of what stays beside it, see RankOf; and all that plans
  // which keep tensors so follow from: equal text, equal plans. "": there are none.
  Storage storage(const std::string& tensor, const ComponentChanges& changes) const;
  std::int64_t rank(const std::string& tensor, const ComponentChanges& changes) const;
  std::string storage_key(const ComponentChanges& changes) const;

  // From now on weights are read with these changes, instead of those before. What was packed of tensors that differ in them goes:
  // of what stays beside, the factors alone.
  void change(const ComponentChanges& changes);

  // What the plans need and is not there yet. A cancelled or failed load leaves what was there before.
  using LoadProgress = std::function<void(std::size_t done, std::size_t total)>;  // bytes as they are stored, of a plan
  void load(std::span<const Plan* const> plans, const std::atomic<bool>* cancel, const LoadProgress& progress);
  // In the place of that: what the plans need comes and goes block by block while they run.
  void stream(std::vector<const Plan*> plans, const Streaming& how) { store_.stream(std::move(plans), how); }
  std::int64_t stored_bytes() const { return source_.stored_bytes(); }  // of its files
  std::uint64_t bytes_loaded() const { return bytes_loaded_; }          // packed, since the beginning

  // Elements [begin, begin + count) of a tensor, as f32.
  void read(const std::string& tensor, std::int64_t begin, std::int64_t count, float* out) const;

 private:
  bool stays_stored(const WeightReader& weight) const;
  WeightPtr weight(const std::string& name) const;  // of a tensor, or a factor of what stays beside one

  Platform& platform_;
  ComponentWeights source_;
  ComponentChanges changes_;
  WeightStore store_;
  std::uint64_t bytes_loaded_ = 0;
};

}  // namespace zoe
