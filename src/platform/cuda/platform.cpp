#include "platform/cuda/platform.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <future>
#include <map>
#include <mutex>

#include "base/error.h"
#include "base/log.h"
#include "platform/cuda/cublaslt.h"
#include "platform/cuda/cudnn_plan.h"
#include "platform/cuda/kernels.h"
#include "platform/group.h"
#include "platform/implementation.h"

namespace zoe::cuda {
namespace {

std::shared_future<const CublasltLibrary&> start_loading(const Vendor& vendor, const PlatformOptions& options) {
  if (&vendor != &kCuda) return {};
  load_driver(vendor, options.cuda_path);
  return std::async(std::launch::async, [path = options.cuda_path]() -> const CublasltLibrary& { return load_cublaslt(path); });
}

class CudaPlatform : public Platform {
 public:
  CudaPlatform(const Vendor& vendor, int ordinal, const PlatformOptions& options)
      : cublaslt_library_(start_loading(vendor, options)),
        device_(std::make_shared<Device>(vendor, ordinal, options)),
        stream_(device_),
        table_(make_table(*this)) {
    const DeviceDescription& device = device_->description;
    info_ = {.platform = std::string(vendor.platform),
             .name = device.name,
             .features = fmt::format("{} {}.{}, {:.1f} GiB", vendor.platform, device.major, device.minor, gib(device.memory_bytes)),
             .memory_bytes = device.memory_bytes,
             .capability = &vendor == &kRocm ? 0 : 10 * device.major + device.minor,
             .unified_memory = device.is_integrated,
             .host_addressable = false,
             .exact_bits = true};
    info_.bf16_products = device.major >= 8;
    info_.copies_beside = true;
    info_.generates_kernels = true;
  }

  const DeviceInfo& info() const override { return info_; }

  std::uint64_t free_bytes() const override { return device_->free_bytes(); }
  std::uint64_t peak_bytes() const override { return device_->peak_bytes(); }

  std::shared_ptr<Buffer> allocate(std::size_t size_bytes, std::string_view what) override {
    return device_->allocate(size_bytes, what);
  }

  std::shared_ptr<Buffer> allocate_unset(std::size_t size_bytes, std::string_view what) override {
    return device_->allocate(size_bytes, what, false);
  }

  std::shared_ptr<HostBuffer> allocate_host(std::size_t size_bytes, std::string_view what, HostPages pages) override {
    if (pages == HostPages::ordinary) return Platform::allocate_host(size_bytes, what, pages);
    if (auto locked = device_->allocate_locked(size_bytes)) return locked;
    if (!said_unlocked_.exchange(true))
      log(LogLevel::notice,
          "the system locks no more pages of this process: weights are copied to the device through a small "
          "part that is locked, slower. See `ulimit -l`, or lower --host-memory-limit");
    return Platform::allocate_host(size_bytes, what, HostPages::ordinary);
  }

  std::unique_ptr<Stream> make_stream() override { return std::make_unique<DeviceStream>(device_); }

  void upload(Stream& stream, const void* host, Slot device, std::size_t size_bytes) override {
    static_cast<DeviceStream&>(stream).upload(host, address_of(device), size_bytes);
  }
  void upload_later(Stream& stream, const HostBuffer& from, std::size_t offset, Slot device, std::size_t size_bytes) override {
    static_cast<DeviceStream&>(stream).upload_later(from, offset, address_of(device), size_bytes);
  }
  void download(Stream& stream, Slot device, void* host, std::size_t size_bytes) override {
    static_cast<DeviceStream&>(stream).download(address_of(device), host, size_bytes);
  }

  std::vector<LibraryInfo> libraries() const override {
    std::vector<LibraryInfo> libraries = device_->libraries;
    if (&device_->vendor != &kCuda) return libraries;
    const CublasltLibrary& products = cublaslt_library_.get();
    if (!products.why.empty()) {
      libraries.push_back({"cuBLASLt", "", products.why});
    } else {
      const std::size_t version = products.api.version();
      libraries.push_back(
          {"cuBLASLt", fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100), products.api.path});
    }
    const CudnnLibrary& cudnn = load_cudnn(device_->options.cuda_path);
    if (cudnn.why.empty()) libraries.push_back({"cuDNN", cudnn_version(cudnn.api), cudnn.api.path});
    else libraries.push_back({"cuDNN", "", cudnn.why});
    return libraries;
  }

  void copy(Stream& stream, Slot from, Slot to, std::size_t size_bytes) override {
    device_->make_current();
    device_->check_status(device_->api.copy_async(address_of(to), address_of(from), size_bytes, handle_of(stream)), "a copy");
  }
  void zero(Stream& stream, Slot slot, std::size_t size_bytes) override {
    device_->make_current();
    device_->check_status(device_->api.set_bytes_async(address_of(slot), 0, size_bytes, handle_of(stream)), "a fill");
  }

  void pull(Stream& stream, Slot to, Platform& other, Slot from, std::size_t size_bytes) override {
    if (!reach(other)) return Platform::pull(stream, to, other, from, size_bytes);
    copy(stream, from, to, size_bytes);
  }
  // Of the other devices of a group: these are of one vendor.
  Support reaches(const Platform& other) const override {
    return device_->reaches(*static_cast<const CudaPlatform&>(other).device_);
  }

