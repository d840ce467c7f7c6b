// Blocks of weights that come and go: where they lie, in which order copies and kernels run, and what is packed again.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>
#include <set>
#include <thread>

#include "base/error.h"
#include "compiler/run.h"
#include "ir/trace.h"
#include "platform/implementation.h"

namespace zoe {
namespace {

// All that a device would do, in the order in which it is given, and which of it may run before which: streams run side by side but
// where they wait for events. An access of memory that another one could meet is a race.
class Device {
 public:
  int make_stream() { return streams_++; }
  std::map<int, int> event(int stream) { return clocks_[stream]; }
  void wait(int stream, const std::map<int, int>& event) { join(clocks_[stream], event); }
  void host_waits(const std::map<int, int>& event) { join(host_, event); }
  void access(int stream, const std::byte* begin, std::size_t size, bool writes) {
    join(clocks_[stream], host_);  // what the host has seen the end of was before
    const int position = ++clocks_[stream][stream];
    for (const Access& before : accesses_) {
      if (before.begin + before.size <= begin || begin + size <= before.begin || !(writes || before.writes)) continue;
      if (clocks_[stream][before.stream] < before.position) ++races;
    }
    accesses_.push_back({stream, position, begin, size, writes});
  }
  int races = 0;

 private:
  static void join(std::map<int, int>& clock, const std::map<int, int>& with) {
    for (const auto& [stream, position] : with) clock[stream] = std::max(clock[stream], position);
  }
  struct Access {
    int stream, position;
    const std::byte* begin;
    std::size_t size;
    bool writes;
  };
  int streams_ = 0;
  std::map<int, std::map<int, int>> clocks_;
  std::map<int, int> host_;
  std::vector<Access> accesses_;
};

struct Bytes : Buffer {
  explicit Bytes(std::size_t size) : storage(size, std::byte{0x55}) {
    data = storage.data();
    size_bytes = size;
  }
  std::vector<std::byte> storage;
};

struct ClockEvent : Event {
  ClockEvent(Device& on, int stream) : device(on), clock(on.event(stream)) {}
  bool reached() override { return true; }
  void wait() override { device.host_waits(clock); }
  double seconds_since(Event&) override { return 0; }
  Device& device;
  const std::map<int, int> clock;
};

struct Kernels : CapturedGraph {
  std::vector<std::function<void()>> all;
};

struct DeviceStream : Stream {
  explicit DeviceStream(Device& on) : device(on), number(on.make_stream()) {}
  void synchronize() override { device.host_waits(device.event(number)); }
  std::unique_ptr<Event> record_event() override { return std::make_unique<ClockEvent>(device, number); }
  void wait_for(Event& event) override { device.wait(number, static_cast<ClockEvent&>(event).clock); }
  bool can_capture() const override { return true; }
  void capture_begin() override { capturing = std::make_unique<Kernels>(); }
  std::unique_ptr<CapturedGraph> capture_end(std::string*) override { return std::move(capturing); }
  void launch(const CapturedGraph& kept) override {
    for (const auto& kernel : static_cast<const Kernels&>(kept).all) kernel();
  }
  void give(std::function<void()> kernel) {
    if (capturing) capturing->all.push_back(std::move(kernel));
    else kernel();
  }
  Device& device;
  const int number;
  std::unique_ptr<Kernels> capturing;
};

// Reads its weights, and keeps the first number of each.
struct ReadingKernel : Kernel {
  explicit ReadingKernel(std::vector<std::pair<const void*, float>>& read) : seen(read) {}
  std::string_view implementation() const override { return "reads"; }
  std::string weight_layout(int) const override { return "dense f32"; }
  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot>, Slot) const override {
    auto& on = static_cast<DeviceStream&>(stream);
    if (inputs.size() < 2) return;
    on.give([this, &on, at = inputs[1].data()] {
      float first;
      std::memcpy(&first, at, sizeof first);
      seen.emplace_back(at, first);
      on.device.access(on.number, at, 256, false);
    });
  }
  std::vector<std::pair<const void*, float>>& seen;
};

class DevicePlatform : public Platform {
 public:
  const DeviceInfo& info() const override { return info_; }
  std::uint64_t free_bytes() const override { return 1 << 30; }
  std::shared_ptr<Buffer> allocate(std::size_t size, std::string_view) override { return std::make_shared<Bytes>(size); }
  std::unique_ptr<Stream> make_stream() override { return std::make_unique<DeviceStream>(device); }
  void upload(Stream& stream, const void* host, Slot to, std::size_t size) override {
    auto& on = static_cast<DeviceStream&>(stream);
    check(copies++ != fail_at, ErrorKind::device, "test", "a copy is refused.");
    std::memcpy(to.data(), host, size);
    on.device.access(on.number, to.data(), size, true);
  }
  void pull(Stream& stream, Slot to, Platform&, Slot from, std::size_t size) override {
    auto& on = static_cast<DeviceStream&>(stream);
    check(copies++ != fail_at, ErrorKind::device, "test", "a copy is refused.");
    std::memcpy(to.data(), from.data(), size);
    on.device.access(on.number, to.data(), size, true);
    ++pulls;
  }
  void download(Stream&, Slot from, void* host, std::size_t size) override { std::memcpy(host, from.data(), size); }
  std::span<const Implementation> implementations() const override { return table_; }

