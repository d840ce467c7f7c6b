#include "compiler/policy.h"

#include <algorithm>
#include <array>

namespace zoe {

namespace {

// A row comes with the measurement or the fact that is its reason.
constexpr std::array kRows = {
    PolicyRow{"npu", "*", "no kernels are generated for this platform"},
};

bool matches(std::string_view pattern, std::string_view name) { return pattern == "*" || pattern == name; }

}  // namespace

std::span<const PolicyRow> compile_policy_rows() { return kRows; }

Support compile_policy(const CompileOptions& options, std::string_view platform, std::string_view op) {
  if (!options.compile) return Support::no("the engine's switch is off (--compile off)");
  for (const PolicyRow& row : kRows)
    if (matches(row.platform, platform) && matches(row.op, op)) return Support::no("{}", row.reason);
  if (std::find(options.excluded_ops.begin(), options.excluded_ops.end(), op) != options.excluded_ops.end())
    return Support::no("{} is excluded (--compile-exclude)", op);
  return Support::yes();
}

}  // namespace zoe
