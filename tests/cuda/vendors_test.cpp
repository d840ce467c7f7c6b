// The CUDA platform on fake drivers (fake_driver.h): the same program makes the same calls under every vendor's names, all of them
// with valid handles and bounds; and whatever call fails, the answer is one clear line, with nothing left behind.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/encoding.h"
#include "base/error.h"
#include "base/log.h"
#include "compiler/compile.h"
#include "compiler/passes/keep_stored.h"
#include "compiler/run.h"
#include "cuda/fake.h"
#include "ir/trace.h"
#include "ops/norm_scale_shift.h"
#include "platform/implementation.h"
#include "testing/run_command.h"
#include "testing/temporary_folder.h"

namespace zoe::testing {
namespace {

namespace fs = std::filesystem;

const cuda::Vendor* const kVendors[] = {&cuda::kCuda, &cuda::kMusa, &cuda::kRocm};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream all(text);
  for (std::string line; std::getline(all, line);) lines.push_back(line);
  return lines;
}

// A graph with each family of kernels: products, a convolution, attention, generated chains, rows of a table, joined parts.
Graph every_kernel(DType dtype) {
  constexpr std::int64_t kTokens = 24, kWidth = 64;
  const Value table = input("table", dtype, {10, kWidth}), indices = input("indices", DType::i32, {kTokens});
  const Value scale = input("scale", DType::f32, {1, 1, kWidth}), shift = input("shift", DType::f32, {1, 1, kWidth});
  const Value rows = reshape(gather(table, indices), {1, kTokens, kWidth});
  const Value normed = norm_scale_shift(rows, scale, shift);
  const Value mixed = linear(normed, parameter("w", dtype, {kWidth, kWidth}), {.activation = Activation::gelu_tanh});
  const Value heads = reshape(mixed, {1, kTokens, 2, kWidth / 2});
  const Value attended = reshape(attention(heads, heads, heads, 0.125), {1, kTokens, kWidth});
  const Value frames = reshape(concat({attended, rows}, 1), {2, 4, 6, kWidth});
  const Value convolved =
      conv(frames, parameter("c", dtype, {8, kWidth, 1, 3, 3}, 1), {.pad_begin = {0, 1, 1}, .pad_end = {0, 1, 1}});
  return make_graph("every kernel", {table, indices, scale, shift}, {convolved});
}

// Opens the platform, moves bytes both ways, builds and runs the graph, frees all. Throws what the platform throws.
void use(const FakeVendor& fake, const fs::path& cache, const std::vector<DType>& dtypes = {DType::f32, DType::bf16}) {
  const auto platform = open_platform(fake.vendor.platform, fake.options(cache));
  platform->info();
  const auto stream = platform->make_stream();
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{4097}, std::size_t{20} << 20}) {
    std::vector<std::byte> bytes(size), back(size);
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 251);
    const auto buffer = platform->allocate(size + 3, "bytes");
    platform->upload(*stream, bytes.data(), {buffer.get(), 3}, size);
    platform->download(*stream, {buffer.get(), 3}, back.data(), size);
    EXPECT_EQ(bytes, back) << size;
    std::byte first{0xff};
    platform->download(*stream, {buffer.get(), 0}, &first, 1);
    EXPECT_EQ(first, std::byte{0}) << "memory is zeroed when it is allocated";
  }
  for (const DType dtype : dtypes) {
    const Graph graph = every_kernel(dtype);
    const Plan plan = compile(graph, *platform);
    const std::vector<std::byte> zeros(std::size_t{1} << 20);
    WeightStore weights(*platform, [&](const std::string& wanted) {
      for (const PlanWeight& weight : plan.weights)
        if (weight.name == wanted) return dense_weight(weight.type.dtype, weight.type.shape, zeros.data());
      throw std::runtime_error("no weight " + wanted);
    });
    for (int block = 0; block < plan.block_count; ++block) weights.load(plan, block);  // one each: no second thread
    std::vector<Tensor> inputs, outputs;
    for (const Value& value : graph.inputs) inputs.push_back(make_tensor(*platform, value.type(), "input"));
    for (const Value& value : graph.outputs) outputs.push_back(make_tensor(*platform, value.type(), "output"));
    const Plan* const plans[] = {&plan};
    const Tensor workspace = make_workspace(*platform, plans);
    CapturedGraphs captured_graphs;
    for (int i = 0; i < 4; ++i)  // queued, captured and launched, launched
      run(plan, *stream, weights, inputs, outputs, workspace, {.captured_graphs = &captured_graphs});
    stream->synchronize();
  }
}

// The driver's own names of graphs, events and several streams, which a plan does not use on its own.
void capture_and_launch(const cuda::DriverApi& api) {
  cuda::ContextHandle context = nullptr;
  EXPECT_EQ(api.init(0), cuda::kSuccess);
  EXPECT_EQ(api.context_retain(&context, 0), cuda::kSuccess);
  EXPECT_EQ(api.context_set_current(context), cuda::kSuccess);
  cuda::StreamHandle a = nullptr, b = nullptr;
  EXPECT_EQ(api.stream_create(&a, cuda::kStreamNonBlocking), cuda::kSuccess);
  EXPECT_EQ(api.stream_create(&b, cuda::kStreamNonBlocking), cuda::kSuccess);
  cuda::Address memory = 0;
  EXPECT_EQ(api.memory_allocate_async(&memory, 256, a), cuda::kSuccess);
  cuda::GraphHandle graph = nullptr;
  cuda::GraphExecHandle exec = nullptr;
  EXPECT_EQ(api.capture_begin(a, cuda::kCaptureThreadLocal), cuda::kSuccess);
  EXPECT_EQ(api.set_bytes_async(memory, 1, 256, a), cuda::kSuccess);
  EXPECT_EQ(api.copy_async(memory + 128, memory, 128, a), cuda::kSuccess);
  EXPECT_EQ(api.capture_end(a, &graph), cuda::kSuccess);
  EXPECT_EQ(api.graph_instantiate(&exec, graph, 0), cuda::kSuccess);
  EXPECT_EQ(api.graph_destroy(graph), cuda::kSuccess);
  EXPECT_EQ(api.graph_launch(exec, a), cuda::kSuccess);
  cuda::EventHandle begin = nullptr, end = nullptr;
  EXPECT_EQ(api.event_create(&begin, 0), cuda::kSuccess);
  EXPECT_EQ(api.event_create(&end, 0), cuda::kSuccess);
  EXPECT_EQ(api.event_record(begin, a), cuda::kSuccess);
  EXPECT_EQ(api.stream_wait_event(b, begin, 0), cuda::kSuccess);
  EXPECT_EQ(api.event_record(end, b), cuda::kSuccess);
  EXPECT_EQ(api.event_synchronize(end), cuda::kSuccess);
  float ms = -1;
  EXPECT_EQ(api.event_elapsed(&ms, begin, end), cuda::kSuccess);
  EXPECT_GE(ms, 0);
  api.graph_exec_destroy(exec);
  api.event_destroy(begin);
  api.event_destroy(end);
  api.memory_free_async(memory, a);
  api.stream_destroy(a);
  api.stream_destroy(b);
  api.context_release(0);
}

