#include "platform/cuda/device.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <limits>
#include <system_error>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "platform/last_lines.h"

namespace zoe::cuda {
namespace {

constexpr std::size_t kMostChunks = 32;  // that are kept: two of each thread that loads weights

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
}

DeviceBuffer::~DeviceBuffer() { device->free(reinterpret_cast<Address>(data), size_bytes); }

template <class T>
Launch& Launch::argument(const T& value) {
  constexpr std::size_t kWord = sizeof(std::uint64_t), kWords = (sizeof(T) + kWord - 1) / kWord;
  constexpr std::size_t kStep = std::max(alignof(T) / kWord, std::size_t{1});
  used_ = (used_ + kStep - 1) / kStep * kStep;
  ZOE_INTERNAL_CHECK(used_ + kWords <= kMost);
  std::memcpy(&values_[used_], &value, sizeof value);
  arguments_[count_++] = &values_[used_];
  used_ += kWords;
  return *this;
}

Launch& Launch::address(Address value) { return argument(value); }
Launch& Launch::large(std::int64_t value) { return argument(value); }
Launch& Launch::number(float value) { return argument(value); }
Launch& Launch::tensor(const TensorMap& map) { return argument(map); }

Launch& Launch::integer(std::int64_t value) {
  ZOE_INTERNAL_CHECK(value >= std::numeric_limits<int>::min() && value <= std::numeric_limits<int>::max());
  return argument(static_cast<std::int32_t>(value));
}

void Launch::run(Extent blocks, Extent threads, std::size_t shared_bytes) {
  const Device& device = static_cast<DeviceStream&>(stream_).device();
  const auto narrow = [](std::int64_t extent) {
    ZOE_INTERNAL_CHECK(extent > 0 && extent <= std::numeric_limits<int>::max());
    return static_cast<unsigned>(extent);
  };
  device.make_current();
  device.check_status(device.api.launch(function_.handle, narrow(blocks.x), narrow(blocks.y), narrow(blocks.z), narrow(threads.x),
                                        narrow(threads.y), narrow(threads.z), static_cast<unsigned>(shared_bytes),
                                        handle_of(stream_), arguments_.data(), nullptr),
                      "a launch", function_.name);
}

Device::Device(const Vendor& vendor_, int ordinal, const PlatformOptions& options_)
    : vendor(vendor_),
      options(options_),
      api(start_driver(vendor_, options_)),
      compiler(load_compiler(vendor_, options_.cuda_path, version_of(api, vendor_))),
      cache(std::make_shared<KernelCache>(KernelCache::Options{.folder = options_.cache_dir})) {
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
  description.is_integrated = attribute(numbers.integrated) != 0;
  description.l2_bytes = static_cast<std::size_t>(attribute(numbers.l2_bytes));
  description.shared_bytes = static_cast<std::size_t>(attribute(numbers.shared_bytes));
  check_status(api.context_retain(&context_, description.handle), "opening a context");
  try {
    chunks_.reserve(kMostChunks);
    make_current();
    check_status(api.stream_create(&memory_stream_, kStreamNonBlocking), "creating a stream");
    // Freed memory stays in the pool: what the next phase allocates is there at once.
    std::uint64_t keep = std::numeric_limits<std::uint64_t>::max();
    check_status(api.pool_default(&pool_, description.handle), "finding the memory pool");
    check_status(api.pool_set(pool_, kPoolReleaseThreshold, &keep), "setting up the memory pool");
  } catch (...) {
    if (memory_stream_) api.stream_destroy(memory_stream_);
    api.context_release(description.handle);
    throw;
  }
}

// What fails here fails because the device is lost: there is nothing left to free then.
Device::~Device() {
  api.context_set_current(context_);
  for (std::byte* const chunk : chunks_) api.host_free(chunk);
  for (auto module = loaded_.rbegin(); module != loaded_.rend(); ++module) api.module_unload(*module);
  api.stream_synchronize(memory_stream_);
  api.stream_destroy(memory_stream_);
  api.context_release(description.handle);
}

Support Device::reaches(const Device& other) const {
  int can = 0;
  check_status(api.can_reach(&can, description.handle, other.description.handle), "asking for the link to another device");
  if (can == 0)
    return Support::no("{}:{} does not reach the memory of {}:{}", vendor.platform, description.ordinal, vendor.platform,
                       other.description.ordinal);
  const PoolAccess access{kPoolOfDevice, description.handle, kPoolReadAndWrite};
  check_status(api.pool_share(other.pool_, &access, 1), "sharing memory with another device");
  return Support::yes();
}

void Device::make_current() const { check_status(api.context_set_current(context_), "making a context current"); }

struct Device::Build {
  KernelRecipe recipe;
  std::string what, binary;
  std::string error = {}, log = {};  // why it was not compiled
};

// Touches nothing of the device but its compiler: from any thread.
void Device::compile(Build& build) const {
  const auto begin = std::chrono::steady_clock::now();
  ProgramHandle program = nullptr;
  const std::string file = build.recipe.name + ".cu";
  Status status = compiler.create(&program, build.recipe.source.c_str(), file.c_str(), 0, nullptr, nullptr);
  if (status != kSuccess) {
    build.error = fmt::format("the run-time compiler refuses {} with status {}.", build.what, status);
    return;
  }
  struct Guard {
    const CompilerApi& api;
    ProgramHandle& program;
    ~Guard() { api.destroy(&program); }
  } guard{compiler, program};
  std::vector<std::string> words;
  for (std::size_t at = 0; at < build.recipe.flags.size();) {
    const std::size_t end = std::min(build.recipe.flags.find(' ', at), build.recipe.flags.size());
    words.push_back(build.recipe.flags.substr(at, end - at));
    at = end + 1;
  }
  std::vector<const char*> flags;
  for (const std::string& word : words) flags.push_back(word.c_str());
  status = compiler.compile(program, static_cast<int>(flags.size()), flags.data());
  std::size_t size = 0;
  if (status != kSuccess) {
    compiler.log_size(program, &size);
    build.log.assign(size, '\0');
    if (size) compiler.log(program, build.log.data());
    while (!build.log.empty() && (build.log.back() == '\0' || build.log.back() == '\n')) build.log.pop_back();
    build.error = fmt::format("kernel {} failed to build for {} (status {}). {}.", build.what, description.name, status,
                              build.log.empty() ? "There is no log" : "The log ends: " + last_lines(build.log, 20));
    return;
  }
  if (compiler.binary_size(program, &size) == kSuccess && size > 0) {
    build.binary.assign(size, '\0');
    if (compiler.binary(program, build.binary.data()) == kSuccess) {
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
      zoe::log(LogLevel::detail, fmt::format("compiled {} in {:.2f} s", build.what, seconds.count()));
      return;
    }
  }
  build.error = fmt::format("the run-time compiler made no binary of {}.", build.what);
}

KernelRecipe Device::recipe(const Program& program) const {
  KernelRecipe recipe{.name = program.name, .dialect = "cuda", .source = std::string(vendor.prelude) + program.source};
  recipe.compiler = fmt::format("{} {}.{}", vendor.compiler_name, compiler_major_, compiler_minor_);
  recipe.flags = program.exact ? vendor.exact : vendor.loose;
  if (!vendor.architecture.empty()) {
    // Compute capability 9.0 has instructions of its own, which only its exact architecture may use; so do later ones.
    const bool specific = &vendor == &kCuda && description.major >= 9;
    recipe.flags = fmt::format(fmt::runtime(vendor.architecture), description.major, description.minor) + (specific ? "a " : " ") +
                   recipe.flags;
  }
  recipe.target = fmt::format("{} {}.{}", vendor.platform, description.major, description.minor);
  if (vendor.architecture.empty()) recipe.target += " " + description.name;
  return recipe;
}

Status Device::load(const std::string& key, const std::string& binary) {
  loaded_.reserve(loaded_.size() + 1);
  const auto place = modules_.emplace(key, nullptr).first;
  make_current();
  const Status status = api.module_load(&place->second, binary.data());
  if (status == kSuccess) loaded_.push_back(place->second);
  else modules_.erase(place);
  return status;
}

// Adds new binaries to the kernel cache.
void Device::store(std::span<Build> builds) {
  std::vector<KernelCache::NewKernel> entries;
  for (const Build& build : builds) entries.push_back({&build.recipe, "kernel.cubin", build.recipe.name, build.binary});
  cache->store(entries);
}

void Device::build(std::span<const Program> programs) {
  std::unique_lock lock(mutex_);
  std::vector<std::pair<std::string, Build>> missing;  // by key, in the order they are asked for
  for (const Program& program : programs) {
    KernelRecipe wanted = recipe(program);
    std::string key = wanted.key();
    const auto same = std::find_if(missing.begin(), missing.end(), [&](const auto& other) { return other.first == key; });
    if (!modules_.contains(key) && same == missing.end())
      missing.emplace_back(std::move(key), Build{std::move(wanted), program.what, {}});
  }
  std::vector<std::pair<std::string, Build>> to_compile;
  for (auto& [key, build] : missing) {
    if (const auto cached = cache->read(build.recipe)) {
      const Status status = load(key, cached->bytes);
      if (status == kSuccess) continue;
      cache->reject(build.recipe, fmt::format("the driver does not load it (status {})", status));
    }
    to_compile.emplace_back(key, std::move(build));
  }
  if (to_compile.empty()) return;
  lock.unlock();  // others build meanwhile; what two of them want is compiled twice, and loaded once
  std::atomic<std::size_t> next{0};
  const auto work = [&, target = log_target()] {
    const LogScope log_scope(target);
    for (std::size_t i = next++; i < to_compile.size(); i = next++) compile(to_compile[i].second);
  };
  const std::size_t workers = std::min<std::size_t>(to_compile.size(), std::max(1u, std::thread::hardware_concurrency()));
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 1; i < workers; ++i) threads.emplace_back(work);
    work();
  }
  for (const auto& [key, build] : to_compile)
    if (!build.error.empty()) {
      const std::filesystem::path kept = build.log.empty() ? "" : cache->keep_failed(build.recipe, build.log);
      fail(ErrorKind::compile, vendor.platform, "{}{}", build.error,
           kept.empty() ? "" : fmt::format(" Source and log: {}.", kept.string()));
    }
  lock.lock();
  std::vector<Build> made;
  for (auto& [key, build] : to_compile) {
    if (modules_.contains(key)) continue;
    check_status(load(key, build.binary), "loading a program", build.what);
    made.push_back(std::move(build));
  }
  if (!made.empty()) store(made);
}

