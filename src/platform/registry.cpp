#include <array>
#include <string>

#include "base/error.h"
#include "base/nearest.h"
#include "platform/cpu/platform.h"
#include "platform/null/platform.h"
#include "platform/opencl/platform.h"
#include "platform/platform.h"

namespace zoe {
namespace {

struct Entry {
  const char* name;
  std::unique_ptr<Platform> (*open)(const PlatformOptions& options);
};

// Best first: "auto" takes the first that opens.
constexpr std::array kPlatforms = {Entry{"cpu", cpu::open}, Entry{"opencl", opencl::open}, Entry{"null", null::open}};

}  // namespace

std::unique_ptr<Platform> open_platform(std::string_view name, const PlatformOptions& options) {
  std::vector<std::string> known = {"auto"};
  for (const Entry& entry : kPlatforms) {
    if (name == entry.name) return entry.open(options);
    known.emplace_back(entry.name);
  }
  if (name.starts_with("opencl:")) return opencl::open(options, opencl::parse_selector(name.substr(7)));
  if (name == "auto") return kPlatforms.front().open(options);
  std::string list, near = nearest(name, known);
  for (const std::string& each : known) list += (list.empty() ? "" : ", ") + each;
  fail(ErrorKind::invalid_argument, "platform", "unknown platform: got {}, expected one of {}.{}", in_quotes(name), list,
       near.empty() ? "" : " Did you mean " + near + "?");
}

std::vector<PlatformReport> list_platforms() {
  std::vector<PlatformReport> reports;
  for (const Entry& entry : kPlatforms) {
    try {
      const auto platform = entry.open({});
      const DeviceInfo& info = platform->info();
      reports.push_back({entry.name, true, info.features.empty() ? info.name : info.name + " (" + info.features + ")"});
    } catch (const Error& error) {
      reports.push_back({entry.name, false, error.what()});
    }
  }
  return reports;
}

}  // namespace zoe
