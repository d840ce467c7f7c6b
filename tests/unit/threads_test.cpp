// Several sessions on one platform: tests/testing/use_from_threads.h. The fake CUDA driver has its own test in tests/cuda.
#include <gtest/gtest.h>

#include "testing/temporary_folder.h"
#include "testing/use_from_threads.h"

namespace zoe {
namespace {

TEST(Threads, UseOneNullPlatform) { testing::use_from_threads(*open_platform("null")); }

TEST(Threads, UseOneCpu) {
  const testing::TemporaryFolder cache;
  testing::use_from_threads(*open_platform("cpu", {.threads = 2, .cache_dir = cache.path()}));
}

TEST(Threads, UseOneCpuWithoutACompiler) {
  testing::use_from_threads(*open_platform("cpu", {.threads = 2, .cache_dir = "/dev/null/none", .compiler = "/none"}));
}

TEST(Threads, UseOneOpenClDevice) {
  const testing::TemporaryFolder cache;
  std::unique_ptr<Platform> platform;
  try {
    platform = open_platform("opencl", {.cache_dir = cache.path()});
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::unsupported) throw;
    GTEST_SKIP() << "[SKIP] " << error.what();
  }
  testing::use_from_threads(*platform, true, true);
}

}  // namespace
}  // namespace zoe
