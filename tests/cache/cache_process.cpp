// cache_process FOLDER COUNT [UID]: builds and checks COUNT kernels of kernels.h as user UID. Prints the messages and, last, "ok".
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <exception>

#include "base/log.h"
#include "kernels.h"
#include "platform/cpu/compiler.h"
#include "platform/kernel_cache.h"

int main(int argc, char** argv) {
  using namespace zoe;
  if (argc < 3) return 2;
  if (argc > 3 && ::setuid(static_cast<uid_t>(std::atoi(argv[3]))) != 0) return 3;
  ::signal(SIGXFSZ, SIG_IGN);  // a file over the limit is then an error like any other
  const LogScope log_scope(
      [](LogLevel level, std::string_view text) { fmt::print("{}: {}\n", level == LogLevel::notice ? "notice" : "detail", text); });
  try {
    KernelCache cache({.folder = argv[1]});
    cpu::CppCompiler compiler(cache, {.threads = 2});
    if (!compiler.reason().empty()) {
      fmt::print("reason: {}\n", compiler.reason());
      return 4;
    }
    const int count = std::atoi(argv[2]);
    const auto functions = compiler.build(testing::kKernelPrelude, testing::make_kernels(count));
    for (int i = 0; i < count; ++i)
      if (const std::string wrong = testing::check_kernel(functions[static_cast<std::size_t>(i)], i); !wrong.empty()) {
        fmt::print("wrong: {}\n", wrong);
        return 1;
      }
    fmt::print("ok\n");
    return 0;
  } catch (const std::exception& error) {
    fmt::print("error: {}\n", error.what());
    return 1;
  }
}