// What a user would see, and whether the fake is as it was.
std::string error_of(const FakeVendor& fake, const std::function<void()>& body) {
  std::string message;
  try {
    body();
  } catch (const Error& error) {
    message = error.what();
    EXPECT_NE(error.kind(), ErrorKind::internal) << message;
  }
  EXPECT_EQ(std::string(fake.problems()), "");
  EXPECT_EQ(std::string(fake.alive()), "");
  return message;
}

TEST(Vendors, TheSameCallsUnderEveryVendorsNames) {
  std::vector<std::string> first;
  for (const cuda::Vendor* vendor : kVendors) {
    const FakeVendor& fake = fake_of(*vendor);
    const TemporaryFolder cache;
    fake.order("");
    EXPECT_EQ(error_of(fake,
                       [&] {
                         use(fake, cache.path());
                         capture_and_launch(cuda::load_driver(*vendor, fake.folder));
                       }),
              "");
    std::vector<std::string> calls = lines_of(fake.log());
    // HIP has no such call: its kernels may use all of a block's shared memory without asking.
    std::erase_if(calls, [](const std::string& line) { return line.starts_with("function_set "); });
    // Programs are compiled and loaded by several threads: those calls are compared without numbers, in the order of their names,
    // all others in the order in which they were made.
    const auto of_programs = std::stable_partition(calls.begin(), calls.end(), [](const std::string& line) {
      const std::string call = line.substr(0, line.find(' '));
      constexpr std::string_view kOfPrograms[] = {"create",  "compile",     "binary_size",   "binary",
                                                  "destroy", "module_load", "module_unload", "module_function"};
      return std::find(std::begin(kOfPrograms), std::end(kOfPrograms), call) == std::end(kOfPrograms);
    });
    for (auto line = of_programs; line != calls.end(); ++line)
      for (const char* numbered : {" program", " module"})
        if (const std::size_t at = line->find(numbered); at != std::string::npos) line->erase(at);
    std::sort(of_programs, calls.end());
    const auto count = [&](std::string_view call) {
      return std::count_if(calls.begin(), calls.end(), [&](const std::string& line) { return line.starts_with(call); });
    };
    EXPECT_GT(count("launch "), 10);
    EXPECT_GT(count("compile"), 4);
    EXPECT_GT(count("module_function "), 4);
    EXPECT_GT(count("capture_end "), 1);
    EXPECT_GT(count("graph_launch "), 1);
    if (first.empty()) first = calls;
    ASSERT_EQ(calls.size(), first.size()) << vendor->platform;
    for (std::size_t i = 0; i < calls.size(); ++i) ASSERT_EQ(calls[i], first[i]) << vendor->platform << ", call " << i;
  }
}

TEST(Vendors, ThreadsUploadSideBySide) {
  const FakeVendor& fake = fake_of(cuda::kCuda);
  const TemporaryFolder cache;
  fake.order("");
  EXPECT_EQ(error_of(fake,
                     [&] {
                       const auto platform = open_platform("cuda", fake.options(cache.path()));
                       std::vector<std::thread> threads;
                       for (int t = 0; t < 4; ++t)
                         threads.emplace_back([&, t] {
                           const auto stream = platform->make_stream();
                           for (std::size_t round = 0; round < 8; ++round) {
                             const std::size_t size = (std::size_t{1} << 20) * (round + 1) + static_cast<std::size_t>(t);
                             std::vector<std::byte> bytes(size, static_cast<std::byte>(t * 8 + static_cast<int>(round))),
                                 back(size);
                             const auto buffer = platform->allocate(size, "bytes");
                             platform->upload(*stream, bytes.data(), {buffer.get(), 0}, size);
                             platform->download(*stream, {buffer.get(), 0}, back.data(), size);
                             EXPECT_EQ(bytes, back);
                           }
                         });
                       for (std::thread& thread : threads) thread.join();
                     }),
            "");
}

TEST(Vendors, ASecondRunTakesItsProgramsFromTheCache) {
  for (const cuda::Vendor* vendor : kVendors) {
    const FakeVendor& fake = fake_of(*vendor);
    const TemporaryFolder cache;
    fake.order("");
    EXPECT_EQ(error_of(fake, [&] { use(fake, cache.path()); }), "");
    fake.order("");
    EXPECT_EQ(error_of(fake, [&] { use(fake, cache.path()); }), "");
    EXPECT_EQ(std::string(fake.log()).find("compile "), std::string::npos) << vendor->platform;
    // One that the driver does not load is built again.
    fake.order("stale 1");
    std::vector<std::string> notices;
    const LogScope log_scope([&](LogLevel level, std::string_view text) {
      if (level == LogLevel::notice) notices.emplace_back(text);
    });
    EXPECT_EQ(error_of(fake, [&] { use(fake, cache.path()); }), "");
    EXPECT_NE(std::string(fake.log()).find("compile "), std::string::npos) << vendor->platform;
    EXPECT_TRUE(std::any_of(notices.begin(), notices.end(), [](const std::string& line) {
      return line.find("does not load") != std::string::npos;
    })) << vendor->platform;
  }
}

