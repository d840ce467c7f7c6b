// Files of weights, written front to back: safetensors and GGUF. What is in one is said first, then the bytes come in that order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/shape.h"

namespace zoe {

struct TensorToStore {
  std::string name;
  std::string type;  // as safetensors calls it: "BF16"; of GGUF: "Q4_K"
  Shape shape;
  std::size_t size_bytes;
};

class TensorFile {
 public:
  enum class Format : std::uint8_t { safetensors, gguf };
  static bool has_type(Format format, std::string_view type);  // whether such a file can be written with it
  // Writes what stands in front of the first tensor's bytes into `path`, which exists (a PendingOutput's). Metadata is text; of
  // GGUF it has a "general.architecture". io errors where the system refuses.
  TensorFile(const std::filesystem::path& path, Format format, std::vector<TensorToStore> tensors,
             const std::map<std::string, std::string>& metadata);
  // The next bytes of the tensors, in their order; a tensor's may come in pieces, which end where it ends.
  void write(std::span<const std::byte> bytes);
  // Everything must have been written.
  void close();

 private:
  void put(const void* bytes, std::size_t count);
  void pad(std::size_t alignment);

  std::filesystem::path path_;
  Format format_;
  std::vector<TensorToStore> tensors_;
  std::size_t next_ = 0, of_tensor_ = 0, position_ = 0;  // tensor, bytes of it, bytes of the file
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
};

}  // namespace zoe
