#include "platform/cuda/device.h"

#include <cstring>
#include <fstream>
#include <limits>

#include "base/error.h"
#include "base/files.h"

namespace zoe::cuda {
namespace {

constexpr std::size_t kMostBinaryBytes = std::size_t{1} << 30;

// The end of a compiler's log.
std::string last_lines(std::string_view log, int lines) {
  std::size_t begin = log.size();
  while (begin > 0 && lines > 0)
    if (log[--begin] == '\n') --lines;
  return std::string(log.substr(begin));
}

// The driver, ready for use. One that does not start (no device, no kernel module, another version of it) means that nothing of
// this vendor runs here, which is no failure of a device.
const DriverApi& start_driver(const Vendor& vendor, const PlatformOptions& options) {
  const DriverApi& api = load_driver(vendor, options.cuda_path);
  const Status status = api.init(0);
  if (status == kSuccess) return api;
  const char *name = nullptr, *text = nullptr;
  if (api.error_name(status, &name) != kSuccess || !name) name = "an unknown error";
  if (api.error_string(status, &text) != kSuccess || !text) text = "no description";
  fail(ErrorKind::unsupported, vendor.platform, "the driver {} does not start: {} ({}, {}). {}", api.path, name, status, text,
       vendor.advice);
}

int version_of(const DriverApi& api, const Vendor& vendor) {
  int version = 0;
  check_driver(api, vendor, api.driver_version(&version), "asking for the driver's version");
  return version;
}

}  // namespace

DeviceBuffer::DeviceBuffer(DevicePtr device_, Address address, std::size_t size) : device(std::move(device_)) {
  data = reinterpret_cast<void*>(address);
  size_bytes = size;
  device->allocated_ += size;
}

DeviceBuffer::~DeviceBuffer() {
  device->allocated_ -= size_bytes;
  device->api.context_set_current(device->context_);
  device->api.memory_free_async(reinterpret_cast<Address>(data), device->memory_stream_);
}

template <class T>
Launch& Launch::argument(T value) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  ZOE_INTERNAL_CHECK(count_ < kMost);
  std::memcpy(&values_[count_++], &value, sizeof value);
  return *this;
}

Launch& Launch::address(Address value) { return argument(value); }
Launch& Launch::large(std::int64_t value) { return argument(value); }
Launch& Launch::number(float value) { return argument(value); }

Launch& Launch::integer(std::int64_t value) {
  ZOE_INTERNAL_CHECK(value >= std::numeric_limits<int>::min() && value <= std::numeric_limits<int>::max());
  return argument(static_cast<std::int32_t>(value));
}

void Launch::run(Extent blocks, Extent threads, std::size_t shared_bytes) {
  std::array<void*, kMost> arguments;
  for (std::size_t i = 0; i < count_; ++i) arguments[i] = &values_[i];
  const Device& device = static_cast<DeviceStream&>(stream_).device();
  const auto narrow = [](std::int64_t extent) {
    ZOE_INTERNAL_CHECK(extent > 0 && extent <= std::numeric_limits<int>::max());
    return static_cast<unsigned>(extent);
  };
  device.make_current();
  device.check_status(device.api.launch(function_.handle, narrow(blocks.x), narrow(blocks.y), narrow(blocks.z), narrow(threads.x),
                                        narrow(threads.y), narrow(threads.z), static_cast<unsigned>(shared_bytes),
                                        handle_of(stream_), arguments.data(), nullptr),
                      "a launch", function_.name);
}

