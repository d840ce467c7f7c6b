// Chains without a compiler: programs of prebuilt block operations (block_ops.h), run over tiles of a few rows.
//
// A tile goes through the chain's passes as compiled code does: the values of rows that a pass needs, then the columns of each
// row. What a pass makes stays in registers from load to store; what later passes need is kept in rows of the scratch. Tiles are
// runs of rows along the innermost row axes, along which every view moves evenly. Rows that share their other indices are a
// segment: values that do not vary inside it (1 + scale, the tanh of a gate) are made once a segment, by programs of their own.
#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "platform/cpu/block_program.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/loops.h"
#include "platform/cpu/parallel.h"
#include "platform/cpu/walk.h"

namespace zoe::cpu {
namespace {

// The rows of a tile have about so many elements: what a later pass reads again is then in the first cache, and the programs of
// row values have several to work on.
constexpr std::int64_t kTileElements = 4096;
// Rows of fewer columns are worth joining, to no more than so many.
constexpr std::int64_t kFewColumns = 1024, kManyColumns = 8192;
// A row of one column is a number.
constexpr std::int64_t kMostRows = 64, kMostNumbers = 2048;
// Bytes between what the first pass reads and what it asks for: with less, memory is late; with more, the first cache is full.
constexpr std::int64_t kAhead = 4096;

constexpr std::size_t kAlignment = 64;
std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// What programs read and write: an operand or a result, from the place of a row on, or a part of the scratch.
struct Memory {
  enum class Kind : std::uint8_t { operand, result, scratch } kind;
  std::size_t offset = 0;  // in the scratch
  int number = 0;          // of the operand or result
  int rows = -1;           // its walk over the rows
  std::int64_t element_bytes = 0;
  std::int64_t ahead = 0;  // bytes to add
};

struct Number {
  int memory;
  float value;
};

// What operations cannot take, or leave, where it lies: copied in front of or behind a tile's passes. Rows of columns have one
// dtype on both sides; values of rows are f32 in the scratch.
struct Copy {
  int number;  // of the operand or result
  int memory;
  int walk;  // over all axes, or over the rows
  DType dtype;
  bool is_number, by_row;
};

struct Runs {
  std::vector<std::int64_t> places = {};  // see Access::runs
  bool by_eight = true;                   // they have whole blocks of eight vectors
  bool repeats = false;                   // the same elements for several runs
};

struct Program {
  int first = -1;  // of `ops_`; -1: nothing to do
  std::vector<BlockMove> moves;
  bool by_eight = true;
};

struct Reduced {
  int partials, totals;  // memories
  float identity;
  BlockTotals total;
  bool rounds;
};

// Values of rows, then columns and their reductions.
struct Pass {
  Program numbers, columns;
  std::vector<Reduced> reductions;
};

// What is done once a segment, or once a tile.
struct Level {
  std::vector<Copy> loads, stores;
  std::vector<Pass> passes;
};

class RowBlocks : public Kernel {
 public:
  RowBlocks(const Chain& chain, const DeviceInfo& device)
      : threads_(device.threads),
        streams_(outgrows_cache(chain, device)),
        implementation_("row blocks:" + instruction_set()),
        chain_(chain) {
    for (const Type& type : chain_.operands) layouts_.push_back("dense " + std::string(name(type.dtype)));
    overwritable_.assign(chain.outputs.size(), std::vector<bool>(chain.operands.size()));
    for (int output = 0; output < static_cast<int>(chain.outputs.size()); ++output)
      for (int operand = 0; operand < static_cast<int>(chain.operands.size()); ++operand)
        overwritable(operand, output) = zoe::can_overwrite(chain, operand, output);
    choose_tiles();
    find_values();
    find_homes();
    for (const bool by_row : {false, true}) make_level(by_row);
    for (std::size_t i = 0; i < ops_.size(); ++i)
      if (is_of(ops_[i], Memory::Kind::operand) || is_of(ops_[i], Memory::Kind::result)) moving_.push_back(i);
    find_overwritable();
    ops_at_ = take_scratch(ops_.size() * sizeof(BlockOp));
    thread_bytes_ = scratch_end_;
  }

