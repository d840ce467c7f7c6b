#include "compiler/weights.h"

#include <omp.h>

#include <algorithm>
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
constexpr std::size_t kMostThreads = 8, kBytesAThread = std::size_t{32} << 20;
// What is waited for at a time: the flag that cancels is looked at between, and the next few pieces are on their way meanwhile.
constexpr std::size_t kFetchBytes = std::size_t{4} << 20, kBytesAhead = std::size_t{32} << 20;

// Of any store: a new one in the place of an old one shares none of its numbers.
std::uint64_t next_generation() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

std::string dense(DType dtype) { return fmt::format("dense {}", name(dtype)); }

}  // namespace

// One call of load(): its pieces, taken by one thread or several.
class WeightStore::Loading {
 public:
  Loading(Platform& platform, std::vector<Missing>& missing, const LoadOptions& options)
      : platform_(platform), missing_(missing), options_(options) {
    for (const Missing& piece : missing_) {
      total_ += piece.source->stored_bytes();
      uploaded_ += piece.size_bytes;
    }
  }

  void pack_in_place() {
    for (std::size_t i = 0; i < missing_.size(); ++i) {
      Missing& piece = missing_[i];
      if (i + 1 < missing_.size()) begin_to_read(missing_[i + 1]);
      if (piece.kept) {
        take_stored(piece,
                    [&](std::size_t offset, std::size_t, const std::byte*, const auto& read) { read(piece.target.host + offset); });
        let_go(piece);
        continue;
      }
      fetch(piece);
      pack(piece, piece.target.host + piece.offset);
      report(piece.source->stored_bytes());
      let_go(piece);
    }
  }

