// What a device must offer to run plans: memory, an ordered queue, and a kernel for each node of a graph.
//
// Implementations: cpu/, cuda/, opencl/, null/. A plan asks `implement` for every node that remains after the compiler's passes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/shape.h"
#include "base/support.h"
#include "base/weight_reader.h"
#include "ir/value.h"
#include "platform/override_rules.h"

namespace zoe {

// What a device is: fixed from its opening on.
struct DeviceInfo {
  std::string platform;           // "cpu"
  std::string name;               // what the vendor calls it
  std::string features;           // for people: instruction sets, driver version
  std::uint64_t memory_bytes;     // total
  int threads = 1;                // cpu only
  int capability = 0;             // cuda and musa: 10 * major + minor of the compute capability
  bool unified_memory = false;    // buffers take the memory of this process and of what it reads from the disk
  bool host_addressable = true;   // Buffer::data is memory of this process; else only kernels, upload and download reach a buffer
  bool exact_bits = false;        // a compiled plan has the bits of the uncompiled one; else they agree within tolerances
  std::uint64_t cache_bytes = 0;  // cpu only: the last level; 0 if the system does not say
  bool bf16_products = false;     // bf16 operands are faster than f32 ones; decides `--dtype auto`
  bool copies_beside = false;     // a stream's copies run while kernels of another one do
  // Limits of generated kernels, which fusion keeps to.
  bool generates_kernels = false;                       // whether it runs fused nodes at all
  std::size_t max_kernel_operands = 48;                 // operands and results
  std::int64_t max_kept_bytes = std::int64_t{1} << 20;  // values of a row that wait for a later pass over it
};

struct LibraryInfo {    // a vendor's library that is opened at run time
  std::string name;     // "NVRTC"
  std::string version;  // "13.0"; empty: there is none that can be used
  std::string detail;   // its path, or why not
};

// Bytes on one platform, freed when the last owner goes, zeroed when allocated. `data` is the address the platform's kernels use:
// on `cpu` ordinary memory, 64-byte aligned; null where buffers have no address (`opencl`).
struct Buffer {
  virtual ~Buffer() = default;
  void* data = nullptr;
  std::size_t size_bytes = 0;
};

// Whether the system may move the pages of memory of this process, see Platform::allocate_host().
enum class HostPages : std::uint8_t { ordinary, locked };
// Memory of this process that a stream copies from by itself while the host goes on, where the device can do so.
struct HostBuffer {
  virtual ~HostBuffer() = default;  // nothing may still copy from it
  std::byte* data = nullptr;        // 64-byte aligned
  std::size_t size_bytes = 0;
  bool is_locked = false;  // its pages stay in memory; else a copy takes the host's time
};

// An operand of a kernel: a place inside a buffer.
struct Slot {
  const Buffer* buffer = nullptr;
  std::size_t offset = 0;
  std::byte* data() const { return static_cast<std::byte*>(buffer->data) + offset; }
};

// A place in a stream's queue, reached when all that was queued before it is done.
class Event {
 public:
  virtual ~Event() = default;
  virtual bool reached() = 0;
  virtual void wait() = 0;
  virtual double seconds_since(Event& earlier) = 0;  // of the same kind of stream; both reached
};

// Work that a stream was given, kept to be queued again in one go: the same kernels on the same addresses.
class CapturedGraph {
 public:
  virtual ~CapturedGraph() = default;
};

// An ordered queue of work. Passed explicitly; there is no default one.
class Stream {
 public:
  virtual ~Stream() = default;
  virtual void synchronize() = 0;
  // By default an event waits for the queue, which is right everywhere and costs nothing where work runs as it is given.
  virtual std::unique_ptr<Event> record_event();
  // What is queued from here on waits for an event of another stream.
  virtual void wait_for(Event& event) { event.wait(); }
  // Between capture_begin and capture_end kernels that are run are captured, not queued. Only where can_capture() says so. No
  // graph (null) if some kernel did what cannot be captured; `why` then says what.
  virtual bool can_capture() const { return false; }
  virtual void capture_begin();
  virtual std::unique_ptr<CapturedGraph> capture_end(std::string* why);
  virtual void launch(const CapturedGraph& graph);
};

// One loaded function with its launch geometry. Immutable, and usable from any thread.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual std::string_view implementation() const = 0;    // for the plan: "onednn brgemm:avx512_core", "loop", ...
  virtual std::string_view source() const { return {}; }  // of a generated kernel
  virtual std::size_t scratch_bytes() const { return 0; }

