// The tensors of real files, to be written again in other ways.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "testing/write_safetensors.h"

namespace zoe::testing {

inline std::vector<TensorToWrite> stored_tensors(const std::filesystem::path& path) {
  std::vector<TensorToWrite> out;
  const Checkpoint file(path);
  for (const TensorEntry& tensor : file.tensors())
    out.push_back({tensor.name,
                   std::string(tensor.dtype()),
                   tensor.shape,
                   {reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()}});
  return out;
}

// Behind a prefix, as `names` says that files call what the model has; names without a rule are an error.
inline std::vector<TensorToWrite> renamed(std::vector<TensorToWrite> tensors, const NameMap& names,
                                          const std::string& prefix = {}) {
  for (TensorToWrite& tensor : tensors) tensor.name = prefix + names.stored_of(tensor.name).value().key;
  return tensors;
}

}  // namespace zoe::testing