// A chain has the names of its ops, which are as long as who adds them likes; and a batch is stored as a whole.
TEST(Vendors, ProgramsOfLongNamesAreKeptToo) {
  const FakeVendor& fake = fake_of(cuda::kCuda);
  const TemporaryFolder cache;
  const auto run = [&] {
    fake.order("");
    EXPECT_EQ(error_of(fake,
                       [&] {
                         const Value x = input("x", DType::f32, {4, 64});
                         const Value y = call(std::string(300, 'n'), {x}, [](std::span<const Value> a) {
                                           return std::vector<Value>{exp(a[0]) * a[0]};
                                         }).front();
                         const auto platform = open_platform("cuda", fake.options(cache.path()));
                         compile(make_graph("long", {x}, {y}), *platform);
                       }),
              "");
    return std::string(fake.log()).find("compile ") != std::string::npos;
  };
  EXPECT_TRUE(run());
  EXPECT_FALSE(run()) << "all of it was kept";
}

// Programs are compiled by threads of the platform's: what they say goes to the one who asked for them, and to nobody else.
TEST(Vendors, EachThreadsCompilationsAreToldToItsOwnSink) {
  const FakeVendor& fake = fake_of(cuda::kCuda);
  fake.order("");
  EXPECT_EQ(error_of(fake,
                     [&] {
                       const auto platform = open_platform("cuda", fake.options("/proc/no cache"));
                       const auto compiled = [&](std::int64_t width) {
                         std::vector<std::string> lines;
                         const LogScope log_scope([&](LogLevel, std::string_view text) { lines.emplace_back(text); });
                         const Value x = input("x", DType::f32, {4, width});
                         const Graph graph = make_graph("sums", {x}, {mul(add(x, x), x), sum(x), sum(mul(x, x))});
                         compile(graph, *platform);
                         return std::count_if(lines.begin(), lines.end(), [](auto& line) { return line.starts_with("compiled "); });
                       };
                       std::vector<std::jthread> threads;
                       for (std::int64_t t = 0; t < 4; ++t)
                         threads.emplace_back([&, t] { EXPECT_GE(compiled(32 * (t + 1)), 1) << t; });
                     }),
            "");
}

// A tensor of zeros in Q8_0, or in scaled f8.
class Stored : public WeightReader {
 public:
  Stored(Shape shape, Storage storage) : shape_(std::move(shape)), storage_(storage), bytes_(stored_bytes()) {}
  const Shape& shape() const override { return shape_; }
  void read(std::int64_t, std::int64_t count, DType dtype, void* out) const override {
    std::memset(out, 0, static_cast<std::size_t>(count) * size_of(dtype));
  }
  std::size_t stored_bytes() const override { return static_cast<std::size_t>(storage_.encoding->size_bytes(shape_.count())); }
  Storage storage() const override { return storage_; }
  const std::byte* blocks() const override { return bytes_.data(); }
  void read_scales(std::int64_t, std::int64_t count, float* out) const override { std::fill_n(out, count, 1.0f); }

 private:
  Shape shape_;
  Storage storage_;
  std::vector<std::byte> bytes_;
};

TEST(Vendors, WeightsThatStayAsTheyAreStoredAreWidenedInFrontOfTheirProducts) {
  const std::map<std::string, Storage> storages{{"a", {find_encoding("Q8_0")}}, {"b", {find_encoding("F8_E4M3"), true}}};
  for (const cuda::Vendor* vendor : kVendors) {
    const FakeVendor& fake = fake_of(*vendor);
    const TemporaryFolder cache;
    fake.order("");
    EXPECT_EQ(error_of(fake,
                       [&] {
                         const auto platform = open_platform(vendor->platform, fake.options(cache.path()));
                         const Value x = input("x", DType::bf16, {5, 64});
                         const Value y = linear(x, parameter("a", DType::bf16, {48, 64}));
                         const Graph graph = keep_stored(
                             make_graph("kept", {x}, {linear(y, parameter("b", DType::bf16, {7, 48}))}),
                             [&](const std::string& name) { return storages.at(name); },
                             [&](const Encoding& encoding) { return platform->keeps_stored(encoding); });
                         const Plan plan = compile(graph, *platform);
                         EXPECT_EQ(plan.weight_bytes(), 48u * 68 + 384 + 64);  // scales: 7 floats, in a line of a cache
                         WeightStore weights(*platform, [&](const std::string& name) {
                           return std::make_shared<Stored>(name == "a" ? Shape{48, 64} : Shape{7, 48}, storages.at(name));
                         });
                         weights.load(plan);
                         const std::vector<Tensor> inputs{make_tensor(*platform, x.type(), "x")},
                             outputs{make_tensor(*platform, {DType::bf16, {5, 7}}, "y")};
                         const Plan* const only = &plan;
                         const auto stream = platform->make_stream();
                         const Tensor workspace = make_workspace(*platform, {&only, 1});
                         run(plan, *stream, weights, inputs, outputs, workspace);
                       }),
              "");
    std::vector<std::string> launched;
    for (const std::string& line : lines_of(fake.log()))
      if (line.starts_with("launch "))
        launched.push_back(line.find("widen") != line.npos ? "widen" : line.find("product") != line.npos ? "product" : line);
    EXPECT_EQ(launched, (std::vector<std::string>{"widen", "product", "widen", "product"})) << vendor->platform;
  }
}

