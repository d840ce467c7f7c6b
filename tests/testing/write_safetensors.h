// Small safetensors files for tests, right and wrong ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "base/shape.h"

namespace zoe::testing {

struct TensorToWrite {
  std::string name, dtype;
  Shape shape;
  std::string bytes;
};

// Length, header and data put together as they are given: nothing is checked.
inline std::string safetensors_bytes(std::string_view header, std::string_view data) {
  const std::uint64_t length = header.size();
  std::string out(sizeof length, '\0');
  std::memcpy(out.data(), &length, sizeof length);
  return out.append(header).append(data);
}

inline std::string header_entry(const std::string& name, const std::string& dtype, const Shape& shape, std::uint64_t begin,
                                std::uint64_t end) {
  return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape.str() + R"(,"data_offsets":[)" + std::to_string(begin) +
         "," + std::to_string(end) + "]}";
}

inline std::string safetensors_bytes(const std::vector<TensorToWrite>& tensors) {
  std::string header = "{", data;
  for (const TensorToWrite& tensor : tensors) {
    if (header.size() > 1) header += ",";
    header += header_entry(tensor.name, tensor.dtype, tensor.shape, data.size(), data.size() + tensor.bytes.size());
    data += tensor.bytes;
  }
  return safetensors_bytes(header + "}", data);
}

inline void write_bytes(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline void write_safetensors(const std::filesystem::path& path, const std::vector<TensorToWrite>& tensors) {
  write_bytes(path, safetensors_bytes(tensors));
}

}  // namespace zoe::testing