  std::string_view implementation() const override { return implementation_; }
  std::string weight_layout(int input) const override { return layouts_[static_cast<std::size_t>(input)]; }
  std::size_t scratch_bytes() const override { return static_cast<std::size_t>(threads_) * thread_bytes_; }
  bool can_overwrite(int input, int output) const override {
    return overwritable_[static_cast<std::size_t>(output)][static_cast<std::size_t>(input)];
  }

  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    // Threads share out rows, or the columns of the only one. Their pieces begin near cache lines.
    const std::int64_t count = is_flat_ ? columns_ : rows_,
                       grain = is_flat_ ? kFlatGrain : std::max<std::int64_t>(1, 64 / columns_);
    parallel_ranges(count, grain, rows_ * columns_, threads_, [&](std::int64_t begin, std::int64_t end, int thread) {
      std::byte* own = scratch.data() + static_cast<std::size_t>(thread) * thread_bytes_;
      if (is_flat_) run_rows({inputs, outputs, own, begin, end}, 0, 1);
      else run_rows({inputs, outputs, own, 0, columns_}, begin, end);
      if (streams_) flush_streams();
    });
  }

 private:
  static constexpr std::int64_t kFlatGrain = 64;
  static_assert(kFlatGrain % kPartials == 0);

  // ---- Choosing tiles ----------------------------------------------------------------------------------------------------------

  // Without sums rows may be longer than the chain's: each costs something of its own. What varies with the axis must then be a
  // load, and lie in runs.
  void widen_rows() {
    const auto in_runs = [&](const View& view) {
      const Walk columns(chain_, view, static_cast<std::size_t>(chain_.row_axes) - 1, chain_.axes.size());
      return columns.is_straight() ? columns.step() == 0 || columns.step() == 1 : is_in_runs(columns);
    };
    const auto allows = [&](const Instruction& i) {
      if (i.opcode == Opcode::input) return in_runs(i.view);
      return !is_reduction(i.opcode) && (i.place != Instruction::Place::row || i.opcode == Opcode::cast);
    };
    while (chain_.row_axes > 1 && chain_.columns() < kFewColumns &&
           chain_.columns() * chain_.axes[static_cast<std::size_t>(chain_.row_axes) - 1] <= kManyColumns &&
           std::all_of(chain_.instructions.begin(), chain_.instructions.end(), allows) &&
           std::all_of(chain_.stores.begin(), chain_.stores.end(),
                       [&](const Store& store) { return in_runs(store.view) && is_of_columns(store); })) {
      --chain_.row_axes;
      for (Instruction& i : chain_.instructions) {
        if (i.opcode == Opcode::input && i.view.strides[static_cast<std::size_t>(chain_.row_axes)] != 0)
          i.place = Instruction::Place::column;
        for (const int argument : i.arguments) i.place = std::max(i.place, instruction(argument).place);
      }
    }
  }

  void choose_tiles() {
    widen_rows();
    row_axes_ = static_cast<std::size_t>(chain_.row_axes);
    is_flat_ = row_axes_ == 0;
    rows_ = chain_.rows();
    columns_ = chain_.columns();
    tile_axis_ = row_axes_;
    if (tile_axis_ > 0) segment_rows_ = chain_.axes[--tile_axis_];
    while (tile_axis_ > 0 && goes_on()) segment_rows_ *= chain_.axes[--tile_axis_];
    const std::int64_t most = columns_ == 1 ? kMostNumbers : std::clamp<std::int64_t>(kTileElements / columns_, 1, kMostRows);
    const std::int64_t tiles = (segment_rows_ + most - 1) / most;
    tile_rows_ = (segment_rows_ + tiles - 1) / tiles;
  }

  // Do all views go on along the next row axis as they do inside a segment?
  bool goes_on() const {
    const auto even = [&](const View& view) {
      const Walk now(chain_, view, tile_axis_, row_axes_), then(chain_, view, tile_axis_ - 1, row_axes_);
      return then.is_straight() && now.varies() == then.varies();
    };
    for (const Instruction& instruction : chain_.instructions)
      if (instruction.opcode == Opcode::input && !even(instruction.view)) return false;
    return std::all_of(chain_.stores.begin(), chain_.stores.end(), [&](const Store& store) { return even(store.view); });
  }

