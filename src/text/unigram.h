// The model of a T5 tokenizer, from either file that tools write it to.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/character_map.h"

namespace zoe {

struct UnigramModel {
  std::vector<std::pair<std::string, double>> pieces;  // with their logarithmic probabilities; the index is the id
  std::int32_t unk = -1, eos = -1, pad = 0;
  std::vector<std::pair<std::string, std::int32_t>> specials;  // written in a text, they are these ids
  CharacterMap character_map;
};

// Of the bytes of a `spiece.model`, or the text of a `tokenizer.json`. `file` names it in errors: invalid_argument if it is damaged
// or lacks end or unknown piece, unsupported if it is another kind of tokenizer.
UnigramModel read_sentencepiece(std::string_view bytes, std::string_view file);
UnigramModel read_tokenizer_json(std::string_view text, std::string_view file);

}  // namespace zoe
