#include "platform/cpu/compiler.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <thread>
#include <unordered_set>

#include "base/error.h"
#include "base/log.h"
#include "platform/last_lines.h"

namespace zoe::cpu {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// A program at work, without a shell and in a process group of its own: an interrupt from the terminal does not reach it, and
// a compiler that hangs goes with all it started. What it says is in memory.
class Child {
 public:
  Child(const std::vector<std::string>& command, const fs::path& folder, double timeout_s) : timeout_s_(timeout_s) {
    output_ = ::memfd_create("compiler output", MFD_CLOEXEC);
    if (output_ < 0) {
      failure_ = fmt::format("no memory for its output: {}", std::strerror(errno));
      return;
    }
    std::vector<std::string> variables = {"LC_ALL=C", "TMPDIR=."};  // its temporary files lie where its results do
    for (char** variable = ::environ; *variable; ++variable)
      if (const std::string_view text = *variable; !text.starts_with("LC_ALL=") && !text.starts_with("TMPDIR="))
        variables.emplace_back(text);
    const auto pointers = [](const std::vector<std::string>& texts) {
      std::vector<char*> result;
      for (const std::string& text : texts) result.push_back(const_cast<char*>(text.c_str()));
      result.push_back(nullptr);
      return result;
    };
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, output_, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, output_, STDERR_FILENO);
    if (!folder.empty()) posix_spawn_file_actions_addchdir_np(&actions, folder.c_str());
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
    const int error =
        ::posix_spawnp(&pid_, command[0].c_str(), &actions, &attributes, pointers(command).data(), pointers(variables).data());
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
      failure_ = std::strerror(error);
      pid_ = -1;
    }
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ > 0) end();
    if (output_ >= 0) ::close(output_);
  }

  // True once it has ended.
  bool finished() {
    constexpr off_t kMaxOutputBytes = off_t{64} << 20;
    if (pid_ <= 0) return true;
    int status = 0;
    const pid_t got = ::waitpid(pid_, &status, WNOHANG);
    if (got == pid_ || (got < 0 && errno != EINTR)) {  // ECHILD: the program around us ignores SIGCHLD; the result will tell
      pid_ = -1;
      if (got > 0 && WIFSIGNALED(status)) failure_ = fmt::format("killed by signal {}", WTERMSIG(status));
      else if (got > 0 && WEXITSTATUS(status) != 0) failure_ = fmt::format("ended with code {}", WEXITSTATUS(status));
      return true;
    }
    struct stat info {};
    timed_out_ = seconds_since(start_) > timeout_s_;
    if (!timed_out_ && (::fstat(output_, &info) != 0 || info.st_size < kMaxOutputBytes)) return false;
    end();
    failure_ = timed_out_ ? fmt::format("no result after {:g} s", timeout_s_) : "it says too much";
    return true;
  }

  bool timed_out() const { return timed_out_; }
  const std::string& failure() const { return failure_; }  // "" if it ended well

  std::string output() const {  // the last of it, if it is long
    constexpr off_t kMaxBytes = 256 << 10;
    struct stat info {};
    if (output_ < 0 || ::fstat(output_, &info) != 0) return {};
    std::string text(static_cast<std::size_t>(std::min(info.st_size, kMaxBytes)), '\0');
    const ssize_t got = ::pread(output_, text.data(), text.size(), info.st_size - static_cast<off_t>(text.size()));
    text.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    return text;
  }

 private:
  void end() {
    ::kill(-pid_, SIGKILL);
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) continue;
    pid_ = -1;
  }

  const double timeout_s_;
  const Clock::time_point start_ = Clock::now();
  pid_t pid_ = -1;
  int output_ = -1;
  bool timed_out_ = false;
  std::string failure_;
};

void pause() { std::this_thread::sleep_for(std::chrono::milliseconds(1)); }

bool is_identifier(std::string_view name) {
  const auto is_word = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  };
  return !name.empty() && !(name[0] >= '0' && name[0] <= '9') && std::all_of(name.begin(), name.end(), is_word);
}

