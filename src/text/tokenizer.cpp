#include "text/tokenizer.h"

#include <algorithm>
#include <array>
#include <bitset>
#include <iterator>
#include <numeric>
#include <string>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "base/nearest.h"
#include "text/prompt.h"
#include "text/unicode.h"
#include "text/unigram.h"

namespace zoe {
namespace {

constexpr std::string_view kWhere = "tokenizer";
constexpr std::size_t kMaxModelBytes = std::size_t{64} << 20;  // real ones have up to 17 MiB
constexpr std::string_view kWordMark = "\u2581";

// White space of Unicode, at which words end; not the separators U+001C to U+001F, which Python has for such too.
bool ends_word(char32_t c) { return is_space(c) && !(c >= 0x1c && c <= 0x1f); }

UnigramModel read_model(std::filesystem::path path) {
  const std::filesystem::path folder = path;
  std::error_code ignored;
  if (std::filesystem::is_directory(folder, ignored)) {
    path = folder / "spiece.model";
    if (!std::filesystem::exists(path, ignored)) path = folder / "tokenizer.json";
    check(
        std::filesystem::exists(path, ignored), ErrorKind::invalid_argument, kWhere,
        "cannot open a tokenizer in {}: got neither spiece.model nor tokenizer.json, expected one of them. Fetch the folder again.",
        folder.string());
  }
  const std::string bytes = read_file(path, kWhere, kMaxModelBytes);
  return path.extension() == ".json" ? read_tokenizer_json(bytes, path.string()) : read_sentencepiece(bytes, path.string());
}

}  // namespace

struct Tokenizer::Model {
  UnigramModel model;
  std::vector<std::int32_t> sorted;         // ids by the bytes of their pieces, so that pieces with one beginning lie together
  std::array<std::size_t, 257> first_byte;  // where in it pieces with each first byte begin
  double unknown_score;                     // of a character that is no piece
  std::bitset<256> begins_special;          // the first bytes of specials

  const std::string& piece(std::int32_t id) const { return model.pieces[static_cast<std::size_t>(id)].first; }

  // Calls visit(length, id) for each piece that `text` begins with.
  template <class F>
  void for_each_piece(std::string_view text, F&& visit) const {
    auto begin = sorted.begin() + static_cast<std::ptrdiff_t>(first_byte[static_cast<std::uint8_t>(text[0])]);
    auto end = sorted.begin() + static_cast<std::ptrdiff_t>(first_byte[static_cast<std::uint8_t>(text[0]) + 1u]);
    for (std::size_t at = 0; begin != end;) {
      if (piece(*begin).size() == at + 1) visit(at + 1, *begin);
      if (++at == text.size()) return;
      const auto byte_of = [&](std::int32_t id) { return piece(id).size() > at ? static_cast<std::uint8_t>(piece(id)[at]) : -1; };
      const int byte = static_cast<std::uint8_t>(text[at]);
      begin = std::partition_point(begin, end, [&](std::int32_t id) { return byte_of(id) < byte; });
      end = std::partition_point(begin, end, [&](std::int32_t id) { return byte_of(id) == byte; });
    }
  }

  // The longest special that `text` begins with, or nullptr.
  const std::pair<std::string, std::int32_t>* special(std::string_view text) const {
    const std::pair<std::string, std::int32_t>* longest = nullptr;
    if (!begins_special[static_cast<std::uint8_t>(text[0])]) return longest;
    for (const auto& candidate : model.specials)
      if (text.starts_with(candidate.first) && (!longest || candidate.first.size() > longest->first.size())) longest = &candidate;
    return longest;
  }

  // Appends the ids of what goes from one mark of a word to the next: of all ways to cut it into pieces the most probable one
  // (Viterbi). A run of unknown characters is one id.
  void encode_word(std::string_view word, std::vector<std::int32_t>* out) const {
    struct End {  // the best way to some place
      double score = 0;
      std::ptrdiff_t from = -1;  // where its last piece begins
      std::int32_t id = 0;
    };
    std::vector<End> ends(word.size() + 1);
    for (std::size_t i = 0, character = 0; i < word.size(); i += character) {
      char32_t code = 0;
      character = std::max<std::size_t>(decode_utf8(word.substr(i), &code), 1);
      const auto offer = [&](std::size_t length, std::int32_t id, double score) {
        End& end = ends[i + length];
        if (end.from < 0 || ends[i].score + score > end.score) end = {ends[i].score + score, static_cast<std::ptrdiff_t>(i), id};
      };
      bool is_piece = false;
      for_each_piece(word.substr(i), [&](std::size_t length, std::int32_t id) {
        offer(length, id, model.pieces[static_cast<std::size_t>(id)].second);
        is_piece = is_piece || length == character;
      });
      if (!is_piece) offer(character, model.unk, unknown_score);
    }
    std::vector<std::int32_t> ids;  // from the end
    for (auto at = static_cast<std::ptrdiff_t>(word.size()); at > 0; at = ends[static_cast<std::size_t>(at)].from)
      ids.push_back(ends[static_cast<std::size_t>(at)].id);
    for (auto id = ids.rbegin(); id != ids.rend(); ++id)
      if (*id != model.unk || id == ids.rbegin() || *std::prev(id) != model.unk) out->push_back(*id);
  }

