#include "platform/opencl/device.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "platform/last_lines.h"

namespace zoe::opencl {
namespace {

template <class T>
T number_of(const Api& api, cl_device_id device, cl_uint what) {
  T value{};
  check_cl(api.clGetDeviceInfo(device, what, sizeof value, &value, nullptr), "clGetDeviceInfo");
  return value;
}

template <class Get>
std::string text_of(Get&& get) {
  std::size_t size = 0;
  check_cl(get(0, nullptr, &size), "clGetDeviceInfo");
  std::string text(size, '\0');
  check_cl(get(size, text.data(), nullptr), "clGetDeviceInfo");
  while (!text.empty() && (text.back() == '\0' || text.back() == ' ')) text.pop_back();
  return text;
}

// "OpenCL 1.2 ..." or newer.
bool knows_1_2(const std::string& version) {
  int major = 0, minor = 0;
  return std::sscanf(version.c_str(), "OpenCL %d.%d", &major, &minor) == 2 && (major > 1 || minor >= 2);
}

}  // namespace

std::vector<DeviceDescription> find_devices(const Api& api) {
  cl_uint count = 0;
  const cl_int found = api.clGetPlatformIDs(0, nullptr, &count);
  if (found == CL_PLATFORM_NOT_FOUND_KHR || count == 0) return {};
  check_cl(found, "clGetPlatformIDs");
  std::vector<cl_platform_id> platforms(count);
  check_cl(api.clGetPlatformIDs(count, platforms.data(), nullptr), "clGetPlatformIDs");
  std::vector<DeviceDescription> devices;
  for (const cl_platform_id platform : platforms) {
    // A driver without devices, or one that fails, does not hide the others.
    if (api.clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 0, nullptr, &count) != CL_SUCCESS || count == 0) continue;
    std::vector<cl_device_id> ids(count);
    check_cl(api.clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, count, ids.data(), nullptr), "clGetDeviceIDs");
    for (const cl_device_id id : ids) {
      const auto text = [&](cl_uint what) {
        return text_of(
            [&](std::size_t size, void* to, std::size_t* needed) { return api.clGetDeviceInfo(id, what, size, to, needed); });
      };
      DeviceDescription device{};
      device.platform = platform;
      device.id = id;
      device.platform_name = text_of([&](std::size_t size, void* to, std::size_t* needed) {
        return api.clGetPlatformInfo(platform, CL_PLATFORM_NAME, size, to, needed);
      });
      device.name = text(CL_DEVICE_NAME);
      device.vendor = text(CL_DEVICE_VENDOR);
      device.version = text(CL_DEVICE_VERSION);
      device.driver = text(CL_DRIVER_VERSION);
      device.type = number_of<cl_bitfield>(api, id, CL_DEVICE_TYPE);
      device.memory_bytes = number_of<cl_ulong>(api, id, CL_DEVICE_GLOBAL_MEM_SIZE);
      device.largest_buffer_bytes = number_of<cl_ulong>(api, id, CL_DEVICE_MAX_MEM_ALLOC_SIZE);
      device.local_memory_bytes = number_of<cl_ulong>(api, id, CL_DEVICE_LOCAL_MEM_SIZE);
      device.work_group_items = number_of<std::size_t>(api, id, CL_DEVICE_MAX_WORK_GROUP_SIZE);
      device.compute_units = number_of<cl_uint>(api, id, CL_DEVICE_MAX_COMPUTE_UNITS);
      device.vector_floats = number_of<cl_uint>(api, id, CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT);
      device.unified_memory = number_of<cl_uint>(api, id, CL_DEVICE_HOST_UNIFIED_MEMORY) != 0;
      device.rounds_division =
          (number_of<cl_bitfield>(api, id, CL_DEVICE_SINGLE_FP_CONFIG) & CL_FP_CORRECTLY_ROUNDED_DIVIDE_SQRT) != 0;
      device.usable = number_of<cl_uint>(api, id, CL_DEVICE_AVAILABLE) &&
                      number_of<cl_uint>(api, id, CL_DEVICE_COMPILER_AVAILABLE) && knows_1_2(device.version);
      devices.push_back(std::move(device));
    }
  }
  return devices;
}

Device::Device(const Api& api_, DeviceDescription description_, std::shared_ptr<KernelCache> cache)
    : api(api_), description(std::move(description_)), cache_(std::move(cache)) {
  cl_int status = CL_SUCCESS;
  context_ = api.clCreateContext(nullptr, 1, &description.id, nullptr, nullptr, &status);
  check_cl(status, "clCreateContext");
}