std::vector<std::string> words(std::string_view text) {
  std::istringstream in{std::string(text)};
  std::vector<std::string> result;
  for (std::string word; in >> word;) result.push_back(word);
  return result;
}

// What a compiler says that it is and compiles for.
struct Identity {
  std::string name;    // "gcc 12.2.0"
  std::string text;    // its version in full, its target and where it lives
  std::string target;  // what -march=native stands for, and other flags of the target
};

// From the output of `-###`: the version, "Target: ...", and the command line of the compiler proper, in which both gcc and clang
// have resolved `native`.
std::optional<Identity> parse_identity(const std::string& output) {
  Identity identity;
  std::string compiler_proper;
  std::istringstream lines(output);
  for (std::string line; std::getline(lines, line);) {
    const std::vector<std::string> parts = words(line);
    const auto version = std::find(parts.begin(), parts.end(), "version");
    if (line.starts_with("Target: ")) {
      identity.text += "; " + line;
    } else if (identity.name.empty() && version > parts.begin() && version < parts.end() - 1) {
      identity.name = *(version - 1) + " " + *(version + 1);
      identity.text = line + identity.text;
    } else if (line.starts_with(' ') && compiler_proper.empty() && parts.size() > 1) {  // clang: after " (in-process)"
      std::vector<std::string> plain;
      for (std::string part : parts) {
        std::erase(part, '"');
        plain.push_back(std::move(part));
      }
      compiler_proper = plain.front();
      for (std::size_t i = 1; i < plain.size(); ++i) {
        const std::string& part = plain[i];
        const bool with_next = part == "--param" || part == "-target-cpu" || part == "-target-feature" || part == "-tune-cpu";
        if (!with_next && !part.starts_with("-m")) continue;
        identity.target += (identity.target.empty() ? "" : " ") + part;
        if (with_next && i + 1 < plain.size()) identity.target += " " + plain[++i];
      }
    }
  }
  if (identity.name.empty() || compiler_proper.find('/') == std::string::npos) return std::nullopt;
  identity.text += "; " + compiler_proper;
  return identity;
}

// Each alternative is a program and arguments of its own.
std::vector<std::vector<std::string>> known_compilers() {
  static const std::string variable = std::getenv("CXX") ? std::getenv("CXX") : "";
  std::vector<std::vector<std::string>> compilers = {{"c++"}, {"g++"}, {"clang++"}};
  if (std::vector<std::string> command = words(variable); !command.empty()) compilers.insert(compilers.begin(), std::move(command));
  return compilers;
}

const std::string& function_of(const CppKernel& kernel) { return kernel.function.empty() ? kernel.name : kernel.function; }

bool allows_programs(const fs::path& folder) {
  struct statvfs info {};
  return ::statvfs(folder.c_str(), &info) != 0 || !(info.f_flag & ST_NOEXEC);
}

// True if files of ordinary size have no place in `folder`: then a failed compilation may not be the source's fault.
bool is_full(const fs::path& folder) {
  constexpr off_t kRoomBytes = off_t{16} << 20;
  const fs::path probe = folder / "room";
  const int fd = ::open(probe.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return true;
  const int error = ::posix_fallocate(fd, 0, kRoomBytes);
  ::close(fd);
  ::unlink(probe.c_str());
  return error != 0;
}

}  // namespace

std::vector<std::string> default_cpp_flags() {
  std::vector<std::string> flags = {
      "-std=c++20",    "-O3",     "-march=native", "-ffp-contract=off", "-fno-trapping-math",  "-fno-math-errno",
      "-fPIC",         "-shared", "-pipe",         "-Wl,--as-needed",   "-fvisibility=hidden", "-w",
      "-fmax-errors=5"};
  // As the prebuilt loops do: of Highway's sets of instructions, AVX2 and its successors fuse, and all of Arm's.
#if defined(__x86_64__)
  const bool fuses = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  const bool fuses = true;
#endif
  if (fuses) flags.emplace_back("-DZOE_FUSED");
  return flags;
}

