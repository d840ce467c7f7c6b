#include "text/unigram.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "base/nearest.h"

namespace zoe {
namespace {

constexpr std::string_view kWhere = "tokenizer";
constexpr std::size_t kMaxPieces = 1 << 20;  // umT5 has 256 thousand
constexpr double kMaxScore = 1e6;            // of a logarithm of a probability

// ---- spiece.model: a protobuf message ----

struct Field {
  std::uint32_t number = 0;
  std::uint64_t value = 0;        // of a varint or four or eight bytes
  std::string_view content = {};  // of what has a length
};

// Calls visit(field) for each field of a message; false if it is malformed or visit says so.
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
  while (!message.empty()) {
    std::uint64_t tag = 0, size = 0;
    if (!varint(&tag) || tag >> 3 == 0 || tag >> 32 != 0) return false;
    Field field{.number = static_cast<std::uint32_t>(tag >> 3)};
    switch (tag & 7) {
      case 0:
        if (!varint(&field.value)) return false;
        break;
      case 2:
        if (!varint(&size) || size > message.size()) return false;
        field.content = message.substr(0, size);
        break;
      case 1:
      case 5:
        size = (tag & 7) == 1 ? 8 : 4;
        if (size > message.size()) return false;
        for (std::size_t i = 0; i < size; ++i)
          field.value |= static_cast<std::uint64_t>(static_cast<std::uint8_t>(message[i])) << (8 * i);
        break;
      default: return false;  // groups: SentencePiece has none
    }
    message.remove_prefix(size);
    if (!visit(field)) return false;
  }
  return true;
}

enum PieceType : std::uint64_t { kNormal = 1, kUnknown = 2, kControl = 3 };
constexpr std::uint64_t kUnigram = 1;

// ---- tokenizer.json ----

std::string decode_base64(std::string_view text, std::string_view file) {
  std::string out;
  std::uint32_t bits = 0;
  int count = 0;
  while (text.ends_with('=')) text.remove_suffix(1);
  for (const char c : text) {
    const int digit = c >= 'A' && c <= 'Z'   ? c - 'A'
                      : c >= 'a' && c <= 'z' ? c - 'a' + 26
                      : c >= '0' && c <= '9' ? c - '0' + 52
                      : c == '+'             ? 62
                      : c == '/'             ? 63
                                             : -1;
    check(digit >= 0, ErrorKind::invalid_argument, kWhere,
          "cannot load {}: got {} in precompiled_charsmap, expected base64. Fetch the file again.", file,
          in_quotes(std::string(1, c)));
    bits = bits << 6 | static_cast<std::uint32_t>(digit);
    if (++count % 4 != 1) out.push_back(static_cast<char>(bits >> (count % 4 == 2 ? 4 : count % 4 == 3 ? 2 : 0)));
  }
  return out;
}

[[noreturn]] void refuse(const JsonObject& part, std::string_view what, std::string_view got, std::string_view expected) {
  fail(ErrorKind::unsupported, part.where(), "{} is not one of T5: got {}, expected {}. Use the model's own tokenizer.", what, got,
       expected);
}

// The parts of a part that is alone or a sequence.
std::vector<JsonObject> parts_of(const JsonObject& file, std::string_view key, std::string_view parts) {
  if (!file.has(key)) return {};
  JsonObject part = file.object(key);
  if (part.string("type") == "Sequence") return part.objects(parts, 0, 16);
  return {std::move(part)};
}

std::string character_map(const JsonObject& file) {
  std::string map;
  for (const JsonObject& part : parts_of(file, "normalizer", "normalizers")) {
    const std::string type = part.string("type");
    // Spaces at the end and runs of them, which are gone by then.
    const bool of_spaces = type == "Strip" || (type == "Replace" && part.object("pattern").string("Regex", "") == " {2,}");
    if (type == "Precompiled") map = decode_base64(part.string("precompiled_charsmap", ""), file.where());
    else if (!of_spaces) refuse(file, "normalizer", in_quotes(type), "Precompiled");
  }
  return map;
}

void check_pre_tokenizer(const JsonObject& file) {
  bool marks_words = false;
  for (const JsonObject& part : parts_of(file, "pre_tokenizer", "pretokenizers")) {
    const std::string type = part.string("type");
    if (type == "WhitespaceSplit") continue;
    if (type != "Metaspace") refuse(file, "pre_tokenizer", in_quotes(type), "Metaspace, perhaps after WhitespaceSplit");
    const std::string mark = part.string("replacement", "\u2581");
    if (mark != "\u2581") refuse(file, "replacement of Metaspace", in_quotes(mark), "\"\u2581\"");
    const std::string scheme = part.string("prepend_scheme", part.boolean("add_prefix_space", true) ? "always" : "never");
    if (scheme == "never") refuse(file, "prepend_scheme of Metaspace", in_quotes(scheme), "\"always\"");
    marks_words = true;
  }
  if (!marks_words) refuse(file, "pre_tokenizer", "none", "Metaspace");
}

// The piece that ends each text.
std::int32_t end_piece(const JsonObject& file) {
  constexpr std::string_view kTemplate = "TemplateProcessing of a text and one special token";
  if (!file.has("post_processor")) refuse(file, "post_processor", "none", kTemplate);
  const JsonObject part = file.object("post_processor");
  const std::string type = part.string("type");
  if (type != "TemplateProcessing") refuse(file, "post_processor", in_quotes(type), kTemplate);
  const std::vector<JsonObject> single = part.objects("single", 0, 16);
  if (single.size() != 2 || !single[0].has("Sequence") || !single[1].has("SpecialToken"))
    refuse(file, "post_processor", "another template", kTemplate);
  const std::string token = single[1].object("SpecialToken").string("id");
  const auto ids = part.object("special_tokens").object(token).integers("ids", 0, kMaxPieces - 1, 1, 1);
  return static_cast<std::int32_t>(ids[0]);
}

void check_pieces(const UnigramModel& model, std::string_view file) {
  const auto refuse_if = [&](bool bad, std::string_view what) {
    check(!bad, ErrorKind::invalid_argument, kWhere, "cannot load {}: got {}, expected a T5 tokenizer. Fetch the file again.", file,
          what);
  };
  refuse_if(model.pieces.empty(), "no pieces");
  refuse_if(model.pieces.size() > kMaxPieces, "too many pieces");
  for (const auto& [piece, score] : model.pieces) {
    refuse_if(piece.empty() || piece.find('\0') != std::string::npos, "an empty piece");
    refuse_if(!(std::abs(score) <= kMaxScore), "a piece with a score out of range");
  }
  const auto size = static_cast<std::int32_t>(model.pieces.size());
  check(model.eos >= 0 && model.unk >= 0 && model.eos < size && model.unk < size, ErrorKind::invalid_argument, kWhere,
        "{} is no T5 tokenizer: got end piece {} and unknown piece {}, expected both to exist. Use the model's own tokenizer.",
        file, model.eos, model.unk);
}

}  // namespace

