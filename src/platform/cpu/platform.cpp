#include "platform/cpu/platform.h"

#include <hwy/targets.h>
#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>

#include "base/error.h"
#include "base/log.h"
#include "platform/cpu/generated.h"
#include "platform/cpu/host.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/onednn.h"
#include "platform/cpu/spins.h"
#include "platform/cpu/team.h"
#include "platform/cpu/tiles.h"
#include "platform/group.h"

namespace zoe::cpu {
namespace {

double gib(std::uint64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(std::uint64_t{1} << 30); }

// Anonymous pages: zero, touched when first written, and back at the system when the buffer goes.
struct CpuBuffer : Buffer {
  CpuBuffer(void* mapped, std::size_t size, std::shared_ptr<std::atomic<std::uint64_t>> total) : allocated(std::move(total)) {
    data = mapped;
    size_bytes = size;
    *allocated += size;
  }
  ~CpuBuffer() override {
    munmap(data, std::max<std::size_t>(size_bytes, 1));
    *allocated -= size_bytes;
  }
  const std::shared_ptr<std::atomic<std::uint64_t>> allocated;  // of all buffers of the platform; a buffer may outlive it
};

struct CpuStream : Stream {
  void synchronize() override {}  // every kernel has finished when its run() returns
};

// oneDNN's own limit, DNNL_MAX_CPU_ISA=AVX2, holds for our loops too: it shows what cores without AVX-512 would run.
bool limited_to_avx2() {
  const dnnl::cpu_isa isa = dnnl::get_effective_cpu_isa();
  if (isa != dnnl::cpu_isa::avx2 && isa != dnnl::cpu_isa::avx2_vnni) return false;
#if HWY_ARCH_X86
  hwy::DisableTargets(HWY_AVX2 - 1);  // better ones have lower bits
#endif
  return true;
}

class CpuPlatform : public Platform {
 public:
  explicit CpuPlatform(const PlatformOptions& options) {
    constexpr int kMaxThreads = 1024;
    check(options.threads >= 0 && options.threads <= kMaxThreads, ErrorKind::invalid_argument, "cpu",
          "bad number of threads: got {}, expected 0 (all) to {}.", options.threads, kMaxThreads);
    limit_ = options.memory_limit_bytes;
    const HostMemory memory = host_memory();
    info_ = {.platform = "cpu",
             .name = cpu_name(),
             .features = cpu_features(),
             .memory_bytes = memory.total_bytes,
             .threads = std::min(options.threads > 0 ? options.threads : usable_threads(), omp_get_thread_limit()),
             .unified_memory = true,
             .exact_bits = true};
    info_.generates_kernels = true;
    info_.cache_bytes = last_level_cache_bytes();
    info_.bf16_products = cpu_multiplies_bf16() && !limited_to_avx2();
    use_team(info_.threads);
    short_spins_ = keep_spins_short(info_.threads);
    if (info_.bf16_products && cores_have_tiles() && why_no_tiles() == kNoTilePermission)
      log(LogLevel::notice, fmt::format("{}: products in bf16 take vectors instead", why_no_tiles()));
    cache_folder_ = options.cache_dir;
    compiler_name_ = options.compiler;
    table_ = make_table();
  }

  const DeviceInfo& info() const override { return info_; }

  // What is free, less what buffers were promised and have not touched yet. The process's resident anonymous memory stands for
  // what they touched; its other heap makes the promise look a little smaller.
  std::uint64_t free_bytes() const override {
    const std::uint64_t free = host_memory().free_bytes, allocated = *allocated_, resident = anonymous_bytes();
    const std::uint64_t promised = allocated - std::min(allocated, resident);
    const std::uint64_t available = free - std::min(free, promised);
    return limit_ == 0 ? available : std::min(available, limit_ - std::min(limit_, allocated));
  }

  std::shared_ptr<Buffer> allocate(std::size_t size_bytes, std::string_view what) override {
    const auto refuse = [&](std::uint64_t free) {
      const std::string limit = limit_ == 0 ? "" : fmt::format(" and the limit of {:.2f} (--memory-limit)", gib(limit_));
      fail(ErrorKind::out_of_memory, "cpu",
           "cannot allocate {:.2f} GiB for \"{}\": {:.2f} GiB free of {:.2f}{}. Ask for a smaller size or fewer frames, or free "
           "memory.",
           gib(size_bytes), what, gib(free), gib(info_.memory_bytes), limit);
    };
    {
      const std::lock_guard lock(unasked_mutex_);
      if (size_bytes > unasked_) {  // asking the system costs more than a small allocation
        const std::uint64_t free = free_bytes();
        if (size_bytes > free) refuse(free);
        unasked_ = std::min(free - size_bytes, std::uint64_t{64} << 20);
      } else {
        unasked_ -= size_bytes;
      }
    }
    void* mapped = mmap(nullptr, std::max<std::size_t>(size_bytes, 1), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) refuse(free_bytes());
    constexpr std::size_t kHugeFrom = std::size_t{4} << 20;  // huge pages save most faults; a refusal only costs time
    if (size_bytes >= kHugeFrom) madvise(mapped, size_bytes, MADV_HUGEPAGE);
    return std::make_shared<CpuBuffer>(mapped, size_bytes, allocated_);
  }