CppCompiler::CppCompiler(KernelCache& cache, CppBuildOptions options) : cache_(cache), options_(std::move(options)) {
  std::vector<std::vector<std::string>> candidates;
  if (options_.compiler.empty()) candidates = known_compilers();
  else if (options_.compiler.find('/') == std::string::npos) candidates = {{options_.compiler}};
  else candidates = {{fs::absolute(options_.compiler).string()}};  // it will run in another folder
  std::string tried;
  for (std::vector<std::string>& command : candidates) {
    std::vector<std::string> ask = command;
    ask.insert(ask.end(), options_.flags.begin(), options_.flags.end());
    ask.insert(ask.end(), {"-###", "-c", "-x", "c++", "/dev/null"});
    Child child(ask, {}, std::min(options_.timeout_s, 20.0));
    while (!child.finished()) pause();
    const std::string output = child.output();
    if (child.failure().empty()) {
      command_ = command;
      const auto identity = parse_identity(output);
      name_ = identity ? identity->name : command.front();
      // An unknown compiler, or one that does not tell what `native` is, still compiles; but not for the cache.
      if (identity && !identity->target.empty() && identity->target.find("native") == std::string::npos) {
        identity_ = identity->text;
        target_ = identity->target;
      }
      if (!tried.empty()) log(LogLevel::detail, fmt::format("C++ is compiled by {}, for these do not work: {}", name_, tried));
      return;
    }
    tried += fmt::format("{}{} ({}{}{})", tried.empty() ? "" : ", ", fmt::join(command, " "), child.failure(),
                         output.empty() ? "" : ": ", last_lines(output, 1));
  }
  reason_ = fmt::format("no C++ compiler works: tried {}", tried);
}

struct CppCompiler::Job {
  const CppKernel* kernel;
  KernelRecipe recipe;
  std::string key, symbol;
  void* function = nullptr;
  fs::path binary = {};
  std::string log = {};  // of the compiler, if it failed
};

// Kernels that are compiled together.
struct CppCompiler::Unit {
  std::vector<Job*> jobs;
  std::size_t source_bytes = 0;
  bool timed_out = false;
};

