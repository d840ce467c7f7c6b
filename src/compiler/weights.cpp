#include "compiler/weights.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

#include "base/encoding.h"
#include "base/error.h"
#include "base/log.h"

namespace zoe {

namespace {

// Of reading, packing and uploading: enough threads for the bus, few enough for the staging memory, and none that has little to do.
constexpr std::size_t kMostThreads = 16, kBytesAThread = std::size_t{32} << 20;
// What a thread takes at a time: the flag that cancels is looked at between, no thread is left with much at the end, and the next
// few are on their way from the disk meanwhile.
constexpr std::size_t kPortionBytes = std::size_t{4} << 20, kPortionsAhead = 8;

// Of any store: a new one in the place of an old one shares none of its numbers.
std::uint64_t next_generation() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

// Adds up where a thread's time goes: lap() adds what has passed since the one before.
class Laps {
 public:
  void lap(double LoadTimes::*where) {
    const auto now = std::chrono::steady_clock::now();
    times_.*where += std::chrono::duration<double>(now - std::exchange(last_, now)).count();
  }
  const LoadTimes& times() const { return times_; }

 private:
  LoadTimes times_;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

void add_times(LoadTimes& sum, const LoadTimes& more, double threads) {
  for (double LoadTimes::*const where :
       {&LoadTimes::allocate, &LoadTimes::set_up, &LoadTimes::fetch, &LoadTimes::read, &LoadTimes::upload, &LoadTimes::finish})
    sum.*where += more.*where / threads;
}

constexpr std::string_view kLater = "weights of later steps";

std::vector<std::string> tensors_of(const PlanWeight& weight) {
  std::vector<std::string> names;
  for (const PlanWeight::Part& part : weight.parts) names.push_back(part.name);
  return names;
}

std::string dense(DType dtype) { return fmt::format("dense {}", name(dtype)); }

}  // namespace

// One call of load(): its pieces, portion by portion, by one thread or several.
class WeightStore::Loading {
 public:
  // Whether the platform takes the source's elements in their order.
  static bool has_its_order(const Missing& piece) {
    return piece.is_ready || (piece.weight->layout == dense(piece.type.dtype) && piece.size_bytes == piece.type.size_bytes());
  }

  // Whether a part of a packed weight is stored as it shall stay; else its elements are taken.
  static bool is_stored(const Missing& piece) {
    const Storage storage = piece.source->storage(), &wanted = piece.kept->part.storage;
    const bool is_stored = storage.encoding == wanted.encoding && storage.is_scaled == wanted.is_scaled;
    ZOE_INTERNAL_CHECK(is_stored || wanted.encoding->dtype == piece.type.dtype);
    return is_stored;
  }

  // The bytes that are uploaded, where they lie in memory as they are wanted (but for scales); else null.
  static const std::byte* bytes_of(const Missing& piece) {
    if (piece.kept && is_stored(piece)) return piece.source->blocks();
    return piece.kept || has_its_order(piece) ? piece.source->dense(piece.type.dtype) : nullptr;
  }

  Loading(Platform& platform, std::vector<Missing>& missing, const LoadOptions& options)
      : platform_(platform), missing_(missing), options_(options) {
    for (Missing& piece : missing_) {
      total_ += piece.source->stored_bytes();
      uploaded_ += piece.size_bytes;
      const bool is_whole = !piece.target.host && !piece.kept && !has_its_order(piece);
      const std::int64_t count = piece.source->count(), step = is_whole ? count : step_of(*piece.source);
      for (std::int64_t begin = 0; begin < count; begin += step, ++piece.portions)
        portions_.push_back({&piece, begin, std::min(step, count - begin)});
    }
    for (std::size_t i = 0; i < kPortionsAhead && i < portions_.size(); ++i) begin_to_read(portions_[i]);
  }

