// One opened device: what it is, its context, memory and programs, and how a kernel is queued on it.
//
// A Device, its buffers and its functions are for any thread; a stream (and with it what is launched on it) for one at a time.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "platform/cuda/api.h"
#include "platform/kernel_cache.h"
#include "platform/platform.h"

namespace zoe::cuda {

struct DeviceDescription {
  int ordinal = 0, handle = 0;
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0, warp_threads = 32;
  bool is_integrated = false;                                    // its memory is the host's
  std::size_t memory_bytes = 0, l2_bytes = 0, shared_bytes = 0;  // shared: the most a block may ask for
  int driver_version = 0;                                        // 13000: CUDA 13.0
};

inline double gib(std::uint64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(std::uint64_t{1} << 30); }

class Device;
class DeviceStream;
using DevicePtr = std::shared_ptr<Device>;

// Memory of the device's pool. `data` is the address there: no memory of this process.
struct DeviceBuffer : Buffer {
  DeviceBuffer(DevicePtr device, Address address, std::size_t size);
  ~DeviceBuffer() override;  // freed behind all that is queued on any stream of the device
  const DevicePtr device;
};

// A kernel function of a loaded program. Immutable, usable from any thread.
struct Function {
  FunctionHandle handle = nullptr;
  std::string name;
  std::size_t max_shared_bytes = 0;  // dynamic ones that a launch may ask for
};

struct Extent {
  std::int64_t x = 1, y = 1, z = 1;
};

// Queues a function with its arguments in order: Launch(f, stream).place(x).integer(n).run({blocks}, {256}).
class Launch {
 public:
  Launch(const Function& function, Stream& stream) : function_(function), stream_(stream) {}
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;
  Launch& place(const Slot& slot) { return address(reinterpret_cast<Address>(slot.data())); }
  Launch& nowhere() { return address(0); }  // for an operand that is absent
  Launch& address(Address value);
  Launch& integer(std::int64_t value);  // an int; internal error if it does not fit
  Launch& large(std::int64_t value);    // a long
  Launch& number(float value);
  Launch& tensor(const TensorMap& map);
  void run(Extent blocks, Extent threads, std::size_t shared_bytes = 0);

 private:
  template <class T>
  Launch& argument(const T& value);
  static constexpr std::size_t kMost = 512;
  const Function& function_;
  Stream& stream_;
  alignas(TensorMap) std::array<std::uint64_t, kMost> values_;
  std::array<void*, kMost> arguments_;  // where in them each argument is
  std::size_t used_ = 0, count_ = 0;
};

class Device : public std::enable_shared_from_this<Device> {
 public:
  Device(const Vendor& vendor, int ordinal, const PlatformOptions& options);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const Vendor& vendor;
  const PlatformOptions options;
  const DriverApi& api;
  const CompilerApi& compiler;
  DeviceDescription description;
  std::vector<LibraryInfo> libraries;        // the driver and the run-time compiler
  const std::shared_ptr<KernelCache> cache;  // of programs, and of what the vendor's libraries chose

  // Calls of the driver go to the context that is current in the calling thread.
  void make_current() const;
  void check_status(Status status, std::string_view call, std::string_view what = {}) const {
    if (status != kSuccess) [[unlikely]]
      check_driver(api, vendor, status, call, what);
  }

  // A program to be compiled for exactly this device. `name` is that of a function in it, `what` names it in errors. `exact`: no
  // contraction of products and sums, as generated code and everything that promises bits needs.
  struct Program {
    std::string source, name, what;
    bool exact = true;
  };
  // Takes programs from the kernel cache, or compiles them, as many at a time as there are cores, and loads them. Each distinct
  // text and set of options is loaded once.
  void build(std::span<const Program> programs);
  // A function of a program, which is built if it was not yet.
  Function function(const Program& program, const std::string& name);
  Function function(const std::string& source, const std::string& name, std::string_view what, bool exact = true) {
    return function({source, name, std::string(what), exact}, name);
  }