  // ---- Values and where they lie -----------------------------------------------------------------------------------------------

  // Of an instruction, while programs are made.
  struct InstructionValue {
    int same;                // itself, or whose value it has: of a cast that changes no bit
    bool needed = false;     // for a result
    bool by_row = false;     // varies inside a segment
    bool is_number = false;  // one a row, or one for all
    int kept_in = -1;        // the pass that puts a column value into rows of the scratch
    int memory = -1;         // of a number that other programs than its own read
    Home home = {};          // of a column value that is loaded or kept
  };

  InstructionValue& value(int i) { return values_[static_cast<std::size_t>(i)]; }
  const InstructionValue& value(int i) const { return values_[static_cast<std::size_t>(i)]; }
  const Instruction& instruction(int i) const { return chain_.instructions[static_cast<std::size_t>(i)]; }
  int value_count() const { return static_cast<int>(values_.size()); }
  bool is_computed(int i) const {
    const Opcode opcode = instruction(i).opcode;
    return opcode != Opcode::input && opcode != Opcode::constant && !is_reduction(opcode);
  }
  int stored(const Store& store) const { return value(store.instruction).same; }
  bool is_of_columns(const Store& store) const { return instruction(store.instruction).place == Instruction::Place::column; }
  DType dtype_of(const Store& store) const { return chain_.outputs[static_cast<std::size_t>(store.output)].dtype; }

  // A cast of bytes counts: only loads and stores know it.
  static bool changes_bits(DType to, DType from) {
    return is_byte(to) || is_byte(from) || (to == DType::bf16 && from != DType::bf16);
  }

  void find_values() {
    for (Instruction& i : chain_.instructions) {
      for (int& argument : i.arguments) argument = value(argument).same;
      const bool changes = i.opcode != Opcode::cast || changes_bits(i.dtype, instruction(i.arguments[0]).dtype);
      InstructionValue v{.same = changes ? value_count() : i.arguments[0]};
      v.is_number = i.place != Instruction::Place::column;
      if (i.opcode == Opcode::input) v.by_row = segment_rows_ == 1 || Walk(chain_, i.view, tile_axis_, row_axes_).varies();
      for (const int argument : i.arguments) v.by_row = v.by_row || value(argument).by_row;
      values_.push_back(v);
    }
    for (const Store& store : chain_.stores) value(stored(store)).needed = true;
    for (int i = value_count(); i-- > 0;)
      if (value(i).needed)
        for (const int argument : instruction(i).arguments) value(argument).needed = true;
  }

  std::size_t take_scratch(std::size_t bytes) {
    const std::size_t offset = scratch_end_;
    scratch_end_ += aligned(bytes);
    return offset;
  }
  int add_memory(Memory memory) {
    memories_.push_back(memory);
    return static_cast<int>(memories_.size()) - 1;
  }
  int add_scratch(std::int64_t bytes) {
    return add_memory({.kind = Memory::Kind::scratch, .offset = take_scratch(static_cast<std::size_t>(bytes))});
  }
  int add_walk(Walk walk) {
    walks_.push_back(std::move(walk));
    return static_cast<int>(walks_.size()) - 1;
  }
  Home add_rows(DType dtype, bool by_row) {
    ZOE_INTERNAL_CHECK(!is_flat_);
    const auto size = static_cast<std::int64_t>(size_of(dtype)), bytes = columns_ * size;
    return {add_scratch(bytes * (by_row ? tile_rows_ : 1)), dtype, Access::dense, by_row ? bytes : 0};
  }
  Level& level(bool by_row) { return by_row ? tile_ : segment_; }

