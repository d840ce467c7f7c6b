// A vendor's driver and run-time compiler over host memory: exports every name of driver.def's column ZOE_FAKE_COLUMN. It runs no
// kernels, but checks every handle, bound and order of calls, keeps a log, and fails what it is told to (fake_driver.h).
#include "cuda/fake_driver.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include "platform/cuda/api.h"

using namespace zoe::cuda;

namespace {

constexpr int kColumn = ZOE_FAKE_COLUMN;
constexpr Status kInvalidValue = 1, kNotInitialised = 3, kInvalidDevice = 101, kInvalidImage = 200, kInvalidContext = 201,
                 kInvalidHandle = 400, kNotFound = 500, kFirstSticky = 700;
constexpr Status kCompileFailed = 6;
constexpr std::size_t kGuardBytes = 64;
constexpr std::byte kGuard{0xfd}, kFreed{0xdd}, kFresh{0xcd};
constexpr std::string_view kMagic = "fake program of column ";

// The vendors' numbers of attributes: CUDA's and MUSA's are the same.
struct Attribute {
  int number;
  int value;
};

struct Allocation {
  std::size_t size;
  std::string name;
  std::unique_ptr<std::byte[]> bytes;  // with a guard on both sides
  const std::byte* begin() const { return bytes.get() + kGuardBytes; }
};
struct Object {
  std::string name;
};
struct Program : Object {
  std::string source, log, binary;
};
struct Module : Object {
  std::string source;
  std::map<std::string, std::unique_ptr<Object>> functions;
};

struct Fake {
  std::mutex mutex;
  std::string log, problems, report;
  // Orders.
  std::size_t memory = std::size_t{8} << 30;
  int devices = 1, major = 7, minor = 5, stale = 0, integrated = 0, linked = 1;
  std::string fail_member, refused, rejected;
  int fail_in = 0;
  Status fail_status = 0, lost = kSuccess;
  // State.
  bool initialised = false;
  int retained = 0;
  std::map<std::string, int> made;  // objects of each kind so far
  std::map<Address, Allocation> device, host;
  std::map<const void*, std::string> registered;
  std::map<const void*, std::unique_ptr<Object>> streams, events, graphs, execs;
  std::set<const void*> capturing;
  std::map<const void*, double> recorded;  // events, and when
  double now_ms = 0;
  std::map<const void*, std::unique_ptr<Program>> programs;
  std::map<const void*, std::unique_ptr<Module>> modules;
  std::map<const void*, std::pair<const Module*, std::string>> functions;
  std::map<const void*, int> shared_limits;
  std::size_t used = 0;

  Fake() {
    if (const char* orders = std::getenv("ZOE_FAKE_ORDERS")) order(orders);
    if (const char* file = std::getenv("ZOE_FAKE_REPORT")) report = file;
  }
  ~Fake() {
    if (report.empty()) return;
    if (std::FILE* file = std::fopen(report.c_str(), "w")) {
      std::fputs((problems + alive()).c_str(), file);
      std::fclose(file);
    }
  }

  void order(const std::string& orders) {
    log.clear();
    problems.clear();
    fail_member.clear();
    refused.clear();
    rejected.clear();
    lost = kSuccess;
    memory = std::size_t{8} << 30;
    devices = 1, major = 7, minor = 5, stale = 0, integrated = 0, linked = 1;
    std::istringstream all(orders);
    for (std::string one; std::getline(all, one, ';');) {
      std::istringstream words(one);
      std::string verb;
      words >> verb;
      if (verb == "memory") words >> memory;
      if (verb == "devices") words >> devices;
      if (verb == "capability") words >> major >> minor;
      if (verb == "fail") words >> fail_member >> fail_in >> fail_status;
      if (verb == "refuse") words >> refused >> fail_status;
      if (verb == "stale") words >> stale;
      if (verb == "integrated") words >> integrated;
      if (verb == "linked") words >> linked;
      if (verb == "reject") words >> rejected;
    }
  }

  std::string alive() const {
    std::string all;
    for (const auto& [address, allocation] : device) all += allocation.name + "\n";
    for (const auto& [address, allocation] : host) all += allocation.name + "\n";
    for (const auto& [address, name] : registered) all += name + "\n";
    for (const auto* objects : {&streams, &events, &graphs, &execs})
      for (const auto& [handle, object] : *objects) all += object->name + "\n";
    for (const auto& [handle, object] : programs) all += object->name + "\n";
    for (const auto& [handle, object] : modules) all += object->name + "\n";
    if (retained) all += "context\n";
    return all;
  }

