#include "platform/platform.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>

#include <sys/mman.h>

#include "base/error.h"
#include "platform/implementation.h"

namespace zoe {
namespace {

// Of a queue that was drained when the event was made.
class DrainedEvent : public Event {
 public:
  bool reached() override { return true; }
  void wait() override {}
  double seconds_since(Event& earlier) override {
    return std::chrono::duration<double>(made_ - static_cast<DrainedEvent&>(earlier).made_).count();
  }

 private:
  const std::chrono::steady_clock::time_point made_ = std::chrono::steady_clock::now();
};

struct OrdinaryMemory : HostBuffer {
  OrdinaryMemory(std::size_t size, std::string_view what) {
    void* const mapped = mmap(nullptr, std::max<std::size_t>(size, 1), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(mapped != MAP_FAILED, ErrorKind::out_of_memory, "memory",
          "cannot allocate {} MiB of this process's memory for \"{}\". Free memory, or lower --host-memory-limit.", size >> 20,
          what);
    data = static_cast<std::byte*>(mapped);
    size_bytes = size;
  }
  ~OrdinaryMemory() override { munmap(data, std::max<std::size_t>(size_bytes, 1)); }
};

}  // namespace

std::shared_ptr<HostBuffer> Platform::allocate_host(std::size_t size_bytes, std::string_view what, HostPages /*pages*/) {
  return std::make_shared<OrdinaryMemory>(size_bytes, what);
}

std::unique_ptr<Event> Stream::record_event() {
  synchronize();
  return std::make_unique<DrainedEvent>();
}

// Streams whose can_capture() is true have their own.
void Stream::capture_begin() { ZOE_INTERNAL_CHECK(can_capture()); }
std::unique_ptr<CapturedGraph> Stream::capture_end(std::string* why) {
  *why = "this kind of stream captures nothing";
  return nullptr;
}
void Stream::launch(const CapturedGraph&) { ZOE_INTERNAL_CHECK(can_capture()); }

Support Platform::keeps_stored(const Encoding&) const {
  for (const Implementation& row : implementations())
    if (row.takes_kept) return Support::yes();
  return Support::no("{} widens weights as it loads them", info().platform);
}

void Platform::copy(Stream& stream, Slot from, Slot to, std::size_t size_bytes) {
  std::vector<std::byte> bytes(size_bytes);
  download(stream, from, bytes.data(), size_bytes);
  upload(stream, bytes.data(), to, size_bytes);
}

void Platform::pull(Stream& stream, Slot to, Platform& other, Slot from, std::size_t size_bytes) {
  stream.synchronize();
  std::vector<std::byte> bytes(size_bytes);
  const std::unique_ptr<Stream> of_other = other.make_stream();
  other.download(*of_other, from, bytes.data(), size_bytes);
  upload(stream, bytes.data(), to, size_bytes);
}

Support Platform::reaches(const Platform&) const { return Support::no("{} copies through this process", info().platform); }

void Platform::zero(Stream& stream, Slot slot, std::size_t size_bytes) {
  const std::vector<std::byte> zeros(std::min(size_bytes, std::size_t{16} << 20));
  for (std::size_t done = 0; done < size_bytes; done += zeros.size())
    upload(stream, zeros.data(), {slot.buffer, slot.offset + done}, std::min(zeros.size(), size_bytes - done));
}

std::string Kernel::weight_layout(int) const { return "dense"; }

bool Kernel::can_overwrite(int, int) const { return false; }

std::unique_ptr<Event> Kernel::start(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs) const {
  run(stream, inputs, outputs, {});
  return stream.record_event();
}

std::size_t Kernel::packed_bytes(int, const Type& type) const { return type.size_bytes(); }

void Kernel::pack_weight(int, const Type& type, const WeightReader& source, std::byte* packed) const {
  ZOE_INTERNAL_CHECK(source.count() == type.shape.count());
  constexpr std::int64_t kChunk = 1 << 18;  // elements: large enough to hide the cost of a thread's turn
  const std::int64_t count = type.shape.count(), chunks = (count + kChunk - 1) / kChunk;
#pragma omp parallel for schedule(static) if (chunks > 1)
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk)
    source.read(chunk * kChunk, std::min(kChunk, count - chunk * kChunk), type.dtype,
                packed + static_cast<std::size_t>(chunk * kChunk) * size_of(type.dtype));
}

std::vector<Implemented> Platform::implement(std::span<const Node* const> nodes, const OverrideRules& rules) {
  return Selection(info().platform, implementations(), rules).implement(nodes, false);
}

std::vector<std::unique_ptr<Kernel>> Platform::make_kernels(std::span<const Node* const> nodes) {
  std::vector<std::unique_ptr<Kernel>> kernels;
  for (Implemented& made : implement(nodes)) kernels.push_back(std::move(made.kernel));
  return kernels;
}

std::unique_ptr<Kernel> Platform::make_kernel(const Node& node) {
  const Node* const one = &node;
  return std::move(make_kernels({&one, 1}).front());
}

}  // namespace zoe
