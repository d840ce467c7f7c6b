// How plans are queued: captured_graphs, events and cancelling, on a platform that writes down what its streams are given.
#include "compiler/run.h"
#include "platform/implementation.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <new>
#include <numeric>
#include <thread>

#include "base/error.h"
#include "ir/trace.h"

namespace zoe {
namespace {

using Lines = std::vector<std::string>;

struct LogGraph : CapturedGraph {
  Lines kernels;
};

struct LogStream : Stream {
  Lines queued;  // kernels, whether queued one by one or launched
  Lines calls;   // what the stream was asked for
  bool capturing = false;
  bool captures = true;  // whether it can
  std::string refuse;    // if not empty, capture_end gives this reason
  std::size_t events = 0, waits = 0;
  int good_kernels = 1 << 30;  // the next one fails
  bool out_of_memory = false;  // for want of memory of the host
  std::function<void()> on_launch = [] {};
  std::unique_ptr<LogGraph> current;

  void kernel(std::string line) {
    if (capturing) current->kernels.push_back(std::move(line));
    else queued.push_back(std::move(line));
  }
  void synchronize() override { calls.push_back("synchronize"); }
  bool can_capture() const override { return captures; }
  void capture_begin() override {
    calls.push_back("capture");
    current = std::make_unique<LogGraph>();
    capturing = true;
  }
  std::unique_ptr<CapturedGraph> capture_end(std::string* why) override {
    capturing = false;
    *why = refuse;
    if (!refuse.empty()) return nullptr;
    return std::move(current);
  }
  void launch(const CapturedGraph& given) override {
    calls.push_back("launch");
    const auto& log = static_cast<const LogGraph&>(given);
    queued.insert(queued.end(), log.kernels.begin(), log.kernels.end());
    on_launch();
  }
  struct LogEvent : Event {
    explicit LogEvent(LogStream& stream) : stream_(stream), time_(static_cast<double>(++stream.events + stream.queued.size())) {}
    bool reached() override { return true; }
    void wait() override { ++stream_.waits; }
    // An event takes a second and so does a kernel.
    double seconds_since(Event& earlier) override { return time_ - static_cast<LogEvent&>(earlier).time_; }
    LogStream& stream_;
    double time_;
  };
  std::unique_ptr<Event> record_event() override { return std::make_unique<LogEvent>(*this); }
  // Nothing is done until that time.
  void wait_for(Event& event) override {
    event.wait();
    const double now = static_cast<double>(events + queued.size()), then = static_cast<LogEvent&>(event).time_;
    if (then > now) events += static_cast<std::size_t>(then - now);
  }
};

struct LogBuffer : Buffer {
  explicit LogBuffer(std::size_t size) : bytes(size) { data = bytes.data(), size_bytes = size; }
  std::vector<std::byte> bytes;
};

struct LogKernel : Kernel {
  LogKernel(const bool& fails_, std::string layout_) : fails(fails_), layout(std::move(layout_)) {}
  std::string weight_layout(int) const override { return layout; }
  std::string_view implementation() const override { return "log"; }
  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    auto& log = static_cast<LogStream&>(stream);
    check(!(fails && log.capturing), ErrorKind::device, "log", "not while capturing.");
    if (log.out_of_memory) throw std::bad_alloc();
    check(log.good_kernels-- > 0, ErrorKind::device, "log", "a kernel is refused.");
    std::string line;
    for (const std::span<const Slot> slots : {inputs, outputs})
      for (const Slot& slot : slots) line += fmt::format("{} ", static_cast<const void*>(slot.data()));
    log.kernel(std::move(line));
  }
  const bool& fails;
  const std::string layout;
};

// It is done four seconds after it was queued.
struct LogBesideKernel : LogKernel {
  using LogKernel::LogKernel;
  bool works_beside() const override { return true; }
  std::unique_ptr<Event> start(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs) const override {
    run(stream, inputs, outputs, {});
    auto done = std::make_unique<LogStream::LogEvent>(static_cast<LogStream&>(stream));
    done->time_ += 4;
    return done;
  }
};

struct LogPlatform : Platform {
  DeviceInfo device{.platform = "log", .name = "", .features = "", .memory_bytes = 1 << 30};
  bool kernels_fail = false;
  std::string layout = "dense";
  std::atomic<std::size_t> uploads{0}, streams{0};
  std::size_t good_uploads = ~std::size_t{0};  // the next one fails
  const DeviceInfo& info() const override { return device; }
  std::uint64_t free_bytes() const override { return 1 << 30; }
  std::shared_ptr<Buffer> allocate(std::size_t size, std::string_view) override { return std::make_shared<LogBuffer>(size); }
  std::unique_ptr<Stream> make_stream() override {
    ++streams;
    return std::make_unique<LogStream>();
  }
  void upload(Stream&, const void* host, Slot to, std::size_t size) override {
    check(++uploads <= good_uploads, ErrorKind::device, "log", "the device is gone.");
    std::memcpy(to.data(), host, size);
  }
  void download(Stream&, Slot from, void* host, std::size_t size) override { std::memcpy(host, from.data(), size); }
  std::span<const Implementation> implementations() const override { return table; }
  std::vector<Implementation> table = {{.name = "log",
                                        .of = [](Opcode) { return true; },
                                        .make = [this](const Node& node, Making&) -> std::unique_ptr<Kernel> {
                                          if (node.opcode == Opcode::neg)
                                            return std::make_unique<LogBesideKernel>(kernels_fail, layout);
                                          return std::make_unique<LogKernel>(kernels_fail, layout);
                                        }}};
};

// A plan of `blocks` blocks with two steps each.
class Runs : public ::testing::Test {
 protected:
  static constexpr std::size_t kBlocks = 12;

