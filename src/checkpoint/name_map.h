// How one naming of a network's tensors becomes another: a table of rules on whole dotted words, read in both directions.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace zoe {

// "blocks.*.self_attn.q" is called "blocks.*.attn1.to_q". A star is a number, the same ones on both sides in their order. What
// follows the words of a rule (".weight", ".lora_A.weight", nothing) is kept.
struct NameRule {
  std::string stored, name;
  int part = 0, parts = 1;  // `name` is this of so many equal pieces of the stored tensor's rows
};

class NameMap {
 public:
  explicit NameMap(std::vector<NameRule> rules) : rules_(std::move(rules)) {}

  // Both by the rule of most words that fits; none if none does.
  struct Stored {
    std::string key;
    const NameRule* rule;
  };
  std::optional<Stored> stored_of(std::string_view name) const;
  // The names that the tensor has or is split into, in the order of the rules; empty if no rule fits.
  std::vector<std::string> names_of(std::string_view stored) const;

  const std::vector<NameRule>& rules() const { return rules_; }

 private:
  std::vector<NameRule> rules_;
};

// What a component's tensors are called in a checkpoint.
struct KeyMap {
  std::string prefix = {};                    // in front of every key: "model.diffusion_model."
  std::shared_ptr<const NameMap> names = {};  // null: as the model calls them

  // Where the model's tensor is; none if the naming has no word for it.
  struct Stored {
    std::string key;
    int part, parts;  // it is this of so many equal pieces of its rows
  };
  std::optional<Stored> stored_of(std::string_view name) const;
};

}  // namespace zoe
