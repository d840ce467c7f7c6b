#include "platform/opencl/platform.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <charconv>

#include "base/error.h"
#include "platform/opencl/kernels.h"

namespace zoe::opencl {
namespace {

constexpr std::uint64_t kGroupNeeded = 64;  // work-items in a group of the kernels

double gib(std::uint64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(std::uint64_t{1} << 30); }

class OpenClPlatform : public Platform {
 public:
  OpenClPlatform(const Api& api, const DeviceDescription& description, const PlatformOptions& options)
      : device_(std::make_shared<Device>(api, description,
                                         std::make_shared<KernelCache>(KernelCache::Options{.folder = options.cache_dir}))),
        table_(opencl::implementations(device_)) {
    device_->local_tiles = options.opencl_local_tiles.value_or(!description.is_cpu());
    info_ = {.platform = "opencl",
             .name = description.name,
             .features = fmt::format("{}, {}, driver {}", description.platform_name, description.version, description.driver),
             .memory_bytes = description.memory_bytes,
             .unified_memory = description.unified_memory,
             .host_addressable = false,
             .exact_bits = false};  // each driver's compiler rounds products and sums as it likes
    info_.generates_kernels = true;
    stream_ = make_stream();
  }

  const DeviceInfo& info() const override { return info_; }

  std::uint64_t free_bytes() const override {  // drivers do not say what others take
    const std::uint64_t allocated = *allocated_;
    return info_.memory_bytes - std::min(info_.memory_bytes, allocated);
  }

  std::shared_ptr<Buffer> allocate(std::size_t size_bytes, std::string_view what) override {
    const DeviceDescription& device = device_->description;
    check(size_bytes <= device.largest_buffer_bytes, ErrorKind::out_of_memory, "opencl",
          "cannot allocate {:.2f} GiB for \"{}\": {} has no buffers above {:.2f} GiB. Ask for a smaller size or fewer frames.",
          gib(size_bytes), what, device.name, gib(device.largest_buffer_bytes));
    const Api& api = device_->api;
    cl_int status = CL_MEM_OBJECT_ALLOCATION_FAILURE;
    cl_mem memory = nullptr;
    const std::size_t real = (std::max<std::size_t>(size_bytes, 1) + 3) / 4 * 4;  // whole words, for the fill
    if (size_bytes <= free_bytes()) memory = api.clCreateBuffer(device_->context(), CL_MEM_READ_WRITE, real, nullptr, &status);
    std::shared_ptr<DeviceBuffer> buffer;
    if (status == CL_SUCCESS) {
      buffer = std::make_shared<DeviceBuffer>(api, memory, size_bytes, allocated_);
      // Drivers allocate when memory is first used: what does not fit may show only here.
      const std::uint32_t zero = 0;
      status = api.clEnqueueFillBuffer(queue_of(*stream_), memory, &zero, sizeof zero, 0, real, 0, nullptr, nullptr);
      if (status == CL_SUCCESS) status = api.clFinish(queue_of(*stream_));
    }
    if (status == CL_SUCCESS) return buffer;
    buffer.reset();
    fail(ErrorKind::out_of_memory, "opencl",
         "cannot allocate {:.2f} GiB for \"{}\" ({}): {:.2f} GiB free of {:.2f}. Ask for a smaller size or fewer frames.",
         gib(size_bytes), what, error_name(status), gib(free_bytes()), gib(info_.memory_bytes));
  }

  std::unique_ptr<Stream> make_stream() override { return std::make_unique<QueueStream>(device_); }

  void upload(Stream& stream, const void* host, Slot device, std::size_t size_bytes) override {
    if (size_bytes == 0) return;
    check_cl(device_->api.clEnqueueWriteBuffer(queue_of(stream), memory_of(device), CL_TRUE, device.offset, size_bytes, host, 0,
                                               nullptr, nullptr),
             "clEnqueueWriteBuffer");
  }
  void download(Stream& stream, Slot device, void* host, std::size_t size_bytes) override {
    if (size_bytes == 0) return;
    check_cl(device_->api.clEnqueueReadBuffer(queue_of(stream), memory_of(device), CL_TRUE, device.offset, size_bytes, host, 0,
                                              nullptr, nullptr),
             "clEnqueueReadBuffer");
  }