  void SetUp() override {
    const Value x = input("x", DType::f32, {8, 8});
    Value y = x;
    for (std::size_t block = 0; block < kBlocks; ++block)
      y = exp(linear(y, parameter(fmt::format("w{}", block), DType::f32, {8, 8}, static_cast<int>(block))));
    plan = compile(make_graph("blocks", {x}, {y}), platform);
    ASSERT_EQ(plan.steps.size(), 2 * kBlocks);
    store.load(plan);
    const Plan* const only = &plan;
    workspace = make_workspace(platform, {&only, 1});
    for (std::vector<Tensor>* tensors : {&inputs, &other_inputs, &outputs})
      tensors->push_back(make_tensor(platform, x.type(), "argument"));
  }

  // What the run queued.
  Lines queue(const std::vector<Tensor>& given, RunOptions options = {}) {
    stream.queued.clear();
    stream.calls.clear();
    options.captured_graphs = options.captured_graphs ? options.captured_graphs : &captured_graphs;
    run(plan, stream, store, given, outputs, workspace, options);
    return stream.queued;
  }
  std::size_t calls(std::string_view what) const {
    return static_cast<std::size_t>(std::count(stream.calls.begin(), stream.calls.end(), what));
  }

  LogPlatform platform;
  LogStream stream;
  const std::vector<float> weight = std::vector<float>(64, 0.5f);
  WeightStore store{platform, [this](const std::string&) {
                      return dense_weight(DType::f32, {8, 8}, reinterpret_cast<const std::byte*>(weight.data()));
                    }};
  Plan plan;
  Tensor workspace;
  std::vector<Tensor> inputs, other_inputs, outputs;
  CapturedGraphs captured_graphs;
};

TEST_F(Runs, TheFirstIsQueuedTheSecondCapturedLaterOnesLaunched) {
  const Lines first = queue(inputs);
  EXPECT_EQ(first.size(), 2 * kBlocks);
  EXPECT_EQ(calls("capture") + calls("launch"), 0u);
  EXPECT_EQ(queue(inputs), first);
  EXPECT_EQ(calls("capture"), kBlocks);
  EXPECT_EQ(calls("launch"), kBlocks);
  EXPECT_EQ(queue(inputs), first);
  EXPECT_EQ(calls("capture"), 0u);
  EXPECT_EQ(calls("launch"), kBlocks);
  EXPECT_EQ(captured_graphs.captured(), kBlocks);
  EXPECT_EQ(captured_graphs.launched(), 2 * kBlocks);
}

TEST_F(Runs, OtherArgumentsAreCapturedForThemselves) {
  const Lines first = queue(inputs), other = queue(other_inputs);
  EXPECT_NE(first, other);
  EXPECT_EQ(calls("capture"), kBlocks);
  EXPECT_EQ(queue(inputs), first);
  EXPECT_EQ(calls("capture"), kBlocks);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(queue(other_inputs), other);
    EXPECT_EQ(queue(inputs), first);
    EXPECT_EQ(calls("capture"), 0u);
  }
  EXPECT_EQ(captured_graphs.captured(), 2 * kBlocks);
}

