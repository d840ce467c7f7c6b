// The layouts in which files hold the parts of a model: what each calls the tensors, and what its shapes tell of the part. Found
// from keys and shapes, never from file names. A new layout is a row in layouts.cpp and, with names of its own, a table beside the
// network.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/name_map.h"

namespace zoe {

// Whether a checkpoint has a key, behind the prefix of its layout.
using HasKey = std::function<bool(std::string_view key)>;

struct Layout {
  std::string_view part;                                       // "transformer", "text_encoder", "vae", "image_encoder"
  std::string_view name;                                       // "original Wan"
  std::string_view telltale;                                   // a key that every such file has, behind whatever prefix
  std::shared_ptr<const NameMap> (*names)(const HasKey& has);  // null: those of the model
};

struct FoundLayout {
  const Layout* layout;
  KeyMap keys;
};

// What a checkpoint holds: one for each part and naming, in the order of the table; empty if nothing is known. Most hold one;
// single files of ComfyUI may hold all parts, each behind a prefix of its own.
std::vector<FoundLayout> find_layouts(const Checkpoint& checkpoint);

// What a checkpoint calls the tensors of a part: as find_layouts says, else as the model does. Error (invalid_argument) if it holds
// the part twice, in two namings or behind two prefixes.
KeyMap keys_of_part(const Checkpoint& checkpoint, std::string_view part);

// The configuration of a part, as config.json of Diffusers or Transformers would have it.
struct FoundConfig {
  JsonObject json;
  std::string assumed;  // what shapes do not tell and was taken by default: "heads of 128, eps 1e-6"; empty: nothing
};
// As the shapes tell, and Wan's own config.json (is_original_config) what they do not, where there is one.
FoundConfig infer_config(const Checkpoint& checkpoint, const FoundLayout& found, const JsonObject* original = nullptr);

// Whether a configuration is of the part at all, in Diffusers', Transformers' or, of a transformer, Wan's own words (dim, in_dim).
bool is_config_of(const JsonObject& json, std::string_view part);
bool is_original_config(const JsonObject& json);

}  // namespace zoe
