#include "platform/cuda/platform.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <future>
#include <iterator>
#include <mutex>

#include "base/error.h"
#include "base/log.h"
#include "codegen/chain.h"
#include "platform/cuda/cublaslt.h"
#include "platform/cuda/cudnn_plan.h"
#include "platform/cuda/kernels.h"

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
        stream_(device_) {
    const DeviceDescription& device = device_->description;
    info_ = {.platform = std::string(vendor.platform),
             .name = device.name,
             .features = fmt::format("{} {}.{}, {:.1f} GiB", vendor.platform, device.major, device.minor, gib(device.memory_bytes)),
             .memory_bytes = device.memory_bytes,
             .capability = &vendor == &kRocm ? 0 : 10 * device.major + device.minor,
             .unified_memory = device.is_integrated,
             .exact_bits = true};
    info_.bf16_products = device.major >= 8;
    info_.copies_beside = true;
    info_.generates_kernels = true;
  }

  const DeviceInfo& info() const override { return info_; }

  std::uint64_t free_bytes() const override { return device_->free_bytes(); }
  std::uint64_t peak_bytes() const override { return device_->peak_bytes(); }

  bool host_addressable() const override { return false; }

  std::shared_ptr<Buffer> allocate(std::size_t size_bytes, std::string_view what) override {
    return device_->allocate(size_bytes, what);
  }

  std::shared_ptr<Buffer> allocate_unset(std::size_t size_bytes, std::string_view what) override {
    return device_->allocate(size_bytes, what, false);
  }

  std::shared_ptr<HostBuffer> allocate_host(std::size_t size_bytes, std::string_view what) override {
    if (auto locked = device_->allocate_locked(size_bytes)) return locked;
    if (!said_unlocked_.exchange(true))
      log(LogLevel::notice,
          "the system locks no more pages of this process: weights are copied to the device through a small "
          "part that is locked, slower. See `ulimit -l`, or lower --host-memory-limit");
    return Platform::allocate_host(size_bytes, what);
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

  bool takes_epilogue(const Node& product) const override {
    return product.opcode != Opcode::linear || !cublaslt() || cuda::takes_epilogue(product);
  }

  bool takes_history(const Node& conv) const override { return halo_conv_wins(conv, *device_); }

  Support merges_products(const Node&) const override {
    return cublaslt() ? Support::yes() : Support::no("products of our own gain nothing by that");
  }

  Support keeps_stored(const Encoding&) const override { return Support::yes(); }

  std::unique_ptr<Kernel> make_kernel(const Node& node) override {
    switch (node.opcode) {
      case Opcode::linear:
        if (!kept_parts(node.inputs[1].node()).empty())
          return make_kept_linear(node, device_, [this](const Node& plain) { return make_kernel(plain); });
        if (const auto& library = cublaslt())
          if (auto kernel = make_linear(node, device_, library)) return kernel;
        return make_product(node, device_);
      case Opcode::conv:
        if (comes_before_cudnn(node, *device_)) return make_product(node, device_);
        if (auto kernel = by_cudnn(make_cudnn_conv, node)) return kernel;
        return make_product(node, device_);
      case Opcode::attention:
        if (auto kernel = make_flash_attention(node, device_)) return kernel;
        if (auto kernel = make_wide_attention(node, device_)) return kernel;
        if (auto kernel = by_cudnn(make_cudnn_attention, node)) return kernel;
        return make_attention(node, device_);
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
    // Chains and kernels of our own are compiled while libraries are asked for their fastest.
    auto generated = std::async(std::launch::async, [&, target = log_target()] {
      const LogScope log_scope(target);
      return make_chains(chains, device_);
    });
    auto ours = std::async(std::launch::async, [&, target = log_target()] {
      const LogScope log_scope(target);
      std::vector<Device::Program> programs = flash_attention_programs(nodes, *device_);
      std::ranges::move(wide_attention_programs(nodes, *device_), std::back_inserter(programs));
      std::ranges::move(halo_conv_programs(nodes, *device_), std::back_inserter(programs));
      device_->build(programs);
    });
    const auto waits = [&](const Node* node) {
      return is_chain(node->opcode) || node->opcode == Opcode::attention ||
             (node->opcode == Opcode::conv && comes_before_cudnn(*node, *device_));
    };
    std::vector<std::unique_ptr<Kernel>> kernels;
    for (const Node* node : nodes) kernels.push_back(waits(node) ? nullptr : make_kernel(*node));
    ours.get();
    std::vector<std::unique_ptr<Kernel>> made = generated.get();
    std::size_t next = 0;
    for (std::size_t i = 0; i < nodes.size(); ++i)
      if (!kernels[i]) kernels[i] = is_chain(nodes[i]->opcode) ? std::move(made[next++]) : make_kernel(*nodes[i]);
    return kernels;
  }

 private:
  // Null where there is none.
  const std::shared_ptr<Cublaslt>& cublaslt() const {
    std::call_once(cublaslt_once_, [&] {
      if (!cublaslt_library_.valid()) return;
      const CublasltLibrary& library = cublaslt_library_.get();
      if (library.why.empty()) cublaslt_ = std::make_shared<Cublaslt>(device_, library.api);
      else log(LogLevel::notice, fmt::format("products run on kernels of our own, which are slower: {}.", library.why));
    });
    return cublaslt_;
  }

  // Null where there is none, or where it does not take the node.
  std::unique_ptr<Kernel> by_cudnn(decltype(make_cudnn_conv)* make, const Node& node) const {
    std::call_once(cudnn_once_, [&] {
      if (&device_->vendor != &kCuda) return;
      const CudnnLibrary& library = load_cudnn(device_->options.cuda_path);
      std::string why = library.why;
      if (why.empty()) cudnn_ = Cudnn::open(library.api, device_, why);
      if (!cudnn_)
        log(LogLevel::notice, fmt::format("attention and convolutions run on kernels of our own, which are slower: {}.", why));
    });
    std::string why;
    return cudnn_ ? make(node, cudnn_, why) : nullptr;
  }

  // cuBLASLt is large: it is loaded while the driver starts. Only NVIDIA has it. Error if there is no driver.
  const std::shared_future<const CublasltLibrary&> cublaslt_library_;
  const DevicePtr device_;
  DeviceStream stream_;
  mutable std::once_flag cublaslt_once_;
  mutable std::shared_ptr<Cublaslt> cublaslt_;
  mutable std::once_flag cudnn_once_;
  mutable std::shared_ptr<Cudnn> cudnn_;
  DeviceInfo info_;
  std::atomic<bool> said_unlocked_ = false;
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