TEST_F(Runs, WeightsThatMovedAreCapturedAgain) {
  queue(inputs);
  queue(inputs);
  std::vector<std::shared_ptr<Buffer>> in_the_way;  // so that the weight comes back elsewhere
  store.forget(std::set<std::string, std::less<>>{"w3"});
  for (int i = 0; i < 64; ++i) in_the_way.push_back(platform.allocate(256, "other"));
  store.load(plan);
  const Lines again = queue(inputs);
  EXPECT_EQ(calls("capture"), kBlocks);
  CapturedGraphs none;
  EXPECT_EQ(queue(inputs, {.captured_graphs = &none}), again);
}

TEST_F(Runs, WhatCannotBeCapturedIsQueued) {
  const Lines first = queue(inputs);
  stream.refuse = "some kernel waited";
  EXPECT_EQ(queue(inputs), first);
  EXPECT_EQ(calls("capture"), kBlocks);
  EXPECT_EQ(captured_graphs.refusal(), "some kernel waited");
  EXPECT_EQ(queue(inputs), first);
  EXPECT_EQ(calls("capture") + calls("launch"), 0u);  // not tried again
}

TEST_F(Runs, AKernelThatFailsWhileCapturingIsQueued) {
  const Lines first = queue(inputs);
  platform.kernels_fail = true;
  EXPECT_EQ(queue(inputs), first);
  EXPECT_FALSE(stream.capturing);
  EXPECT_NE(captured_graphs.refusal().find("not while capturing"), std::string::npos);
}

TEST_F(Runs, AStreamThatCapturesNothingIsNotAsked) {
  stream.captures = false;
  for (int i = 0; i < 3; ++i) EXPECT_EQ(queue(inputs).size(), 2 * kBlocks);
  EXPECT_EQ(calls("capture") + calls("launch"), 0u);
}

TEST_F(Runs, ObservedAndTimedRunsAreNotCaptured) {
  queue(inputs);
  std::vector<std::size_t> observed, timed;
  std::vector<double> seconds;
  const StepObserver observer = [&](const StepRun& ran) { observed.push_back(ran.step); };
  const StepTimer timer = [&](const StepTime& time) {
    timed.push_back(time.step);
    seconds.push_back(std::chrono::duration<double>(time.end - time.begin).count());
  };
  queue(inputs, {.observe = &observer});
  EXPECT_EQ(calls("capture"), 0u);
  EXPECT_EQ(calls("synchronize"), 2 * kBlocks + 1);
  queue(inputs, {.time = &timer});
  EXPECT_EQ(calls("capture"), 0u);
  EXPECT_EQ(calls("synchronize"), 2u);  // before the first event and at the end: none between steps
  EXPECT_EQ(observed.size(), 2 * kBlocks);
  EXPECT_EQ(timed, observed);
  for (const double step : seconds) EXPECT_NEAR(step, 1, 1e-6);  // without the second of the event
}