  // A piece after the other, each by all threads.
  void pack_in_place() {
    Laps laps;
    for (std::size_t first = 0, end = 0; first < portions_.size(); first = end) {
      Missing& piece = *portions_[first].piece;
      while (end < portions_.size() && portions_[end].piece == &piece) ++end;
#pragma omp parallel for schedule(dynamic) if (end - first > 1)
      for (std::size_t i = first; i < end; ++i) {
        if (has_failed()) continue;
        try {
          if (i + kPortionsAhead < portions_.size()) begin_to_read(portions_[i + kPortionsAhead]);
          fetch(portions_[i]);
          const auto take = [&](std::size_t offset, std::size_t, const std::byte*, const auto& read) {
            read(piece.target.host + offset);
          };
          if (piece.kept) take_stored(portions_[i], take);
          else if (piece.is_ready) take_in_order(portions_[i], take);
        } catch (...) {
          fail_with(std::current_exception());
        }
      }
      if (failure_) std::rethrow_exception(failure_);
      laps.lap(piece.kept ? &LoadTimes::read : &LoadTimes::fetch);
      if (!piece.kept && !piece.is_ready) {
        pack(piece, piece.target.host + piece.offset);
        laps.lap(&LoadTimes::read);
      }
      for (std::size_t i = first; i < end; ++i) end_of(portions_[i]);
    }
    if (!options_.times) return;
    add_times(*options_.times, laps.times(), 1);
    options_.times->threads = std::max(options_.times->threads, static_cast<std::size_t>(omp_get_max_threads()));
  }

