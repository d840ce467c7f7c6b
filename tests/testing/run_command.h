// Runs a program as a user's shell does, without the shell, and collects what it said.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace zoe::testing {

struct CommandOptions {
  std::filesystem::path folder = {};                                  // to run in; empty: that of the test
  std::vector<std::pair<std::string, std::string>> environment = {};  // set on top of the test's own
  rlim_t max_file_bytes = RLIM_INFINITY;                              // RLIMIT_FSIZE: a disk that is full early
  double timeout_s = 120;                                             // then it is killed, and that throws
  // Once stdout holds this text, the signal is sent.
  std::string signal_after = {};
  int signal = SIGINT;
  std::function<void()> in_child = {};  // the last thing before the program starts: closes descriptors, changes the user, ...
};

struct CommandResult {
  int code;  // the exit code, or 128 + the signal that ended it
  std::string out, err;
  double seconds;                   // from start to end
  double cpu_seconds;               // of all its threads
  double seconds_after_signal = 0;  // from sending the signal to the end
  std::string line;                 // to run it again by hand
};

inline CommandResult run_command(const std::vector<std::string>& arguments, const CommandOptions& options = {}) {
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); };
  CommandResult result{};
  std::vector<char*> argv;
  for (const std::string& argument : arguments) {
    argv.push_back(const_cast<char*>(argument.c_str()));
    result.line += (result.line.empty() ? "'" : " '") + (argument.size() > 300 ? argument.substr(0, 300) + "..." : argument) + "'";
  }
  argv.push_back(nullptr);
  int out[2], err[2];
  if (::pipe2(out, O_CLOEXEC) != 0 || ::pipe2(err, O_CLOEXEC) != 0) throw std::runtime_error("cannot make pipes");
  const auto start = Clock::now();
  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error("cannot fork");
  if (child == 0) {
    ::dup2(::open("/dev/null", O_RDONLY), STDIN_FILENO);
    ::dup2(out[1], STDOUT_FILENO);
    ::dup2(err[1], STDERR_FILENO);
    if (!options.folder.empty() && ::chdir(options.folder.c_str()) != 0) ::_exit(127);
    for (const auto& [name, value] : options.environment) ::setenv(name.c_str(), value.c_str(), 1);
    if (options.max_file_bytes != RLIM_INFINITY) {
      const rlimit limit{options.max_file_bytes, options.max_file_bytes};
      ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    if (options.in_child) options.in_child();
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  ::close(out[1]);
  ::close(err[1]);
  pollfd pipes[] = {{out[0], POLLIN, 0}, {err[0], POLLIN, 0}};
  std::string* const texts[] = {&result.out, &result.err};
  bool timed_out = false, signalled = false;
  Clock::time_point signal_time;
  for (int open = 2; open > 0;) {
    if (!timed_out && seconds_since(start) > options.timeout_s) {
      timed_out = true;
      ::kill(child, SIGKILL);
    }
    ::poll(pipes, 2, 100);
    for (int i = 0; i < 2; ++i) {
      if (pipes[i].fd < 0 || pipes[i].revents == 0) continue;
      char bytes[4096];
      const ssize_t got = ::read(pipes[i].fd, bytes, sizeof bytes);
      if (got > 0) {
        texts[i]->append(bytes, static_cast<std::size_t>(got));
      } else if (got == 0 || errno != EINTR) {
        ::close(pipes[i].fd);
        pipes[i].fd = -1;
        --open;
      }
    }
    if (!signalled && !options.signal_after.empty() && result.out.find(options.signal_after) != std::string::npos) {
      signalled = true;
      signal_time = Clock::now();
      ::kill(child, options.signal);
    }
  }
  int status = 0;
  rusage usage{};
  while (::wait4(child, &status, 0, &usage) < 0 && errno == EINTR) continue;
  result.seconds = seconds_since(start);
  if (signalled) result.seconds_after_signal = seconds_since(signal_time);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  result.cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (timed_out) throw std::runtime_error("ran longer than " + std::to_string(options.timeout_s) + " s: " + result.line);
  return result;
}

}  // namespace zoe::testing
