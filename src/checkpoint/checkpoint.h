// The files of one model component: a folder with one safetensors file or with shards and their index, all mapped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/expected.h"
#include "checkpoint/name_map.h"
#include "checkpoint/safetensors.h"

namespace zoe {

// Which file is read when a folder has several is what Diffusers and Transformers do, in this order:
//   diffusion_pytorch_model.safetensors.index.json, diffusion_pytorch_model.safetensors,
//   model.safetensors, model.safetensors.index.json
// Where there is none of them, the one variant that there is (model.fp16.safetensors, ...), else the one file of weights of any
// kind, with a notice. The path may also be one file, safetensors, GGUF or of torch.save, told by its first bytes. Tensors of
// scales are part of the tensors they belong to (scaling.h).
//
// Errors (invalid_argument or io) name the file: nothing to read, a broken file, shard names that are no plain file names
// (a shard may be a link, as in the Hugging Face cache), missing shards, and an index and shards that disagree on any tensor;
// several variants; a Git LFS pointer in the place of weights.
class Checkpoint {
 public:
  explicit Checkpoint(const std::filesystem::path& path);            // named by the last part of the path
  Checkpoint(const std::filesystem::path& path, std::string where);  // `where` names it in errors: "transformer"

  const std::string& where() const { return where_; }
  const std::vector<TensorEntry>& tensors() const { return tensors_; }  // sorted by name; valid while the Checkpoint lives
  const TensorEntry* find(std::string_view name) const;                 // null if there is none
  const std::vector<std::string>& file_names() const { return file_names_; }
  const std::map<std::string, std::string>& metadata() const {
    return metadata_;
  }  // of its files, as text; of the first that has it
  // The tokenizer that it may hold beside the weights, as the bytes of a spiece.model: a tensor of them, or a GGUF file's metadata.
  bool has_tokenizer() const;
  std::string sentencepiece() const;     // "" if it holds none
  std::int64_t size_bytes() const;       // of all tensors, with their scales
  std::int64_t parameter_count() const;  // elements of all tensors

 private:
  void add_file(const std::filesystem::path& path, std::string_view where);

  std::string where_;
  std::vector<std::string> file_names_;
  std::vector<TensorEntry> tensors_;
  std::map<std::string, std::string> metadata_;
};

// A tensor of a checkpoint, or some of its rows, that is one of a model's.
struct MatchedTensor {
  const TensorEntry* entry = nullptr;
  int part = 0, parts = 1;  // this of so many equal pieces of its rows

  const TensorEntry* operator->() const { return entry; }
  const TensorEntry& operator*() const { return *entry; }
};

// The entries of `expected`, in its order, if the checkpoint has these tensors in these shapes and in types that weights have. Else
// one error: a missing tensor with the nearest unknown name, an unknown one with the nearest expected name, a wrong shape (all
// invalid_argument), or a type that no weight has (unsupported), with the counts.
// What a model would never look for is passed over with a notice: a tensor whose first word ("lm_head" of lm_head.weight) begins
// no expected name. One that could belong to the model (another layer, another kind of attention) is an error.
// Of a tensor stored under its name and its alias, both must have the shape; which one is read TensorAlias says. A notice tells
// where they differ.
// `keys` says what the files call the tensors, and so do errors then. Files with names of their own may also write a shape in other
// words: with extents of 1 more or fewer, or with neighbours multiplied ([5120,64] of a kernel [5120,16,1,2,2]).
std::vector<MatchedTensor> match_tensors(const Checkpoint& checkpoint, std::span<const ExpectedTensor> expected,
                                         std::span<const TensorAlias> aliases = {}, const KeyMap& keys = {});

// A tensor of bytes in some files of text encoders: the tokenizer, a spiece.model. No part of the network.
inline constexpr std::string_view kTokenizerTensor = "spiece_model";

// A checkpoint by the names that a model has for its tensors.
struct NamedTensors {
  const Checkpoint& checkpoint;
  const KeyMap& keys;

  const TensorEntry* find(std::string_view name) const;  // null if there is none
  const TensorEntry& at(std::string_view name) const;    // invalid_argument error that says what the file should call it
};

// The weight of a matched tensor, in the shape that the model has for it.
WeightPtr weight_of(const MatchedTensor& tensor, const Shape& shape, std::string_view where);

// A folder of the Hugging Face cache (models--OWNER--NAME) keeps the files in a folder a revision, snapshots/HASH: that of its
// branch "main", else the only one there is. Any other path is returned as it is. Error (invalid_argument) if it cannot be told
// which.
std::filesystem::path resolve_snapshot(const std::filesystem::path& path);

}  // namespace zoe
