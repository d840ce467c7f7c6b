#include "checkpoint/gguf.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>

#include "base/error.h"
#include "base/log.h"
#include "base/nearest.h"
#include "checkpoint/encoding.h"

namespace zoe {

namespace {

constexpr std::string_view kMagic = "GGUF", kOriginalShape = "comfy.gguf.orig_shape.", kTokenizer = "tokenizer.ggml.",
                           kTokens = "tokenizer.ggml.tokens";
constexpr std::uint64_t kMaxTensors = 100'000;
constexpr std::uint32_t kMaxRank = 8;

// Numbers of the types of metadata values.
enum Kind : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64, kinds };

// Bytes from the front of the file, no more than there are.
class Cursor {
 public:
  Cursor(std::span<const std::byte> file, std::string_view where, const std::function<void(std::size_t, std::size_t)>& fetch)
      : file_(file), where_(where), fetch_(fetch) {}

  std::size_t at() const { return at_; }
  std::size_t left() const { return file_.size() - at_; }

  std::span<const std::byte> take(std::uint64_t count, std::string_view what) {
    check(count <= left(), ErrorKind::invalid_argument, where_,
          "the file ends in {}: got {} bytes behind byte {}, expected {} more. Download or copy it again.", what, left(), at_,
          count);
    if (fetch_ && at_ + count > fetched_) {
      const std::size_t ahead = std::max<std::size_t>(at_ + count - fetched_, std::size_t{1} << 20);
      const std::size_t now = std::min(ahead, file_.size() - fetched_);
      fetch_(fetched_, now);
      fetched_ += now;
    }
    const auto bytes = file_.subspan(at_, count);
    at_ += count;
    return bytes;
  }

  template <class Number>
  Number number(std::string_view what) {
    static_assert(std::endian::native == std::endian::little);
    Number value;
    std::memcpy(&value, take(sizeof value, what).data(), sizeof value);
    return value;
  }

