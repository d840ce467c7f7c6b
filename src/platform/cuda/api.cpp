#include "platform/cuda/api.h"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "base/error.h"

namespace zoe::cuda {
namespace {

namespace fs = std::filesystem;

using Names = std::array<const char*, 3>;  // of one entry point: CUDA, MUSA, HIP

// A library, or an Error that says where it was looked for.
void* open_named(const Vendor& vendor, const std::vector<std::string>& names, std::string_view part, const fs::path& given) {
  std::vector<std::string> tried;
  void* library = open_library(names, library_folders(given, vendor), tried);
  check(library != nullptr, ErrorKind::unsupported, vendor.platform, "{} of {} is missing: looked for {} in {}. {}", part,
        vendor.company, names.front(), fmt::join(tried, ", "), vendor.advice);
  return library;
}

void find(const Vendor& vendor, void* library, std::string_view path, const Names& names, auto& entry) {
  const char* name = names[static_cast<std::size_t>(vendor.column)];
  if (!*name) return;
  void* symbol = dlsym(library, name);
  check(symbol != nullptr, ErrorKind::unsupported, vendor.platform, "{} is too old: it has no {}. {}", path, name, vendor.advice);
  entry = reinterpret_cast<std::remove_reference_t<decltype(entry)>>(symbol);
}

void fill(const Vendor& vendor, void* library, DriverApi& api) {
#define ZOE_DRIVER(member, arguments, cuda, musa, hip) find(vendor, library, api.path, {cuda, musa, hip}, api.member);
#define ZOE_COMPILER(member, arguments, cuda, musa, hip)
#include "platform/cuda/driver.def"
}

void fill(const Vendor& vendor, void* library, CompilerApi& api) {
#define ZOE_DRIVER(member, arguments, cuda, musa, hip)
#define ZOE_COMPILER(member, arguments, cuda, musa, hip) find(vendor, library, api.path, {cuda, musa, hip}, api.member);
#include "platform/cuda/driver.def"
}

template <class Api>
const Api& load(const Vendor& vendor, const std::vector<std::string>& names, std::string_view part, const fs::path& given) {
  static std::mutex mutex;
  static std::map<std::pair<std::string_view, fs::path>, std::unique_ptr<Api>> opened;
  const std::lock_guard lock(mutex);
  auto& api = opened[{vendor.platform, given}];
  if (!api) {
    auto made = std::make_unique<Api>();
    void* const library = open_named(vendor, names, part, given);
    made->path = path_of_library(library);
    fill(vendor, library, *made);
    api = std::move(made);
  }
  return *api;
}

std::optional<fs::path> variable(const char* name) {
  const char* value = std::getenv(name);
  if (!value || !*value) return std::nullopt;
  return fs::path(value);
}

// `root`/lib/python3*/site-packages/nvidia/*/lib: where pip puts NVIDIA's libraries.
void add_packages(const fs::path& root, std::vector<fs::path>& folders) {
  std::error_code error;
  std::vector<fs::path> found;
  for (const auto& python : fs::directory_iterator(root / "lib", error)) {
    if (!python.path().filename().string().starts_with("python3")) continue;
    for (const char* packages : {"site-packages", "dist-packages"}) {
      std::error_code none;
      for (const auto& package : fs::directory_iterator(python.path() / packages / "nvidia", none))
        if (fs::is_directory(package.path() / "lib", none)) found.push_back(package.path() / "lib");
    }
  }
  std::sort(found.begin(), found.end());
  folders.insert(folders.end(), found.begin(), found.end());
}

// The folders of libraries in a toolkit's, or the toolkit's own if it has none: then an error at least names it.
void add_toolkit(const fs::path& root, std::vector<fs::path>& folders) {
  const std::size_t before = folders.size();
  for (const char* folder : {"lib64", "lib", "targets/x86_64-linux/lib"}) {
    std::error_code none;
    if (fs::is_directory(root / folder, none)) folders.push_back(root / folder);
  }
  if (folders.size() == before) folders.push_back(root);
}

}  // namespace

const Vendor kCuda{
    .platform = "cuda",
    .company = "NVIDIA",
    .column = 0,
    .driver = {"libcuda.so.1"},
    .compiler = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"},
    .compiler_name = "NVRTC",
    .homes = {"CUDA_HOME", "CUDA_PATH"},
    .toolkit = "/usr/local/cuda",
    .attributes =
        {.major = 75, .minor = 76, .multiprocessors = 16, .l2_bytes = 38, .shared_bytes = 97, .warp_threads = 10, .integrated = 18},
    .architecture = "--gpu-architecture=sm_{}{}",
    .exact = "--fmad=false",
    .loose = "--fmad=true",
    .prelude = "#pragma nv_diag_suppress 177\n",  // functions that a program does not call would hide errors in its log
    .advice =
        "Install NVIDIA's driver and the CUDA toolkit or its pip packages, or name a folder with --cuda-path; --platform cpu needs "
        "neither."};
const Vendor kMusa{
    .platform = "musa",
    .company = "Moore Threads",
    .column = 1,
    .driver = {"libmusa.so.1", "libmusa.so"},
    .compiler = {"libmtrtc.so", "libmtrtc.so.5", "libmtrtc.so.4"},
    .compiler_name = "MTRTC",
    .homes = {"MUSA_HOME", "MUSA_PATH"},
    .toolkit = "/usr/local/musa",
    .attributes =
        {.major = 75, .minor = 76, .multiprocessors = 16, .l2_bytes = 38, .shared_bytes = 97, .warp_threads = 10, .integrated = 18},
    .architecture = "--offload-arch=mp_{}{}",
    .exact = "-ffp-contract=off",
    .loose = "-ffp-contract=fast",
    .prelude = "",
    .advice = "Install the MUSA driver and toolkit, or name a folder with --cuda-path; --platform cpu needs neither."};
// HIP's warps have 64 threads on some devices: the operations of a warp work on its halves.
const Vendor kRocm{
    .platform = "rocm",
    .company = "AMD",
    .column = 2,
    .driver = {"libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so"},
    .compiler = {"libhiprtc.so.7", "libhiprtc.so.6", "libhiprtc.so"},
    .compiler_name = "hipRTC",
    .homes = {"ROCM_PATH", "HIP_PATH"},
    .toolkit = "/opt/rocm",
    .attributes =
        {.major = 23, .minor = 61, .multiprocessors = 63, .l2_bytes = 19, .shared_bytes = 74, .warp_threads = 87, .integrated = 16},
    .architecture = "",
    .exact = "-ffp-contract=off",
    .loose = "-ffp-contract=fast",
    .prelude = R"(#define __shfl_xor_sync(mask, value, lanes) __shfl_xor(value, lanes, 32)
#define __shfl_sync(mask, value, lane) __shfl(value, lane, 32)
#define __syncwarp() __builtin_amdgcn_fence(__ATOMIC_ACQ_REL, "wavefront"), __builtin_amdgcn_wave_barrier()
)",
    .advice = "Install ROCm, or name its folder with --cuda-path; --platform cpu does without."};