  std::span<const Implementation> implementations() const override { return table_; }

  // Chains and kernels of our own are compiled while libraries are asked for their fastest.
  std::vector<Implemented> implement(std::span<const Node* const> nodes, const OverrideRules& rules) override {
    return Selection(info_.platform, table_, rules).implement(nodes, true);
  }

 private:
  // Asked once a device: the answer stays.
  bool reach(const Platform& other) {
    const std::lock_guard lock(reached_mutex_);
    const auto [found, is_new] = reached_.try_emplace(&other, false);
    if (!is_new) return found->second;
    const Support reached = reaches(other);
    if (!reached) log(LogLevel::notice, fmt::format("{}: copies go through this process, slower", reached.reason()));
    return found->second = static_cast<bool>(reached);
  }

  static std::vector<Implementation> make_table(CudaPlatform& platform) {
    std::vector<Implementation> table =
        cuda::implementations(platform.device_, {.cublaslt = [&platform](std::string& why) { return platform.cublaslt(why); },
                                                 .cudnn = [&platform](std::string& why) { return platform.cudnn(why); }});
    table.push_back(exchange_row(platform));
    return table;
  }

  std::shared_ptr<Cublaslt> cublaslt(std::string& why) {
    std::call_once(cublaslt_once_, [&] {
      if (!cublaslt_library_.valid()) return;
      const CublasltLibrary& library = cublaslt_library_.get();
      no_cublaslt_ = library.why;
      if (library.why.empty()) cublaslt_ = std::make_shared<Cublaslt>(device_, library.api);
      else log(LogLevel::notice, fmt::format("products run on kernels of our own, which are slower: {}.", library.why));
    });
    why = no_cublaslt_;
    return cublaslt_;
  }

  std::shared_ptr<Cudnn> cudnn(std::string& why) {
    std::call_once(cudnn_once_, [&] {
      const CudnnLibrary& library = load_cudnn(device_->options.cuda_path);
      no_cudnn_ = library.why;
      if (no_cudnn_.empty()) cudnn_ = Cudnn::open(library.api, device_, no_cudnn_);
      if (!cudnn_)
        log(LogLevel::notice,
            fmt::format("attention and convolutions run on kernels of our own, which are slower: {}.", no_cudnn_));
    });
    why = no_cudnn_;
    return cudnn_;
  }

  // cuBLASLt is large: it is loaded while the driver starts. Only NVIDIA has it. Error if there is no driver.
  const std::shared_future<const CublasltLibrary&> cublaslt_library_;
  const DevicePtr device_;
  DeviceStream stream_;
  std::once_flag cublaslt_once_, cudnn_once_;
  std::string no_cublaslt_ = "a library of NVIDIA's", no_cudnn_;  // why there is none
  std::shared_ptr<Cublaslt> cublaslt_;
  std::shared_ptr<Cudnn> cudnn_;
  DeviceInfo info_;
  std::atomic<bool> said_unlocked_ = false;
  std::mutex reached_mutex_;
  std::map<const Platform*, bool> reached_;
  const std::vector<Implementation> table_;
};

}  // namespace

std::unique_ptr<Platform> open(const Vendor& vendor, const PlatformOptions& options, int ordinal) {
  return std::make_unique<CudaPlatform>(vendor, ordinal, options);
}

int count_devices(const Vendor& vendor, const PlatformOptions& options) {
  const DriverApi& api = load_driver(vendor, options.cuda_path);
  int count = 0;
  if (api.init(0) == kSuccess) check_driver(api, vendor, api.device_count(&count), "counting devices");
  return std::max(count, 1);  // opening the first one says why there is none
}

std::vector<std::string> links(std::string_view platform, const PlatformOptions& options) {
  std::vector<std::string> lines;
  for (const Vendor* vendor : {&kCuda, &kMusa, &kRocm}) {
    if (vendor->platform != platform) continue;
    const DriverApi& api = load_driver(*vendor, options.cuda_path);
    const int count = count_devices(*vendor, options);
    for (int a = 0; a < count; ++a)
      for (int b = a + 1; b < count; ++b) {
        int one = 0, other = 0, there = 0, back = 0;
        if (api.device_get(&one, a) != kSuccess || api.device_get(&other, b) != kSuccess) continue;
        const bool said = api.can_reach(&there, one, other) == kSuccess && api.can_reach(&back, other, one) == kSuccess;
        lines.push_back(fmt::format("{0}:{1} - {0}:{2}: {3}", platform, a, b,
                                    said && there && back ? "peer copies" : "no peer access, copies go through this process"));
      }
  }
  return lines;
}

int parse_ordinal(const Vendor& vendor, std::string_view text) {
  int ordinal = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), ordinal);
  check(status == std::errc() && end == text.data() + text.size() && ordinal >= 0, ErrorKind::invalid_argument, "platform",
        "bad device: got \"{}:{}\", expected {}:0 or another number.", vendor.platform, text, vendor.platform);
  return ordinal;
}

}  // namespace zoe::cuda