  std::unique_ptr<Stream> make_stream() override { return std::make_unique<CpuStream>(); }

  void enter_thread() const override { use_team(info_.threads); }  // it is the thread's own setting
  void pull(Stream&, Slot to, Platform& other, Slot from, std::size_t size_bytes) override {
    ZOE_INTERNAL_CHECK(other.info().host_addressable);
    std::memcpy(to.data(), from.data(), size_bytes);
  }
  Support reaches(const Platform& other) const override {
    return other.info().host_addressable ? Support::yes() : Platform::reaches(other);
  }

  void upload(Stream&, const void* host, Slot device, std::size_t size_bytes) override {
    std::memcpy(device.data(), host, size_bytes);
  }
  void download(Stream&, Slot device, void* host, std::size_t size_bytes) override { std::memcpy(host, device.data(), size_bytes); }

  void copy(Stream&, Slot from, Slot to, std::size_t size_bytes) override { std::memcpy(to.data(), from.data(), size_bytes); }
  void zero(Stream&, Slot slot, std::size_t size_bytes) override { std::memset(slot.data(), 0, size_bytes); }

  std::span<const Implementation> implementations() const override { return table_; }

  std::vector<Implemented> implement(std::span<const Node* const> nodes, const OverrideRules& rules) override {
    const Selection selection(info_.platform, table_, rules);
    std::vector<const Node*> fused, others;
    for (const Node* node : nodes) (node->opcode == Opcode::fused ? fused : others).push_back(node);
    std::vector<Implemented> generated = selection.implement(fused, false);
    const auto kept = [] { return heap_bytes() + generated_code_bytes(); };
    const std::uint64_t before = kept();
    std::vector<Implemented> made = selection.implement(others, false), implemented;
    // oneDNN does not say what a primitive keeps: for a convolution on AMX tiles tables that grow with the width of the picture,
    // 0.2 to 3 MiB each, and code. It keeps them for the next equal primitive when the kernel has gone, so that the sum stays.
    const std::uint64_t after = kept();
    if (after > before) kernel_memory_bytes_ += after - before;
    std::size_t next_generated = 0, next_made = 0;
    for (const Node* node : nodes)
      implemented.push_back(std::move(node->opcode == Opcode::fused ? generated[next_generated++] : made[next_made++]));
    return implemented;
  }

  std::uint64_t kernel_memory_bytes() const override { return kernel_memory_bytes_; }

 private:
  // None, and why, where no compiler can be had.
  std::vector<std::unique_ptr<Kernel>> generate(std::span<const Node* const> nodes, std::string& why) {
    const std::lock_guard lock(compiler_mutex_);  // a build takes all threads: a second one at a time would gain nothing
    if (!compiler_) {
      cache_ = std::make_unique<KernelCache>(KernelCache::Options{.folder = cache_folder_});
      compiler_ = std::make_unique<CppCompiler>(*cache_, CppBuildOptions{.compiler = compiler_name_, .threads = info_.threads});
    }
    if (compiler_->reason().empty())
      if (auto kernels = make_generated(nodes, info_, *compiler_); compiler_->reason().empty()) return kernels;
    if (!warned_)
      log(LogLevel::notice, fmt::format("fused kernels are interpreted, a tile of rows at a time: {}", compiler_->reason()));
    warned_ = true;
    why = compiler_->reason();
    return {};
  }

  std::vector<Implementation> make_table() {
    std::vector<Implementation> table = cpu::implementations(info_);
    table.push_back(exchange_row(*this));
    table.push_back({.name = "generated",
                     .of = one_of<Opcode::fused>,
                     .make_all = [this](std::span<const Node* const> nodes, std::string& why) { return generate(nodes, why); }});
    table.push_back({.name = "row_blocks", .of = one_of<Opcode::fused>, .make = [this](const Node& node, Making&) {
                       return make_row_blocks(chain_of(node), info_);
                     }});
    return table;
  }

  DeviceInfo info_;
  std::uint64_t limit_ = 0;  // of buffers; 0: none
  std::vector<Implementation> table_;
  std::shared_ptr<void> short_spins_;
  std::filesystem::path cache_folder_;
  std::string compiler_name_;
  std::mutex compiler_mutex_;           // of what follows
  std::unique_ptr<KernelCache> cache_;  // with the compiler made for the first fused node
  std::unique_ptr<CppCompiler> compiler_;
  bool warned_ = false;
  std::atomic<std::uint64_t> kernel_memory_bytes_ = 0;
  std::mutex unasked_mutex_;
  std::uint64_t unasked_ = 0;  // may be allocated before the system is asked again
  const std::shared_ptr<std::atomic<std::uint64_t>> allocated_ = std::make_shared<std::atomic<std::uint64_t>>(0);
};

}  // namespace

std::unique_ptr<Platform> open(const PlatformOptions& options) { return std::make_unique<CpuPlatform>(options); }

}  // namespace zoe::cpu
