#include "checkpoint/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/json.h"
#include "base/nearest.h"
#include "checkpoint/scaling.h"

namespace zoe {

bool extents_fit(std::span<const std::int64_t> extents, std::int64_t most) {
  for (const std::int64_t extent : extents)
    if (extent > 0) most /= extent;
  return most > 0;
}

namespace {

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr std::size_t kMaxTensors = 100'000;
constexpr std::size_t kMaxRank = 8;

// One tensor of the header; `data` is everything behind the header.
TensorEntry read_entry(const JsonObject& header, const std::string& name, std::span<const std::byte> data) {
  const JsonObject fields = header.object(name);
  const std::string& where = header.where();
  const std::string shown = in_quotes(name);

  const std::string dtype_name = fields.string("dtype");
  const Encoding* dtype = safetensors_encoding(dtype_name);
  check(dtype, ErrorKind::invalid_argument, where,
        "bad dtype of {}: got {}, expected a safetensors type such as F32, F16 or BF16. Check the file.", shown,
        in_quotes(dtype_name));
  Shape shape(fields.integers("shape", 0, JsonObject::kMax, 0, kMaxRank));
  const auto offsets = fields.integers("data_offsets", 0, JsonObject::kMax, 2, 2);
  for (const std::string& key : fields.keys())
    check(key == "dtype" || key == "shape" || key == "data_offsets", ErrorKind::invalid_argument, where,
          "unknown field of {}: got {}, expected dtype, shape and data_offsets. Check the file.", shown, in_quotes(key));

  const auto data_bytes = static_cast<std::int64_t>(data.size());
  check(offsets[0] <= offsets[1] && offsets[1] <= data_bytes, ErrorKind::invalid_argument, where,
        "bad data_offsets of {}: got [{},{}], expected begin <= end <= {}, the bytes behind the header. Download or copy the file "
        "again.",
        shown, offsets[0], offsets[1], data_bytes);
  check(extents_fit(shape.dims(), std::numeric_limits<std::int64_t>::max() / dtype->block_bytes), ErrorKind::invalid_argument,
        where, "bad shape of {}: got {}, expected fewer than 2^63 bytes. Check the file.", shown, shape.str());
  const std::int64_t size_bytes = dtype->block_bytes * shape.count();
  check(offsets[1] - offsets[0] == size_bytes, ErrorKind::invalid_argument, where,
        "bad size of {}: got {} bytes in the file, expected {} for {} {}. Check the file.", shown, offsets[1] - offsets[0],
        size_bytes, dtype->name, shape.str());
  return {
      name, dtype, std::move(shape), data.subspan(static_cast<std::size_t>(offsets[0]), static_cast<std::size_t>(size_bytes)), {}};
}

// The tensors must cover the data exactly once.
void check_layout(const std::vector<TensorEntry>& tensors, std::span<const std::byte> data, std::string_view where) {
  std::vector<const TensorEntry*> order;
  for (const TensorEntry& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const TensorEntry* a, const TensorEntry* b) {
    return a->bytes.data() != b->bytes.data() ? a->bytes.data() < b->bytes.data() : a->bytes.size() < b->bytes.size();
  });
  std::size_t end = 0;
  for (const TensorEntry* tensor : order) {
    const auto begin = static_cast<std::size_t>(tensor->bytes.data() - data.data());
    check(begin == end, ErrorKind::invalid_argument, where,
          "{} in the data before {}: got its begin at {}, expected {}. Check the file.", begin < end ? "overlap" : "hole",
          in_quotes(tensor->name), begin, end);
    end += tensor->bytes.size();
  }
  check(end == data.size(), ErrorKind::invalid_argument, where,
        "bytes behind the last tensor: got {} bytes of data, expected {}. Check the file.", data.size(), end);
}

class StoredWeight : public WeightReader {
 public:
  explicit StoredWeight(TensorEntry tensor) : tensor_(std::move(tensor)) {}
  const Shape& shape() const override { return tensor_.shape; }
  void read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const override {
    ZOE_INTERNAL_CHECK(begin >= 0 && count >= 0 && count <= tensor_.shape.count() - begin);
    decode(*tensor_.encoding, tensor_.bytes.data(), begin, count, dtype, out);
  }
  const std::byte* dense(DType dtype) const override { return tensor_.encoding->dtype == dtype ? tensor_.bytes.data() : nullptr; }
  Storage storage() const override { return {tensor_.encoding}; }
  const std::byte* blocks() const override { return tensor_.bytes.data(); }
  std::size_t stored_bytes() const override { return tensor_.bytes.size(); }
  const void* place() const override { return tensor_.bytes.data(); }
  void read_ahead(std::int64_t begin, std::int64_t count) const override {
    if (!tensor_.file) return;
    const auto [first, bytes] = range(begin, count);
    tensor_.file->read_ahead(first, bytes);
  }
  void drop(std::int64_t begin, std::int64_t count) const override {
    if (!tensor_.file) return;
    const auto [first, bytes] = range(begin, count);
    tensor_.file->drop(first, bytes);
  }
  void fetch(std::int64_t begin, std::int64_t count) const override {
    if (!tensor_.file) return;
    const auto [first, bytes] = range(begin, count);
    tensor_.file->fetch(first, bytes);
  }