void* open_library(const std::vector<std::string>& names, const std::vector<fs::path>& folders, std::vector<std::string>& tried) {
  for (const fs::path& folder : folders) {
    std::string refused;
    for (const std::string& name : names) {
      const std::string path = folder.empty() ? name : (folder / name).string();
      if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
      const char* const why = dlerror();
      const bool absent = !why || std::string_view(why).starts_with(path + ": cannot open shared object file: No such file");
      if (refused.empty() && !absent) refused = why;
    }
    if (!refused.empty()) tried.push_back(refused);
    else tried.push_back(folder.empty() ? "the system's folders" : folder.string());
  }
  return nullptr;
}

std::string path_of_library(void* library) {
  link_map* map = nullptr;
  if (dlinfo(library, RTLD_DI_LINKMAP, &map) != 0 || !map) return "(unknown path)";
  return map->l_name;
}

std::vector<fs::path> library_folders(const fs::path& given, const Vendor& vendor) {
  const bool has_packages = &vendor == &kCuda;
  std::vector<fs::path> folders;
  if (!given.empty()) {
    folders.push_back(given);
    add_toolkit(given, folders);
    if (has_packages) add_packages(given, folders);
  }
  folders.emplace_back();
  for (const std::string& name : vendor.homes)
    if (const auto root = variable(name.c_str())) add_toolkit(*root, folders);
  if (const auto root = variable("CONDA_PREFIX")) add_toolkit(*root, folders);
  std::error_code none;
  const fs::path toolkit = vendor.toolkit;
  std::vector<fs::path> versions;
  for (const auto& entry : fs::directory_iterator(toolkit.parent_path(), none))
    if (entry.path().filename().string().starts_with(toolkit.filename().string() + "-")) versions.push_back(entry.path());
  std::sort(versions.rbegin(), versions.rend());
  versions.insert(versions.begin(), toolkit);
  for (const fs::path& root : versions)
    if (fs::is_directory(root, none)) add_toolkit(root, folders);
  if (has_packages) {
    if (const auto environment = variable("VIRTUAL_ENV")) add_packages(*environment, folders);
    const std::string path = variable("PATH").value_or("").string();
    for (std::size_t begin = 0; begin < path.size();) {
      const std::size_t end = std::min(path.find(':', begin), path.size());
      const fs::path folder = path.substr(begin, end - begin);
      if (folder.filename() == "bin") add_packages(folder.parent_path(), folders);
      begin = end + 1;
    }
    if (const auto home = variable("HOME")) add_packages(*home / ".local", folders);
  }
  // Toolkits are full of links to the same few folders.
  std::vector<fs::path> distinct, seen;
  for (const fs::path& folder : folders) {
    const fs::path real = folder.empty() ? folder : fs::weakly_canonical(folder, none);
    if (std::find(seen.begin(), seen.end(), real) != seen.end()) continue;
    seen.push_back(real);
    distinct.push_back(folder);
  }
  return distinct;
}

const DriverApi& load_driver(const Vendor& vendor, const fs::path& given) {
  return load<DriverApi>(vendor, vendor.driver, "the driver", given);
}

const CompilerApi& load_compiler(const Vendor& vendor, const fs::path& given, int driver_version) {
  std::vector<std::string> names = vendor.compiler;
  const std::string suffix = fmt::format(".{}", driver_version / 1000);
  std::stable_partition(names.begin(), names.end(), [&](const std::string& name) { return name.ends_with(suffix); });
  return load<CompilerApi>(vendor, names, vendor.compiler_name, given);
}

void check_driver(const DriverApi& api, const Vendor& vendor, Status status, std::string_view call, std::string_view what) {
  if (status == kSuccess) [[likely]]
    return;
  const char *status_name = nullptr, *text = nullptr;
  if (api.error_name(status, &status_name) != kSuccess || !status_name) status_name = "an unknown error";
  if (api.error_string(status, &text) != kSuccess || !text) text = "no description";
  const bool memory = status == kOutOfMemory;
  fail(memory ? ErrorKind::out_of_memory : ErrorKind::device, vendor.platform, "{}{}{} failed: {} ({}, {}).{}", call,
       what.empty() ? "" : " of ", what, status_name, status, text, memory ? " Ask for a smaller size or fewer frames." : "");
}

}  // namespace zoe::cuda