// Which row of the table runs, and why none before it: with no library there, on an old device and on a new one.
TEST(Vendors, EveryRowThatDoesNotRunSaysWhy) {
  const Value x = input("x", DType::bf16, {4, 16, 16, 96}), q = input("q", DType::bf16, {1, 64, 2, 128}),
              k = input("k", DType::bf16, {1, 16, 2, 128});
  const Value conv = zoe::conv(x, parameter("w", DType::bf16, {96, 96, 3, 3, 3}), {}, {});
  const Value product = linear(input("y", DType::bf16, {5, 64}), parameter("v", DType::bf16, {48, 64}));
  const Value attended = attention(q, k, k, 0.1), op = exp(input("z", DType::f32, {8}));
  const std::vector<const Node*> nodes{&conv.node(), &product.node(), &attended.node(), &op.node()};
  using Rows = std::vector<std::string>;
  for (const cuda::Vendor* vendor : kVendors)
    for (const bool hopper : {false, true}) {
      const FakeVendor& fake = fake_of(*vendor);
      const TemporaryFolder cache;
      fake.order(hopper ? "capability 9 0" : "");
      std::vector<Implemented> made;
      ASSERT_EQ(error_of(fake,
                         [&] {
                           const auto platform = open_platform(vendor->platform, fake.options(cache.path()));
                           made = platform->implement(nodes);
                           std::vector<std::string> known;
                           for (const Implementation& row : platform->implementations()) known.emplace_back(row.name);
                           for (const Implemented& each : made) {
                             EXPECT_NE(std::find(known.begin(), known.end(), each.row), known.end()) << each.row;
                             for (const Refusal& refusal : each.refused) EXPECT_FALSE(refusal.reason.empty()) << refusal.row;
                           }
                           for (Implemented& each : made) each.kernel.reset();
                         }),
                "");
      const auto refused = [&](std::size_t i) {
        Rows rows;
        for (const Refusal& refusal : made[i].refused) rows.push_back(refusal.row);
        return rows;
      };
      const bool wgmma = hopper && vendor == &cuda::kCuda;
      EXPECT_EQ(made[0].row, "product") << vendor->platform;  // a multiprocessor has no room for more
      EXPECT_EQ(refused(0), (Rows{"implicit_gemm", "few_channels", "cudnn_conv", "implicit_gemm_of_few_tiles"}));
      EXPECT_EQ(made[1].row, "product");
      EXPECT_EQ(refused(1), Rows{"cublaslt"});  // rows for kept weights and codes are not asked
      EXPECT_EQ(made[2].row, wgmma ? "flash_attention" : "attention");
      EXPECT_EQ(refused(2), wgmma ? Rows{} : (Rows{"flash_attention", "wide_attention", "cudnn_attention"}));
      EXPECT_EQ(made[3].row, "generated");
      EXPECT_EQ(refused(3), Rows{});
    }
}

TEST(Vendors, LibrariesAreListedWithVersionAndPath) {
  for (const cuda::Vendor* vendor : kVendors) {
    const FakeVendor& fake = fake_of(*vendor);
    fake.order("");
    const auto reports = list_platforms({.cuda_path = fake.folder});
    const auto report = std::find_if(reports.begin(), reports.end(), [&](const auto& r) { return r.name == vendor->platform; });
    ASSERT_NE(report, reports.end());
    EXPECT_TRUE(report->opens) << report->detail;
    EXPECT_NE(report->detail.find("Fake Device 0"), std::string::npos) << report->detail;
    ASSERT_GE(report->libraries.size(), 2u);
    EXPECT_EQ(report->libraries[0].name, "driver");
    EXPECT_EQ(report->libraries[0].version, "13.0");
    EXPECT_EQ(report->libraries[1].name, vendor->compiler_name);
    for (int i : {0, 1})
      EXPECT_EQ(report->libraries[static_cast<std::size_t>(i)].detail.find(fake.folder.string()), 0u)
          << report->libraries[static_cast<std::size_t>(i)].detail;
  }
}

TEST(Vendors, DevicesThatShareTheHostsMemorySaySo) {
  for (const cuda::Vendor* vendor : kVendors) {
    const FakeVendor& fake = fake_of(*vendor);
    for (const bool integrated : {false, true}) {
      fake.order(integrated ? "integrated 1" : "");
      EXPECT_EQ(error_of(fake,
                         [&] {
                           const auto platform = open_platform(vendor->platform, fake.options({}));
                           EXPECT_EQ(platform->info().unified_memory, integrated);
                           EXPECT_EQ(platform->info().capability, vendor == &cuda::kRocm ? 0 : 75);
                           EXPECT_TRUE(platform->info().exact_bits);
                           EXPECT_FALSE(platform->info().host_addressable);
                         }),
                "");
    }
  }
}

TEST(Vendors, SecondDevicesHaveNumbers) {
  const FakeVendor& fake = fake_of(cuda::kMusa);
  fake.order("devices 2");
  EXPECT_EQ(error_of(fake, [&] { EXPECT_EQ(open_platform("musa:1", fake.options({}))->info().name, "Fake Device 1"); }), "");
  const std::string message = error_of(fake, [&] { open_platform("musa:2", fake.options({})); });
  EXPECT_EQ(message, "[musa] no device 2: got 2, expected 0 to 1.");
  fake.order("devices 0");
  EXPECT_NE(error_of(fake, [&] { open_platform("musa", fake.options({})); }).find("has no device"), std::string::npos);
}

