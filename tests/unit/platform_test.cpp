#include "platform/platform.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "ir/trace.h"
#include "platform/cpu/host.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;

template <class Body>
std::string message_of(ErrorKind kind, Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  return "no error";
}

TEST(Platform, OpensByName) {
  EXPECT_EQ(open_platform("null")->info().platform, "null");
  const auto cpu = open_platform("cpu", {.threads = 3});
  EXPECT_EQ(cpu->info().platform, "cpu");
  EXPECT_EQ(cpu->info().threads, std::min(3, omp_get_thread_limit()));
  EXPECT_FALSE(cpu->info().name.empty());
  EXPECT_GT(cpu->free_bytes(), 0u);
  EXPECT_LE(cpu->free_bytes(), cpu->info().memory_bytes);
  EXPECT_GE(open_platform("cpu")->info().threads, 1);
}

// What a device is, is known when it opens; what is free is asked for. Sessions on other threads read the former meanwhile.
TEST(Platform, InfoStaysAsItWasWhileFreeMemoryChanges) {
  const auto cpu = open_platform("cpu");
  const DeviceInfo* const info = &cpu->info();
  const std::uint64_t memory = info->memory_bytes, before = cpu->free_bytes();
  const std::size_t quarter = static_cast<std::size_t>(before / 4);
  const auto buffer = cpu->allocate(quarter, "a quarter");
  EXPECT_LT(cpu->free_bytes(), before - quarter / 2);
  EXPECT_EQ(&cpu->info(), info);
  EXPECT_EQ(info->memory_bytes, memory);
}

TEST(Platform, SaysWhatItsBitsAndItsMemoryAre) {
  for (const char* name : {"cpu", "null"}) {
    EXPECT_TRUE(open_platform(name)->info().exact_bits) << name;
    EXPECT_TRUE(open_platform(name)->info().unified_memory) << name;
  }
}

TEST(Platform, UnknownNamesAreAnsweredWithTheNearest) {
  EXPECT_EQ(message_of(ErrorKind::invalid_argument, [] { open_platform("cpuu"); }),
            "[platform] unknown platform: got \"cpuu\", expected one of auto, cpu, cuda, mps, musa, npu, null, opencl, rocm, xpu. "
            "Did you "
            "mean cpu?");
  EXPECT_EQ(message_of(ErrorKind::invalid_argument, [] { open_platform(""); }),
            "[platform] unknown platform: got \"\", expected one of auto, cpu, cuda, mps, musa, npu, null, opencl, rocm, xpu.");
}

TEST(Platform, BadThreadCountsAreRefused) {
  for (const int threads : {-1, 1025})
    EXPECT_NE(message_of(ErrorKind::invalid_argument, [&] { open_platform("cpu", {.threads = threads}); })
                  .find("got " + std::to_string(threads)),
              std::string::npos);
}

// The names of vendors whose driver API is CUDA's. What is missing, and where it was looked for, is one line.
TEST(Platform, VendorsOfTheCudaPlatformOpenOrSayWhatIsMissing) {
  for (const char* name : {"cuda", "musa", "rocm"}) {
    try {
      EXPECT_EQ(open_platform(name, {.cuda_path = "/none"})->info().platform, name);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::unsupported);
      const std::string message = error.what();
      EXPECT_EQ(message.find(fmt::format("[{}] ", name)), 0u) << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
      if (message.find("is missing: looked for ") != std::string::npos) {
        EXPECT_NE(message.find("in /none, the system's folders"), std::string::npos) << message;
      }
    }
  }
  for (const char* bad : {"cuda:", "cuda:x", "musa:-1", "rocm:1x"})
    EXPECT_NE(message_of(ErrorKind::invalid_argument, [&] { open_platform(bad); }).find("expected "), std::string::npos) << bad;
}

TEST(Platform, NamesWithoutARoadSayWhy) {
  EXPECT_EQ(message_of(ErrorKind::unsupported, [] { open_platform("npu"); }).find("[npu] no NPU runs Zoetrope"), 0u);
}

// A vendor's OpenCL device, but never its CPU: there `cpu` is faster.
TEST(Platform, VendorNamesOpenThatVendorsDeviceOrSayWhyNot) {
  for (const std::string name : {"xpu", "mps"}) {
    try {
      EXPECT_EQ(open_platform(name)->info().platform, "opencl");
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::unsupported);
      EXPECT_EQ(std::string(error.what()).find("[opencl] "), 0u) << error.what();
    }
  }
}

