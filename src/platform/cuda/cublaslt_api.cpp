#include "platform/cuda/cublaslt_api.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <mutex>
#include <type_traits>

namespace zoe::cuda {
namespace {

CublasltLibrary open(const std::filesystem::path& given) {
  CublasltLibrary opened{};
  std::vector<std::string> tried;
  void* const library = open_library({"libcublasLt.so.13", "libcublasLt.so.12"}, library_folders(given), tried);
  if (!library) {
    opened.why = fmt::format("no cuBLASLt: looked for libcublasLt.so.13 in {}", fmt::join(tried, ", "));
    return opened;
  }
  const auto find = [&](auto& entry, const char* name) {
    void* const symbol = dlsym(library, name);
    if (!symbol && opened.why.empty()) opened.why = fmt::format("cuBLASLt is too old: it has no {}", name);
    entry = reinterpret_cast<std::remove_reference_t<decltype(entry)>>(symbol);
  };
  CublasltApi& api = opened.api;
  api.path = path_of_library(library);
  find(api.version, "cublasLtGetVersion");
  find(api.status_text, "cublasLtGetStatusString");
  find(api.create, "cublasLtCreate");
  find(api.destroy, "cublasLtDestroy");
  find(api.product_create, "cublasLtMatmulDescCreate");
  find(api.product_destroy, "cublasLtMatmulDescDestroy");
  find(api.product_set, "cublasLtMatmulDescSetAttribute");
  find(api.layout_create, "cublasLtMatrixLayoutCreate");
  find(api.layout_destroy, "cublasLtMatrixLayoutDestroy");
  find(api.layout_set, "cublasLtMatrixLayoutSetAttribute");
  find(api.preference_create, "cublasLtMatmulPreferenceCreate");
  find(api.preference_destroy, "cublasLtMatmulPreferenceDestroy");
  find(api.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  find(api.candidates, "cublasLtMatmulAlgoGetHeuristic");
  find(api.check, "cublasLtMatmulAlgoCheck");
  find(api.algorithm_get, "cublasLtMatmulAlgoConfigGetAttribute");
  find(api.multiply, "cublasLtMatmul");
  return opened;
}

}  // namespace

const CublasltLibrary& load_cublaslt(const std::filesystem::path& given) {
  static std::mutex mutex;
  static std::map<std::filesystem::path, CublasltLibrary> libraries;
  const std::lock_guard lock(mutex);
  auto found = libraries.find(given);
  if (found == libraries.end()) found = libraries.emplace(given, open(given)).first;
  return found->second;
}

}  // namespace zoe::cuda