// Of what begins beside the others: its own time, and for how long nothing was done for want of it.
TEST_F(Runs, WhatWorksBesideIsWaitedForWhereItIsRead) {
  const Value x = input("x", DType::f32, {8, 8}), beside = -x, other = exp(x), sum = beside + other, unread = -other;
  const Plan own = compile(make_graph("beside", {x}, {sum, unread}), platform);
  const Plan* const only = &own;
  const Tensor place = make_workspace(platform, {&only, 1});
  const std::vector<Tensor> results{make_tensor(platform, x.type(), "a"), make_tensor(platform, x.type(), "b")};
  std::vector<std::array<double, 3>> times;
  const StepClock::time_point* begin = nullptr;
  StepClock::time_point first;
  const StepTimer timer = [&](const StepTime& time) {
    if (!begin) first = time.begin, begin = &first;
    const auto seconds = [](StepClock::duration d) { return std::round(std::chrono::duration<double>(d).count()); };
    times.push_back({seconds(time.begin - first), seconds(time.end - time.begin), seconds(time.waited)});
  };
  std::string names;
  for (const Step& step : own.steps) names += fmt::format("{} ", name(step.node->opcode));
  ASSERT_EQ(names, "neg exp add neg ");
  run(own, stream, store, inputs, results, place, {.time = &timer});
  EXPECT_EQ(times, (std::vector<std::array<double, 3>>{{0, 5, 0}, {3, 1, 0}, {7, 1, 1}, {9, 5, 0}}));
  stream.waits = 0;
  run(own, stream, store, inputs, results, place);
  EXPECT_EQ(stream.waits, 2u);  // where it is read, and at the end
  const StepObserver observer = [](const StepRun&) {};
  stream.waits = 0;
  run(own, stream, store, inputs, results, place, {.observe = &observer});
  EXPECT_EQ(stream.waits, 0u);  // one behind the other
}

TEST_F(Runs, NothingIsWaitedForIfNotAsked) {
  for (int i = 0; i < 3; ++i) {
    queue(inputs, {.wait = false});
    EXPECT_EQ(calls("synchronize"), 0u);
  }
  queue(inputs);
  EXPECT_EQ(calls("synchronize"), 1u);
}

TEST_F(Runs, CancelEndsALaunchBetweenBlocks) {
  std::atomic<bool> cancel{false};
  for (int i = 0; i < 2; ++i) queue(inputs, {.cancel = &cancel});
  std::size_t launches = 0;
  stream.on_launch = [&] { cancel = ++launches == 3; };
  try {
    queue(inputs, {.cancel = &cancel});
    FAIL() << "not cancelled";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::cancelled);
    EXPECT_NE(std::string(error.what()).find("stopped at step 6 of 24"), std::string::npos) << error.what();
  }
  EXPECT_EQ(stream.queued.size(), 6u);
  EXPECT_EQ(calls("synchronize"), 1u);  // what was queued is over when the error is seen
  cancel = false;
  stream.on_launch = [] {};
  EXPECT_EQ(queue(inputs, {.cancel = &cancel}).size(), 2 * kBlocks);
}

