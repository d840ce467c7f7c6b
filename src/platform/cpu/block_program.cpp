#include "platform/cpu/block_program.h"

#include <algorithm>

#include "base/error.h"

namespace zoe::cpu {

std::vector<PlacedOp> ProgramBuilder::build(const std::vector<Target>& targets, bool results_last) {
  ops_.clear(), uses_.clear(), made_.clear(), kept_.clear();
  free_slots_ = slots_;
  held_ = -1;
  for (const Target& target : targets) {
    if (target.use == Target::Use::keep) kept_.emplace(target.value, target.home);
    count_uses(target.value);
  }
  std::vector<const Target*> waiting;
  const auto write = [&](const Target& target) {
    make(target.value);
    append_store(target);
  };
  for (const Target& target : targets) {
    switch (target.use) {
      case Target::Use::keep:
        make(target.value);
        finish_use(target.value);
        break;
      case Target::Use::reduction: {
        const bool squares = is_square_for_itself(target.value);
        const int term = squares ? argument(target.value, 0) : target.value;
        make(term);
        append(block_reduction(target.reduction, squares), target.home);
        finish_use(target.value);
        if (squares) finish_use(term);
        break;
      }
      case Target::Use::result:
        if (!results_last || &target == &targets.back() || instruction(target.value).opcode == Opcode::input) {
          write(target);
        } else {
          make(target.value);
          if (!find(target.value)) keep_in_slot(target.value);
          waiting.push_back(&target);
        }
        break;
    }
  }
  for (const Target* target : waiting) write(*target);
  append(block_end());
  return std::move(ops_);
}

void ProgramBuilder::count_uses(int value) {
  if (++uses_[value] > 1 || home_of_(value)) return;
  for (const int a : instruction(value).arguments) count_uses(a);
}

// A square that one use alone makes.
bool ProgramBuilder::is_square_for_itself(int value) const {
  const Instruction& i = instruction(value);
  return i.opcode == Opcode::square && i.dtype == DType::f32 && !find(value) && held_ != value && uses_.at(value) == 1 &&
         !kept_.contains(value);
}

const Home* ProgramBuilder::find(int value) const {
  if (const Home* home = home_of_(value)) return home;
  const auto made = made_.find(value);
  return made == made_.end() ? nullptr : &made->second;
}

// Brings a value into the registers.
void ProgramBuilder::make(int value) {
  if (held_ == value) return;
  if (const Home* home = find(value)) {
    append(block_load(home->dtype, home->access), *home);
    held_ = value;
    return;
  }
  const Instruction& i = instruction(value);
  if (is_binary(i.opcode)) {
    make_binary(value);
  } else {
    ZOE_INTERNAL_CHECK(i.opcode == Opcode::cast || is_unary(i.opcode));
    make(argument(value, 0));
    finish_use(argument(value, 0));
    if (i.opcode != Opcode::cast) append(block_unary(i.opcode));
  }
  if (is_byte(i.dtype)) append(block_round(i.dtype));
  if (i.dtype == DType::bf16) append(block_round(DType::bf16)), rounds_last_ = true;
  held_ = value;
  if (const auto kept = kept_.find(value); kept != kept_.end()) {
    append(block_store(DType::f32, Access::dense, false), kept->second);
    made_.emplace(value, kept->second);
  } else if (uses_[value] > 1) {
    keep_in_slot(value);
  }
}

void ProgramBuilder::make_binary(int value) {
  const int a = argument(value, 0), b = argument(value, 1);
  const auto in_memory = [&](int v) {
    if (find(v)) return;
    make(v);
    if (!find(v)) keep_in_slot(v);
  };
  // One must lie in memory; the other is in the registers, or comes there.
  if (a == b) in_memory(a);
  else if (!find(a) && !find(b)) in_memory(held_ == a ? a : b);
  const bool reversed = a != b && find(a) && (held_ == b || !find(b));
  make(reversed ? b : a);
  const Home& other = *find(reversed ? a : b);
  const Opcode opcode = instruction(value).opcode;
  append(reversed ? block_binary_reversed(opcode, other.dtype, other.access) : block_binary(opcode, other.dtype, other.access),
         other);
  finish_use(a);
  finish_use(b);
}

void ProgramBuilder::finish_use(int value) {
  if (--uses_[value] > 0) return;
  const auto made = made_.find(value);
  if (made == made_.end() || kept_.contains(value)) return;
  free_slots_.push_back(made->second.memory);
  made_.erase(made);
}

// Stores what is in the registers.
void ProgramBuilder::keep_in_slot(int value) {
  ZOE_INTERNAL_CHECK(held_ == value);
  if (free_slots_.empty()) {
    slots_.push_back(new_slot_());
    free_slots_.push_back(slots_.back());
  }
  const Home slot{free_slots_.back(), DType::f32, Access::block, 0};
  free_slots_.pop_back();
  append(block_store(DType::f32, Access::block, false), slot);
  made_.emplace(value, slot);
}

// A value that is rounded for its store alone is rounded there.
void ProgramBuilder::append_store(const Target& target) {
  finish_use(target.value);
  const bool rounds = target.home.dtype == DType::bf16 && rounds_last_ && uses_[target.value] == 0;
  if (rounds) ops_.pop_back(), held_ = -1;
  const auto store = target.streams ? block_stream : block_store;
  append(store(target.home.dtype, target.home.access, rounds), target.home);
}

void ProgramBuilder::append(BlockFunctions functions) {
  ops_.push_back({functions});
  rounds_last_ = false;
}
void ProgramBuilder::append(BlockFunctions functions, const Home& home) {
  ops_.push_back({functions, home.memory, home.row_step, home.runs});
  rounds_last_ = false;
}

}  // namespace zoe::cpu
