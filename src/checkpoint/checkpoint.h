// The weights of one model part: a folder with one safetensors file or with shards and their index, all mapped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/files.h"
#include "checkpoint/safetensors.h"

namespace zoe {

// Which file is read when a folder has several is what Diffusers and Transformers do, in this order:
//   diffusion_pytorch_model.safetensors.index.json, diffusion_pytorch_model.safetensors,
//   model.safetensors, model.safetensors.index.json
// Other files, such as variants (model.fp16.safetensors), are not looked at. The path may also be one .safetensors file.
//
// Errors (invalid_argument or io) name the file: nothing to read, a broken file, shard names that are no plain file names
// (a shard may be a link, as in the Hugging Face cache), missing shards, and an index and shards that disagree on any tensor.
class Checkpoint {
 public:
  explicit Checkpoint(const std::filesystem::path& path);            // named by the last part of the path
  Checkpoint(const std::filesystem::path& path, std::string where);  // `where` names it in errors: "transformer"

  const std::string& where() const { return where_; }
  const std::vector<TensorEntry>& tensors() const { return tensors_; }  // sorted by name; valid while the Checkpoint lives
  const TensorEntry* find(std::string_view name) const;                 // null if there is none
  const std::vector<std::string>& file_names() const { return file_names_; }
  std::int64_t size_bytes() const;       // of all tensors
  std::int64_t parameter_count() const;  // elements of all tensors

 private:
  void add_file(const std::filesystem::path& path, std::string_view where);

  std::string where_;
  std::vector<std::string> file_names_;
  std::vector<MappedFile> files_;
  std::vector<TensorEntry> tensors_;
};

struct ExpectedTensor {
  std::string name;
  Shape shape;
};

// A second name under which an expected tensor may be stored, instead of its own or beside it.
struct TensorAlias {
  std::string name, alias;
};

// The entries of `expected`, in its order, if the checkpoint has exactly these tensors in these shapes and weight dtypes. Else one
// error: a missing tensor with the nearest unknown name, an unknown one with the nearest missing or expected name, a wrong
// shape (all invalid_argument), or a dtype that no weight may have (unsupported), with the counts.
// Of a tensor stored under its name and its alias, both must have the shape; the entry is the one under its own name.
std::vector<const TensorEntry*> match_tensors(const Checkpoint& checkpoint, std::span<const ExpectedTensor> expected,
                                              std::span<const TensorAlias> aliases = {});

}  // namespace zoe