// What is queued when something fails uses memory that the caller frees next. And a run that failed is no run as far as libraries
// are concerned, which set themselves up in the first.
TEST_F(Runs, AnyErrorIsToldWhenTheStreamIsDrainedAndTheNextRunIsAsEver) {
  const auto fails = [&](std::string_view what, RunOptions options) {
    try {
      queue(inputs, options);
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
    }
    EXPECT_FALSE(stream.queued.empty());
    EXPECT_FALSE(stream.capturing);
    ASSERT_FALSE(stream.calls.empty());
    EXPECT_EQ(stream.calls.back(), "synchronize");
  };
  stream.good_kernels = 5;
  fails("a kernel is refused", {});
  stream.good_kernels = 1 << 30;
  const Lines first = queue(inputs);
  EXPECT_EQ(first.size(), 2 * kBlocks);
  EXPECT_EQ(calls("capture"), 0u);  // this was the first that ran
  EXPECT_EQ(queue(inputs), first);
  EXPECT_EQ(calls("capture"), kBlocks);

  int launches = 0;
  stream.on_launch = [&] { check(++launches < 4, ErrorKind::device, "log", "a launch is refused."); };
  fails("a launch is refused", {});
  stream.on_launch = [] {};
  EXPECT_EQ(queue(inputs), first);

  const StepObserver observer = [](const StepRun& ran) { check(ran.step < 3, ErrorKind::internal, "log", "the observer fails."); };
  fails("the observer fails", {.observe = &observer});
  EXPECT_EQ(queue(inputs), first);

  store.stream({&plan}, {});
  stream.good_kernels = 7;
  fails("a kernel is refused", {});
  stream.good_kernels = 1 << 30;
  platform.device.host_addressable = false;
  platform.good_uploads = platform.uploads + 3;
  fails("the device is gone", {});
  platform.good_uploads = ~std::size_t{0};
  EXPECT_EQ(queue(inputs, {}).size(), 2 * kBlocks);
}

// An exception that is none of the library's ends a capture, too.
TEST_F(Runs, NoCaptureIsLeftOpen) {
  queue(inputs);
  stream.out_of_memory = true;
  EXPECT_THROW(queue(inputs), std::bad_alloc);
  EXPECT_FALSE(stream.capturing);
  stream.out_of_memory = false;
  EXPECT_EQ(queue(inputs).size(), 2 * kBlocks);
}

TEST_F(Runs, FewBlocksAreQueuedAheadWhereCancelIsLookedAt) {
  queue(inputs);
  EXPECT_EQ(stream.events, 0u);
  const std::atomic<bool> cancel{false};
  queue(inputs, {.cancel = &cancel});
  EXPECT_EQ(stream.events, kBlocks - 1);
  EXPECT_EQ(stream.waits, kBlocks - 1 - 2);
}

// The third is queued with block 2, and so its weight comes with that.
TEST_F(Runs, AWeightComesWithTheBlockThatItsStepsRunWith) {
  const Value x = input("x", DType::f32, {8, 8});
  const auto of_weight = [&](const char* name, int block) { return exp(linear(x, parameter(name, DType::f32, {8, 8}, block))); };
  plan = compile(make_graph("mixed", {x}, {of_weight("first", 1), of_weight("second", 2), of_weight("third", 1)}), platform);
  std::vector<int> blocks, run_with;
  for (const Step& step : plan.steps) blocks.push_back(step.node->block), run_with.push_back(step.block);
  ASSERT_EQ(blocks, (std::vector<int>{1, 1, 2, 2, 1, 1}));
  EXPECT_EQ(run_with, (std::vector<int>{1, 1, 2, 2, 2, 2}));
  EXPECT_EQ(plan.weights[2].block, 2);
  outputs.clear();
  for (const Value& result : plan.graph.outputs) outputs.push_back(make_tensor(platform, result.type(), "result"));
  const Plan* const only = &plan;
  workspace = make_workspace(platform, {&only, 1});
  store.stream({&plan}, {});
  EXPECT_EQ(queue(inputs).size(), plan.steps.size());
}

