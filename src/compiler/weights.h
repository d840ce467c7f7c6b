// The packed weights of one model on one platform, shared by its plans.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/weight_reader.h"
#include "compiler/compile.h"

namespace zoe {

// Looks a weight up by name; throws if there is none. Its bytes stay as they are while the store loads.
using WeightSource = std::function<WeightPtr(const std::string& name)>;

struct LoadOptions {
  // Looked at before every few MiB; true ends the load with an Error of kind cancelled.
  const std::atomic<bool>* cancel = nullptr;
  // Is told how much of what is missing has been taken, in bytes as they are stored; from one thread at a time, any thread.
  std::function<void(std::size_t done, std::size_t total)> progress = {};
};

class WeightStore {
 public:
  WeightStore(Platform& platform, WeightSource source) : platform_(platform), source_(std::move(source)) {}

  // Packs what a plan (or one segment of it) needs and is not here yet, in the order in which it lies in its files. Where buffers
  // are not this process's memory, several threads read, pack and upload side by side. After an error the store is as it was.
  // A reader is let go as soon as it is packed: one that holds something may be made for each asking.
  void load(const Plan& plan, const LoadOptions& options = {});
  void load(const Plan& plan, int segment, const LoadOptions& options = {});
  void release(const Plan& plan, int segment);  // frees the segment's weights
  void forget(const std::set<std::string, std::less<>>& tensors);  // frees what was packed from any of these
  void clear();                                 // frees all
  const Buffer& at(const PlanWeight& weight) const;
  std::size_t size_bytes() const { return size_bytes_; }
  // Changes whenever some weight may have got another address.
  std::uint64_t generation() const { return generation_; }

 private:
  // What is packed at a time: a weight, or a part of one whose layout is its elements in their order.
  struct Missing {
    const PlanWeight* weight;
    Type type;
    WeightPtr source;
    std::shared_ptr<Buffer> buffer;
    std::size_t offset, size_bytes;   // in the buffer
    const KeptPlace* kept = nullptr;  // of what stays as it is stored
  };
  class Loading;
  void load(std::vector<const PlanWeight*> wanted, const LoadOptions& options);
  void add_pieces(const PlanWeight& weight, std::vector<Missing>& missing) const;

  Platform& platform_;
  WeightSource source_;
  struct Packed {
    std::shared_ptr<Buffer> buffer;
    std::size_t size_bytes;
    std::vector<std::string> tensors;  // that it was made from
  };
  std::map<std::pair<std::string, std::string>, Packed> packed_;  // by name and layout
  std::size_t size_bytes_ = 0;
  std::uint64_t generation_ = 0;
};

}  // namespace zoe