  std::string next(const std::string& kind) { return kind + std::to_string(++made[kind]); }

  Status problem(const std::string& text, Status status) {
    problems += text + "\n";
    return status;
  }
};

Fake& fake() {
  static Fake one;
  return one;
}

int the_context;
thread_local const void* current = nullptr;

// Everything about one call. Evaluates to true if it is to go on; `status` is the answer otherwise.
class Call {
 public:
  Call(const char* member, bool frees = false) : lock_(fake().mutex), frees_(frees) {
    Fake& f = fake();
    f.log += member;
    if (!f.fail_member.empty() && (f.fail_member == member || f.fail_member == "any") && --f.fail_in == 0) {
      status = f.fail_status;
      if (status >= kFirstSticky) f.lost = status;
    } else if (f.refused == member) {
      status = f.fail_status;
    } else {
      status = f.lost;
    }
    if (std::strcmp(member, "init") != 0 && std::strcmp(member, "error_name") != 0 && std::strcmp(member, "error_string") != 0 &&
        std::strcmp(member, "driver_version") != 0 && status == kSuccess && !f.initialised)
      status = f.problem(std::string(member) + " before init", kNotInitialised);
  }
  ~Call() { fake().log += "\n"; }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  template <class T>
  Call& operator<<(const T& text) {
    std::ostringstream out;
    out << text;
    fake().log += " " + out.str();
    return *this;
  }
  // Frees are done even if they are told to fail: their caller can do nothing about it.
  explicit operator bool() const { return status == kSuccess || frees_; }
  Status status = kSuccess;

 private:
  const std::lock_guard<std::mutex> lock_;
  const bool frees_;
};

Status need_context(const char* what) {
  if (current == &the_context && fake().retained > 0) return kSuccess;
  return fake().problem(std::string(what) + " without a current context", kInvalidContext);
}

// The object behind a handle, or a problem.
template <class Objects>
auto* find(Objects& objects, const void* handle, const char* what) {
  const auto found = objects.find(handle);
  if (found != objects.end()) return found->second.get();
  fake().problem(std::string(what) + " with a handle that is none", kInvalidHandle);
  return static_cast<decltype(found->second.get())>(nullptr);
}

// "memory3+16", or "" and a problem if the bytes do not lie in one allocation.
std::string place(const std::map<Address, Allocation>& memory, Address address, std::size_t bytes, const std::string& what) {
  auto after = memory.upper_bound(address);
  if (after != memory.begin()) {
    const auto& [begin, allocation] = *--after;
    if (address + bytes <= begin + allocation.size && (address < begin + allocation.size || bytes == 0))
      return allocation.name + (address == begin ? "" : "+" + std::to_string(address - begin));
  }
  fake().problem(what + " of " + std::to_string(bytes) + " bytes that are in no allocation", kInvalidValue);
  return "";
}

Address allocate(std::map<Address, Allocation>& memory, std::size_t size, const std::string& kind) {
  auto bytes = std::make_unique<std::byte[]>(size + 2 * kGuardBytes);
  std::memset(bytes.get(), static_cast<int>(kGuard), kGuardBytes);
  std::memset(bytes.get() + kGuardBytes, static_cast<int>(kFresh), std::min<std::size_t>(size, 1 << 16));
  std::memset(bytes.get() + kGuardBytes + size, static_cast<int>(kGuard), kGuardBytes);
  const auto address = reinterpret_cast<Address>(bytes.get() + kGuardBytes);
  memory.emplace(address, Allocation{size, fake().next(kind), std::move(bytes)});
  return address;
}

Status release(std::map<Address, Allocation>& memory, Address address, const char* what, Call& call) {
  const auto found = memory.find(address);
  if (found == memory.end()) return fake().problem(std::string(what) + " of no allocation", kInvalidValue);
  const Allocation& allocation = found->second;
  call << allocation.name;
  for (std::size_t i = 0; i < kGuardBytes; ++i)
    if (allocation.bytes[i] != kGuard || allocation.bytes[kGuardBytes + allocation.size + i] != kGuard) {
      fake().problem("something was written outside " + allocation.name, kInvalidValue);
      break;
    }
  std::memset(allocation.bytes.get(), static_cast<int>(kFreed), std::min<std::size_t>(allocation.size, 1 << 16));
  memory.erase(found);
  return call.status;
}

// A stream that is not null, in this context.
Object* stream_of(StreamHandle stream, const char* what, Call& call) {
  if (need_context(what) != kSuccess) return nullptr;
  Object* const object = find(fake().streams, stream, what);
  if (object) call << object->name;
  return object;
}

// The parameters of a kernel as its source declares them: true for a pointer. Empty if there is no such kernel.
std::vector<bool> parameters_of(const std::string& source, const std::string& name) {
  const std::size_t at = source.find(" " + name + "(");
  if (at == std::string::npos) return {};
  const std::size_t begin = at + name.size() + 2, end = source.find(')', begin);
  std::vector<bool> pointers;
  std::istringstream list(source.substr(begin, end - begin));
  for (std::string one; std::getline(list, one, ',');) pointers.push_back(one.find('*') != std::string::npos);
  return pointers;
}

template <class Handle>
Status make(std::map<const void*, std::unique_ptr<Object>>& objects, Handle* handle, const char* kind, Call& call) {
  if (const Status status = need_context(kind)) return status;
  auto object = std::make_unique<Object>();
  object->name = fake().next(kind);
  call << object->name;
  *handle = reinterpret_cast<Handle>(object.get());
  objects.emplace(object.get(), std::move(object));
  return kSuccess;
}
Status unmake(std::map<const void*, std::unique_ptr<Object>>& objects, const void* handle, const char* what, Call& call) {
  const Object* const object = find(objects, handle, what);
  if (!object) return kInvalidHandle;
  call << object->name;
  objects.erase(handle);
  return call.status;
}

Status recorded_event(EventHandle event, const char* what, Call& call) {
  const Object* const object = find(fake().events, event, what);
  if (!object) return kInvalidHandle;
  call << object->name;
  return fake().recorded.count(event) ? kSuccess
                                      : fake().problem(std::string(what) + " of an event that was not recorded", kInvalidHandle);
}

Status give(ProgramHandle program, const char* what, std::string Program::*text, std::size_t* size, char* out) {
  Call call(what);
  if (!call) return call.status;
  const Program* const object = find(fake().programs, program, what);
  if (!object) return kInvalidHandle;
  call << object->name;
  if (size) *size = (object->*text).size();
  if (out) std::memcpy(out, (object->*text).data(), (object->*text).size());
  return kSuccess;
}

}  // namespace

