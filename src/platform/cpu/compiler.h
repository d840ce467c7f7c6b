// Generated C++ to function addresses: by the system's compiler, through the kernel cache.
//
//   KernelCache cache({.folder = options.cache_dir});
//   CppCompiler compiler(cache, {.threads = 2});
//   if (!compiler.reason().empty()) ...                             // no compiler: say so once, interpret instead
//   std::vector<void*> functions = compiler.build(prelude, kernels);
#pragma once

#include <filesystem>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "platform/kernel_cache.h"

namespace zoe::cpu {

// One kernel: text that defines `extern "C" void <function>(...)`. It may use what the prelude declares, and define types and
// functions of its own; #include belongs into the prelude. The word <function> must not be used for anything else.
struct CppKernel {
  std::string name;  // a C identifier, the same from run to run: for symbols, profilers, and messages that say what changed
  std::string source;
  std::string function = {};  // "": the name. Kernels of equal text are one, so a word for all of them ("k") shares the most
};

// The contract of the numbers (docs/ops-contract.md) and the instructions of this CPU. -w: warnings would hide an error.
std::vector<std::string> default_cpp_flags();

struct CppBuildOptions {
  // A path or a name on PATH. "": the first that works of $CXX (which may hold arguments), c++, g++, clang++.
  std::string compiler = {};
  std::vector<std::string> flags = default_cpp_flags();
  int threads = 1;  // compilers at a time
  double timeout_s = 120;
};

class CppCompiler {
 public:
  // Asks the compiler for its version and target, which takes some 10 ms. The cache must outlive the object.
  CppCompiler(KernelCache& cache, CppBuildOptions options);

  // Why nothing can be built; "" if it can.
  const std::string& reason() const { return reason_; }
  const std::string& name() const { return name_; }  // "gcc 12.2.0"

  // The functions, in the order of `kernels`; they stay valid for the life of the process. Those in memory or in the cache are
  // taken from there, the others compiled in one go: as many units as threads, each with the prelude and its share of kernels.
  // If kernels do not compile, all others are cached and the error (compile) names the first. If it turns out that the compiler
  // compiles nothing at all (its assembler is missing, say), reason() says so and there are no functions. May be called from any
  // thread.
  std::vector<void*> build(std::string_view prelude, std::span<const CppKernel> kernels);

 private:
  struct Job;
  struct Unit;
  void compile(std::string_view prelude, std::vector<Job>& jobs);
  // At most `threads` at a time, in `folder`. The kernels of a unit get their functions, or its log.
  void compile_units(std::string_view prelude, std::vector<Unit>& units, const std::filesystem::path& folder,
                     std::string_view prefix);
  // Why a function that does nothing does not compile in `folder`; "" if it does.
  std::string why_useless(const std::filesystem::path& folder);

  KernelCache& cache_;
  CppBuildOptions options_;
  std::vector<std::string> command_;  // the program and arguments of its own
  std::string reason_, name_, identity_, target_;
  std::mutex mutex_;
  std::unordered_map<std::string, void*> loaded_;  // by key
};

}  // namespace zoe::cpu