Function Device::function(const Program& program, const std::string& name) {
  build({&program, 1});
  const std::lock_guard lock(mutex_);
  Function function{.name = name};
  make_current();
  check_status(api.module_function(&function.handle, modules_.at(recipe(program).key()), name.c_str()), "finding a function", name);
  return function;
}

std::uint64_t Device::free_bytes() const {
  make_current();
  std::size_t free = 0, total = 0;
  std::uint64_t reserved = 0, used = 0;
  check_status(api.memory_info(&free, &total), "asking for free memory");
  check_status(api.pool_get(pool_, kPoolReserved, &reserved), "asking for the memory pool");
  check_status(api.pool_get(pool_, kPoolUsed, &used), "asking for the memory pool");
  const std::uint64_t available = free + (reserved - std::min(used, reserved));
  if (options.memory_limit_bytes == 0) return available;
  return std::min(available, options.memory_limit_bytes - std::min<std::uint64_t>(allocated_, options.memory_limit_bytes));
}

Status Device::take(Address* address, std::size_t bytes, std::string_view what) {
  const Status status = api.memory_allocate_async(address, bytes, memory_stream_);
  if (status != kOutOfMemory) return status;
  // Frees that wait for kernels, and freed pieces of the wrong size, may be all that is in the way.
  check_status(api.stream_synchronize(memory_stream_), "waiting for freed memory", what);
  check_status(api.pool_trim(pool_, 0), "trimming the memory pool", what);
  return api.memory_allocate_async(address, bytes, memory_stream_);
}