  void find_homes() {
    std::vector<bool> apart(values_.size());  // read by others than the program that makes it
    for (const Store& store : chain_.stores) apart[static_cast<std::size_t>(stored(store))] = true;
    for (int i = 0; i < value_count(); ++i) {
      const int same = value(i).same;
      if (instruction(i).kept && value(same).needed && is_computed(same)) keep(same, instruction(i).pass);
      if (!value(i).needed) continue;
      for (const int argument : instruction(i).arguments) {
        const InstructionValue &user = value(i), &used = value(argument);
        if (user.is_number != used.is_number || user.by_row != used.by_row || !is_computed(i) ||
            instruction(i).pass != instruction(argument).pass)
          apart[static_cast<std::size_t>(argument)] = true;
        if (!used.is_number && user.by_row && !used.by_row && is_computed(argument)) keep(argument, instruction(argument).pass);
      }
    }
    for (int i = 0; i < value_count(); ++i) {
      if (!value(i).needed) continue;
      if (!value(i).is_number) find_home_of_columns(i);
      else if (!is_computed(i) || apart[static_cast<std::size_t>(i)]) find_home_of_number(i);
    }
  }

  void keep(int i, int pass) {
    if (int& kept = value(i).kept_in; kept < 0 || pass < kept) kept = pass;
  }

  void find_home_of_number(int i) {
    InstructionValue& v = value(i);
    v.memory = add_scratch(static_cast<std::int64_t>(sizeof(float)) * (v.by_row ? tile_rows_ : 1));
    const Instruction& made = instruction(i);
    if (made.opcode == Opcode::input) {
      level(v.by_row).loads.push_back(
          {made.operand, v.memory, add_walk(Walk(chain_, made.view, 0, row_axes_)), made.dtype, true, v.by_row});
    } else if (made.opcode == Opcode::constant) {
      const auto wide = static_cast<float>(made.value);
      numbers_.push_back({v.memory, made.dtype == DType::bf16 ? bf16_to_f32(f32_to_bf16(wide)) : wide});
    }
  }

  void find_home_of_columns(int i) {
    InstructionValue& v = value(i);
    const Instruction& made = instruction(i);
    if (made.opcode != Opcode::input) {
      if (v.kept_in >= 0) v.home = add_rows(DType::f32, v.by_row);
    } else if (const auto home = find_place(made.view, made.dtype, Memory::Kind::operand, made.operand)) {
      v.home = *home;
    } else {
      v.home = add_rows(made.dtype, v.by_row);
      level(v.by_row).loads.push_back(
          {made.operand, v.home.memory, add_walk(Walk(chain_, made.view, 0, chain_.axes.size())), made.dtype, false, v.by_row});
    }
  }

  static bool is_in_runs(const Walk& columns) {
    return columns.step() == 1 && !columns.is_swapped() && columns.extent() % std::max(kPartials, block_elements(4)) == 0;
  }

  // Where operations can reach a view's columns in the operand or result itself, if they can.
  std::optional<Home> find_place(const View& view, DType dtype, Memory::Kind kind, int number) {
    const Walk rows(chain_, view, tile_axis_, row_axes_), columns(chain_, view, row_axes_, chain_.axes.size());
    const auto size = static_cast<std::int64_t>(size_of(dtype));
    Home home{-1, dtype, columns.is_swapped() ? Access::swapped : Access::dense, segment_rows_ == 1 ? 0 : rows.step() * size};
    if (columns.step() != 1 || (kind == Memory::Kind::result && columns.is_swapped())) return {};
    if (!columns.is_straight()) {
      if (!is_in_runs(columns)) return {};
      home.access = Access::runs;
      home.runs = static_cast<int>(runs_.size());
      runs_.emplace_back();
      runs_.back().by_eight = columns.extent() % block_elements(8) == 0;
      for (std::int64_t column = 0; column < columns_; column += kPartials) {
        runs_.back().places.push_back((columns.at(column) - columns.at(0) - column) * size);
        runs_.back().repeats = runs_.back().repeats || (column > 0 && columns.at(column) == columns.at(0));
      }
    }
    home.memory =
        add_memory({.kind = kind, .number = number, .rows = add_walk(Walk(chain_, view, 0, row_axes_)), .element_bytes = size});
    return home;
  }

  // ---- Making programs ---------------------------------------------------------------------------------------------------------