UnigramModel read_sentencepiece(std::string_view bytes, std::string_view file) {
  UnigramModel model;
  std::string unk = "<unk>", eos = "</s>", pad = "<pad>", map;  // their names, where the model does not say otherwise
  std::vector<std::uint64_t> types;
  std::uint64_t kind = kUnigram;
  const bool sound = for_each_field(bytes, [&](const Field& part) {
    if (part.number == 1) {
      std::pair<std::string, double>& piece = model.pieces.emplace_back("", 0.0);  // no binding: clang 14 captures none
      std::uint64_t& type = types.emplace_back(kNormal);
      return for_each_field(part.content, [&](const Field& field) {
        if (field.number == 1) piece.first = field.content;
        if (field.number == 2) piece.second = static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(field.value)));
        if (field.number == 3) type = field.value;
        return true;
      });
    }
    if (part.number == 2)
      return for_each_field(part.content, [&](const Field& field) {
        if (field.number == 3) kind = field.value;
        if (field.number == 45) unk = field.content;
        if (field.number == 47) eos = field.content;
        if (field.number == 48) pad = field.content;
        return true;
      });
    if (part.number == 3)
      return for_each_field(part.content, [&](const Field& field) {
        if (field.number == 2) map = field.content;
        return true;
      });
    return true;
  });
  check(sound && !model.pieces.empty(), ErrorKind::invalid_argument, kWhere,
        "cannot load {}: got a damaged file ({} bytes), expected a SentencePiece model. Fetch the file again.", file, bytes.size());
  check(kind == kUnigram, ErrorKind::unsupported, kWhere,
        "{} is no T5 tokenizer: got a SentencePiece model of type {}, expected Unigram. Use the model's own spiece.model.", file,
        kind == 2   ? "BPE"
        : kind == 3 ? "word"
        : kind == 4 ? "char"
                    : "unknown");
  std::int32_t padding = -1;
  for (std::size_t i = 0; i < types.size(); ++i) {
    const auto id = static_cast<std::int32_t>(i);
    const std::string& piece = model.pieces[i].first;
    if (types[i] == kUnknown && model.unk < 0) model.unk = id;
    if (types[i] == kControl && piece == eos && model.eos < 0) model.eos = id;
    if (types[i] == kControl && piece == pad && padding < 0) padding = id;
  }
  check_pieces(model, file);
  model.pad = std::max(padding, 0);
  for (const std::int32_t id : {padding, model.eos, model.unk})
    if (id >= 0) model.specials.emplace_back(model.pieces[static_cast<std::size_t>(id)].first, id);
  model.character_map = CharacterMap(std::move(map), kWhere, file);
  return model;
}

UnigramModel read_tokenizer_json(std::string_view text, std::string_view file) {
  const JsonObject json = parse_json_object(text, file, 8 * kMaxPieces);
  const JsonObject part = json.object("model");
  const std::string type = part.string("type", "unnamed");
  if (type != "Unigram") refuse(json, "model", in_quotes(type), "Unigram");
  UnigramModel model;
  model.pieces = part.named_numbers("vocab", -kMaxScore, kMaxScore, 1, kMaxPieces);
  model.unk = static_cast<std::int32_t>(part.integer("unk_id", 0, static_cast<std::int64_t>(model.pieces.size()) - 1));
  check_pre_tokenizer(json);
  model.eos = end_piece(json);
  check_pieces(model, file);
  if (json.has("added_tokens")) {
    for (const JsonObject& token : json.objects("added_tokens", 0, kMaxPieces)) {
      std::string content = token.string("content");
      check(!content.empty() && !token.boolean("single_word", false), ErrorKind::unsupported, file,
            "added token {} is not supported: got {}, expected one found anywhere in a text. Use the model's own tokenizer.",
            in_quotes(content), content.empty() ? "no content" : "single_word");
      const auto id = static_cast<std::int32_t>(token.integer("id", 0, kMaxPieces - 1));
      if (content == "<pad>") model.pad = id;
      model.specials.emplace_back(std::move(content), id);
    }
  }
  model.character_map = CharacterMap(character_map(json), kWhere, file);
  return model;
}

}  // namespace zoe