// Weights of a device are read, converted and uploaded by several threads; each must be what one thread makes of it.
TEST(Weights, UploadsFromSeveralThreadsAreThoseOfOne) {
  LogPlatform near, far;
  far.device.host_addressable = false;
  constexpr std::int64_t kCount = 70, kSide = 724;  // 1 MiB each: enough for several threads
  std::vector<float> values(static_cast<std::size_t>(kSide * kSide + kCount));
  std::iota(values.begin(), values.end(), -1e5f);
  const Value x = input("x", DType::bf16, {1, kSide});
  Value y = x;
  for (std::int64_t i = 0; i < kCount; ++i)
    y = linear(y, parameter(fmt::format("{}", i), DType::bf16, {kSide, kSide}, static_cast<int>(i % 2)));
  const Graph graph = make_graph("many", {x}, {y});
  const WeightSource source = [&](const std::string& name) {  // each begins an element later
    return dense_weight(DType::f32, {kSide, kSide}, reinterpret_cast<const std::byte*>(values.data() + std::stoi(name)));
  };
  const Plan near_plan = compile(graph, near), far_plan = compile(graph, far);
  WeightStore near_store(near, source), far_store(far, source);
  near_store.load(near_plan);
  const std::size_t before = far.uploads;
  const std::size_t streams = far.streams;
  const std::uint64_t generation = far_store.generation();
  far_store.load(far_plan);
  EXPECT_EQ(far.uploads - before, static_cast<std::size_t>(kCount));
  EXPECT_NE(far_store.generation(), generation);
  EXPECT_EQ(far.streams - streams, std::min<std::size_t>(3, std::max(1u, std::thread::hardware_concurrency())));
  EXPECT_EQ(far_store.size_bytes(), near_store.size_bytes());
  for (std::size_t i = 0; i < near_plan.weights.size(); ++i) {
    const Buffer &a = *near_store.at(near_plan.weights[i]).buffer, &b = *far_store.at(far_plan.weights[i]).buffer;
    ASSERT_EQ(a.size_bytes, b.size_bytes);
    EXPECT_EQ(std::memcmp(a.data, b.data, a.size_bytes), 0) << near_plan.weights[i].name;
  }
  far_store.load(far_plan);
  EXPECT_EQ(far.uploads - before, static_cast<std::size_t>(kCount));  // nothing was missing
}

// A tensor is taken in portions by several threads, where it is uploaded as its elements; each lands in its place.
TEST(Weights, PortionsOfALargeTensorMakeTheWhole) {
  constexpr std::int64_t kRows = 1733, kColumns = 1801;  // 12 MB in f32
  std::vector<float> values(static_cast<std::size_t>(kRows * kColumns));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 251) - 125;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Value x = input("x", dtype, {1, kColumns});
    const Graph graph = make_graph("large", {x}, {linear(x, parameter("w", dtype, {kRows, kColumns}))});
    for (const bool addressable : {true, false}) {
      LogPlatform platform;
      platform.device.host_addressable = addressable;
      platform.layout = dtype == DType::f32 ? "dense f32" : "dense bf16";
      const Plan plan = compile(graph, platform);
      WeightStore store(platform, [&](const std::string&) { return dense_weight(DType::f32, {kRows, kColumns}, values.data()); });
      LoadTimes times;
      store.load(plan, {.times = &times});
      EXPECT_GT(times.fetch + times.read + times.upload, 0);
      EXPECT_GE(times.threads, 1u);
      if (!addressable) {
        EXPECT_GE(platform.uploads, 3u);
      }
      std::vector<std::byte> expected(values.size() * size_of(dtype));
      convert(values.data(), DType::f32, expected.data(), dtype, values.size());
      EXPECT_EQ(std::memcmp(store.at(plan.weights[0]).data(), expected.data(), expected.size()), 0) << name(dtype);
    }
  }
}

TEST(Weights, AnErrorInAThreadIsTheCallers) {
  LogPlatform platform;
  platform.device.host_addressable = false;
  const Value x = input("x", DType::f32, {1, 8});
  Value y = x;
  for (int i = 0; i < 20; ++i) y = linear(y, parameter(fmt::format("w{}", i), DType::f32, {8, 8}));
  const Plan plan = compile(make_graph("many", {x}, {y}), platform);
  const std::vector<float> values(64);
  WeightStore store(platform, [&](const std::string&) {
    return dense_weight(DType::f32, {8, 8}, reinterpret_cast<const std::byte*>(values.data()));
  });
  platform.good_uploads = platform.uploads + 10;
  EXPECT_THROW(store.load(plan), Error);
  EXPECT_EQ(store.size_bytes(), 0u);
  platform.good_uploads = ~std::size_t{0};
  store.load(plan);
  EXPECT_EQ(store.size_bytes(), 20u * 256);
}