// The tests above show that the fake finds nothing wrong; this, that it would.
TEST(Vendors, TheFakeNoticesMistakes) {
  const FakeVendor& fake = fake_of(cuda::kRocm);
  fake.order("");
  const cuda::DriverApi& api = cuda::load_driver(cuda::kRocm, fake.folder);
  cuda::ContextHandle context = nullptr;
  cuda::StreamHandle stream = nullptr;
  cuda::Address memory = 0, more = 0;
  api.init(0);
  api.context_retain(&context, 0);
  api.context_set_current(context);
  api.stream_create(&stream, 0);
  api.memory_allocate_async(&memory, 100, stream);
  api.memory_allocate_async(&more, 100, stream);
  ASSERT_EQ(std::string(fake.problems()), "");
  std::vector<std::byte> bytes(200);
  int not_a_handle = 0;
  const auto expect_problem = [&](std::string_view text, const std::function<cuda::Status()>& call) {
    const std::size_t before = std::strlen(fake.problems());
    call();
    EXPECT_NE(std::string(fake.problems()).substr(before).find(text), std::string::npos) << text;
  };
  expect_problem("in no allocation", [&] { return api.copy_to_device_async(memory, bytes.data(), 101, stream); });
  expect_problem("in no allocation", [&] { return api.copy_to_host_async(bytes.data(), memory + 100, 1, stream); });
  expect_problem("in no allocation", [&] { return api.set_bytes_async(memory - 1, 0, 1, stream); });
  expect_problem("that is none", [&] {
    return api.copy_to_device_async(memory, bytes.data(), 1, reinterpret_cast<cuda::StreamHandle>(&not_a_handle));
  });
  expect_problem("no function", [&] {
    return api.launch(reinterpret_cast<cuda::FunctionHandle>(&not_a_handle), 1, 1, 1, 1, 1, 1, 0, stream, nullptr, nullptr);
  });
  expect_problem("no allocation", [&] { return api.memory_free_async(memory + 1, stream); });
  api.memory_free_async(more, stream);
  expect_problem("in no allocation", [&] { return api.copy_async(memory, more, 1, stream); });
  expect_problem("of no allocation", [&] { return api.memory_free_async(more, stream); });
  expect_problem("without a current context", [&] {
    api.context_set_current(nullptr);
    return api.set_bytes_async(memory, 0, 1, stream);
  });
  api.context_set_current(context);
  *reinterpret_cast<std::byte*>(memory + 100) = std::byte{0};
  expect_problem("written outside memory1", [&] { return api.memory_free_async(memory, stream); });
  EXPECT_EQ(std::string(fake.alive()), "stream1\ncontext\n");
  // A program with one kernel, launched in every wrong way.
  const cuda::CompilerApi& compiler = cuda::load_compiler(cuda::kRocm, fake.folder);
  cuda::ProgramHandle program = nullptr;
  compiler.create(&program, "__global__ void kernel(float* x, int n) {}", "a.cu", 0, nullptr, nullptr);
  const char* const options[] = {"-ffp-contract=off", "--fmad=false"};
  EXPECT_EQ(compiler.compile(program, 1, options), cuda::kSuccess);
  expect_problem("unknown option --fmad", [&] { return compiler.compile(program, 2, options); });
  compiler.compile(program, 1, options);
  std::size_t size = 0;
  compiler.binary_size(program, &size);
  std::string binary(size, '\0');
  compiler.binary(program, binary.data());
  compiler.destroy(&program);
  cuda::ModuleHandle module = nullptr;
  cuda::FunctionHandle kernel = nullptr;
  EXPECT_NE(api.module_load(&module, "something else"), cuda::kSuccess);
  ASSERT_EQ(api.module_load(&module, binary.data()), cuda::kSuccess);
  EXPECT_NE(api.module_function(&kernel, module, "colonel"), cuda::kSuccess);
  ASSERT_EQ(api.module_function(&kernel, module, "kernel"), cuda::kSuccess);
  cuda::Address nowhere = 12345;
  int n = 1;
  void* arguments[] = {&nowhere, &n};
  const auto launch = [&](unsigned grid_x, unsigned grid_y, unsigned block, unsigned shared) {
    return api.launch(kernel, grid_x, grid_y, 1, block, 1, 1, shared, stream, arguments, nullptr);
  };
  expect_problem("in no allocation", [&] { return launch(1, 1, 1, 0); });
  nowhere = 0;
  EXPECT_EQ(launch(1, 1, 1, 0), cuda::kSuccess);
  expect_problem("a bad grid", [&] { return launch(0, 1, 1, 0); });
  expect_problem("a bad grid", [&] { return launch(1, 65536, 1, 0); });
  expect_problem("a bad block", [&] { return launch(1, 1, 1025, 0); });
  expect_problem("too much shared memory", [&] { return launch(1, 1, 1, 100 << 10); });
  api.module_unload(module);
  api.stream_destroy(stream);
  api.context_release(0);
  EXPECT_EQ(std::string(fake.alive()), "");
}

// ---- errors

TEST(VendorErrors, WhateverCallFailsTheAnswerIsOneLine) {
  for (const cuda::Vendor* vendor : kVendors) {
    const FakeVendor& fake = fake_of(*vendor);
    const TemporaryFolder warm;              // half of the runs find their programs in it,
    const fs::path cold = "/proc/no cache";  // the others build them
    const LogScope log_scope([](LogLevel, std::string_view) {});
    fake.order("");
    use(fake, warm.path(), {DType::bf16});
    const std::size_t calls = lines_of(fake.log()).size(), step = vendor == kVendors[0] ? 5 : 41;
    std::size_t told = 0, tried = 0;
    for (std::size_t nth = 1; nth <= calls; nth += step) {
      for (const cuda::Status status : {1, 719}) {
        fake.order(fmt::format("fail any {} {}", nth, status).c_str());
        const std::string message = error_of(fake, [&] { use(fake, nth % 2 ? warm.path() : cold, {DType::bf16}); });
        ++tried;
        // Silent are frees, for which nothing can be done, and what has another way: programs that do not load, locked pages.
        if (message.empty()) continue;
        ++told;
        const std::vector<std::string> log = lines_of(fake.log());
        const std::string failed = nth <= log.size() ? log[nth - 1] : "";
        EXPECT_EQ(message.find(fmt::format("[{}", vendor->platform)), 0u) << failed << ": " << message;
        EXPECT_EQ(message.find('\n'), std::string::npos) << failed << ": " << message;
        EXPECT_LT(message.size(), 1000u) << failed << ": " << message;
        EXPECT_TRUE(message.ends_with('.')) << failed << ": " << message;
      }
    }
    EXPECT_GT(told, tried / 2) << vendor->platform;
  }
}

