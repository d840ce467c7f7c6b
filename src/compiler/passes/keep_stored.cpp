#include "compiler/passes/keep_stored.h"

#include <fmt/format.h>

#include <charconv>
#include <map>
#include <set>
#include <tuple>

#include "base/encoding.h"
#include "compiler/passes/rebuild.h"
#include "ir/change.h"
#include "ir/trace.h"

namespace zoe {

namespace {

// Parameters that something else than the second operand of a linear reads: kept, they would be there twice. Nor are those kept
// that become codes as they are loaded, which are no larger.
std::set<const Node*> read_otherwise(const Graph& graph) {
  std::set<const Node*> found;
  for (const NodePtr& node : graph.nodes)
    for (std::size_t i = 0; i < node->inputs.size(); ++i)
      if (node->opcode != Opcode::linear || i != 1 || node->as<ProductAttributes>().codes != Codes::none)
        found.insert(&node->inputs[i].node());
  for (const Value& output : graph.outputs) found.insert(&output.node());
  return found;
}

// What makes linears one product, as far as weights have a say.
using Operand = std::tuple<const Node*, int, std::vector<std::int64_t>, int, int>;
Operand operand_of(const Node& linear) {
  const Value &x = linear.inputs[0], &weight = linear.inputs[1];
  return {&x.node(), x.output(), weight.shape().dims(), weight.node().block, linear.block};
}

constexpr std::string_view kUp = ", up of rank ", kDown = ", down of rank ";

}  // namespace

std::string factor_name(const ChangeFactor& factor) {
  return fmt::format("{}{}{}", factor.tensor, factor.is_up ? kUp : kDown, factor.rank);
}

std::optional<ChangeFactor> parse_factor_name(std::string_view name) {
  for (const bool is_up : {true, false}) {
    const std::string_view mark = is_up ? kUp : kDown;
    const std::size_t at = name.rfind(mark);
    if (at == std::string_view::npos) continue;
    const std::string_view digits = name.substr(at + mark.size());
    std::int64_t rank = 0;
    const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), rank);
    if (status == std::errc() && end == digits.data() + digits.size())
      return ChangeFactor{std::string(name.substr(0, at)), is_up, rank};
  }
  return {};
}

bool may_stay_stored(const Encoding& encoding) {
  constexpr std::int64_t kRun = 16;  // of base/blocks.inc
  return encoding.is_weight() && encoding.block_bytes < 2 * encoding.block_elements &&
         (encoding.block_elements == 1 || encoding.block_elements % kRun == 0);
}

Graph keep_stored(const Graph& graph, const StorageOf& storage_of, const std::function<Support(const Encoding&)>& takes,
                  const RankOf& rank_of) {
  const std::set<const Node*> others = read_otherwise(graph);
  const auto kept_storage = [&](const Node& node) -> Storage {
    const bool is_matrix = node.opcode == Opcode::parameter && node.types[0].shape.rank() == 2 && others.count(&node) == 0 &&
                           !std::holds_alternative<PackedAttributes>(node.attributes);
    if (!is_matrix) return {};
    const Storage storage = storage_of(node.name);
    if (storage && may_stay_stored(*storage.encoding) && node.types[0].shape.dim(1) % storage.encoding->block_elements == 0 &&
        (!storage.is_scaled || stored_shape(node) == node.types[0].shape) && takes(*storage.encoding))
      return storage;
    const Storage dense{find_encoding(node.types[0].dtype == DType::f32 ? "F32" : "BF16")};
    return rank_of && rank_of(node.name) > 0 && takes(*dense.encoding) ? dense : Storage{};
  };
  std::map<const Node*, std::int64_t> ranks;  // of parameters
  std::set<Operand> changed;
  const auto each_kept_linear = [&](const auto& body) {
    for (const NodePtr& node : graph.nodes)
      if (rank_of && node->opcode == Opcode::linear && kept_storage(node->inputs[1].node())) body(*node);
  };
  each_kept_linear([&](const Node& linear) {
    const Node& weight = linear.inputs[1].node();
    if (const std::int64_t rank = rank_of(weight.name); rank > 0) {
      ranks[&weight] = rank;
      changed.insert(operand_of(linear));
    }
  });
  each_kept_linear([&](const Node& linear) {
    if (changed.contains(operand_of(linear))) ranks.try_emplace(&linear.inputs[1].node(), kRankStep);
  });
  std::map<const Node*, Value> changes;  // by parameter: linears of one weight share its change
  const auto change_of = [&](const Node& weight) {
    Value& change = changes[&weight];
    if (change) return change;
    const std::int64_t rank = ranks.at(&weight);
    const auto factor = [&](bool is_up) {
      return parameter(factor_name({weight.name, is_up, rank}), weight.types[0].dtype,
                       {weight.types[0].shape.dim(is_up ? 0 : 1), rank}, weight.block);
    };
    const Value up = factor(true), down = factor(false);
    const Value product = linear(up, down);
    return change = with_inputs(product.node(), product.node().inputs, "lora");
  };
  return rebuild(graph, [&](const Node& node, std::vector<Value> inputs) {
    if (const Storage storage = kept_storage(node)) return std::vector<Value>{kept_parameter(node, storage)};
    const bool is_changed = node.opcode == Opcode::linear && !has_change(node) && ranks.contains(&node.inputs[1].node());
    // What is added is made in front of the linear that is the first to read it.
    const Value change = is_changed ? change_of(node.inputs[1].node()) : Value{};
    std::vector<Value> kept = keep(node, std::move(inputs));
    if (is_changed) kept[0] = with_change(kept[0].node(), change);
    return kept;
  });
}

}  // namespace zoe