// A large weight in a file that comes slowly; it counts what was waited for, and may fail or cancel on the way.
struct SlowWeight : DenseWeight {
  SlowWeight(const std::vector<float>& values, std::int64_t side)
      : DenseWeight(DType::f32, {side, side}, reinterpret_cast<const std::byte*>(values.data())) {}
  void fetch(std::int64_t begin, std::int64_t count) const override {
    EXPECT_LE(count * 4, 4 << 20);
    EXPECT_LE(begin + count, shape().count());
    if ((fetched += count) >= stop_at) stop();
  }
  mutable std::atomic<std::int64_t> fetched{0};  // each element once, by whatever threads
  std::int64_t stop_at = std::int64_t{1} << 60;
  std::function<void()> stop = [] {};
};

struct Way {
  const char* name;
  bool addressable;
  const char* layout;
};

class Loads : public ::testing::TestWithParam<Way> {
 protected:
  static constexpr std::int64_t kSide = 2048;  // 16 MiB
  void SetUp() override {
    platform.device.host_addressable = GetParam().addressable;
    platform.layout = GetParam().layout;
    const Value x = input("x", DType::f32, {1, kSide});
    const Value y =
        linear(linear(x, parameter("first", DType::f32, {kSide, kSide})), parameter("second", DType::f32, {kSide, kSide}));
    plan = compile(make_graph("two", {x}, {y}), platform);
  }
  std::size_t total() const { return static_cast<std::size_t>(2 * kSide * kSide * 4); }

  LogPlatform platform;
  const std::vector<float> values = std::vector<float>(static_cast<std::size_t>(kSide * kSide), 0.25f);
  std::shared_ptr<SlowWeight> first = std::make_shared<SlowWeight>(values, kSide),
                              second = std::make_shared<SlowWeight>(values, kSide);
  WeightStore store{platform, [this](const std::string& name) -> WeightPtr { return name == "first" ? first : second; }};
  Plan plan;
};

TEST_P(Loads, TellHowFarTheyAre) {
  std::vector<std::size_t> told;
  bool inside = false;
  store.load(plan, {.progress = [&](std::size_t done, std::size_t all) {
               EXPECT_FALSE(std::exchange(inside, true)) << "one thread at a time";
               EXPECT_EQ(all, total());
               told.push_back(done);
               inside = false;
             }});
  ASSERT_GE(told.size(), 2u);
  EXPECT_TRUE(std::is_sorted(told.begin(), told.end()));
  EXPECT_EQ(told.back(), total());
  EXPECT_EQ(first->fetched, kSide * kSide);
  const float expected = 0.25f;
  EXPECT_EQ(std::memcmp(store.at(plan.weights[0]).data(), &expected, 4), 0);
}

TEST_P(Loads, CancelledInTheMiddleOfATensorLeaveTheStoreAsItWas) {
  std::atomic<bool> cancel{false};
  for (SlowWeight* weight : {first.get(), second.get()}) {
    weight->stop_at = kSide * kSide / 2;
    weight->stop = [&] { cancel = true; };
  }
  const std::uint64_t generation = store.generation();
  try {
    store.load(plan, {.cancel = &cancel});
    FAIL() << "was not cancelled";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::cancelled) << error.what();
  }
  EXPECT_LT(std::min<std::int64_t>(first->fetched, second->fetched), kSide * kSide);
  EXPECT_EQ(store.size_bytes(), 0u);
  EXPECT_EQ(store.generation(), generation);
  cancel = false;
  for (SlowWeight* weight : {first.get(), second.get()}) weight->fetched = 0, weight->stop = [] {};
  store.load(plan, {.cancel = &cancel});
  EXPECT_EQ(store.size_bytes(), plan.weight_bytes());
}

