// Reading JSON config files: a typed view that names the file, the key, the value and what was expected in every error.
//
//   const JsonObject config = read_json_object(folder / "config.json", "transformer/config.json");
//   const auto layers = config.integer("num_layers", 1, 512);
//   const auto eps = config.number("eps", 0, 1, 1e-6);          // 1e-6 if the key is absent or null
//   const auto patch = config.integers("patch_size", 1, 16, 3, 3);
//
// Errors are invalid_argument: `[transformer/config.json] bad num_layers: got -1, expected an integer from 1 to 512. ...`
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace zoe {

struct JsonNode;

// An object of a parsed text. Cheap to copy: all views of one text share it.
class JsonObject {
 public:
  bool has(std::string_view key) const;      // present and not null
  bool is_null(std::string_view key) const;  // present and null
  std::vector<std::string> keys() const;     // sorted
  const std::string& where() const { return where_; }

  // A required value, or, with a fallback, one that may be absent or null. An integer is written without a fraction or an
  // exponent; a number is any JSON number (always finite).
  static constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min(), kMax = std::numeric_limits<std::int64_t>::max();
  std::int64_t integer(std::string_view key, std::int64_t min, std::int64_t max, std::optional<std::int64_t> fallback = {}) const;
  double number(std::string_view key, double min, double max, std::optional<double> fallback = {}) const;
  bool boolean(std::string_view key, std::optional<bool> fallback = {}) const;
  std::string string(std::string_view key, std::optional<std::string> fallback = {}) const;
  // A string that must be one of `allowed`.
  std::string choice(std::string_view key, std::initializer_list<std::string_view> allowed,
                     std::optional<std::string> fallback = {}) const;

  // A required array of min_count to max_count elements, each in its range; ask has() first if it may be absent.
  std::vector<std::int64_t> integers(std::string_view key, std::int64_t min, std::int64_t max, std::size_t min_count,
                                     std::size_t max_count) const;
  std::vector<double> numbers(std::string_view key, double min, double max, std::size_t min_count, std::size_t max_count) const;
  std::vector<bool> booleans(std::string_view key, std::size_t min_count, std::size_t max_count) const;
  // Null elements become "" (Diffusers writes [null, null] for a part that a pipeline lacks).
  std::vector<std::string> strings(std::string_view key, std::size_t min_count, std::size_t max_count) const;

  JsonObject object(std::string_view key) const;
  std::vector<JsonObject> objects(std::string_view key, std::size_t min_count, std::size_t max_count) const;
  // A required array of pairs [string, number].
  std::vector<std::pair<std::string, double>> named_numbers(std::string_view key, double min, double max, std::size_t min_count,
                                                            std::size_t max_count) const;

 private:
  friend JsonObject parse_json_object(std::string_view, std::string_view, std::size_t);
  JsonObject(std::shared_ptr<const JsonNode> node, std::string where, std::string path);

  const JsonNode* find(std::string_view key) const;
  const JsonNode& required(std::string_view key, std::string_view expected) const;
  const std::vector<JsonNode>& array(std::string_view key, std::string_view elements, std::size_t min_count,
                                     std::size_t max_count) const;
  std::string path_of(std::string_view key) const;

  std::shared_ptr<const JsonNode> node_;
  std::string where_;  // the file, for messages
  std::string path_;   // of this object in the text: "" or "a.b"
};

// Parses a text that must be one JSON object (RFC 8259, UTF-8). Refused, with line and column: broken syntax, nesting beyond
// 64, a key twice in one object, numbers beyond a double, and more than `max_values` values in all (which bounds the memory).
JsonObject parse_json_object(std::string_view text, std::string_view where, std::size_t max_values = 1'000'000);

// The same from a file of at most `max_bytes`.
JsonObject read_json_object(const std::filesystem::path& path, std::string_view where, std::size_t max_bytes = 16 << 20);

}  // namespace zoe