Device::Device(const Vendor& vendor_, int ordinal, const PlatformOptions& options_)
    : vendor(vendor_),
      options(options_),
      api(start_driver(vendor_, options_)),
      compiler(load_compiler(vendor_, options_.cuda_path, version_of(api, vendor_))),
      cache_({.folder = options_.cache_dir}) {
  description.driver_version = version_of(api, vendor);
  check(compiler.version(&compiler_major_, &compiler_minor_) == kSuccess, ErrorKind::unsupported, vendor.platform,
        "{} does not say its version. {}", compiler.path, vendor.advice);
  libraries = {
      {"driver", fmt::format("{}.{}", description.driver_version / 1000, description.driver_version % 1000 / 10), api.path},
      {std::string(vendor.compiler_name), fmt::format("{}.{}", compiler_major_, compiler_minor_), compiler.path}};
  int count = 0;
  check_status(api.device_count(&count), "counting devices");
  check(count > 0, ErrorKind::unsupported, vendor.platform, "the driver {} has no device. {}", api.path, vendor.advice);
  check(ordinal < count, ErrorKind::invalid_argument, vendor.platform, "no device {}: got {}, expected 0 to {}.", ordinal, ordinal,
        count - 1);
  description.ordinal = ordinal;
  check_status(api.device_get(&description.handle, ordinal), "finding a device");
  char name[256] = {};
  check_status(api.device_name(name, sizeof name - 1, description.handle), "naming a device");
  description.name = name;
  check_status(api.device_memory(&description.memory_bytes, description.handle), "asking for memory");
  const auto attribute = [&](int number) {
    int value = 0;
    check_status(api.device_attribute(&value, number, description.handle), "asking for an attribute");
    return value;
  };
  const AttributeNumbers& numbers = vendor.attributes;
  description.major = attribute(numbers.major);
  description.minor = attribute(numbers.minor);
  description.multiprocessors = attribute(numbers.multiprocessors);
  description.warp_threads = attribute(numbers.warp_threads);
  description.l2_bytes = static_cast<std::size_t>(attribute(numbers.l2_bytes));
  description.shared_bytes = static_cast<std::size_t>(attribute(numbers.shared_bytes));
  check_status(api.context_retain(&context_, description.handle), "opening a context");
  try {
    make_current();
    check_status(api.stream_create(&memory_stream_, kStreamNonBlocking), "creating a stream");
    // Freed memory stays in the pool: what the next phase allocates is there at once.
    PoolHandle pool = nullptr;
    std::uint64_t keep = std::numeric_limits<std::uint64_t>::max();
    check_status(api.pool_default(&pool, description.handle), "finding the memory pool");
    check_status(api.pool_set(pool, kPoolReleaseThreshold, &keep), "setting up the memory pool");
    check_status(api.memory_allocate_async(&fault, 3 * sizeof(std::int32_t), memory_stream_), "an allocation");
    check_status(api.set_bytes_async(fault, 0, 3 * sizeof(std::int32_t), memory_stream_), "a fill");
    check_status(api.stream_synchronize(memory_stream_), "waiting");
  } catch (...) {
    if (memory_stream_) api.stream_destroy(memory_stream_);
    api.context_release(description.handle);
    throw;
  }
}

// What fails here fails because the device is lost: there is nothing left to free then.
Device::~Device() {
  api.context_set_current(context_);
  for (const auto& [key, module] : modules_) api.module_unload(module);
  api.memory_free_async(fault, memory_stream_);
  api.stream_synchronize(memory_stream_);
  api.stream_destroy(memory_stream_);
  api.context_release(description.handle);
}

void Device::make_current() const { check_status(api.context_set_current(context_), "making a context current"); }

std::string Device::compile(const KernelRecipe& recipe, std::string_view what) {
  ProgramHandle program = nullptr;
  const std::string file = recipe.name + ".cu";
  Status status = compiler.create(&program, recipe.source.c_str(), file.c_str(), 0, nullptr, nullptr);
  check(status == kSuccess, ErrorKind::compile, vendor.platform, "the run-time compiler refuses {} with status {}.", what, status);
  struct Guard {
    const CompilerApi& api;
    ProgramHandle& program;
    ~Guard() { api.destroy(&program); }
  } guard{compiler, program};
  std::vector<std::string> words;
  for (std::size_t begin = 0; begin < recipe.flags.size();) {
    const std::size_t end = std::min(recipe.flags.find(' ', begin), recipe.flags.size());
    words.push_back(recipe.flags.substr(begin, end - begin));
    begin = end + 1;
  }
  std::vector<const char*> flags;
  for (const std::string& word : words) flags.push_back(word.c_str());
  status = compiler.compile(program, static_cast<int>(flags.size()), flags.data());
  if (status != kSuccess) {
    std::size_t size = 0;
    compiler.log_size(program, &size);
    std::string log(size, '\0');
    if (size) compiler.log(program, log.data());
    while (!log.empty() && (log.back() == '\0' || log.back() == '\n')) log.pop_back();
    const std::filesystem::path kept = cache_.keep_failed(recipe, log);
    fail(ErrorKind::compile, vendor.platform, "kernel {} failed to build for {} (status {}). The log ends: {}{}", what,
         description.name, status, last_lines(log, 20), kept.empty() ? "" : fmt::format(" Source and log: {}.", kept.string()));
  }
  std::size_t size = 0;
  check(compiler.binary_size(program, &size) == kSuccess && size > 0, ErrorKind::compile, vendor.platform,
        "the run-time compiler made no binary of {}.", what);
  std::string binary(size, '\0');
  check(compiler.binary(program, binary.data()) == kSuccess, ErrorKind::compile, vendor.platform,
        "the run-time compiler does not hand out the binary of {}.", what);
  return binary;
}