TEST(Platform, AutoSaysWhatItDidNotTake) {
  std::vector<std::string> lines;
  const LogScope log_scope([&](LogLevel level, std::string_view text) {
    EXPECT_EQ(level, LogLevel::detail);
    lines.emplace_back(text);
  });
  const auto platform = open_platform("auto");
  if (platform->info().platform != "cpu") GTEST_SKIP() << "auto takes " << platform->info().platform << " here";
  ASSERT_GE(lines.size(), 2u);
  EXPECT_EQ(lines[0].find("platform auto does not take cuda: [cuda] "), 0u) << lines[0];
  EXPECT_EQ(std::count(lines.begin(), lines.end(),
                       "platform auto does not try xpu: no OpenCL device has been measured to beat cpu, ask for it by name"),
            1);
  EXPECT_EQ(lines.back().find("platform auto takes "), 0u) << lines.back();
}

TEST(Platform, ListsEveryNameWithItsDeviceOrTheReason) {
  std::vector<std::string> names;
  for (const PlatformReport& report : list_platforms()) {
    names.push_back(report.name);
    EXPECT_FALSE(report.detail.empty()) << report.name;
    if (report.name == "cpu" || report.name == "null") {
      EXPECT_TRUE(report.opens);
    }
    if (report.name == "npu") {
      EXPECT_FALSE(report.opens);
    }
  }
  for (const char* name : {"cuda", "musa", "rocm", "xpu", "mps", "npu", "cpu", "opencl", "null"})
    EXPECT_EQ(std::count(names.begin(), names.end(), name), 1) << name;
}

TEST(Platform, CpuMemoryIsZeroedAndAligned) {
  const auto cpu = open_platform("cpu");
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{4097}, std::size_t{9} << 20}) {
    const auto buffer = cpu->allocate(size, "test");
    EXPECT_EQ(buffer->size_bytes, size);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer->data) % 64, 0u);
    const auto* bytes = static_cast<const unsigned char*>(buffer->data);
    EXPECT_EQ(std::count(bytes, bytes + size, 0), static_cast<std::ptrdiff_t>(size));
    std::memset(buffer->data, 1, size);
  }
}

TEST(Platform, CpuMemoryBeyondWhatIsFreeIsRefused) {
  const auto cpu = open_platform("cpu");
  for (const std::size_t size : {SIZE_MAX, SIZE_MAX / 2, static_cast<std::size_t>(cpu->info().memory_bytes) + 1}) {
    const std::string message = message_of(ErrorKind::out_of_memory, [&] { cpu->allocate(size, "dit.weights"); });
    EXPECT_NE(message.find("[cpu] cannot allocate "), std::string::npos) << message;
    EXPECT_NE(message.find("GiB for \"dit.weights\""), std::string::npos) << message;
    EXPECT_NE(message.find("GiB free of"), std::string::npos) << message;
  }
}

TEST(Platform, CpuMemoryPromisedAndNotTouchedCounts) {
  const auto cpu = open_platform("cpu");
  const auto most = static_cast<std::size_t>(cpu->free_bytes() / 5 * 3);
  auto first = cpu->allocate(most, "first");
  message_of(ErrorKind::out_of_memory, [&] {
    cpu->allocate(most, "second");
    ADD_FAILURE() << "more was promised than there is";
  });
  first.reset();
  EXPECT_EQ(cpu->allocate(most, "second")->size_bytes, most);
}

TEST(Platform, CpuCopiesInStreamOrder) {
  const auto cpu = open_platform("cpu");
  const auto stream = cpu->make_stream();
  const auto buffer = cpu->allocate(64, "test");
  const std::vector<float> given = {1, 2, 3};
  std::vector<float> back(3);
  cpu->upload(*stream, given.data(), {buffer.get(), 16}, 12);
  cpu->download(*stream, {buffer.get(), 16}, back.data(), 12);
  stream->synchronize();
  EXPECT_EQ(back, given);
}

