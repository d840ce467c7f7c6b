// Checkpoints of any size that take no room on disk: real headers, and data that is a hole in the file (reads as zeros).
// Made from a list of keys with one line per tensor: `blocks.0.attn1.to_q.weight F32 1536x1536`.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/shape.h"
#include "testing/write_safetensors.h"

namespace zoe::testing {

struct ListedTensor {
  std::string name, dtype;
  Shape shape;

  std::uint64_t size_bytes() const {
    return static_cast<std::uint64_t>(shape.count()) * (dtype == "F32" ? 4 : 2);  // lists hold F32, BF16 and F16
  }
};

inline std::vector<ListedTensor> read_checkpoint_list(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot open " + path.string());
  std::vector<ListedTensor> out;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line.starts_with('#')) continue;
    std::istringstream words(line);
    ListedTensor tensor;
    std::string extents;
    if (!(words >> tensor.name >> tensor.dtype >> extents)) throw std::runtime_error("bad line in " + path.string() + ": " + line);
    std::replace(extents.begin(), extents.end(), 'x', ' ');
    std::istringstream numbers(extents);
    std::vector<std::int64_t> dims;
    for (std::int64_t extent; numbers >> extent;) dims.push_back(extent);
    tensor.shape = Shape(std::move(dims));
    out.push_back(std::move(tensor));
  }
  return out;
}

inline void write_sparse_safetensors(const std::filesystem::path& path, const std::vector<ListedTensor>& tensors) {
  std::string header = "{";
  std::uint64_t offset = 0;
  for (const ListedTensor& tensor : tensors) {
    if (header.size() > 1) header += ",";
    header += header_entry(tensor.name, tensor.dtype, tensor.shape, offset, offset + tensor.size_bytes());
    offset += tensor.size_bytes();
  }
  const std::string bytes = safetensors_bytes(header + "}", "");
  write_bytes(path, bytes);
  std::filesystem::resize_file(path, bytes.size() + offset);
}

// Writes `folder`/`stem`.safetensors, or, with several shards, `stem`-00001-of-0000N.safetensors and `stem`.safetensors.index.json.
// `stem` is "diffusion_pytorch_model" (Diffusers) or "model" (Transformers).
inline void write_sparse_checkpoint(const std::filesystem::path& folder, const std::string& stem,
                                    const std::vector<ListedTensor>& tensors, std::size_t shard_count = 1) {
  std::filesystem::create_directories(folder);
  if (shard_count == 1) return write_sparse_safetensors(folder / (stem + ".safetensors"), tensors);
  const auto five_digits = [](std::size_t number) {
    const std::string digits = std::to_string(number);
    return std::string(5 - digits.size(), '0') + digits;
  };
  std::string index = R"({"metadata":{},"weight_map":{)";
  for (std::size_t shard = 0; shard < shard_count; ++shard) {
    const std::string name = stem + "-" + five_digits(shard + 1) + "-of-" + five_digits(shard_count) + ".safetensors";
    const auto at = [&](std::size_t i) { return tensors.begin() + static_cast<std::ptrdiff_t>(tensors.size() * i / shard_count); };
    const std::vector<ListedTensor> part(at(shard), at(shard + 1));
    write_sparse_safetensors(folder / name, part);
    for (const ListedTensor& tensor : part) {
      if (!index.ends_with('{')) index += ",";
      index += "\"" + tensor.name + "\":\"" + name + "\"";
    }
  }
  write_bytes(folder / (stem + ".safetensors.index.json"), index + "}}");
}

}  // namespace zoe::testing
