// The block operations of values of a chain that are made together: all of a row's columns, or one value of each row.
#pragma once

#include <functional>
#include <map>
#include <vector>

#include "codegen/chain.h"
#include "platform/cpu/block_ops.h"

namespace zoe::cpu {

// Where the elements of a value lie.
struct Home {
  int memory;  // a number that the owner of the memories gave
  DType dtype;
  Access access;
  std::int64_t row_step;  // bytes
  int runs = -1;          // of Access::runs: a number of the owner's, too
};

struct PlacedOp {
  BlockFunctions functions;
  int memory = -1;
  std::int64_t row_step = 0;
  int runs = -1;
};

// The value of an instruction that is wanted, and why.
struct Target {
  enum class Use : std::uint8_t { keep, reduction, result } use;
  int value;
  Home home;  // where it goes; of a reduction, the partial totals
  bool streams = false;
  Opcode reduction = Opcode::sum;
};

// Values are numbers of instructions; casts that change no bits must be the values that they cast.
class ProgramBuilder {
 public:
  // home_of: where a value lies before the program runs; null: it is made from its arguments.
  // new_slot: memory for a block.
  ProgramBuilder(const Chain& chain, std::function<const Home*(int)> home_of, std::function<int()> new_slot)
      : chain_(chain), home_of_(std::move(home_of)), new_slot_(std::move(new_slot)) {}

  // Targets are made in their order, each in registers; what is used twice, or waits for its partner in a binary operation, goes
  // to a slot in between. `results_last`: writes no result before all is read.
  std::vector<PlacedOp> build(const std::vector<Target>& targets, bool results_last);

 private:
  const Instruction& instruction(int value) const { return chain_.instructions[static_cast<std::size_t>(value)]; }
  int argument(int value, std::size_t i) const { return instruction(value).arguments[i]; }

  void count_uses(int value);
  bool is_square_for_itself(int value) const;
  const Home* find(int value) const;
  void make(int value);
  void make_binary(int value);
  void finish_use(int value);
  void keep_in_slot(int value);
  void append(BlockFunctions functions);
  void append(BlockFunctions functions, const Home& home);
  void append_store(const Target& target);

  const Chain& chain_;
  const std::function<const Home*(int)> home_of_;
  const std::function<int()> new_slot_;
  std::vector<PlacedOp> ops_;
  int held_ = -1;             // the value in registers
  bool rounds_last_ = false;  // the last operation rounds it
  std::map<int, int> uses_;   // that are left
  std::map<int, Home> made_;  // by this program
  std::map<int, Home> kept_;  // of targets to keep
  std::vector<int> free_slots_, slots_;
};

}  // namespace zoe::cpu
