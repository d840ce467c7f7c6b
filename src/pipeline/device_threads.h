// A thread for each device of a group but the first, whose work the caller's thread does.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

namespace zoe {

class Platform;

class DeviceThreads {
 public:
  explicit DeviceThreads(std::span<Platform* const> devices);  // by rank
  ~DeviceThreads();
  DeviceThreads(const DeviceThreads&) = delete;
  DeviceThreads& operator=(const DeviceThreads&) = delete;

  // work(rank) for each of the first `count` devices, at once; returns when all have ended. If some fail, the others are let go
  // where they wait for them, and the first failure is thrown.
  void all(std::size_t count, const std::function<void(std::size_t rank)>& work);

 private:
  class Worker;
  const std::vector<Platform*> devices_;
  std::vector<std::unique_ptr<Worker>> workers_;  // of ranks from 1 on, made when first needed
};

}  // namespace zoe