extern "C" {

// ---- control
void zoe_fake_order(const char* orders) {
  const std::lock_guard lock(fake().mutex);
  fake().made.clear();
  fake().order(orders);
}
const char* zoe_fake_log() { return fake().log.c_str(); }
void zoe_fake_pass(double milliseconds) { fake().now_ms += milliseconds; }
const char* zoe_fake_problems() { return fake().problems.c_str(); }
const char* zoe_fake_alive() {
  static std::string text;
  text = fake().alive();
  return text.c_str();
}

// ---- the driver
Status fake_init(unsigned flags) {
  Call call("init");
  if (!call) return call.status;
  if (flags != 0) return fake().problem("init with flags", kInvalidValue);
  fake().initialised = true;
  return kSuccess;
}
Status fake_driver_version(int* version) {
  Call call("driver_version");
  if (!call) return call.status;
  *version = 13000;
  return kSuccess;
}
Status fake_error_name(Status status, const char** name) {
  *name = status == kOutOfMemory ? "FAKE_OUT_OF_MEMORY" : status >= kFirstSticky ? "FAKE_LOST" : "FAKE_ERROR";
  return kSuccess;
}
Status fake_error_string(Status status, const char** text) {
  *text = status == kOutOfMemory ? "out of memory" : status >= kFirstSticky ? "the device is lost" : "as ordered";
  return kSuccess;
}
Status fake_device_count(int* count) {
  Call call("device_count");
  if (!call) return call.status;
  *count = fake().devices;
  return kSuccess;
}
Status fake_device_get(int* device, int ordinal) {
  Call call("device_get");
  call << ordinal;
  if (!call) return call.status;
  if (ordinal < 0 || ordinal >= fake().devices) return fake().problem("device_get of no device", kInvalidDevice);
  *device = ordinal;
  return kSuccess;
}
Status fake_device_name(char* name, int size, int device) {
  Call call("device_name");
  call << device;
  if (!call) return call.status;
  std::snprintf(name, static_cast<std::size_t>(size), "Fake Device %d", device);
  return kSuccess;
}
Status fake_device_memory(std::size_t* bytes, int device) {
  Call call("device_memory");
  call << device;
  if (!call) return call.status;
  *bytes = fake().memory;
  return kSuccess;
}
Status fake_device_attribute(int* value, int attribute, int device) {
  Call call("device_attribute");
  if (!call) return call.status;
  const bool hip = kColumn == 2;
  const std::pair<const char*, Attribute> known[] = {{"major", {hip ? 23 : 75, fake().major}},
                                                     {"minor", {hip ? 61 : 76, fake().minor}},
                                                     {"multiprocessors", {hip ? 63 : 16, 16}},
                                                     {"l2", {hip ? 19 : 38, 4 << 20}},
                                                     {"shared", {hip ? 74 : 97, 64 << 10}},
                                                     {"warp", {hip ? 87 : 10, 32}},
                                                     {"integrated", {hip ? 16 : 18, fake().integrated}}};
  for (const auto& [name, known_attribute] : known)
    if (known_attribute.number == attribute) {
      call << name << device;
      *value = known_attribute.value;
      return kSuccess;
    }
  return fake().problem("device_attribute of unknown number " + std::to_string(attribute), kInvalidValue);
}
Status fake_context_retain(ContextHandle* context, int device) {
  Call call("context_retain");
  call << device;
  if (!call) return call.status;
  ++fake().retained;
  *context = reinterpret_cast<ContextHandle>(&the_context);
  return kSuccess;
}
Status fake_context_release(int device) {
  Call call("context_release", true);
  call << device;
  if (fake().retained-- == 0) return fake().problem("context_release without context_retain", kInvalidContext);
  return call.status;
}
// Called before everything, so it is not in the log.
Status fake_context_set_current(ContextHandle context) {
  const std::lock_guard lock(fake().mutex);
  if (fake().lost) return fake().lost;
  if (context && reinterpret_cast<const void*>(context) != &the_context)
    return fake().problem("context_set_current of no context", kInvalidContext);
  current = context;
  return kSuccess;
}
Status fake_memory_info(std::size_t* free_bytes, std::size_t* total_bytes) {
  Call call("memory_info");
  if (!call) return call.status;
  if (const Status status = need_context("memory_info")) return status;
  *free_bytes = fake().memory - fake().used;
  *total_bytes = fake().memory;
  return kSuccess;
}
Status fake_memory_allocate_async(Address* address, std::size_t bytes, StreamHandle stream) {
  Call call("memory_allocate_async");
  call << bytes;
  if (!call) return call.status;
  if (!stream_of(stream, "memory_allocate_async", call)) return kInvalidHandle;
  if (bytes == 0) return fake().problem("memory_allocate_async of nothing", kInvalidValue);
  if (fake().capturing.count(stream)) return fake().problem("memory_allocate_async while capturing", kInvalidValue);
  if (bytes > fake().memory - fake().used) return kOutOfMemory;
  fake().used += bytes;
  *address = allocate(fake().device, bytes, "memory");
  return kSuccess;
}
Status fake_memory_free_async(Address address, StreamHandle stream) {
  Call call("memory_free_async", true);
  if (!fake().streams.count(stream)) return fake().problem("memory_free_async on no stream", kInvalidHandle);
  if (const auto found = fake().device.find(address); found != fake().device.end()) fake().used -= found->second.size;
  return release(fake().device, address, "memory_free_async", call);
}
Status fake_pool_default(PoolHandle* pool, int device) {
  Call call("pool_default");
  call << device;
  if (!call) return call.status;
  *pool = reinterpret_cast<PoolHandle>(&fake().device);
  return kSuccess;
}
Status fake_pool_set(PoolHandle pool, int attribute, void* value) {
  Call call("pool_set");
  call << attribute;
  if (!call) return call.status;
  if (static_cast<void*>(pool) != &fake().device || attribute != 4 || !value)
    return fake().problem("pool_set of something else than the release threshold", kInvalidValue);
  return kSuccess;
}
Status fake_pool_get(PoolHandle pool, int attribute, void* value) {
  Call call("pool_get");
  call << attribute;
  if (!call) return call.status;
  if (static_cast<void*>(pool) != &fake().device || (attribute != 5 && attribute != 7))
    return fake().problem("pool_get of something else than the bytes reserved and used", kInvalidValue);
  const std::uint64_t bytes = fake().used;
  std::memcpy(value, &bytes, sizeof bytes);
  return kSuccess;
}
Status fake_pool_trim(PoolHandle pool, std::size_t keep_bytes) {
  Call call("pool_trim");
  call << keep_bytes;
  if (!call) return call.status;
  return static_cast<void*>(pool) == &fake().device ? kSuccess : fake().problem("pool_trim of no pool", kInvalidHandle);
}
Status fake_host_allocate(void** address, std::size_t bytes, unsigned flags) {
  Call call("host_allocate");
  call << bytes << flags;
  if (!call) return call.status;
  if (const Status status = need_context("host_allocate")) return status;
  *address = reinterpret_cast<void*>(allocate(fake().host, bytes, "host"));
  return kSuccess;
}
Status fake_host_free(void* address) {
  Call call("host_free", true);
  return release(fake().host, reinterpret_cast<Address>(address), "host_free", call);
}
// Pages that are there already: what is locked of them is known by its address alone.
Status fake_host_register(void* address, std::size_t bytes, unsigned flags) {
  Call call("host_register");
  call << bytes << flags;
  if (!call) return call.status;
  if (const Status status = need_context("host_register")) return status;
  const std::string name = fake().next("registered");
  if (!fake().registered.emplace(address, name).second) return fake().problem("host_register of what is registered", kInvalidValue);
  call << name;
  return kSuccess;
}
Status fake_host_unregister(void* address) {
  Call call("host_unregister", true);
  const auto found = fake().registered.find(address);
  if (found == fake().registered.end()) return fake().problem("host_unregister of what is not registered", kInvalidValue);
  call << found->second;
  fake().registered.erase(found);
  return call.status;
}
Status fake_pool_share(PoolHandle, const PoolAccess* access, std::size_t count) {
  Call call("pool_share");
  if (!call) return call.status;
  if (count != 1 || access->kind != 1 || access->flags != 3) return fake().problem("pool_share with a bad access", kInvalidValue);
  call << access->device;
  return kSuccess;
}
Status fake_can_reach(int* can, int device, int other) {
  Call call("can_reach");
  call << device << other;
  if (!call) return call.status;
  if (device == other) return fake().problem("can_reach of one device", kInvalidDevice);
  *can = fake().linked;
  return kSuccess;
}
Status fake_set_bytes_async(Address to, unsigned char value, std::size_t bytes, StreamHandle stream) {
  Call call("set_bytes_async");
  if (!call) return call.status;
  const std::string where = place(fake().device, to, bytes, "set_bytes_async");
  call << where << int{value} << bytes;
  if (!stream_of(stream, "set_bytes_async", call) || where.empty()) return kInvalidValue;
  std::memset(reinterpret_cast<void*>(to), value, bytes);
  return kSuccess;
}
Status fake_copy_to_device_async(Address to, const void* from, std::size_t bytes, StreamHandle stream) {
  Call call("copy_to_device_async");
  if (!call) return call.status;
  const std::string where = place(fake().device, to, bytes, "copy_to_device_async");
  call << where << bytes;
  if (!stream_of(stream, "copy_to_device_async", call) || where.empty()) return kInvalidValue;
  if (fake().capturing.count(stream)) return fake().problem("copy_to_device_async while capturing", kInvalidValue);
  std::memcpy(reinterpret_cast<void*>(to), from, bytes);
  return kSuccess;
}
Status fake_copy_to_host_async(void* to, Address from, std::size_t bytes, StreamHandle stream) {
  Call call("copy_to_host_async");
  if (!call) return call.status;
  const std::string where = place(fake().device, from, bytes, "copy_to_host_async");
  call << where << bytes;
  if (!stream_of(stream, "copy_to_host_async", call) || where.empty()) return kInvalidValue;
  if (fake().capturing.count(stream)) return fake().problem("copy_to_host_async while capturing", kInvalidValue);
  std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
  return kSuccess;
}
Status fake_copy_async(Address to, Address from, std::size_t bytes, StreamHandle stream) {
  Call call("copy_async");
  if (!call) return call.status;
  const std::string where = place(fake().device, to, bytes, "copy_async"), source = place(fake().device, from, bytes, "copy_async");
  call << where << source << bytes;
  if (!stream_of(stream, "copy_async", call) || where.empty() || source.empty()) return kInvalidValue;
  std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
  return kSuccess;
}

// ---- streams, events, graphs
Status fake_stream_create(StreamHandle* stream, unsigned flags) {
  Call call("stream_create");
  call << flags;
  return call ? make(fake().streams, stream, "stream", call) : call.status;
}
Status fake_stream_destroy(StreamHandle stream) {
  Call call("stream_destroy", true);
  if (fake().capturing.erase(stream) && !fake().lost) fake().problem("stream_destroy while capturing", kInvalidHandle);
  return unmake(fake().streams, stream, "stream_destroy", call);
}
Status fake_stream_synchronize(StreamHandle stream) {
  Call call("stream_synchronize");
  if (!call) return call.status;
  if (!stream_of(stream, "stream_synchronize", call)) return kInvalidHandle;
  return fake().capturing.count(stream) ? fake().problem("stream_synchronize while capturing", kInvalidValue) : kSuccess;
}
Status fake_stream_wait_event(StreamHandle stream, EventHandle event, unsigned flags) {
  Call call("stream_wait_event");
  call << flags;
  if (!call) return call.status;
  const Object* const object = find(fake().events, event, "stream_wait_event");
  if (!object || !stream_of(stream, "stream_wait_event", call)) return kInvalidHandle;
  call << object->name;
  return fake().recorded.count(event) ? kSuccess : fake().problem("stream_wait_event of an event that was not recorded", kSuccess);
}
Status fake_capture_begin(StreamHandle stream, int mode) {
  Call call("capture_begin");
  call << mode;
  if (!call) return call.status;
  if (!stream_of(stream, "capture_begin", call)) return kInvalidHandle;
  return fake().capturing.insert(stream).second ? kSuccess : fake().problem("capture_begin twice", kInvalidValue);
}
Status fake_capture_end(StreamHandle stream, GraphHandle* graph) {
  Call call("capture_end");
  const bool was = fake().capturing.erase(stream) > 0;
  if (!call) return call.status;
  if (!stream_of(stream, "capture_end", call)) return kInvalidHandle;
  if (!was) return fake().problem("capture_end without capture_begin", kInvalidValue);
  return make(fake().graphs, graph, "graph", call);
}
Status fake_graph_instantiate(GraphExecHandle* exec, GraphHandle graph, unsigned long long flags) {
  Call call("graph_instantiate");
  call << flags;
  if (!call) return call.status;
  if (!find(fake().graphs, graph, "graph_instantiate")) return kInvalidHandle;
  return make(fake().execs, exec, "exec", call);
}
Status fake_graph_launch(GraphExecHandle exec, StreamHandle stream) {
  Call call("graph_launch");
  if (!call) return call.status;
  const Object* const object = find(fake().execs, exec, "graph_launch");
  if (!object || !stream_of(stream, "graph_launch", call)) return kInvalidHandle;
  call << object->name;
  return kSuccess;
}
Status fake_graph_destroy(GraphHandle graph) {
  Call call("graph_destroy", true);
  return unmake(fake().graphs, graph, "graph_destroy", call);
}
Status fake_graph_exec_destroy(GraphExecHandle exec) {
  Call call("graph_exec_destroy", true);
  return unmake(fake().execs, exec, "graph_exec_destroy", call);
}
Status fake_event_create(EventHandle* event, unsigned flags) {
  Call call("event_create");
  call << flags;
  return call ? make(fake().events, event, "event", call) : call.status;
}
Status fake_event_destroy(EventHandle event) {
  Call call("event_destroy", true);
  fake().recorded.erase(event);
  return unmake(fake().events, event, "event_destroy", call);
}
Status fake_event_record(EventHandle event, StreamHandle stream) {
  Call call("event_record");
  if (!call) return call.status;
  const Object* const object = find(fake().events, event, "event_record");
  if (!object || !stream_of(stream, "event_record", call)) return kInvalidHandle;
  call << object->name;
  fake().recorded[event] = fake().now_ms;
  return kSuccess;
}
Status fake_event_query(EventHandle event) {
  Call call("event_query");
  return call ? recorded_event(event, "event_query", call) : call.status;
}
Status fake_event_synchronize(EventHandle event) {
  Call call("event_synchronize");
  return call ? recorded_event(event, "event_synchronize", call) : call.status;
}
Status fake_event_elapsed(float* milliseconds, EventHandle begin, EventHandle end) {
  Call call("event_elapsed");
  if (!call) return call.status;
  for (const EventHandle event : {begin, end})
    if (const Status status = recorded_event(event, "event_elapsed", call)) return status;
  const double passed = fake().recorded.at(end) - fake().recorded.at(begin);
  *milliseconds = passed > 0 ? static_cast<float>(passed) : 1;
  return kSuccess;
}

// ---- modules and launches
Status fake_module_load(ModuleHandle* module, const void* image) {
  Call call("module_load");
  if (!call) return call.status;
  if (const Status status = need_context("module_load")) return status;
  if (fake().stale > 0) return --fake().stale, kInvalidImage;
  const auto* const text = static_cast<const char*>(image);
  const std::string head = std::string(kMagic) + std::to_string(kColumn) + "\n";
  if (std::strncmp(text, head.c_str(), head.size()) != 0) return kInvalidImage;
  auto object = std::make_unique<Module>();
  object->name = fake().next("module");
  object->source = text + head.size();  // the binary ends with a zero
  call << object->name;
  *module = reinterpret_cast<ModuleHandle>(object.get());
  fake().modules.emplace(object.get(), std::move(object));
  return kSuccess;
}
Status fake_module_unload(ModuleHandle module) {
  Call call("module_unload", true);
  const Module* const object = find(fake().modules, module, "module_unload");
  if (!object) return kInvalidHandle;
  call << object->name;
  for (const auto& [name, function] : object->functions) fake().functions.erase(function.get());
  fake().modules.erase(module);
  return call.status;
}
Status fake_module_function(FunctionHandle* function, ModuleHandle module, const char* name) {
  Call call("module_function");
  call << name;
  if (!call) return call.status;
  Module* const object = find(fake().modules, module, "module_function");
  if (!object) return kInvalidHandle;
  call << object->name;
  if (parameters_of(object->source, name).empty()) return kNotFound;
  auto& made = object->functions[name];
  if (!made) made = std::make_unique<Object>();
  fake().functions[made.get()] = {object, name};
  *function = reinterpret_cast<FunctionHandle>(made.get());
  return kSuccess;
}
[[maybe_unused]] Status fake_function_set(FunctionHandle function, int attribute, int value) {
  Call call("function_set");
  call << attribute << value;
  if (!call) return call.status;
  if (!fake().functions.count(function)) return fake().problem("function_set of no function", kInvalidHandle);
  if (attribute != 8 || value > 64 << 10) return kInvalidValue;
  fake().shared_limits[function] = value;
  return kSuccess;
}
Status fake_launch(FunctionHandle function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared_bytes, StreamHandle stream, void** arguments, void** extra) {
  Call call("launch");
  if (!call) return call.status;
  const auto found = fake().functions.find(function);
  if (found == fake().functions.end()) return fake().problem("launch of no function", kInvalidHandle);
  const auto& [module, name] = found->second;
  call << name << grid_x << grid_y << grid_z << block_x << block_y << block_z << shared_bytes;
  if (!stream_of(stream, "launch", call)) return kInvalidHandle;
  const auto wrong = [&](const std::string& what) { return fake().problem("launch of " + name + " with " + what, kInvalidValue); };
  if (grid_x == 0 || grid_y == 0 || grid_z == 0 || grid_x > 0x7fffffffu || grid_y > 65535 || grid_z > 65535)
    return wrong("a bad grid");
  if (block_x == 0 || block_y == 0 || block_z == 0 || std::uint64_t{block_x} * block_y * block_z > 1024 || block_z > 64)
    return wrong("a bad block");
  const auto limit = fake().shared_limits.find(function);
  const unsigned most = kColumn == 2                          ? 64 << 10
                        : limit == fake().shared_limits.end() ? 48 << 10
                                                              : static_cast<unsigned>(limit->second);
  if (shared_bytes > most) return wrong("too much shared memory");
  if (extra || !arguments) return wrong("no arguments");
  const std::vector<bool> parameters = parameters_of(module->source, name);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (!arguments[i]) return wrong("too few arguments");
    if (!parameters[i]) continue;
    Address address = 0;
    std::memcpy(&address, arguments[i], sizeof address);
    if (address != 0) call << place(fake().device, address, 0, "launch of " + name + " with a pointer");
    else call << "null";
  }
  return kSuccess;
}

