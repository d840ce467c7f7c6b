#include "platform/cuda/cudnn_api.h"

#include <dlfcn.h>
#include <fmt/ranges.h>

#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace zoe::cuda {
namespace {

constexpr std::size_t kOldestVersion = 90000;

std::unique_ptr<CudnnApi> open(const std::filesystem::path& given, std::string& why) {
  std::vector<std::string> tried;
  void* library = open_library({"libcudnn.so.9"}, library_folders(given), tried);
  if (!library) {
    why = fmt::format("no cuDNN 9: looked for {}", fmt::join(tried, "; "));
    return nullptr;
  }
  auto api = std::make_unique<CudnnApi>();
  bool complete = true;
  const auto find = [&](const char* name, auto& entry) {
    void* symbol = dlsym(library, name);
    if (!symbol && complete) why = fmt::format("the cuDNN that was found has no {}", name);
    complete = complete && symbol;
    entry = reinterpret_cast<std::remove_reference_t<decltype(entry)>>(symbol);
  };
#define ZOE_FIND(name) find(#name, api->name)
  ZOE_FIND(cudnnGetVersion);
  ZOE_FIND(cudnnGetErrorString);
  ZOE_FIND(cudnnGetLastErrorString);
  ZOE_FIND(cudnnCreate);
  ZOE_FIND(cudnnDestroy);
  ZOE_FIND(cudnnSetStream);
  ZOE_FIND(cudnnBackendCreateDescriptor);
  ZOE_FIND(cudnnBackendDestroyDescriptor);
  ZOE_FIND(cudnnBackendFinalize);
  ZOE_FIND(cudnnBackendSetAttribute);
  ZOE_FIND(cudnnBackendGetAttribute);
  ZOE_FIND(cudnnBackendExecute);
#undef ZOE_FIND
  if (!complete) return nullptr;
  if (api->cudnnGetVersion() < kOldestVersion) {
    why = fmt::format("cuDNN is too old: got version {}, expected {} or newer", api->cudnnGetVersion(), kOldestVersion);
    return nullptr;
  }
  return api;
}

}  // namespace

const CudnnApi* load_cudnn(const std::filesystem::path& given, std::string& why) {
  struct Opened {
    std::unique_ptr<CudnnApi> api;
    std::string why;
  };
  static std::mutex mutex;
  static std::map<std::filesystem::path, Opened> all;
  const std::lock_guard lock(mutex);
  const auto [found, is_new] = all.try_emplace(given);
  if (is_new) found->second.api = open(given, found->second.why);
  why = found->second.why;
  return found->second.api.get();
}

}  // namespace zoe::cuda