  // The stream of allocations, fills and frees.
  StreamHandle memory_stream() const { return memory_stream_; }
  // An Error of kind out_of_memory names `what`, the size and what is free.
  std::shared_ptr<Buffer> allocate(std::size_t size_bytes, std::string_view what, bool zeroed = true);
  // Page-locked memory of this process; null if the system locks no more.
  std::shared_ptr<HostBuffer> allocate_locked(std::size_t size_bytes);
  // kChunkBytes of the same for a stream's copies; those that are given back serve the next streams, as locking memory takes longer
  // than filling it.
  std::byte* take_chunk();
  void give_back_chunk(std::byte* chunk);
  static constexpr std::size_t kChunkBytes = std::size_t{4} << 20;
  // What allocate() can still hand out: of the device, and of what the pool keeps of freed memory, within the limit.
  std::uint64_t free_bytes() const;
  std::uint64_t peak_bytes() const { return peak_; }
  // Whether this device's copy engines and kernels reach the other's memory; then from now on they may.
  Support reaches(const Device& other) const;

 private:
  friend struct DeviceBuffer;
  friend class DeviceStream;
  Status take(Address* address, std::size_t bytes, std::string_view what);
  void free(Address address, std::size_t size_bytes);
  struct Build;
  KernelRecipe recipe(const Program& program) const;
  void compile(Build& build) const;
  Status load(const std::string& key, const std::string& binary);
  void store(std::span<Build> builds);

  ContextHandle context_ = nullptr;
  StreamHandle memory_stream_ = nullptr;  // of allocations, fills and frees
  PoolHandle pool_ = nullptr;
  std::atomic<std::uint64_t> allocated_{0}, peak_{0};
  std::mutex streams_mutex_;
  std::vector<DeviceStream*> streams_;           // those that live
  std::mutex chunks_mutex_;                      // of what follows
  std::vector<std::byte*> chunks_;               // that no stream has
  std::mutex mutex_;                             // of what follows
  std::map<std::string, ModuleHandle> modules_;  // by the recipe's key
  std::vector<ModuleHandle> loaded_;             // the same in the order of their loading
  int compiler_major_ = 0, compiler_minor_ = 0;
};

class DeviceStream : public Stream {
 public:
  explicit DeviceStream(DevicePtr device);
  ~DeviceStream() override;
  void synchronize() override;
  // Host memory goes through page-locked chunks: one is filled or emptied while the other is on the bus. An upload returns when
  // all is in a chunk or on the device, and waits for no more; several streams, each in its own thread, fill the bus.
  void upload(const void* from, Address to, std::size_t size_bytes);
  void upload_later(const HostBuffer& from, std::size_t offset, Address to, std::size_t size_bytes);
  void download(Address from, void* to, std::size_t size_bytes);
  // Whether what is queued is captured into a graph: nothing outside may wait for it then.
  std::atomic<bool> capturing{false};
  std::unique_ptr<Event> record_event() override;  // an event
  void wait_for(Event& event) override;
  // CapturedGraphs are the driver's graphs, captured from what this thread queues here.
  bool can_capture() const override { return true; }
  void capture_begin() override;
  std::unique_ptr<CapturedGraph> capture_end(std::string* why) override;
  void launch(const CapturedGraph& kept) override;
  // Where a kernel of this stream leaves what only the host can report (see gather in kernels/movement.cu): three ints, zero if
  // nothing is wrong. The next synchronize() looks there.
  Address fault();
  StreamHandle handle() const { return handle_; }
  const Device& device() const { return *device_; }

 private:
  friend class Device;
  struct Chunk {
    std::byte* data = nullptr;
    EventHandle done = nullptr;  // of the copies from or to it
    bool in_flight = false;
  };
  bool has_chunks();
  void release();

  const DevicePtr device_;
  StreamHandle handle_ = nullptr;
  EventHandle queued_ = nullptr;  // what Device::free waits for
  std::array<Chunk, 2> chunks_;
  std::size_t chunk_ = 0, used_ = 0;  // the one that uploads fill, and how far it is filled
  bool chunks_refused_ = false;
  std::shared_ptr<Buffer> fault_;                 // with the first kernel that may report
  std::set<std::shared_ptr<Buffer>> to_look_at_;  // faults of the kernels queued since the last synchronize()
  bool fault_captured_ = false;                   // a kernel of the graph at hand may report
};

inline StreamHandle handle_of(Stream& stream) { return static_cast<DeviceStream&>(stream).handle(); }
inline Address address_of(const Slot& slot) { return reinterpret_cast<Address>(slot.data()); }

}  // namespace zoe::cuda
