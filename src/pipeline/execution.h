// Runs a program: loads weights, allocates, and does its stages in order.
#pragma once

#include <atomic>
#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/component.h"
#include "pipeline/device_threads.h"
#include "pipeline/recipe.h"
#include "pipeline/stage_run.h"

namespace zoe {

// How a program's parts lie in memory.
struct Placement {
  Residency residency = Residency::last_use;
  std::vector<StageStreaming> streaming;  // of each stage
  // Packed weights of a component that may stay in this process's memory, where the device's is another. While a stage runs those
  // of the one behind it are packed there.
  std::size_t host_bytes = 0;
  bool keeps_host = false;  // for later requests
  Ahead ahead = {};
};

// What a session owns and its requests use in turn.
struct Resources {
  explicit Resources(Platform& on);

  // Of one device of the platform's group, or of the platform that is alone.
  struct Device {
    Platform* platform;
    std::unique_ptr<Stream> stream, downloads;
    Tensor workspace = {};
    CapturedGraphs captured_graphs = {};  // of its tensors and weights
  };

  Platform& platform;           // the first device
  std::vector<Device> devices;  // by rank
  std::map<std::string, std::unique_ptr<Component>> components;
  std::map<std::string, Tensor> tensors;  // by name; between requests: those of the last one that let them stay
  std::map<std::string, Filled> filled;   // of those that hold tables, by name
  std::size_t tensors_made = 0;
  DeviceThreads threads;

  std::size_t held_bytes(std::size_t device = 0) const;  // weights, tensors and workspace
  std::size_t held_host_bytes() const;                   // weights that are packed in this process's memory, beside the device's
  std::uint64_t weight_bytes_loaded() const;
  void forget_graphs();
  void forget(const Plan& plan);  // its captured graphs; it is about to go
  void clear(bool host = true);   // weights, tensors, graphs; `host`: and what is packed in this process's memory
};

class Execution {
 public:
  Execution(Resources& resources, const BoundProgram& program, const Placement& placement, const Callbacks& callbacks,
            const PlanRunner& runner);
  ~Execution();
  // After an error nothing is in flight, and what is half made is gone.
  Timings go(Work& work);

 private:
  void run_stage(Work& work, std::size_t stage, std::size_t video);
  void begin();
  void stop(bool cancelled);
  void load_weights(std::size_t stage, std::size_t video);
  void load_ahead(const Work& work, std::size_t stage, std::size_t video);
  void wait_for(const std::string& component);
  void end_loading();
  void release_weights(std::size_t stage, std::size_t video);
  void start_preparing(std::size_t stage);
  void end_preparing(bool give_up);
  void make_tensors(std::size_t stage);
  void free_tensors(std::size_t stage, std::size_t video);
  bool is_last(std::size_t video) const { return video + 1 == program_.program().repeats; }

  Resources& resources_;
  const BoundProgram& program_;
  const Placement& placement_;
  const Callbacks& callbacks_;
  const PlanRunner& runner_;
  StepTimer timer_;
  StageRun::StoredReader stored_;
  std::future<void> preparing_;                         // a thread packs what the next stage will load
  std::future<void> loading_;                           // a thread loads one component after the other
  std::map<std::string, std::future<void>> loaded_;     // by component that it loads
  std::atomic<const Component*> waited_for_ = nullptr;  // whose progress is told
  std::atomic<bool> give_up_ = false;                   // ends it
  std::unique_ptr<WeightStore> no_weights_;
  const StepClock::time_point start_ = StepClock::now();
  Timings timings_;
};

}  // namespace zoe
