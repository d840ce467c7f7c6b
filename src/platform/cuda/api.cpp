#include "platform/cuda/api.h"

#include <dlfcn.h>

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

// A library whose entry points are all there, or why it is not.
void* open_named(const Vendor& vendor, const std::vector<std::string>& names, std::string_view part, const fs::path& given) {
  std::vector<std::string> tried;
  void* library = open_library(names, library_folders(given), tried);
  check(library != nullptr, ErrorKind::unsupported, vendor.platform, "{} has no {}: looked for {}. {}", vendor.company, part,
        fmt::join(tried, "; "), vendor.advice);
  return library;
}

void find(const Vendor& vendor, void* library, const Names& names, auto& entry) {
  const char* name = names[static_cast<std::size_t>(vendor.column)];
  void* symbol = dlsym(library, name);
  check(symbol != nullptr, ErrorKind::unsupported, vendor.platform, "a library of {} is too old: it has no {}. {}", vendor.company,
        name, vendor.advice);
  entry = reinterpret_cast<std::remove_reference_t<decltype(entry)>>(symbol);
}

void fill(const Vendor& vendor, void* library, DriverApi& api) {
#define ZOE_DRIVER(member, arguments, cuda, musa, hip) find(vendor, library, {cuda, musa, hip}, api.member);
#define ZOE_COMPILER(member, arguments, cuda, musa, hip)
#include "platform/cuda/driver.def"
}

void fill(const Vendor& vendor, void* library, CompilerApi& api) {
#define ZOE_DRIVER(member, arguments, cuda, musa, hip)
#define ZOE_COMPILER(member, arguments, cuda, musa, hip) find(vendor, library, {cuda, musa, hip}, api.member);
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
    fill(vendor, open_named(vendor, names, part, given), *made);
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

}  // namespace

const Vendor kCuda{
    .platform = "cuda",
    .company = "NVIDIA",
    .column = 0,
    .driver = {"libcuda.so.1"},
    .compiler = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"},
    .attributes = {.major = 75, .minor = 76, .multiprocessors = 16, .l2_bytes = 38, .shared_bytes = 97, .warp_threads = 10},
    .architecture = "--gpu-architecture=sm_{}{}",
    .advice =
        "Install NVIDIA's driver and the CUDA toolkit (or its pip packages), or name their folder with "
        "--cuda-path."};
const Vendor kMusa{
    .platform = "musa",
    .company = "Moore Threads",
    .column = 1,
    .driver = {"libmusa.so.1", "libmusa.so"},
    .compiler = {"libmtrtc.so.1", "libmtrtc.so"},
    .attributes = {.major = 75, .minor = 76, .multiprocessors = 16, .l2_bytes = 38, .shared_bytes = 97, .warp_threads = 10},
    .architecture = "--gpu-architecture=mp_{}{}",
    .advice = "Install the MUSA driver and toolkit, or name their folder with --cuda-path."};
const Vendor kRocm{
    .platform = "rocm",
    .company = "AMD",
    .column = 2,
    .driver = {"libamdhip64.so.6", "libamdhip64.so"},
    .compiler = {"libhiprtc.so.6", "libhiprtc.so"},
    .attributes = {.major = 23, .minor = 61, .multiprocessors = 63, .l2_bytes = 18, .shared_bytes = 74, .warp_threads = 87},
    .architecture = "--offload-arch=gfx{}{}",
    .advice = "Install ROCm, or name its folder with --cuda-path."};

void* open_library(const std::vector<std::string>& names, const std::vector<fs::path>& folders, std::vector<std::string>& tried) {
  for (const fs::path& folder : folders)
    for (const std::string& name : names) {
      const std::string path = folder.empty() ? name : (folder / name).string();
      if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
      std::error_code none;
      if (folder.empty()) tried.push_back(name + " where the system looks");
      else if (fs::exists(path, none)) tried.push_back(dlerror());
      else if (name == names.front()) tried.push_back(folder.string());
    }
  return nullptr;
}

std::vector<fs::path> library_folders(const fs::path& given) {
  std::vector<fs::path> folders;
  const auto toolkit = [&](const fs::path& root) {
    for (const char* folder : {"lib64", "lib", "targets/x86_64-linux/lib"}) folders.push_back(root / folder);
  };
  if (!given.empty()) {
    folders.push_back(given);
    toolkit(given);
    add_packages(given, folders);
  }
  folders.emplace_back();
  for (const char* name : {"CUDA_HOME", "CUDA_PATH", "MUSA_HOME", "ROCM_PATH"})
    if (const auto root = variable(name)) toolkit(*root);
  for (const char* root : {"/usr/local/cuda", "/usr/local/musa", "/opt/rocm"}) toolkit(root);
  if (const auto environment = variable("VIRTUAL_ENV")) add_packages(*environment, folders);
  const std::string path = variable("PATH").value_or("").string();
  for (std::size_t begin = 0; begin < path.size();) {
    const std::size_t end = std::min(path.find(':', begin), path.size());
    const fs::path folder = path.substr(begin, end - begin);
    if (folder.filename() == "bin") add_packages(folder.parent_path(), folders);
    begin = end + 1;
  }
  std::error_code none;
  std::vector<fs::path> there;
  for (const fs::path& folder : folders)
    if ((folder.empty() || fs::is_directory(folder, none)) && std::find(there.begin(), there.end(), folder) == there.end())
      there.push_back(folder);
  return there;
}

const DriverApi& load_driver(const Vendor& vendor, const fs::path& given) {
  return load<DriverApi>(vendor, vendor.driver, "driver", given);
}

const CompilerApi& load_compiler(const Vendor& vendor, const fs::path& given) {
  return load<CompilerApi>(vendor, vendor.compiler, "run-time compiler", given);
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
