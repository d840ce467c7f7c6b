// Several devices of a vendor on the fake driver: what they exchange, by which calls, and that whatever call fails is one clear
// line, with no device that waits and nothing left behind.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "compiler/compile.h"
#include "compiler/run.h"
#include "cuda/fake.h"
#include "ir/trace.h"
#include "pipeline/device_threads.h"
#include "platform/group.h"
#include "testing/temporary_folder.h"

namespace zoe::testing {
namespace {

const cuda::Vendor* const kVendors[] = {&cuda::kCuda, &cuda::kMusa, &cuda::kRocm};
constexpr std::size_t kPiece = 6 * 4;

// Two products with an exchange between them, which are captured on one device and cannot be here.
Graph graph_of(std::int64_t devices) {
  const Value x = input("x", DType::f32, {devices, 6});
  return make_graph("group", {x}, {all_to_all(x * 2.0) * 0.5, all_gather(slice(x, 0, 0, 1), devices)});
}

// Each device hands its pieces to the others, straight and by a plan.
void use(const FakeVendor& fake, const std::string& devices, const std::filesystem::path& cache) {
  const auto first = open_platform(std::string(fake.vendor.platform) + ":" + devices, fake.options(cache));
  DeviceGroup* const group = first->group();
  if (!group) throw std::runtime_error("no group");
  const auto size = static_cast<std::int64_t>(group->size());
  std::vector<Plan> plans;
  for (Platform* const device : group->devices()) plans.push_back(compile(graph_of(size), *device));
  const auto exchange = group->among(0, static_cast<int>(size));
  // A device that fails lets go of nothing that others may still pull from, until all have ended.
  struct Held {
    std::vector<std::shared_ptr<Buffer>> buffers;
    std::vector<Tensor> inputs, outputs;
    Tensor workspace;
    std::unique_ptr<Stream> stream;
  };
  std::vector<Held> held(group->size());
  DeviceThreads threads(group->devices());
  threads.all(group->size(), [&](std::size_t rank) {
    Platform& device = *group->devices()[rank];
    Held& own = held[rank];
    own.stream = device.make_stream();
    Stream* const stream = own.stream.get();
    const std::size_t bytes = kPiece * group->size();
    for (const char* what : {"from", "to"}) own.buffers.push_back(device.allocate(bytes, what));
    const Buffer *const from = own.buffers[0].get(), *const to = own.buffers[1].get();
    std::vector<std::uint8_t> values(bytes);
    for (std::size_t i = 0; i < bytes; ++i) values[i] = static_cast<std::uint8_t>(50 * rank + i);
    device.upload(*stream, values.data(), {from, 0}, bytes);
    for (int again = 0; again < 2; ++again) exchange->run(rank, *stream, {from, 0}, kPiece, {to, 0}, kPiece);
    device.download(*stream, {to, 0}, values.data(), bytes);
    for (std::size_t i = 0; i < bytes; ++i)
      EXPECT_EQ(values[i], static_cast<std::uint8_t>(50 * (i / kPiece) + rank * kPiece + i % kPiece)) << "device " << rank;

    const Plan& plan = plans[rank];
    WeightStore weights(device, [](const std::string&) -> WeightPtr { throw std::runtime_error("no weights"); });
    for (const Value& value : plan.graph.inputs) own.inputs.push_back(make_tensor(device, value.type(), "input"));
    for (const Value& value : plan.graph.outputs) own.outputs.push_back(make_tensor(device, value.type(), "output"));
    const Plan* const one = &plan;
    own.workspace = make_workspace(device, {&one, 1});
    CapturedGraphs captured_graphs;
    for (int i = 0; i < 3; ++i)
      run(plan, *stream, weights, own.inputs, own.outputs, own.workspace, {.captured_graphs = &captured_graphs});
    EXPECT_EQ(captured_graphs.captured(), 0u);
  });
}

struct Outcome {
  std::string error;
  std::vector<std::string> notices;
};

Outcome outcome(const FakeVendor& fake, const std::string& orders, const std::string& devices, const std::filesystem::path& cache) {
  Outcome made;
  const LogScope log_scope([&](LogLevel level, std::string_view text) {
    if (level == LogLevel::notice) made.notices.emplace_back(text);
  });
  fake.order(orders.c_str());
  try {
    use(fake, devices, cache);
  } catch (const Error& error) {
    EXPECT_NE(error.kind(), ErrorKind::internal) << error.what();
    made.error = error.what();
  }
  EXPECT_STREQ(fake.problems(), "") << orders;
  EXPECT_STREQ(fake.alive(), "") << orders;
  return made;
}

TEST(CudaGroup, DevicesHandEachOtherPieces) {
  for (const cuda::Vendor* const vendor : kVendors) {
    const FakeVendor& fake = fake_of(*vendor);
    const TemporaryFolder cache;
    for (const auto& [count, devices] : {std::pair{"2", "0,1"}, {"3", "0,2,1"}, {"4", "all"}, {"8", "all"}}) {
      const Outcome made = outcome(fake, std::string("devices ") + count, devices, cache.path());
      EXPECT_EQ(made.error, "") << vendor->platform << devices;
      EXPECT_TRUE(made.notices.empty()) << made.notices[0];
      const std::string log = fake.log();
      EXPECT_NE(log.find("can_reach 0 1"), std::string::npos) << log;
      EXPECT_NE(log.find("pool_share 1"), std::string::npos) << log;
    }
  }
}

TEST(CudaGroup, PiecesGoThroughTheHostWhereThereIsNoLink) {
  const FakeVendor& fake = fake_of(cuda::kCuda);
  const TemporaryFolder cache;
  const Outcome made = outcome(fake, "devices 2;linked 0", "0,1", cache.path());
  EXPECT_EQ(made.error, "");
  ASSERT_EQ(made.notices.size(), 2u);
  EXPECT_NE(made.notices[0].find("does not reach the memory of cuda:"), std::string::npos) << made.notices[0];
  EXPECT_EQ(std::string(fake.log()).find("pool_share"), std::string::npos);
}

TEST(CudaGroup, AreListedWithTheirLinks) {
  const FakeVendor& fake = fake_of(cuda::kCuda);
  const TemporaryFolder cache;
  fake.order("devices 3");
  for (const PlatformReport& report : list_platforms(fake.options(cache.path())))
    if (report.name == "cuda") {
      EXPECT_EQ(report.links, (std::vector<std::string>{"cuda:0 - cuda:1: peer copies", "cuda:0 - cuda:2: peer copies",
                                                        "cuda:1 - cuda:2: peer copies"}));
    }
  fake.order("");
  EXPECT_FALSE(open_platform("cuda:all", fake.options(cache.path()))->group());
}

TEST(CudaGroup, OfADeviceThatIsNotThere) {
  const FakeVendor& fake = fake_of(cuda::kCuda);
  const TemporaryFolder cache;
  EXPECT_EQ(outcome(fake, "devices 2", "0,2", cache.path()).error, "[cuda] no device 2: got 2, expected 0 to 1.");
}

// Every tenth call of any kind, as a call that fails, as no memory, and as a device that is lost.
TEST(CudaGroup, WhateverFailsIsOneLineAndNobodyWaits) {
  const FakeVendor& fake = fake_of(cuda::kCuda);
  const TemporaryFolder cache;
  ASSERT_EQ(outcome(fake, "devices 3", "0,1,2", cache.path()).error, "");
  int failed = 0;
  for (const int status : {1, 2, 719})
    for (int nth = 1; nth < 400; nth += 10) {
      const Outcome made =
          outcome(fake, "devices 3;fail any " + std::to_string(nth) + " " + std::to_string(status), "0,1,2", cache.path());
      if (made.error.empty()) continue;
      ++failed;
      EXPECT_EQ(made.error.find("[cuda] "), 0u) << made.error;
      EXPECT_EQ(made.error.find('\n'), std::string::npos) << made.error;
      EXPECT_EQ(made.error.find("one of its group has failed"), std::string::npos) << made.error;
    }
  EXPECT_GT(failed, 60);
}

}  // namespace
}  // namespace zoe::testing
