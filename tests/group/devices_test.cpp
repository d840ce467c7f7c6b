// Groups of devices: how they are named, what they exchange, and what becomes of the others when one fails.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "base/error.h"
#include "ir/trace.h"
#include "pipeline/device_threads.h"
#include "platform/group.h"
#include "platform/tensor.h"

namespace zoe {
namespace {

using namespace std::chrono_literals;

std::string error_of(const std::function<void()>& act, ErrorKind kind = ErrorKind::invalid_argument) {
  try {
    act();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  return "none";
}

TEST(Groups, AreNamedByTheirDevices) {
  const auto group = open_platform("cpu:0,1,2", {.threads = 6});
  ASSERT_TRUE(group->group());
  EXPECT_EQ(group->group()->size(), 3u);
  for (int rank = 0; rank < 3; ++rank) {
    Platform& device = *group->group()->devices()[static_cast<std::size_t>(rank)];
    EXPECT_EQ(device.rank(), rank);
    EXPECT_EQ(device.group(), group->group());
    EXPECT_EQ(device.info().threads, std::min(2, omp_get_thread_limit()));
  }
  EXPECT_FALSE(open_platform("cpu:0")->group());
  EXPECT_EQ(error_of([] { open_platform("cpu:0,0"); }), "[platform] device 0 is named twice: got cpu:0,0, expected each once.");
  for (const char* bad : {"cpu:", "cpu:1", "cpu:0,2", "cpu:0,", "cpu:a", "cuda:0,x", "cuda:0,0", "cuda:,"})
    EXPECT_NE(error_of([&] { open_platform(bad); }).find("expected "), std::string::npos) << bad;
}

struct Members {
  explicit Members(const std::string& name)
      : first(open_platform(name, {.threads = 1})), devices(first->group()->devices()), threads(devices) {}
  std::unique_ptr<Platform> first;
  std::span<Platform* const> devices;
  DeviceThreads threads;
};

// Piece i of a member holds 10 * member + i.
void exchange_once(Members& of, Exchange& exchange, std::size_t first, std::size_t count, bool gathers) {
  of.threads.all(of.devices.size(), [&](std::size_t rank) {
    if (rank < first || rank >= first + count) return;
    const std::size_t member = rank - first;
    Platform& device = *of.devices[rank];
    const auto stream = device.make_stream();
    constexpr std::size_t kPiece = 3;
    const auto from = device.allocate(kPiece * count, "from"), to = device.allocate(kPiece * count, "to");
    for (int again = 0; again < 3; ++again) {
      for (std::size_t i = 0; i < count; ++i)
        std::memset(static_cast<std::byte*>(from->data) + i * kPiece, static_cast<int>(100 * again % 200 + 10 * member + i),
                    kPiece);
      exchange.run(member, *stream, {from.get(), 0}, gathers ? 0 : kPiece, {to.get(), 0}, kPiece);
      for (std::size_t i = 0; i < count; ++i)
        for (std::size_t b = 0; b < kPiece; ++b)
          EXPECT_EQ(static_cast<int>(static_cast<const std::byte*>(to->data)[i * kPiece + b]),
                    static_cast<int>(100 * again % 200 + 10 * i + (gathers ? 0 : member)));
    }
  });
}

TEST(Groups, ExchangePieces) {
  for (const std::string name : {"cpu:0,1", "cpu:0,1,2", "cpu:0,1,2,3", "cpu:0,1,2,3,4,5,6,7"}) {
    Members of(name);
    const auto size = of.devices.size();
    for (const bool gathers : {false, true}) {
      exchange_once(of, *of.first->group()->among(0, static_cast<int>(size)), 0, size, gathers);
      if (size % 2 != 0 || size == 2) continue;
      EXPECT_EQ(of.first->group()->among(0, 2), of.first->group()->among(1, 2));
      exchange_once(of, *of.first->group()->among(2, 2), 2, 2, gathers);
    }
  }
}

TEST(Groups, LetTheOthersGoWhenOneFails) {
  Members of("cpu:0,1,2,3");
  const auto exchange = of.first->group()->among(0, 4);
  std::atomic<int> let_go = 0;
  const auto fails = [&](std::size_t bad) {
    of.threads.all(4, [&](std::size_t rank) {
      if (rank == bad) fail(ErrorKind::out_of_memory, "test", "device {} has no room.", rank);
      Platform& device = *of.devices[rank];
      const auto stream = device.make_stream();
      const auto from = device.allocate(64, "from"), to = device.allocate(64, "to");
      try {
        exchange->run(rank, *stream, {from.get(), 0}, 16, {to.get(), 0}, 16);
      } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("waits for no other: one of its group has failed"), std::string::npos);
        ++let_go;
        throw;
      }
    });
  };
  for (const std::size_t bad : {0u, 3u, 2u}) {
    let_go = 0;
    EXPECT_EQ(error_of([&] { fails(bad); }, ErrorKind::out_of_memory), "[test] device " + std::to_string(bad) + " has no room.");
    EXPECT_EQ(let_go, 3);
    exchange_once(of, *exchange, 0, 4, false);  // as good as before
  }
}

TEST(Groups, NameTheDeviceThatDoesNotCome) {
  Members of("cpu:0,1,2");
  Exchange exchange(of.devices, 50ms);
  const std::string error = error_of(
      [&] {
        of.threads.all(3, [&](std::size_t rank) {
          if (rank == 1) return;
          Platform& device = *of.devices[rank];
          const auto stream = device.make_stream();
          const auto from = device.allocate(64, "from"), to = device.allocate(64, "to");
          exchange.run(rank, *stream, {from.get(), 0}, 16, {to.get(), 0}, 16);
        });
      },
      ErrorKind::device);
  EXPECT_EQ(error.find("[cpu] device 1 did not come to an exchange within 0.05 s, device "), 0u) << error;
}

TEST(Groups, KernelsOfExchangesNeedOne) {
  const Value x = input("x", DType::f32, {3, 4});
  const Value exchanged = all_to_all(x);
  const auto alone = open_platform("cpu", {.threads = 1}), two = open_platform("cpu:0,1", {.threads = 1});
  EXPECT_EQ(error_of([&] { alone->make_kernel(exchanged.node()); }, ErrorKind::unsupported),
            "[cpu] an exchange of 3 devices: got 1, expected a group of them.");
  EXPECT_EQ(error_of([&] { two->make_kernel(exchanged.node()); }, ErrorKind::unsupported),
            "[cpu] an exchange of 3 devices: got 2, expected a group of them.");
  EXPECT_EQ(all_to_all(input("y", DType::f32, {1, 4})).node().opcode, Opcode::input);  // of one device
  EXPECT_EQ(all_gather(x, 1).node().opcode, Opcode::reshape);
}

}  // namespace
}  // namespace zoe
