#include "checkpoint/name_map.h"

#include <algorithm>

namespace zoe {

namespace {

std::string_view take_word(std::string_view& text) {
  const std::size_t dot = text.find('.');
  const std::string_view word = text.substr(0, dot);
  text = dot == std::string_view::npos ? std::string_view() : text.substr(dot + 1);
  return word;
}

bool is_number(std::string_view word) {
  return !word.empty() && std::all_of(word.begin(), word.end(), [](char c) { return c >= '0' && c <= '9'; });
}

struct Fit {
  int words = 0;  // 0: it does not fit
  std::vector<std::string_view> numbers;
  std::string_view rest;  // behind the words, without its dot
};

Fit fit(std::string_view pattern, std::string_view key) {
  Fit out;
  while (!pattern.empty()) {
    if (key.empty()) return {};
    const std::string_view wanted = take_word(pattern), word = take_word(key);
    if (wanted == "*" ? !is_number(word) : wanted != word) return {};
    if (wanted == "*") out.numbers.push_back(word);
    ++out.words;
  }
  out.rest = key;
  return out;
}

std::string fill(std::string_view pattern, const Fit& fit) {
  std::string out;
  auto number = fit.numbers.begin();
  for (std::string_view left = pattern; !left.empty();) {
    const std::string_view word = take_word(left);
    if (!out.empty()) out += '.';
    out += word == "*" && number != fit.numbers.end() ? *number++ : word;
  }
  if (!fit.rest.empty()) out.append(".").append(fit.rest);
  return out;
}

}  // namespace

std::optional<NameMap::Stored> NameMap::stored_of(std::string_view name) const {
  const NameRule* best = nullptr;
  Fit best_fit;
  for (const NameRule& rule : rules_)
    if (Fit now = fit(rule.name, name); now.words > best_fit.words) best = &rule, best_fit = std::move(now);
  if (!best) return {};
  return Stored{fill(best->stored, best_fit), best};
}

std::vector<std::string> NameMap::names_of(std::string_view stored) const {
  std::vector<std::string> names;
  int words = 0;
  for (const NameRule& rule : rules_) {
    const Fit now = fit(rule.stored, stored);
    if (now.words == 0 || now.words < words) continue;
    if (now.words > words) names.clear();
    words = now.words;
    names.push_back(fill(rule.name, now));
  }
  return names;
}

std::optional<KeyMap::Stored> KeyMap::stored_of(std::string_view name) const {
  if (!names) return Stored{prefix + std::string(name), 0, 1};
  const auto found = names->stored_of(name);
  if (!found) return {};
  return Stored{prefix + found->key, found->rule->part, found->rule->parts};
}

}  // namespace zoe