  void pack_and_upload() {
    const std::size_t threads = std::min({portions_.size(), kMostThreads, 1 + uploaded_ / kBytesAThread,
                                          std::size_t{std::max(1u, std::thread::hardware_concurrency())}});
    std::vector<std::thread> others;
    try {
      others.reserve(threads);
      while (others.size() + 1 < threads)
        others.emplace_back([this, target = log_target()] {
          const LogScope log_scope(target);
          omp_set_num_threads(1);  // packing makes no team of each of these threads
          work();
        });
    } catch (const std::system_error&) {
      // No more threads for this process: those that run do it, this one if need be alone.
    }
    const int own_team = omp_get_max_threads();
    if (!others.empty()) omp_set_num_threads(1);
    work();
    omp_set_num_threads(own_team);
    for (std::thread& other : others) other.join();
    if (options_.times) {
      add_times(*options_.times, times_, static_cast<double>(others.size() + 1));
      options_.times->threads = std::max(options_.times->threads, others.size() + 1);
    }
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  // What a kernel packs from, which may do so for a long time, on threads of its own that nothing may be thrown on: once the flag
  // is set there are zeros to read, and packing is soon over.
  class Cancellable : public WeightReader {
   public:
    Cancellable(const WeightReader& source, const std::atomic<bool>& cancel) : source_(source), cancel_(cancel) {}
    const Shape& shape() const override { return source_.shape(); }
    std::size_t stored_bytes() const override { return source_.stored_bytes(); }
    void read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const override {
      constexpr std::int64_t kElements = std::int64_t{1} << 18;  // of a read that is longer
      for (std::int64_t done = 0; done < count; done += kElements) {
        const std::int64_t now = std::min(kElements, count - done);
        std::byte* const to = static_cast<std::byte*>(out) + static_cast<std::size_t>(done) * size_of(dtype);
        if (cancel_.load(std::memory_order_relaxed)) std::memset(to, 0, static_cast<std::size_t>(now) * size_of(dtype));
        else source_.read(begin + done, now, dtype, to);
      }
    }

   private:
    const WeightReader& source_;
    const std::atomic<bool>& cancel_;
  };

  void pack(const Missing& piece, std::byte* to) const {
    const Kernel& kernel = *piece.weight->kernel;
    if (!options_.cancel) return kernel.pack_weight(piece.weight->input, piece.type, *piece.source, to);
    kernel.pack_weight(piece.weight->input, piece.type, Cancellable(*piece.source, *options_.cancel), to);
    check_cancelled();
  }

  void check_cancelled() const {
    if (options_.cancel && options_.cancel->load(std::memory_order_relaxed))
      fail(ErrorKind::cancelled, "weights", "loading was cancelled.");
  }

  // What a thread takes: elements of a piece, or all of one that is packed in another order than that of its elements.
  struct Portion {
    Missing* piece;
    std::int64_t begin, count;
  };

  void work() {
    Laps laps;
    std::unique_ptr<Stream> stream;
    try {
      stream = platform_.make_stream();
      laps.lap(&LoadTimes::set_up);
      std::vector<std::byte> staging;
      const auto room = [&](std::size_t size) {
        if (staging.size() < size) staging.resize(size);
        return staging.data();
      };
      for (std::size_t i; (i = next_++) < portions_.size();) {
        const Portion& portion = portions_[i];
        Missing& piece = *portion.piece;
        if (i + kPortionsAhead < portions_.size()) begin_to_read(portions_[i + kPortionsAhead]);
        fetch(portion);
        laps.lap(&LoadTimes::fetch);
        // Bytes that are at an address go from there, others are made first.
        const auto upload = [&](std::size_t offset, std::size_t size, const std::byte* there, const auto& read) {
          if (!there) {
            read(room(size));
            laps.lap(&LoadTimes::read);
          }
          platform_.upload(*stream, there ? there : staging.data(), place_in(piece, offset), size);
          laps.lap(&LoadTimes::upload);
        };
        if (piece.kept) {
          take_stored(portion, upload);
        } else if (has_its_order(piece)) {
          take_in_order(portion, upload);
        } else {
          upload(piece.offset, piece.size_bytes, nullptr, [&](std::byte* to) { pack(piece, to); });
        }
        end_of(portion);
      }
      stream->synchronize();
      laps.lap(&LoadTimes::finish);
    } catch (...) {
      fail_with(std::current_exception());
      // What is queued writes to buffers that the caller is about to free.
      try {
        if (stream) stream->synchronize();
      } catch (...) {
      }
    }
    const std::lock_guard lock(mutex_);
    add_times(times_, laps.times(), 1);
  }

  static Slot place_in(const Missing& piece, std::size_t offset) {
    return {piece.target.device.buffer, piece.target.device.offset + offset};
  }

  // Both call take(offset in the buffer, size, where the bytes are or null, read(to)) for what a portion becomes.
  template <class Take>
  static void take_in_order(const Portion& portion, const Take& take) {
    const Missing& piece = *portion.piece;
    const DType dtype = piece.type.dtype;
    const std::size_t offset = static_cast<std::size_t>(portion.begin) * size_of(dtype);
    const std::byte* const all = bytes_of(piece);
    take(piece.offset + offset, static_cast<std::size_t>(portion.count) * size_of(dtype), all ? all + offset : nullptr,
         [&](std::byte* to) { piece.source->read(portion.begin, portion.count, dtype, to); });
  }

  // Blocks; with the first of them the scales of all.
  template <class Take>
  static void take_stored(const Portion& portion, const Take& take) {
    const Missing& piece = *portion.piece;
    const WeightReader& source = *piece.source;
    const KeptPlace& place = *piece.kept;
    const bool stored = is_stored(piece);
    const Encoding& encoding = *place.part.storage.encoding;
    const std::byte* const all = bytes_of(piece);
    const auto offset = static_cast<std::size_t>(encoding.size_bytes(portion.begin));
    take(place.blocks + offset, static_cast<std::size_t>(encoding.size_bytes(portion.count)), all ? all + offset : nullptr,
         [&](std::byte* to) {
           if (stored) source.read_blocks(portion.begin, portion.count, to);
           else source.read(portion.begin, portion.count, piece.type.dtype, to);
         });
    if (portion.begin == 0 && place.part.storage.is_scaled)
      take(place.scales, static_cast<std::size_t>(place.rows()) * sizeof(float), nullptr,
           [&](std::byte* to) { source.read_scales(0, place.rows(), reinterpret_cast<float*>(to)); });
  }

  // How many elements kPortionBytes of stored ones are, about; whole blocks of any encoding.
  static std::int64_t step_of(const WeightReader& source) {
    constexpr std::int64_t kLargestBlock = 256;
    const double share = static_cast<double>(kPortionBytes) / static_cast<double>(std::max<std::size_t>(1, source.stored_bytes()));
    const auto about = static_cast<std::int64_t>(static_cast<double>(source.count()) * std::min(1.0, share));
    return std::max(kLargestBlock, (about + kLargestBlock - 1) / kLargestBlock * kLargestBlock);
  }

  // Another thread may have taken it already.
  void begin_to_read(const Portion& portion) {
    WeightPtr source;
    {
      const std::lock_guard lock(mutex_);
      source = portion.piece->source;
    }
    if (source) source->read_ahead(portion.begin, portion.count);
  }

  // Brings a portion's bytes into memory.
  void fetch(const Portion& portion) {
    const WeightReader& source = *portion.piece->source;
    const std::int64_t end = portion.begin + portion.count, step = step_of(source);
    for (std::int64_t begin = portion.begin; begin < end; begin += step) {
      check_cancelled();
      source.fetch(begin, std::min(step, end - begin));
    }
  }

  // It is packed: tells of its stored bytes, and lets the piece go with its last portion.
  void end_of(const Portion& portion) {
    Missing& piece = *portion.piece;
    WeightPtr source;
    {
      const std::lock_guard lock(mutex_);
      if (options_.progress) {
        const auto until = [&](std::int64_t element) {
          const double share = static_cast<double>(element) / static_cast<double>(piece.source->count());
          return static_cast<std::size_t>(share * static_cast<double>(piece.source->stored_bytes()));
        };
        done_ += until(portion.begin + portion.count) - until(portion.begin);
        options_.progress(done_, total_);
      }
      if (--piece.portions == 0) source = std::exchange(piece.source, nullptr);
    }
    if (source && options_.drop_pages) source->drop(0, source->count());
  }

  bool has_failed() const { return next_ >= portions_.size(); }
  void fail_with(std::exception_ptr failure) {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::move(failure);
    next_ = portions_.size();
  }

  Platform& platform_;
  std::vector<Missing>& missing_;
  const LoadOptions& options_;
  std::vector<Portion> portions_;  // in the order of the pieces
  std::size_t total_ = 0, uploaded_ = 0, done_ = 0;
  LoadTimes times_;                   // of all threads, added up
  std::atomic<std::size_t> next_{0};  // portion to take
  std::mutex mutex_;                  // of done_, times_, failure_, and of letting sources go
  std::exception_ptr failure_;
};

void WeightStore::pack(const std::vector<const PlanWeight*>& wanted, const std::function<Target(const PlanWeight&)>& target_of,
                       const LoadOptions& options) {
  std::vector<Missing> missing;
  for (const PlanWeight* weight : wanted) add_pieces(*weight, missing);
  if (missing.empty()) return;
  std::stable_sort(missing.begin(), missing.end(),
                   [](const Missing& a, const Missing& b) { return std::less<>()(a.source->place(), b.source->place()); });
  for (Missing& each : missing) each.target = target_of(*each.weight);
  Loading loading(platform_, missing, options);
  if (missing.front().target.host) loading.pack_in_place();
  else loading.pack_and_upload();
}

std::shared_ptr<Buffer> WeightStore::find(const PlanWeight& weight) const {
  const auto found = packed_.find({weight.name, weight.layout});
  return found == packed_.end() ? nullptr : found->second.buffer;
}

bool WeightStore::has(const Plan& plan) const {
  return std::all_of(plan.weights.begin(), plan.weights.end(), [&](const PlanWeight& weight) { return find(weight) != nullptr; });
}

void WeightStore::load(const Plan& plan, std::optional<int> only, const LoadOptions& options) {
  if (blocks_) clear_device();
  Laps laps;
  std::map<const PlanWeight*, std::shared_ptr<Buffer>> buffers;
  std::vector<const PlanWeight*> wanted;
  std::unique_ptr<Stream> copies;
  std::set<std::pair<std::string_view, std::string_view>> seen;
  const std::vector<BlockLayout> blocks = lay_out_blocks(plan);
  try {
    for (std::size_t s = 0; s < blocks.size(); ++s) {
      if (only && *only != static_cast<int>(s)) continue;
      const std::shared_ptr<HostBuffer> prepared = host_.find(plan, blocks[s]);
      for (std::size_t i = 0; i < blocks[s].weights.size(); ++i) {
        const PlanWeight& weight = plan.weights[blocks[s].weights[i]];
        if (find(weight) || !seen.insert({weight.name, weight.layout}).second) continue;
        const auto& buffer = buffers[&weight] = platform_.allocate_unset(weight.size_bytes, weight.name);
        if (!prepared) {
          wanted.push_back(&weight);
          continue;
        }
        if (!copies) copies = platform_.make_stream();
        platform_.upload_later(*copies, *prepared, blocks[s].offsets[i], {buffer.get(), 0}, weight.size_bytes);
      }
    }
    if (buffers.empty()) return;
    laps.lap(&LoadTimes::allocate);
    if (options.times) add_times(*options.times, laps.times(), 1);
    pack(
        wanted,
        [&](const PlanWeight& weight) {
          const auto& buffer = buffers.at(&weight);
          return Target{platform_.info().host_addressable ? static_cast<std::byte*>(buffer->data) : nullptr, {buffer.get(), 0}};
        },
        options);
    if (copies) copies->synchronize();
  } catch (...) {
    try {
      if (copies) copies->synchronize();
    } catch (...) {  // what failed first is what is told
    }
    throw;
  }
  generation_ = next_generation();
  for (const auto& [weight, buffer] : buffers) {
    Packed& packed = packed_[{weight->name, weight->layout}];
    packed = {buffer, weight->size_bytes, tensors_of(*weight)};
    size_bytes_ += weight->size_bytes;
  }
}

void WeightStore::add_pieces(const PlanWeight& weight, std::vector<Missing>& missing) const {
  if (const auto ready = ready_.find({weight.name, weight.layout}); ready != ready_.end()) {
    const Type bytes{DType::u8, {static_cast<std::int64_t>(weight.size_bytes)}};
    missing.push_back(
        {&weight, bytes, dense_weight(bytes.dtype, bytes.shape, ready->second.buffer->data), {}, 0, weight.size_bytes});
    missing.back().is_ready = true;
    return;
  }
  std::vector<WeightPtr> sources;
  for (const PlanWeight::Part& part : weight.parts) {
    sources.push_back(source_(part.name));
    check(sources.back()->count() == part.type.shape.count(), ErrorKind::invalid_argument, "weights",
          "bad size of {}: got {}, expected {}. The checkpoint does not belong to its config.json.", part.name,
          sources.back()->shape().str(), part.type.shape.str());
  }
  if (weight.kept) {
    for (std::size_t i = 0; i < sources.size(); ++i) {
      const KeptPlace& place = weight.kept->places[i];
      const std::int64_t bytes = place.part.storage.encoding->size_bytes(place.part.type.shape.count());
      missing.push_back({&weight, place.part.type, sources[i], {}, place.blocks, static_cast<std::size_t>(bytes), &place});
    }
    return;
  }
  if (weight.layout != dense(weight.type.dtype) || weight.size_bytes != weight.type.size_bytes()) {
    WeightPtr source = sources.size() == 1 ? sources.front() : std::make_shared<JoinedWeight>(weight.type.shape, sources);
    missing.push_back({&weight, weight.type, std::move(source), {}, 0, weight.size_bytes});
    return;
  }
  std::size_t end = 0;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const Type& type = weight.parts[i].type;
    missing.push_back({&weight, type, sources[i], {}, std::exchange(end, end + type.size_bytes()), type.size_bytes()});
  }
}

void WeightStore::load(const Plan& plan, const LoadOptions& options) { load(plan, std::nullopt, options); }
void WeightStore::load(const Plan& plan, int block, const LoadOptions& options) { load(plan, std::optional(block), options); }

void WeightStore::stream(std::vector<const Plan*> plans, const Streaming& how) {
  if (blocks_ && blocks_->plans() == plans && blocks_->how() == how) return;
  clear_device();
  blocks_ = std::make_unique<BlockStream>(
      platform_,
      [this, how](const auto& wanted, const auto& target_of, const LoadOptions& options) {
        LoadOptions with = options;
        with.drop_pages = how.drop_pages;
        pack(wanted, target_of, with);
      },
      [this](const PlanWeight& weight) { read_ahead(weight); }, host_, how.member.count > 1 ? shared_ : nullptr, std::move(plans),
      how);
  generation_ = next_generation();
}

void WeightStore::add(const Plan& plan) {
  if (!blocks_) return load(plan);
  std::vector<const Plan*> plans = blocks_->plans();
  if (std::find(plans.begin(), plans.end(), &plan) != plans.end()) return;
  plans.push_back(&plan);
  stream(std::move(plans), Streaming(blocks_->how()));
}

std::size_t WeightStore::bytes_to_make(std::span<const Plan* const> plans,
                                       const std::function<bool(const std::string&)>& changes) const {
  std::size_t bytes = 0;
  std::set<std::pair<std::string_view, std::string_view>> seen;
  for (const Plan* const plan : plans)
    for (const PlanWeight& weight : plan->weights)
      if (seen.insert({weight.name, weight.layout}).second &&
          (std::ranges::any_of(tensors_of(weight), changes) || !lies_ready(weight)))
        bytes += weight.size_bytes;
  return bytes;
}

bool WeightStore::lies_ready(const PlanWeight& weight) const {
  std::vector<Missing> pieces;
  add_pieces(weight, pieces);
  return std::ranges::all_of(pieces, [](const Missing& piece) { return Loading::bytes_of(piece) != nullptr; });
}

void WeightStore::prepare_load(std::span<const Plan* const> plans, std::size_t host_bytes, const LoadOptions& options) {
  std::size_t taken = this->host_bytes();
  for (const Plan* const plan : plans)
    for (const PlanWeight& weight : plan->weights) {
      if (find(weight) || ready_.contains({weight.name, weight.layout})) continue;
      if (lies_ready(weight)) {
        read_ahead(weight);
        continue;
      }
      if (taken + weight.size_bytes > host_bytes) continue;
      const std::shared_ptr<HostBuffer> buffer = platform_.allocate_host(weight.size_bytes, kLater, HostPages::ordinary);
      pack(
          {&weight},
          [&](const PlanWeight&) {
            return Target{buffer->data, {}};
          },
          options);
      ready_[{weight.name, weight.layout}] = {buffer, tensors_of(weight)};
      taken += weight.size_bytes;
    }
}

std::size_t WeightStore::host_bytes() const {
  std::size_t bytes = host_.size_bytes() + (blocks_ ? blocks_->host_bytes() : 0);
  for (const auto& [key, ready] : ready_) bytes += ready.buffer->size_bytes;
  return bytes;
}

void WeightStore::prepare_stream(std::span<const Plan* const> plans, std::size_t host_bytes, const LoadOptions& options) {
  for (const Plan* const plan : plans)
    for (const BlockLayout& block : lay_out_blocks(*plan)) {
      if (block.weights.empty() || host_.find(*plan, block) || !host_.make_room(block.size_bytes, host_bytes, plans)) continue;
      std::vector<const PlanWeight*> weights;
      std::map<const PlanWeight*, std::size_t> offsets;
      for (std::size_t i = 0; i < block.weights.size(); ++i) {
        weights.push_back(&plan->weights[block.weights[i]]);
        offsets[weights.back()] = block.offsets[i];
      }
      std::shared_ptr<HostBuffer> buffer = platform_.allocate_host(block.size_bytes, kLater, HostPages::locked);
      pack(
          weights,
          [&](const PlanWeight& weight) {
            return Target{buffer->data + offsets.at(&weight), {}};
          },
          options);
      host_.keep(*plan, block, std::move(buffer));
    }
}

void WeightStore::read_ahead(const PlanWeight& weight) const {
  for (const PlanWeight::Part& part : weight.parts) {
    const WeightPtr source = source_(part.name);
    source->read_ahead(0, source->count());
  }
}

void WeightStore::read_ahead(const Plan& plan) const {
  for (const PlanWeight& weight : plan.weights) read_ahead(weight);
}

void WeightStore::forget(const std::set<std::string, std::less<>>& tensors) {
  if (tensors.empty()) return;
  if (blocks_) blocks_->forget();
  const auto has_changed = [&](const std::string& name) { return tensors.contains(name); };
  host_.erase_if_weight(has_changed);
  std::erase_if(ready_, [&](const auto& entry) { return std::ranges::any_of(entry.second.tensors, has_changed); });
  const std::size_t erased = std::erase_if(packed_, [&](const auto& entry) {
    const Packed& packed = entry.second;
    if (std::ranges::none_of(packed.tensors, has_changed)) return false;
    size_bytes_ -= packed.size_bytes;
    return true;
  });
  if (erased > 0) generation_ = next_generation();
}

void WeightStore::forget(const Plan& plan) {
  if (blocks_ && std::find(blocks_->plans().begin(), blocks_->plans().end(), &plan) != blocks_->plans().end()) clear_device();
  else if (blocks_) blocks_->drain();  // it may hold what goes on another device
}

void WeightStore::clear_device() {
  blocks_.reset();
  packed_.clear();
  size_bytes_ = 0;
  generation_ = next_generation();
}

void WeightStore::clear() {
  clear_device();
  clear_host();
}

Slot WeightStore::at(const PlanWeight& weight) const {
  return blocks_ ? blocks_->at(weight) : Slot{packed_.at({weight.name, weight.layout}).buffer.get(), 0};
}

void WeightStore::begin_run(const Plan& plan, const LoadOptions& options) {
  if (blocks_) blocks_->begin(plan, options);
}

void WeightStore::begin_block(int block, Stream& compute, const LoadOptions& options) {
  if (blocks_) blocks_->need(block, compute, options);
}

void WeightStore::end_block(int block, Stream& compute, const LoadOptions& options) {
  if (blocks_) blocks_->done(block, compute, options);
}

void WeightStore::drain() noexcept {
  if (blocks_) blocks_->drain();
}

}  // namespace zoe