std::shared_ptr<Buffer> Device::allocate(std::size_t size_bytes, std::string_view what, bool zeroed) {
  make_current();
  const std::size_t bytes = std::max<std::size_t>(size_bytes, 1);
  Status status = kOutOfMemory;
  Address address = 0;
  // Counted first, so that two threads do not take the same rest of the limit.
  const std::uint64_t total = allocated_ += size_bytes;
  try {
    if (options.memory_limit_bytes == 0 || total <= options.memory_limit_bytes) status = take(&address, bytes, what);
  } catch (...) {
    allocated_ -= size_bytes;
    throw;
  }
  if (status != kSuccess) allocated_ -= size_bytes;
  if (status == kOutOfMemory) {
    const std::string limit = options.memory_limit_bytes == 0
                                  ? ""
                                  : fmt::format(" and the limit of {:.2f} (--memory-limit)", gib(options.memory_limit_bytes));
    fail(ErrorKind::out_of_memory, vendor.platform,
         "cannot allocate {:.2f} GiB for \"{}\": {:.2f} GiB free of {:.2f}{}. Ask for a smaller size or fewer frames.",
         gib(size_bytes), what, gib(free_bytes()), gib(description.memory_bytes), limit);
  }
  check_status(status, "an allocation", what);
  for (std::uint64_t peak = peak_; peak < total && !peak_.compare_exchange_weak(peak, total);) continue;
  auto buffer = std::make_shared<DeviceBuffer>(shared_from_this(), address, size_bytes);
  if (zeroed) check_status(api.set_bytes_async(address, 0, bytes, memory_stream_), "a fill", what);
  // Also behind frees that it may have the memory of.
  check_status(api.stream_synchronize(memory_stream_), "waiting for an allocation", what);
  return buffer;
}