[[maybe_unused]] Status fake_tensor_map_encode(TensorMap*, int, unsigned, void* address, const std::uint64_t*, const std::uint64_t*,
                                               const unsigned*, const unsigned*, int, int, int, int) {
  Call call("tensor_map_encode");
  if (!call) return call.status;
  call << place(fake().device, reinterpret_cast<Address>(address), 0, "tensor_map_encode");
  return kSuccess;
}

// ---- the run-time compiler
Status fake_version(int* major, int* minor) {
  Call call("version");
  if (!call) return call.status;
  *major = 13, *minor = 0;
  return kSuccess;
}
Status fake_create(ProgramHandle* program, const char* source, const char*, int headers, const char* const*, const char* const*) {
  Call call("create");
  if (!call) return call.status;
  if (headers != 0) return fake().problem("create with headers", kInvalidValue);
  auto object = std::make_unique<Program>();
  object->name = fake().next("program");
  object->source = source;
  call << object->name;
  *program = reinterpret_cast<ProgramHandle>(object.get());
  fake().programs.emplace(object.get(), std::move(object));
  return kSuccess;
}
Status fake_destroy(ProgramHandle* program) {
  Call call("destroy", true);
  const Program* const object = find(fake().programs, *program, "destroy");
  if (!object) return kInvalidHandle;
  call << object->name;
  fake().programs.erase(*program);
  *program = nullptr;
  return call.status;
}
Status fake_compile(ProgramHandle program, int count, const char* const* options) {
  Call call("compile");
  if (!call) return call.status;
  Program* const object = find(fake().programs, program, "compile");
  if (!object) return kInvalidHandle;
  call << object->name;
  // Each compiler takes its own options only.
  const char* const known[3][2] = {
      {"--gpu-architecture=sm_", "--fmad="}, {"--offload-arch=mp_", "-ffp-contract="}, {"-ffp-contract=", "-ffp-contract="}};
  for (int i = 0; i < count; ++i)
    if (std::strncmp(options[i], known[kColumn][0], std::strlen(known[kColumn][0])) != 0 &&
        std::strncmp(options[i], known[kColumn][1], std::strlen(known[kColumn][1])) != 0) {
      object->log = std::string("unknown option ") + options[i];
      fake().problem("compile with unknown option " + std::string(options[i]), kCompileFailed);
      return kCompileFailed;
    }
  if (!fake().rejected.empty() && object->source.find(fake().rejected) != std::string::npos) {
    object->log =
        "a.cu(1): error: this is line 1 of the log\na.cu(2): error: \"" + fake().rejected + "\" is not for this compiler\n";
    return kCompileFailed;
  }
  object->binary = std::string(kMagic) + std::to_string(kColumn) + "\n" + object->source;
  object->binary.push_back('\0');
  return kSuccess;
}
Status fake_log_size(ProgramHandle program, std::size_t* bytes) { return give(program, "log_size", &Program::log, bytes, nullptr); }
Status fake_log(ProgramHandle program, char* text) { return give(program, "log", &Program::log, nullptr, text); }
Status fake_binary_size(ProgramHandle program, std::size_t* bytes) {
  return give(program, "binary_size", &Program::binary, bytes, nullptr);
}
Status fake_binary(ProgramHandle program, char* bytes) { return give(program, "binary", &Program::binary, nullptr, bytes); }

}  // extern "C"

// The functions have the types of the table, and go by the vendor's names where it has one.
#if ZOE_FAKE_COLUMN == 0
#define ZOE_FAKE_NAME(cuda, musa, hip) cuda
#elif ZOE_FAKE_COLUMN == 1
#define ZOE_FAKE_NAME(cuda, musa, hip) musa
#else
#define ZOE_FAKE_NAME(cuda, musa, hip) hip
#endif
#define ZOE_FAKE_EXPORT(name, member) \
  __asm__(".ifnc \"" name "\",\"\"\n.globl " name "\n.set " name ", fake_" #member "\n.endif\n");
#define ZOE_DRIVER(member, arguments, cuda, musa, hip)                                  \
  static_assert(std::is_same_v<decltype(&fake_##member), decltype(DriverApi::member)>); \
  ZOE_FAKE_EXPORT(ZOE_FAKE_NAME(cuda, musa, hip), member)
#define ZOE_COMPILER(member, arguments, cuda, musa, hip)                                  \
  static_assert(std::is_same_v<decltype(&fake_##member), decltype(CompilerApi::member)>); \
  ZOE_FAKE_EXPORT(ZOE_FAKE_NAME(cuda, musa, hip), member)
#include "platform/cuda/driver.def"