  std::string text(std::string_view what) {
    const auto bytes = take(number<std::uint64_t>(what), what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

 private:
  std::span<const std::byte> file_;
  std::string_view where_;
  const std::function<void(std::size_t, std::size_t)>& fetch_;
  std::size_t at_ = 0, fetched_ = 0;
};

class GgufParser {
 public:
  GgufParser(std::span<const std::byte> file, std::string_view where, const std::function<void(std::size_t, std::size_t)>& fetch)
      : file_(file), where_(where), cursor_(file, where, fetch) {}

  Gguf parse() {
    cursor_.take(kMagic.size(), "its first bytes");
    const auto version = cursor_.number<std::uint32_t>("its version");
    check(version == 2 || version == 3, ErrorKind::unsupported, where_, "GGUF version {} is not supported: expected 2 or 3{}.",
          version, (version & 0xffffu) == 0 ? ", little-endian" : "");
    const auto tensor_count = cursor_.number<std::uint64_t>("its counts"),
               entry_count = cursor_.number<std::uint64_t>("its counts");
    check(tensor_count <= kMaxTensors, ErrorKind::invalid_argument, where_,
          "too many tensors: got {}, expected at most {}. Check the file.", tensor_count, kMaxTensors);
    constexpr std::uint64_t kSmallestEntry = 8 + 4 + 1;
    check(entry_count <= cursor_.left() / kSmallestEntry, ErrorKind::invalid_argument, where_,
          "too much metadata: got {} entries, expected at most {} in so many bytes. Check the file.", entry_count,
          cursor_.left() / kSmallestEntry);
    for (std::uint64_t i = 0; i < entry_count; ++i) read_entry();
    struct Described {
      TensorEntry tensor;
      std::uint64_t offset, size;
    };
    std::vector<Described> described;
    for (std::uint64_t i = 0; i < tensor_count; ++i) {
      TensorEntry tensor = read_description();
      const auto offset = cursor_.number<std::uint64_t>("a tensor's offset");
      const auto size = static_cast<std::uint64_t>(tensor.encoding->size_bytes(tensor.shape.count()));
      described.push_back({std::move(tensor), offset, size});
    }
    const std::size_t begin = (cursor_.at() + alignment_ - 1) / alignment_ * alignment_;
    const std::uint64_t data_bytes = begin <= file_.size() ? file_.size() - begin : 0;
    for (Described& each : described) {
      const std::string shown = in_quotes(each.tensor.name);
      check(each.offset % alignment_ == 0, ErrorKind::invalid_argument, where_,
            "bad offset of {}: got {}, expected a multiple of {}. Check the file.", shown, each.offset, alignment_);
      check(each.offset <= data_bytes && each.size <= data_bytes - each.offset, ErrorKind::invalid_argument, where_,
            "{} lies beyond the end of the file: got {} bytes at {}, expected at most {} bytes of data. Download or copy it again.",
            shown, each.size, each.offset, data_bytes);
      each.tensor.bytes = file_.subspan(begin + each.offset, each.size);
    }
    std::sort(described.begin(), described.end(), [](const Described& a, const Described& b) { return a.offset < b.offset; });
    for (std::size_t i = 1; i < described.size(); ++i)
      check(described[i - 1].offset + described[i - 1].size <= described[i].offset, ErrorKind::invalid_argument, where_,
            "{} and {} overlap: got the second at {}, expected {} or more. Check the file.",
            in_quotes(described[i - 1].tensor.name), in_quotes(described[i].tensor.name), described[i].offset,
            described[i - 1].offset + described[i - 1].size);
    for (Described& each : described) out_.tensors.push_back(std::move(each.tensor));
    std::sort(out_.tensors.begin(), out_.tensors.end(), [](const TensorEntry& a, const TensorEntry& b) { return a.name < b.name; });
    for (std::size_t i = 1; i < out_.tensors.size(); ++i)
      check(out_.tensors[i - 1].name != out_.tensors[i].name, ErrorKind::invalid_argument, where_,
            "two tensors of one name: got a second {}, expected each once. Check the file.", in_quotes(out_.tensors[i].name));
    return std::move(out_);
  }

  // After parse(). The messages of SentencePiece's model file (Protocol Buffers) that a Unigram model needs: pieces (1) of text,
  // score and type; the kind of model and the names of special pieces (2); the map of characters (3).
  std::string sentencepiece(const std::map<std::string, std::string>& metadata) const {
    if (tokens_.empty()) return {};
    const auto text_of = [&](const std::string& key, const std::string& otherwise) {
      const auto found = metadata.find(std::string(kTokenizer) + key);
      return found == metadata.end() ? otherwise : found->second;
    };
    const std::string model = text_of("model", "none");
    check(model == "t5", ErrorKind::unsupported, where_,
          "has a tokenizer of another kind: got {}, expected t5. Give the model's own spiece.model.", in_quotes(model));
    const auto array_of = [&](const std::string& key, std::uint32_t kind) -> std::span<const std::byte> {
      const auto found = arrays_.find(key);
      check(found != arrays_.end() && found->second.kind == kind && found->second.bytes.size() == tokens_.size() * 4,
            ErrorKind::invalid_argument, where_,
            "bad {}{}: expected a number for each of {} tokens. Give the model's own spiece.model.", kTokenizer, key,
            tokens_.size());
      return found->second.bytes;
    };
    const std::span<const std::byte> scores = array_of("scores", f32), types = array_of("token_type", i32);
    std::string out;
    const auto number = [](std::string& to, std::uint64_t value) {
      for (; value >= 0x80; value >>= 7) to += static_cast<char>(value | 0x80);
      to += static_cast<char>(value);
    };
    const auto bytes = [&](std::string& to, unsigned field, std::string_view value) {
      number(to, field << 3 | 2);
      number(to, value.size());
      to += value;
    };
    constexpr std::uint32_t kUnused = 5;  // what pads the vocabulary
    const auto type_of = [&](std::size_t i) {
      std::uint32_t type;
      std::memcpy(&type, types.data() + i * 4, sizeof type);
      return type;
    };
    std::size_t count = tokens_.size();
    while (count > 0 && type_of(count - 1) == kUnused) --count;
    for (std::size_t i = 0; i < count; ++i) {
      std::string piece;
      bytes(piece, 1, tokens_[i]);
      number(piece, 2 << 3 | 5);
      piece.append(reinterpret_cast<const char*>(scores.data()) + i * 4, 4);
      number(piece, 3 << 3);
      number(piece, type_of(i));
      bytes(out, 1, piece);
    }
    std::string trainer;
    number(trainer, 3 << 3);
    number(trainer, 1);  // Unigram
    for (const auto& [key, field] : {std::pair{"unknown_token_id", 45u}, {"eos_token_id", 47u}, {"padding_token_id", 48u}}) {
      std::uint64_t id = tokens_.size();
      const std::string text = text_of(key, "");
      std::from_chars(text.data(), text.data() + text.size(), id);
      if (id < tokens_.size()) bytes(trainer, field, tokens_[id]);
    }
    bytes(out, 2, trainer);
    if (const auto map = arrays_.find("precompiled_charsmap");
        map != arrays_.end() && (map->second.kind == u8 || map->second.kind == i8)) {
      std::string normalizer;
      bytes(normalizer, 2, {reinterpret_cast<const char*>(map->second.bytes.data()), map->second.bytes.size()});
      bytes(out, 3, normalizer);
    } else {
      log(LogLevel::notice,
          fmt::format("{}: its tokenizer has no map of characters: unusual ones give other tokens than spiece.model does.",
                      where_));
    }
    return out;
  }

 private:
  static std::size_t size_of_kind(std::uint32_t kind) {
    switch (kind) {
      case u8:
      case i8:
      case boolean: return 1;
      case u16:
      case i16: return 2;
      case u32:
      case i32:
      case f32: return 4;
      default: return 8;
    }
  }

  std::uint32_t read_kind(const std::string& key) {
    const auto kind = cursor_.number<std::uint32_t>("a metadata type");
    check(kind < kinds, ErrorKind::invalid_argument, where_, "bad type of {}: got {}, expected 0 to {}. Check the file.",
          in_quotes(key), kind, kinds - 1);
    return kind;
  }

  void read_entry() {
    const std::string key = cursor_.text("a metadata key");
    const std::uint32_t kind = read_kind(key);
    if (kind == array) return read_array(key);
    std::string text;
    switch (kind) {
      case u8: text = std::to_string(cursor_.number<std::uint8_t>(key)); break;
      case i8: text = std::to_string(cursor_.number<std::int8_t>(key)); break;
      case u16: text = std::to_string(cursor_.number<std::uint16_t>(key)); break;
      case i16: text = std::to_string(cursor_.number<std::int16_t>(key)); break;
      case u32: text = std::to_string(cursor_.number<std::uint32_t>(key)); break;
      case i32: text = std::to_string(cursor_.number<std::int32_t>(key)); break;
      case u64: text = std::to_string(cursor_.number<std::uint64_t>(key)); break;
      case i64: text = std::to_string(cursor_.number<std::int64_t>(key)); break;
      case f32: text = fmt::format("{}", cursor_.number<float>(key)); break;
      case f64: text = fmt::format("{}", cursor_.number<double>(key)); break;
      case boolean: text = cursor_.number<std::uint8_t>(key) ? "true" : "false"; break;
      default: text = cursor_.text(key); break;
    }
    if (key == "general.alignment") {
      std::uint64_t alignment = 0;
      for (const char c : text)
        alignment = c >= '0' && c <= '9' && alignment < 1'000'000 ? alignment * 10 + static_cast<unsigned>(c - '0') : 0;
      check(kind == u32 && std::has_single_bit(alignment) && alignment <= 1 << 16, ErrorKind::invalid_argument, where_,
            "bad general.alignment: got {}, expected a power of two up to 65536. Check the file.", in_quotes(text));
      alignment_ = alignment;
    }
    out_.metadata[key] = std::move(text);
  }

  void read_array(const std::string& key) {
    const std::uint32_t kind = read_kind(key);
    const auto count = cursor_.number<std::uint64_t>("the length of an array");
    check(kind != array, ErrorKind::unsupported, where_, "{} is an array of arrays, expected one of numbers or strings.",
          in_quotes(key));
    if (kind == string) {
      for (std::uint64_t i = 0; i < count; ++i) {
        const auto text = cursor_.take(cursor_.number<std::uint64_t>("a string"), "a string");
        if (key == kTokens) tokens_.emplace_back(reinterpret_cast<const char*>(text.data()), text.size());
      }
      return;
    }
    const std::size_t size = size_of_kind(kind);
    check(count <= cursor_.left() / size, ErrorKind::invalid_argument, where_,
          "{} lies beyond the end of the file: got an array of {} elements, expected at most {}. Download or copy it again.",
          in_quotes(key), count, cursor_.left() / size);
    if (!key.starts_with(kOriginalShape)) {
      const auto bytes = cursor_.take(count * size, key);
      if (key.starts_with(kTokenizer)) arrays_[key.substr(kTokenizer.size())] = {kind, bytes};
      return;
    }
    check(kind == i32 && count <= kMaxRank, ErrorKind::invalid_argument, where_,
          "bad {}: got {} values of type {}, expected at most {} of type {}. Check the file.", in_quotes(key), count,
          static_cast<std::uint32_t>(kind), kMaxRank, static_cast<std::uint32_t>(i32));
    std::vector<std::int64_t> dims;
    for (std::uint64_t i = 0; i < count; ++i) dims.push_back(cursor_.number<std::int32_t>(key));
    original_shapes_[key.substr(kOriginalShape.size())] = std::move(dims);
  }

  // All of a tensor but where its bytes are.
  TensorEntry read_description() {
    TensorEntry tensor;
    tensor.name = cursor_.text("a tensor's name");
    const std::string shown = in_quotes(tensor.name);
    const auto rank = cursor_.number<std::uint32_t>("a tensor's rank");
    check(rank <= kMaxRank, ErrorKind::invalid_argument, where_, "bad rank of {}: got {}, expected at most {}. Check the file.",
          shown, rank, kMaxRank);
    std::vector<std::int64_t> dims(rank);  // stored innermost first
    constexpr std::int64_t kMost = std::int64_t{1} << 48;
    for (std::uint32_t i = 0; i < rank; ++i) {
      const auto extent = cursor_.number<std::uint64_t>("a tensor's extents");
      check(extent <= kMost, ErrorKind::invalid_argument, where_,
            "bad shape of {}: got an extent of {}, expected fewer than 2^48 elements. Check the file.", shown, extent);
      dims[rank - 1 - i] = static_cast<std::int64_t>(extent);
    }
    check(extents_fit(dims, kMost), ErrorKind::invalid_argument, where_,
          "bad shape of {}: got {}, expected fewer than 2^48 elements. Check the file.", shown, Shape(dims).str());
    const auto type = cursor_.number<std::uint32_t>("a tensor's type");
    tensor.encoding = gguf_encoding(type);
    check(tensor.encoding, ErrorKind::unsupported, where_,
          "unsupported type of {}: got ggml's type {}, expected F32, F16, BF16, F64, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, "
          "IQ4_NL or "
          "IQ4_XS. Take a file of another quantisation.",
          shown, type);
    const std::int64_t row = rank ? dims.back() : 1, block = tensor.encoding->block_elements;
    check(row % block == 0, ErrorKind::invalid_argument, where_,
          "bad shape of {}: got rows of {}, expected a multiple of {}, the block of {}. Check the file.", shown, row, block,
          tensor.encoding->name);
    tensor.shape = Shape(std::move(dims));
    if (const auto original = original_shapes_.find(tensor.name); original != original_shapes_.end()) {
      const std::vector<std::int64_t>& given = original->second;
      const std::int64_t count = tensor.shape.count();
      const bool is_positive = std::all_of(given.begin(), given.end(), [](std::int64_t extent) { return extent > 0; });
      check(is_positive && extents_fit(given, count) && Shape(given).count() == count, ErrorKind::invalid_argument, where_,
            "bad {}{}: got {}, expected as many elements as {}. Check the file.", kOriginalShape, tensor.name, Shape(given).str(),
            tensor.shape.str());
      tensor.shape = Shape(given);
    }
    return tensor;
  }

  std::span<const std::byte> file_;
  std::string_view where_;
  Cursor cursor_;
  std::size_t alignment_ = 32;
  std::map<std::string, std::vector<std::int64_t>> original_shapes_;
  struct Array {
    std::uint32_t kind;
    std::span<const std::byte> bytes;
  };
  std::vector<std::string_view> tokens_;  // of the tokenizer
  std::map<std::string, Array> arrays_;   // its arrays of numbers, by the last word of their keys
  Gguf out_;
};

}  // namespace

bool is_gguf(std::span<const std::byte> file) {
  return file.size() >= kMagic.size() && std::memcmp(file.data(), kMagic.data(), kMagic.size()) == 0;
}

Gguf parse_gguf(std::span<const std::byte> file, std::string_view where,
                const std::function<void(std::size_t begin, std::size_t count)>& fetch) {
  return GgufParser(file, where, fetch).parse();
}

std::string sentencepiece_of_gguf(std::span<const std::byte> file, std::string_view where,
                                  const std::function<void(std::size_t begin, std::size_t count)>& fetch) {
  GgufParser parser(file, where, fetch);
  const Gguf parsed = parser.parse();
  return parser.sentencepiece(parsed.metadata);
}

}  // namespace zoe