  void make_level(bool by_row) {
    Level& made = level(by_row);
    for (int pass = 0; pass <= chain_.passes; ++pass) {
      made.passes.emplace_back();
      make_numbers(made.passes.back().numbers, by_row, pass);
      std::vector<Target> targets;
      for (int i = 0; i < value_count(); ++i) {
        const InstructionValue& v = value(i);
        if (!v.needed || v.by_row != by_row) continue;
        if (is_reduction(instruction(i).opcode) && instruction(i).pass == pass + 1)
          targets.push_back(add_reduction(made.passes.back(), i));
        else if (v.kept_in == pass) targets.push_back({Target::Use::keep, i, v.home});
      }
      for (const Store& store : chain_.stores)
        if (by_row && is_of_columns(store) && instruction(store.instruction).pass == pass) targets.push_back(result_of(store));
      make_columns(made.passes.back().columns, targets, by_row, pass);
    }
    for (const Store& store : chain_.stores)
      if (by_row && !is_of_columns(store)) {
        const InstructionValue& v = value(stored(store));
        made.stores.push_back(
            {store.output, v.memory, add_walk(Walk(chain_, store.view, 0, row_axes_)), dtype_of(store), true, v.by_row});
      }
  }

  Target add_reduction(Pass& pass, int i) {
    const std::int64_t row_bytes = kPartials * static_cast<std::int64_t>(sizeof(float));
    const int partials = add_scratch(row_bytes * (value(i).by_row ? tile_rows_ : 1));
    const Opcode opcode = instruction(i).opcode;
    pass.reductions.push_back(
        {partials, value(i).memory, reduction_of(opcode).identity, block_totals(opcode), instruction(i).dtype == DType::bf16});
    Target target{Target::Use::reduction, instruction(i).arguments[0], {partials, DType::f32, Access::dense, row_bytes}};
    target.reduction = opcode;
    return target;
  }

  Target result_of(const Store& store) {
    const DType dtype = dtype_of(store);
    ZOE_INTERNAL_CHECK(value(stored(store)).by_row);
    if (const auto home = find_place(store.view, dtype, Memory::Kind::result, store.output))
      return {Target::Use::result, stored(store), *home, streams_};
    const Home rows = add_rows(dtype, true);
    tile_.stores.push_back(
        {store.output, rows.memory, add_walk(Walk(chain_, store.view, 0, chain_.axes.size())), dtype, false, true});
    return {Target::Use::result, stored(store), rows};
  }

  int new_slot() { return add_scratch(block_elements(8) * static_cast<std::int64_t>(sizeof(float))); }

  // To a program over columns a number is the same for all of them; one over numbers has those of a tile side by side.
  Home home_of_number(int i, bool for_columns) const {
    constexpr auto kSize = static_cast<std::int64_t>(sizeof(float));
    const bool by_row = value(i).by_row;
    if (by_row && !for_columns) return {value(i).memory, DType::f32, Access::dense, 0};
    return {value(i).memory, DType::f32, Access::one, by_row ? kSize : 0};
  }

  void make_numbers(Program& program, bool by_row, int pass) {
    const auto is_here = [&](int i) {
      const InstructionValue& v = value(i);
      return v.needed && v.is_number && v.by_row == by_row && is_computed(i) && instruction(i).pass == pass;
    };
    std::vector<Home> homes(values_.size());
    std::vector<Target> targets;
    for (int i = 0; i < value_count(); ++i) {
      if (value(i).memory < 0) continue;
      homes[static_cast<std::size_t>(i)] = home_of_number(i, false);
      if (is_here(i)) targets.push_back({Target::Use::keep, i, homes[static_cast<std::size_t>(i)]});
    }
    if (targets.empty()) return;
    ProgramBuilder builder(
        chain_, [&](int i) { return is_here(i) ? nullptr : &homes[static_cast<std::size_t>(i)]; }, [&] { return new_slot(); });
    append(program, builder.build(targets, false));
  }

