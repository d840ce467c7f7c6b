// Small GGUF files for tests.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "testing/write_safetensors.h"

namespace zoe::testing {

// Version 3, with texts as metadata. Types are those that safetensors files name, and Q8_0.
inline void write_gguf(const std::filesystem::path& path, const std::vector<TensorToWrite>& tensors,
                       const std::map<std::string, std::string>& metadata = {{"general.architecture", "wan"}}) {
  constexpr std::size_t kAlignment = 32;
  std::string out = "GGUF";
  const auto number = [](std::string& to, auto value) { to.append(reinterpret_cast<const char*>(&value), sizeof value); };
  const auto text = [&](std::string& to, const std::string& value) {
    number(to, std::uint64_t{value.size()});
    to += value;
  };
  number(out, std::uint32_t{3});
  number(out, std::uint64_t{tensors.size()});
  number(out, std::uint64_t{metadata.size()});
  for (const auto& [key, value] : metadata) {
    text(out, key);
    number(out, std::uint32_t{8});
    text(out, value);
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

}  // namespace zoe::testing
