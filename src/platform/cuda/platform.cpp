#include "platform/cuda/platform.h"

#include <algorithm>
#include <charconv>
#include <mutex>

#include "base/error.h"
#include "base/log.h"
#include "platform/cuda/cublaslt.h"
#include "platform/cuda/kernels.h"

namespace zoe::cuda {
namespace {

double gib(std::uint64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(std::uint64_t{1} << 30); }

bool is_chain(Opcode opcode) {
  switch (opcode) {
    case Opcode::linear:
    case Opcode::conv:
    case Opcode::attention:
    case Opcode::concat:
    case Opcode::gather: return false;
    default: return true;
  }
}

class CudaPlatform : public Platform {
 public:
  CudaPlatform(const Vendor& vendor, int ordinal, const PlatformOptions& options)
      : device_(std::make_shared<Device>(vendor, ordinal, options)), stream_(device_) {
    const DeviceDescription& device = device_->description;
    info_ = {.platform = std::string(vendor.platform),
             .name = device.name,
             .features = fmt::format("{} {}.{}, {:.1f} GiB", vendor.platform, device.major, device.minor, gib(device.memory_bytes)),
             .memory_bytes = device.memory_bytes,
             .free_bytes = device.memory_bytes,
             .libraries = device_->libraries};
    info_.bf16_products = device.major >= 8;
    info_.generates_kernels = true;
  }

  const DeviceInfo& info() const override {
    std::size_t free_bytes = 0, total = 0;
    device_->make_current();
    device_->check_status(device_->api.memory_info(&free_bytes, &total), "asking for free memory");
    // What the pool keeps of ours is free to us, too.
    const std::uint64_t allocated = device_->allocated_bytes();
    info_.free_bytes = std::min<std::uint64_t>(std::max<std::uint64_t>(free_bytes, peak_free_ - std::min(peak_free_, allocated)),
                                               info_.memory_bytes);
    peak_free_ = std::max(peak_free_, free_bytes + allocated);
    return info_;
  }

  bool host_addressable() const override { return false; }

  std::shared_ptr<Buffer> allocate(std::size_t size_bytes, std::string_view what) override {
    device_->make_current();
    const DriverApi& api = device_->api;
    const StreamHandle stream = device_->memory_stream();
    Address address = 0;
    Status status = api.memory_allocate_async(&address, std::max<std::size_t>(size_bytes, 1), stream);
    std::shared_ptr<DeviceBuffer> buffer;
    if (status == kSuccess) {
      buffer = std::make_shared<DeviceBuffer>(device_, address, size_bytes);
      status = api.set_bytes_async(address, 0, std::max<std::size_t>(size_bytes, 1), stream);
      if (status == kSuccess) status = api.stream_synchronize(stream);
    }
    if (status == kSuccess) return buffer;
    buffer.reset();
    if (status != kOutOfMemory) device_->check_status(status, "an allocation", what);
    fail(ErrorKind::out_of_memory, device_->vendor.platform,
         "cannot allocate {:.2f} GiB for \"{}\": {:.2f} GiB free of {:.2f}. Ask for a smaller size or fewer frames.",
         gib(size_bytes), what, gib(info().free_bytes), gib(info_.memory_bytes));
  }

  std::unique_ptr<Stream> make_stream() override { return std::make_unique<DeviceStream>(device_); }

  void upload(Stream& stream, const void* host, Slot device, std::size_t size_bytes) override {
    if (size_bytes == 0) return;
    device_->make_current();
    device_->check_status(device_->api.copy_to_device_async(address_of(device), host, size_bytes, handle_of(stream)),
                          "a copy to the device");
    device_->check_status(device_->api.stream_synchronize(handle_of(stream)), "waiting for a copy");
  }
  void download(Stream& stream, Slot device, void* host, std::size_t size_bytes) override {
    if (size_bytes == 0) return;
    device_->make_current();
    device_->check_status(device_->api.copy_to_host_async(host, address_of(device), size_bytes, handle_of(stream)),
                          "a copy to the host");
    device_->check_status(device_->api.stream_synchronize(handle_of(stream)), "waiting for a copy");
  }

  void copy(Stream& stream, Slot from, Slot to, std::size_t size_bytes) override {
    device_->make_current();
    device_->check_status(device_->api.copy_async(address_of(to), address_of(from), size_bytes, handle_of(stream)), "a copy");
  }

  bool takes_epilogue(const Node& product) const override {
    return product.opcode != Opcode::linear || !cublaslt() || cuda::takes_epilogue(product);
  }

  std::unique_ptr<Kernel> make_kernel(const Node& node) override {
    switch (node.opcode) {
      case Opcode::linear:
        if (const auto& library = cublaslt())
          if (auto kernel = make_linear(node, device_, library)) return kernel;
        return make_product(node, device_);
      case Opcode::conv: return make_product(node, device_);
      case Opcode::attention: return make_attention(node, device_);
      case Opcode::concat: return make_concat(node, device_);
      case Opcode::gather: return make_gather(node, device_);
      default: {
        const Node* const one = &node;
        return std::move(make_chains({&one, 1}, device_).front());
      }
    }
  }

  std::vector<std::unique_ptr<Kernel>> make_kernels(std::span<const Node* const> nodes) override {
    std::vector<const Node*> chains;
    for (const Node* node : nodes)
      if (is_chain(node->opcode)) chains.push_back(node);
    std::vector<std::unique_ptr<Kernel>> generated = make_chains(chains, device_), kernels;
    std::size_t next = 0;
    for (const Node* node : nodes) kernels.push_back(is_chain(node->opcode) ? std::move(generated[next++]) : make_kernel(*node));
    return kernels;
  }

 private:
  // Opened when the first product asks. Null where there is none.
  const std::shared_ptr<Cublaslt>& cublaslt() const {
    std::call_once(cublaslt_once_, [&] {
      if (&device_->vendor != &kCuda) return;
      std::string why;
      if (const CublasltApi* api = load_cublaslt(device_->options.cuda_path, why)) {
        cublaslt_ = std::make_shared<Cublaslt>(device_, *api);
      } else {
        log(LogLevel::notice, fmt::format("products run on kernels of our own, which are slower: {}.", why));
      }
    });
    return cublaslt_;
  }

  const DevicePtr device_;
  DeviceStream stream_;
  mutable std::once_flag cublaslt_once_;
  mutable std::shared_ptr<Cublaslt> cublaslt_;
  mutable DeviceInfo info_;
  mutable std::size_t peak_free_ = 0;
};

}  // namespace

std::unique_ptr<Platform> open(const Vendor& vendor, const PlatformOptions& options, int ordinal) {
  return std::make_unique<CudaPlatform>(vendor, ordinal, options);
}

int parse_ordinal(const Vendor& vendor, std::string_view text) {
  int ordinal = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), ordinal);
  check(status == std::errc() && end == text.data() + text.size() && ordinal >= 0, ErrorKind::invalid_argument, "platform",
        "bad device: got \"{}:{}\", expected {}:0 or another number.", vendor.platform, text, vendor.platform);
  return ordinal;
}

}  // namespace zoe::cuda
