// The kernel cache and the building of C++ kernels, with the system's compiler.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <future>
#include <sstream>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "compiler/compile.h"
#include "ir/trace.h"
#include "kernels.h"
#include "platform/cpu/compiler.h"
#include "platform/kernel_cache.h"
#include "testing/run_command.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using cpu::CppBuildOptions;
using cpu::CppCompiler;
using cpu::CppKernel;
using testing::check_kernel;
using testing::kKernelPrelude;
using testing::make_kernel;
using testing::make_kernels;
using testing::run_command;
using testing::TemporaryFolder;

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A new file under the old name: other links to the old one stay as they are.
void replace(const fs::path& path, const std::string& text) {
  fs::remove(path);
  std::ofstream(path, std::ios::binary) << text;
}

int lines_with(const std::string& text, std::string_view piece) {
  int count = 0;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) count += line.find(piece) != std::string::npos;
  return count;
}

class KernelCacheTest : public ::testing::Test {
 protected:
  void SetUp() override {
    KernelCache none({.enabled = false});
    const CppCompiler compiler(none, {});
    if (!compiler.reason().empty()) GTEST_SKIP() << "[SKIP] " << compiler.reason();
  }

  fs::path folder() const { return temporary_.path() / "a cache's \"folder\""; }  // no shell may see this name
  fs::path entry(const std::string& name) const { return fs::canonical(folder() / "names" / name); }
  std::string take_messages() { return std::exchange(messages_, {}); }

  // As a new process would.
  std::vector<void*> build(std::span<const CppKernel> kernels, CppBuildOptions options = {.threads = 2},
                           KernelCache::Options cache_options = {}) {
    cache_options.folder = folder();
    KernelCache cache(cache_options);
    CppCompiler compiler(cache, std::move(options));
    EXPECT_EQ(compiler.reason(), "");
    return compiler.build(kKernelPrelude, kernels);
  }
  void expect_right(const std::vector<void*>& functions) {
    for (std::size_t i = 0; i < functions.size(); ++i) EXPECT_EQ(check_kernel(functions[i], static_cast<int>(i)), "");
  }

  const TemporaryFolder temporary_;
  std::string messages_;
  const LogScope log_scope_{[this](LogLevel level, std::string_view text) {
    messages_ += fmt::format("{}: {}\n", level == LogLevel::notice ? "notice" : "detail", text);
  }};
};