  void pack_and_upload() {
    threads_ = std::min({missing_.size(), kMostThreads, 1 + uploaded_ / kBytesAThread,
                         std::size_t{std::max(1u, std::thread::hardware_concurrency())}});
    std::vector<std::thread> others;
    try {
      others.reserve(threads_);
      while (others.size() + 1 < threads_)
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
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  // What a kernel packs from, which may do so for a long time, on threads of its own that nothing may be thrown on: once the flag is
  // set there are zeros to read, and packing is soon over.
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

  void work() {
    std::unique_ptr<Stream> stream;
    try {
      stream = platform_.make_stream();
      std::vector<std::byte> staging;
      for (std::size_t i; (i = next_++) < missing_.size();) {
        Missing& piece = missing_[i];
        if (i + threads_ < missing_.size()) begin_to_read(missing_[i + threads_]);
        if (piece.kept) {
          take_stored(piece, [&](std::size_t offset, std::size_t size, const std::byte* there, const auto& read) {
            if (!there) {
              if (staging.size() < size) staging.resize(size);
              read(staging.data());
            }
            platform_.upload(*stream, there ? there : staging.data(), place_in(piece, offset), size);
          });
          let_go(piece);
          continue;
        }
        if (is_dense(piece)) {
          upload_in_pieces(*stream, piece, staging);
          let_go(piece);
          continue;
        }
        fetch(piece);
        if (staging.size() < piece.size_bytes) staging.resize(piece.size_bytes);
        pack(piece, staging.data());
        platform_.upload(*stream, staging.data(), place_in(piece, piece.offset), piece.size_bytes);
        report(piece.source->stored_bytes());
        let_go(piece);
      }
      stream->synchronize();
    } catch (...) {
      fail_with(std::current_exception());
      // What is queued writes to buffers that the caller is about to free.
      try {
        if (stream) stream->synchronize();
      } catch (...) {
      }
    }
  }

  // Tells of the stored bytes of a source as its elements are taken.
  class Reported {
   public:
    Reported(Loading& loading, const WeightReader& source) : loading_(loading), source_(source) {}
    void until(std::int64_t element) {
      const double share = static_cast<double>(element) / static_cast<double>(source_.count());
      const auto done = static_cast<std::size_t>(share * static_cast<double>(source_.stored_bytes()));
      loading_.report(done - std::exchange(done_, done));
    }

   private:
    Loading& loading_;
    const WeightReader& source_;
    std::size_t done_ = 0;
  };

  static Slot place_in(const Missing& piece, std::size_t offset) {
    return {piece.target.device.buffer, piece.target.device.offset + offset};
  }

  // Whether the platform takes the elements in their order.
  static bool is_dense(const Missing& piece) {
    return piece.weight->layout == dense(piece.type.dtype) && piece.size_bytes == piece.type.size_bytes();
  }

  void upload_in_pieces(Stream& stream, const Missing& piece, std::vector<std::byte>& staging) {
    const std::size_t element = size_of(piece.type.dtype);
    const std::byte* const stored = piece.source->dense(piece.type.dtype);
    Reported reported(*this, *piece.source);
    fetch(piece, [&](std::int64_t begin, std::int64_t count) {
      const std::size_t offset = static_cast<std::size_t>(begin) * element, size = static_cast<std::size_t>(count) * element;
      if (!stored) {
        if (staging.size() < size) staging.resize(size);
        piece.source->read(begin, count, piece.type.dtype, staging.data());
      }
      platform_.upload(stream, stored ? stored + offset : staging.data(), place_in(piece, piece.offset + offset), size);
      reported.until(begin + count);
    });
  }

  // Calls take(offset in the buffer, size, where the bytes are or null, read(to)) for every part of what is stored, once that is in
  // memory: blocks, then scales.
  template <class Take>
  void take_stored(const Missing& piece, const Take& take) {
    const WeightReader& source = *piece.source;
    const KeptPlace& place = *piece.kept;
    const Storage storage = source.storage();
    const DType dtype = piece.type.dtype;
    // A part of a packed weight that is stored in no such way is its elements.
    const bool is_stored = storage.encoding == place.part.storage.encoding && storage.is_scaled == place.part.storage.is_scaled;
    ZOE_INTERNAL_CHECK(is_stored || place.part.storage.encoding->dtype == dtype);
    const Encoding& encoding = *place.part.storage.encoding;
    const std::byte* const all = is_stored ? source.blocks() : source.dense(dtype);
    Reported reported(*this, source);
    fetch(piece, [&](std::int64_t begin, std::int64_t count) {
      const auto offset = static_cast<std::size_t>(encoding.size_bytes(begin));
      take(place.blocks + offset, static_cast<std::size_t>(encoding.size_bytes(count)), all ? all + offset : nullptr,
           [&](std::byte* to) {
             if (is_stored) source.read_blocks(begin, count, to);
             else source.read(begin, count, dtype, to);
           });
      reported.until(begin + count);
    });
    if (place.part.storage.is_scaled)
      take(place.scales, static_cast<std::size_t>(place.rows()) * sizeof(float), nullptr,
           [&](std::byte* to) { source.read_scales(0, place.rows(), reinterpret_cast<float*>(to)); });
  }

  // Another thread may have packed it already.
  void begin_to_read(const Missing& piece) {
    WeightPtr source;
    {
      const std::lock_guard lock(mutex_);
      source = piece.source;
    }
    if (source) source->read_ahead(0, std::min(source->count(), elements_in(*source, kBytesAhead)));
  }
  void let_go(Missing& piece) {
    const WeightPtr source = [&] {
      const std::lock_guard lock(mutex_);
      return std::exchange(piece.source, nullptr);
    }();
    if (source && options_.drop_pages) source->drop(0, source->count());
  }

  // How many elements so many stored bytes are, about.
  static std::int64_t elements_in(const WeightReader& source, std::size_t bytes) {
    const double of_all = static_cast<double>(bytes) / static_cast<double>(std::max<std::size_t>(1, source.stored_bytes()));
    return std::max<std::int64_t>(1, static_cast<std::int64_t>(static_cast<double>(source.count()) * of_all));
  }

  // Brings a piece's bytes into memory and tells `use` of every part that is there.
  template <class Use>
  void fetch(const Missing& piece, const Use& use) {
    const WeightReader& source = *piece.source;
    constexpr std::int64_t kLargestBlock = 256;  // whole ones, of any encoding
    const std::int64_t count = source.count(), ahead = elements_in(source, kBytesAhead),
                       step = (elements_in(source, kFetchBytes) + kLargestBlock - 1) / kLargestBlock * kLargestBlock;
    std::int64_t asked = 0;
    for (std::int64_t begin = 0; begin < count; begin += step) {
      check_cancelled();
      const std::int64_t until = std::min(count, begin + step + ahead);
      if (asked < until) source.read_ahead(asked, until - asked);
      asked = until;
      source.fetch(begin, std::min(step, count - begin));
      use(begin, std::min(step, count - begin));
    }
  }
  void fetch(const Missing& piece) {
    fetch(piece, [](std::int64_t, std::int64_t) {});
  }

  void report(std::size_t bytes) {
    if (!options_.progress) return;
    const std::lock_guard lock(mutex_);
    options_.progress(done_ += bytes, total_);
  }

  void fail_with(std::exception_ptr failure) {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::move(failure);
    next_ = missing_.size();
  }

  Platform& platform_;
  std::vector<Missing>& missing_;
  const LoadOptions& options_;
  std::size_t total_ = 0, uploaded_ = 0, done_ = 0, threads_ = 1;
  std::atomic<std::size_t> next_{0};
  std::mutex mutex_;  // of done_, failure_, and of letting sources go
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

void WeightStore::load(const Plan& plan, std::optional<int> only, const LoadOptions& options) {
  if (blocks_) clear_device();
  std::map<const PlanWeight*, std::shared_ptr<Buffer>> buffers;
  std::vector<const PlanWeight*> wanted;
  std::unique_ptr<Stream> copies;
  std::set<std::pair<std::string_view, std::string_view>> seen;
  const std::vector<SegmentLayout> segments = lay_out_segments(plan);
  try {
    for (std::size_t s = 0; s < segments.size(); ++s) {
      if (only && *only != static_cast<int>(s)) continue;
      const std::shared_ptr<HostBuffer> prepared = host_.find(plan, segments[s]);
      for (std::size_t i = 0; i < segments[s].weights.size(); ++i) {
        const PlanWeight& weight = plan.weights[segments[s].weights[i]];
        if (find(weight) || !seen.insert({weight.name, weight.layout}).second) continue;
        const auto& buffer = buffers[&weight] = platform_.allocate_unset(weight.size_bytes, weight.name);
        if (!prepared) {
          wanted.push_back(&weight);
          continue;
        }
        if (!copies) copies = platform_.make_stream();
        platform_.upload_later(*copies, *prepared, segments[s].offsets[i], {buffer.get(), 0}, weight.size_bytes);
      }
    }
    if (buffers.empty()) return;
    pack(
        wanted,
        [&](const PlanWeight& weight) {
          const auto& buffer = buffers.at(&weight);
          return Target{platform_.host_addressable() ? static_cast<std::byte*>(buffer->data) : nullptr, {buffer.get(), 0}};
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
    packed = {buffer, weight->size_bytes, {}};
    for (const PlanWeight::Part& part : weight->parts) packed.tensors.push_back(part.name);
    size_bytes_ += weight->size_bytes;
  }
}

void WeightStore::add_pieces(const PlanWeight& weight, std::vector<Missing>& missing) const {
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
void WeightStore::load(const Plan& plan, int segment, const LoadOptions& options) { load(plan, std::optional(segment), options); }

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
      [this](const PlanWeight& weight) { read_ahead(weight); }, host_, std::move(plans), how);
  generation_ = next_generation();
}

void WeightStore::add(const Plan& plan) {
  if (!blocks_) return load(plan);
  std::vector<const Plan*> plans = blocks_->plans();
  if (std::find(plans.begin(), plans.end(), &plan) != plans.end()) return;
  plans.push_back(&plan);
  stream(std::move(plans), Streaming(blocks_->how()));
}

void WeightStore::prepare(std::span<const Plan* const> plans, std::size_t host_bytes, const LoadOptions& options) {
  for (const Plan* const plan : plans)
    for (const SegmentLayout& segment : lay_out_segments(*plan)) {
      if (segment.weights.empty() || host_.find(*plan, segment) || !host_.make_room(segment.size_bytes, host_bytes, plans)) continue;
      std::vector<const PlanWeight*> weights;
      std::map<const PlanWeight*, std::size_t> offsets;
      for (std::size_t i = 0; i < segment.weights.size(); ++i) {
        weights.push_back(&plan->weights[segment.weights[i]]);
        offsets[weights.back()] = segment.offsets[i];
      }
      std::shared_ptr<HostBuffer> buffer = platform_.allocate_host(segment.size_bytes, "weights of later steps");
      pack(
          weights,
          [&](const PlanWeight& weight) {
            return Target{buffer->data + offsets.at(&weight), {}};
          },
          options);
      host_.keep(*plan, segment, std::move(buffer));
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
  host_.erase_if_weight([&](const std::string& name) { return tensors.contains(name); });
  const std::size_t erased = std::erase_if(packed_, [&](const auto& entry) {
    const Packed& packed = entry.second;
    if (std::none_of(packed.tensors.begin(), packed.tensors.end(), [&](const auto& name) { return tensors.contains(name); }))
      return false;
    size_bytes_ -= packed.size_bytes;
    return true;
  });
  if (erased > 0) generation_ = next_generation();
}

void WeightStore::forget(const Plan& plan) {
  if (blocks_ && std::find(blocks_->plans().begin(), blocks_->plans().end(), &plan) != blocks_->plans().end()) clear_device();
}

void WeightStore::clear_device() {
  blocks_.reset();
  packed_.clear();
  size_bytes_ = 0;
  generation_ = next_generation();
}

void WeightStore::clear() {
  clear_device();
  host_.clear();
}

Slot WeightStore::at(const PlanWeight& weight) const {
  return blocks_ ? blocks_->at(weight) : Slot{packed_.at({weight.name, weight.layout}).buffer.get(), 0};
}

void WeightStore::begin_run(const Plan& plan, const LoadOptions& options) {
  if (blocks_) blocks_->begin(plan, options);
}

void WeightStore::begin_segment(int segment, Stream& compute, const LoadOptions& options) {
  if (blocks_) blocks_->need(segment, compute, options);
}

void WeightStore::end_segment(int segment, Stream& compute, const LoadOptions& options) {
  if (blocks_) blocks_->done(segment, compute, options);
}

void WeightStore::drain() noexcept {
  if (blocks_) blocks_->drain();
}

}  // namespace zoe