namespace {

// Memory of this process, large pages where the system has them, touched by several threads.
class Pages {
 public:
  explicit Pages(std::size_t size_bytes) : size_(size_bytes + kLargePage) {
    void* const mapped = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return;
    mapped_ = mapped;
    const std::uintptr_t first = (reinterpret_cast<std::uintptr_t>(mapped) + kLargePage - 1) / kLargePage * kLargePage;
    data_ = reinterpret_cast<std::byte*>(first);
    madvise(data_, size_bytes, MADV_HUGEPAGE);  // where it is not to be had, small ones do
    const std::size_t count =
        std::clamp<std::size_t>(size_bytes / kBytesAThread, 1, std::max(1u, std::thread::hardware_concurrency()));
    const auto touch = [&](std::size_t begin, std::size_t end) {
      for (std::size_t at = begin; at < end; at += kSmallPage) *static_cast<volatile std::byte*>(data_ + at) = std::byte{0};
    };
    const std::size_t part = (size_bytes / count + kLargePage - 1) / kLargePage * kLargePage;
    std::vector<std::jthread> others;
    for (std::size_t begin = part; begin < size_bytes; begin += part) try {
        others.emplace_back(touch, begin, std::min(size_bytes, begin + part));
      } catch (const std::system_error&) {  // no more threads for this process
        touch(begin, std::min(size_bytes, begin + part));
      }
    touch(0, std::min(part, size_bytes));
  }
  ~Pages() {
    if (mapped_) munmap(mapped_, size_);
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  std::byte* data() const { return data_; }  // null: there is no such memory

 private:
  static constexpr std::size_t kSmallPage = 4096, kLargePage = std::size_t{2} << 20, kBytesAThread = std::size_t{32} << 20;
  const std::size_t size_;
  void* mapped_ = nullptr;
  std::byte* data_ = nullptr;
};

// The driver's own memory, or pages that it was told of.
struct LockedBuffer : HostBuffer {
  LockedBuffer(DevicePtr device_, void* address, std::size_t size, std::unique_ptr<Pages> pages_ = nullptr)
      : device(std::move(device_)), pages(std::move(pages_)) {
    data = static_cast<std::byte*>(address);
    size_bytes = size;
    is_locked = true;
  }
  ~LockedBuffer() override {
    try {
      device->make_current();
    } catch (const Error&) {  // the device is lost, and what it had
    }
    if (pages) device->api.host_unregister(data);
    else device->api.host_free(data);
  }
  const DevicePtr device;
  const std::unique_ptr<Pages> pages;
};

}  // namespace

std::shared_ptr<HostBuffer> Device::allocate_locked(std::size_t size_bytes) {
  make_current();
  // The driver's own memory comes page by page, zeroed by one thread, at 2 GB/s. Pages that are there it locks at ten times that.
  constexpr std::size_t kLarge = std::size_t{16} << 20;
  void* address = nullptr;
  if (size_bytes >= kLarge)
    if (auto pages = std::make_unique<Pages>(size_bytes);
        (address = pages->data()) && api.host_register(address, size_bytes, 0) == kSuccess)
      return std::make_shared<LockedBuffer>(shared_from_this(), address, size_bytes, std::move(pages));
  if (api.host_allocate(&address, std::max<std::size_t>(size_bytes, 1), 0) != kSuccess) return nullptr;
  return std::make_shared<LockedBuffer>(shared_from_this(), address, size_bytes);
}

std::byte* Device::take_chunk() {
  {
    const std::lock_guard lock(chunks_mutex_);
    if (!chunks_.empty()) {
      std::byte* const chunk = chunks_.back();
      chunks_.pop_back();
      return chunk;
    }
  }
  void* data = nullptr;
  return api.host_allocate(&data, kChunkBytes, 0) == kSuccess ? static_cast<std::byte*>(data) : nullptr;
}

void Device::give_back_chunk(std::byte* chunk) {
  {
    const std::lock_guard lock(chunks_mutex_);
    if (chunks_.size() < kMostChunks) return chunks_.push_back(chunk);
  }
  api.host_free(chunk);
}

// What fails here fails because the device is lost: there is nothing left to free then.
void Device::free(Address address, std::size_t size_bytes) {
  allocated_ -= size_bytes;
  api.context_set_current(context_);
  {
    const std::lock_guard lock(streams_mutex_);
    for (DeviceStream* stream : streams_)
      if (stream->capturing || api.event_record(stream->queued_, stream->handle_) == kSuccess)
        api.stream_wait_event(memory_stream_, stream->queued_, 0);
  }
  api.memory_free_async(address, memory_stream_);
}

DeviceStream::DeviceStream(DevicePtr device) : device_(std::move(device)) {
  const Device& of = *device_;
  of.make_current();
  of.check_status(of.api.stream_create(&handle_, kStreamNonBlocking), "creating a stream");
  try {
    of.check_status(of.api.event_create(&queued_, kEventDisableTiming), "creating an event");
    const std::lock_guard lock(device_->streams_mutex_);
    device_->streams_.push_back(this);
  } catch (...) {
    release();
    throw;
  }
}

DeviceStream::~DeviceStream() {
  {
    const std::lock_guard lock(device_->streams_mutex_);
    std::erase(device_->streams_, this);
  }
  release();
}

void DeviceStream::release() {
  const DriverApi& api = device_->api;
  api.context_set_current(device_->context_);
  api.stream_synchronize(handle_);
  for (Chunk& chunk : chunks_) {
    if (chunk.done) api.event_destroy(chunk.done);
    if (chunk.data) device_->give_back_chunk(chunk.data);
  }
  if (queued_) api.event_destroy(queued_);
  api.stream_destroy(handle_);
}

// False if the system locks no more pages: copies then go straight from and to ordinary memory, slower.
bool DeviceStream::has_chunks() {
  if (chunks_refused_ || chunks_[1].done) return !chunks_refused_;
  const DriverApi& api = device_->api;
  for (Chunk& chunk : chunks_) {
    if (!chunk.data) chunk.data = device_->take_chunk();
    chunks_refused_ = !chunk.data || api.event_create(&chunk.done, kEventDisableTiming) != kSuccess;
    if (chunks_refused_) return false;
  }
  return true;
}

void DeviceStream::upload(const void* from, Address to, std::size_t size_bytes) {
  const Device& of = *device_;
  if (size_bytes == 0) return;
  of.make_current();
  if (!has_chunks()) {
    of.check_status(of.api.copy_to_device_async(to, from, size_bytes, handle_), "a copy to the device");
    of.check_status(of.api.stream_synchronize(handle_), "waiting for a copy");
    return;
  }
  constexpr std::size_t kAlignment = 64, kChunkBytes = Device::kChunkBytes;
  const auto* const bytes = static_cast<const std::byte*>(from);
  for (std::size_t done = 0; done < size_bytes;) {
    if (used_ == kChunkBytes) {
      of.check_status(of.api.event_record(chunks_[chunk_].done, handle_), "recording an event");
      chunks_[chunk_].in_flight = true;
      chunk_ = 1 - chunk_;
      if (std::exchange(chunks_[chunk_].in_flight, false))
        of.check_status(of.api.event_synchronize(chunks_[chunk_].done), "waiting for a copy");
      used_ = 0;
    }
    std::byte* const place = chunks_[chunk_].data + used_;
    const std::size_t count = std::min(size_bytes - done, kChunkBytes - used_);
    std::memcpy(place, bytes + done, count);
    of.check_status(of.api.copy_to_device_async(to + done, place, count, handle_), "a copy to the device");
    done += count;
    used_ = std::min(kChunkBytes, used_ + (count + kAlignment - 1) / kAlignment * kAlignment);
  }
}

void DeviceStream::upload_later(const HostBuffer& from, std::size_t offset, Address to, std::size_t size_bytes) {
  if (!from.is_locked) return upload(from.data + offset, to, size_bytes);
  if (size_bytes == 0) return;
  device_->make_current();
  device_->check_status(device_->api.copy_to_device_async(to, from.data + offset, size_bytes, handle_), "a copy to the device");
}

void DeviceStream::download(Address from, void* to, std::size_t size_bytes) {
  const Device& of = *device_;
  if (size_bytes == 0) return;
  of.make_current();
  if (!has_chunks()) {
    of.check_status(of.api.copy_to_host_async(to, from, size_bytes, handle_), "a copy to the host");
    of.check_status(of.api.stream_synchronize(handle_), "waiting for a copy");
    return;
  }
  constexpr std::size_t kChunkBytes = Device::kChunkBytes;
  // The chunks may still hold uploads: those were queued before, and are read before they are written over.
  const auto count_of = [&](std::size_t at) { return std::min(size_bytes - at, kChunkBytes); };
  const auto fetch = [&](std::size_t at, const Chunk& chunk) {
    of.check_status(of.api.copy_to_host_async(chunk.data, from + at, count_of(at), handle_), "a copy to the host");
    of.check_status(of.api.event_record(chunk.done, handle_), "recording an event");
  };
  fetch(0, chunks_[0]);
  for (std::size_t at = 0, i = 0; at < size_bytes; at += kChunkBytes, i = 1 - i) {
    if (at + kChunkBytes < size_bytes) fetch(at + kChunkBytes, chunks_[1 - i]);
    of.check_status(of.api.event_synchronize(chunks_[i].done), "waiting for a copy");
    std::memcpy(static_cast<std::byte*>(to) + at, chunks_[i].data, count_of(at));
  }
  chunks_[0].in_flight = chunks_[1].in_flight = false;  // all that was queued before is done
  used_ = 0;
}

void DeviceStream::synchronize() {
  Device& device = *device_;
  device.make_current();
  device.check_status(device.api.stream_synchronize(handle_), "waiting for the device");
  for (const std::shared_ptr<Buffer>& place : std::exchange(to_look_at_, {})) {
    const auto address = reinterpret_cast<Address>(place->data);
    std::int32_t fault[3] = {};
    device.check_status(device.api.copy_to_host_async(fault, address, sizeof fault, handle_), "a copy");
    device.check_status(device.api.stream_synchronize(handle_), "waiting for the device");
    if (fault[0] == 0) continue;
    device.check_status(device.api.set_bytes_async(address, 0, sizeof fault, handle_), "a fill");
    fail(ErrorKind::invalid_argument, "gather", "bad index at position {}: got {}, expected 0 to {}.", fault[0] - 1, fault[1],
         fault[2] - 1);
  }
}

Address DeviceStream::fault() {
  if (!fault_) fault_ = device_->allocate(3 * sizeof(std::int32_t), "faults");
  if (capturing) fault_captured_ = true;
  else to_look_at_.insert(fault_);
  return reinterpret_cast<Address>(fault_->data);
}

}  // namespace zoe::cuda