  Device device;
  std::vector<std::pair<const void*, float>> read;  // by kernels, in their order
  std::size_t copies = 0, pulls = 0, fail_at = ~std::size_t{0};

 private:
  DeviceInfo info_{.platform = "test",
                   .name = "test",
                   .features = "",
                   .memory_bytes = 1 << 30,
                   .host_addressable = false,
                   .copies_beside = true};
  std::vector<Implementation> table_ = {
      {.name = "reads",
       .of = [](Opcode) { return true; },
       .make = [this](const Node&, Making&) -> std::unique_ptr<Kernel> { return std::make_unique<ReadingKernel>(read); }}};
};

// A weight of 8x8 that says how often it was read.
struct CountedWeight : DenseWeight {
  CountedWeight(const std::vector<float>& values, int& count)
      : DenseWeight(DType::f32, {8, 8}, reinterpret_cast<const std::byte*>(values.data())), reads(count) {}
  const std::byte* dense(DType) const override { return nullptr; }
  void read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const override {
    ++reads;
    DenseWeight::read(begin, count, dtype, out);
  }
  int& reads;
};

class BlockStreams : public ::testing::TestWithParam<int> {
 protected:
  void make(int blocks) {
    const Value x = input("x", DType::f32, {8, 8});
    Value y = linear(x, parameter("w0", DType::f32, {8, 8}, 0));
    for (int block = 1; block <= blocks; ++block) y = linear(y, parameter(fmt::format("w{}", block), DType::f32, {8, 8}, block));
    plan = compile(make_graph("blocks", {x}, {y}), platform);
    for (int block = 0; block <= blocks; ++block)
      values[fmt::format("w{}", block)] = std::vector<float>(64, static_cast<float>(block));
    const Plan* const only = &plan;
    workspace = make_workspace(platform, {&only, 1});
    inputs = {make_tensor(platform, x.type(), "in")};
    outputs = {make_tensor(platform, x.type(), "out")};
  }
  // The addresses and numbers that the kernels found.
  std::vector<std::pair<const void*, float>> run_once() {
    platform.read.clear();
    run(plan, *stream, store, inputs, outputs, workspace, {.captured_graphs = &captured_graphs, .wait = false});
    return platform.read;
  }
  // Runs do not wait, and what they read must live until they have.
  void clear() {
    stream->synchronize();
    store.clear();
  }
  int reads() const {
    return std::accumulate(counts.begin(), counts.end(), 0, [](int sum, const auto& each) { return sum + each.second; });
  }

