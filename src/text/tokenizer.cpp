#include "text/tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "text/prompt.h"

// Both libraries write their complaints to stderr unless told otherwise, and no public header of SentencePiece declares how.
// Weak: where the library is built without these, there is nothing to turn off.
namespace sentencepiece::logging {
[[gnu::weak]] void SetMinLogLevel(int level);
}
namespace google::protobuf {
enum LogLevel : int;
[[gnu::weak]] void SetLogHandler(void (*)(LogLevel, const char* file, int line, const std::string& message));
}  // namespace google::protobuf

namespace zoe {
namespace {

constexpr std::size_t kMaxModelBytes = std::size_t{64} << 20;  // real ones have a few MiB

void silence_libraries() {
  if (sentencepiece::logging::SetMinLogLevel != nullptr) sentencepiece::logging::SetMinLogLevel(4);  // above FATAL
  if (google::protobuf::SetLogHandler != nullptr) google::protobuf::SetLogHandler(nullptr);
}

// Calls `visit(field number, content)` for each length-delimited field of a protobuf message; false if it is malformed.
template <class F>
bool for_each_field(std::string_view message, F&& visit) {
  const auto varint = [&](std::uint64_t* value) {
    *value = 0;
    for (unsigned shift = 0; shift < 64 && !message.empty(); shift += 7) {
      const auto byte = static_cast<std::uint8_t>(message[0]);
      message.remove_prefix(1);
      *value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  };
  std::uint64_t tag = 0, size = 0;
  while (!message.empty()) {
    if (!varint(&tag)) return false;
    const auto type = tag & 7;
    if (type == 0) {
      if (!varint(&size)) return false;
      continue;
    }
    if (type == 2 ? !varint(&size) : type != 1 && type != 5) return false;  // groups: SentencePiece has none
    if (type != 2) size = type == 1 ? 8 : 4;
    if (size > message.size() || (type == 2 && !visit(static_cast<std::uint32_t>(tag) >> 3, message.substr(0, size)))) return false;
    message.remove_prefix(size);
  }
  return true;
}

// SentencePiece follows the character map of a model without looking at bounds, so they are checked here. The map is the size of
// a double-array trie (Darts), the trie, then the NUL-terminated replacements its leaves point to.
bool character_map_is_sound(std::string_view map) {
  if (map.empty()) return true;
  const auto word = [&](std::size_t i) {
    std::uint32_t value = 0;
    std::memcpy(&value, map.data() + 4 * i, 4);
    return value;
  };
  if (map.size() < 4 || word(0) % 4 != 0 || word(0) >= map.size() - 4 || map.back() != '\0') return false;
  const std::size_t units = word(0) / 4, replacements = map.size() - 4 - word(0);
  for (std::size_t i = 0; i < units; ++i) {
    const std::uint32_t unit = word(1 + i);
    if (unit >> 31 != 0) continue;  // a leaf: nothing goes on from here
    const std::size_t children = i ^ ((unit >> 10) << ((unit & 0x200) >> 6));
    if ((children | 0xff) >= units) return false;
    if ((unit & 0x100) != 0 && (word(1 + children) & 0x7fffffff) >= replacements) return false;
  }
  return units > 0;
}

// Fields 3 and 5 of a model are its normalizer and denormalizer, whose field 2 is a character map.
bool character_maps_are_sound(std::string_view model) {
  return for_each_field(model, [](std::uint32_t field, std::string_view spec) {
    if (field != 3 && field != 5) return true;
    return for_each_field(spec,
                          [](std::uint32_t inner, std::string_view map) { return inner != 2 || character_map_is_sound(map); });
  });
}

}  // namespace

struct Tokenizer::Model {
  sentencepiece::SentencePieceProcessor pieces;
  std::int32_t eos = -1, unk = -1, pad = -1;
  std::vector<std::pair<std::string, std::int32_t>> specials;  // written in a text, they are tokens

