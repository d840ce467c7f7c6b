// The packed weights of one model on one platform, shared by its plans.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/weight_reader.h"
#include "compiler/block_stream.h"
#include "compiler/compile.h"

namespace zoe {

// Looks a weight up by name; throws if there is none. Its bytes stay as they are while the store loads.
using WeightSource = std::function<WeightPtr(const std::string& name)>;

// Where the time of loads went, in seconds, for those who measure: they add up to it. Of threads side by side the mean, so that
// what one waits for the others is in none.
struct LoadTimes {
  double allocate = 0;  // buffers on the device
  double set_up = 0;    // threads and their streams
  double fetch = 0;     // bytes of files into the memory of this process
  double read = 0;      // from what is stored to what is wanted: decoded, packed, copied within this process
  double upload = 0;    // into page-locked memory, and waiting for the device to have taken what was there
  double finish = 0;    // waiting for the device at the end
  std::size_t threads = 1;
};

struct LoadOptions {
  // Looked at before every few MiB that are read or packed; true ends the load with an Error of kind cancelled.
  const std::atomic<bool>* cancel = nullptr;
  // Is told how much of what is missing has been taken, in bytes as they are stored; from one thread at a time, any thread.
  std::function<void(std::size_t done, std::size_t total)> progress = {};
  bool drop_pages = false;  // see Streaming
  LoadTimes* times = nullptr;
};

class WeightStore {
 public:
  WeightStore(Platform& platform, WeightSource source) : platform_(platform), source_(std::move(source)) {}

  // Packs what a plan (or one block of it) needs and is not here yet, in the order in which it lies in its files. Where buffers
  // are not this process's memory, several threads read, pack and upload side by side. After an error the store is as it was.
  // A reader is let go as soon as it is packed: one that holds something may be made for each asking.
  // Takes what was prepared.
  void load(const Plan& plan, const LoadOptions& options = {});
  void load(const Plan& plan, int block, const LoadOptions& options = {});
  // From now on blocks of these plans come and go while they run, and these alone can be run: in fixed places of one buffer, in the
  // place of what was loaded. The plans outlive that, or forget() is told. Nothing is read yet.
  void stream(std::vector<const Plan*> plans, const Streaming& how);
  bool is_streaming() const { return blocks_ != nullptr; }
  // From the next stream() on, what stays on the device is there for the stores of other devices that were given the same, with the
  // same weights, and theirs for this one.
  void share(std::shared_ptr<SharedBlocks> with) { shared_ = std::move(with); }
  void add(const Plan& plan);  // loads one more, or streams it beside those that are streamed
  // Packs what a stream of the plans will want, in memory of this process, as far as `host_bytes` go: what was kept there for other
  // plans makes room. For a thread beside runs with other stores' weights, as is prepare_load().
  void prepare_stream(std::span<const Plan* const> plans, std::size_t host_bytes, const LoadOptions& options = {});
  // For a load() of the plans: what has to be made first (widened, merged, in another order) is, as far as `host_bytes` go, and the
  // system is asked to read the rest. The memory is not page-locked, which takes longer than the load.
  void prepare_load(std::span<const Plan* const> plans, std::size_t host_bytes, const LoadOptions& options = {});
  // How much that is, where `changes` says of which tensors other numbers will be wanted than the source has now.
  std::size_t bytes_to_make(std::span<const Plan* const> plans, const std::function<bool(const std::string&)>& changes) const;
  bool has(const Plan& plan) const;  // all that load() would bring
  // Asks the system to read what a plan needs, and does not wait.
  void read_ahead(const Plan& plan) const;

  void forget(const std::set<std::string, std::less<>>& tensors);  // frees what was packed from any of these
  void forget(const Plan& plan);                                   // it is about to go
  void clear_device();                                             // frees all but what is packed in this process's memory
  void clear_host() { host_.clear(), ready_.clear(); }             // frees that; no block is on its way
  void clear();                                                    // frees all
  Slot at(const PlanWeight& weight) const;                         // of a plan that is loaded, or the one that runs
  std::size_t size_bytes() const { return size_bytes_ + (blocks_ ? blocks_->size_bytes() : 0); }
  std::size_t host_bytes() const;  // of packed copies in memory of this process
  // Changes whenever some weight may have got another address.
  std::uint64_t generation() const { return generation_; }

  // For who runs a plan: before it, and around what is queued of each block. Without a stream of blocks they do nothing.
  void begin_run(const Plan& plan, const LoadOptions& options);
  void begin_block(int block, Stream& compute, const LoadOptions& options);
  void end_block(int block, Stream& compute, const LoadOptions& options);
  void drain() noexcept;  // after an error: no copy is under way

 private:
  using Target = BlockStream::Target;
  // What is packed at a time: a weight, or a part of one whose layout is its elements in their order.
  struct Missing {
    const PlanWeight* weight;
    Type type;
    WeightPtr source;
    Target target;                    // of the weight
    std::size_t offset, size_bytes;   // in it
    const KeptPlace* kept = nullptr;  // of what stays as it is stored
    bool is_ready = false;            // the source has the bytes of the packed weight
    std::size_t portions = 0;         // that are not packed yet
  };
  class Loading;
  void load(const Plan& plan, std::optional<int> only, const LoadOptions& options);
  void pack(const std::vector<const PlanWeight*>& wanted, const std::function<Target(const PlanWeight&)>& target_of,
            const LoadOptions& options);
  void add_pieces(const PlanWeight& weight, std::vector<Missing>& missing) const;
  bool lies_ready(const PlanWeight& weight) const;  // its bytes can be copied from where they lie
  void read_ahead(const PlanWeight& weight) const;
  std::shared_ptr<Buffer> find(const PlanWeight& weight) const;  // null: it is not loaded

  Platform& platform_;
  WeightSource source_;
  struct Packed {
    std::shared_ptr<Buffer> buffer;
    std::size_t size_bytes;
    std::vector<std::string> tensors;  // that it was made from
  };
  std::map<std::pair<std::string, std::string>, Packed> packed_;  // by name and layout
  HostBlocks host_;
  struct Ready {
    std::shared_ptr<HostBuffer> buffer;
    std::vector<std::string> tensors;
  };
  std::map<std::pair<std::string, std::string>, Ready> ready_;  // for load(): by name and layout
  std::shared_ptr<SharedBlocks> shared_;
  std::unique_ptr<BlockStream> blocks_;
  std::size_t size_bytes_ = 0;
  std::uint64_t generation_ = 0;
};

}  // namespace zoe
