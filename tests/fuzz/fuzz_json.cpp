// Any bytes as a config file: either refused with an Error, or every key answers every question with a value or an Error.
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/json.h"

namespace {

template <class Body>
void allow_error(Body&& body) {
  try {
    body();
  } catch (const zoe::Error& error) {
    if (error.kind() == zoe::ErrorKind::internal || std::string_view(error.what()).find('\n') != std::string_view::npos) throw;
  }
}

void ask_everything(const zoe::JsonObject& config) {
  for (const std::string& key : config.keys()) {
    allow_error([&] { config.integer(key, 1, 512); });
    allow_error([&] { config.number(key, -1, 1, 0.5); });
    allow_error([&] { config.boolean(key); });
    allow_error([&] { config.string(key); });
    allow_error([&] { config.choice(key, {"a", "b"}); });
    allow_error([&] { config.integers(key, zoe::JsonObject::kMin, zoe::JsonObject::kMax, 0, 8); });
    allow_error([&] { config.numbers(key, -1e300, 1e300, 1, 100); });
    allow_error([&] { config.booleans(key, 0, 4); });
    allow_error([&] { config.strings(key, 0, 1000); });
    allow_error([&] { ask_everything(config.object(key)); });
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  allow_error([&] { ask_everything(zoe::parse_json_object(text, "fuzz", 10'000)); });
  return 0;
}
