// The packed weights of one model on one platform, shared by its plans.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "compiler/compile.h"

namespace zoe {

// Looks a weight up by name, in whatever dtype it is stored; throws if there is none.
using WeightSource = std::function<HostTensor(const std::string& name)>;

class WeightStore {
 public:
  WeightStore(Platform& platform, WeightSource source) : platform_(platform), source_(std::move(source)) {}

  // Packs what a plan (or one segment of it) needs and is not here yet.
  void load(const Plan& plan);
  void load(const Plan& plan, int segment);
  void release(const Plan& plan, int segment);  // frees the segment's weights
  const Buffer& at(const PlanWeight& weight) const;
  std::size_t size_bytes() const { return size_bytes_; }

 private:
  void load(const PlanWeight& weight);

  Platform& platform_;
  WeightSource source_;
  std::map<std::pair<std::string, std::string>, std::shared_ptr<Buffer>> packed_;  // by name and layout
  std::size_t size_bytes_ = 0;
  // Where the platform's buffers are not this process's memory, weights are packed here and uploaded.
  std::unique_ptr<Stream> stream_;
  std::vector<std::byte> staging_;
};

}  // namespace zoe
