// The CPU platform's threads: how long they wait awake, and kernels that a caller's own parallel region runs.
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>

#include "ops/run_kernel.h"
#include "platform/cpu/kernels.h"
#include "testing/compare.h"

namespace zoe::testing {
namespace {

// A library user has no environment variable set for libgomp, whose own setting is milliseconds.
TEST(CpuThreads, SleepSoonAfterALoop) {
  if (std::getenv("OMP_WAIT_POLICY") || std::getenv("GOMP_SPINCOUNT")) GTEST_SKIP() << "[SKIP] the environment says how long";
  const auto platform = open_platform("cpu", {.threads = 2});
  double awake = 0;
  constexpr int kLoops = 20;
  for (int i = 0; i < kLoops; ++i) {
    int members = 0;
#pragma omp parallel num_threads(2) reduction(+ : members)
    members += 1;
    ASSERT_EQ(members, 2);
    const std::clock_t start = std::clock();  // of all threads of the process
    usleep(20000);
    awake += static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  }
  EXPECT_LT(awake / kLoops, 1e-3);
}

// Each of several threads of the caller runs a kernel with scratch memory of its own, for one thread.
TEST(CpuThreads, KernelsStayInTheirScratchInsideACallersRegion) {
  const Value x = input("x", DType::f32, {3, 8, 8, 16}), weight = parameter("w", DType::f32, {16, 16, 3, 3, 3});
  Case c{conv(x, weight, {{1, 1, 1}, {0, 1, 1}, {0, 1, 1}}, {}), {}};
  unsigned seed = 1;
  for (const Value& operand : c.result.node().inputs) c.operands.push_back(random_values(operand.type(), seed++));
  const Node& node = c.result.node();
  const auto kernel = cpu::make_winograd_conv(node, cpu_device(false, 1));
  const std::size_t size = kernel->scratch_bytes();
  const std::vector<std::byte> given = to_bytes(c.operands[0], DType::f32), weights = to_bytes(c.operands[1], DType::f32);
  BytesBuffer operand(given.size()), packed(kernel->packed_bytes(1, weight.type()));
  std::memcpy(operand.data, given.data(), given.size());
  kernel->pack_weight(1, weight.type(), DenseWeight(DType::f32, weight.shape(), weights.data()),
                      static_cast<std::byte*>(packed.data));
  constexpr int kThreads = 4;
  int beyond = 0;
#pragma omp parallel num_threads(kThreads) reduction(+ : beyond)
  {
    BytesBuffer result(node.types[0].size_bytes()), scratch(kThreads * size);
    InOrderStream stream;
    const Slot inputs[] = {{&operand, 0}, {&packed, 0}}, output{&result, 0};
    kernel->run(stream, inputs, {&output, 1}, {&scratch, 0});
    const auto* bytes = static_cast<const std::byte*>(scratch.data);
    for (std::size_t i = size; i < kThreads * size; ++i) beyond += bytes[i] != std::byte{};
  }
  EXPECT_EQ(beyond, 0);
}

// oneDNN does a share of a product for each thread that was there when it was made, and notices none that is missing.
TEST(CpuThreads, NoShareOfAProductIsMissingWhateverTeamsAreAllowed) {
  const Value x = input("x", DType::f32, {1, 96, 256});
  Case c{linear(x, parameter("w", DType::f32, {192, 256})), {}};
  unsigned seed = 1;
  for (const Value& operand : c.result.node().inputs) c.operands.push_back(random_values(operand.type(), seed++));
  const auto make = [&] { return cpu::make_kernel(c.result.node(), cpu_device(false, 3)); };
  const std::vector<double> expected = run_kernel(*make(), c);
  ASSERT_TRUE(std::ranges::all_of(expected, [](double value) { return std::isfinite(value); }));
  std::vector<double> nested[2];
#pragma omp parallel num_threads(2)
  nested[omp_get_thread_num()] = run_kernel(*make(), c);
  for (const std::vector<double>& each : nested) EXPECT_TRUE(same_sums(each, expected)) << "in a region of the caller's";
  const int levels = omp_get_max_active_levels();
  omp_set_max_active_levels(0);
  EXPECT_TRUE(same_sums(run_kernel(*make(), c), expected)) << "no team is allowed";
  omp_set_max_active_levels(levels);
  omp_set_dynamic(1);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(same_sums(run_kernel(*make(), c), expected)) << "teams as the load allows";
  omp_set_dynamic(0);
}

}  // namespace
}  // namespace zoe::testing
