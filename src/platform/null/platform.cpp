#include "platform/null/platform.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <set>
#include <utility>

#include "base/error.h"
#include "codegen/chain.h"
#include "ir/graph.h"
#include "platform/coded_weight.h"
#include "platform/implementation.h"

namespace zoe::null {
namespace {

struct NullBuffer : Buffer {
  NullBuffer(std::size_t size, std::string_view what, std::shared_ptr<std::atomic<std::uint64_t>> total)
      : allocated(std::move(total)) {
    void* mapped =
        mmap(nullptr, std::max<std::size_t>(size, 1), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    check(mapped != MAP_FAILED, ErrorKind::out_of_memory, "null", "cannot reserve {} bytes for \"{}\": the address space is full.",
          size, what);
    data = mapped;
    size_bytes = size;
    *allocated += size;
  }
  ~NullBuffer() override {
    munmap(data, std::max<std::size_t>(size_bytes, 1));
    *allocated -= size_bytes;
  }
  const std::shared_ptr<std::atomic<std::uint64_t>> allocated;  // of all buffers of the platform; a buffer may outlive it
};

struct NullStream : Stream {
  void synchronize() override {}
};

// Results may take the place of operands as they do where kernels run: in chains, and of a product's residual. So plans have the
// memory that they have there.
struct NullKernel : Kernel {
  explicit NullKernel(const Node& node) {
    if (node.opcode == Opcode::linear || node.opcode == Opcode::conv) {
      const auto& product = node.as<ProductAttributes>();
      if (product.has_residual) overwritable.emplace(product.has_bias ? 3 : 2, 0);
    } else if (node.opcode == Opcode::fused || is_unary(node.opcode) || is_binary(node.opcode) || node.opcode == Opcode::cast) {
      const Lowered lowered =
          lower(node.opcode == Opcode::fused ? node.as<std::shared_ptr<const CallAttributes>>()->native : single_node_graph(node));
      if (!lowered.chain) return;
      for (int input = 0; input < static_cast<int>(node.inputs.size()); ++input)
        for (int output = 0; output < static_cast<int>(node.types.size()); ++output)
          if (zoe::can_overwrite(*lowered.chain, input, output)) overwritable.emplace(input, output);
    }
  }
  bool can_overwrite(int input, int output) const override { return overwritable.contains({input, output}); }
  std::string_view implementation() const override { return "null"; }
  void pack_weight(int, const Type&, const WeightReader&, std::byte*) const override {}
  void run(Stream&, std::span<const Slot>, std::span<const Slot>, Slot) const override {}
  std::set<std::pair<int, int>> overwritable;  // operand, result
};

struct NullCodesKernel : NullKernel {
  explicit NullCodesKernel(const Node& node)
      : NullKernel(node),
        is_linear(node.opcode == Opcode::linear),
        codes_of_x(static_cast<std::size_t>(node.inputs[0].shape().count())) {}
  std::size_t scratch_bytes() const override { return codes_of_x; }
  std::string weight_layout(int input) const override {
    return is_linear && input == 1 ? std::string(kCodedLayout) : Kernel::weight_layout(input);
  }
  std::size_t packed_bytes(int input, const Type& type) const override {
    return is_linear && input == 1 ? coded_bytes(type) : Kernel::packed_bytes(input, type);
  }
  const bool is_linear;
  const std::size_t codes_of_x;
};

class NullPlatform : public Platform {
 public:
  explicit NullPlatform(std::uint64_t limit) {
    if (limit > 0) info_.memory_bytes = limit, info_.unified_memory = false;
  }
  const DeviceInfo& info() const override { return info_; }
  std::uint64_t free_bytes() const override {
    return info_.memory_bytes - std::min<std::uint64_t>(info_.memory_bytes, *allocated_);
  }
  std::shared_ptr<Buffer> allocate(std::size_t size_bytes, std::string_view what) override {
    check(size_bytes <= free_bytes(), ErrorKind::out_of_memory, "null", "cannot reserve {} bytes for \"{}\": {} are free.",
          size_bytes, what, free_bytes());
    return std::make_shared<NullBuffer>(size_bytes, what, allocated_);
  }
  std::unique_ptr<Stream> make_stream() override { return std::make_unique<NullStream>(); }
  void upload(Stream&, const void*, Slot, std::size_t) override {}
  void download(Stream&, Slot, void* host, std::size_t size_bytes) override { std::memset(host, 0, size_bytes); }
  std::span<const Implementation> implementations() const override { return table_; }

 private:
  static std::unique_ptr<Kernel> make(const Node& node, Making&) { return std::make_unique<NullKernel>(node); }
  const std::vector<Implementation> table_ = {
      {.name = "null_kept", .of = one_of<Opcode::linear>, .make = make, .takes_kept = true},
      {.name = "null_codes",
       .of = one_of<Opcode::linear, Opcode::attention>,
       .make = [](const Node& node, Making&) { return std::make_unique<NullCodesKernel>(node); },
       .takes_codes = true},
      {.name = "null", .of = [](Opcode) { return true; }, .make = make}};
  static constexpr std::uint64_t kAddressSpace = std::uint64_t{1} << 46;
  DeviceInfo info_ = {.platform = "null",
                      .name = "no device",
                      .features = "makes plans, runs nothing",
                      .memory_bytes = kAddressSpace,
                      .unified_memory = true,
                      .exact_bits = true,
                      .copies_beside = true,
                      .generates_kernels = true};
  const std::shared_ptr<std::atomic<std::uint64_t>> allocated_ = std::make_shared<std::atomic<std::uint64_t>>(0);
};

}  // namespace

std::unique_ptr<Platform> open(const PlatformOptions& options) {
  return std::make_unique<NullPlatform>(options.memory_limit_bytes);
}

}  // namespace zoe::null