TEST(Platform, NullMakesEveryKernelAndRunsNothing) {
  const auto null = open_platform("null");
  const auto stream = null->make_stream();
  const auto buffer = null->allocate(std::size_t{1} << 40, "far beyond the machine");
  const Value x = input("x", DType::f32, {4, 8}), w = parameter("w", DType::f32, {2, 8});
  for (const Value& node : {exp(x), linear(x, w), permute(x, {1, 0})}) {
    const auto kernel = null->make_kernel(node.node());
    EXPECT_EQ(kernel->implementation(), "null");
    kernel->run(*stream, {}, {}, {});
  }
  float value = 7;
  null->upload(*stream, &value, {buffer.get(), 0}, sizeof value);
  null->download(*stream, {buffer.get(), 0}, &value, sizeof value);
  EXPECT_EQ(value, 0);
  message_of(ErrorKind::out_of_memory, [&] {
    null->allocate(SIZE_MAX / 2, "the address space");
    ADD_FAILURE() << "more was reserved than there is";
  });
}

TEST(Platform, DefaultWeightsAreConvertedFromAnyAddress) {
  struct Plain : Kernel {
    std::string_view implementation() const override { return "plain"; }
    void run(Stream&, std::span<const Slot>, std::span<const Slot>, Slot) const override {}
  } kernel;
  const std::int64_t count = 600001;  // several chunks, and a rest
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(static_cast<int>(i % 4001) - 2000) / 16.0f;  // exact in f16
  for (const DType stored : {DType::f32, DType::f16, DType::bf16})
    for (const DType wanted : {DType::f32, DType::bf16}) {
      std::vector<std::byte> dense(values.size() * size_of(stored)), file(dense.size() + 1);
      convert(values.data(), DType::f32, dense.data(), stored, values.size());
      std::memcpy(file.data() + 1, dense.data(), dense.size());  // an odd address
      const Type type{wanted, {count}};
      ASSERT_EQ(kernel.packed_bytes(0, type), values.size() * size_of(wanted));
      std::vector<std::byte> expected(kernel.packed_bytes(0, type)), packed(expected.size());
      convert(dense.data(), stored, expected.data(), wanted, values.size());
      kernel.pack_weight(0, type, DenseWeight(stored, {count}, file.data() + 1), packed.data());
      EXPECT_EQ(packed, expected) << name(stored) << " to " << name(wanted);
    }
}

// A made-up system below a temporary folder.
class Host : public ::testing::Test {
 protected:
  void write(const std::string& path, const std::string& text) {
    fs::create_directories((root() / path).parent_path());
    std::ofstream(root() / path) << text;
  }
  const fs::path& root() const { return folder_.path(); }
  void SetUp() override { write("proc/meminfo", "MemTotal:       16000 kB\nMemFree:  10 kB\nMemAvailable:    9000 kB\n"); }

 private:
  testing::TemporaryFolder folder_;
};

TEST_F(Host, ReadsTheMachinesMemory) {
  EXPECT_EQ(cpu::host_memory(root()).total_bytes, 16000u * 1024);
  EXPECT_EQ(cpu::host_memory(root()).free_bytes, 9000u * 1024);
  write("proc/self/status", "Name:\tzoe\nRssAnon:\t     123 kB\n");
  EXPECT_EQ(cpu::anonymous_bytes(root()), 123u * 1024);
}

// A kernel that hands out memory as it is used: MemTotal is what it has handed out so far.
TEST_F(Host, AMachineWhoseMemoryGrowsIsNotASmallOne) {
  write("sys/devices/system/memory/block_size_bytes", "800000\n");  // 8 MiB, in hexadecimal
  for (int block = 0; block < 8; ++block)
    write(fmt::format("sys/devices/system/memory/memory{}/state", block), block < 6 ? "online\n" : "offline\n");
  const std::uint64_t online = std::uint64_t{48} << 20, later = online - online / 16 - 16000u * 1024;
  EXPECT_EQ(cpu::host_memory(root()).total_bytes, 16000u * 1024 + later);
  EXPECT_EQ(cpu::host_memory(root()).free_bytes, 9000u * 1024 + later);
  // A balloon has taken some of it back: as new kernels say it, and as older ones count its pages.
  write("proc/meminfo", "MemTotal:       16000 kB\nMemAvailable:    9000 kB\nBalloon:         1000 kB\n");
  EXPECT_EQ(cpu::host_memory(root()).free_bytes, 8000u * 1024 + later);
  write("proc/vmstat", "nr_free_pages 7\nballoon_inflate 10000\nballoon_deflate 5000\n");
  EXPECT_EQ(cpu::host_memory(root()).free_bytes, 9000u * 1024 + later - 5000u * 4096);
  // All of it is handed out, but for what a kernel keeps; a limit holds all the same.
  write("proc/meminfo", "MemTotal:       48000 kB\nMemAvailable:    9000 kB\n");
  EXPECT_EQ(cpu::host_memory(root()).total_bytes, 48000u * 1024);
  EXPECT_EQ(cpu::host_memory(root()).free_bytes, 9000u * 1024);
  write("proc/meminfo", "MemTotal:       16000 kB\nMemAvailable:    9000 kB\n");
  write("sys/fs/cgroup/memory.max", "4000000\n");
  write("sys/fs/cgroup/memory.current", "1000000\n");
  EXPECT_EQ(cpu::host_memory(root()).free_bytes, 3000000u);
}

