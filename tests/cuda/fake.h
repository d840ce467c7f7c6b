// The fake driver of one vendor in this process, and the platform on it.
#pragma once

#include <dlfcn.h>

#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

#include "cuda/fake_driver.h"
#include "platform/cuda/api.h"
#include "platform/platform.h"

namespace zoe::testing {

class FakeVendor {
 public:
  explicit FakeVendor(const cuda::Vendor& which) : vendor(which), folder(std::filesystem::path(ZOE_FAKES) / which.platform) {
    void* const library = dlopen((folder / which.driver.front()).c_str(), RTLD_NOW);
    if (!library) throw std::runtime_error(dlerror());
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      if (!function) throw std::runtime_error(dlerror());
    };
    find(order, "zoe_fake_order");
    find(log, "zoe_fake_log");
    find(problems, "zoe_fake_problems");
    find(alive, "zoe_fake_alive");
    find(pass, "zoe_fake_pass");
  }
  PlatformOptions options(const std::filesystem::path& cache) const { return {.cache_dir = cache, .cuda_path = folder}; }

  const cuda::Vendor& vendor;
  const std::filesystem::path folder;
  FakeOrder order;
  FakeLog log;
  FakeProblems problems;
  FakeAlive alive;
  FakePass pass;
};

inline const FakeVendor& fake_of(const cuda::Vendor& vendor) {
  static const FakeVendor cuda(cuda::kCuda), musa(cuda::kMusa), rocm(cuda::kRocm);
  return &vendor == &cuda::kCuda ? cuda : &vendor == &cuda::kMusa ? musa : rocm;
}

}  // namespace zoe::testing
