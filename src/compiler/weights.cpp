#include "compiler/weights.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"

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

std::string dense(DType dtype) { return fmt::format("dense {}", name(dtype)); }

// Rows of one tensor before those of the next, in the dtype they are computed with.
HostTensor joined(const std::vector<HostTensor>& sources, const Type& type, std::vector<std::byte>& bytes) {
  bytes.resize(type.size_bytes());
  std::size_t end = 0;
  for (const HostTensor& source : sources) {
    const auto count = static_cast<std::size_t>(source.shape.count());
    std::vector<std::byte> aligned(source.data, source.data + source_bytes(source));
    convert(aligned.data(), source.dtype, bytes.data() + end, type.dtype, count);
    end += count * size_of(type.dtype);
  }
  return {type.dtype, type.shape, bytes.data()};
}

}  // namespace

void WeightStore::load(std::vector<const PlanWeight*> wanted) {
  std::vector<Missing> missing;
  std::set<std::pair<std::string_view, std::string_view>> seen;
  for (const PlanWeight* weight : wanted) {
    if (packed_.count({weight->name, weight->layout}) || !seen.insert({weight->name, weight->layout}).second) continue;
    add_pieces(*weight, missing);
  }
  if (missing.empty()) return;
  std::stable_sort(missing.begin(), missing.end(), [](const Missing& a, const Missing& b) {
    return std::less<>()(a.sources.front().data, b.sources.front().data);
  });
  generation_ = next_generation();
  std::map<const PlanWeight*, std::shared_ptr<Buffer>> buffers;
  for (Missing& each : missing) {
    std::shared_ptr<Buffer>& buffer = buffers[each.weight];
    if (!buffer) buffer = platform_.allocate(each.weight->size_bytes, each.weight->name);
    each.buffer = buffer;
  }
  if (platform_.host_addressable()) pack_in_place(missing);
  else pack_and_upload(missing);
  for (const auto& [weight, buffer] : buffers) {
    packed_[{weight->name, weight->layout}] = buffer;
    size_bytes_ += weight->size_bytes;
  }
}

void WeightStore::add_pieces(const PlanWeight& weight, std::vector<Missing>& missing) const {
  std::vector<HostTensor> sources;
  for (const PlanWeight::Part& part : weight.parts) {
    sources.push_back(source_(part.name));
    check(sources.back().shape.count() == part.type.shape.count(), ErrorKind::invalid_argument, "weights",
          "bad size of {}: got {}, expected {}. The checkpoint does not belong to its config.json.", part.name,
          sources.back().shape.str(), part.type.shape.str());
  }
  if (weight.layout != dense(weight.type.dtype) || weight.size_bytes != weight.type.size_bytes()) {
    missing.push_back({&weight, weight.type, std::move(sources), nullptr, 0, weight.size_bytes});
    return;
  }
  std::size_t end = 0;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const Type& type = weight.parts[i].type;
    missing.push_back({&weight, type, {sources[i]}, nullptr, std::exchange(end, end + type.size_bytes()), type.size_bytes()});
  }
}

void WeightStore::pack(const Missing& piece, std::byte* to) {
  std::vector<std::byte> bytes;
  const HostTensor source = piece.sources.size() == 1 ? piece.sources.front() : joined(piece.sources, piece.type, bytes);
  piece.weight->kernel->pack_weight(piece.weight->input, piece.type, source, to);
}

void WeightStore::pack_in_place(const std::vector<Missing>& missing) {
  for (std::size_t i = 0; i < missing.size(); ++i) {
    if (i + 1 < missing.size()) read_ahead(missing[i + 1]);
    pack(missing[i], static_cast<std::byte*>(missing[i].buffer->data) + missing[i].offset);
  }
}

void WeightStore::read_ahead(const Missing& piece) {
  for (const HostTensor& source : piece.sources) zoe::read_ahead(source.data, source_bytes(source));
}

// Whether the platform takes the bytes as they are stored.
bool WeightStore::is_packed(const Missing& piece) {
  const HostTensor& source = piece.sources.front();
  return piece.sources.size() == 1 && piece.weight->layout == dense(source.dtype) && piece.size_bytes == source_bytes(source);
}

void WeightStore::pack_and_upload(const std::vector<Missing>& missing) {
  std::atomic<std::size_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_mutex;
  std::size_t total = 0;
  for (const Missing& each : missing) total += each.size_bytes;
  const std::size_t threads = std::min(
      {missing.size(), kMostThreads, 1 + total / kBytesAThread, std::size_t{std::max(1u, std::thread::hardware_concurrency())}});
  const auto work = [&, target = log_target()] {
    const LogScope log_scope(target);
    try {
      const auto stream = platform_.make_stream();
      std::vector<std::byte> staging;
      for (std::size_t i; (i = next++) < missing.size();) {
        if (i + threads < missing.size()) read_ahead(missing[i + threads]);
        const Missing& piece = missing[i];
        const std::byte* bytes = piece.sources.front().data;
        if (!is_packed(piece)) {
          if (staging.size() < piece.size_bytes) staging.resize(piece.size_bytes);
          pack(piece, staging.data());
          bytes = staging.data();
        }
        platform_.upload(*stream, bytes, {piece.buffer.get(), piece.offset}, piece.size_bytes);
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

void WeightStore::clear() {
  packed_.clear();
  size_bytes_ = 0;
  generation_ = next_generation();
}

const Buffer& WeightStore::at(const PlanWeight& weight) const { return *packed_.at({weight.name, weight.layout}); }

}  // namespace zoe