TEST_F(Host, CountsCodeThatIsOfNoFile) {
  write("proc/self/smaps",
        "55d0c0000000-55d0c0100000 r-xp 00001000 08:01 42 /usr/bin/zoe\nRss: 900 kB\nAnonymous: 0 kB\n"
        "7f0000000000-7f0000040000 rwxp 00000000 00:00 0 \nSize: 256 kB\nRss: 12 kB\nVmFlags: rd wr ex\n"
        "7f0000040000-7f0000080000 rw-p 00000000 00:00 0 \nRss: 256 kB\n"
        "7f0000080000-7f0000090000 r-xp 00000000 00:00 0 \nRss: 8 kB\n"
        "7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0 [vdso]\nRss: 4 kB\n");
  EXPECT_EQ(cpu::generated_code_bytes(root()), 20u * 1024);
}

TEST_F(Host, RespectsALimitOfCgroup2OnAnyLevel) {
  write("proc/self/cgroup", "0::/outer/inner\n");
  write("sys/fs/cgroup/outer/inner/memory.max", "max\n");
  write("sys/fs/cgroup/outer/inner/memory.current", "100000\n");
  EXPECT_EQ(cpu::host_memory(root()).free_bytes, 9000u * 1024);
  write("sys/fs/cgroup/outer/memory.max", "5000000\n");
  write("sys/fs/cgroup/outer/memory.current", "3000000\n");
  write("sys/fs/cgroup/outer/memory.stat", "anon 1\nfile 900000\ninactive_file 300000\nactive_file 600000\n");
  EXPECT_EQ(cpu::host_memory(root()).total_bytes, 5000000u);
  EXPECT_EQ(cpu::host_memory(root()).free_bytes, 5000000u - 3000000u + 900000u);  // page cache goes when needed
}

TEST_F(Host, RespectsALimitOfCgroup1SeenFromInsideAContainer) {
  write("proc/self/cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n");  // the path is the host's
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "4000000\n");
  write("sys/fs/cgroup/memory/memory.usage_in_bytes", "4500000\n");
  EXPECT_EQ(cpu::host_memory(root()).total_bytes, 4000000u);
  EXPECT_EQ(cpu::host_memory(root()).free_bytes, 0u);
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");  // none
  EXPECT_EQ(cpu::host_memory(root()).free_bytes, 9000u * 1024);
}

TEST_F(Host, RespectsAQuotaOfProcessorTime) {
  const int all = cpu::usable_threads(root());
  EXPECT_GE(all, 1);
  write("sys/fs/cgroup/cpu.max", "max 100000\n");
  EXPECT_EQ(cpu::usable_threads(root()), all);
  write("sys/fs/cgroup/cpu.max", "40000 100000\n");
  EXPECT_EQ(cpu::usable_threads(root()), 1);
  write("sys/fs/cgroup/cpu.max", "110000 100000\n");
  EXPECT_EQ(cpu::usable_threads(root()), std::min(all, 2));
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");  // none, in cgroup 1
  write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(cpu::usable_threads(root()), std::min(all, 2));
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000\n");
  EXPECT_EQ(cpu::usable_threads(root()), 1);
}

TEST_F(Host, NamesTheProcessor) {
  EXPECT_EQ(cpu::cpu_name(root()), "unknown CPU");
  EXPECT_EQ(cpu::cpu_features(root()), "");
  write("proc/cpuinfo", "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu sse4_1 avx2 avx512_bf16 amx_bf16x\n");
  EXPECT_EQ(cpu::cpu_name(root()), "Some CPU @ 2 GHz");
  EXPECT_EQ(cpu::cpu_features(root()), "sse4_1 avx2 avx512_bf16");
}

}  // namespace
}  // namespace zoe
