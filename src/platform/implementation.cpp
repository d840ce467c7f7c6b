#include "platform/implementation.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <future>
#include <map>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/nearest.h"
#include "ir/change.h"
#include "ir/graph.h"
#include "platform/kept_weight.h"

namespace zoe {

namespace {

bool contains(const std::vector<std::string>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool has_kept_weight(const Node& node) { return node.opcode == Opcode::linear && !kept_parts(node.inputs[1].node()).empty(); }

// Whether the row is asked at all: what takes kept weights, or codes, takes nothing else.
bool is_about(const Implementation& row, const Node& node) {
  return row.of(node.opcode) && (!row.takes_kept || has_kept_weight(node)) && (!row.takes_codes || codes_of(node) != Codes::none);
}

// Whether it reads operands that are not as usual.
Support reads_operands(const Implementation& row, const Node& node) {
  if (node.opcode == Opcode::conv && node.as<ProductAttributes>().has_history && !row.reads_history)
    return Support::no("the frames before x have to lie in front of it");
  if (has_kept_weight(node) && !row.takes_kept) return Support::no("the weight stays as it is stored");
  if (const Codes codes = codes_of(node); codes != Codes::none && !row.takes_codes)
    return Support::no("its operands become codes of {}", name(codes));
  return Support::yes();
}

// What a weight that stays as it is stored is widened for: epilogues and merging are that product's business.
Node with_weight_of_product(const Node& product) { return has_kept_weight(product) ? behind_widening(product) : product; }

std::string text_of(const std::vector<Refusal>& refused) {
  std::string text;
  for (const Refusal& refusal : refused) text += fmt::format("{}{}: {}", text.empty() ? "" : "; ", refusal.row, refusal.reason);
  return text;
}

}  // namespace

Support Platform::takes(const Node& node) const {
  std::string why;
  for (const Implementation& row : implementations()) {
    if (!is_about(row, node) || !reads_operands(row, node)) continue;
    const Support support = row.supports ? row.supports(node) : Support::yes();
    if (support) return support;
    why += fmt::format("{}{}: {}", why.empty() ? "" : "; ", row.name, support.reason());
  }
  return Support::no("{}", why.empty() ? "it has no row for that" : why);
}

std::unique_ptr<Kernel> Making::part(const Node& node) {
  Implemented made = selection_.implement(node);
  // A kernel of several like parts says it once.
  if (!rows_.ends_with(", " + made.row)) rows_ += ", " + made.row;
  for (Refusal& refusal : made.refused)
    if (std::ranges::find(refused_, refusal.row, &Refusal::row) == refused_.end()) refused_.push_back(std::move(refusal));
  return std::move(made.kernel);
}

Selection::Selection(std::string_view platform, std::span<const Implementation> table, const OverrideRules& rules)
    : platform_(platform), rules_(rules) {
  for (const Implementation& row : table) rows_.push_back(&row);
  std::vector<std::string> known;
  for (const Implementation& row : table) known.emplace_back(row.name);
  for (const auto* names : {&rules_.first, &rules_.never})
    for (const std::string& name : *names) {
      const std::string near = nearest(name, known);
      check(contains(known, name), ErrorKind::invalid_argument, "--override",
            "no such row on {}: got {}, expected rows of its table, with no- in front for never, or require: {}.{}", platform_,
            in_quotes(name), fmt::join(known, ", "), near.empty() ? "" : " Did you mean " + near + "?");
    }
  std::stable_partition(rows_.begin(), rows_.end(), [&](const Implementation* row) { return contains(rules_.first, row->name); });
}

Selection::Choice Selection::choose_from(const Node& node, std::size_t& next, std::vector<Refusal> refused) const {
  while (next < rows_.size()) {
    const Implementation& row = *rows_[next++];
    if (!is_about(row, node)) continue;
    Support support = reads_operands(row, node);
    if (contains(rules_.never, row.name)) support = Support::no("forbidden (--override no-{})", row.name);
    if (support && row.supports) support = row.supports(node);
    if (support) return {&row, std::move(refused)};
    refused.push_back({std::string(row.name), support.reason()});
  }
  return {nullptr, std::move(refused)};
}

Selection::Choice Selection::choose(const Node& node) const {
  std::size_t next = 0;
  return choose_from(node, next, {});
}

bool Selection::takes_epilogue(const Node& asked) const {
  const Node product = with_weight_of_product(asked);
  auto attributes = product.as<ProductAttributes>();
  Node bare = product;
  if (attributes.has_residual) bare.inputs.erase(bare.inputs.begin() + 2 + (attributes.has_bias ? 1 : 0));
  attributes.activation = Activation::none;
  attributes.has_residual = false;
  bare.attributes = attributes;
  std::size_t with = 0, without = 0;
  return choose_from(product, with, {}).row && (!choose_from(bare, without, {}).row || with <= without);
}

Support Selection::merges_products(const Node& merged) const {
  const Implementation* const row = choose(with_weight_of_product(merged)).row;
  if (!row) return Support::no("{} has no row for it", platform_);
  return row->gains_by_merging ? Support::yes() : Support::no("{} of {} gains nothing by that", row->name, platform_);
}

void Selection::fail_for(const Node& node, const std::vector<Refusal>& refused) const {
  fail(ErrorKind::unsupported, platform_, "no kernel for {}: {}.", headline(node),
       refused.empty() ? "no row is about it" : text_of(refused));
}

Implemented Selection::make(const Node& node, std::size_t next, std::vector<Refusal> refused) const {
  while (true) {
    Choice choice = choose_from(node, next, std::move(refused));
    if (!choice.row) fail_for(node, choice.refused);
    refused = std::move(choice.refused);
    Making making(*this);
    std::unique_ptr<Kernel> kernel;
    if (choice.row->make_all) {
      const Node* const one = &node;
      auto made = choice.row->make_all({&one, 1}, making.why_);
      if (!made.empty()) kernel = std::move(made.front());
    } else {
      kernel = choice.row->make(node, making);
    }
    if (kernel) {
      std::ranges::move(making.refused_, std::back_inserter(refused));
      return {std::move(kernel), std::string(choice.row->name) + making.rows_, std::move(refused)};
    }
    refused.push_back({std::string(choice.row->name), making.why_});
  }
}

Implemented Selection::implement(const Node& node) const { return make(node, 0, {}); }

std::vector<Implemented> Selection::implement(std::span<const Node* const> nodes, bool concurrently) const {
  struct Waiting {
    Choice choice;
    std::size_t next = 0;
  };
  std::vector<Waiting> waiting(nodes.size());
  std::map<const Implementation*, std::vector<std::size_t>> at_once;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    waiting[i].choice = choose_from(*nodes[i], waiting[i].next, {});
    const Implementation* const row = waiting[i].choice.row;
    if (!row) fail_for(*nodes[i], waiting[i].choice.refused);
    if (row->make_all || row->prepare) at_once[row].push_back(i);
  }
  // Futures come last: they wait for their threads, which use what is above, before that goes.
  struct AtOnce {
    std::vector<const Node*> nodes;
    std::vector<std::unique_ptr<Kernel>> kernels;
    std::string why;
  };
  std::map<const Implementation*, AtOnce> made;
  for (const auto& [row, numbers] : at_once)
    for (const std::size_t i : numbers) made[row].nodes.push_back(nodes[i]);
  std::vector<std::future<void>> builds;
  for (auto& [row, all] : made)
    builds.push_back(
        std::async(concurrently ? std::launch::async : std::launch::deferred, [row = row, &all = all, target = log_target()] {
          const LogScope log_scope(target);
          if (row->make_all) all.kernels = row->make_all(all.nodes, all.why);
          else row->prepare(all.nodes);
        }));
  std::vector<Implemented> implemented(nodes.size());
  // The first row of each was asked above.
  const auto make_now = [&](std::size_t i) {
    const Implementation* const row = waiting[i].choice.row;
    const auto again = static_cast<std::size_t>(std::find(rows_.begin(), rows_.end(), row) - rows_.begin());
    implemented[i] = make(*nodes[i], again, std::move(waiting[i].choice.refused));
  };
  for (std::size_t i = 0; i < nodes.size(); ++i)
    if (!at_once.count(waiting[i].choice.row)) make_now(i);
  for (std::future<void>& build : builds) build.get();
  for (const auto& [row, numbers] : at_once) {
    AtOnce& all = made[row];
    for (std::size_t k = 0; k < numbers.size(); ++k) {
      const std::size_t i = numbers[k];
      auto& refused = waiting[i].choice.refused;
      if (!row->make_all) {
        make_now(i);
      } else if (!all.kernels.empty()) {
        implemented[i] = {std::move(all.kernels[k]), std::string(row->name), std::move(refused)};
      } else {
        refused.push_back({std::string(row->name), all.why});
        implemented[i] = make(*nodes[i], waiting[i].next, std::move(refused));
      }
    }
  }
  if (rules_.require)
    for (std::size_t i = 0; i < nodes.size(); ++i)
      for (const Refusal& refusal : implemented[i].refused)
        check(!contains(rules_.first, refusal.row), ErrorKind::unsupported, "override",
              "{} cannot run {} on {}: {}. With --override {} and no require the next row runs.", refusal.row, headline(*nodes[i]),
              platform_, refusal.reason, refusal.row);
  return implemented;
}

}  // namespace zoe
