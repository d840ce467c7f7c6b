// Weights that stay in memory as files store them, and what is added to them where they are widened.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/support.h"
#include "base/weight_reader.h"
#include "ir/graph.h"

namespace zoe {

// A tensor's storage, by its name.
using StorageOf = std::function<Storage(const std::string& name)>;
// The rank of the low-rank change that stays beside a matrix [N,K], by its name; 0: it has none. A multiple of kRankStep.
using RankOf = std::function<std::int64_t(const std::string& name)>;

// Ranks are filled up with zeros to a multiple of it: products take rows of 32 bytes, and plans fit LoRAs of nearly equal ranks.
constexpr std::int64_t kRankStep = 16;

// Matrices that only linears read, and that are stored in fewer bytes than bf16 takes, stay as they are stored where `takes` says
// yes of the encoding. All others are widened as they are loaded.
//
// A matrix with a change beside it stays whatever it is stored as (dense, if that is no narrower), and is weight + up @ down where
// it is used: the product of two parameters, named by factor_name(), is the change operand of its linears. Where other linears of
// the same operand and block have one, those of equal shape get one of rank kRankStep, so that products which are one without
// changes are one with them.
Graph keep_stored(const Graph& graph, const StorageOf& storage_of, const std::function<Support(const Encoding&)>& takes,
                  const RankOf& rank_of = {});

// Whether an encoding is one of those: of fewer bytes than bf16, and of single bytes or runs of 16 elements.
bool may_stay_stored(const Encoding& encoding);

// A factor of the change beside a matrix [N,K]: up [N,rank], or down, transposed: [K,rank].
struct ChangeFactor {
  std::string tensor;
  bool is_up;
  std::int64_t rank;
};
std::string factor_name(const ChangeFactor& factor);                   // "blocks.0.attn1.to_q.weight, up of rank 64"
std::optional<ChangeFactor> parse_factor_name(std::string_view name);  // nothing: it is the name of something else

}  // namespace zoe
