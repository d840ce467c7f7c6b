#include "checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "base/nearest.h"

namespace zoe {

namespace {

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr std::size_t kMaxTensors = 100'000;
constexpr std::size_t kMaxRank = 8;

struct StoredDType {
  std::string_view name;
  std::int64_t bytes;
  std::optional<DType> weight;  // for the types a weight may have
};

constexpr std::array<StoredDType, 15> kStoredDTypes{{{"F64", 8, {}},
                                                     {"F32", 4, DType::f32},
                                                     {"F16", 2, DType::f16},
                                                     {"BF16", 2, DType::bf16},
                                                     {"I64", 8, {}},
                                                     {"I32", 4, {}},
                                                     {"I16", 2, {}},
                                                     {"I8", 1, {}},
                                                     {"U8", 1, {}},
                                                     {"U16", 2, {}},
                                                     {"U32", 4, {}},
                                                     {"U64", 8, {}},
                                                     {"BOOL", 1, {}},
                                                     {"F8_E4M3", 1, {}},
                                                     {"F8_E5M2", 1, {}}}};

const StoredDType* find_dtype(std::string_view name) {
  const auto found = std::find_if(kStoredDTypes.begin(), kStoredDTypes.end(), [&](const StoredDType& d) { return d.name == name; });
  return found == kStoredDTypes.end() ? nullptr : &*found;
}

// One tensor of the header; `data` is everything behind the header.
TensorEntry read_entry(const JsonObject& header, const std::string& name, std::span<const std::byte> data) {
  const JsonObject fields = header.object(name);
  const std::string& where = header.where();
  const std::string shown = in_quotes(name);

  const std::string dtype_name = fields.string("dtype");
  const StoredDType* dtype = find_dtype(dtype_name);
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
  std::int64_t size_bytes = dtype->bytes;
  bool overflows = false;
  for (const std::int64_t extent : shape.dims()) overflows |= __builtin_mul_overflow(size_bytes, extent, &size_bytes);
  check(!overflows, ErrorKind::invalid_argument, where, "bad shape of {}: got {}, expected fewer than 2^63 bytes. Check the file.",
        shown, shape.str());
  check(offsets[1] - offsets[0] == size_bytes, ErrorKind::invalid_argument, where,
        "bad size of {}: got {} bytes in the file, expected {} for {} {}. Check the file.", shown, offsets[1] - offsets[0],
        size_bytes, dtype->name, shape.str());
  return {name, dtype->name, std::move(shape),
          data.subspan(static_cast<std::size_t>(offsets[0]), static_cast<std::size_t>(size_bytes))};
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

}  // namespace

Safetensors parse_safetensors(std::span<const std::byte> file, std::string_view where) {
  std::uint64_t header_bytes = 0;
  check(file.size() >= sizeof header_bytes, ErrorKind::invalid_argument, where,
        "no safetensors file: got {} bytes, expected at least 8. Download or copy it again.", file.size());
  static_assert(std::endian::native == std::endian::little);
  std::memcpy(&header_bytes, file.data(), sizeof header_bytes);
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

DType weight_dtype(const TensorEntry& tensor, std::string_view where) {
  const StoredDType* dtype = find_dtype(tensor.dtype);
  check(dtype && dtype->weight, ErrorKind::unsupported, where,
        "unsupported dtype of {}: got {}, expected F32, F16 or BF16. Convert the checkpoint to one of these.",
        in_quotes(tensor.name), tensor.dtype);
  return *dtype->weight;
}

void read_elements(const TensorEntry& tensor, std::int64_t begin, std::int64_t count, DType dst_dtype, void* dst) {
  const DType src_dtype = weight_dtype(tensor, "weights");
  ZOE_INTERNAL_CHECK(begin >= 0 && count >= 0 && begin <= tensor.shape.count() && count <= tensor.shape.count() - begin);
  const std::byte* src = tensor.bytes.data() + static_cast<std::size_t>(begin) * size_of(src_dtype);
  const auto elements = static_cast<std::size_t>(count);
  if (src_dtype == dst_dtype) {
    if (elements > 0) std::memcpy(dst, src, elements * size_of(src_dtype));
  } else if (reinterpret_cast<std::uintptr_t>(src) % size_of(src_dtype) == 0) {
    convert(src, src_dtype, dst, dst_dtype, elements);
  } else {
    alignas(4) std::array<std::byte, 16 * 1024> aligned;
    const std::size_t piece = aligned.size() / size_of(src_dtype);
    for (std::size_t done = 0; done < elements; done += piece) {
      const std::size_t now = std::min(piece, elements - done);
      std::memcpy(aligned.data(), src + done * size_of(src_dtype), now * size_of(src_dtype));
      convert(aligned.data(), src_dtype, static_cast<std::byte*>(dst) + done * size_of(dst_dtype), dst_dtype, now);
    }
  }
}

}  // namespace zoe
