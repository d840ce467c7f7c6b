#include "platform/cuda/cublaslt.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <random>
#include <utility>

#include "base/error.h"
#include "base/log.h"

namespace zoe::cuda {
namespace {

constexpr int kMostCandidates = 16;
constexpr std::uint64_t kMostWorkspaceBytes = std::uint64_t{32} << 20;
// Looking for the fastest ends after this long: for one product (after a first look at every candidate), and for all of them.
constexpr double kMostMsEach = 250, kMostMs = 2500;

double now_ms() { return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// A problem in the library's words. It sees the transposed matrices, which are column-major: result^T = weight x^T.
class Description {
 public:
  Description(const CublasltApi& api, const LtProblem& problem, Address bias) : api_(api) {
    const int type = problem.dtype == DType::f32 ? kLtF32 : kLtBf16;
    const auto rows = static_cast<std::uint64_t>(problem.rows), columns = static_cast<std::uint64_t>(problem.columns),
               inner = static_cast<std::uint64_t>(problem.inner);
    keep(api.product_create(&product, kLtComputeF32, kLtF32));
    keep(api.layout_create(&weight, type, inner, columns, problem.inner));
    keep(api.layout_create(&x, type, inner, rows, problem.inner));
    keep(api.layout_create(&result, type, columns, rows, problem.columns));
    if (status != kSuccess) return;
    const std::uint32_t epilogue = (problem.bias ? kLtBias : 0) | (problem.gelu ? kLtGelu : 0);
    set(LtProductAttribute::transpose_a, kLtTransposed);
    set(LtProductAttribute::epilogue, epilogue ? epilogue : kLtPlain);
    if (problem.bias) set(LtProductAttribute::bias, bias);
  }
  ~Description() {
    if (product) api_.product_destroy(product);
    for (const LtLayout layout : {weight, x, result})
      if (layout) api_.layout_destroy(layout);
  }
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;

  Status status = kSuccess;
  LtProduct product = nullptr;
  LtLayout weight = nullptr, x = nullptr, result = nullptr;

 private:
  void keep(Status made) {
    if (status == kSuccess) status = made;
  }
  template <class T>
  void set(LtProductAttribute attribute, T value) {
    keep(api_.product_set(product, attribute, &value, sizeof value));
  }
  const CublasltApi& api_;
};

// What the device of the cached algorithms is, in words.
std::string words_for(const Device& device) {
  const DeviceDescription& of = device.description;
  return fmt::format("{}, compute capability {}.{}, {} multiprocessors, driver {}", of.name, of.major, of.minor, of.multiprocessors,
                     of.driver_version);
}

}  // namespace

std::string LtProblem::text() const {
  return fmt::format("{} {}x{}x{}{}{}{}", name(dtype), rows, columns, inner, bias ? " bias" : "", gelu ? " gelu" : "",
                     residual ? " residual" : "");
}

AlgorithmCache::AlgorithmCache(std::shared_ptr<KernelCache> cache, std::string library, std::string device)
    : cache_(std::move(cache)), library_(std::move(library)), device_(std::move(device)) {}

KernelRecipe AlgorithmCache::recipe(const LtProblem& problem) const {
  KernelRecipe recipe{.name = "product " + problem.text(), .dialect = "cublaslt", .source = problem.text() + "\n"};
  std::replace(recipe.name.begin(), recipe.name.end(), ' ', '_');
  recipe.compiler = library_;
  recipe.flags =
      fmt::format("{}-byte alignment, {} MiB of workspace, parts of sums in f32", Cublaslt::kAlignment, kMostWorkspaceBytes >> 20);
  recipe.target = device_;
  return recipe;
}

std::optional<LtAlgorithm> AlgorithmCache::find(const LtProblem& problem) {
  const KernelRecipe wanted = recipe(problem);
  const auto entry = cache_->read(wanted);
  if (!entry) return std::nullopt;
  LtAlgorithm algorithm;
  if (entry->bytes.size() != sizeof algorithm) {
    cache_->reject(wanted, fmt::format("an algorithm has {} bytes, got {}", sizeof algorithm, entry->bytes.size()));
    return std::nullopt;
  }
  std::memcpy(&algorithm, entry->bytes.data(), sizeof algorithm);
  return algorithm;
}

void AlgorithmCache::store(const LtProblem& problem, const LtAlgorithm& algorithm) {
  const KernelRecipe key = recipe(problem);
  const KernelCache::NewKernel entry{&key, "product.algorithm", key.name,
                                     std::string_view(reinterpret_cast<const char*>(&algorithm), sizeof algorithm)};
  cache_->store({&entry, 1});
}

void AlgorithmCache::reject(const LtProblem& problem, std::string_view why) { cache_->reject(recipe(problem), why); }

// Random operands of one problem on the device, and a clock there. `ready` is false if there is no room for them.
class Cublaslt::Bench {
 public:
  Bench(Device& device, const Cublaslt& library, const LtProblem& problem)
      : api_(device.api), library_(library), stream_(device.memory_stream()) {
    const auto bytes = [&](std::int64_t rows, std::int64_t columns) {
      const auto size = static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns) * size_of(problem.dtype);
      return (size + Cublaslt::kWorkspaceAlignment - 1) / Cublaslt::kWorkspaceAlignment * Cublaslt::kWorkspaceAlignment;
    };
    std::size_t total = 0;
    const auto reserve = [&](std::size_t size) { return static_cast<Address>(std::exchange(total, total + size)); };
    operands_.x = reserve(bytes(problem.rows, problem.inner));
    operands_.weight = reserve(bytes(problem.columns, problem.inner));
    operands_.bias = reserve(bytes(1, problem.columns));
    operands_.residual = reserve(problem.residual ? bytes(problem.rows, problem.columns) : 0);
    const std::size_t random_bytes = total;
    operands_.result = reserve(bytes(problem.rows, problem.columns));
    workspace_ = reserve(kMostWorkspaceBytes);
    try {
      memory_ = device.allocate(total, "measuring a product");
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::out_of_memory) throw;
      return;
    }
    for (Address* place : {&operands_.x, &operands_.weight, &operands_.bias, &operands_.residual, &operands_.result, &workspace_})
      *place += start();
    if (!problem.bias) operands_.bias = 0;
    if (!problem.residual) operands_.residual = 0;
    ready =
        fill(problem.dtype, random_bytes) && api_.event_create(&begin_, 0) == kSuccess && api_.event_create(&end_, 0) == kSuccess;
  }
  ~Bench() {
    if (begin_) api_.event_destroy(begin_);
    if (end_) api_.event_destroy(end_);
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  // Milliseconds of one of `times` runs, one behind the other. Infinity if one fails.
  double time(int times, const LtProblem& problem, const LtCandidate& candidate) const {
    constexpr double kFailed = std::numeric_limits<double>::infinity();
    if (api_.event_record(begin_, stream_) != kSuccess) return kFailed;
    for (int i = 0; i < times; ++i)
      if (!run(problem, candidate)) return kFailed;
    float ms = 0;
    const bool timed = api_.event_record(end_, stream_) == kSuccess && api_.event_synchronize(end_) == kSuccess &&
                       api_.event_elapsed(&ms, begin_, end_) == kSuccess;
    return timed ? static_cast<double>(ms) / times : kFailed;
  }

  // Some algorithms write the sums in bf16 and let a second kernel add bias and residual to those. Looked for at one element whose
  // sum is 1 + 2^-8 - 2^-14, which alone rounds to 1.
  bool rounds_once(const LtProblem& problem, const LtCandidate& candidate) const {
    if (problem.dtype != DType::bf16) return true;
    if (problem.inner < 3) return false;
    constexpr float kStep = 0x1p-8f, kSum = 1 + kStep - 0x1p-14f;
    const auto put = [&](Address place, std::initializer_list<float> values, std::int64_t count) {
      std::vector<std::uint16_t> row(static_cast<std::size_t>(count));
      std::transform(values.begin(), values.end(), row.begin(), f32_to_bf16);
      return api_.copy_to_device_async(place, row.data(), row.size() * 2, stream_) == kSuccess &&
             api_.stream_synchronize(stream_) == kSuccess;
    };
    if (!put(operands_.x, {1, kStep, -0x1p-14f}, problem.inner) || !put(operands_.weight, {1, 1, 1}, problem.inner)) return false;
    for (const auto& [bias, residual] : {std::pair(0.0f, 0.0f), {kStep, 0.0f}, {0.0f, kStep}}) {
      if ((bias != 0 && !problem.bias) || (residual != 0 && !problem.residual)) continue;
      const double y = static_cast<double>(kSum) + static_cast<double>(bias);
      const double activated = problem.gelu ? 0.5 * y * (1 + std::tanh(0.7978845608028654 * (y + 0.044715 * y * y * y))) : y;
      const std::uint16_t expected = f32_to_bf16(static_cast<float>(activated + static_cast<double>(residual)));
      std::uint16_t got = 0;
      if (problem.bias && !put(operands_.bias, {bias}, 1)) return false;
      if (problem.residual && !put(operands_.residual, {residual}, 1)) return false;
      if (!run(problem, candidate) || api_.copy_to_host_async(&got, operands_.result, sizeof got, stream_) != kSuccess ||
          api_.stream_synchronize(stream_) != kSuccess || got != expected)
        return false;
    }
    return true;
  }

  bool ready = false;

 private:
  Address start() const { return reinterpret_cast<Address>(memory_->data); }
  bool run(const LtProblem& problem, const LtCandidate& candidate) const {
    try {
      library_.multiply(problem, {candidate.algorithm, candidate.workspace_bytes}, operands_, workspace_, stream_);
      return true;
    } catch (const Error&) {
      return false;  // a candidate that does not run here
    }
  }

  // A block of normal values, copied until it fills the first `size` bytes: how much power products take depends on their operands,
  // and the clock on that.
  bool fill(DType dtype, std::size_t size) const {
    constexpr std::size_t kValues = std::size_t{1} << 17;
    std::mt19937 generator(1);
    std::normal_distribution<float> normal(0.0f, 0.25f);
    std::vector<float> values(std::min(kValues, size / size_of(dtype)));
    for (float& value : values) value = normal(generator);
    std::vector<std::byte> block(values.size() * size_of(dtype));
    convert(values.data(), DType::f32, block.data(), dtype, values.size());
    if (api_.copy_to_device_async(start(), block.data(), block.size(), stream_) != kSuccess) return false;
    for (std::size_t filled = block.size(); filled < size;) {
      const std::size_t more = std::min(filled, size - filled);
      if (api_.copy_async(start() + filled, start(), more, stream_) != kSuccess) return false;
      filled += more;
    }
    return api_.stream_synchronize(stream_) == kSuccess;
  }

  const DriverApi& api_;
  const Cublaslt& library_;
  const StreamHandle stream_;
  LtOperands operands_;
  Address workspace_ = 0;
  std::shared_ptr<Buffer> memory_;
  EventHandle begin_ = nullptr, end_ = nullptr;
};

Cublaslt::Cublaslt(DevicePtr device, const CublasltApi& api)
    : device_(std::move(device)),
      api_(api),
      cache_(device_->cache, fmt::format("cuBLASLt {}", api.version()), words_for(*device_)) {
  device_->make_current();
  const Status status = api.create(&handle_);
  check(status == kSuccess, ErrorKind::device, "cuda", "cuBLASLt does not start: {}.", api.status_text(status));
}

Cublaslt::~Cublaslt() {
  try {
    device_->make_current();
    api_.destroy(handle_);
  } catch (const Error&) {  // a lost device: there is nothing left to free
  }
}

void Cublaslt::check_status(Status status, std::string_view call, const LtProblem& problem) const {
  check(status == kSuccess, ErrorKind::device, "cuda", "cuBLASLt failed in {} of {}: {}.", call, problem.text(),
        api_.status_text(status));
}

std::optional<LtChoice> Cublaslt::choose(const LtProblem& problem) {
  const std::lock_guard lock(mutex_);
  const std::string text = problem.text();
  if (const auto known = chosen_.find(text); known != chosen_.end()) return known->second;
  device_->make_current();
  std::optional<LtChoice> choice = cached(problem);
  if (!choice)
    if (const std::vector<LtCandidate> offered = candidates(problem); !offered.empty()) choice = fastest(problem, offered);
  chosen_.emplace(text, choice);  // what failed on the way is asked again: an error says nothing about the product
  return choice;
}

std::optional<LtChoice> Cublaslt::cached(const LtProblem& problem) {
  const std::optional<LtAlgorithm> algorithm = cache_.find(problem);
  if (!algorithm) return std::nullopt;
  const Description description(api_, problem, kAlignment);
  check_status(description.status, "the description", problem);
  LtCandidate checked{};
  const Status status = api_.check(handle_, description.product, description.weight, description.x, description.result,
                                   description.result, &*algorithm, &checked);
  if (status == kSuccess && checked.workspace_bytes <= kMostWorkspaceBytes) return LtChoice{*algorithm, checked.workspace_bytes};
  cache_.reject(problem, fmt::format("cuBLASLt does not take it: {}", api_.status_text(status)));
  return std::nullopt;
}

std::vector<LtCandidate> Cublaslt::candidates(const LtProblem& problem) const {
  // Only how an address is aligned counts here.
  const Description description(api_, problem, kAlignment);
  check_status(description.status, "the description", problem);
  LtPreference preference = nullptr;
  check_status(api_.preference_create(&preference), "the preferences", problem);
  const auto set = [&](LtPreferenceAttribute attribute, auto value) {
    check_status(api_.preference_set(preference, attribute, &value, sizeof value), "the preferences", problem);
  };
  std::vector<LtCandidate> found(kMostCandidates);
  int count = 0;
  try {
    set(LtPreferenceAttribute::workspace_bytes, kMostWorkspaceBytes);
    set(LtPreferenceAttribute::reductions, kLtReduceInComputeType);
    for (const auto attribute : {LtPreferenceAttribute::alignment_a, LtPreferenceAttribute::alignment_b,
                                 LtPreferenceAttribute::alignment_c, LtPreferenceAttribute::alignment_d})
      set(attribute, static_cast<std::uint32_t>(kAlignment));
    if (api_.candidates(handle_, description.product, description.weight, description.x, description.result, description.result,
                        preference, kMostCandidates, found.data(), &count) != kSuccess)
      count = 0;
  } catch (...) {
    api_.preference_destroy(preference);
    throw;
  }
  api_.preference_destroy(preference);
  found.resize(static_cast<std::size_t>(count));
  std::erase_if(found, [](const LtCandidate& each) { return each.state != kSuccess; });
  return found;
}

// The candidates in the order of their times, those within a hundredth of the best in the library's own order: the clock's moods
// decide between them otherwise, another way in every run. They run in turns, which levels the clock's slower moods.
std::vector<std::size_t> Cublaslt::by_time(const LtProblem& problem, const std::vector<LtCandidate>& offered, const Bench& bench,
                                           std::vector<double>& medians) {
  constexpr std::size_t kRounds = 7, kFirstRounds = 2;
  constexpr double kFarBehind = 1.15, kEqual = 1.01;
  constexpr double kShortMs = 0.5;  // shorter ones run several times between two looks at the clock
  constexpr double kWakingMs = 300, kHeavyMs = 0.1;
  std::vector<std::size_t> order(offered.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::vector<std::size_t> racing = order;
  std::vector<double> once;
  for (const LtCandidate& each : offered) {
    bench.time(1, problem, each);  // loads its program
    once.push_back(bench.time(1, problem, each));
  }
  if (!awake_ && once[0] > kHeavyMs) {
    // A device that did nothing so far runs faster than its power allows for long, which other algorithms win.
    for (double begin = now_ms(); now_ms() - begin < kWakingMs;)
      if (!(bench.time(8, problem, offered[0]) < kMostMsEach)) break;
    awake_ = true;
  }
  const double start = now_ms();
  std::vector<std::vector<double>> times(offered.size());
  medians = once;
  for (std::size_t round = 0; round < kRounds && now_ms() - start < kMostMsEach; ++round) {
    for (const std::size_t i : racing) {
      times[i].push_back(bench.time(std::clamp(static_cast<int>(kShortMs / once[i]), 1, 32), problem, offered[i]));
      std::vector<double> sorted = times[i];
      std::sort(sorted.begin(), sorted.end());
      medians[i] = sorted[sorted.size() / 2];
    }
    if (round + 1 < kFirstRounds) continue;
    const double best = *std::min_element(medians.begin(), medians.end());
    std::erase_if(racing, [&](std::size_t i) { return medians[i] > kFarBehind * best; });
  }
  const double equal = kEqual * *std::min_element(medians.begin(), medians.end());
  const auto rank = [&](std::size_t i) { return std::pair(medians[i] > equal ? medians[i] : 0.0, i); };
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return rank(a) < rank(b); });
  return order;
}