ModuleHandle Device::load(const KernelRecipe& recipe, std::string_view what) {
  ModuleHandle module = nullptr;
  make_current();
  if (const auto cached = cache_.find(recipe)) {
    const std::string binary = read_file(cached->binary, vendor.platform, kMostBinaryBytes);
    const Status status = api.module_load(&module, binary.data());
    if (status == kSuccess) return module;
    cache_.reject(recipe, fmt::format("the driver does not load it (status {})", status));
  }
  const std::string binary = compile(recipe, what);
  check_status(api.module_load(&module, binary.data()), "loading a program", what);
  if (const std::string why = cache_.why_not_writable(); !why.empty()) {
    cache_.notice_not_cached(why);
    return module;
  }
  const WorkFolder folder(cache_.work_parent());
  const std::filesystem::path path = folder.path / (recipe.name + ".cubin");
  std::ofstream file(path, std::ios::binary);
  file.write(binary.data(), static_cast<std::streamsize>(binary.size()));
  file.close();
  if (folder.path.empty() || !file) {
    cache_.notice_not_cached(folder.path.empty() ? folder.error : fmt::format("cannot write {}", path.string()));
    return module;
  }
  const KernelCache::NewKernel entry{&recipe, path, recipe.name};
  cache_.store({&entry, 1});
  return module;
}

Function Device::function(const std::string& source, const std::string& name, std::string_view what, bool exact) {
  KernelRecipe recipe{.name = name, .dialect = "cuda", .source = std::string(vendor.prelude) + source};
  recipe.compiler = fmt::format("{} {}.{}", vendor.compiler_name, compiler_major_, compiler_minor_);
  recipe.flags = exact ? vendor.exact : vendor.loose;
  if (!vendor.architecture.empty()) {
    // Compute capability 9.0 has instructions of its own, which only its exact architecture may use; so do later ones.
    const bool specific = &vendor == &kCuda && description.major >= 9;
    recipe.flags = fmt::format(fmt::runtime(vendor.architecture), description.major, description.minor) + (specific ? "a " : " ") +
                   recipe.flags;
  }
  recipe.target = fmt::format("{} {}.{}", vendor.platform, description.major, description.minor);
  if (vendor.architecture.empty()) recipe.target += " " + description.name;
  const std::lock_guard lock(mutex_);
  const std::string key = recipe.key();
  auto found = modules_.find(key);
  if (found == modules_.end()) found = modules_.emplace(key, load(recipe, what)).first;
  Function function{.name = name};
  make_current();
  check_status(api.module_function(&function.handle, found->second, name.c_str()), "finding a function", name);
  return function;
}

DeviceStream::DeviceStream(DevicePtr device) : device_(std::move(device)) {
  device_->make_current();
  device_->check_status(device_->api.stream_create(&handle_, kStreamNonBlocking), "creating a stream");
}

DeviceStream::~DeviceStream() {
  device_->api.stream_synchronize(handle_);
  device_->api.stream_destroy(handle_);
}

void DeviceStream::synchronize() {
  Device& device = *device_;
  device.make_current();
  device.check_status(device.api.stream_synchronize(handle_), "waiting for the device");
  if (!device.fault_possible.exchange(false)) return;
  std::int32_t fault[3] = {};
  device.check_status(device.api.copy_to_host_async(fault, device.fault, sizeof fault, handle_), "a copy");
  device.check_status(device.api.stream_synchronize(handle_), "waiting for the device");
  if (fault[0] == 0) return;
  device.check_status(device.api.set_bytes_async(device.fault, 0, sizeof fault, handle_), "a fill");
  fail(ErrorKind::invalid_argument, "gather", "bad index at position {}: got {}, expected 0 to {}.", fault[0] - 1, fault[1],
       fault[2] - 1);
}

}  // namespace zoe::cuda