TEST(VendorErrors, MissingLibrariesAreNamedWithThePlacesLookedAt) {
  // The fake driver alone, and something else under its name.
  const TemporaryFolder alone, old;
  const FakeVendor& fake = fake_of(cuda::kMusa);
  fs::create_symlink(fake.folder / "libmusa.so.1", alone.path() / "libmusa.so.1");
  fs::create_symlink(fs::path(ZOE_FAKES) / "nothing.so", old.path() / "libmusa.so.1");
  fake.order("");
  const auto message_of = [&](const fs::path& folder) {
    return error_of(fake, [&] { open_platform("musa", {.cuda_path = folder}); });
  };
  EXPECT_EQ(
      message_of("/none").find("[musa] the driver of Moore Threads is missing: looked for libmusa.so.1 in /none, the system's "
                               "folders"),
      0u)
      << message_of("/none");
  EXPECT_EQ(
      message_of(alone.path()).find("[musa] MTRTC of Moore Threads is missing: looked for libmtrtc.so in " + alone.path().string()),
      0u)
      << message_of(alone.path());
  const std::string too_old = message_of(old.path());
  EXPECT_NE(too_old.find("is too old: it has no muInit. "), std::string::npos) << too_old;
  const TemporaryFolder broken;
  std::ofstream(broken.path() / "libmusa.so.1") << "no library";
  EXPECT_NE(message_of(broken.path()).find("libmusa.so.1: file too short"), std::string::npos) << message_of(broken.path());
}

TEST(VendorErrors, ADriverThatDoesNotStartRunsNothingHere) {
  const FakeVendor& fake = fake_of(cuda::kCuda);
  fake.order("fail init 1 100");
  const std::string message = error_of(fake, [&] { open_platform("cuda", fake.options({})); });
  EXPECT_NE(message.find("libcuda.so.1 does not start: FAKE_ERROR (100, as ordered)"), std::string::npos) << message;
}

TEST(VendorErrors, NoMemoryNamesWhatItWasFor) {
  const FakeVendor& fake = fake_of(cuda::kRocm);
  fake.order("memory 1073741824");
  EXPECT_EQ(error_of(fake,
                     [&] {
                       const auto platform = open_platform("rocm", fake.options({}));
                       EXPECT_LE(platform->free_bytes(), std::uint64_t{1} << 30);
                       EXPECT_GT(platform->free_bytes(), std::uint64_t{1023} << 20);
                       const auto half = platform->allocate(std::size_t{1} << 29, "half");
                       EXPECT_LE(platform->free_bytes(), std::uint64_t{1} << 29);
                       platform->allocate(std::size_t{1} << 30, "dit.weights");
                     }),
            "[rocm] cannot allocate 1.00 GiB for \"dit.weights\": 0.50 GiB free of 1.00. Ask for a smaller size or fewer frames.");
}

// Memory for weights is neither filled nor waited for longer than it takes to be there.
TEST(Vendors, UnsetMemoryIsNotFilled) {
  const FakeVendor& fake = fake_of(cuda::kCuda);
  fake.order("");
  const auto fills = [&] {
    int count = 0;
    for (const std::string& line : lines_of(fake.log())) count += line.starts_with("set_bytes_async");
    return count;
  };
  const auto platform = open_platform("cuda", fake.options({}));
  const int before = fills();
  const auto unset = platform->allocate_unset(4096, "weights");
  EXPECT_EQ(fills(), before);
  const auto zeroed = platform->allocate(4096, "tensor");
  EXPECT_EQ(fills(), before + 1);
  EXPECT_EQ(platform->peak_bytes(), 8192u);
  const auto host = platform->allocate_host(4096, "packed", HostPages::locked);
  EXPECT_TRUE(host->is_locked);
  std::memset(host->data, 7, 4096);
  const auto stream = platform->make_stream();
  platform->upload_later(*stream, *host, 1024, {unset.get(), 512}, 256);
  stream->synchronize();
  std::byte back{};
  platform->download(*stream, {unset.get(), 512 + 255}, &back, 1);
  EXPECT_EQ(back, std::byte{7});
}

TEST(VendorErrors, ALimitOfMemoryHolds) {
  const FakeVendor& fake = fake_of(cuda::kCuda);
  fake.order("");
  EXPECT_EQ(error_of(fake,
                     [&] {
                       PlatformOptions options = fake.options({});
                       options.memory_limit_bytes = std::uint64_t{1} << 30;
                       const auto platform = open_platform("cuda", options);
                       EXPECT_EQ(platform->free_bytes(), std::uint64_t{1} << 30);
                       auto half = platform->allocate(std::size_t{1} << 29, "half");
                       EXPECT_EQ(platform->free_bytes(), std::uint64_t{1} << 29);
                       half.reset();
                       half = platform->allocate(std::size_t{3} << 28, "three quarters");
                       platform->allocate((std::size_t{1} << 28) + 1, "rest");
                     }),
            "[cuda] cannot allocate 0.25 GiB for \"rest\": 0.25 GiB free of 8.00 and the limit of 1.00 (--memory-limit). Ask for a "
            "smaller size or fewer frames.");
}

TEST(VendorErrors, AKernelThatDoesNotBuildKeepsItsSourceAndLog) {
  for (const cuda::Vendor* vendor : kVendors) {
    const FakeVendor& fake = fake_of(*vendor);
    const TemporaryFolder cache;
    fake.order("reject __global__");
    const std::string message = error_of(fake, [&] { use(fake, cache.path()); });
    EXPECT_NE(message.find("failed to build for Fake Device 0 (status 6). The log ends: "), std::string::npos) << message;
    EXPECT_NE(message.find("is not for this compiler"), std::string::npos) << message;
    const std::string kept = "Source and log: ";
    const std::size_t at = message.find(kept);
    ASSERT_NE(at, std::string::npos) << message;
    const fs::path folder = message.substr(at + kept.size(), message.size() - at - kept.size() - 1);
    EXPECT_TRUE(fs::exists(folder / "log.txt")) << folder;
    EXPECT_GE(std::distance(fs::directory_iterator(folder), fs::directory_iterator()), 2) << folder;
  }
}

// ---- the command

