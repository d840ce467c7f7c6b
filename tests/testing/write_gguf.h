// GGUF files for tests, written from the tensors of other files.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "checkpoint/checkpoint.h"
#include "testing/write_safetensors.h"

namespace zoe::testing {

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
  constexpr std::uint64_t kAlignment = 32;
  std::string head = "GGUF", data;
  const auto number = [&](auto value) { head.append(reinterpret_cast<const char*>(&value), sizeof value); };
  number(std::uint32_t{3});
  number(static_cast<std::uint64_t>(from.tensors().size()));
  number(std::uint64_t{0});
  for (const TensorEntry& tensor : from.tensors()) {
    std::vector<float> values(static_cast<std::size_t>(tensor.shape.count()));
    weight_of(tensor, "test")->read(0, tensor.shape.count(), DType::f32, values.data());
    const bool is_matrix = tensor.shape.rank() == 2 && tensor.shape.dim(1) % 32 == 0;
    number(static_cast<std::uint64_t>(tensor.name.size()));
    head += tensor.name;
    number(static_cast<std::uint32_t>(tensor.shape.rank()));
    for (int axis = tensor.shape.rank(); axis-- > 0;) number(static_cast<std::uint64_t>(tensor.shape.dim(axis)));
    number(std::uint32_t{is_matrix ? 8u : 0u});
    number(static_cast<std::uint64_t>(data.size()));
    data += is_matrix ? q8_0_bytes(values) : std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4);
    data.resize((data.size() + kAlignment - 1) / kAlignment * kAlignment);
  }
  head.resize((head.size() + kAlignment - 1) / kAlignment * kAlignment);
  write_bytes(path, head + data);
}

}  // namespace zoe::testing
