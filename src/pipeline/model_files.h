// A model from the files that people have: a folder or a single file of any layout, parts from elsewhere in its place or beside it,
// and a ComfyUI models tree to look in for what is missing.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "pipeline/model.h"

namespace zoe {

// Paths of files or folders; empty: not said.
struct ModelFiles {
  // A folder or a file of any layout, "random:MEMBER[:SEED]", or "": the embedded model, if nothing else is said.
  std::string model_path = {};
  std::string transformer = {}, transformer_2 = {}, vae = {}, text_encoder = {}, image_encoder = {}, tokenizer = {};
  std::string models_dir = {};

  bool operator==(const ModelFiles&) const = default;
};

// What can be said beside --model-path, in the order of the help.
struct FileOption {
  std::string_view name;  // a_b, as fields of requests are called: --a-b for the command
  std::string ModelFiles::*slot;
  std::string_view part;                  // "" for a tree that holds several
  std::string_view what;                  // "a VAE"
  std::vector<std::string_view> folders;  // of a ComfyUI models tree, where it is looked for
  std::string_view help;
};
std::span<const FileOption> file_options();

// Reads and checks every configuration, and that the parts belong together. A part that is said replaces the model's own; one that
// nothing gives is looked for in models_dir, where it must be the only one that fits. What was found, and what was taken by default
// where files do not say it, is told in notices.
// Errors (invalid_argument): a file that does not hold the part it is given for, two files for one part, and what is missing to
// run, with the options that give it; `where` is how errors call model_path.
ModelConfig read_model(const ModelFiles& files, std::string_view where = "--model-path");

// The configuration of one of a model's parts that is a file, or a folder of any layout: config.json beside it, else the
// metadata's, else as the shapes tell, which a notice says.
JsonObject config_of_part(const ModelConfig& model, const std::string& part);

bool is_weights_file(const std::filesystem::path& path);  // a file by its extension: .safetensors, .gguf, .pth, ...

// What a file or a folder without model_index.json holds, by keys and shapes.
struct HeldPart {
  std::string part, layout, prefix;  // of the keys
  std::filesystem::path path;
};
struct HeldParts {
  std::vector<HeldPart> parts;
  std::filesystem::path tokenizer;   // empty: none
  std::vector<std::string> unknown;  // files of weights of which nothing is known, with why
};
HeldParts look_into(const std::filesystem::path& path);

}  // namespace zoe