// One that takes a while to read, and cancels on the way; it counts what is read after that.
struct LongWeight : DenseWeight {
  LongWeight(const Shape& shape, const std::vector<float>& values, std::atomic<bool>& flag)
      : DenseWeight(DType::f32, shape, reinterpret_cast<const std::byte*>(values.data())), cancel(flag) {}
  const std::byte* dense(DType) const override { return nullptr; }
  void read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const override {
    largest = std::max(largest.load(), count);
    if (cancel) ++reads_after;
    elements += count;
    if (elements > stop_at) cancel = true;
    DenseWeight::read(begin, count, dtype, out);
  }
  std::atomic<bool>& cancel;
  std::int64_t stop_at = std::int64_t{1} << 60;
  mutable std::atomic<std::int64_t> elements{0}, largest{0};
  mutable std::atomic<int> reads_after{0};
};

// Whatever layout the kernels of the cpu want: packing one weight ends within a few reads of a piece of it.
TEST(Load, IsCancelledWhileAKernelPacksOneTensor) {
  constexpr int kThreads = 2;
  const auto cpu = open_platform("cpu", {.threads = kThreads});
  const auto window = [](int upsample) { return ConvWindow{.pad_begin = {0, 1, 1}, .pad_end = {0, 1, 1}, .upsample = upsample}; };
  const Value rows = input("x", DType::f32, {64, 512}), narrow = input("x", DType::bf16, {64, 512});
  const Value table = input("x", DType::f32, {2048, 512});
  const Value picture = input("x", DType::f32, {1, 16, 16, 64});
  const std::pair<Value, Value> cases[] = {
      {rows, linear(rows, parameter("w", DType::f32, {2048, 512}))},
      {narrow, linear(narrow, parameter("w", DType::bf16, {2048, 512}))},
      {table, table + parameter("w", DType::f32, {2048, 512})},
      {picture, conv(picture, parameter("w", DType::f32, {512, 64, 1, 3, 3}), window(1))},
      {picture, conv(picture, parameter("w", DType::f32, {512, 64, 1, 3, 3}), window(2))},
  };
  for (const auto& [x, y] : cases) {
    const Plan plan = compile(make_graph("one", {x}, {y}), *cpu);
    ASSERT_EQ(plan.weights.size(), 1u);
    const Shape& shape = plan.weights[0].type.shape;
    const std::vector<float> values(static_cast<std::size_t>(shape.count()), 0.5f);
    std::atomic<bool> cancel{false};
    const auto weight = std::make_shared<LongWeight>(shape, values, cancel);
    WeightStore store(*cpu, [&](const std::string&) -> WeightPtr { return weight; });
    store.load(plan, {.cancel = &cancel});
    EXPECT_LE(weight->largest, std::int64_t{1} << 18) << plan.weights[0].layout;
    const std::int64_t all = weight->elements;
    store.clear();
    weight->elements = 0, weight->stop_at = all / 3;
    try {
      store.load(plan, {.cancel = &cancel});
      ADD_FAILURE() << "was not cancelled: " << plan.weights[0].layout;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::cancelled) << error.what();
    }
    EXPECT_LT(weight->reads_after, kThreads) << plan.weights[0].layout;
    EXPECT_LT(weight->elements, all) << plan.weights[0].layout;
    EXPECT_EQ(store.size_bytes(), 0u);
  }
}

TEST_P(Loads, ThatFailLeaveTheStoreAsItWas) {
  first->stop_at = kSide * kSide / 2;
  first->stop = [] { fail(ErrorKind::io, "file", "the disk is gone."); };
  EXPECT_THROW(store.load(plan), Error);
  EXPECT_EQ(store.size_bytes(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Weights, Loads,
                         ::testing::Values(Way{"InPlace", true, "dense"}, Way{"PackedAndUploaded", false, "dense"},
                                           Way{"UploadedAsStored", false, "dense f32"}),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace zoe
