// Small files of torch.save for tests: a zip archive of stored entries, with a pickle of a flat dict of tensors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "testing/write_safetensors.h"

namespace zoe::testing {

// Without checksums, which the reader does not look at.
inline std::string zip_bytes(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::string out, directory;
  const auto number = [](std::string& to, auto value) { to.append(reinterpret_cast<const char*>(&value), sizeof value); };
  for (const auto& [name, bytes] : entries) {
    const auto offset = static_cast<std::uint32_t>(out.size()), size = static_cast<std::uint32_t>(bytes.size());
    const auto head = [&](std::string& to) {
      for (const int field : {20, 0, 0, 0, 0}) number(to, static_cast<std::uint16_t>(field));
      for (const std::uint32_t field : {std::uint32_t{0}, size, size}) number(to, field);
      number(to, static_cast<std::uint16_t>(name.size()));
      number(to, std::uint16_t{0});
    };
    number(out, std::uint32_t{0x04034b50});
    head(out);
    out += name + bytes;
    number(directory, std::uint32_t{0x02014b50});
    number(directory, std::uint16_t{20});
    head(directory);
    for (int i = 0; i < 3; ++i) number(directory, std::uint16_t{0});
    number(directory, std::uint32_t{0});
    number(directory, offset);
    directory += name;
  }
  const auto begin = static_cast<std::uint32_t>(out.size());
  out += directory;
  number(out, std::uint32_t{0x06054b50});
  for (const std::size_t field : {std::size_t{0}, std::size_t{0}, entries.size(), entries.size()})
    number(out, static_cast<std::uint16_t>(field));
  number(out, static_cast<std::uint32_t>(directory.size()));
  number(out, begin);
  number(out, std::uint16_t{0});
  return out;
}

inline void write_pytorch(const std::filesystem::path& path, const std::vector<TensorToWrite>& tensors) {
  const auto number = [](std::string& to, auto value) { to.append(reinterpret_cast<const char*>(&value), sizeof value); };
  const auto text = [&](std::string& to, const std::string& value) {
    to += 'X';
    number(to, static_cast<std::uint32_t>(value.size()));
    to += value;
  };
  const auto integer = [&](std::string& to, std::int64_t value) {
    to += "\x8a\x08";
    number(to, value);
  };
  const std::map<std::string, std::string> storages{{"F32", "FloatStorage"}, {"BF16", "BFloat16Storage"}, {"F16", "HalfStorage"}};
  std::string pickle = "\x80\x02}(";
  std::vector<std::pair<std::string, std::string>> entries;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorToWrite& tensor = tensors[i];
    text(pickle, tensor.name);
    pickle += "ctorch._utils\n_rebuild_tensor_v2\n((";
    text(pickle, "storage");
    pickle += "ctorch\n" + storages.at(tensor.dtype) + "\n";
    text(pickle, std::to_string(i));
    text(pickle, "cpu");
    integer(pickle, tensor.shape.count());
    pickle += "tQ";
    integer(pickle, 0);
    std::int64_t stride = tensor.shape.count();
    std::string strides;
    pickle += '(';
    for (const std::int64_t extent : tensor.shape.dims()) {
      integer(pickle, extent);
      stride /= extent;
      integer(strides, stride);
    }
    pickle += "t(" + strides + "t\x89}tR";
    entries.emplace_back("archive/data/" + std::to_string(i), tensor.bytes);
  }
  pickle += "u.";
  entries.insert(entries.begin(), {"archive/data.pkl", pickle});
  write_bytes(path, zip_bytes(entries));
}

}  // namespace zoe::testing
