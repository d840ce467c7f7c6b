#include "checkpoint/tensor_file.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/encoding.h"

namespace zoe {

namespace {

constexpr std::size_t kSafetensorsAlignment = 8, kGgufAlignment = 32;

struct GgufType {
  std::string_view name;
  std::uint32_t number, file_type;  // of a tensor; of a file that is mostly of this type
};
constexpr GgufType kGgufTypes[] = {{"F32", 0, 0},  {"F16", 1, 1},    {"Q4_0", 2, 2},   {"Q5_0", 6, 8},
                                   {"Q8_0", 8, 7}, {"Q4_K", 12, 14}, {"Q6_K", 14, 18}, {"BF16", 30, 32}};

const GgufType& gguf_type(std::string_view name) {
  for (const GgufType& type : kGgufTypes)
    if (type.name == name) return type;
  fail(ErrorKind::internal, "convert", "no type {} in GGUF files.", name);
}

template <class T>
void append(std::string& out, T value) {
  static_assert(std::endian::native == std::endian::little);
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}
void append_text(std::string& out, std::string_view text) {
  append<std::uint64_t>(out, text.size());
  out.append(text);
}

std::string safetensors_header(const std::vector<TensorToStore>& tensors, const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header;
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::size_t end = 0;
  for (const TensorToStore& tensor : tensors) {
    const std::size_t begin = std::exchange(end, end + tensor.size_bytes);
    header[tensor.name] = {{"dtype", tensor.type}, {"shape", tensor.shape.dims()}, {"data_offsets", {begin, end}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + kSafetensorsAlignment - 1) / kSafetensorsAlignment * kSafetensorsAlignment, ' ');
  std::string out;
  append<std::uint64_t>(out, text.size());
  return out + text;
}

std::string gguf_header(const std::vector<TensorToStore>& tensors, const std::map<std::string, std::string>& metadata) {
  constexpr std::uint32_t kVersion = 3, kQuantizationVersion = 2, kOfU32 = 4, kOfText = 8;
  std::map<std::uint32_t, std::size_t> sizes;  // by file type: that of most bytes is the file's
  for (const TensorToStore& tensor : tensors) sizes[gguf_type(tensor.type).file_type] += tensor.size_bytes;
  std::uint32_t file_type = 0;
  for (const auto& [type, size] : sizes)
    if (size > sizes[file_type]) file_type = type;
  std::string out = "GGUF";
  append(out, kVersion);
  append<std::uint64_t>(out, tensors.size());
  append<std::uint64_t>(out, metadata.size() + 2);
  for (const auto& [key, value] : metadata) {
    append_text(out, key);
    append(out, kOfText);
    append_text(out, value);
  }
  for (const auto& [key, value] : {std::pair<std::string_view, std::uint32_t>{"general.quantization_version", kQuantizationVersion},
                                   {"general.file_type", file_type}}) {
    append_text(out, key);
    append(out, kOfU32);
    append(out, value);
  }
  std::size_t offset = 0;
  for (const TensorToStore& tensor : tensors) {
    append_text(out, tensor.name);
    append(out, static_cast<std::uint32_t>(tensor.shape.rank()));
    for (int axis = tensor.shape.rank(); axis-- > 0;)
      append<std::uint64_t>(out, static_cast<std::uint64_t>(tensor.shape.dim(axis)));
    append(out, gguf_type(tensor.type).number);
    append<std::uint64_t>(out, offset);
    offset += (tensor.size_bytes + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment;
  }
  out.resize((out.size() + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment);
  return out;
}

}  // namespace

bool TensorFile::has_type(Format format, std::string_view type) {
  if (format == Format::safetensors) return safetensors_encoding(type) != nullptr;
  return std::any_of(std::begin(kGgufTypes), std::end(kGgufTypes), [&](const GgufType& each) { return each.name == type; });
}

TensorFile::TensorFile(const std::filesystem::path& path, Format format, std::vector<TensorToStore> tensors,
                       const std::map<std::string, std::string>& metadata)
    : path_(path), format_(format), tensors_(std::move(tensors)), file_(std::fopen(path.c_str(), "wb"), std::fclose) {
  const int failure = errno;
  check(file_ != nullptr, ErrorKind::io, "convert", "cannot write {}: {}.", path.string(), std::strerror(failure));
  const std::string header = format == Format::gguf ? gguf_header(tensors_, metadata) : safetensors_header(tensors_, metadata);
  put(header.data(), header.size());
}

void TensorFile::put(const void* bytes, std::size_t count) {
  const std::size_t written = std::fwrite(bytes, 1, count, file_.get());
  const int failure = errno;
  check(written == count, ErrorKind::io, "convert", "cannot write {}: {}. Free some space, or choose another place.",
        path_.string(), std::strerror(failure));
  position_ += count;
}

void TensorFile::pad(std::size_t alignment) {
  const std::array<std::byte, kGgufAlignment> zeros{};
  put(zeros.data(), (alignment - position_ % alignment) % alignment);
}

void TensorFile::write(std::span<const std::byte> bytes) {
  while (next_ < tensors_.size() && tensors_[next_].size_bytes == 0) ++next_;
  ZOE_INTERNAL_CHECK(next_ < tensors_.size() && bytes.size() <= tensors_[next_].size_bytes - of_tensor_);
  put(bytes.data(), bytes.size());
  of_tensor_ += bytes.size();
  if (of_tensor_ < tensors_[next_].size_bytes) return;
  if (format_ == Format::gguf) pad(kGgufAlignment);
  ++next_;
  of_tensor_ = 0;
}

void TensorFile::close() {
  while (next_ < tensors_.size() && tensors_[next_].size_bytes == 0) ++next_;
  ZOE_INTERNAL_CHECK(next_ == tensors_.size());
  // On the disk before a folder that it lies in gets its name.
  const int synced = std::fflush(file_.get()) == 0 ? ::fsync(::fileno(file_.get())) : -1;
  const int status = std::fclose(file_.release()) == 0 ? synced : -1;
  const int failure = errno;
  check(status == 0, ErrorKind::io, "convert", "cannot write {}: {}. Free some space, or choose another place.", path_.string(),
        std::strerror(failure));
}

}  // namespace zoe
