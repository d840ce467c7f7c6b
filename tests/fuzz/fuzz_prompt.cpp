// Any bytes as a prompt: either refused with an Error, or clean UTF-8 and ids below the size of the vocabulary.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "text/prompt.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const zoe::Tokenizer tokenizer(ZOE_MODELS "/toy-wan/tokenizer/spiece.model");
  if (size == 0) return 0;
  const int max_tokens = 1 + data[0] * 2;
  try {
    const std::string cleaned = zoe::prompt_clean({reinterpret_cast<const char*>(data) + 1, size - 1});
    zoe::prompt_clean(cleaned);  // what comes out is UTF-8, whatever the references named
    std::size_t total = 0;
    const auto ids = tokenizer.encode(cleaned, max_tokens, &total);
    if (ids.empty() || ids.back() != tokenizer.eos_id() || ids.size() != std::min(total, static_cast<std::size_t>(max_tokens)))
      std::abort();
    for (const std::int32_t id : ids)
      if (id < 0 || id >= tokenizer.vocab_size()) std::abort();
  } catch (const zoe::Error& error) {
    if (error.kind() == zoe::ErrorKind::internal || std::string_view(error.what()).find('\n') != std::string_view::npos) throw;
  }
  return 0;
}