std::vector<void*> CppCompiler::build(std::string_view prelude, std::span<const CppKernel> kernels) {
  ZOE_INTERNAL_CHECK(reason_.empty());
  const std::lock_guard lock(mutex_);
  std::vector<std::string> keys;
  std::vector<Job> jobs;  // of the kernels that are not to be had otherwise
  std::unordered_set<std::string> queued;
  std::vector<std::string> arguments(command_.begin() + 1, command_.end());
  arguments.insert(arguments.end(), options_.flags.begin(), options_.flags.end());
  for (const CppKernel& kernel : kernels) {
    ZOE_INTERNAL_CHECK(is_identifier(kernel.name) && is_identifier(function_of(kernel)));
    Job job{.kernel = &kernel,
            .recipe = {.name = kernel.name,
                       .dialect = "cpp",
                       .source = fmt::format("{}\n{}\n", prelude, kernel.source),
                       .compiler = identity_,
                       .flags = fmt::format("{}", fmt::join(arguments, " ")),
                       .target = target_},
            .key = {},
            .symbol = {}};
    const std::string& key = keys.emplace_back(job.key = job.recipe.key());
    if (loaded_.contains(key) || queued.contains(key)) continue;
    if (const auto cached = cache_.find(job.recipe)) {
      void* const library = ::dlopen(cached->binary.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (void* const function = library ? ::dlsym(library, cached->symbol.c_str()) : nullptr) {
        loaded_[key] = function;
        continue;
      }
      const char* const error = ::dlerror();
      cache_.reject(job.recipe, error ? error : "it has no such function");
    }
    job.symbol = fmt::format("zoe_{}_{}", key.substr(0, 16), kernel.name);
    queued.insert(key);
    jobs.push_back(std::move(job));
  }
  if (!jobs.empty()) compile(prelude, jobs);
  else log(LogLevel::detail, fmt::format("kernel cache: {0} of {0} found", kernels.size()));
  if (!reason_.empty()) return {};
  std::vector<void*> functions;
  for (const std::string& key : keys) functions.push_back(loaded_.at(key));
  return functions;
}

void CppCompiler::compile_units(std::string_view prelude, std::vector<Unit>& units, const fs::path& folder,
                                std::string_view prefix) {
  const auto threads = static_cast<std::size_t>(std::max(options_.threads, 1));
  const auto prelude_lines = std::count(prelude.begin(), prelude.end(), '\n') + 1;
  struct Running {
    Unit* unit;
    std::string stem;
    std::unique_ptr<Child> child;
  };
  std::vector<Running> running;
  for (std::size_t next = 0; next < units.size() || !running.empty();) {
    if (next < units.size() && running.size() < threads) {
      Unit& unit = units[next];
      const std::string stem = fmt::format("{}{}", prefix, next);
      ++next;
      std::ofstream out(folder / (stem + ".cpp"), std::ios::binary);
      out << "#line 1 \"source.cpp\"\n" << prelude << "\n";
      // The key in a kernel's names keeps it apart from the others here and in all other libraries of the process.
      for (const Job* job : unit.jobs)
        out << fmt::format(
            "#define {0} {1}\nnamespace {1}_scope {{\n#pragma GCC visibility push(default)\n#line {2} \"source.cpp\"\n{3}\n"
            "#pragma GCC visibility pop\n}}\n#undef {0}\n",
            function_of(*job->kernel), job->symbol, prelude_lines + 1, job->kernel->source);
      out.close();
      std::vector<std::string> command = command_;
      command.insert(command.end(), options_.flags.begin(), options_.flags.end());
      command.insert(command.end(), {stem + ".cpp", "-o", stem + ".so"});
      running.push_back({&unit, stem, std::make_unique<Child>(command, folder, options_.timeout_s)});
      continue;
    }
    const auto done = std::find_if(running.begin(), running.end(), [](Running& each) { return each.child->finished(); });
    if (done == running.end()) {
      pause();
      continue;
    }
    Unit& unit = *done->unit;
    const fs::path binary = folder / (done->stem + ".so");
    std::string failure = done->child->failure();
    unit.timed_out = done->child->timed_out();
    void* const library = failure.empty() ? ::dlopen(binary.c_str(), RTLD_NOW | RTLD_LOCAL) : nullptr;
    if (failure.empty() && !library) failure = ::dlerror();
    for (Job* job : unit.jobs) {
      job->log.clear();
      job->binary = binary;
      if (library) job->function = ::dlsym(library, job->symbol.c_str());
      if (!job->function)
        job->log = done->child->output() +
                   (library ? fmt::format("the source does not define extern \"C\" {}", function_of(*job->kernel)) : failure);
    }
    running.erase(done);
  }
}

std::string CppCompiler::why_useless(const fs::path& folder) {
  const CppKernel nothing{.name = "nothing", .source = "extern \"C\" void nothing() {}"};
  Job job{.kernel = &nothing, .recipe = {}, .key = {}, .symbol = "zoe_nothing"};
  std::vector<Unit> units{{{&job}}};
  compile_units("", units, folder, "nothing");
  if (job.function) return {};
  std::string why = last_lines(job.log, 2);  // what the compiler says, and how it ended
  std::replace(why.begin(), why.end(), '\n', ';');
  return why;
}

// Compiles all jobs and puts their functions into loaded_, or finds a reason_.
void CppCompiler::compile(std::string_view prelude, std::vector<Job>& jobs) {
  const auto start = Clock::now();
  const auto threads = static_cast<std::size_t>(std::max(options_.threads, 1));
  for (const Job& job : jobs)
    if (const std::string changed = cache_.what_changed(job.recipe); !changed.empty())
      log(LogLevel::detail, fmt::format("kernel cache: {} is compiled again: {} changed", job.kernel->name, changed));
  std::string not_cached =
      identity_.empty() ? fmt::format("{} does not say what it compiles for", name_) : cache_.why_not_writable();
  std::vector<fs::path> places;
  if (not_cached.empty()) places.push_back(cache_.work_parent());
  else cache_.notice_not_cached(not_cached);
  std::error_code ignored;
  for (const fs::path& place : {fs::temp_directory_path(ignored), fs::path("/tmp"), fs::path("/var/tmp"), fs::path("/dev/shm")})
    if (!place.empty() && std::find(places.begin(), places.end(), place) == places.end()) places.push_back(place);
  log(LogLevel::notice,
      fmt::format("compiling {} kernel{} with {} ({})", jobs.size(), jobs.size() == 1 ? "" : "s", name_,
                  not_cached.empty() ? fmt::format("once; cached in {}", cache_.folder().string()) : "not cached"));

  std::string no_place;
  for (const fs::path& place : places) {
    const bool in_cache = not_cached.empty() && place == cache_.work_parent();
    const WorkFolder work(place);
    if (work.path.empty() || !allows_programs(work.path)) {
      no_place += fmt::format("{}; ", work.path.empty() ? work.error : place.string() + " does not allow programs");
      continue;
    }
    // The largest first, each into the unit that is smallest so far.
    std::vector<Job*> order;
    for (Job& job : jobs) order.push_back(&job);
    std::stable_sort(order.begin(), order.end(),
                     [](const Job* a, const Job* b) { return a->kernel->source.size() > b->kernel->source.size(); });
    std::vector<Unit> units(std::min(threads, jobs.size()));
    for (Job* job : order) {
      Unit& smallest = *std::min_element(units.begin(), units.end(),
                                         [](const Unit& a, const Unit& b) { return a.source_bytes < b.source_bytes; });
      smallest.jobs.push_back(job);
      smallest.source_bytes += job->kernel->source.size() + 1;
    }
    const auto failures = [&] { return std::count_if(jobs.begin(), jobs.end(), [](const Job& job) { return !job.function; }); };
    const auto place_is_full = [&] {
      if (!is_full(work.path)) return false;
      no_place += fmt::format("{} is full; ", place.string());
      if (in_cache) cache_.notice_not_cached(fmt::format("{} is full", cache_.folder().string()));
      return true;
    };
    compile_units(prelude, units, work.path, "unit");
    if (failures() > 0 && place_is_full()) continue;
    if (static_cast<std::size_t>(failures()) == jobs.size()) {
      if (const std::string useless = why_useless(work.path); !useless.empty()) {
        reason_ = fmt::format("{} compiles nothing, not even an empty function: {}", name_, useless);
        return;
      }
    }
    // Where a unit failed, its kernels alone: the good ones are saved, and the message is about the bad one.
    std::vector<Unit> alone;
    for (const Unit& unit : units)
      if (unit.jobs.size() > 1 && !unit.timed_out)
        for (Job* job : unit.jobs)
          if (!job->function) alone.push_back({{job}});
    compile_units(prelude, alone, work.path, "kernel");

    if (failures() > 0 && place_is_full()) continue;

    std::vector<KernelCache::NewKernel> stored;
    for (const Job& job : jobs) {
      if (!job.function) continue;
      loaded_[job.key] = job.function;
      stored.push_back({&job.recipe, job.binary, job.symbol});
    }
    if (in_cache) cache_.store(stored);
    log(LogLevel::detail, fmt::format("compiled {} kernels in {:.2f} s", stored.size(), seconds_since(start)));
    const auto failed = failures();
    if (failed == 0) return;
    std::string message;
    for (const Job& job : jobs) {
      if (job.function) continue;
      const fs::path kept = cache_.keep_failed(job.recipe, job.log);
      if (message.empty())
        message = fmt::format("kernel {} failed: {}. Source kept in {}.", job.kernel->name, last_lines(job.log, 20),
                              kept.empty() ? "no place: nothing can be written" : kept.string());
    }
    if (failed > 1) message += fmt::format(" {} others failed too.", failed - 1);
    fail(ErrorKind::compile, "cpu compile", "{}", message);
  }
  fail(ErrorKind::io, "cpu compile", "no folder to compile in: {}. Free some space, or choose one with --cache-dir.",
       no_place.substr(0, no_place.size() - 2));
}

}  // namespace zoe::cpu