  // Appends the ids of text without spaces and specials.
  void encode_word(std::string_view word, std::vector<std::int32_t>* out) const {
    std::vector<int> ids;
    const auto status = pieces.Encode({word.data(), word.size()}, &ids);
    check(status.ok(), ErrorKind::invalid_argument, "tokenizer",
          "cannot encode the prompt: got {}, expected pieces. Check spiece.model.", status.message());
    bool in_unknown = false;
    for (const int id : ids) {
      const bool unknown = id == unk || pieces.IsByte(id);
      if (!unknown) out->push_back(id);
      else if (!in_unknown) out->push_back(unk);
      in_unknown = unknown;
    }
  }

  // Word by word, as T5TokenizerFast splits at white space first.
  void encode_words(std::string_view text, std::vector<std::int32_t>* out) const {
    while (!text.empty()) {
      const std::size_t end = std::min(text.find(' '), text.size());
      if (end > 0) encode_word(text.substr(0, end), out);
      text.remove_prefix(std::min(end + 1, text.size()));
    }
  }
};

Tokenizer::Tokenizer(const std::filesystem::path& spiece_model) : model_(std::make_unique<Model>()) {
  constexpr std::string_view where = "tokenizer";
  const std::string bytes = read_file(spiece_model, where, kMaxModelBytes);
  silence_libraries();
  std::string problem;
  if (!character_maps_are_sound(bytes)) {
    problem = "a damaged file";
  } else {
    try {
      const auto status = model_->pieces.LoadFromSerializedProto({bytes.data(), bytes.size()});
      if (!status.ok()) problem = status.message();
    } catch (const std::exception& e) {
      problem = e.what();
    }
  }
  check(problem.empty(), ErrorKind::invalid_argument, where,
        "cannot load {}: got {} ({} bytes), expected a SentencePiece model. Fetch the file again.", spiece_model.string(), problem,
        bytes.size());
  const auto& pieces = model_->pieces;
  model_->eos = pieces.eos_id();
  model_->unk = pieces.unk_id();
  model_->pad = std::max(pieces.pad_id(), 0);
  for (const std::int32_t id : {pieces.pad_id(), pieces.eos_id(), pieces.unk_id()}) {
    if (id >= 0) model_->specials.emplace_back(pieces.IdToPiece(id), id);
  }
  check(model_->eos >= 0 && model_->unk >= 0, ErrorKind::invalid_argument, where,
        "{} is no T5 tokenizer: got end piece {} and unknown piece {}, expected both to exist. Use the model's own spiece.model.",
        spiece_model.string(), model_->eos, model_->unk);
}

Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

std::vector<std::int32_t> Tokenizer::encode(std::string_view cleaned, int max_tokens, std::size_t* total) const {
  check(cleaned.size() <= kMaxPromptBytes, ErrorKind::invalid_argument, "tokenizer",
        "prompt too long: got {} bytes, expected at most {}. Shorten it.", cleaned.size(), kMaxPromptBytes);
  check(max_tokens >= 1, ErrorKind::invalid_argument, "tokenizer", "bad token limit: got {}, expected 1 or more. Use 512.",
        max_tokens);
  std::vector<std::int32_t> ids;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < cleaned.size();) {
    const auto special = std::find_if(model_->specials.begin(), model_->specials.end(),
                                      [&](const auto& s) { return cleaned.substr(i).starts_with(s.first); });
    if (special == model_->specials.end()) {
      ++i;
      continue;
    }
    model_->encode_words(cleaned.substr(begin, i - begin), &ids);
    ids.push_back(special->second);
    begin = i += special->first.size();
  }
  model_->encode_words(cleaned.substr(begin), &ids);
  if (total != nullptr) *total = ids.size() + 1;
  ids.resize(std::min(ids.size(), static_cast<std::size_t>(max_tokens - 1)));
  ids.push_back(model_->eos);
  return ids;
}

int Tokenizer::vocab_size() const { return model_->pieces.GetPieceSize(); }
std::int32_t Tokenizer::eos_id() const { return model_->eos; }
std::int32_t Tokenizer::unk_id() const { return model_->unk; }
std::int32_t Tokenizer::pad_id() const { return model_->pad; }

}  // namespace zoe
