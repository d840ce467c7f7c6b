#include "base/json.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <variant>

#include "base/error.h"
#include "base/files.h"
#include "base/nearest.h"

namespace zoe {

struct JsonNode {
  using Array = std::vector<JsonNode>;
  using Object = std::map<std::string, JsonNode, std::less<>>;
  // Integers beyond int64 stay unsigned so that a message shows them as they are written.
  std::variant<std::nullptr_t, bool, std::int64_t, std::uint64_t, double, std::string, Array, Object> value;
};

namespace {

constexpr std::size_t kMaxDepth = 64;
constexpr std::size_t kShownBefore = 24;  // bytes of a line in a message

// Walks the text and remembers how far the parser has read: its events carry no position of their own.
struct Cursor {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at;
  const char** last_read;

  reference operator*() const { return *at; }
  Cursor& operator++() {
    *last_read = ++at;
    return *this;
  }
  friend bool operator==(const Cursor& a, const Cursor& b) { return a.at == b.at; }
};

// Builds the tree under `root` from the events of nlohmann's parser, which is iterative: depth is bounded here, before anything
// nests.
class TreeBuilder : public nlohmann::json_sax<nlohmann::json> {
 public:
  TreeBuilder(std::string_view text, std::string_view where, std::size_t max_values, JsonNode& root)
      : text_(text), where_(where), values_left_(max_values), last_read_(text.data()), root_(root) {}

  void build() {
    const char* const end = text_.data() + text_.size();
    // The parser takes a zero byte for the end of the text.
    const std::size_t zero = text_.find('\0');
    if (zero != std::string_view::npos) {
      last_read_ = text_.data() + zero + 1;
      refuse("a zero byte", "JSON text");
    }
    nlohmann::json::sax_parse(Cursor{text_.data(), &last_read_}, Cursor{end, &last_read_}, this);
  }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(std::int64_t value) override { return add(value); }
  bool number_unsigned(std::uint64_t value) override {
    if (value <= static_cast<std::uint64_t>(JsonObject::kMax)) return add(static_cast<std::int64_t>(value));
    return add(value);
  }
  bool number_float(double value, const std::string&) override { return add(value); }
  bool string(std::string& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // not in JSON texts
  bool start_object(std::size_t) override { return open<JsonNode::Object>(); }
  bool start_array(std::size_t) override { return open<JsonNode::Array>(); }
  bool end_object() override { return open_.pop_back(), true; }
  bool end_array() override { return open_.pop_back(), true; }

  bool key(std::string& name) override {
    const auto [position, is_new] = std::get<JsonNode::Object>(open_.back()->value).try_emplace(std::move(name));
    if (!is_new) refuse(fmt::format("the key {} twice", in_quotes(position->first)), "every key once in an object");
    member_ = &position->second;
    return true;
  }

  bool parse_error(std::size_t position, const std::string& last_token, const nlohmann::detail::exception& error) override {
    last_read_ = text_.data() + std::min(position, text_.size());
    if (dynamic_cast<const nlohmann::json::out_of_range*>(&error))
      refuse(in_quotes(last_token), "a number in the range of a double");
    if (position > text_.size()) refuse("the end of the text", "more JSON");
    // The line up to the character that does not fit.
    const std::string_view before = text_.substr(0, position);
    std::size_t begin = position > kShownBefore ? position - kShownBefore : 0;
    if (const std::size_t newline = before.rfind('\n'); newline != std::string_view::npos) begin = std::max(begin, newline + 1);
    while (begin + 1 < position && (static_cast<unsigned char>(text_[begin]) & 0xc0) == 0x80) ++begin;
    refuse(in_quotes(before.substr(std::min(begin, position - 1))), "valid JSON");
  }

 private:
  [[noreturn]] void refuse(std::string_view got, std::string_view expected) const {
    const std::string_view before = text_.substr(0, static_cast<std::size_t>(last_read_ - text_.data()));
    const auto line = 1 + std::count(before.begin(), before.end(), '\n') - before.ends_with('\n');
    const std::size_t line_start = before.size() < 2 ? std::string_view::npos : before.rfind('\n', before.size() - 2);
    const std::size_t column =
        std::max<std::size_t>(1, line_start == std::string_view::npos ? before.size() : before.size() - line_start - 1);
    fail(ErrorKind::invalid_argument, where_, "broken JSON at line {}, column {}: got {}, expected {}. Check the file.", line,
         column, got, expected);
  }

  // A new null where the text has its next value: the root, the member whose key came last, or the end of an array.
  JsonNode& place() {
    if (values_left_-- == 0) refuse("too many values", "a smaller text");
    if (open_.empty()) return root_;
    if (auto* array = std::get_if<JsonNode::Array>(&open_.back()->value)) return array->emplace_back();
    return *member_;
  }

  template <class T>
  bool add(T value) {
    place().value.emplace<T>(std::move(value));
    return true;
  }

  template <class Container>
  bool open() {
    if (open_.size() == kMaxDepth) refuse(fmt::format("more than {} levels of nesting", kMaxDepth), "fewer");
    JsonNode& node = place();
    node.value.emplace<Container>();
    open_.push_back(&node);
    return true;
  }

  std::string_view text_, where_;
  std::size_t values_left_;
  const char* last_read_;
  JsonNode& root_;
  std::vector<JsonNode*> open_;  // from the root to the innermost; none of them moves while it is open
  JsonNode* member_ = nullptr;
};

std::string describe(const JsonNode& node) {
  struct Describe {
    std::string operator()(std::nullptr_t) const { return "null"; }
    std::string operator()(bool value) const { return value ? "true" : "false"; }
    std::string operator()(std::int64_t value) const { return std::to_string(value); }
    std::string operator()(std::uint64_t value) const { return std::to_string(value); }
    std::string operator()(double value) const { return fmt::format("{:#}", value); }
    std::string operator()(const std::string& value) const { return "the string " + in_quotes(value); }
    std::string operator()(const JsonNode::Array& value) const { return fmt::format("an array of {}", value.size()); }
    std::string operator()(const JsonNode::Object&) const { return "an object"; }
  };
  return std::visit(Describe(), node.value);
}

// One value and its name, for the checks that single values and array elements share.
struct Item {
  const JsonNode& node;
  const std::string& where;
  std::string path;