class VendorCommand : public ::testing::Test {
 protected:
  CommandResult zoe(std::vector<std::string> arguments, const std::string& orders) {
    arguments.insert(arguments.begin(), ZOE_COMMAND);
    for (const std::string& more : {std::string("--cuda-path"), (fs::path(ZOE_FAKES) / "cuda").string()}) arguments.push_back(more);
    return run_command(arguments, {.folder = folder_.path(),
                                   .environment = {{"ZOE_FAKE_ORDERS", orders},
                                                   {"ZOE_FAKE_REPORT", (folder_.path() / "report").string()},
                                                   {"XDG_CACHE_HOME", (folder_.path() / "cache").string()}}});
  }
  // Into a folder that is not there yet.
  CommandResult generate(const std::string& orders, std::vector<std::string> more = {}) {
    fs::remove_all(folder_.path() / "frames");
    std::vector<std::string> arguments = {
        "generate", "--platform", "cuda",         "--prompt", "a red circle",          "--height", "64",
        "--width",  "64",         "--num-frames", "5",        "--num-inference-steps", "2",        "-o",
        "frames"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return zoe(arguments, orders);
  }
  CommandResult generate_on(const std::string& platform, const std::string& orders, std::vector<std::string> more = {}) {
    fs::remove_all(folder_.path() / "frames");
    std::vector<std::string> arguments = {
        "generate",     "--platform", platform, "--prompt", "a red circle",          "--height", "64", "--width", "64",
        "--num-frames", "5",          "-o",     "frames",   "--num-inference-steps", "2"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return zoe(arguments, orders);
  }
  std::string report() {
    std::ifstream file(folder_.path() / "report");
    return {std::istreambuf_iterator<char>(file), {}};
  }
  // Nothing but the cache of kernels and the fake's report.
  void expect_nothing_left() {
    for (const auto& entry : fs::directory_iterator(folder_.path())) {
      const std::string name = entry.path().filename().string();
      EXPECT_TRUE(name == "cache" || name == "report") << name;
    }
  }
  const TemporaryFolder folder_;
};

TEST_F(VendorCommand, RunsThePipelineAndFreesAll) {
  const CommandResult result = generate("");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(fs::exists(folder_.path() / "frames" / "0005.png"));
  EXPECT_EQ(report(), "");
}

TEST_F(VendorCommand, BlocksComeAndGoAndAllIsFreed) {
  const CommandResult result = generate("", {"--offload", "blocks"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("offload blocks"), std::string::npos) << result.out;
  EXPECT_EQ(report(), "");
  EXPECT_EQ(generate("", {"--offload", "blocks", "--host-memory-limit", "0"}).code, 0);
  EXPECT_EQ(report(), "");
}

TEST_F(VendorCommand, WhereNoPagesAreLockedItSaysSoAndGoesOn) {
  int said = 0;
  for (const int nth : {1, 3, 5, 8, 11, 14}) {  // of the staging of uploads, and of packed blocks
    const CommandResult result = generate(fmt::format("fail host_allocate {} 2", nth), {"--offload", "blocks"});
    EXPECT_EQ(result.code, 0) << nth << result.err;
    said += result.out.find("the system locks no more pages") != std::string::npos;
    EXPECT_EQ(report(), "") << nth;
  }
  EXPECT_GT(said, 0);
}

TEST_F(VendorCommand, ListsTheLibraries) {
  const CommandResult result = zoe({"platforms"}, "");
  EXPECT_EQ(result.code, 0);
  for (const char* text : {"Fake Device 0", "driver", "NVRTC", "cuBLASLt", "13.0", "libcuda.so.1"})
    EXPECT_NE(result.out.find(text), std::string::npos) << text << " in " << result.out;
}

TEST_F(VendorCommand, ALostDeviceIsOneLineAndLeavesNothing) {
  for (const char* orders : {"fail launch 40 719", "fail stream_synchronize 12 719", "fail copy_to_host_async 2 700"}) {
    const CommandResult result = generate(orders);
    EXPECT_EQ(result.code, 1) << orders << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(result.err.find("zoe: [cuda] "), 0u) << result.err;
    EXPECT_NE(result.err.find("the device is lost"), std::string::npos) << result.err;
    EXPECT_EQ(report(), "") << orders;
    expect_nothing_left();
  }
}

TEST_F(VendorCommand, ADeviceTooSmallForThePlanSaysSo) {
  for (const auto& [orders, more] : {std::pair<const char*, std::vector<std::string>>{"memory 2000000", {}},
                                     {"", {"--memory-limit", "2MB"}},
                                     {"", {"--memory-limit", "2MB", "--offload", "blocks"}}}) {
    const CommandResult result = generate(orders, more);
    EXPECT_EQ(result.code, 3) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(report(), "");
    expect_nothing_left();
  }
}

// Several devices (docs/devices.md).
TEST_F(VendorCommand, DevicesShareAStepAndAllIsFreed) {
  for (const auto& [orders, platform, parallel] : {std::tuple{"devices 2", "cuda:0,1", "guidance"},
                                                   {"devices 2", "cuda:1,0", "sequence"},
                                                   {"devices 4", "cuda:all", "guidance+sequence"},
                                                   {"devices 2;linked 0", "cuda:0,1", "sequence"}}) {
    const CommandResult result = generate_on(platform, orders, {"--parallel", parallel, "--vae-tiles", "2"});
    EXPECT_EQ(result.code, 0) << parallel << result.err;
    EXPECT_TRUE(fs::exists(folder_.path() / "frames" / "0005.png"));
    EXPECT_EQ(report(), "") << parallel;
  }
}

TEST_F(VendorCommand, ADeviceOfAGroupThatIsLostIsOneLineAndLeavesNothing) {
  for (const char* parallel : {"guidance", "sequence"})
    for (const char* orders :
         {"fail launch 400 719", "fail launch 700 719", "fail copy_async 40 719", "fail stream_wait_event 60 719",
          "fail event_create 90 719", "fail stream_synchronize 40 719", "fail memory_allocate_async 120 2"}) {
      const CommandResult result = generate_on("cuda:0,1", std::string("devices 2;") + orders, {"--parallel", parallel});
      if (result.code == 0) continue;  // there were fewer such calls
      EXPECT_TRUE(result.code == 1 || result.code == 3) << orders << result.err;
      EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << orders << result.err;
      EXPECT_EQ(result.err.find("zoe: ["), 0u) << orders << result.err;
      EXPECT_EQ(result.err.find("one of its group has failed"), std::string::npos) << orders << result.err;
      EXPECT_EQ(report(), "") << parallel << ", " << orders;
      expect_nothing_left();
    }
}

TEST_F(VendorCommand, AKernelThatDoesNotBuildIsOneLineOfLog) {
  const CommandResult result = generate("reject __global__");
  EXPECT_EQ(result.code, 1) << result.err;
  EXPECT_EQ(result.err.find("zoe: [cuda] kernel "), 0u) << result.err;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_EQ(report(), "");
  expect_nothing_left();
}

TEST_F(VendorCommand, AutoTakesTheDeviceThatOpens) {
  const CommandResult result = zoe({"generate", "--prompt", "x", "--height", "64", "--width", "64", "--num-frames", "1",
                                    "--num-inference-steps", "1", "-o", "a.png"},
                                   "");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("on cuda (Fake Device 0)"), std::string::npos) << result.out;
}

// Attention on Hopper: its operands are described to the driver, and what overflows is looked for behind it.
TEST(FlashAttention, DescribesItsOperandsAndLooksForWhatOverflows) {
  const FakeVendor& fake = fake_of(cuda::kCuda);
  const TemporaryFolder cache;
  const auto attend = [&](const std::string& orders) {
    fake.order(("capability 9 0;" + orders).c_str());
    const auto platform = open_platform("cuda", fake.options(cache.path()));
    const Value q = input("q", DType::bf16, {2, 300, 3, 128}), k = input("k", DType::bf16, {2, 16, 3, 128});
    const Value bias = input("bias", DType::f32, {2, 1, 1, 16});
    const auto kernel = platform->make_kernel(attention(q, k, k, 0.1, bias).node());
    EXPECT_EQ(kernel->implementation(), "flash attention, wgmma, 128 queries and 16 keys at a time");
    EXPECT_EQ(kernel->scratch_bytes(), 3u * 3 * 2 * 8);  // a flag for each of 8 warps of every 128 queries
    std::vector<std::shared_ptr<Buffer>> buffers;
    std::vector<Slot> slots;
    for (const Type& type : {q.type(), k.type(), k.type(), bias.type(), q.type(), Type{DType::f32, {36}}}) {
      buffers.push_back(platform->allocate(type.size_bytes(), "operand"));
      slots.push_back({buffers.back().get(), 0});
    }
    const auto stream = platform->make_stream();
    kernel->run(*stream, {slots.data(), 4}, {&slots[4], 1}, slots[5]);
  };
  attend("");
  std::vector<std::string> calls;
  for (const std::string& line : lines_of(fake.log()))
    if (line.starts_with("tensor_map_encode") || line.starts_with("launch")) calls.push_back(line);
  ASSERT_EQ(calls.size(), 5u) << fake.log();
  for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(calls[i].starts_with("tensor_map_encode")) << calls[i];
  EXPECT_NE(calls[3].find("flash_attention 16 1 1 384 1 1"), std::string::npos) << calls[3];
  EXPECT_NE(calls[4].find("flash_attention_again 16 1 1 384 1 1"), std::string::npos) << calls[4];
  EXPECT_STREQ(fake.problems(), "");
  try {
    attend("fail tensor_map_encode 2 1");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("describing an operand of attention failed"), std::string::npos) << error.what();
  }
  fake.order("");
}

// Large ones are pages of this process that the driver locks; where it does not, its own memory serves, and where there is none
// ordinary memory.
TEST(Vendors, LargeBuffersOfThisProcessAreLockedWhereTheyAre) {
  constexpr std::size_t kSize = (std::size_t{40} << 20) + 4096;
  for (const cuda::Vendor* vendor : kVendors) {
    const FakeVendor& fake = fake_of(*vendor);
    for (const char* orders : {"", "refuse host_register 2", "refuse host_register 2; fail host_allocate 1 2"}) {
      fake.order(orders);
      EXPECT_EQ(error_of(fake,
                         [&] {
                           const LogScope log_scope([](LogLevel, std::string_view) {});
                           const auto platform = open_platform(vendor->platform, fake.options({}));
                           const auto buffer = platform->allocate_host(kSize, "packed", HostPages::locked);
                           EXPECT_EQ(buffer->is_locked, std::string_view(orders).find("fail") == std::string_view::npos);
                           if (*orders == 0) {
                             EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer->data) % 64, 0u);
                           }
                           std::memset(buffer->data, 7, kSize);
                         }),
                "");
      const std::string log = fake.log();
      EXPECT_NE(log.find("host_register"), std::string::npos) << log;
      EXPECT_EQ(log.find("host_unregister") != std::string::npos, *orders == 0) << log;
    }
  }
}

