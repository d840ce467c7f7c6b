// The platforms that cases run on besides the CPU.
#pragma once

#include <dlfcn.h>

#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>

#include "base/error.h"
#include "platform/platform.h"
#include "testing/temporary_folder.h"

namespace zoe::testing {

// The best OpenCL device, opened once: with products in a work-item's registers, or in tiles of local memory. Null if there is
// none.
inline Platform* opencl(bool local_tiles = false) {
  static const auto open = [](bool tiles) -> std::unique_ptr<Platform> {
    try {
      return open_platform("opencl", {.opencl_local_tiles = tiles});
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::unsupported) throw;
      return nullptr;
    }
  };
  static const std::unique_ptr<Platform> registers = open(false), tiles = open(true);
  return local_tiles ? tiles.get() : registers.get();
}

#define ZOE_SKIP_WITHOUT_OPENCL() \
  if (!::zoe::testing::opencl()) GTEST_SKIP() << "no OpenCL device"

// NVIDIA's GPU, opened once, with the vendor's products or with our own; null if there is none. The names of tests that need it end
// in OnCuda, which labels them `gpu`.
inline Platform* cuda(bool vendor_products = true) {
  static const auto open = [](bool vendors) -> std::unique_ptr<Platform> {
    try {
      if (vendors) return open_platform("cuda");
      // As where these libraries are too old: another one lies under their names, and is found first.
      const TemporaryFolder folder;
      Dl_info c_library{};
      dladdr(dlsym(RTLD_DEFAULT, "getpid"), &c_library);
      for (const char* name : {"libcublasLt.so.13", "libcudnn.so.9"})
        std::filesystem::create_symlink(c_library.dli_fname, folder.path() / name);
      auto platform = open_platform("cuda", {.cuda_path = folder.path()});
      for (const LibraryInfo& library : platform->libraries())
        if (library.name.starts_with("cu") && !library.version.empty()) throw std::logic_error(library.name + " is in use");
      return platform;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::unsupported) throw;
      return nullptr;
    }
  };
  static const std::unique_ptr<Platform> vendors = open(true), own = open(false);
  return vendor_products ? vendors.get() : own.get();
}

#define ZOE_SKIP_WITHOUT_CUDA() \
  if (!::zoe::testing::cuda()) GTEST_SKIP() << "no CUDA device"

}  // namespace zoe::testing
