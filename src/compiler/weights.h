// The packed weights of one model on one platform, shared by its plans.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "compiler/compile.h"

namespace zoe {

// Looks a weight up by name, in whatever dtype it is stored; throws if there is none. Its bytes stay as they are while the store
// loads.
using WeightSource = std::function<HostTensor(const std::string& name)>;

class WeightStore {
 public:
  WeightStore(Platform& platform, WeightSource source) : platform_(platform), source_(std::move(source)) {}

  // Packs what a plan (or one segment of it) needs and is not here yet, in the order in which it lies in its files. Where buffers
  // are not this process's memory, several threads read, pack and upload side by side.
  void load(const Plan& plan);
  void load(const Plan& plan, int segment);
  void release(const Plan& plan, int segment);  // frees the segment's weights
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
    std::vector<HostTensor> sources;  // its parts
    std::shared_ptr<Buffer> buffer;
    std::size_t offset, size_bytes;  // in the buffer
  };
  void load(std::vector<const PlanWeight*> wanted);
  void add_pieces(const PlanWeight& weight, std::vector<Missing>& missing) const;
  static void pack(const Missing& piece, std::byte* to);
  static bool is_packed(const Missing& piece);
  static void read_ahead(const Missing& piece);
  void pack_in_place(const std::vector<Missing>& missing);
  void pack_and_upload(const std::vector<Missing>& missing);

  Platform& platform_;
  WeightSource source_;
  std::map<std::pair<std::string, std::string>, std::shared_ptr<Buffer>> packed_;  // by name and layout
  std::size_t size_bytes_ = 0;
  std::uint64_t generation_ = 0;
};

}  // namespace zoe