  // Weights are handed over once, in a layout of the kernel's choice. Called for inputs that are Opcode::parameter, and not kept as
  // they are stored.
  // The default is dense, in the parameter node's dtype. Two kernels whose layouts have the same name share the packed bytes;
  // "dense bf16" and its like are the elements in their order, so that a file's bytes of that dtype are taken as they are.
  virtual std::string weight_layout(int input) const;
  virtual std::size_t packed_bytes(int input, const Type& type) const;
  virtual void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const;

  // True if output `output` may lie in the memory of input `input`, of equal size: each of its elements is read for the last
  // time before, or where, the same element of the output is written.
  virtual bool can_overwrite(int input, int output) const;

  // False if a run does more than to queue the same on its stream: its block is then queued kernel by kernel.
  virtual bool can_capture() const { return true; }

  // Queues the work. `inputs` are in the node's operand order, `outputs` in that of its results; packed weights stand where their
  // parameters do. No output overlaps an input, except where can_overwrite allows it and that an input of a concat may already
  // lie in its place.
  virtual void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const = 0;

  // Whether its work may go on beside the kernels behind it: start() queues it on a stream of the kernel's own, behind what
  // `stream` was given so far, and returns where it is done. What reads the results waits for that; until then the operands stay.
  virtual bool works_beside() const { return false; }
  virtual std::unique_ptr<Event> start(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs) const;
};

// A row of a platform's table: a way to run nodes, and which it takes (implementation.h).
struct Implementation;

// A row that was asked before the one that runs, and what it said.
struct Refusal {
  std::string row, reason;
};

// The kernel of a node, the row it comes from and those that said no. A kernel made of others has their rows behind its own.
struct Implemented {
  std::unique_ptr<Kernel> kernel;
  std::string row;
  std::vector<Refusal> refused = {};
};

class DeviceGroup;