TEST_F(KernelCacheTest, ASecondRunCompilesNothing) {
  const auto kernels = make_kernels(5);
  expect_right(build(kernels));
  std::string said = take_messages();
  EXPECT_EQ(lines_with(said, "notice: compiling 5 kernels with "), 1) << said;
  EXPECT_EQ(lines_with(said, "detail: compiled 5 kernels in "), 1) << said;
  expect_right(build(kernels));
  EXPECT_EQ(take_messages(), "detail: kernel cache: 5 of 5 found\n");

  struct stat info {};
  ASSERT_EQ(::stat(folder().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  EXPECT_TRUE(fs::is_empty(folder() / "tmp"));
  EXPECT_EQ(read(entry("norm_3") / "source.cpp"), kKernelPrelude + "\n" + kernels[3].source + "\n");
  EXPECT_EQ(fs::hard_link_count(entry("norm_3") / "kernel.so"),
            2 + (fs::equivalent(entry("norm_3") / "kernel.so", entry("norm_0") / "kernel.so")));
}

TEST_F(KernelCacheTest, KernelsOfOneNameAndTwinsAreKeptApart) {
  // The same name and helper names in one unit, and one kernel twice.
  const std::vector<CppKernel> kernels = {make_kernel(1, 1), make_kernel(1, 2), make_kernel(1, 1)};
  const auto functions = build(kernels, {.threads = 1});
  EXPECT_EQ(check_kernel(functions[0], 1, 1), "");
  EXPECT_EQ(check_kernel(functions[1], 1, 2), "");
  EXPECT_EQ(functions[2], functions[0]);
  EXPECT_EQ(lines_with(take_messages(), "compiling 2 kernels"), 1);
}

TEST_F(KernelCacheTest, ADamagedEntryAloneIsRebuiltWithOneWarning) {
  const auto kernels = make_kernels(4);
  const struct {
    const char* what;
    std::function<void(const fs::path&)> damage;
  } cases[] = {
      {"missing binary", [](const fs::path& e) { fs::remove(e / "kernel.so"); }},
      {"missing source", [](const fs::path& e) { fs::remove(e / "source.cpp"); }},
      {"missing meta", [](const fs::path& e) { fs::remove(e / "meta.json"); }},
      {"broken meta", [](const fs::path& e) { replace(e / "meta.json", "{\"binary\": 3"); }},
      {"empty", [](const fs::path& e) { replace(e / "kernel.so", ""); }},
      {"truncated", [](const fs::path& e) { replace(e / "kernel.so", read(e / "kernel.so").substr(0, 5000)); }},
      {"one bit",
       [](const fs::path& e) {
         std::string bytes = read(e / "kernel.so");
         bytes[bytes.size() / 2] ^= 4;
         replace(e / "kernel.so", bytes);
       }},
      {"wrong hash",
       [](const fs::path& e) {
         std::string meta = read(e / "meta.json");
         const std::size_t at = meta.find("binary_sha256\": \"") + 17;
         meta[at] = meta[at] == '0' ? '1' : '0';
         replace(e / "meta.json", meta);
       }},
      {"another symbol",
       [](const fs::path& e) {
         std::string meta = read(e / "meta.json");
         meta.insert(meta.find("symbol\": \"") + 10, "x");
         replace(e / "meta.json", meta);
       }},
  };
  build(kernels);
  for (const auto& c : cases) {
    SCOPED_TRACE(c.what);
    const fs::path damaged = entry("norm_2");
    c.damage(damaged);
    take_messages();
    expect_right(build(kernels));
    const std::string said = take_messages();
    EXPECT_EQ(lines_with(said, "notice: kernel cache: the entry of norm_2"), 1) << said;
    EXPECT_EQ(lines_with(said, "notice: compiling 1 kernel with"), 1) << said;
    EXPECT_EQ(lines_with(said, "notice: "), 2) << said;
    expect_right(build(kernels));
    EXPECT_EQ(take_messages(), "detail: kernel cache: 4 of 4 found\n");
  }
}

TEST_F(KernelCacheTest, ABinaryThatDoesNotLoadIsRebuilt) {
  const auto kernels = make_kernels(2);
  build(kernels);
  // A stored binary with the right hash that is no library: what another C library or a broken linker might leave.
  const std::string text = "not a library, but as it was stored";
  const fs::path bad = temporary_.path() / "bad.so";
  replace(bad, text);
  KernelCache cache({.folder = folder()});
  CppCompiler compiler(cache, {});
  const std::string meta = read(entry("norm_1") / "meta.json");
  KernelRecipe recipe{.name = "norm_1", .dialect = "cpp", .source = read(entry("norm_1") / "source.cpp")};
  const auto field = [&](const std::string& key) {
    const std::size_t begin = meta.find("\"" + key + "\": \"") + key.size() + 5;
    return meta.substr(begin, meta.find('"', begin) - begin);
  };
  recipe.compiler = field("compiler");
  recipe.flags = field("flags");
  recipe.target = field("target");
  ASSERT_EQ(recipe.key(), entry("norm_1").filename().string());
  fs::remove_all(entry("norm_1"));
  cache.store(std::vector<KernelCache::NewKernel>{{&recipe, bad, "norm_1"}});
  ASSERT_TRUE(cache.find(recipe));
  take_messages();
  expect_right(build(kernels));
  const std::string said = take_messages();
  EXPECT_EQ(lines_with(said, "notice: kernel cache: the entry of norm_1"), 1) << said;
  EXPECT_EQ(lines_with(said, "compiling 1 kernel "), 1) << said;
}

TEST_F(KernelCacheTest, OnlyWhatChangedIsCompiled) {
  auto kernels = make_kernels(4);
  build(kernels);
  take_messages();
  kernels[1] = make_kernel(1, 3);
  const auto functions = build(kernels);
  EXPECT_EQ(check_kernel(functions[1], 1, 3), "");
  std::string said = take_messages();
  EXPECT_EQ(lines_with(said, "notice: compiling 1 kernel with"), 1) << said;
  EXPECT_EQ(lines_with(said, "detail: kernel cache: norm_1 is compiled again: source changed"), 1) << said;

  CppBuildOptions options;
  options.flags.push_back("-funroll-loops");
  build(kernels, options);
  said = take_messages();
  EXPECT_EQ(lines_with(said, "notice: compiling 4 kernels with"), 1) << said;
  EXPECT_EQ(lines_with(said, "compiled again: flags changed"), 4) << said;
  options.flags.push_back("-mno-avx2");
  build(kernels, options);
  said = take_messages();
  EXPECT_EQ(lines_with(said, "compiled again: flags, target changed"), 4) << said;
}

TEST_F(KernelCacheTest, TwoProcessesAtOnce) {
  const auto start = [&] { return run_command({ZOE_CACHE_PROCESS, folder().string(), "6"}); };
  for (int round = 0; round < 2; ++round) {
    auto other = std::async(std::launch::async, start);
    const auto mine = start(), others = other.get();
    for (const auto& result : {mine, others}) {
      EXPECT_EQ(result.code, 0) << result.line << "\n" << result.out << result.err;
      EXPECT_EQ(lines_with(result.out, "ok"), 1);
      EXPECT_EQ(lines_with(result.out, "notice: kernel cache"), 0) << result.out;
    }
    EXPECT_EQ(std::distance(fs::directory_iterator(folder() / "kernels"), fs::directory_iterator()), 6);
    EXPECT_TRUE(fs::is_empty(folder() / "tmp"));
    EXPECT_EQ(lines_with(start().out, "6 of 6 found"), 1);
    fs::remove_all(folder() / "kernels");
  }
}

// Processes that evict each other's entries all the time still get their kernels.
TEST_F(KernelCacheTest, EvictionUnderOtherProcesses) {
  std::atomic<bool> stop = false;
  auto evicting = std::async(std::launch::async, [&] {
    while (!stop) {
      std::error_code ignored;
      for (const auto& each : fs::directory_iterator(folder() / "kernels", ignored)) {
        fs::rename(each.path(), temporary_.path() / "gone", ignored);
        fs::remove_all(temporary_.path() / "gone", ignored);
      }
    }
  });
  for (int i = 0; i < 4; ++i) {
    const auto result = run_command({ZOE_CACHE_PROCESS, folder().string(), "3"});
    EXPECT_EQ(result.code, 0) << result.out << result.err;
  }
  stop = true;
}

TEST_F(KernelCacheTest, AFolderThatCannotBeWritten) {
  // To root nothing is read-only, so the process becomes somebody else.
  build(make_kernels(2));
  const fs::path open_folder = temporary_.path() / "open";
  fs::copy(folder(), open_folder, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  for (const auto& each : fs::recursive_directory_iterator(open_folder))
    if (!each.is_symlink()) fs::permissions(each, fs::is_directory(each) ? fs::perms(0555) : fs::perms(0444));
  fs::permissions(open_folder, fs::perms(0555));
  fs::permissions(temporary_.path(), fs::perms(0755));
  std::vector<std::string> command = {ZOE_CACHE_PROCESS, open_folder.string(), "2"};
  if (::geteuid() == 0) command.push_back("65534");
  auto result = run_command(command);
  EXPECT_EQ(result.out, "detail: kernel cache: 2 of 2 found\nok\n");
  command[2] = "3";
  result = run_command(command);
  EXPECT_EQ(result.code, 0) << result.out << result.err;
  EXPECT_EQ(lines_with(result.out, "notice: kernel cache: cannot write to "), 1) << result.out;
  EXPECT_EQ(lines_with(result.out, "notice: compiling 1 kernel with"), 1) << result.out;
  EXPECT_EQ(lines_with(result.out, "(not cached)"), 1) << result.out;
  EXPECT_EQ(lines_with(result.out, "notice: "), 2) << result.out;
  for (const auto& each : fs::recursive_directory_iterator(open_folder))
    if (each.is_directory()) fs::permissions(each, fs::perms(0755));
  fs::permissions(open_folder, fs::perms(0755));

  command[1] = "/proc/no/such/folder";
  result = run_command(command);
  EXPECT_EQ(result.code, 0) << result.out << result.err;
  EXPECT_EQ(lines_with(result.out, "notice: kernel cache: cannot create /proc/no"), 1) << result.out;
}

TEST_F(KernelCacheTest, AFolderThatOthersMayWriteIsNotTrusted) {
  const auto kernels = make_kernels(1);
  build(kernels);
  for (const fs::path& open_folder : {folder(), folder() / "kernels"})
    for (const int mode : {0777, 0775, 0720, 0702, 01777}) {
      SCOPED_TRACE(fmt::format("{} {:o}", open_folder.string(), mode));
      fs::permissions(open_folder, fs::perms(mode));
      take_messages();
      expect_right(build(kernels));
      const std::string said = take_messages();
      const std::string who = mode & 02 ? "everybody" : "its group";
      EXPECT_EQ(lines_with(said, fmt::format("notice: kernel cache: {} may write to {} (chmod g", who, open_folder.string())), 1)
          << said;
      EXPECT_EQ(lines_with(said, "(not cached)"), 1) << said;
      fs::permissions(open_folder, fs::perms(0700));
    }
  expect_right(build(kernels));
  EXPECT_EQ(lines_with(take_messages(), "1 of 1 found"), 1);
}

// Where somebody else could have put it, an entry is built again.
TEST_F(KernelCacheTest, AnEntryThatOthersMayWriteIsNotTrusted) {
  const auto kernels = make_kernels(1);
  build(kernels);
  const fs::path stored = fs::canonical(entry(kernels[0].name));
  const std::pair<fs::path, int> cases[] = {
      {stored, 0770}, {stored, 0777}, {stored / "kernel.so", 0660}, {stored / "kernel.so", 0602}};
  for (const auto& [path, mode] : cases) {
    SCOPED_TRACE(fmt::format("{} {:o}", path.string(), mode));
    fs::permissions(path, fs::perms(mode));
    take_messages();
    expect_right(build(kernels));
    const std::string said = take_messages();
    EXPECT_EQ(lines_with(said, "is damaged and will be rebuilt"), 1) << said;
    EXPECT_EQ(lines_with(said, "may write to " + path.string()), 1) << said;
    expect_right(build(kernels));
    EXPECT_EQ(lines_with(take_messages(), "1 of 1 found"), 1);
  }
}

// A umask that leaves the group its right to write is common, and compilers make their files by it.
TEST_F(KernelCacheTest, EntriesArePrivateUnderAnyUmask) {
  const mode_t before = ::umask(0);
  const auto kernels = make_kernels(2);
  expect_right(build(kernels));
  ::umask(before);
  for (const fs::directory_entry& each : fs::recursive_directory_iterator(folder()))
    EXPECT_TRUE(each.is_symlink() || (fs::status(each.path()).permissions() & fs::perms(022)) == fs::perms::none) << each.path();
  take_messages();
  expect_right(build(kernels));
  EXPECT_EQ(lines_with(take_messages(), "2 of 2 found"), 1);
}

// Drivers and libraries give bytes, and want bytes.
TEST_F(KernelCacheTest, BinariesInMemoryAreStoredAndRead) {
  const KernelRecipe recipe{.name = "bytes", .dialect = "opencl", .source = "s", .compiler = "c", .flags = "", .target = ""};
  const KernelRecipe empty{.name = "empty", .dialect = "opencl", .source = "e", .compiler = "c", .flags = "", .target = ""};
  const std::string bytes("\0one\ntwo\xff", 9);
  const fs::path here = fs::current_path();
  fs::current_path(temporary_.path());
  replace("kernel.bin", "not of the cache");
  KernelCache writer({.folder = folder()});
  writer.store(std::vector<KernelCache::NewKernel>{{&recipe, "kernel.bin", "f", bytes}, {&empty, "kernel.bin", "g", ""}});
  fs::current_path(here);
  KernelCache reader({.folder = folder()});
  for (KernelCache* cache : {&writer, &reader}) {
    const auto found = cache->read(recipe);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->bytes, bytes);
    EXPECT_EQ(found->symbol, "f");
    const auto nothing = cache->read(empty);
    ASSERT_TRUE(nothing);
    EXPECT_EQ(nothing->bytes, "");
  }
  EXPECT_TRUE(fs::exists(entry("bytes") / "source.cl"));
}

// Several parts of a platform share one cache: programs, and what libraries chose. None evicts what another uses, from any thread.
TEST_F(KernelCacheTest, ThreadsShareOneCacheThatEvictsNothingTheyUse) {
  const auto recipe = [](int thread, int i) {
    return KernelRecipe{.name = fmt::format("k{}_{}", thread, i),
                        .dialect = "cuda",
                        .source = fmt::format("{} {}", thread, i),
                        .compiler = "c",
                        .flags = "",
                        .target = ""};
  };
  constexpr int kThreads = 4, kEach = 12;
  const std::string text(5'000, 'b');
  {
    KernelCache old({.folder = folder()});  // of another process: may go
    const KernelRecipe unused = recipe(-1, 0), shared = recipe(-1, 1);
    old.store(std::vector<KernelCache::NewKernel>{{&unused, "k.cubin", "s", text}, {&shared, "k.cubin", "s", text}});
  }
  KernelCache cache({.folder = folder(), .limit_bytes = 1});
  EXPECT_TRUE(cache.read(recipe(-1, 1)));
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < kThreads; ++t)
      threads.emplace_back([&, t] {
        for (int i = 0; i < kEach; ++i) {
          const KernelRecipe own = recipe(t, i);
          EXPECT_FALSE(cache.read(own));
          const KernelCache::NewKernel stored{&own, "k.cubin", "s", text};
          cache.store({&stored, 1});
          for (int before = 0; before <= i; ++before) {
            const auto found = cache.read(recipe(t, before));
            EXPECT_TRUE(found && found->bytes == text) << t << " " << before;
          }
          EXPECT_TRUE(cache.find(recipe(-1, 1)));
        }
      });
  }
  EXPECT_FALSE(fs::exists(folder() / "kernels" / recipe(-1, 0).key()));
  EXPECT_EQ(lines_with(messages_, "damaged"), 0) << messages_;
}

TEST_F(KernelCacheTest, AFullDisk) {
  const fs::path disk = temporary_.path() / "disk";
  fs::create_directory(disk);
  if (::mount("none", disk.c_str(), "tmpfs", 0, "size=128k") != 0) GTEST_SKIP() << "[SKIP] cannot mount a small disk";
  const auto result = run_command({ZOE_CACHE_PROCESS, (disk / "cache").string(), "20"});
  EXPECT_EQ(result.code, 0) << result.out << result.err;
  EXPECT_EQ(lines_with(result.out, "notice: kernel cache: "), 1) << result.out;
  // By the source or behind it.
  EXPECT_EQ(lines_with(result.out, "is full") + lines_with(result.out, "No space left on device"), 1) << result.out;
  EXPECT_EQ(::umount(disk.c_str()), 0);
}

TEST_F(KernelCacheTest, ADiskThatFillsWhileAnEntryIsWritten) {
  const fs::path binary = temporary_.path() / "kernel.so";
  replace(binary, "binary");
  const KernelRecipe small{.name = "small", .dialect = "cpp", .source = "int x;", .compiler = "c", .flags = "f", .target = "t"};
  KernelRecipe large = small;
  large.name = "large";
  large.source = std::string(100'000, ' ');
  KernelCache cache({.folder = folder()});
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{50'000, before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &limit);
  cache.store(std::vector<KernelCache::NewKernel>{{&small, binary, "s"}, {&large, binary, "l"}});
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::signal(SIGXFSZ, handler);
  EXPECT_TRUE(cache.find(small));
  EXPECT_FALSE(cache.find(large));
  EXPECT_TRUE(fs::is_empty(folder() / "tmp"));
  EXPECT_EQ(lines_with(messages_, "notice: "), 1) << messages_;
}

TEST_F(KernelCacheTest, EvictsWhatWasUsedLongestAgo) {
  const fs::path binary = temporary_.path() / "kernel.bin", shared = temporary_.path() / "shared.bin";
  const std::string text(40'000, 'b');
  const auto recipe = [](int i) {
    return KernelRecipe{.name = fmt::format("k{}", i),
                        .dialect = "opencl",
                        .source = fmt::format("{}", i),
                        .compiler = "c",
                        .flags = "",
                        .target = ""};
  };
  // Each has a binary of its own, but 2 and 3, which share one. An hour lies between one use and the next.
  const auto store = [&](int i, std::uint64_t limit_bytes) {
    const fs::path file = i == 2 || i == 3 ? shared : binary;
    if (file == binary || !fs::exists(shared)) replace(file, text);
    const KernelRecipe r = recipe(i);
    KernelCache(KernelCache::Options{.folder = folder(), .limit_bytes = limit_bytes})
        .store(std::vector<KernelCache::NewKernel>{{&r, file, "s"}});
    const fs::path stored = folder() / "kernels" / r.key();
    fs::last_write_time(stored, fs::last_write_time(stored) - std::chrono::hours(100 - i));
  };
  for (int i = 0; i < 6; ++i) store(i, 1 << 20);
  KernelCache reader({.folder = folder()});
  EXPECT_TRUE(reader.find(recipe(0)));  // used now
  store(6, 200'000);                    // room for four binaries and their small files; there are six
  const auto kept = [&](int i) { return fs::exists(folder() / "kernels" / recipe(i).key()); };
  EXPECT_TRUE(kept(0));
  EXPECT_FALSE(kept(1));
  EXPECT_FALSE(kept(2));
  EXPECT_FALSE(kept(3));  // only now is the file of the two gone
  EXPECT_TRUE(kept(4));
  EXPECT_TRUE(kept(5));
  EXPECT_TRUE(kept(6));
  EXPECT_FALSE(fs::is_symlink(folder() / "names" / "k1"));
  EXPECT_TRUE(fs::is_symlink(folder() / "names" / "k4"));
  EXPECT_TRUE(reader.find(recipe(0)));
  EXPECT_FALSE(reader.find(recipe(1)));
}

TEST_F(KernelCacheTest, NothingInUseIsEvicted) {
  const auto kernels = make_kernels(3);
  expect_right(build(kernels, {.threads = 2}, {.limit_bytes = 1}));
  take_messages();
  expect_right(build(kernels));
  EXPECT_EQ(take_messages(), "detail: kernel cache: 3 of 3 found\n");
}

TEST_F(KernelCacheTest, StaleWorkIsRemoved) {
  build(make_kernels(1));
  const fs::path stale = folder() / "tmp" / "stale", fresh = folder() / "tmp" / "fresh";
  for (const fs::path& each : {stale, fresh}) fs::create_directory(each);
  fs::last_write_time(stale, fs::file_time_type::clock::now() - std::chrono::hours(25));
  build(make_kernels(2));
  EXPECT_FALSE(fs::exists(stale));
  EXPECT_TRUE(fs::exists(fresh));
}

TEST_F(KernelCacheTest, AFailedBuildKeepsSourceAndLog) {
  auto kernels = make_kernels(4);
  kernels[2].source = "extern \"C\" void norm_2(const float*, float*, long, long) {\n  return undeclared_name;\n}";
  try {
    build(kernels, {.threads = 1});
    FAIL() << "it compiles";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_EQ(error.kind(), ErrorKind::compile);
    EXPECT_TRUE(text.starts_with("[cpu compile] kernel norm_2 failed: ")) << text;
    EXPECT_NE(text.find("undeclared_name"), std::string::npos) << text;
    EXPECT_NE(text.find(fmt::format("Source kept in {}.", (folder() / "failed" / "norm_2").string())), std::string::npos) << text;
  }
  const std::string source = read(folder() / "failed" / "norm_2" / "source.cpp");
  EXPECT_EQ(source, kKernelPrelude + "\n" + kernels[2].source + "\n");
  // The line that the compiler names is that of the kept source.
  const std::string log = read(folder() / "failed" / "norm_2" / "log.txt");
  const auto line =
      1 + std::count(source.begin(), source.begin() + static_cast<std::ptrdiff_t>(source.find("undeclared_name")), '\n');
  EXPECT_NE(log.find(fmt::format("source.cpp:{}:", line)), std::string::npos) << log;
  // The others were stored.
  take_messages();
  kernels[2] = make_kernel(2);
  expect_right(build(kernels));
  EXPECT_EQ(lines_with(take_messages(), "compiling 1 kernel "), 1);
}

TEST_F(KernelCacheTest, EqualTextIsOneKernelWhateverItsName) {
  CppKernel kernel = make_kernel(0);
  kernel.function = std::exchange(kernel.name, "first");
  build({&kernel, 1});
  kernel.name = "second";
  take_messages();
  expect_right(build({&kernel, 1}));
  EXPECT_EQ(take_messages(), "detail: kernel cache: 1 of 1 found\n");
}

TEST_F(KernelCacheTest, CompilersInTheEnvironment) {
  const auto run = [&](const std::string& compiler) {
    return run_command({ZOE_CACHE_PROCESS, folder().string(), "1"}, {.environment = {{"CXX", compiler}}}).out;
  };
  std::string said = run("env c++ -g0");  // with arguments
  EXPECT_EQ(lines_with(said, "compiling 1 kernel"), 1) << said;
  EXPECT_EQ(lines_with(read(entry("norm_0") / "meta.json"), "\"flags\": \"c++ -g0 "), 1);
  said = run("no-such-compiler");
  EXPECT_EQ(lines_with(said, "these do not work: no-such-compiler (No such file or directory)"), 1) << said;
  EXPECT_EQ(lines_with(said, "ok"), 1) << said;
}

TEST_F(KernelCacheTest, Clang) {
  KernelCache cache({.folder = folder()});
  CppCompiler compiler(cache, {.compiler = "clang++"});
  if (!compiler.reason().empty()) GTEST_SKIP() << "[SKIP] " << compiler.reason();
  EXPECT_TRUE(compiler.name().starts_with("clang ")) << compiler.name();
  expect_right(compiler.build(kKernelPrelude, make_kernels(2)));
  expect_right(build(make_kernels(2), {.compiler = "clang++"}));
  EXPECT_EQ(lines_with(messages_, "2 of 2 found"), 1) << messages_;
}

TEST_F(KernelCacheTest, AFunctionThatIsNotThere) {
  auto kernels = make_kernels(1);
  kernels[0].name = "another";
  EXPECT_THROW(
      try { build(kernels); } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("does not define extern \"C\" another"), std::string::npos) << error.what();
        throw;
      },
      Error);
}

TEST_F(KernelCacheTest, NoCompiler) {
  KernelCache cache({.folder = folder()});
  const CppCompiler missing(cache, {.compiler = "no-such-compiler"});
  EXPECT_EQ(missing.reason(), "no C++ compiler works: tried no-such-compiler (No such file or directory)");
  const CppCompiler no_path(cache, {.compiler = "/no/such/compiler"});
  EXPECT_NE(no_path.reason(), "");
  const CppCompiler refuses(cache, {.compiler = "false"});
  EXPECT_NE(refuses.reason().find("ended with code 1"), std::string::npos) << refuses.reason();
  const auto result =
      run_command({ZOE_CACHE_PROCESS, folder().string(), "1"}, {.environment = {{"PATH", "/nowhere"}, {"CXX", ""}}});
  EXPECT_EQ(result.code, 4);
  EXPECT_EQ(lines_with(result.out, "reason: no C++ compiler works: tried c++ ("), 1) << result.out;
}

// A program in the place of the compiler. It passes questions on to the real one.
class FakeCompiler {
 public:
  FakeCompiler(const fs::path& folder, const std::string& instead) : path(folder / "compiler 'of' mine") {
    replace(path, "#!/bin/sh\nfor a; do [ \"$a\" = -### ] && exec c++ \"$@\"; done\n" + instead + "\n");
    fs::permissions(path, fs::perms(0700));
  }
  const fs::path path;
};

// What a CppCompiler of it says after it was to build something.
std::string why_useless(const FakeCompiler& fake, double timeout_s = 120) {
  KernelCache none({.enabled = false});
  CppCompiler compiler(none, {.compiler = fake.path.string(), .threads = 2, .timeout_s = timeout_s});
  EXPECT_EQ(compiler.reason(), "");
  EXPECT_TRUE(compiler.build(kKernelPrelude, make_kernels(3)).empty());
  return compiler.reason();
}

TEST_F(KernelCacheTest, ACompilerThatHangs) {
  const FakeCompiler fake(temporary_.path(), "sleep 100 & wait");
  const auto start = std::chrono::steady_clock::now();
  EXPECT_NE(why_useless(fake, 0.3).find("compiles nothing, not even an empty function: no result after 0.3 s"), std::string::npos);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

TEST_F(KernelCacheTest, ACompilerThatIsKilled) {
  const FakeCompiler fake(temporary_.path(), "kill -9 $$");
  EXPECT_NE(why_useless(fake).find("killed by signal 9"), std::string::npos);
}

// Then fused nodes are interpreted, with one warning.
TEST_F(KernelCacheTest, ACompilerThatOnlyAnswers) {
  const FakeCompiler fake(temporary_.path(), "echo 'cannot execute as' >&2\nexit 1");
  EXPECT_NE(why_useless(fake).find("compiles nothing, not even an empty function: cannot execute as"), std::string::npos);
  const auto platform = open_platform("cpu", {.threads = 1, .cache_dir = folder().string(), .compiler = fake.path.string()});
  take_messages();
  for (const std::int64_t width : {64, 96}) {
    const Value x = input("x", DType::f32, {3, width});
    const Plan plan = compile(make_graph("g", {x}, {silu(x * 2.0) + 1.0}), *platform);
    ASSERT_EQ(plan.steps.size(), 1u);
    EXPECT_TRUE(plan.steps[0].kernel->implementation().starts_with("row blocks")) << plan.steps[0].kernel->implementation();
  }
  EXPECT_EQ(lines_with(take_messages(), "fused kernels are interpreted, a tile of rows at a time: "), 1) << messages_;
}

// Killed with much to do (as the kernel does when memory runs out), it gets the kernels one by one.
TEST_F(KernelCacheTest, ACompilerThatIsKilledOnce) {
  const FakeCompiler fake(temporary_.path(),
                          "[ $(grep -c '^extern' unit0.cpp) -gt 1 ] && [ ! -e kernel0.cpp ] && kill -9 $$\nexec c++ \"$@\"");
  expect_right(build(make_kernels(2), {.compiler = fake.path.string()}));
}

TEST_F(KernelCacheTest, TemporaryFilesLieInTheCache) {
  const auto result = run_command({ZOE_CACHE_PROCESS, folder().string(), "2"}, {.environment = {{"TMPDIR", "/no/such/folder"}}});
  EXPECT_EQ(result.code, 0) << result.out << result.err;
  EXPECT_EQ(lines_with(result.out, "notice: kernel cache"), 0) << result.out;
}

TEST_F(KernelCacheTest, WithoutACache) {
  KernelCache cache({.enabled = false});
  CppCompiler compiler(cache, {.threads = 2});
  const auto functions = compiler.build(kKernelPrelude, make_kernels(2));
  expect_right(functions);
  EXPECT_EQ(compiler.build(kKernelPrelude, make_kernels(2)), functions);
  EXPECT_EQ(lines_with(messages_, "notice: kernel cache"), 0) << messages_;
}

TEST(KernelRecipe, TheKeyIsAllButTheName) {
  const KernelRecipe recipe{.name = "n", .dialect = "d", .source = "s", .compiler = "c", .flags = "f", .target = "t"};
  EXPECT_EQ(recipe.key().size(), 64u);
  KernelRecipe other = recipe;
  other.name = "m";
  EXPECT_EQ(other.key(), recipe.key());
  for (std::string KernelRecipe::*part :
       {&KernelRecipe::dialect, &KernelRecipe::source, &KernelRecipe::compiler, &KernelRecipe::flags, &KernelRecipe::target}) {
    other = recipe;
    (other.*part) += "x";
    EXPECT_NE(other.key(), recipe.key());
  }
  other = recipe;  // the same bytes, cut elsewhere
  other.source = "";
  other.compiler = "sc";
  EXPECT_NE(other.key(), recipe.key());
}

TEST(KernelCache, DefaultFolder) {
  const auto with = [](const char* cache, const char* home) {
    const std::string old_cache = std::getenv("XDG_CACHE_HOME") ? std::getenv("XDG_CACHE_HOME") : "";
    const std::string old_home = std::getenv("HOME") ? std::getenv("HOME") : "";
    ::setenv("XDG_CACHE_HOME", cache, 1);
    ::setenv("HOME", home, 1);
    const fs::path folder = KernelCache::default_folder();
    ::setenv("XDG_CACHE_HOME", old_cache.c_str(), 1);
    ::setenv("HOME", old_home.c_str(), 1);
    return folder.string();
  };
  EXPECT_EQ(with("/x/cache", "/tmp"), "/x/cache/zoetrope");
  EXPECT_EQ(with("", "/tmp"), "/tmp/.cache/zoetrope");
  EXPECT_EQ(with("relative", "/tmp"), "/tmp/.cache/zoetrope");
  EXPECT_EQ(with("", "/proc/no-such-home"), "");
}

}  // namespace
}  // namespace zoe
