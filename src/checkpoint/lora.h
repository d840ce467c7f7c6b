// LoRA files in every layout that Wan's have: which tensor of a model a key means, and what is done to it.
//
//   const LoraFile file("style.safetensors");
//   const LoraFit fit = file.fit("transformer", tensors, original_names, 0.8);
//   const WeightPtr weight = changed(stored, fit.changes, "blocks.0.attn1.to_q.weight");
//
// W' = W + strength * alpha/r * up @ down for LoRA proper (lora_A/lora_B, lora_down/lora_up), with DoRA's magnitudes where they
// are, LoHa, LoKr, and whole differences (.diff, .diff_b, .diff_m) and values (.set_weight). docs/loras.md has the table.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/weight_reader.h"
#include "checkpoint/changed_weight.h"
#include "checkpoint/expected.h"
#include "checkpoint/safetensors.h"

namespace zoe {

// What one file does to one tensor. Equal if file and strength are: then the bits are.
struct WeightChange {
  std::shared_ptr<const void> file;  // which opened file it is
  double strength;
  std::function<WeightPtr(WeightPtr base)> apply;
  std::vector<LowRankChange> low_rank;  // what it adds, if that is all it does; else nothing
  friend bool operator==(const WeightChange& a, const WeightChange& b) { return a.file == b.file && a.strength == b.strength; }
};
using WeightChanges = std::map<std::string, std::vector<WeightChange>, std::less<>>;  // by tensor, in the order they are applied

// The tensor `name` with its changes. A reader for one load: see changed_weight.h.
WeightPtr changed(WeightPtr base, const WeightChanges& changes, std::string_view name);

struct LoraFit {
  WeightChanges changes;
  std::vector<std::string> unknown;  // keys that mean nothing in this model, sorted
  std::string nearest;               // to the first of these, of what the model has; may be empty
};

class LoraFile {
 public:
  // safetensors, or of torch.save; a folder that has the one or the other under the name that Diffusers or PEFT gives it. Errors
  // (invalid_argument, io) as of Checkpoint; also where no key is that of a LoRA.
  explicit LoraFile(const std::filesystem::path& path);

  const std::string& name() const { return name_; }  // the file's, which errors begin with
  std::size_t key_count() const { return tensors_.size(); }

  // What the file changes in a component with these tensors, which may also go by these names. Prefixes, dots or underscores, and
  // the name of an adapter within a key do not matter. Errors are invalid_argument and name the key: a wrong shape (a LoRA for
  // another size of the model), half a pair, two keys for one thing, an alpha that is no finite number; unsupported: Tucker factors
  // of convolutions (lora_mid, hada_t1, lokr_t2).
  LoraFit fit(std::string_view component, std::span<const ExpectedTensor> tensors, std::span<const TensorAlias> other_names,
              double strength) const;

 private:
  struct Alphas;  // of the file's metadata
  class Fitting;

  std::string name_;
  std::vector<TensorEntry> tensors_;  // sorted by name
  std::shared_ptr<const Alphas> alphas_;
};

}  // namespace zoe