  DevicePlatform platform;
  std::unique_ptr<Stream> stream = platform.make_stream();
  std::map<std::string, std::vector<float>> values;
  std::map<std::string, int> counts;
  WeightStore store{platform, [this](const std::string& name) -> WeightPtr {
                      return std::make_shared<CountedWeight>(values.at(name), counts[name]);
                    }};
  Plan plan;
  Tensor workspace;
  std::vector<Tensor> inputs, outputs;
  CapturedGraphs captured_graphs;
};

INSTANTIATE_TEST_SUITE_P(Counts, BlockStreams, ::testing::Values(3, 4, 5, 12));

TEST_P(BlockStreams, KernelsFindTheirWeightsAtTheSamePlacesAndNothingRaces) {
  make(GetParam());
  store.stream({&plan}, {.host_bytes = 1 << 20});
  const auto first = run_once();
  ASSERT_EQ(first.size(), plan.steps.size());
  for (std::size_t i = 0; i < first.size(); ++i) EXPECT_EQ(first[i].second, static_cast<float>(i));
  std::set<const void*> places;
  for (const auto& [place, number] : first) places.insert(place);
  EXPECT_EQ(places.size(), 3u);  // of block 0, and two that blocks take in turns
  for (int time = 0; time < 3; ++time) EXPECT_EQ(run_once(), first);
  EXPECT_EQ(platform.device.races, 0);
  // Captured once, in the second run: what was captured stays good.
  EXPECT_EQ(captured_graphs.captured(), plan.steps.size());
  EXPECT_EQ(captured_graphs.launched(), 3 * plan.steps.size());
  EXPECT_EQ(store.size_bytes(), 3u * 256);
}

TEST_P(BlockStreams, WhatIsKeptPackedIsReadOnce) {
  const int blocks = GetParam();
  make(blocks);
  store.stream({&plan}, {.host_bytes = 1 << 20});
  for (int time = 0; time < 4; ++time) run_once();
  EXPECT_EQ(reads(), blocks + 1);
  EXPECT_EQ(store.host_bytes(), static_cast<std::size_t>(blocks) * 256);
  // Where two of them fit, only these.
  for (auto& [name, count] : counts) count = 0;
  clear();
  store.stream({&plan}, {.host_bytes = 2 * 256});
  const auto found = run_once();
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_EQ(found[i].second, static_cast<float>(i));
  for (int time = 0; time < 3; ++time) EXPECT_EQ(run_once(), found);
  EXPECT_EQ(counts.at("w0"), 1);
  EXPECT_EQ(counts.at("w1"), 1);
  EXPECT_EQ(counts.at("w2"), 1);
  EXPECT_GE(counts.at("w3"), 2);
  EXPECT_EQ(platform.device.races, 0);
  EXPECT_LE(store.host_bytes(), 4u * 256);  // and two on their way
}

TEST_P(BlockStreams, AfterAnErrorTheNextRunIsAsEver) {
  make(GetParam());
  for (std::size_t fail = 0; fail < 8; ++fail) {
    clear();
    store.stream({&plan}, {.host_bytes = 1 << 20});
    platform.copies = 0;
    platform.fail_at = fail;
    bool failed = false;
    for (int time = 0; time < 4; ++time) {
      try {
        const auto found = run_once();
        for (std::size_t i = 0; i < found.size(); ++i) ASSERT_EQ(found[i].second, static_cast<float>(i)) << fail;
      } catch (const Error&) {
        failed = true;
      }
    }
    EXPECT_TRUE(failed) << fail;
  }
  EXPECT_EQ(platform.device.races, 0);
}

TEST_P(BlockStreams, WeightsThatChangedArePackedAgain) {
  make(GetParam());
  store.stream({&plan}, {.host_bytes = 1 << 20});
  run_once();
  values.at("w2") = std::vector<float>(64, 100);
  store.forget(std::set<std::string, std::less<>>{"w2"});
  const auto found = run_once();
  EXPECT_EQ(found[1].second, 1.0f);
  EXPECT_EQ(found[2].second, 100.0f);
  EXPECT_EQ(platform.device.races, 0);
}

TEST_P(BlockStreams, WhatIsPreparedIsOnlyCopiedWhenItIsLoaded) {
  const int blocks = GetParam();
  make(blocks);
  const Plan* const only = &plan;
  const std::size_t all = static_cast<std::size_t>(blocks + 1) * 256;
  const auto none = [](const std::string&) { return false; };
  EXPECT_EQ(store.bytes_to_make({&only, 1}, none), all);
  store.prepare_load({&only, 1}, 1 << 20);
  EXPECT_EQ(reads(), blocks + 1);
  EXPECT_EQ(store.host_bytes(), all);
  store.load(plan);
  EXPECT_EQ(reads(), blocks + 1);
  EXPECT_EQ(store.host_bytes(), all) << "for the next time, until clear_host()";
  const auto found = run_once();
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_EQ(found[i].second, static_cast<float>(i));
  // No more than there is room for; the rest is read when it is loaded.
  clear();
  for (auto& [name, count] : counts) count = 0;
  store.prepare_load({&only, 1}, 3 * 256);
  EXPECT_EQ(store.host_bytes(), 3u * 256);
  EXPECT_EQ(reads(), 3);
  store.load(plan);
  EXPECT_EQ(reads(), blocks + 1);
  EXPECT_EQ(run_once().back().second, static_cast<float>(blocks));
  // What has changed meanwhile is made again.
  clear();
  store.prepare_load({&only, 1}, 1 << 20);
  values.at("w2") = std::vector<float>(64, 100);
  store.forget(std::set<std::string, std::less<>>{"w2"});
  store.load(plan);
  EXPECT_EQ(run_once()[2].second, 100.0f);
}

// As a file has them that is stored in what the plan computes in.
TEST_P(BlockStreams, WhatLiesReadyIsNotCopiedBeforeItIsLoaded) {
  make(GetParam());
  WeightStore stored(platform, [this](const std::string& name) -> WeightPtr {
    return dense_weight(DType::f32, Shape{8, 8}, values.at(name).data());
  });
  const Plan* const only = &plan;
  EXPECT_EQ(stored.bytes_to_make({&only, 1}, [](const std::string&) { return false; }), 0u);
  EXPECT_EQ(stored.bytes_to_make({&only, 1}, [](const std::string& name) { return name == "w1"; }), 256u);
  stored.prepare_load({&only, 1}, 1 << 20);
  EXPECT_EQ(stored.host_bytes(), 0u);
}

TEST_P(BlockStreams, WhatIsPreparedIsOnlyCopiedWhenItIsStreamed) {
  const int blocks = GetParam();
  make(blocks);
  const Plan* const only = &plan;
  store.prepare_stream({&only, 1}, 1 << 20);
  EXPECT_EQ(store.host_bytes(), static_cast<std::size_t>(blocks + 1) * 256);
  store.stream({&plan}, {.host_bytes = 1 << 20});
  EXPECT_EQ(run_once().back().second, static_cast<float>(blocks));
  EXPECT_EQ(reads(), blocks + 1);  // what stays, too
  // No more than there is room for.
  clear();
  store.prepare_stream({&only, 1}, 3 * 256);
  EXPECT_EQ(store.host_bytes(), 3u * 256);
}

TEST_P(BlockStreams, WhatIsKeptPackedForOtherPlansMakesRoom) {
  const auto blocks = static_cast<std::size_t>(GetParam());
  make(GetParam());
  const Plan before = std::move(plan);
  const Plan* const of_before = &before;
  store.prepare_stream({&of_before, 1}, 1 << 20);
  make(GetParam());
  for (PlanWeight& weight : plan.weights) weight.layout += ", another";
  const Plan* const only = &plan;
  // As much as is needed, and no more.
  store.prepare_stream({&only, 1}, (blocks + 1 + 2) * 256);
  EXPECT_EQ(store.host_bytes(), (blocks + 1 + 2) * 256);
  const int first_reads = reads();
  store.stream({&plan}, {.host_bytes = (blocks + 1 + 2) * 256});
  EXPECT_EQ(run_once().back().second, static_cast<float>(blocks));
  EXPECT_EQ(reads(), first_reads) << "what the plan has stayed";
  // A stream's blocks, too.
  clear();
  store.prepare_stream({&of_before, 1}, (blocks + 1) * 256);
  store.stream({&plan}, {.host_bytes = (blocks + 1) * 256});
  run_once();
  for (auto& [name, count] : counts) count = 0;
  run_once();
  EXPECT_EQ(reads(), 0);
  EXPECT_EQ(platform.device.races, 0);
}

TEST_P(BlockStreams, WithoutANextRunTheFirstBlockComesOnce) {
  make(GetParam());
  store.stream({&plan}, {.goes_round = false});
  const auto first = run_once();
  for (const auto& [name, count] : counts) EXPECT_EQ(count, 1) << name;
  EXPECT_EQ(run_once(), first);
  for (const auto& [name, count] : counts) EXPECT_LE(count, 2) << name;
  EXPECT_EQ(platform.device.races, 0);
}

// Two devices with the same weights, each with room for half of the blocks.
class TwoDevices : public ::testing::Test {
 protected:
  static constexpr int kBlocks = 12;
  struct Side {
    explicit Side(TwoDevices& of, std::size_t number)
        : store(platform, [&of](const std::string& name) -> WeightPtr {
            const std::lock_guard lock(of.mutex);
            return std::make_shared<DenseWeight>(DType::f32, Shape{8, 8},
                                                 reinterpret_cast<const std::byte*>(of.values.at(name).data()));
          }) {
      const Value x = input("x", DType::f32, {8, 8});
      Value y = linear(x, parameter("w0", DType::f32, {8, 8}, 0));
      for (int block = 1; block <= kBlocks; ++block) y = linear(y, parameter(fmt::format("w{}", block), DType::f32, {8, 8}, block));
      plan = compile(make_graph("blocks", {x}, {y}), platform);
      const Plan* const only = &plan;
      workspace = make_workspace(platform, {&only, 1});
      inputs = {make_tensor(platform, x.type(), "in")}, outputs = {make_tensor(platform, x.type(), "out")};
      how = {.device_bytes = (1 + kBlocks / 2 + 2) * 256, .host_bytes = 1 << 20, .member = {number, 2}};
      store.share(of.shared);
      store.stream({&plan}, how);
    }
    ~Side() {
      try {
        stream->synchronize();
      } catch (const Error&) {
      }
    }
    // Whether every kernel found its block's numbers.
    void run_once(const TwoDevices& of) {
      platform.read.clear();
      run(plan, *stream, store, inputs, outputs, workspace, {.wait = false});
      ASSERT_EQ(platform.read.size(), plan.steps.size());
      for (std::size_t i = 0; i < platform.read.size(); ++i)
        EXPECT_EQ(platform.read[i].second, of.values.at(fmt::format("w{}", i))[0]);
    }
    // Uploads of its next run.
    std::size_t uploads(const TwoDevices& of) {
      const std::size_t before = platform.copies - platform.pulls;
      run_once(of);
      return platform.copies - platform.pulls - before;
    }
    DevicePlatform platform;
    std::unique_ptr<Stream> stream = platform.make_stream();
    WeightStore store;
    Plan plan;
    Tensor workspace;
    std::vector<Tensor> inputs, outputs;
    Streaming how;
  };