  void make_columns(Program& program, const std::vector<Target>& targets, bool by_row, int pass) {
    if (targets.empty()) return;
    std::vector<Home> numbers(values_.size());
    for (int i = 0; i < value_count(); ++i)
      if (value(i).is_number) numbers[static_cast<std::size_t>(i)] = home_of_number(i, true);
    const auto home_of = [&](int i) -> const Home* {
      const InstructionValue& v = value(i);
      if (v.is_number) return &numbers[static_cast<std::size_t>(i)];
      const bool is_kept = v.kept_in >= 0 && (v.by_row != by_row || v.kept_in < pass);
      return is_kept || !is_computed(i) ? &v.home : nullptr;
    };
    ProgramBuilder builder(chain_, home_of, [&] { return new_slot(); });
    std::vector<PlacedOp> ops = builder.build(targets, false);
    if (overwrites_early(ops)) ops = builder.build(targets, true);
    if (by_row && pass == 0) prefetch(ops, [](const Home&) { return kAhead; });
    else if (by_row && pass == chain_.passes - 1) prefetch(ops, [&](const Home& home) { return tile_rows_ * home.row_step; });
    append(program, ops);
  }

  void append(Program& program, const std::vector<PlacedOp>& ops) {
    program.first = static_cast<int>(ops_.size());
    for (const PlacedOp& op : ops) {
      if (op.runs >= 0) program.by_eight = program.by_eight && runs_[static_cast<std::size_t>(op.runs)].by_eight;
      if (op.row_step != 0)
        program.moves.push_back({static_cast<int>(ops_.size()) - program.first, op.row_step, is_of(op, Memory::Kind::scratch)});
      ops_.push_back(op);
    }
  }

  // Asks for operands before the first pass comes to them: what lies `ahead(home)` bytes on. In that pass itself it is near; the
  // last pass, during which memory would be idle, asks for the next tile's.
  template <class Ahead>
  void prefetch(std::vector<PlacedOp>& ops, const Ahead& ahead) {
    std::vector<PlacedOp> asks;
    std::vector<const Instruction*> asked;
    for (int i = 0; i < value_count(); ++i) {
      const InstructionValue& v = value(i);
      const Instruction& load = instruction(i);
      if (!v.needed || !v.by_row || v.is_number || load.opcode != Opcode::input) continue;
      Memory next = memories_[static_cast<std::size_t>(v.home.memory)];
      if (next.kind != Memory::Kind::operand) continue;
      // A small table, whose lines would be asked for again and again: worth it where memory is the slower one.
      if (!streams_ && v.home.runs >= 0 && runs_[static_cast<std::size_t>(v.home.runs)].repeats) continue;
      // The same elements in another order are there already.
      if (std::any_of(asked.begin(), asked.end(), [&](const Instruction* other) {
            return other->operand == load.operand && std::abs(other->view.offset - load.view.offset) < columns_;
          }))
        continue;
      next.ahead = ahead(v.home);
      asks.push_back({block_prefetch(v.home.dtype, v.home.access), add_memory(next), v.home.row_step, v.home.runs});
      asked.push_back(&load);
    }
    ops.insert(ops.begin(), asks.begin(), asks.end());
  }

  // Is an operand read behind a result that may lie in its place?
  bool overwrites_early(const std::vector<PlacedOp>& ops) const {
    for (std::size_t w = 0; w < ops.size(); ++w) {
      if (!is_of(ops[w], Memory::Kind::result)) continue;
      for (std::size_t r = w + 1; r < ops.size(); ++r)
        if (reads(ops[r]) && can_overwrite(memory_of(ops[r]).number, memory_of(ops[w]).number)) return true;
    }
    return false;
  }

  // Of what the chain allows, what the order of the operations does.
  void find_overwritable() {
    for (std::size_t w = 0; w < ops_.size(); ++w) {
      if (!is_of(ops_[w], Memory::Kind::result)) continue;
      for (std::size_t r = w + 1; r < ops_.size(); ++r)
        if (reads(ops_[r])) overwritable(memory_of(ops_[r]).number, memory_of(ops_[w]).number) = false;
    }
  }

  std::vector<bool>::reference overwritable(int operand, int output) {
    return overwritable_[static_cast<std::size_t>(output)][static_cast<std::size_t>(operand)];
  }

