#include "base/bytes.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "base/nearest.h"

namespace zoe {

std::pair<std::string, std::string> bytes_apart(std::size_t a, std::size_t b) {
  constexpr std::pair<const char*, double> kUnits[] = {{"GiB", 1u << 30}, {"MiB", 1u << 20}, {"KiB", 1u << 10}};
  const double larger = static_cast<double>(std::max(a, b));
  for (const auto& unit : kUnits) {  // not taken apart: clang 14 has no names of parts in lambdas
    if (larger < unit.second) continue;
    const auto text = [&](std::size_t bytes) {
      return fmt::format("{:.1f} {}", static_cast<double>(bytes) / unit.second, unit.first);
    };
    if (a == b || text(a) != text(b)) return {text(a), text(b)};
  }
  return {fmt::format("{} bytes", a), fmt::format("{} bytes", b)};
}

std::string bytes_text(std::size_t bytes) {
  const double mib = static_cast<double>(bytes) / (1u << 20);
  return mib < 1000 ? fmt::format("{:.0f} MiB", mib) : fmt::format("{:.1f} GiB", mib / 1024);
}

std::uint64_t parse_bytes(std::string_view where, std::string_view text, std::uint64_t least) {
  constexpr std::pair<std::string_view, double> kUnits[] = {{"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40},
                                                            {"KB", 1e3},     {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12},
                                                            {"B", 1},        {"", 1}};
  double value = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, status] = std::from_chars(text.data(), end, value);
  std::string_view unit(rest, static_cast<std::size_t>(end - rest));
  unit.remove_prefix(std::min(unit.find_first_not_of(' '), unit.size()));
  const auto known = std::find_if(std::begin(kUnits), std::end(kUnits), [&](const auto& row) { return row.first == unit; });
  const double bytes = known == std::end(kUnits) ? 0 : value * known->second;
  check(status == std::errc() && known != std::end(kUnits) && std::isfinite(bytes) && bytes < 0x1p60 &&
            bytes >= static_cast<double>(least),
        ErrorKind::invalid_argument, where, "got {}, expected a size of at least {}, such as 8GiB or 512MiB.", in_quotes(text),
        least < (1u << 20) ? fmt::format("{} bytes", least) : bytes_text(least));
  return static_cast<std::uint64_t>(bytes);
}

}  // namespace zoe
