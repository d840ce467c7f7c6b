// Several sessions on one platform: tests/testing/use_from_threads.h. The fake CUDA driver has its own test in tests/cuda.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <ctime>
#include <thread>

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

double cpu_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// A program that links the library has no part in how libgomp waits, and its cores may be busy: behind a loop threads sleep.
// Spinning as libgomp does by itself takes up to half of these pauses, 7% where ten others want the cores; sleeping 0.2%.
TEST(Threads, OfTheCpuSleepBetweenLoops) {
  if (std::getenv("OMP_WAIT_POLICY") || std::getenv("GOMP_SPINCOUNT")) GTEST_SKIP() << "[SKIP] libgomp is told how long to spin";
  const auto platform = open_platform("cpu", {.threads = 2, .cache_dir = "/dev/null/none", .compiler = "/none"});
  const Value x = input("x", DType::f32, {1024, 1024});
  const Graph graph = make_graph("loop", {x}, {x * x});
  const Plan plan = compile(graph, *platform);
  WeightStore weights(*platform, [](const std::string&) -> WeightPtr { throw std::logic_error("there are no weights"); });
  weights.load(plan);
  const auto stream = platform->make_stream();
  const Tensor from = make_tensor(*platform, x.type(), "input"), to = make_tensor(*platform, graph.outputs[0].type(), "output");
  const Plan* const plans[] = {&plan};
  const Tensor workspace = make_workspace(*platform, plans);
  constexpr int kPauses = 40;
  constexpr std::chrono::milliseconds kPause{10};
  double used = 0;
  for (int i = 0; i < kPauses; ++i) {
    run(plan, *stream, weights, {{from}}, {{to}}, workspace);
    used -= cpu_seconds();
    std::this_thread::sleep_for(kPause);
    used += cpu_seconds();
  }
  EXPECT_LT(used, 0.02 * kPauses * std::chrono::duration<double>(kPause).count());
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