Device::~Device() {
  for (const auto& [source, program] : programs_) api.clReleaseProgram(program);
  api.clReleaseContext(context_);
}

KernelRecipe Device::recipe(const std::string& source, std::string_view name) const {
  KernelRecipe recipe{.name = std::string(name), .dialect = "opencl", .source = source};
  if (!description.driver.empty())  // else nobody could say which driver a binary is of
    recipe.compiler = fmt::format("{}, {}, driver {}", description.platform_name, description.version, description.driver);
  // No flag that would let a device compute less exactly. -w: drivers print to stderr that they have warnings.
  recipe.flags = description.rounds_division ? "-cl-std=CL1.2 -w -cl-fp32-correctly-rounded-divide-sqrt" : "-cl-std=CL1.2 -w";
  recipe.target = fmt::format("{}, {}", description.vendor, description.name);
  return recipe;
}

// Null if the cache has none that the driver takes.
cl_program Device::load(const KernelRecipe& recipe) {
  const auto cached = cache_->read(recipe);
  if (!cached) return nullptr;
  const auto* bytes = reinterpret_cast<const unsigned char*>(cached->bytes.data());
  const std::size_t size = cached->bytes.size();
  cl_int taken = CL_SUCCESS, status = CL_SUCCESS;
  const cl_program program = api.clCreateProgramWithBinary(context_, 1, &description.id, &size, &bytes, &taken, &status);
  if (status == CL_SUCCESS) status = taken;
  if (status == CL_SUCCESS) status = api.clBuildProgram(program, 1, &description.id, recipe.flags.c_str(), nullptr, nullptr);
  if (status == CL_SUCCESS) return program;
  if (program) api.clReleaseProgram(program);
  cache_->reject(recipe, fmt::format("the driver does not take it: {}", error_name(status)));
  return nullptr;
}

// What a driver does not give is built again by the next process.
void Device::store(const KernelRecipe& recipe, cl_program program) {
  std::size_t size = 0;
  if (api.clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof size, &size, nullptr) != CL_SUCCESS || size == 0) return;
  std::string binary(size, '\0');
  auto* place = reinterpret_cast<unsigned char*>(binary.data());
  if (api.clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof place, &place, nullptr) != CL_SUCCESS) return;
  const KernelCache::NewKernel entry{&recipe, "program.bin", recipe.name, binary};
  cache_->store({&entry, 1});
}

cl_program Device::build(const KernelRecipe& recipe, std::string_view what) {
  const auto begin = std::chrono::steady_clock::now();
  const char* text = recipe.source.c_str();
  cl_int status = CL_SUCCESS;
  const cl_program program = api.clCreateProgramWithSource(context_, 1, &text, nullptr, &status);
  check_cl(status, "clCreateProgramWithSource");
  status = api.clBuildProgram(program, 1, &description.id, recipe.flags.c_str(), nullptr, nullptr);
  if (status == CL_SUCCESS) {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    log(LogLevel::detail, fmt::format("compiled {} in {:.2f} s", what, seconds.count()));
    return program;
  }
  std::size_t size = 0;
  api.clGetProgramBuildInfo(program, description.id, CL_PROGRAM_BUILD_LOG, 0, nullptr, &size);
  std::string text_of_log(size, '\0');
  api.clGetProgramBuildInfo(program, description.id, CL_PROGRAM_BUILD_LOG, size, text_of_log.data(), nullptr);
  api.clReleaseProgram(program);
  const std::filesystem::path kept = cache_->keep_failed(recipe, text_of_log);
  fail(ErrorKind::compile, "opencl", "kernel {} failed to build on {}: {}. The log ends: {}.{}", what, description.name,
       error_name(status), last_lines(text_of_log, 20), kept.empty() ? "" : fmt::format(" Source and log: {}.", kept.string()));
}

std::shared_ptr<Function> Device::function(const std::string& source, std::string_view name, std::string_view what) {
  const std::lock_guard lock(mutex_);
  auto found = programs_.find(source);
  if (found == programs_.end()) {
    const KernelRecipe wanted = recipe(source, name);
    cl_program program = load(wanted);
    if (!program) {
      program = build(wanted, what);
      store(wanted, program);
    }
    found = programs_.emplace(source, program).first;
  }
  cl_int status = CL_SUCCESS;
  const std::string text(name);
  const cl_kernel kernel = api.clCreateKernel(found->second, text.c_str(), &status);
  check_cl(status, "clCreateKernel", text);
  return std::make_shared<Function>(api, kernel, text);
}

