// Small GGUF files for tests.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "checkpoint/checkpoint.h"
#include "testing/write_safetensors.h"

namespace zoe::testing {

// Version 3, with texts as metadata, and `others`, whose values are put as they are behind their keys, types in front. Types of
// tensors are those that safetensors files name, and Q8_0.
inline void write_gguf(const std::filesystem::path& path, const std::vector<TensorToWrite>& tensors,
                       const std::map<std::string, std::string>& metadata = {{"general.architecture", "wan"}},
                       const std::map<std::string, std::string>& others = {}) {
  constexpr std::size_t kAlignment = 32;
  std::string out = "GGUF";
  const auto number = [](std::string& to, auto value) { to.append(reinterpret_cast<const char*>(&value), sizeof value); };
  const auto text = [&](std::string& to, const std::string& value) {
    number(to, std::uint64_t{value.size()});
    to += value;
  };
  number(out, std::uint32_t{3});
  number(out, std::uint64_t{tensors.size()});
  number(out, std::uint64_t{metadata.size() + others.size()});
  for (const auto& [key, value] : metadata) {
    text(out, key);
    number(out, std::uint32_t{8});
    text(out, value);
  }
  for (const auto& [key, value] : others) {
    text(out, key);
    out += value;
  }
  const std::map<std::string, std::uint32_t> types{{"F32", 0}, {"F16", 1}, {"Q8_0", 8}, {"BF16", 30}};
  std::string data;
  for (const TensorToWrite& tensor : tensors) {
    text(out, tensor.name);
    number(out, static_cast<std::uint32_t>(tensor.shape.rank()));
    for (int i = tensor.shape.rank(); i-- > 0;) number(out, static_cast<std::uint64_t>(tensor.shape.dim(i)));
    number(out, types.at(tensor.dtype));
    number(out, std::uint64_t{data.size()});
    data += tensor.bytes;
    data.resize((data.size() + kAlignment - 1) / kAlignment * kAlignment);
  }
  out.resize((out.size() + kAlignment - 1) / kAlignment * kAlignment);
  write_bytes(path, out + data);
}

// Blocks of 32: an f16 scale, the largest magnitude over 127, and as many int8.
inline std::string q8_0_bytes(const std::vector<float>& values) {
  std::string bytes;
  for (std::size_t i = 0; i < values.size(); i += 32) {
    float most = 0;
    for (std::size_t k = i; k < i + 32; ++k) most = std::max(most, std::abs(values[k]));
    const std::uint16_t scale = f32_to_f16(most / 127);
    bytes.append(reinterpret_cast<const char*>(&scale), sizeof scale);
    for (std::size_t k = i; k < i + 32; ++k) bytes.push_back(static_cast<char>(most > 0 ? std::lround(values[k] / most * 127) : 0));
  }
  return bytes;
}

// Matrices whose rows are whole blocks as Q8_0, all else as F32.
inline void write_q8_0(const Checkpoint& from, const std::filesystem::path& path) {
  std::vector<TensorToWrite> tensors;
  for (const TensorEntry& tensor : from.tensors()) {
    std::vector<float> values(static_cast<std::size_t>(tensor.shape.count()));
    weight_of(tensor, "test")->read(0, tensor.shape.count(), DType::f32, values.data());
    const bool is_matrix = tensor.shape.rank() == 2 && tensor.shape.dim(1) % 32 == 0;
    tensors.push_back(
        {tensor.name, is_matrix ? "Q8_0" : "F32", tensor.shape,
         is_matrix ? q8_0_bytes(values) : std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4)});
  }
  write_gguf(path, tensors, {});
}

}  // namespace zoe::testing