  const Memory& memory_of(const PlacedOp& op) const { return memories_[static_cast<std::size_t>(op.memory)]; }
  bool is_of(const PlacedOp& op, Memory::Kind kind) const { return op.memory >= 0 && memory_of(op).kind == kind; }
  // An operand's elements, not only their place.
  bool reads(const PlacedOp& op) const { return is_of(op, Memory::Kind::operand) && memory_of(op).ahead == 0; }

  // ---- Running -----------------------------------------------------------------------------------------------------------------

  // What a thread works on: columns [begin, end) of its rows.
  struct Share {
    std::span<const Slot> inputs, outputs;
    std::byte* scratch;
    std::int64_t begin, end;
  };

  template <class T>
  T* scratch_of(const Share& share, int memory) const {
    return reinterpret_cast<T*>(share.scratch + memories_[static_cast<std::size_t>(memory)].offset);
  }
  BlockOp* ops_of(const Share& share) const { return reinterpret_cast<BlockOp*>(share.scratch + ops_at_); }

  void run_rows(const Share& share, std::int64_t begin, std::int64_t end) const {
    BlockOp* ops = ops_of(share);
    for (std::size_t i = 0; i < ops_.size(); ++i) {
      ops[i] = {ops_[i].functions, nullptr,
                ops_[i].runs < 0 ? nullptr : runs_[static_cast<std::size_t>(ops_[i].runs)].places.data()};
      if (is_of(ops_[i], Memory::Kind::scratch)) ops[i].at = scratch_of<std::byte>(share, ops_[i].memory);
    }
    for (const Number& number : numbers_) *scratch_of<float>(share, number.memory) = number.value;
    for (std::int64_t row = begin; row < end;) {
      const std::int64_t segment_end = std::min(end, (row / segment_rows_ + 1) * segment_rows_);
      for (const std::size_t i : moving_) {
        const Memory& memory = memory_of(ops_[i]);
        const Slot& slot =
            (memory.kind == Memory::Kind::result ? share.outputs : share.inputs)[static_cast<std::size_t>(memory.number)];
        ops[i].at = slot.data() + walks_[static_cast<std::size_t>(memory.rows)].at(row) * memory.element_bytes + memory.ahead;
      }
      run_level(share, segment_, row, 1);
      while (row < segment_end) {
        const std::int64_t n = std::min(tile_rows_, segment_end - row);
        run_level(share, tile_, row, n);
        row += n;
      }
    }
  }

  // Rows [row, row + n), or what their segment shares.
  void run_level(const Share& share, const Level& level, std::int64_t row, std::int64_t n) const {
    for (const Copy& load : level.loads) {
      const std::byte* src = share.inputs[static_cast<std::size_t>(load.number)].data();
      if (load.is_number) load_numbers(load, src, scratch_of<float>(share, load.memory), row, n);
      else if (load.dtype == DType::f32) collect<float>(share, load, src, row, n);
      else if (load.dtype == DType::bf16) collect<std::uint16_t>(share, load, src, row, n);
      else collect<std::uint8_t>(share, load, src, row, n);
    }
    for (const Pass& pass : level.passes) {
      // Whole vectors: what is behind the rows' values is room of the scratch.
      if (pass.numbers.first >= 0) run_(ops_of(share) + pass.numbers.first, {}, 1, 0, (n + vector_ - 1) / vector_ * vector_, true);
      if (pass.columns.first < 0) continue;
      for (const Reduced& each : pass.reductions)
        std::fill_n(scratch_of<float>(share, each.partials), n * kPartials, each.identity);
      run_columns(share, pass.columns, n);
      for (const Reduced& each : pass.reductions) {
        auto* totals = scratch_of<float>(share, each.totals);
        each.total(scratch_of<float>(share, each.partials), totals, n);
        if (each.rounds)
          for (std::int64_t r = 0; r < n; ++r) totals[r] = bf16_to_f32(f32_to_bf16(totals[r]));
      }
    }
    for (const Copy& store : level.stores) {
      std::byte* dst = share.outputs[static_cast<std::size_t>(store.number)].data();
      if (store.is_number) store_numbers(store, scratch_of<float>(share, store.memory), dst, row, n);
      else if (store.dtype == DType::f32) spread<float>(share, store, dst, row, n);
      else if (store.dtype == DType::bf16) spread<std::uint16_t>(share, store, dst, row, n);
      else spread<std::uint8_t>(share, store, dst, row, n);
    }
  }

