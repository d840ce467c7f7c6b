#include "base/bytes.h"

#include <fmt/format.h>

#include <algorithm>

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

}  // namespace zoe
