#include "platform/cuda/cudnn_api.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <mutex>
#include <type_traits>

namespace zoe::cuda {
namespace {

constexpr std::size_t kOldestVersion = 90000;

// The other libraries of cuDNN are opened by this one, from the folder it lies in.
CudnnLibrary open(const std::filesystem::path& given) {
  CudnnLibrary opened{};
  std::vector<std::string> tried;
  void* const library = open_library({"libcudnn.so.9"}, library_folders(given), tried);
  if (!library) {
    opened.why = fmt::format("no cuDNN: looked for libcudnn.so.9 in {}", fmt::join(tried, ", "));
    return opened;
  }
  const auto find = [&](auto& entry, const char* name) {
    void* const symbol = dlsym(library, name);
    if (!symbol && opened.why.empty()) opened.why = fmt::format("cuDNN is too old: it has no {}", name);
    entry = reinterpret_cast<std::remove_reference_t<decltype(entry)>>(symbol);
  };
  CudnnApi& api = opened.api;
  api.path = path_of_library(library);
  find(api.version, "cudnnGetVersion");
  find(api.error_text, "cudnnGetErrorString");
  find(api.last_error, "cudnnGetLastErrorString");
  find(api.create, "cudnnCreate");
  find(api.destroy, "cudnnDestroy");
  find(api.set_stream, "cudnnSetStream");
  find(api.descriptor_create, "cudnnBackendCreateDescriptor");
  find(api.descriptor_destroy, "cudnnBackendDestroyDescriptor");
  find(api.descriptor_finalize, "cudnnBackendFinalize");
  find(api.descriptor_set, "cudnnBackendSetAttribute");
  find(api.descriptor_get, "cudnnBackendGetAttribute");
  find(api.execute, "cudnnBackendExecute");
  if (opened.why.empty() && api.version() < kOldestVersion)
    opened.why = fmt::format("cuDNN is too old: got {}, expected 9.0 or newer", cudnn_version(api));
  return opened;
}

}  // namespace

const CudnnLibrary& load_cudnn(const std::filesystem::path& given) {
  static std::mutex mutex;
  static std::map<std::filesystem::path, CudnnLibrary> libraries;
  const std::lock_guard lock(mutex);
  auto found = libraries.find(given);
  if (found == libraries.end()) found = libraries.emplace(given, open(given)).first;
  return found->second;
}

std::string cudnn_version(const CudnnApi& api) {
  const std::size_t version = api.version();
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

}  // namespace zoe::cuda
