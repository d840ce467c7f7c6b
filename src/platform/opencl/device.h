// One opened OpenCL device: what it is, its context, its programs, and how a kernel is queued on it.
#pragma once

#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "platform/kernel_cache.h"
#include "platform/opencl/api.h"
#include "platform/platform.h"

namespace zoe::opencl {

// A device of any driver, with what the choice of kernels depends on.
struct DeviceDescription {
  cl_platform_id platform;
  cl_device_id id;
  cl_bitfield type;
  std::string name, vendor, version, driver, platform_name;  // version: "OpenCL 1.2 ..."
  std::uint64_t memory_bytes, largest_buffer_bytes, local_memory_bytes, work_group_items;
  std::uint32_t compute_units, vector_floats;  // floats in the device's widest vector
  bool unified_memory;                         // its memory is the host's
  bool rounds_division;                        // and square roots, correctly, if asked to
  bool usable;                                 // it is there, has a compiler and knows OpenCL 1.2
  bool is_cpu() const { return (type & CL_DEVICE_TYPE_CPU) != 0; }
};

// All devices of all drivers, in the loader's order.
std::vector<DeviceDescription> find_devices(const Api& api);

// What decides which device is opened.
struct Selector {
  int index = -1;      // into find_devices; -1: the best, GPU before accelerator before CPU, the first of equals
  std::string vendor;  // not empty: only devices whose vendor or driver has this in its name, in any case, and that are no CPUs
};

// A buffer in the device's memory. `data` is null: only kernels and copies reach it.
struct DeviceBuffer : Buffer {
  DeviceBuffer(const Api& api_, cl_mem memory_, std::size_t size, std::shared_ptr<std::atomic<std::uint64_t>> total)
      : api(api_), memory(memory_), allocated(std::move(total)) {
    size_bytes = size;
    *allocated += size;
  }
  ~DeviceBuffer() override {
    api.clReleaseMemObject(memory);  // the driver keeps it until queued kernels have run
    *allocated -= size_bytes;
  }
  const Api& api;
  const cl_mem memory;
  const std::shared_ptr<std::atomic<std::uint64_t>> allocated;  // of all buffers of the platform; a buffer may outlive it
};

class Device;

// A kernel function of a built program. Setting its arguments and queueing it is one step under its lock.
class Function {
 public:
  Function(const Api& api, cl_kernel kernel, std::string name) : api_(api), kernel_(kernel), name_(std::move(name)) {}
  ~Function() { api_.clReleaseKernel(kernel_); }
  Function(const Function&) = delete;
  Function& operator=(const Function&) = delete;

 private:
  friend class Launch;
  const Api& api_;
  const cl_kernel kernel_;
  const std::string name_;
  std::mutex mutex_;
};

// Queues a function with its arguments in order: Launch(f, stream).place(x, 4).integer(n).run({n}, {64}).
class Launch {
 public:
  Launch(Function& function, Stream& stream);
  Launch& place(const Slot& slot, std::size_t element_size);  // two arguments: the buffer, and the offset in elements (ulong)
  Launch& nowhere();                                          // the same two for an operand that is absent
  Launch& memory(cl_mem memory);
  Launch& integer(std::int64_t value);  // an int; internal error if it does not fit
  Launch& large(std::int64_t value);    // a long
  Launch& number(float value);
  void run(std::vector<std::size_t> items, std::vector<std::size_t> group);  // items are rounded up to whole groups

 private:
  Launch& argument(std::size_t size, const void* value);
  Function& function_;
  cl_command_queue queue_;
  std::unique_lock<std::mutex> lock_;
  cl_uint next_ = 0;
};

class Device {
 public:
  Device(const Api& api, DeviceDescription description, std::shared_ptr<KernelCache> cache);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // A function of the program with this text. Each distinct text is taken from the cache or built once; `what` names it in errors.
  std::shared_ptr<Function> function(const std::string& source, std::string_view name, std::string_view what);

  const Api& api;
  const DeviceDescription description;
  cl_context context() const { return context_; }
  // Kernels as GPUs want them (tiles of products in local memory, a group of work-items a row), or as CPUs do (a work-item has
  // vectors, and works alone).
  bool local_tiles = false;

 private:
  KernelRecipe recipe(const std::string& source, std::string_view name) const;
  cl_program load(const KernelRecipe& recipe);
  cl_program build(const KernelRecipe& recipe, std::string_view what);
  void store(const KernelRecipe& recipe, cl_program program);
  const std::shared_ptr<KernelCache> cache_;
  cl_context context_ = nullptr;
  std::mutex mutex_;
  std::map<std::string, cl_program> programs_;
};

class QueueStream : public Stream {
 public:
  explicit QueueStream(std::shared_ptr<Device> device);
  ~QueueStream() override;
  void synchronize() override;
  cl_command_queue queue() const { return queue_; }
  // Where a kernel of this stream leaves what only the host can report (see gather in kernels/movement.cl): three ints, zero if
  // nothing is wrong. The next synchronize() looks there.
  cl_mem fault();

 private:
  const std::shared_ptr<Device> device_;
  cl_command_queue queue_;
  cl_mem fault_ = nullptr;       // with the first kernel that may report
  bool fault_possible_ = false;  // such a kernel was queued since it was last looked at
};

inline cl_command_queue queue_of(Stream& stream) { return static_cast<QueueStream&>(stream).queue(); }
inline cl_mem memory_of(const Slot& slot) { return static_cast<const DeviceBuffer*>(slot.buffer)->memory; }

}  // namespace zoe::opencl
