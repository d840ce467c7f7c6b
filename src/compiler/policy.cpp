#include "compiler/policy.h"

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "base/nearest.h"

namespace zoe {

namespace {

bool matches(std::string_view pattern, std::string_view name) { return pattern == "*" || pattern == name; }

Support asked(const std::vector<PolicyRow>& rows, const DeviceInfo& device, std::string_view op) {
  for (const PolicyRow& row : rows)
    if (matches(row.platform, device.platform) && (row.device == "*" || device.name.find(row.device) != std::string::npos) &&
        matches(row.op, op))
      return Support::no("{}", row.reason);
  return Support::yes();
}

}  // namespace

std::vector<PolicyRow> read_compile_policy(const std::filesystem::path& file) {
  const std::string where = "--compile-policy";
  const JsonObject all = read_json_object(file, where);
  constexpr std::size_t kMostRows = 1000;
  std::vector<PolicyRow> rows;
  for (const JsonObject& row : all.objects("rows", 0, kMostRows)) {
    const std::vector<std::string> known = {"platform", "device", "op", "reason"};
    for (const std::string& key : row.keys())
      check(std::find(known.begin(), known.end(), key) != known.end(), ErrorKind::invalid_argument, where,
            "unknown key of row {}: got {}, expected platform, device, op or reason.{}", rows.size(), in_quotes(key),
            nearest(key, known).empty() ? "" : " Did you mean " + nearest(key, known) + "?");
    rows.push_back({row.string("platform", "*"), row.string("device", "*"), row.string("op", "*"), row.string("reason")});
    check(!rows.back().reason.empty(), ErrorKind::invalid_argument, where,
          "bad reason of row {}: got \"\", expected the measurement that compiling loses there.", rows.size() - 1);
  }
  return rows;
}

Support compile_policy(const CompileOptions& options, const DeviceInfo& device, std::string_view op) {
  if (!options.compile) return Support::no("the engine's switch is off (--compile off)");
  if (Support row = asked(options.policy, device, op); !row) return row;
  if (std::find(options.excluded_ops.begin(), options.excluded_ops.end(), op) != options.excluded_ops.end())
    return Support::no("{} is excluded (--compile-exclude)", op);
  return Support::yes();
}

}  // namespace zoe
