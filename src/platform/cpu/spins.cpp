#include "platform/cpu/spins.h"

#include <omp.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>

namespace zoe::cpu {

namespace {

// A thread that has had a team of its own, which sleeps until it ends.
class IdleTeam {
 public:
  explicit IdleTeam(int size) : thread_([this, size] { run(size); }) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return is_ready_; });
  }
  ~IdleTeam() {
    {
      const std::lock_guard lock(mutex_);
      ends_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

 private:
  void run(int size) {
    int members = 0;
#pragma omp parallel num_threads(size) reduction(+ : members)
    members += 1;
    std::unique_lock lock(mutex_);
    is_ready_ = members > 0;
    changed_.notify_all();
    changed_.wait(lock, [this] { return ends_; });
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_ready_ = false, ends_ = false;
  std::thread thread_;  // the last: it uses the others
};

}  // namespace

std::shared_ptr<void> keep_spins_short(int threads) {
  if (std::getenv("OMP_WAIT_POLICY") || std::getenv("GOMP_SPINCOUNT")) return nullptr;
  // One for all platforms of the process, of which the first decides: more threads than CPUs is all that counts.
  static std::mutex mutex;
  static std::weak_ptr<IdleTeam> current;
  const std::lock_guard lock(mutex);
  std::shared_ptr<IdleTeam> team = current.lock();
  if (!team) {
    // A team has its thread besides, which libgomp does not count.
    team = std::make_shared<IdleTeam>(std::max(omp_get_num_procs() - threads, 0) + 2);
    current = team;
  }
  return team;
}

}  // namespace zoe::cpu