  TwoDevices() {
    for (int block = 0; block <= kBlocks; ++block)
      values[fmt::format("w{}", block)] = std::vector<float>(64, static_cast<float>(block));
  }
  std::mutex mutex;
  std::map<std::string, std::vector<float>> values;
  std::shared_ptr<SharedBlocks> shared = std::make_shared<SharedBlocks>();
};

TEST_F(TwoDevices, TakeFromEachOtherWhatStaysThere) {
  Side first(*this, 0), second(*this, 1);
  EXPECT_EQ(first.uploads(*this), kBlocks + 2u)
      << "the other has nothing yet; what stays, the others, and the first of the next run";
  EXPECT_EQ(second.uploads(*this), kBlocks / 2 + 1u) << "what stays";
  for (int time = 0; time < 3; ++time) {
    EXPECT_EQ(first.uploads(*this), 0u);
    EXPECT_EQ(second.uploads(*this), 0u);
  }
  EXPECT_EQ(second.store.host_bytes(), 0u);
  EXPECT_EQ(first.platform.device.races + second.platform.device.races, 0);
}

TEST_F(TwoDevices, DoWithoutTheOtherWhereItsBlocksAreGone) {
  Side first(*this, 0);
  {
    Side second(*this, 1);
    first.run_once(*this), second.run_once(*this);
    EXPECT_EQ(first.uploads(*this), 0u);
    // What waits to be copied of it holds its memory; it is free once that is over.
    const std::weak_ptr<Buffer> arena = shared->find("w1\tdense f32\n", first.platform)
                                            ? shared->find("w1\tdense f32\n", first.platform)->buffer
                                            : shared->find("w2\tdense f32\n", first.platform)->buffer;
    second.store.clear_device();
    EXPECT_FALSE(arena.expired());
    first.store.drain();
    EXPECT_TRUE(arena.expired());
  }
  EXPECT_EQ(first.uploads(*this), kBlocks / 2 + 0u);
  EXPECT_EQ(first.platform.device.races, 0);
}

TEST_F(TwoDevices, ForgetWhatChangedOnBoth) {
  Side first(*this, 0), second(*this, 1);
  for (int time = 0; time < 2; ++time) first.run_once(*this), second.run_once(*this);
  for (auto& [name, of] : values) of.assign(64, of[0] + 100);
  std::set<std::string, std::less<>> changed;
  for (const auto& [name, of] : values) changed.insert(name);
  for (Side* side : {&first, &second}) side->stream->synchronize(), side->store.forget(changed);
  for (int time = 0; time < 2; ++time) first.run_once(*this), second.run_once(*this);
  EXPECT_EQ(first.platform.device.races + second.platform.device.races, 0);
}

TEST_F(TwoDevices, RunAtOnceAndFailAlone) {
  for (std::size_t fail = 0; fail < 12; ++fail) {
    Side first(*this, 0), second(*this, 1);
    second.platform.copies = 0, second.platform.fail_at = fail;
    bool failed = false;
    std::thread other([&] {
      for (int time = 0; time < 4; ++time) {
        try {
          second.run_once(*this);
        } catch (const Error&) {
          failed = true;
        }
      }
    });
    for (int time = 0; time < 4; ++time) first.run_once(*this);
    other.join();
    EXPECT_TRUE(failed) << fail;
  }
}

TEST(BlockLayouts, AsManyBlocksStayAsThereIsRoomFor) {
  const auto null = open_platform("null");
  const Value x = input("x", DType::f32, {64, 64});
  Value y = linear(x, parameter("head", DType::f32, {64, 64}, 0));
  for (int block = 1; block <= 10; ++block) y = linear(y, parameter(fmt::format("w{}", block), DType::f32, {64, 64}, block));
  y = exp(y) + parameter("tail", DType::f32, {64}, 11);
  const Plan plan = compile(make_graph("blocks", {x}, {y}), *null);
  const Plan* const only = &plan;
  constexpr std::size_t kBlock = 64 * 64 * 4, kTail = 256;
  for (const std::size_t slots : {1, 2})
    for (std::size_t room = 0; room <= 12; ++room) {
      const ArenaLayout arena = lay_out_arena({&only, 1}, slots, kTail + room * kBlock);
      const PlanLayout& layout = arena.plans[0];
      EXPECT_LE(arena.size_bytes, kTail + std::max(room, slots + 1) * kBlock);
      EXPECT_LE(layout.coming.size(), room > slots + 3 && room < 10 ? 9u : 10u) << room;
      EXPECT_EQ(layout.coming.size() % slots, 0u);
      EXPECT_EQ(layout.slots[0], PlanLayout::kStays);
      EXPECT_EQ(layout.slots[11], PlanLayout::kStays) << "a small block stays";
      // No two weights that are there at a time lie in one place.
      std::map<std::size_t, std::size_t> taken;
      for (std::size_t s = 0; s < layout.blocks.size(); ++s)
        if (layout.slots[s] == PlanLayout::kStays) taken[layout.offsets[s]] = layout.blocks[s].size_bytes;
      for (const int s : layout.coming) {
        const auto block = static_cast<std::size_t>(s);
        taken[layout.offsets[block]] = layout.blocks[block].size_bytes;
      }
      std::size_t end = 0;
      for (const auto& [offset, size] : taken) {
        EXPECT_GE(offset, end);
        end = offset + size;
      }
      EXPECT_LE(end, arena.size_bytes);
    }
}

TEST(BlockLayouts, DevicesWithTheSameWeightsKeepOtherBlocks) {
  const auto null = open_platform("null");
  for (const int blocks : {5, 12, 30, 40}) {
    const Value x = input("x", DType::f32, {64, 64});
    Value y = linear(x, parameter("head", DType::f32, {64, 64}, 0));
    for (int block = 1; block <= blocks; ++block) y = linear(y, parameter(fmt::format("w{}", block), DType::f32, {64, 64}, block));
    const Plan plan = compile(make_graph("blocks", {x}, {y}), *null);
    const Plan* const only = &plan;
    for (const std::size_t slots : {1, 2})
      for (const std::size_t devices : {2, 3, 4, 8})
        for (std::size_t room = slots + 2; room < static_cast<std::size_t>(blocks); ++room) {
          std::vector<int> keepers(static_cast<std::size_t>(blocks) + 1);
          std::set<std::size_t> sizes;
          std::size_t stay = 0;
          for (std::size_t member = 0; member < devices; ++member) {
            const ArenaLayout arena = lay_out_arena({&only, 1}, slots, (1 + room) * 64 * 64 * 4, {member, devices});
            sizes.insert(arena.size_bytes);
            stay = static_cast<std::size_t>(blocks) - arena.plans[0].coming.size();
            for (std::size_t s = 1; s <= static_cast<std::size_t>(blocks); ++s)
              keepers[s] += arena.plans[0].slots[s] == PlanLayout::kStays;
          }
          EXPECT_EQ(sizes.size(), 1u);
          const auto [fewest, most] = std::minmax_element(keepers.begin() + 1, keepers.end());
          const auto all = static_cast<std::size_t>(blocks);
          if (stay * devices <= all) {
            EXPECT_LE(*most, 1) << blocks << " " << devices << " " << stay;
          }
          if (stay >= (all + devices - 1) / devices) {
            EXPECT_GE(*fewest, 1) << blocks << " " << devices << " " << stay;
          }
        }
  }
}

TEST(BlockLayouts, PlansShareThePlacesOfBlocksAndNothingThatStays) {
  const auto null = open_platform("null");
  std::vector<Plan> plans;
  for (const std::int64_t width : {32, 64}) {
    const Value x = input("x", DType::f32, {width, width});
    Value y = linear(x, parameter("head", DType::f32, {width, width}, 0));
    for (int block = 1; block <= 6; ++block) y = linear(y, parameter(fmt::format("w{}", block), DType::f32, {width, width}, block));
    plans.push_back(compile(make_graph("blocks", {x}, {y}), *null));
  }
  const Plan* const both[] = {&plans[0], &plans[1]};
  const ArenaLayout arena = lay_out_arena(both, 2);
  EXPECT_EQ(arena.slot_bytes, 64u * 64 * 4);
  EXPECT_EQ(arena.size_bytes, 32u * 32 * 4 + 3 * 64 * 64 * 4);
  EXPECT_NE(arena.plans[0].offsets[0], arena.plans[1].offsets[0]);
  EXPECT_EQ(arena.plans[0].offsets[1], arena.plans[1].offsets[1]);
}

}  // namespace
}  // namespace zoe