  void run_columns(const Share& share, const Program& program, std::int64_t rows) const {
    BlockOp* const ops = ops_of(share) + program.first;
    run_(ops, program.moves, rows, share.begin, share.end, program.by_eight);
    for (const BlockMove& move : program.moves)
      if (move.returns) ops[move.op].at -= rows * move.row_step;
  }

  template <class T>
  void collect(const Share& share, const Copy& load, const std::byte* src, std::int64_t row, std::int64_t n) const {
    walks_[static_cast<std::size_t>(load.walk)].collect(reinterpret_cast<const T*>(src), scratch_of<T>(share, load.memory),
                                                        row * columns_, (load.by_row ? n : 1) * columns_);
  }
  template <class T>
  void spread(const Share& share, const Copy& store, std::byte* dst, std::int64_t row, std::int64_t n) const {
    walks_[static_cast<std::size_t>(store.walk)].spread(scratch_of<const T>(share, store.memory), reinterpret_cast<T*>(dst),
                                                        row * columns_, n * columns_);
  }

  void load_numbers(const Copy& load, const std::byte* src, float* numbers, std::int64_t row, std::int64_t n) const {
    for (std::int64_t r = 0; r < (load.by_row ? n : 1); ++r) {
      const auto place = static_cast<std::size_t>(walks_[static_cast<std::size_t>(load.walk)].at(row + r));
      convert(src + place * size_of(load.dtype), load.dtype, numbers + r, DType::f32, 1);
    }
  }
  void store_numbers(const Copy& store, const float* numbers, std::byte* dst, std::int64_t row, std::int64_t n) const {
    for (std::int64_t r = 0; r < n; ++r) {
      const auto place = static_cast<std::size_t>(walks_[static_cast<std::size_t>(store.walk)].at(row + r));
      convert(numbers + (store.by_row ? r : 0), DType::f32, dst + place * size_of(store.dtype), store.dtype, 1);
    }
  }

  const int threads_;
  const bool streams_;  // results go past the caches, see outgrows_cache
  const std::string implementation_;
  const std::int64_t vector_ = block_elements(1);
  const BlockRun run_ = block_run();
  Chain chain_;                               // its arguments without casts that change nothing
  std::vector<std::string> layouts_;          // of the operands
  bool is_flat_ = false;                      // a single row, which threads share
  std::size_t row_axes_ = 0, tile_axis_ = 0;  // segments run along the axes [tile_axis_, row_axes_)
  std::int64_t rows_ = 1, columns_ = 1, segment_rows_ = 1, tile_rows_ = 1;
  std::vector<InstructionValue> values_;
  std::vector<Memory> memories_;
  std::vector<Walk> walks_;
  std::vector<Runs> runs_;
  std::vector<Number> numbers_;
  std::vector<PlacedOp> ops_;        // of all programs
  std::vector<std::size_t> moving_;  // those in operands and results
  Level segment_, tile_;
  std::size_t scratch_end_ = 0, ops_at_ = 0, thread_bytes_ = 0;
  std::vector<std::vector<bool>> overwritable_;  // [output][operand]
};

}  // namespace

std::unique_ptr<Kernel> make_row_blocks(const Chain& chain, const DeviceInfo& device) {
  for (const std::vector<Type>* types : {&chain.operands, &chain.outputs})
    for (const Type& type : *types)
      check(type.dtype == DType::f32 || type.dtype == DType::bf16 || is_byte(type.dtype), ErrorKind::unsupported, "cpu",
            "a chain cannot compute in {}: expected f32, bf16 or 8 bits. Cast the operand first.", name(type.dtype));
  return std::make_unique<RowBlocks>(chain, device);
}

}  // namespace zoe::cpu