  std::span<const Implementation> implementations() const override { return table_; }

 private:
  const std::shared_ptr<Device> device_;
  const std::shared_ptr<std::atomic<std::uint64_t>> allocated_ = std::make_shared<std::atomic<std::uint64_t>>(0);
  DeviceInfo info_;
  const std::vector<Implementation> table_;
  std::unique_ptr<Stream> stream_;  // of allocations
};

bool contains(std::string_view text, std::string_view part) {
  const auto same = [](char a, char b) {
    return std::tolower(static_cast<unsigned char>(a)) == std::tolower(static_cast<unsigned char>(b));
  };
  return std::search(text.begin(), text.end(), part.begin(), part.end(), same) != text.end();
}

int rank_of(const DeviceDescription& device) {
  return device.type & CL_DEVICE_TYPE_GPU ? 2 : device.type & CL_DEVICE_TYPE_ACCELERATOR ? 1 : 0;
}

DeviceDescription choose(const std::vector<DeviceDescription>& devices, const Selector& selector) {
  std::vector<std::string> names;
  for (const DeviceDescription& device : devices) names.push_back(fmt::format("{}: {}", names.size(), device.name));
  const auto describe = [&](const DeviceDescription& device) { return fmt::format("{} ({})", device.name, device.version); };
  const auto needs = [&](const DeviceDescription& device) {
    check(device.usable, ErrorKind::unsupported, "opencl", "{} cannot be used: expected OpenCL 1.2 with a compiler.",
          describe(device));
    check(device.work_group_items >= kGroupNeeded, ErrorKind::unsupported, "opencl",
          "{} cannot be used: its work-groups hold {} items, expected at least {}.", describe(device), device.work_group_items,
          kGroupNeeded);
    return device;
  };
  check(!devices.empty(), ErrorKind::unsupported, "opencl",
        "no OpenCL device: the loader knows no driver that has one. Install the device's driver; pocl-opencl-icd runs on any CPU.");
  if (selector.index >= 0) {
    check(static_cast<std::size_t>(selector.index) < devices.size(), ErrorKind::invalid_argument, "opencl",
          "no device {}: got {}, expected one of {}.", selector.index, selector.index, fmt::join(names, ", "));
    return needs(devices[static_cast<std::size_t>(selector.index)]);
  }
  const DeviceDescription* best = nullptr;
  for (const DeviceDescription& device : devices) {
    if (!contains(device.vendor, selector.vendor) && !contains(device.platform_name, selector.vendor)) continue;
    if (!selector.vendor.empty() && device.is_cpu()) continue;  // "GenuineIntel" is a CPU's vendor, too
    const bool fits = device.usable && device.work_group_items >= kGroupNeeded;
    const bool best_fits = best && best->usable && best->work_group_items >= kGroupNeeded;
    if (!best || (fits && !best_fits) || (fits == best_fits && rank_of(device) > rank_of(*best))) best = &device;
  }
  check(best != nullptr, ErrorKind::unsupported, "opencl",
        "no OpenCL device of {} but CPUs: there is {}. Use --platform opencl or --platform cpu.", selector.vendor,
        fmt::join(names, ", "));
  return needs(*best);
}

}  // namespace

std::unique_ptr<Platform> open(const PlatformOptions& options, const Selector& selector) {
  check(options.memory_limit_bytes == 0, ErrorKind::unsupported, "--memory-limit",
        "got a limit, but nobody counts the memory of opencl: expected none. Leave it out, or choose another --platform.");
  const Api& api = load_api(options.opencl_loader);
  return std::make_unique<OpenClPlatform>(api, choose(find_devices(api), selector), options);
}

std::unique_ptr<Platform> open(const PlatformOptions& options) { return open(options, Selector{}); }

Selector parse_selector(std::string_view text) {
  Selector selector;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), selector.index);
  check(status == std::errc() && end == text.data() + text.size() && selector.index >= 0, ErrorKind::invalid_argument, "platform",
        "bad device: got \"opencl:{}\", expected opencl:0 or another number.", text);
  return selector;
}

}  // namespace zoe::opencl