// A process may lock few pages (`ulimit -l`), and none may be left: slower, said once, and the same bytes.
TEST(Vendors, PagesThatAreNotLockedHoldTheSameBytes) {
  for (const cuda::Vendor* vendor : kVendors) {
    const FakeVendor& fake = fake_of(*vendor);
    fake.order("refuse host_allocate 2");
    std::vector<std::string> lines;
    EXPECT_EQ(error_of(fake,
                       [&] {
                         const LogScope log_scope([&](LogLevel, std::string_view text) { lines.emplace_back(text); });
                         const auto platform = open_platform(vendor->platform, fake.options({}));
                         const auto first = platform->allocate_host(4096, "packed", HostPages::locked),
                                    second = platform->allocate_host(4096, "packed", HostPages::locked);
                         EXPECT_FALSE(first->is_locked || second->is_locked);
                         std::memset(second->data, 7, 4096);
                         const auto buffer = platform->allocate(4096, "weights");
                         const auto stream = platform->make_stream();
                         platform->upload_later(*stream, *second, 1024, {buffer.get(), 512}, 256);
                         stream->synchronize();
                         std::vector<std::byte> back(4096);
                         platform->download(*stream, {buffer.get(), 0}, back.data(), back.size());
                         for (std::size_t i = 0; i < back.size(); ++i)
                           ASSERT_EQ(back[i], std::byte(i >= 512 && i < 768 ? 7 : 0)) << vendor->platform << ", byte " << i;
                       }),
              "");
    ASSERT_EQ(lines.size(), 1u) << vendor->platform;
    EXPECT_NE(lines[0].find("locks no more pages"), std::string::npos) << lines[0];
  }
}

}  // namespace
}  // namespace zoe::testing