std::optional<LtChoice> Cublaslt::fastest(const LtProblem& problem, const std::vector<LtCandidate>& offered) {
  const auto choice = [&](std::size_t i) { return LtChoice{offered[i].algorithm, offered[i].workspace_bytes}; };
  const Bench bench(*device_, *this, problem);
  if (!bench.ready) {
    log(LogLevel::detail, fmt::format("cuBLASLt: the first algorithm for {}; no room to measure others", problem.text()));
    return choice(0);
  }
  const bool measure = measured_ms_ < kMostMs;
  std::vector<std::size_t> order(offered.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::vector<double> medians;
  const double start = now_ms();
  if (measure) order = by_time(problem, offered, bench, medians);
  measured_ms_ += now_ms() - start;
  for (const std::size_t i : order) {
    if (!bench.rounds_once(problem, offered[i])) continue;
    log(LogLevel::detail, fmt::format("cuBLASLt: {} takes number {} of {}, {}{}", problem.text(), i + 1, offered.size(),
                                      describe(offered[i].algorithm),
                                      measure ? fmt::format(": {:.4f} ms", medians[i]) : "; enough was measured in this run"));
    if (measure) cache_.store(problem, offered[i].algorithm);
    return choice(i);
  }
  return std::nullopt;
}

std::string Cublaslt::describe(const LtAlgorithm& algorithm) const {
  const auto get = [&](LtAlgorithmAttribute attribute, auto value) {
    std::size_t written = 0;
    return api_.algorithm_get(&algorithm, attribute, &value, sizeof value, &written) == kSuccess ? static_cast<int>(value) : -1;
  };
  const int splits = get(LtAlgorithmAttribute::splits, std::int32_t{});
  return fmt::format("algorithm {} tile {} cluster {}{}", get(LtAlgorithmAttribute::id, std::int32_t{}),
                     get(LtAlgorithmAttribute::tile, std::uint32_t{}), get(LtAlgorithmAttribute::cluster, std::uint16_t{}),
                     splits > 1 ? fmt::format(" in {} parts", splits) : "");
}

void Cublaslt::multiply(const LtProblem& problem, const LtChoice& choice, const LtOperands& operands, Address workspace,
                        StreamHandle stream) const {
  const Description description(api_, problem, operands.bias);
  check_status(description.status, "the description", problem);
  const float one = 1, zero = 0;
  // Without a residual the library does not read c, but wants a place.
  const Address c = problem.residual ? operands.residual : operands.result;
  check_status(api_.multiply(handle_, description.product, &one, operands.weight, description.weight, operands.x, description.x,
                             problem.residual ? &one : &zero, c, description.result, operands.result, description.result,
                             &choice.algorithm, workspace, choice.workspace_bytes, stream),
               "the product", problem);
}

}  // namespace zoe::cuda
