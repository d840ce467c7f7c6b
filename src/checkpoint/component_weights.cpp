#include "checkpoint/component_weights.h"

#include "base/error.h"
#include "base/nearest.h"
#include "checkpoint/random_weight.h"

namespace zoe {

ComponentWeights::ComponentWeights(const Checkpoint& checkpoint, std::span<const ExpectedTensor> expected,
                                   std::span<const TensorAlias> aliases, const KeyMap& keys)
    : where_(checkpoint.where()) {
  const std::vector<MatchedTensor> entries = match_tensors(checkpoint, expected, aliases, keys);
  auto weights = std::make_shared<std::map<std::string, WeightPtr>>();
  for (std::size_t i = 0; i < expected.size(); ++i)
    weights->emplace(expected[i].name, weight_of(entries[i], expected[i].shape, where_));
  weights_ = std::move(weights);
}

ComponentWeights::ComponentWeights(std::string where, std::span<const ExpectedTensor> expected, std::uint64_t seed,
                                   const Encoding* stored)
    : where_(std::move(where)) {
  auto weights = std::make_shared<std::map<std::string, WeightPtr>>();
  for (const ExpectedTensor& tensor : expected) {
    const bool is_stored = stored && tensor.shape.rank() == 2 && tensor.shape.dim(1) % stored->block_elements == 0;
    weights->emplace(tensor.name, is_stored ? random_stored_weight(seed, tensor.name, tensor.shape, *stored)
                                            : random_weight(seed, tensor.name, tensor.shape));
  }
  weights_ = std::move(weights);
}

const WeightPtr& ComponentWeights::operator()(const std::string& name) const {
  const auto found = weights_->find(name);
  check(found != weights_->end(), ErrorKind::internal, where_, "no tensor {}.", in_quotes(name));
  return found->second;
}

std::int64_t ComponentWeights::parameter_count() const {
  std::int64_t sum = 0;
  for (const auto& [name, weight] : *weights_) sum += weight->count();
  return sum;
}

std::int64_t ComponentWeights::stored_bytes() const {
  std::int64_t sum = 0;
  for (const auto& [name, weight] : *weights_) sum += static_cast<std::int64_t>(weight->stored_bytes());
  return sum;
}

std::vector<float> gather_rows(const WeightReader& table, std::span<const std::int32_t> rows) {
  const std::int64_t width = table.shape().dim(1);
  std::vector<float> values(rows.size() * static_cast<std::size_t>(width));
  for (const std::int32_t row : rows) table.read_ahead(row * width, width);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    table.fetch(rows[i] * width, width);
    table.read(rows[i] * width, width, DType::f32, values.data() + i * static_cast<std::size_t>(width));
  }
  return values;
}

}  // namespace zoe