  // Appends the ids of text without specials. As T5TokenizerFast: characters are replaced, the text is split at white space, and
  // each word gets the mark of a word before it, if it has none; it is split at marks within it, too.
  void encode_text(std::string_view text, std::vector<std::int32_t>* out) const {
    const std::string normal = model.character_map.apply(text);
    std::string word;
    const auto flush = [&] {
      if (word.empty()) return;
      if (!word.starts_with(kWordMark)) word.insert(0, kWordMark);
      for (std::string_view rest = word; !rest.empty();) {
        const std::size_t end = std::min(rest.find(kWordMark, kWordMark.size()), rest.size());
        encode_word(rest.substr(0, end), out);
        rest.remove_prefix(end);
      }
      word.clear();
    };
    char32_t code = 0;
    for (std::string_view rest = normal; !rest.empty();) {
      const std::size_t length = std::max<std::size_t>(decode_utf8(rest, &code), 1);
      if (ends_word(code)) flush();
      else word += rest.substr(0, length);
      rest.remove_prefix(length);
    }
    flush();
  }
};

Tokenizer::Tokenizer(UnigramModel model, std::string_view name) : model_(std::make_unique<Model>()) {
  constexpr double kUnknownPenalty = 10;  // below the least probable piece
  Model& made = *model_;
  made.model = std::move(model);
  const auto& pieces = made.model.pieces;
  made.sorted.resize(pieces.size());
  std::iota(made.sorted.begin(), made.sorted.end(), 0);
  std::sort(made.sorted.begin(), made.sorted.end(), [&](std::int32_t a, std::int32_t b) { return made.piece(a) < made.piece(b); });
  const auto same = std::adjacent_find(made.sorted.begin(), made.sorted.end(),
                                       [&](std::int32_t a, std::int32_t b) { return made.piece(a) == made.piece(b); });
  check(same == made.sorted.end(), ErrorKind::invalid_argument, kWhere,
        "cannot load {}: got piece {} twice, expected each once. Fetch the file again.", name,
        same == made.sorted.end() ? "" : in_quotes(made.piece(*same)));
  for (std::size_t byte = 0; byte <= 256; ++byte)
    made.first_byte[byte] = static_cast<std::size_t>(
        std::partition_point(made.sorted.begin(), made.sorted.end(),
                             [&](std::int32_t id) { return static_cast<std::uint8_t>(made.piece(id)[0]) < byte; }) -
        made.sorted.begin());
  const auto least =
      std::min_element(pieces.begin(), pieces.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  made.unknown_score = least->second - kUnknownPenalty;
  for (const auto& special : made.model.specials) made.begins_special.set(static_cast<std::uint8_t>(special.first[0]));
}

Tokenizer::Tokenizer(const std::filesystem::path& file_or_folder)
    : Tokenizer(read_model(file_or_folder), file_or_folder.string()) {}

Tokenizer Tokenizer::of_sentencepiece(std::string_view bytes, std::string_view name) {
  return Tokenizer(read_sentencepiece(bytes, name), name);
}

Tokenizer Tokenizer::of_json(std::string_view text, std::string_view name) {
  return Tokenizer(read_tokenizer_json(text, name), name);
}

Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

std::vector<std::int32_t> Tokenizer::encode(std::string_view cleaned, int max_tokens, std::size_t* total) const {
  check(cleaned.size() <= kMaxPromptBytes, ErrorKind::invalid_argument, kWhere,
        "prompt too long: got {} bytes, expected at most {}. Shorten it.", cleaned.size(), kMaxPromptBytes);
  check(max_tokens >= 1, ErrorKind::invalid_argument, kWhere, "bad token limit: got {}, expected 1 or more. Use 512.", max_tokens);
  std::vector<std::int32_t> ids;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < cleaned.size();) {
    const auto* special = model_->special(cleaned.substr(i));
    if (special == nullptr) {
      ++i;
      continue;
    }
    model_->encode_text(cleaned.substr(begin, i - begin), &ids);
    ids.push_back(special->second);
    begin = i += special->first.size();
  }
  model_->encode_text(cleaned.substr(begin), &ids);
  if (total != nullptr) *total = ids.size() + 1;
  ids.resize(std::min(ids.size(), static_cast<std::size_t>(max_tokens - 1)));
  ids.push_back(model_->model.eos);
  return ids;
}

int Tokenizer::vocab_size() const {
  auto size = static_cast<std::int32_t>(model_->model.pieces.size());
  for (const auto& special : model_->model.specials) size = std::max(size, special.second + 1);
  return size;
}
std::int32_t Tokenizer::eos_id() const { return model_->model.eos; }
std::int32_t Tokenizer::unk_id() const { return model_->model.unk; }
std::int32_t Tokenizer::pad_id() const { return model_->model.pad; }

}  // namespace zoe
