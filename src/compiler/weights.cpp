#include "compiler/weights.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/files.h"

namespace zoe {

namespace {

// Of reading, packing and uploading: enough threads for the bus, few enough for the staging memory, and none that has little to do.
constexpr std::size_t kMostThreads = 8, kBytesAThread = std::size_t{32} << 20;

std::size_t source_bytes(const HostTensor& tensor) {
  return static_cast<std::size_t>(tensor.shape.count()) * size_of(tensor.dtype);
}

// Of any store: a new one in the place of an old one shares none of its numbers.
std::uint64_t next_generation() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

// Bytes that the platform takes as they are stored.
bool is_packed(const PlanWeight& weight, const HostTensor& source) {
  return weight.layout == fmt::format("dense {}", name(source.dtype)) && weight.size_bytes == source_bytes(source);
}

}  // namespace

void WeightStore::load(std::vector<const PlanWeight*> wanted) {
  std::vector<Missing> missing;
  std::set<std::pair<std::string_view, std::string_view>> seen;
  for (const PlanWeight* weight : wanted) {
    if (packed_.count({weight->name, weight->layout}) || !seen.insert({weight->name, weight->layout}).second) continue;
    const HostTensor source = source_(weight->name);
    check(source.shape.count() == weight->type.shape.count(), ErrorKind::invalid_argument, "weights",
          "bad size of {}: got {}, expected {}. The checkpoint does not belong to its config.json.", weight->name,
          source.shape.str(), weight->type.shape.str());
    missing.push_back({weight, source, nullptr});
  }
  if (missing.empty()) return;
  std::stable_sort(missing.begin(), missing.end(),
                   [](const Missing& a, const Missing& b) { return std::less<>()(a.source.data, b.source.data); });
  generation_ = next_generation();
  for (Missing& each : missing) each.buffer = platform_.allocate(each.weight->size_bytes, each.weight->name);
  if (platform_.host_addressable()) pack_in_place(missing);
  else pack_and_upload(missing);
  for (Missing& each : missing) {
    packed_[{each.weight->name, each.weight->layout}] = std::move(each.buffer);
    size_bytes_ += each.weight->size_bytes;
  }
}

void WeightStore::pack_in_place(const std::vector<Missing>& missing) {
  for (std::size_t i = 0; i < missing.size(); ++i) {
    if (i + 1 < missing.size()) read_ahead(missing[i + 1].source.data, source_bytes(missing[i + 1].source));
    const PlanWeight& weight = *missing[i].weight;
    weight.kernel->pack_weight(weight.input, weight.type, missing[i].source, static_cast<std::byte*>(missing[i].buffer->data));
  }
}

void WeightStore::pack_and_upload(const std::vector<Missing>& missing) {
  std::atomic<std::size_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_mutex;
  std::size_t total = 0;
  for (const Missing& each : missing) total += each.weight->size_bytes;
  const std::size_t threads = std::min(
      {missing.size(), kMostThreads, 1 + total / kBytesAThread, std::size_t{std::max(1u, std::thread::hardware_concurrency())}});
  const auto work = [&] {
    try {
      const auto stream = platform_.make_stream();
      std::vector<std::byte> staging;
      for (std::size_t i; (i = next++) < missing.size();) {
        if (i + threads < missing.size()) read_ahead(missing[i + threads].source.data, source_bytes(missing[i + threads].source));
        const PlanWeight& weight = *missing[i].weight;
        const HostTensor& source = missing[i].source;
        const std::byte* bytes = source.data;
        if (!is_packed(weight, source)) {
          if (staging.size() < weight.size_bytes) staging.resize(weight.size_bytes);
          weight.kernel->pack_weight(weight.input, weight.type, source, staging.data());
          bytes = staging.data();
        }
        platform_.upload(*stream, bytes, {missing[i].buffer.get(), 0}, weight.size_bytes);
      }
      stream->synchronize();
    } catch (...) {
      const std::lock_guard lock(failure_mutex);
      if (!failure) failure = std::current_exception();
      next = missing.size();
    }
  };
  std::vector<std::thread> others;
  for (std::size_t i = 1; i < threads; ++i) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
  if (failure) std::rethrow_exception(failure);
}

void WeightStore::load(const Plan& plan) {
  std::vector<const PlanWeight*> wanted;
  for (const PlanWeight& weight : plan.weights) wanted.push_back(&weight);
  load(std::move(wanted));
}

void WeightStore::load(const Plan& plan, int segment) {
  std::vector<const PlanWeight*> wanted;
  for (const PlanWeight& weight : plan.weights)
    if (weight.segment == segment) wanted.push_back(&weight);
  load(std::move(wanted));
}

void WeightStore::release(const Plan& plan, int segment) {
  for (const PlanWeight& weight : plan.weights)
    if (weight.segment == segment && packed_.erase({weight.name, weight.layout})) size_bytes_ -= weight.size_bytes;
  generation_ = next_generation();
}

const Buffer& WeightStore::at(const PlanWeight& weight) const { return *packed_.at({weight.name, weight.layout}); }

}  // namespace zoe