 private:
  // Where the blocks that hold some elements lie in the file.
  std::pair<std::size_t, std::size_t> range(std::int64_t begin, std::int64_t count) const {
    const std::int64_t block = tensor_.encoding->block_elements, first = begin / block, last = (begin + count + block - 1) / block;
    const auto bytes = static_cast<std::size_t>(tensor_.encoding->block_bytes);
    return {static_cast<std::size_t>(tensor_.bytes.data() - tensor_.file->bytes().data()) + static_cast<std::size_t>(first) * bytes,
            static_cast<std::size_t>(last - first) * bytes};
  }

  TensorEntry tensor_;
};

}  // namespace

Safetensors parse_safetensors(std::span<const std::byte> file, std::string_view where) {
  std::uint64_t header_bytes = 0;
  check(file.size() >= sizeof header_bytes, ErrorKind::invalid_argument, where,
        "no safetensors file: got {} bytes, expected at least 8. Download or copy it again.", file.size());
  static_assert(std::endian::native == std::endian::little);
  std::memcpy(&header_bytes, file.data(), sizeof header_bytes);
  constexpr std::string_view kPointer = "version https://git-lfs.github.com/spec/";
  check(
      !std::string_view(reinterpret_cast<const char*>(file.data()), file.size()).starts_with(kPointer), ErrorKind::invalid_argument,
      where,
      "no safetensors file: got a Git LFS pointer of {} bytes, expected the weights that it stands for. Run `git lfs pull` in the "
      "model's folder, or download the file.",
      file.size());
  const std::size_t most = file.size() - sizeof header_bytes;
  check(header_bytes <= most, ErrorKind::invalid_argument, where,
        "header beyond the end of the file: got a header of {} bytes, expected at most {}. Download or copy the file again.",
        header_bytes, most);
  check(header_bytes <= kMaxHeaderBytes, ErrorKind::invalid_argument, where,
        "header too large: got {} bytes, expected at most {}. Check the file.", header_bytes, kMaxHeaderBytes);
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + sizeof header_bytes, header_bytes);
  const auto data = file.subspan(sizeof header_bytes + header_bytes);
  check(text.starts_with('{'), ErrorKind::invalid_argument, where,
        "no safetensors header: got {} as its begin, expected a JSON object. Check the file.", in_quotes(text.substr(0, 8)));

  // A tensor is an object with a string, two offsets and up to 8 extents in two arrays.
  constexpr std::size_t kMaxValues = kMaxTensors * 14 + 10'000;
  const JsonObject header = parse_json_object(text, where, kMaxValues);
  const std::vector<std::string> names = header.keys();
  check(names.size() <= kMaxTensors, ErrorKind::invalid_argument, where,
        "too many tensors: got {}, expected at most {}. Check the file.", names.size(), kMaxTensors);
  Safetensors out;
  out.tensors.reserve(names.size());
  for (const std::string& name : names) {
    if (name == "__metadata__") {
      const JsonObject metadata = header.object(name);
      for (const std::string& key : metadata.keys()) out.metadata[key] = metadata.string(key);
    } else {
      out.tensors.push_back(read_entry(header, name, data));
    }
  }
  check_layout(out.tensors, data, where);
  return out;
}

WeightPtr weight_of(const TensorEntry& tensor, std::string_view where) {
  check(tensor.encoding->is_weight(), ErrorKind::unsupported, where,
        "unsupported dtype of {}: got {}, expected floats or a block type of GGUF. Convert the checkpoint to one of these.",
        in_quotes(tensor.name), tensor.dtype());
  if (tensor.scaling) return scaled_weight_of(tensor, where);
  return std::make_shared<StoredWeight>(tensor);
}

}  // namespace zoe
