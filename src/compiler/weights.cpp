#include "compiler/weights.h"

#include "base/error.h"

namespace zoe {

void WeightStore::load(const PlanWeight& weight) {
  auto& buffer = packed_[{weight.name, weight.layout}];
  if (buffer) return;
  const HostTensor source = source_(weight.name);
  check(source.shape.count() == weight.type.shape.count(), ErrorKind::invalid_argument, "weights",
        "bad size of {}: got {}, expected {}. The checkpoint does not belong to its config.json.", weight.name, source.shape.str(),
        weight.type.shape.str());
  auto fresh = platform_.allocate(weight.size_bytes, weight.name);
  if (platform_.host_addressable()) {
    weight.kernel->pack_weight(weight.input, weight.type, source, static_cast<std::byte*>(fresh->data));
  } else {
    if (!stream_) stream_ = platform_.make_stream();
    if (staging_.size() < weight.size_bytes) staging_.resize(weight.size_bytes);
    weight.kernel->pack_weight(weight.input, weight.type, source, staging_.data());
    platform_.upload(*stream_, staging_.data(), {fresh.get(), 0}, weight.size_bytes);
  }
  buffer = std::move(fresh);
  size_bytes_ += weight.size_bytes;
}

void WeightStore::load(const Plan& plan) {
  for (const PlanWeight& weight : plan.weights) load(weight);
}

void WeightStore::load(const Plan& plan, int segment) {
  for (const PlanWeight& weight : plan.weights)
    if (weight.segment == segment) load(weight);
}

void WeightStore::release(const Plan& plan, int segment) {
  for (const PlanWeight& weight : plan.weights)
    if (weight.segment == segment && packed_.erase({weight.name, weight.layout})) size_bytes_ -= weight.size_bytes;
}

const Buffer& WeightStore::at(const PlanWeight& weight) const { return *packed_.at({weight.name, weight.layout}); }

}  // namespace zoe
