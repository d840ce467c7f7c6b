// Any bytes as a tokenizer, a SentencePiece model or (where they begin with '{') a tokenizer.json: either refused with an Error, or
// one whose ids are below the size of its vocabulary.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const zoe::Tokenizer tokenizer =
        bytes.starts_with('{') ? zoe::Tokenizer::of_json(bytes, "fuzz") : zoe::Tokenizer::of_sentencepiece(bytes, "fuzz");
    for (const std::string_view text : {"a red circle</s> <0x41>", "\u2581\u2581a\u00e9 e\u0301 \ufb01\u0301 \u4e2d\U0001f600", ""})
      for (const std::int32_t id : tokenizer.encode(text, 512))
        if (id < 0 || id >= tokenizer.vocab_size()) std::abort();
  } catch (const zoe::Error& error) {
    if (error.kind() == zoe::ErrorKind::internal || std::string_view(error.what()).find('\n') != std::string_view::npos) throw;
  }
  return 0;
}
