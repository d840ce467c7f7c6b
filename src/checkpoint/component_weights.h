// The weights of one component of a model (a text encoder, a transformer, a VAE), opened and matched once: every tensor that the
// model has, under the name that it has there, whatever the files call it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "base/weight_reader.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/expected.h"

namespace zoe {

// Cheap to copy; copies share. Files stay mapped while a copy or a reader lives. Any thread may ask. It is what a WeightStore takes
// as its source.
class ComponentWeights {
 public:
  // From files: errors and notices of Checkpoint and match_tensors. `where` names the component in them.
  ComponentWeights(const Checkpoint& checkpoint, std::span<const ExpectedTensor> expected,
                   std::span<const TensorAlias> aliases = {}, const KeyMap& keys = {});
  // Made up, see random_weight.h.
  // `stored`: what matrices are stored in, where their rows are whole blocks of it; null: nothing narrower than bf16.
  ComponentWeights(std::string where, std::span<const ExpectedTensor> expected, std::uint64_t seed,
                   const Encoding* stored = nullptr);

  const std::string& where() const { return where_; }
  // Of a tensor the model has; asking for another is an internal error.
  const WeightPtr& operator()(const std::string& name) const;
  const std::map<std::string, WeightPtr>& all() const { return *weights_; }  // by name
  std::int64_t parameter_count() const;                                      // elements of all tensors
  std::int64_t stored_bytes() const;

 private:
  std::string where_;
  std::shared_ptr<const std::map<std::string, WeightPtr>> weights_;
};

// Rows of a matrix one behind the other in f32: embedded tokens. Rows are fetched first, so reading errors are errors here.
std::vector<float> gather_rows(const WeightReader& table, std::span<const std::int32_t> rows);

}  // namespace zoe