  [[noreturn]] void refuse(std::string_view expected) const {
    fail(ErrorKind::invalid_argument, where, "bad {}: got {}, expected {}. Check the file.", path, describe(node), expected);
  }

  template <class T>
  const T& as(std::string_view expected) const {
    if (const T* value = std::get_if<T>(&node.value)) return *value;
    refuse(expected);
  }

  std::int64_t integer(std::int64_t min, std::int64_t max, const std::string& expected) const {
    const auto value = as<std::int64_t>(expected);
    if (value < min || value > max) refuse(expected);
    return value;
  }

  double number(double min, double max, const std::string& expected) const {
    double value;
    if (const auto* whole = std::get_if<std::int64_t>(&node.value)) value = static_cast<double>(*whole);
    else if (const auto* large = std::get_if<std::uint64_t>(&node.value)) value = static_cast<double>(*large);
    else value = as<double>(expected);
    if (value < min || value > max) refuse(expected);
    return value;
  }
};

std::string integer_range(std::int64_t min, std::int64_t max) {
  if (max == JsonObject::kMax) return min == JsonObject::kMin ? "an integer" : fmt::format("an integer of at least {}", min);
  return min == max ? fmt::format("{}", min) : fmt::format("an integer from {} to {}", min, max);
}

std::string number_range(double min, double max) { return fmt::format("a number from {} to {}", min, max); }

}  // namespace

JsonObject::JsonObject(std::shared_ptr<const JsonNode> node, std::string where, std::string path)
    : node_(std::move(node)), where_(std::move(where)), path_(std::move(path)) {}

const JsonNode* JsonObject::find(std::string_view key) const {
  const auto& members = std::get<JsonNode::Object>(node_->value);
  const auto member = members.find(key);
  return member == members.end() ? nullptr : &member->second;
}

const JsonNode& JsonObject::required(std::string_view key, std::string_view expected) const {
  const JsonNode* node = find(key);
  check(node, ErrorKind::invalid_argument, where_, "missing {}: got no such key, expected {}. Check the file.", path_of(key),
        expected);
  return *node;
}

std::string JsonObject::path_of(std::string_view key) const {
  const std::string_view shown = key.substr(0, 200);
  return path_.empty() ? std::string(shown) : fmt::format("{}.{}", path_, shown);
}

bool JsonObject::has(std::string_view key) const { return find(key) && !is_null(key); }

bool JsonObject::is_null(std::string_view key) const {
  const JsonNode* node = find(key);
  return node && std::holds_alternative<std::nullptr_t>(node->value);
}

std::vector<std::string> JsonObject::keys() const {
  std::vector<std::string> out;
  for (const auto& [key, node] : std::get<JsonNode::Object>(node_->value)) out.push_back(key);
  return out;
}

std::int64_t JsonObject::integer(std::string_view key, std::int64_t min, std::int64_t max,
                                 std::optional<std::int64_t> fallback) const {
  if (fallback && !has(key)) return *fallback;
  const std::string expected = integer_range(min, max);
  return Item{required(key, expected), where_, path_of(key)}.integer(min, max, expected);
}

double JsonObject::number(std::string_view key, double min, double max, std::optional<double> fallback) const {
  if (fallback && !has(key)) return *fallback;
  const std::string expected = number_range(min, max);
  return Item{required(key, expected), where_, path_of(key)}.number(min, max, expected);
}

bool JsonObject::boolean(std::string_view key, std::optional<bool> fallback) const {
  if (fallback && !has(key)) return *fallback;
  constexpr std::string_view kExpected = "true or false";
  return Item{required(key, kExpected), where_, path_of(key)}.as<bool>(kExpected);
}

std::string JsonObject::string(std::string_view key, std::optional<std::string> fallback) const {
  if (fallback && !has(key)) return *fallback;
  constexpr std::string_view kExpected = "a string";
  return Item{required(key, kExpected), where_, path_of(key)}.as<std::string>(kExpected);
}

std::string JsonObject::choice(std::string_view key, std::initializer_list<std::string_view> allowed,
                               std::optional<std::string> fallback) const {
  if (fallback && !has(key)) return *fallback;
  std::string expected;
  for (const std::string_view name : allowed) expected += (expected.empty() ? "" : " or ") + in_quotes(name);
  const Item item{required(key, expected), where_, path_of(key)};
  const std::string& value = item.as<std::string>(expected);
  if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) item.refuse(expected);
  return value;
}

const std::vector<JsonNode>& JsonObject::array(std::string_view key, std::string_view elements, std::size_t min_count,
                                               std::size_t max_count) const {
  const std::string count = min_count == max_count ? fmt::format("{}", min_count) : fmt::format("{} to {}", min_count, max_count);
  const std::string expected = fmt::format("an array of {}, each {}", count, elements);
  const Item item{required(key, expected), where_, path_of(key)};
  const auto& values = item.as<JsonNode::Array>(expected);
  if (values.size() < min_count || values.size() > max_count) item.refuse(expected);
  return values;
}

std::vector<std::int64_t> JsonObject::integers(std::string_view key, std::int64_t min, std::int64_t max, std::size_t min_count,
                                               std::size_t max_count) const {
  const std::string expected = integer_range(min, max);
  std::vector<std::int64_t> out;
  for (const JsonNode& node : array(key, expected, min_count, max_count))
    out.push_back(Item{node, where_, fmt::format("{}[{}]", path_of(key), out.size())}.integer(min, max, expected));
  return out;
}

std::vector<double> JsonObject::numbers(std::string_view key, double min, double max, std::size_t min_count,
                                        std::size_t max_count) const {
  const std::string expected = number_range(min, max);
  std::vector<double> out;
  for (const JsonNode& node : array(key, expected, min_count, max_count))
    out.push_back(Item{node, where_, fmt::format("{}[{}]", path_of(key), out.size())}.number(min, max, expected));
  return out;
}

std::vector<bool> JsonObject::booleans(std::string_view key, std::size_t min_count, std::size_t max_count) const {
  constexpr std::string_view kExpected = "true or false";
  std::vector<bool> out;
  for (const JsonNode& node : array(key, kExpected, min_count, max_count))
    out.push_back(Item{node, where_, fmt::format("{}[{}]", path_of(key), out.size())}.as<bool>(kExpected));
  return out;
}

std::vector<std::string> JsonObject::strings(std::string_view key, std::size_t min_count, std::size_t max_count) const {
  constexpr std::string_view kExpected = "a string or null";
  std::vector<std::string> out;
  for (const JsonNode& node : array(key, kExpected, min_count, max_count)) {
    const bool is_null = std::holds_alternative<std::nullptr_t>(node.value);
    out.push_back(is_null ? "" : Item{node, where_, fmt::format("{}[{}]", path_of(key), out.size())}.as<std::string>(kExpected));
  }
  return out;
}

JsonObject JsonObject::object(std::string_view key) const {
  constexpr std::string_view kExpected = "an object";
  const Item item{required(key, kExpected), where_, path_of(key)};
  item.as<JsonNode::Object>(kExpected);
  return JsonObject(std::shared_ptr<const JsonNode>(node_, &item.node), where_, item.path);
}

std::vector<JsonObject> JsonObject::objects(std::string_view key, std::size_t min_count, std::size_t max_count) const {
  constexpr std::string_view kExpected = "an object";
  std::vector<JsonObject> out;
  for (const JsonNode& node : array(key, kExpected, min_count, max_count)) {
    const Item item{node, where_, fmt::format("{}[{}]", path_of(key), out.size())};
    item.as<JsonNode::Object>(kExpected);
    out.push_back(JsonObject(std::shared_ptr<const JsonNode>(node_, &node), where_, item.path));
  }
  return out;
}

std::vector<std::pair<std::string, double>> JsonObject::named_numbers(std::string_view key, double min, double max,
                                                                      std::size_t min_count, std::size_t max_count) const {
  const std::string expected = fmt::format("a pair of a string and {}", number_range(min, max));
  std::vector<std::pair<std::string, double>> out;
  for (const JsonNode& node : array(key, expected, min_count, max_count)) {
    const Item item{node, where_, fmt::format("{}[{}]", path_of(key), out.size())};
    const auto& pair = item.as<JsonNode::Array>(expected);
    if (pair.size() != 2) item.refuse(expected);
    out.emplace_back(Item{pair[0], where_, item.path}.as<std::string>(expected),
                     Item{pair[1], where_, item.path}.number(min, max, expected));
  }
  return out;
}

JsonObject parse_json_object(std::string_view text, std::string_view where, std::size_t max_values) {
  const auto root = std::make_shared<JsonNode>();
  TreeBuilder(text, where, max_values, *root).build();
  check(std::holds_alternative<JsonNode::Object>(root->value), ErrorKind::invalid_argument, where,
        "bad JSON: got {}, expected an object. Check the file.", describe(*root));
  return JsonObject(root, std::string(where), "");
}

JsonObject read_json_object(const std::filesystem::path& path, std::string_view where, std::size_t max_bytes) {
  return parse_json_object(read_file(path, where, max_bytes), where);
}

}  // namespace zoe
