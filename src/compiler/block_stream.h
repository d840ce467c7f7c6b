// Blocks of weights that come and go while plans run, at fixed places.
//
//   compute:  | block 1 | block 2 | block 3 | ...
//   copies:   |  2 -> B |  3 -> A |  4 -> B | ...      A, B: the places (block_layout.h)
//
// Where buffers are not memory of this process, a block is packed there first and copied from there; packed ones are kept as far
// as the limit allows, so that later visits only copy. The stream of copies waits for the kernels that read what it overwrites, and
// those of the next block wait for its copy: the host waits for neither. Where buffers are this process's memory a block is packed
// into its place when it is needed, and its successor's bytes are asked for meanwhile. A block that stays on another device of a
// group is copied from there.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "compiler/block_layout.h"
#include "compiler/shared_blocks.h"

namespace zoe {

struct LoadOptions;

// How blocks come and go.
struct Streaming {
  std::size_t device_bytes = 0;  // blocks stay while they fit these
  std::size_t host_bytes = 0;    // packed blocks that are kept in this process, beyond two that are on their way
  bool drop_pages = false;       // bytes of files leave the memory when they have been packed: all of them are too many for it
  bool goes_round = true;        // at the end of a run the first block comes again, for the next one
  Member member = {};            // of the devices that run with these weights and reach each other
  friend bool operator==(const Streaming&, const Streaming&) = default;
};

// Packed blocks in memory of this process, by what is in them.
class HostBlocks {
 public:
  std::shared_ptr<HostBuffer> find(const Plan& plan, const BlockLayout& block) const;
  void keep(const Plan& plan, const BlockLayout& block, std::shared_ptr<HostBuffer> buffer);
  // Whether so many bytes more fit the limit, once blocks that none of the plans has are gone as far as needed. Nothing copies
  // from these any more.
  bool make_room(std::size_t bytes, std::size_t limit, std::span<const Plan* const> plans);
  template <class Predicate>
  void erase_if_weight(const Predicate& predicate) {
    std::erase_if(kept_, [&](const auto& entry) {
      for (const std::string& tensor : entry.second.tensors)
        if (predicate(tensor)) return size_bytes_ -= entry.second.buffer->size_bytes, true;
      return false;
    });
  }
  void clear() { kept_.clear(), size_bytes_ = 0; }
  std::size_t size_bytes() const { return size_bytes_; }

 private:
  struct Kept {
    std::shared_ptr<HostBuffer> buffer;
    std::vector<std::string> tensors;  // that it was made from
  };
  std::map<std::string, Kept> kept_;
  std::size_t size_bytes_ = 0;
};

class BlockStream {
 public:
  // Where a weight is packed to: memory of this process where there is an address, else a place in a buffer.
  struct Target {
    std::byte* host = nullptr;
    Slot device = {};
  };
  // Packs weights of a plan, each to its target.
  using Pack = std::function<void(const std::vector<const PlanWeight*>&, const std::function<Target(const PlanWeight&)>&,
                                  const LoadOptions&)>;
  using ReadAhead = std::function<void(const PlanWeight&)>;

  // `shared`: what stays is there for the group's other devices, and theirs for this one; null: no device has the same weights.
  BlockStream(Platform& platform, Pack pack, ReadAhead read_ahead, HostBlocks& host, std::shared_ptr<SharedBlocks> shared,
              std::vector<const Plan*> plans, Streaming how);
  ~BlockStream();
  BlockStream(const BlockStream&) = delete;
  BlockStream& operator=(const BlockStream&) = delete;

  const std::vector<const Plan*>& plans() const { return plans_; }
  const Streaming& how() const { return how_; }
  std::size_t size_bytes() const { return arena_->size_bytes; }
  std::size_t host_bytes() const;  // of blocks on their way

  // Before a run of one of the plans: what stays is there.
  void begin(const Plan& plan, const LoadOptions& options);
  // What `compute` is given from here on finds the block's weights.
  void need(int block, Stream& compute, const LoadOptions& options);
  // It has been given all that reads them: the block after the next may come.
  void done(int block, Stream& compute, const LoadOptions& options);
  Slot at(const PlanWeight& weight) const;
  void drain() noexcept;  // no copy is under way, and nothing of other devices is held
  void forget();          // weights have changed: all are packed again

 private:
  void pack_what_stays(std::size_t plan, const LoadOptions& options);
  void fetch(int block, const LoadOptions& options);
  std::shared_ptr<HostBuffer> packed(int block, const LoadOptions& options);
  std::optional<int> next_of(int block) const;  // nothing: the run ends, and no other follows
  std::vector<const PlanWeight*> weights_of(const BlockLayout& block) const;

  Platform& platform_;
  const Pack pack_;
  const ReadAhead read_ahead_;
  HostBlocks& host_;
  const std::shared_ptr<SharedBlocks> shared_;
  const std::vector<const Plan*> plans_;
  const Streaming how_;
  const ArenaLayout layout_;
  std::shared_ptr<Buffer> arena_;
  std::unique_ptr<Stream> copies_;
  std::vector<bool> has_stayed_;  // by plan: what stays of it is there
  const Plan* plan_ = nullptr;    // the one that runs
  const PlanLayout* of_plan_ = nullptr;

  struct Place {
    int block = -1;                       // that is there, or on its way
    bool is_waited_for = false;           // by the stream of kernels
    std::unique_ptr<Event> copied, used;  // the end of its copy; that of the kernels that read it
    std::shared_ptr<HostBuffer> staging;  // of what is not kept packed
    std::shared_ptr<Buffer> source;       // another device's, which is copied from
  };
  std::vector<Place> places_;
};

}  // namespace zoe
