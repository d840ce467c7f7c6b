// Names and values of a request's fields as text: every front end's options, files' metadata, JSON.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "base/json.h"
#include "base/nearest.h"
#include "pipeline/request.h"
#include "pipeline/request_choices.h"
#include "text/prompt.h"

namespace zoe {

namespace {

std::string snake(std::string_view name) {
  std::string text(name.substr(std::min(name.find_first_not_of('-'), name.size())));
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

struct Parser {
  const RequestField& field;
  std::string where;

  [[noreturn]] void refuse(std::string_view text, std::string_view expected) const {
    fail(ErrorKind::invalid_argument, where, "got {}, expected {}.", in_quotes(text), expected);
  }

  template <class T>
  std::optional<T> whole(std::string_view text) const {
    T value{};
    const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (status != std::errc() || end != text.data() + text.size()) return {};
    return value;
  }

  std::int64_t integer(std::string_view text) const {
    const auto value = whole<std::int64_t>(text);
    if (!value || static_cast<double>(*value) < field.min || static_cast<double>(*value) > field.max)
      refuse(text, fmt::format("a whole number from {} to {}", field.min, field.max));
    return *value;
  }

  double number(std::string_view text) const {
    const auto value = whole<double>(text);
    if (!value || !std::isfinite(*value) || *value < field.min || *value > field.max)
      refuse(text, fmt::format("a number from {} to {}", field.min, field.max));
    return *value;
  }

  std::uint64_t seed(std::string_view text) const {
    if (text == "-1") {
      std::random_device device;
      return std::uniform_int_distribution<std::uint32_t>()(device);
    }
    const auto value = whole<std::uint64_t>(text);
    if (!value) refuse(text, "a whole number from 0 to 18446744073709551615, or -1 for a random one");
    return *value;
  }

  std::string prompt(std::string_view text) const {
    check(text.size() <= kMaxPromptBytes, ErrorKind::invalid_argument, where,
          "too long: got {} bytes, expected at most {}. Shorten it.", text.size(), kMaxPromptBytes);
    return std::string(text);
  }

  template <class T>
  T choice(std::string_view text) const {
    for (const Choice<T>& row : choices_of<T>())
      if (row.text == text) return row.value;
    refuse(text, or_list(names_of<T>()));
  }

  std::filesystem::path path(std::string_view text) const {
    if (text.empty() || static_cast<double>(text.size()) > field.max || text.find('\0') != text.npos)
      refuse(text, fmt::format("the path of a file, of at most {} bytes", field.max));
    return text;
  }

  std::vector<std::filesystem::path> paths(std::span<const std::string> texts) const {
    std::vector<std::filesystem::path> all;
    for (const std::string& text : texts) all.push_back(path(text));
    return all;
  }

  bool flag(std::string_view text) const {
    if (text == "true") return true;
    if (text != "false") refuse(text, "true or false");
    return false;
  }

  void size(Request& request, std::string_view text) const {
    const std::size_t between = text.find_first_of("xX*");
    const auto part = [&](std::string_view digits) -> std::int64_t {
      const auto value = whole<std::int64_t>(digits);
      if (!value || *value < 1 || static_cast<double>(*value) > field.max)
        refuse(text, fmt::format("width and height from 1 to {}, as 832x480", field.max));
      return *value;
    };
    if (between == std::string_view::npos) part("");
    request.width = part(text.substr(0, between));
    request.height = part(text.substr(between + 1));
  }

  // FILE or FILE=STRENGTH; what is behind the last "=" and is no number belongs to the name.
  LoraChoice lora(std::string_view text) const {
    LoraChoice choice{std::string(text)};
    const std::size_t at = text.rfind('=');
    const std::string_view last = text.substr(at == std::string_view::npos ? text.size() : at + 1);
    if (whole<double>(last)) {
      choice = {std::string(text.substr(0, at)), number(last)};
    } else if (const std::string_view suffix = ".safetensors";
               at != std::string_view::npos && text.substr(0, at).ends_with(suffix)) {
      refuse(last, fmt::format("a number from {} to {} behind the file's name", field.min, field.max));
    }
    if (choice.path.empty()) refuse(text, "a file, or FILE=STRENGTH");
    return choice;
  }

  // Of files' metadata: a comma separates where a strength stands before it, as it does there.
  std::vector<LoraChoice> loras(std::span<const std::string> texts) const {
    std::vector<LoraChoice> all;
    for (const std::string& text : texts) {
      std::string_view rest = text;
      for (std::size_t from = 0; from < rest.size();) {
        const std::size_t comma = rest.find(',', from), equals = rest.substr(0, comma).rfind('=');
        if (comma == std::string_view::npos) break;
        from = comma + 1;
        if (equals == std::string_view::npos || !whole<double>(rest.substr(equals + 1, comma - equals - 1))) continue;
        all.push_back(lora(rest.substr(0, comma)));
        rest.remove_prefix(comma + 1);
        from = 0;
      }
      all.push_back(lora(rest));
    }
    return all;
  }

  // Elements with commas between; several texts follow one another.
  std::vector<std::string_view> elements(std::span<const std::string> texts) const {
    std::vector<std::string_view> list;
    for (const std::string& text : texts)
      for (std::size_t begin = 0; begin <= text.size();) {
        const std::size_t end = std::min(text.find(',', begin), text.size());
        list.push_back(std::string_view(text).substr(begin, end - begin));
        begin = end + 1;
        check(list.size() <= kMaxVideos, ErrorKind::invalid_argument, where, "got more than {} values. Give fewer.", kMaxVideos);
      }
    return list;
  }
};

void set(Request& request, const RequestField& field, std::span<const std::string> texts, Spelling spelling) {
  const Parser parser{.field = field, .where = spelled(field.name, spelling)};
  check(field.is_list() || texts.size() == 1, ErrorKind::invalid_argument, parser.where, "got {} values, expected one.",
        texts.size());
  std::visit(
      Overloaded{[&](std::vector<std::string> Request::*slot) {
                   std::vector<std::string> prompts;
                   for (const std::string& text : texts) prompts.push_back(parser.prompt(text));
                   request.*slot = std::move(prompts);
                 },
                 [&](std::string Request::*slot) { request.*slot = parser.prompt(texts[0]); },
                 [&](std::optional<std::int64_t> Request::*slot) { request.*slot = parser.integer(texts[0]); },
                 [&](std::optional<int> Request::*slot) { request.*slot = static_cast<int>(parser.integer(texts[0])); },
                 [&](std::optional<double> Request::*slot) { request.*slot = parser.number(texts[0]); },
                 [&](std::vector<double> Request::*slot) {
                   std::vector<double> levels;
                   for (const std::string_view text : parser.elements(texts)) {
                     levels.push_back(parser.number(text));
                     if (levels.size() > 1 && !(levels.back() < levels[levels.size() - 2]))
                       parser.refuse(text, fmt::format("a level below the one before, {}", levels[levels.size() - 2]));
                   }
                   request.*slot = std::move(levels);
                 },
                 [&](std::vector<std::uint64_t> Request::*slot) {
                   std::vector<std::uint64_t> seeds;
                   for (const std::string_view text : parser.elements(texts)) seeds.push_back(parser.seed(text));
                   check(!seeds.empty(), ErrorKind::invalid_argument, parser.where, "got no seed, expected one or more.");
                   request.*slot = std::move(seeds);
                 },
                 [&](std::optional<SchedulerKind> Request::*slot) { request.*slot = parser.choice<SchedulerKind>(texts[0]); },
                 [&](GuidanceBatch Request::*slot) { request.*slot = parser.choice<GuidanceBatch>(texts[0]); },
                 [&](std::filesystem::path Request::*slot) { request.*slot = parser.path(texts[0]); },
                 [&](std::vector<std::filesystem::path> Request::*slot) { request.*slot = parser.paths(texts); },
                 [&](Fit Request::*slot) { request.*slot = parser.choice<Fit>(texts[0]); },
                 [&](std::vector<LoraChoice> Request::*slot) { request.*slot = parser.loras(texts); },
                 [&](Preset Request::*slot) { request.*slot = parser.choice<Preset>(texts[0]); },
                 [&](LoraMode Request::*slot) { request.*slot = parser.choice<LoraMode>(texts[0]); },
                 [&](std::optional<Arithmetic> Request::*slot) { request.*slot = parser.choice<Arithmetic>(texts[0]); },
                 [&](Quality Request::*slot) { request.*slot = parser.choice<Quality>(texts[0]); },
                 [&](bool Request::*slot) { request.*slot = parser.flag(texts[0]); },
                 [&](SizeSlot) { parser.size(request, texts[0]); }},
      field.slot);
}

// An unknown name, with what may have been meant.
[[noreturn]] void refuse_unknown(std::string_view name, Spelling spelling, std::string_view where) {
  std::string advice;
  if (const RequestField* hint = find_hint(name)) {
    advice = fmt::format("See {}.", spelled(hint->name, spelling));
  } else {
    std::vector<std::string> known;
    for (const RequestField& field : request_fields()) {
      known.emplace_back(field.name);
      known.insert(known.end(), field.aliases.begin(), field.aliases.end());
    }
    if (const std::string near = nearest(snake(name), known, 2); !near.empty())
      advice = fmt::format("Did you mean {}?", spelled(find_field(near)->name, spelling));
    else advice = "docs/requests.md lists them.";
  }
  fail(ErrorKind::invalid_argument, where, "unknown field: got {}, expected one of a request. {}", in_quotes(name), advice);
}

}  // namespace

const RequestField* find_field(std::string_view name) {
  const std::string wanted = snake(name);
  for (const RequestField& field : request_fields())
    if (field.name == wanted || std::find(field.aliases.begin(), field.aliases.end(), wanted) != field.aliases.end()) return &field;
  return nullptr;
}

const RequestField* find_hint(std::string_view name) {
  const std::string wanted = snake(name);
  for (const RequestField& field : request_fields())
    if (std::find(field.hints.begin(), field.hints.end(), wanted) != field.hints.end()) return &field;
  return nullptr;
}

std::string spelled(std::string_view name, Spelling spelling) {
  if (spelling == Spelling::key) return std::string(name);
  std::string text = "--" + std::string(name);
  std::replace(text.begin(), text.end(), '_', '-');
  return text;
}

void set_field(Request& request, std::string_view name, std::span<const std::string> texts, Spelling spelling) {
  const RequestField* const field = find_field(name);
  if (!field) refuse_unknown(name, spelling, "request");
  set(request, *field, texts, spelling);
}

void set_field(Request& request, std::string_view name, std::string_view text, Spelling spelling) {
  const std::string one[] = {std::string(text)};
  set_field(request, name, one, spelling);
}

std::vector<std::string> get_field(const Request& request, const RequestField& field) {
  using Texts = std::vector<std::string>;
  const auto if_set = [](const auto& value) { return value ? Texts{fmt::format("{}", *value)} : Texts{}; };
  const auto joined = [](const auto& values) {
    return values.empty() ? Texts{} : Texts{fmt::format("{}", fmt::join(values, ","))};
  };
  return std::visit(
      Overloaded{
          [&](std::vector<std::string> Request::*slot) { return request.*slot; },
          [&](std::string Request::*slot) { return (request.*slot).empty() ? Texts{} : Texts{request.*slot}; },
          [&](std::optional<std::int64_t> Request::*slot) { return if_set(request.*slot); },
          [&](std::optional<int> Request::*slot) { return if_set(request.*slot); },
          [&](std::optional<double> Request::*slot) { return if_set(request.*slot); },
          [&](std::vector<double> Request::*slot) { return joined(request.*slot); },
          [&](std::vector<std::uint64_t> Request::*slot) { return joined(request.*slot); },
          [&](std::optional<SchedulerKind> Request::*slot) {
            return request.*slot ? Texts{std::string(name_of(*(request.*slot)))} : Texts{};
          },
          [&](GuidanceBatch Request::*slot) {
            return request.*slot == GuidanceBatch::automatic ? Texts{} : Texts{std::string(name_of(request.*slot))};
          },
          [&](std::filesystem::path Request::*slot) { return (request.*slot).empty() ? Texts{} : Texts{(request.*slot).string()}; },
          [&](std::vector<std::filesystem::path> Request::*slot) {
            Texts texts;
            for (const std::filesystem::path& path : request.*slot) texts.push_back(path.string());
            return texts;
          },
          [&](Fit Request::*slot) { return request.*slot == Fit::crop ? Texts{} : Texts{std::string(name_of(request.*slot))}; },
          [&](std::vector<LoraChoice> Request::*slot) {
            Texts texts;
            for (const LoraChoice& each : request.*slot) texts.push_back(fmt::format("{}={}", each.path, each.strength));
            return texts;
          },
          [&](Preset Request::*slot) {
            return request.*slot == Preset::none ? Texts{} : Texts{std::string(name_of(request.*slot))};
          },
          [&](LoraMode Request::*slot) {
            return request.*slot == LoraMode::automatic ? Texts{} : Texts{std::string(name_of(request.*slot))};
          },
          [&](std::optional<Arithmetic> Request::*slot) {
            return request.*slot ? Texts{std::string(name_of(*(request.*slot)))} : Texts{};
          },
          [&](Quality Request::*slot) {
            return request.*slot == Quality::exact ? Texts{} : Texts{std::string(name_of(request.*slot))};
          },
          [&](bool Request::*slot) { return request.*slot ? Texts{"true"} : Texts{}; }, [&](SizeSlot) { return Texts{}; }},
      field.slot);
}

std::string to_json(const Request& request) {
  using nlohmann::json;
  const auto one_or_all = [](const auto& values) { return values.size() == 1 ? json(values[0]) : json(values); };
  nlohmann::ordered_json object = nlohmann::ordered_json::object();
  for (const RequestField& field : request_fields()) {
    const std::vector<std::string> texts = get_field(request, field);
    if (texts.empty()) continue;
    const std::string key(field.name);
    std::visit(Overloaded{[&](std::vector<std::string> Request::*slot) { object[key] = one_or_all(request.*slot); },
                          [&](std::optional<std::int64_t> Request::*slot) { object[key] = *(request.*slot); },
                          [&](std::optional<int> Request::*slot) { object[key] = *(request.*slot); },
                          [&](std::optional<double> Request::*slot) { object[key] = *(request.*slot); },
                          [&](std::vector<double> Request::*slot) { object[key] = request.*slot; },
                          [&](std::vector<std::uint64_t> Request::*slot) { object[key] = one_or_all(request.*slot); },
                          [&](std::vector<LoraChoice> Request::*) { object[key] = one_or_all(texts); },
                          [&](std::vector<std::filesystem::path> Request::*) { object[key] = one_or_all(texts); },
                          [&](bool Request::*slot) { object[key] = request.*slot; }, [&](auto) { object[key] = texts[0]; }},
               field.slot);
  }
  return object.dump(-1, ' ', false, json::error_handler_t::replace);
}

Request request_from_json(std::string_view text, std::string_view where, std::map<std::string, std::string>* others) {
  using nlohmann::json;
  parse_json_object(text, where);  // its errors have line and column
  const json object = json::parse(text);
  const auto text_of = [&](const std::string& key, const json& value) {
    check(!value.is_structured(), ErrorKind::invalid_argument, key, "got {}, expected a text, a number, true or false{}.",
          value.is_array() ? "a list in a list" : "an object", value.is_array() ? "" : ", or a list of them");
    return value.is_string() ? value.get<std::string>() : value.dump();
  };
  Request request;
  for (const auto& [key, value] : object.items()) {
    const RequestField* const field = find_field(key);
    if (!field && others) {
      (*others)[key] = value.is_string() ? value.get<std::string>() : value.dump();
      continue;
    }
    if (!field) refuse_unknown(key, Spelling::key, where);
    if (value.is_null()) continue;
    std::vector<std::string> texts;
    // Files' metadata has texts alone: there several paths are the text of a list.
    const bool may_hold_list = field->is_file() && field->is_list() && value.is_string();
    const json list = may_hold_list ? json::parse(value.get<std::string>(), nullptr, false) : value;
    if (list.is_array())
      for (const json& element : list) texts.push_back(text_of(key, element));
    else texts.push_back(text_of(key, value));
    set(request, *field, texts, Spelling::key);
  }
  return request;
}

}  // namespace zoe