// An opened device. Several threads may use one at a time: compile plans, allocate, run kernels (each on a stream of its own), ask.
class Platform {
 public:
  virtual ~Platform() = default;
  virtual const DeviceInfo& info() const = 0;  // the same object, unchanged, for the platform's life
  // What allocate() can still hand out: asks the device, now.
  virtual std::uint64_t free_bytes() const = 0;
  // The most that buffers took together since it was opened; 0 where nobody counts.
  virtual std::uint64_t peak_bytes() const { return 0; }
  // Zeroed bytes. out_of_memory names `what`, the size and what is free.
  virtual std::shared_ptr<Buffer> allocate(std::size_t size_bytes, std::string_view what) = 0;
  // The same with any contents, which is faster: for what is written as a whole before it is read.
  virtual std::shared_ptr<Buffer> allocate_unset(std::size_t size_bytes, std::string_view what) {
    return allocate(size_bytes, what);
  }
  // Memory of this process; out_of_memory where there is none. `locked`: page-locked, where that makes copies run by themselves and
  // the system allows it. That takes longer than to copy the bytes once.
  virtual std::shared_ptr<HostBuffer> allocate_host(std::size_t size_bytes, std::string_view what, HostPages pages);
  virtual std::unique_ptr<Stream> make_stream() = 0;
  // Host memory to and from the device, in stream order; the host memory may be reused when the call returns. Several threads may
  // do so at a time, each with a stream of its own.
  virtual void upload(Stream& stream, const void* host, Slot device, std::size_t size_bytes) = 0;
  virtual void download(Stream& stream, Slot device, void* host, std::size_t size_bytes) = 0;
  // Queues a copy of bytes [offset, offset + size) and goes on: they stay as they are until the stream has passed it.
  virtual void upload_later(Stream& stream, const HostBuffer& from, std::size_t offset, Slot device, std::size_t size_bytes) {
    upload(stream, from.data + offset, device, size_bytes);
  }
  // From one place to another of equal size, in stream order; the two do not overlap.
  virtual void copy(Stream& stream, Slot from, Slot to, std::size_t size_bytes);
  // The same from another device's memory, whose stream the given one already waits for. By default through this process.
  virtual void pull(Stream& stream, Slot to, Platform& other, Slot from, std::size_t size_bytes);
  // Whether that goes from device to device.
  virtual Support reaches(const Platform& other) const;
  // Of the group that it was opened with (group.h); null: it is alone.
  DeviceGroup* group() const { return group_; }
  int rank() const { return rank_; }
  // For a thread that did not open the device, before it works with it.
  virtual void enter_thread() const {}
  // Zeroes, in stream order.
  virtual void zero(Stream& stream, Slot slot, std::size_t size_bytes);
  // The platform's table, best first: unchanged for its life.
  virtual std::span<const Implementation> implementations() const = 0;
  // Whether the weight of a linear may stay in memory as a file stores it (kept_parts of ir/graph.h; kept_weight.h says how it lies
  // there). A row that takes such weights takes every encoding.
  Support keeps_stored(const Encoding& encoding) const;
  // Whether a row takes a node: else what each that is about it says.
  Support takes(const Node& node) const;
  // Kernels for nodes of any opcode but input and parameter, in their order (reshape and other nodes that a memory plan resolves to
  // aliases are not asked for): of each the first row that takes it. `unsupported` says which rows there are and why none does.
  // What generates code builds all of it in one go.
  virtual std::vector<Implemented> implement(std::span<const Node* const> nodes, const OverrideRules& rules = {});
  std::vector<std::unique_ptr<Kernel>> make_kernels(std::span<const Node* const> nodes);
  std::unique_ptr<Kernel> make_kernel(const Node& node);
  // Memory of this process that the kernels made so far keep beside buffers: libraries' tables and generated code, which they may
  // hold for later kernels, too. Measured where the library does not say.
  virtual std::uint64_t kernel_memory_bytes() const { return 0; }
  // The vendor's libraries, for people: opens those that nothing has asked for yet.
  virtual std::vector<LibraryInfo> libraries() const { return {}; }

 private:
  friend class DeviceGroup;
  DeviceGroup* group_ = nullptr;
  int rank_ = 0;
  std::shared_ptr<void> owned_group_;  // the first device's; the last to go
};

struct PlatformOptions {
  int threads = 0;                              // cpu: 0 takes as many as the process may use
  std::filesystem::path cache_dir = {};         // of compiled kernels; "": KernelCache::default_folder()
  std::string compiler = {};                    // cpu: of generated kernels, a path or a name on PATH; "": the first that works
  std::uint64_t memory_limit_bytes = 0;         // buffers take no more than this; 0: no limit but the device's. Not opencl
  std::filesystem::path cuda_path = {};         // cuda and its kin: where their libraries are, before the usual places
  std::string opencl_loader = {};               // opencl: the ICD loader's path; empty: libOpenCL.so.1 from where libraries are
  std::optional<bool> opencl_local_tiles = {};  // opencl: kernels as GPUs want them; not said: where the device is no CPU
};

struct PlatformReport {  // a line of `zoe platforms`
  std::string name;
  bool opens;
  std::string detail;  // the device if it opens, else why not
  std::vector<LibraryInfo> libraries;
  std::vector<std::string> links;  // between its devices, where there are several: "cuda:0 - cuda:1: peer copies"
};

// "auto" takes the best platform that opens; "cuda:1" is the second device of a vendor, "cuda:0,1" the first of a group of two and
// "cuda:all" of as many as there are; "cpu:0,1" are two that share the threads. Unknown names are answered with the nearest known
// one.
std::unique_ptr<Platform> open_platform(std::string_view name, const PlatformOptions& options = {});
std::vector<PlatformReport> list_platforms(const PlatformOptions& options = {});

}  // namespace zoe