QueueStream::QueueStream(std::shared_ptr<Device> device) : device_(std::move(device)) {
  cl_int status = CL_SUCCESS;
  queue_ = device_->api.clCreateCommandQueue(device_->context(), device_->description.id, 0, &status);  // 0: in order
  check_cl(status, "clCreateCommandQueue");
}

QueueStream::~QueueStream() {
  device_->api.clFinish(queue_);
  if (fault_) device_->api.clReleaseMemObject(fault_);
  device_->api.clReleaseCommandQueue(queue_);
}

cl_mem QueueStream::fault() {
  const Api& api = device_->api;
  if (!fault_) {
    cl_int status = CL_SUCCESS;
    const cl_mem made = api.clCreateBuffer(device_->context(), CL_MEM_READ_WRITE, 3 * sizeof(std::int32_t), nullptr, &status);
    check_cl(status, "clCreateBuffer");
    const std::int32_t none[3] = {};
    status = api.clEnqueueWriteBuffer(queue_, made, CL_TRUE, 0, sizeof none, none, 0, nullptr, nullptr);
    if (status != CL_SUCCESS) api.clReleaseMemObject(made);
    check_cl(status, "clEnqueueWriteBuffer");
    fault_ = made;
  }
  fault_possible_ = true;
  return fault_;
}

void QueueStream::synchronize() {
  const Api& api = device_->api;
  check_cl(api.clFinish(queue_), "clFinish");
  if (!std::exchange(fault_possible_, false)) return;
  std::int32_t fault[3] = {};
  const std::int32_t none[3] = {};
  check_cl(api.clEnqueueReadBuffer(queue_, fault_, CL_TRUE, 0, sizeof fault, fault, 0, nullptr, nullptr), "clEnqueueReadBuffer");
  if (fault[0] == 0) return;
  check_cl(api.clEnqueueWriteBuffer(queue_, fault_, CL_TRUE, 0, sizeof none, none, 0, nullptr, nullptr), "clEnqueueWriteBuffer");
  fail(ErrorKind::invalid_argument, "gather", "bad index at position {}: got {}, expected 0 to {}.", fault[0] - 1, fault[1],
       fault[2] - 1);
}

Launch::Launch(Function& function, Stream& stream) : function_(function), queue_(queue_of(stream)), lock_(function.mutex_) {}

Launch& Launch::argument(std::size_t size, const void* value) {
  check_cl(function_.api_.clSetKernelArg(function_.kernel_, next_++, size, value), "clSetKernelArg", function_.name_);
  return *this;
}

Launch& Launch::place(const Slot& slot, std::size_t element_size) {
  ZOE_INTERNAL_CHECK(slot.offset % element_size == 0);
  const cl_mem buffer = memory_of(slot);
  const cl_ulong offset = slot.offset / element_size;
  return argument(sizeof buffer, &buffer).argument(sizeof offset, &offset);
}

Launch& Launch::nowhere() {
  const cl_ulong offset = 0;
  return argument(sizeof(cl_mem), nullptr).argument(sizeof offset, &offset);
}

Launch& Launch::memory(cl_mem buffer) { return argument(sizeof buffer, &buffer); }

Launch& Launch::integer(std::int64_t value) {
  ZOE_INTERNAL_CHECK(value >= std::numeric_limits<cl_int>::min() && value <= std::numeric_limits<cl_int>::max());
  const auto narrow = static_cast<cl_int>(value);
  return argument(sizeof narrow, &narrow);
}

Launch& Launch::large(std::int64_t value) { return argument(sizeof value, &value); }

Launch& Launch::number(float value) { return argument(sizeof value, &value); }

void Launch::run(std::vector<std::size_t> items, std::vector<std::size_t> group) {
  ZOE_INTERNAL_CHECK(items.size() == group.size());
  for (std::size_t i = 0; i < items.size(); ++i) items[i] = (items[i] + group[i] - 1) / group[i] * group[i];
  check_cl(function_.api_.clEnqueueNDRangeKernel(queue_, function_.kernel_, static_cast<cl_uint>(items.size()), nullptr,
                                                 items.data(), group.data(), 0, nullptr, nullptr),
           "clEnqueueNDRangeKernel", function_.name_);
}

}  // namespace zoe::opencl
