// One ordered table a platform: which implementation runs a node, and why none before it does.
//
// A row says which nodes it takes; the first that says yes makes the kernel. Libraries know some answers only when they are asked
// for the kernel itself: then the next row is asked. What the compiler wants to know before it changes a graph are questions to the
// same table (Selection), so that no second set of rules can disagree.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/support.h"
#include "ir/value.h"
#include "platform/platform.h"

namespace zoe {

class Selection;

// What a row has while it makes a kernel.
class Making {
 public:
  explicit Making(const Selection& selection) : selection_(selection) {}
  // No kernel, because: the next row is asked.
  std::unique_ptr<Kernel> refuse(std::string why) {
    why_ = std::move(why);
    return nullptr;
  }
  // The kernel of a node that the kernel at hand is made of, by the same table and rules.
  std::unique_ptr<Kernel> part(const Node& node);

 private:
  friend class Selection;
  const Selection& selection_;
  std::string why_, rows_;  // of parts
  std::vector<Refusal> refused_;
};

struct Implementation {
  std::string_view name;      // "implicit_gemm", its own in the table: in `zoe explain`, and what --override names
  bool (*of)(Opcode opcode);  // nodes of other opcodes are not its business
  // Asked often, also about nodes that will never be: from node and device alone, nothing is made. Empty: takes all.
  std::function<Support(const Node& node)> supports = {};
  std::function<std::unique_ptr<Kernel>(const Node& node, Making& making)> make = {};
  // In place of `make`, for code that is generated and built in one go: a kernel each, or none at all where nothing can be built,
  // which `why` then says.
  std::function<std::vector<std::unique_ptr<Kernel>>(std::span<const Node* const> nodes, std::string& why)> make_all = {};
  // Compiles the programs that `make` will load for these nodes. `make_all` and `prepare` run while other rows make their kernels.
  std::function<void(std::span<const Node* const> nodes)> prepare = {};
  bool reads_history = false;     // of a row for conv: also frames that come before x from a place of their own (has_history)
  bool takes_kept = false;        // of a row for linear: weights that stay as they are stored (kept_weight.h), and no others
  bool takes_codes = false;       // of a row for linear or attention: operands that become codes (Codes), and no others
  bool gains_by_merging = false;  // of a row for linear: several products of one operand are faster as one
};

// For `of`.
template <Opcode... kOpcodes>
constexpr bool one_of(Opcode opcode) {
  return ((opcode == kOpcodes) || ...);
}

// A platform's table with what a caller says about its rows.
class Selection {
 public:
  // `invalid_argument` if a rule names no row of the table.
  Selection(std::string_view platform, std::span<const Implementation> table, const OverrideRules& rules = {});

  struct Choice {
    const Implementation* row = nullptr;  // none: no row takes the node
    std::vector<Refusal> refused;         // by those that were asked before it
  };
  Choice choose(const Node& node) const;

  // Whether bias, activation and residual of a linear or conv cost nothing: its row comes no later than that of the bare product.
  bool takes_epilogue(const Node& product) const;
  // Whether some row reads what comes before x from a place of its own.
  bool takes_history(const Node& conv) const { return choose(conv).row != nullptr; }
  // Whether one linear in place of several with the same operand is faster. Results are then read inside the wider one's rows, also
  // by attention (AttentionAttributes::heads).
  Support merges_products(const Node& merged) const;

  // Platform::implement. `concurrently`: generated code is built in threads of its own.
  std::vector<Implemented> implement(std::span<const Node* const> nodes, bool concurrently) const;
  Implemented implement(const Node& node) const;

 private:
  Choice choose_from(const Node& node, std::size_t& next, std::vector<Refusal> refused) const;
  Implemented make(const Node& node, std::size_t next, std::vector<Refusal> refused) const;
  [[noreturn]] void fail_for(const Node& node, const std::vector<Refusal>& refused) const;

  std::string platform_;
  OverrideRules rules_;
  std::vector<const Implementation*> rows_;  // in the order they are asked in
};

}  // namespace zoe
