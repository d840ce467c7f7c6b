#include "apps/cli/signals.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <system_error>

#include "base/files.h"

namespace zoe::cli {

namespace {

std::atomic<bool> waits_for_step{false}, stop_requested{false};
std::atomic<int> first_signal{0};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free, "they are used in a signal handler");

extern "C" void on_signal(int signal) {
  const int saved = errno;
  int none = 0;
  if (waits_for_step && first_signal.compare_exchange_strong(none, signal)) {
    stop_requested = true;
    errno = saved;
    return;
  }
  remove_pending_outputs();
  ::_exit(128 + signal);
}

void say(const char* text) noexcept {
  if (::write(STDERR_FILENO, text, std::strlen(text)) < 0) return;
}

// A page of a mapped file that cannot be read, though it could be when it was asked for: an error like others, with one line.
extern "C" void on_bus_error(int signal, siginfo_t* info, void*) {
  const char* const path = info->si_code == BUS_ADRERR ? mapped_file_at(info->si_addr) : nullptr;
  if (!path) {
    ::signal(signal, SIG_DFL);  // a fault of our own: as if there were no handler
    return;
  }
  remove_pending_outputs();
  say("zoe: [file] ");
  say(path);
  say(" could not be read any more while it was in use: it was cut, or its disk failed. Leave it alone, check the disk, or copy "
      "the "
      "file again.\n");
  ::_exit(4);
}

}  // namespace

void open_standard_descriptors() {
  for (int fd = 0; fd <= 2; ++fd)
    if (::fcntl(fd, F_GETFD) < 0 && errno == EBADF && ::open("/dev/null", O_RDWR) != fd) std::abort();  // no descriptor is below fd
}

void handle_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
  sigemptyset(&action.sa_mask);
  for (const int signal : signals) sigaddset(&action.sa_mask, signal);
  for (const int signal : signals) {
    struct sigaction before {};
    if (::sigaction(signal, nullptr, &before) == 0 && before.sa_handler != SIG_IGN) ::sigaction(signal, &action, nullptr);
  }
  action.sa_flags = SA_SIGINFO;
  action.sa_sigaction = on_bus_error;
  ::sigaction(SIGBUS, &action, nullptr);
}

const std::atomic<bool>& stop_at_next_step() {
  waits_for_step = true;
  return stop_requested;
}

int stopping_signal() { return first_signal; }

int flush_output(int code) {
  errno = 0;
  const bool was_bad = std::ferror(stdout) != 0;  // of an earlier write, whose reason is gone
  if (std::fflush(stdout) == 0 && !was_bad) return code;
  int error = errno;
  if (error == 0 && ::write(STDOUT_FILENO, "\n", 1) < 0) error = errno;
  if (stopping_signal() == SIGPIPE) return 128 + SIGPIPE;
  if (code != 0) return code;  // its own line is said
  std::fprintf(stderr, "zoe: [output] cannot write to the standard output%s. Free some space there, or send it elsewhere.\n",
               error == 0 ? "" : (": " + std::generic_category().message(error)).c_str());
  return 4;
}

}  // namespace zoe::cli
