#include <algorithm>
#include <array>
#include <numeric>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "base/nearest.h"
#include "base/split.h"
#include "platform/cpu/host.h"
#include "platform/cpu/platform.h"
#include "platform/cuda/platform.h"
#include "platform/group.h"
#include "platform/null/platform.h"
#include "platform/opencl/platform.h"
#include "platform/platform.h"

namespace zoe {
namespace {

using Opened = std::unique_ptr<Platform>;

// One platform: NVIDIA, and vendors whose driver API is the same under other names.
Opened open_cuda(const PlatformOptions& options) { return cuda::open(cuda::kCuda, options); }
Opened open_musa(const PlatformOptions& options) { return cuda::open(cuda::kMusa, options); }
Opened open_rocm(const PlatformOptions& options) { return cuda::open(cuda::kRocm, options); }
// The names that stand for one vendor's device under OpenCL.
Opened open_xpu(const PlatformOptions& options) { return opencl::open(options, {.vendor = "Intel"}); }
Opened open_mps(const PlatformOptions& options) { return opencl::open(options, {.vendor = "Apple"}); }
Opened open_npu(const PlatformOptions&) {
  fail(ErrorKind::unsupported, "npu", "no NPU runs Zoetrope: there are no kernels for one. Use --platform cpu.");
}

struct Entry {
  std::string_view name;
  Opened (*open)(const PlatformOptions& options);
  std::string_view by_name_only = {};  // why "auto" does not try it
};

// Looking for an OpenCL device loads every driver there is, which costs time and memory in each process.
constexpr std::string_view kUnmeasured = "no OpenCL device has been measured to beat cpu, ask for it by name";

// Best first: "auto" takes the first that opens.
constexpr std::array kPlatforms = {
    Entry{"cuda", open_cuda},
    Entry{"musa", open_musa},
    Entry{"rocm", open_rocm},
    Entry{"xpu", open_xpu, kUnmeasured},
    Entry{"mps", open_mps, kUnmeasured},
    Entry{"cpu", cpu::open},
    Entry{"opencl", opencl::open, kUnmeasured},
    Entry{"npu", open_npu, "no NPU runs Zoetrope"},
    Entry{"null", null::open, "it runs nothing"},
};

Opened open_best(const PlatformOptions& options) {
  std::string refused;
  for (const Entry& entry : kPlatforms) {
    if (!entry.by_name_only.empty()) {
      log(LogLevel::detail, fmt::format("platform auto does not try {}: {}", entry.name, entry.by_name_only));
      continue;
    }
    try {
      Opened platform = entry.open(options);
      log(LogLevel::detail, fmt::format("platform auto takes {}", entry.name));
      return platform;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::unsupported && error.kind() != ErrorKind::device) throw;
      log(LogLevel::detail, fmt::format("platform auto does not take {}: {}", entry.name, error.what()));
      refused += fmt::format(" {}", error.what());
    }
  }
  fail(ErrorKind::unsupported, "platform", "none opens:{}", refused);
}

}  // namespace

namespace {

// "0,1,2" behind "cuda:", each once.
std::vector<std::string_view> split_ordinals(std::string_view platform, std::string_view text) {
  std::vector<std::string_view> parts = split(text, ',');
  for (auto part = parts.begin(); part != parts.end(); ++part)
    check(std::find(parts.begin(), part, *part) == part, ErrorKind::invalid_argument, "platform",
          "device {} is named twice: got {}:{}, expected each once.", *part, platform, text);
  return parts;
}

Opened open_cuda_group(const cuda::Vendor& vendor, std::string_view text, const PlatformOptions& options) {
  std::vector<int> ordinals;
  if (text == "all") {
    ordinals.resize(static_cast<std::size_t>(cuda::count_devices(vendor, options)));
    std::iota(ordinals.begin(), ordinals.end(), 0);
  } else {
    for (const std::string_view part : split_ordinals(vendor.platform, text)) ordinals.push_back(cuda::parse_ordinal(vendor, part));
  }
  std::vector<Opened> devices;
  for (const int ordinal : ordinals) devices.push_back(cuda::open(vendor, options, ordinal));
  return DeviceGroup::form(std::move(devices));
}

// Devices that share this process's cores: how plans for a group run where there is no second device.
Opened open_cpu_group(std::string_view text, const PlatformOptions& options) {
  constexpr std::size_t kMost = 64;
  const std::vector<std::string_view> parts = split_ordinals("cpu", text);
  for (std::size_t i = 0; i < parts.size(); ++i)
    check(parts[i] == std::to_string(i) && parts.size() <= kMost, ErrorKind::invalid_argument, "platform",
          "bad group: got \"cpu:{}\", expected cpu:0,1 or more numbers in order, up to {}.", text, kMost - 1);
  PlatformOptions each = options;
  const int threads = options.threads > 0 ? options.threads : cpu::usable_threads();
  each.threads = std::max(1, threads / static_cast<int>(parts.size()));
  std::vector<Opened> devices;
  for (std::size_t i = 0; i < parts.size(); ++i) devices.push_back(cpu::open(each));
  return DeviceGroup::form(std::move(devices));
}

}  // namespace

std::unique_ptr<Platform> open_platform(std::string_view name, const PlatformOptions& options) {
  if (name == "auto") return open_best(options);
  const auto found = std::find_if(kPlatforms.begin(), kPlatforms.end(), [&](const Entry& entry) { return entry.name == name; });
  if (found != kPlatforms.end()) return found->open(options);
  if (name.starts_with("opencl:")) return opencl::open(options, opencl::parse_selector(name.substr(7)));
  for (const cuda::Vendor* vendor : {&cuda::kCuda, &cuda::kMusa, &cuda::kRocm})
    if (name.starts_with(vendor->platform) && name.substr(vendor->platform.size()).starts_with(':'))
      return open_cuda_group(*vendor, name.substr(vendor->platform.size() + 1), options);
  if (name.starts_with("cpu:")) return open_cpu_group(name.substr(4), options);
  std::vector<std::string> known = {"auto"};
  for (const Entry& entry : kPlatforms) known.emplace_back(entry.name);
  std::sort(known.begin(), known.end());
  const std::string near = nearest(name, known);
  fail(ErrorKind::invalid_argument, "platform", "unknown platform: got {}, expected one of {}.{}", in_quotes(name),
       fmt::join(known, ", "), near.empty() ? "" : " Did you mean " + near + "?");
}

std::vector<PlatformReport> list_platforms(const PlatformOptions& options) {
  std::vector<PlatformReport> reports;
  for (const Entry& entry : kPlatforms) {
    const std::string name(entry.name);
    try {
      const auto platform = entry.open(options);
      const DeviceInfo& info = platform->info();
      reports.push_back({name, true, info.features.empty() ? info.name : info.name + " (" + info.features + ")",
                         platform->libraries(), cuda::links(info.platform, options)});
    } catch (const Error& error) {
      reports.push_back({name, false, error.what(), {}, {}});
    }
  }
  return reports;
}

}  // namespace zoe
