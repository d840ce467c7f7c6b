#include "text/emphasis.h"

#include <charconv>
#include <cmath>

#include "base/error.h"
#include "base/nearest.h"

namespace zoe {

namespace {

constexpr double kStep = 1.1, kMost = 10;
constexpr int kMostDeep = 32;
constexpr std::string_view kAdvice = "Write \\( and \\) for plain parentheses.";

struct Reader {
  std::string_view prompt, where;
  std::vector<WeightedText> parts;

  [[noreturn]] void refuse(std::size_t at, std::string_view what) const {
    fail(ErrorKind::invalid_argument, where, "emphasis at byte {}: {}. {}", at + 1, what, kAdvice);
  }

  bool is_escape(std::size_t at) const {
    return prompt[at] == '\\' && at + 1 < prompt.size() && (prompt[at + 1] == '(' || prompt[at + 1] == ')');
  }

  // Of the parenthesis at `begin`: where it closes, and the last colon that is directly in it, or npos.
  struct Group {
    std::size_t close, colon;
  };
  Group group(std::size_t begin, std::size_t end) const {
    Group found{std::string_view::npos, std::string_view::npos};
    int depth = 0;
    for (std::size_t at = begin; at < end; ++at) {
      if (is_escape(at)) ++at;
      else if (prompt[at] == '(') ++depth;
      else if (prompt[at] == ':' && depth == 1) found.colon = at;
      else if (prompt[at] == ')' && --depth == 0) {
        found.close = at;
        return found;
      }
    }
    refuse(begin, "a parenthesis that is not closed");
  }

  // What is behind a colon: a weight; nothing, where it is plain text.
  bool weight(std::size_t begin, std::size_t end, double* value) const {
    std::string_view text = prompt.substr(begin, end - begin);
    while (text.starts_with(' ')) text.remove_prefix(1);
    while (text.ends_with(' ')) text.remove_suffix(1);
    if (text.starts_with('+')) text.remove_prefix(1);
    double said = 0;  // "nan" and "inf" begin words, too
    const auto [stop, status] = std::from_chars(text.data(), text.data() + text.size(), said);
    const bool whole = status == std::errc() && stop == text.data() + text.size() && std::isfinite(said);
    if (whole && std::abs(said) <= kMost) {
      *value = said;
      return true;
    }
    if (whole || text.empty() || std::string_view("0123456789.-").find(text.front()) != std::string_view::npos)
      refuse(begin,
             fmt::format("got {} as a weight, expected a number from {} to {}, as in (word:1.2)", in_quotes(text), -kMost, kMost));
    return false;
  }

  void read(std::size_t begin, std::size_t end, double weight_here, int depth) {
    if (depth > kMostDeep) refuse(begin, fmt::format("more than {} parentheses in one another", kMostDeep));
    std::string text;
    const auto put = [&] {
      if (!text.empty()) parts.push_back({std::move(text), weight_here});
      text.clear();
    };
    for (std::size_t at = begin; at < end; ++at) {
      if (is_escape(at)) {
        text += prompt[++at];
      } else if (prompt[at] == ')') {
        refuse(at, "a parenthesis that was not opened");
      } else if (prompt[at] == '(') {
        put();
        const auto [close, colon] = group(at, end);
        double inner = weight_here * kStep;
        const bool is_said = colon != std::string_view::npos && weight(colon + 1, close, &inner);
        const std::size_t parts_before = parts.size();
        read(at + 1, is_said ? colon : close, inner, depth + 1);
        if (parts.size() == parts_before) refuse(at, "nothing in the parentheses");
        at = close;
      } else {
        text += prompt[at];
      }
    }
    put();
  }
};

}  // namespace

std::vector<WeightedText> parse_emphasis(std::string_view prompt, std::string_view where) {
  Reader reader{prompt, where, {}};
  reader.read(0, prompt.size(), 1, 0);
  return std::move(reader.parts);
}

}  // namespace zoe
