// From text to token ids, with the model of a T5 tokenizer: `spiece.model` or `tokenizer.json`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

namespace zoe {

struct UnigramModel;

class Tokenizer {
 public:
  // Of a file (a `.json` is a tokenizer.json, any other a SentencePiece model) or of a folder: its spiece.model, else its
  // tokenizer.json; both give the same ids. An invalid_argument error if there is none, or it is damaged or has no end or
  // no unknown piece, an unsupported error if it is another kind of tokenizer than T5's.
  explicit Tokenizer(const std::filesystem::path& file_or_folder);
  // Of the bytes of a spiece.model, as some weights files hold it; `name` is what errors call it.
  static Tokenizer of_sentencepiece(std::string_view bytes, std::string_view name);
  static Tokenizer of_json(std::string_view text, std::string_view name);  // of the text of a tokenizer.json
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // The ids T5TokenizerFast of transformers 5 gives for a cleaned prompt: the pieces of the text, cut to `max_tokens` - 1, then
  // eos_id(). `*total`, if asked for, is how many there would be uncut (so that text was dropped if it is above `max_tokens`).
  // As there, "<pad>", "</s>" and "<unk>" written in the text are those tokens, and a run of characters the vocabulary lacks is
  // one unk_id() even where the model could spell it in bytes.
  // Text beyond kMaxPromptBytes and max_tokens below 1 are invalid_argument errors. Safe to call from several threads.
  std::vector<std::int32_t> encode(std::string_view cleaned, int max_tokens, std::size_t* total = nullptr) const;

  int vocab_size() const;  // every id is below it; the caller compares it with the encoder's
  std::int32_t eos_id() const;
  std::int32_t unk_id() const;
  std::int32_t pad_id() const;  // 0 where the model names none, as in T5

 private:
  explicit Tokenizer(UnigramModel model, std::string_view name);
  struct Model;
  std::unique_ptr<Model> model_;
};

}  // namespace zoe
