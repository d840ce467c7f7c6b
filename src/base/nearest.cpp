#include "base/nearest.h"

#include <algorithm>
#include <vector>

namespace zoe {

namespace {

constexpr std::size_t kLongestName = 256;

// Edit distance (insert, delete, replace) of a and b, or `limit` if it is not below it. Only cells within `limit` of the
// diagonal can hold a smaller distance, so the work is |a| x limit. `row` is scratch space.
std::size_t edit_distance(std::string_view a, std::string_view b, std::size_t limit, std::vector<std::size_t>& row) {
  const auto [a_differs, b_differs] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  a.remove_prefix(static_cast<std::size_t>(a_differs - a.begin()));
  b.remove_prefix(static_cast<std::size_t>(b_differs - b.begin()));
  while (!a.empty() && !b.empty() && a.back() == b.back()) a.remove_suffix(1), b.remove_suffix(1);
  if (a.size() > b.size()) std::swap(a, b);
  if (b.size() - a.size() >= limit) return limit;

  row.resize(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = std::min(j, limit);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    const std::size_t begin = i > limit ? i - limit : 1, end = std::min(b.size(), i + limit);
    std::size_t diagonal = row[begin - 1];
    row[begin - 1] = begin == 1 ? std::min(i, limit) : limit;
    std::size_t smallest = row[begin - 1];
    for (std::size_t j = begin; j <= end; ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1, limit});
      smallest = std::min(smallest, row[j]);
    }
    if (smallest >= limit) return limit;
  }
  return row[b.size()];
}

}  // namespace

std::string nearest(std::string_view name, std::span<const std::string> known, std::size_t part) {
  if (name.size() > kLongestName) return "";
  std::string_view best;
  std::size_t best_distance = kLongestName + 1;
  std::vector<std::size_t> row;
  for (const std::string& candidate : known) {
    if (candidate.size() > kLongestName) continue;
    const std::size_t limit = std::min(best_distance, (std::max(name.size(), candidate.size()) + part - 1) / part);
    const std::size_t distance = edit_distance(name, candidate, limit, row);
    if (distance < limit) best = candidate, best_distance = distance;
  }
  return std::string(best);
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t kShown = 100;
  if (text.size() <= kShown) return '"' + std::string(text) + '"';
  std::size_t end = kShown;
  while (end > kShown - 4 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return '"' + std::string(text.substr(0, end)) + "...\"";
}

}  // namespace zoe
