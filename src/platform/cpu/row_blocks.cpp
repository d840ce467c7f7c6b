// Chains without a compiler: every instruction is the prebuilt loop that a node of its own would run, but over a tile of a few
// rows at a time, so that what one instruction hands the next stays in the nearest caches.
//
// A tile is a run of rows along the innermost row axes, the `tile axes`, along which what one instruction reads moves evenly.
// Rows that share their other indices are a segment. A value that does not vary along the tile axes (a modulation, a number)
// is made once a segment; the others once a tile. Values are stored in their own dtype, as the results of single nodes are.
#include <omp.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/loops.h"
#include "platform/cpu/parallel.h"

namespace zoe::cpu {
namespace {

// The least elements of a tile value, where there are so many. With fewer, calling a loop shows beside its work (2 ns beside 30);
// with more, a few values leave the first cache.
constexpr std::int64_t kTileElements = 2048;
// Tile axes of at least so many elements are enough for a tile: they need no rows of the next axis.
constexpr std::int64_t kFewElements = 1024;
// From this width a unary loop or a sum may be called once a row.
constexpr std::int64_t kWideRow = 128;

constexpr std::size_t kAlignment = 64;
std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

struct Axis {
  std::int64_t extent, stride;
};

// The places of a view's elements in the order of the flat index over some axes of a chain.
class Walk {
 public:
  static constexpr std::size_t kMostAxes = 16;

  // Axes [begin, end) of the chain.
  Walk(const Chain& chain, const View& view, std::size_t begin, std::size_t end) : offset_(view.offset), swapped_(view.swapped) {
    for (std::size_t a = begin; a < end; ++a) {
      const Axis next{chain.axes[a], view.strides[a]};
      if (next.extent == 1) continue;
      if (!axes_.empty() && axes_.back().stride == next.stride * next.extent)
        axes_.back() = {axes_.back().extent * next.extent, next.stride};
      else axes_.push_back(next);
    }
    if (axes_.empty()) axes_.push_back({1, 0});
    ZOE_INTERNAL_CHECK(axes_.size() <= kMostAxes);
  }

  bool is_straight() const { return axes_.size() == 1; }  // but for the swap, a constant step from each element to the next
  bool is_even() const { return is_straight() && !swapped_; }
  std::int64_t step() const { return axes_.back().stride; }
  // The extent of a dense run that is all there is, again and again; 0 if it is something else.
  std::int64_t period() const {
    return axes_.size() == 2 && axes_[0].stride == 0 && axes_[1].stride == 1 && !swapped_ ? axes_[1].extent : 0;
  }
  bool varies() const {
    return std::any_of(axes_.begin(), axes_.end(), [](const Axis& axis) { return axis.stride != 0; });
  }

  // The place of element `index`, the view's swap left aside.
  std::int64_t at(std::int64_t index) const {
    std::int64_t place = offset_;
    for (std::size_t a = axes_.size() - 1; a > 0; --a) {
      place += index % axes_[a].extent * axes_[a].stride;
      index /= axes_[a].extent;
    }
    return place + index * axes_[0].stride;
  }

  // `count` elements from element `begin` on, from their places in `src` to a dense `dst`; `swap` swaps dense pairs. Both numbers
  // are even if the view is swapped: tiles are whole rows of whole pairs.
  template <class T>
  void collect(const std::byte* src_bytes, std::byte* dst_bytes, std::int64_t begin, std::int64_t count, UnaryLoop swap) const {
    const auto* src = reinterpret_cast<const T*>(src_bytes);
    auto* dst = reinterpret_cast<T*>(dst_bytes);
    each_run(begin, count, [&](std::int64_t at, std::int64_t inner, std::int64_t n) {
      const std::int64_t stride = step();
      if (stride == 1 && !swapped_) std::memcpy(dst, src + at + inner, static_cast<std::size_t>(n) * sizeof(T));
      else if (stride == 1) swap(reinterpret_cast<const std::byte*>(src + at + inner), reinterpret_cast<std::byte*>(dst), n);
      else if (!swapped_)
        for (std::int64_t i = 0; i < n; ++i) dst[i] = src[at + (inner + i) * stride];
      else
        for (std::int64_t i = 0; i < n; ++i) dst[i] = src[at + ((inner + i) ^ 1) * stride];
      dst += n;
    });
  }

  // The way back. An element that is in its place already is left alone.
  template <class T>
  void spread(const std::byte* src_bytes, std::byte* dst_bytes, std::int64_t begin, std::int64_t count) const {
    const auto* src = reinterpret_cast<const T*>(src_bytes);
    auto* dst = reinterpret_cast<T*>(dst_bytes);
    const std::int64_t turned = swapped_ ? 1 : 0;
    each_run(begin, count, [&](std::int64_t at, std::int64_t inner, std::int64_t n) {
      const std::int64_t stride = step();
      if (stride == 1 && !swapped_) std::memmove(dst + at + inner, src, static_cast<std::size_t>(n) * sizeof(T));
      else
        for (std::int64_t i = 0; i < n; ++i) dst[at + ((inner + i) ^ turned) * stride] = src[i];
      src += n;
    });
  }

 private:
  // Calls run(at, inner, n) for runs along the innermost axis: n elements from its index `inner` on, index 0 lying at `at`.
  template <class Run>
  void each_run(std::int64_t begin, std::int64_t count, const Run& run) const {
    std::array<std::int64_t, kMostAxes> index{};
    std::int64_t at = offset_;
    for (std::size_t a = axes_.size(); a-- > 0;) {
      index[a] = a > 0 ? begin % axes_[a].extent : begin;
      begin /= axes_[a].extent;
      if (a + 1 < axes_.size()) at += index[a] * axes_[a].stride;
    }
    std::int64_t inner = index[axes_.size() - 1];
    while (count > 0) {
      const std::int64_t n = std::min(axes_.back().extent - inner, count);
      run(at, inner, n);
      count -= n;
      inner = 0;
      for (std::size_t a = axes_.size() - 1; a-- > 0;) {
        at += axes_[a].stride;
        if (++index[a] < axes_[a].extent) break;
        at -= axes_[a].stride * axes_[a].extent;
        index[a] = 0;
      }
    }
  }

  std::vector<Axis> axes_;  // at least one
  std::int64_t offset_;
  bool swapped_;
};

// What a step reads or makes: one element, one a row, one a column, or one an element, as it varies.
struct TileValue {
  DType dtype;
  bool by_row, by_column;
  std::int64_t row_step;    // from row to row, in elements
  std::int64_t period = 0;  // by_column: columns repeat after so many, which lie there once; 0: they do not
  int memory = -1;          // lies in an operand or a result, by number in `memories_`; else in the scratch
  std::size_t offset = 0;   // there
  int first = 0, last = 0;  // steps that make it and read it last
};

// Where a tile value lies in an operand or a result: it starts at the place of its first row.
struct Memory {
  int value;
  bool is_output;
  int number;
  Walk rows;
  std::int64_t row_bytes;
};

struct Number {
  int value;
  std::array<std::byte, 4> bytes;
};

struct Step {
  enum class Kind : std::uint8_t { unary, binary, sum, collect, spread } kind;
  int a = -1, b = -1, result = -1;  // tile values
  UnaryLoop unary = nullptr;        // collect: swaps pairs
  BinaryLoop binary = nullptr;
  bool flat = false;                    // binary: the tile is one row
  std::int64_t a_step = 0, b_step = 0;  // binary: RowOperand::row_step
  std::int64_t period = 0;              // binary: of an operand; each row of the tile is then rows of so many columns
  int operand = -1, output = -1;        // collect, spread: the other side
  int walk = -1;                        // and its places
};

class RowBlocks : public Kernel {
 public:
  RowBlocks(const Chain& chain, const DeviceInfo& device)
      : threads_(device.threads),
        streams_(outgrows_cache(chain, device)),
        implementation_("row blocks:" + instruction_set()),
        sum_(sum_loop_of_rows()) {
    for (const Type& type : chain.operands) layouts_.push_back("dense " + std::string(name(type.dtype)));
    choose_tiles(chain);
    std::vector<bool> needed(chain.instructions.size());
    for (const Store& store : chain.stores) needed[static_cast<std::size_t>(store.instruction)] = true;
    for (std::size_t i = needed.size(); i-- > 0;)
      if (needed[i])
        for (const int argument : chain.instructions[i].arguments) needed[static_cast<std::size_t>(argument)] = true;
    values_of_.assign(chain.instructions.size(), -1);
    for (std::size_t i = 0; i < needed.size(); ++i)
      if (needed[i]) values_of_[i] = translate(chain, chain.instructions[i]);
    // What varies from row to row comes behind what a segment shares.
    const auto is_shared = [&](const Step& step) { return !values_[static_cast<std::size_t>(step.result)].by_row; };
    shared_steps_ = static_cast<std::size_t>(std::stable_partition(steps_.begin(), steps_.end(), is_shared) - steps_.begin());
    for (const Store& store : chain.stores) place(chain, store);
    assign_scratch();
    find_overwritable(chain);
  }

  std::string_view implementation() const override { return implementation_; }
  std::string weight_layout(int input) const override { return layouts_[static_cast<std::size_t>(input)]; }
  std::size_t scratch_bytes() const override { return static_cast<std::size_t>(threads_) * thread_bytes_; }
  bool can_overwrite(int input, int output) const override {
    return overwritable_[static_cast<std::size_t>(output)][static_cast<std::size_t>(input)];
  }

  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    const std::int64_t grain = std::max<std::int64_t>(1, 64 / columns_);  // pieces for threads begin near cache lines
    parallel_ranges(rows_, grain, rows_ * columns_, threads_, [&](std::int64_t begin, std::int64_t end) {
      run_rows(inputs, outputs, scratch.data() + static_cast<std::size_t>(omp_get_thread_num()) * thread_bytes_, begin, end);
      if (streams_) flush_streams();
    });
  }

 private:
  // Rows, columns, and how many of the row axes a tile runs along.
  void choose_tiles(const Chain& chain) {
    const std::size_t axes = chain.axes.size();
    // A flat chain: its elements are rows of one column.
    row_axes_ = chain.row_axes > 0 ? static_cast<std::size_t>(chain.row_axes) : axes;
    for (std::size_t a = 0; a < row_axes_; ++a) rows_ *= chain.axes[a];
    for (std::size_t a = row_axes_; a < axes; ++a) columns_ *= chain.axes[a];
    tile_axis_ = row_axes_;
    while (tile_axis_ > 0 && (tile_axis_ == row_axes_ || segment_rows_ * columns_ < kFewElements))
      segment_rows_ *= chain.axes[--tile_axis_];
    // Then those along which all views go on as they do inside a segment.
    while (tile_axis_ > 0 && goes_on(chain)) segment_rows_ *= chain.axes[--tile_axis_];
    const std::int64_t most = (kTileElements + columns_ - 1) / columns_;
    const std::int64_t tiles = (segment_rows_ + most - 1) / most;
    tile_rows_ = (segment_rows_ + tiles - 1) / tiles;
    if (columns_ == 1) tile_rows_ += tile_rows_ % 2;  // no pair of neighbours is split
  }

  bool goes_on(const Chain& chain) const {
    const auto even = [&](const View& view) {
      const Walk now(chain, view, tile_axis_, row_axes_), then(chain, view, tile_axis_ - 1, row_axes_);
      return now.is_straight() && then.is_straight() && now.varies() == then.varies();
    };
    for (const Instruction& instruction : chain.instructions)
      if (instruction.opcode == Opcode::input && !even(instruction.view)) return false;
    return std::all_of(chain.stores.begin(), chain.stores.end(), [&](const Store& store) { return even(store.view); });
  }

  TileValue& value(int i) { return values_[static_cast<std::size_t>(i)]; }
  const TileValue& value(int i) const { return values_[static_cast<std::size_t>(i)]; }

  int add_value(DType dtype, bool by_row, bool by_column) {
    values_.push_back({dtype, by_row, by_column, by_row ? by_column ? columns_ : 1 : 0});
    return static_cast<int>(values_.size()) - 1;
  }

  // Puts a tile value into operand or result `number`, at the places that the view has for its rows.
  void put(int i, bool is_output, int number, const Chain& chain, const View& view, std::int64_t row_step) {
    value(i).memory = static_cast<int>(memories_.size());
    if (value(i).by_row) value(i).row_step = row_step;
    memories_.push_back({i, is_output, number, Walk(chain, view, 0, row_axes_),
                         value(i).row_step * static_cast<std::int64_t>(size_of(value(i).dtype))});
  }

  int add_walk(Walk walk) {
    walks_.push_back(std::move(walk));
    return static_cast<int>(walks_.size()) - 1;
  }

  // The tile value of an instruction, with the steps that make it.
  int translate(const Chain& chain, const Instruction& instruction) {
    const auto argument = [&](std::size_t i) { return values_of_[static_cast<std::size_t>(instruction.arguments.at(i))]; };
    switch (instruction.opcode) {
      case Opcode::input: return translate_load(chain, instruction);
      case Opcode::constant: {
        Number number{add_value(instruction.dtype, false, false), {}};
        const auto wide = static_cast<float>(instruction.value);
        convert(&wide, DType::f32, number.bytes.data(), instruction.dtype, 1);
        numbers_.push_back(number);
        return number.value;
      }
      case Opcode::cast: return converted(argument(0), instruction.dtype);
      case Opcode::sum: {
        ZOE_INTERNAL_CHECK(value(argument(0)).by_column || columns_ == 1);
        Step step{.kind = Step::Kind::sum, .a = converted(argument(0), DType::f32)};
        step.result = add_value(DType::f32, value(step.a).by_row, false);
        steps_.push_back(step);
        return converted(step.result, instruction.dtype);
      }
      default: break;
    }
    // Computed in f32 and rounded once; a loop of bf16 does just that.
    bool narrow = instruction.dtype == DType::bf16;
    for (std::size_t i = 0; i < instruction.arguments.size(); ++i) narrow = narrow && value(argument(i)).dtype == DType::bf16;
    const DType dtype = narrow ? DType::bf16 : DType::f32;
    Step step{.kind = Step::Kind::unary, .a = converted(argument(0), dtype)};
    if (is_unary(instruction.opcode)) {
      step.unary = unary_loop_of(instruction.opcode, dtype, dtype);
      step.result = add_value(dtype, value(step.a).by_row, value(step.a).by_column);
    } else {
      ZOE_INTERNAL_CHECK(is_binary(instruction.opcode));
      step.b = converted(argument(1), dtype);
      choose_binary(step, instruction.opcode, dtype);
    }
    steps_.push_back(step);
    return converted(step.result, instruction.dtype);
  }

  // A load is read where it lies if a loop can take it so, else its elements are collected.
  int translate_load(const Chain& chain, const Instruction& load) {
    const DType dtype = chain.operands[static_cast<std::size_t>(load.operand)].dtype;
    const Walk rows(chain, load.view, tile_axis_, row_axes_), columns(chain, load.view, row_axes_, chain.axes.size());
    const bool by_row = rows.varies(), by_column = columns.varies();
    const int made = add_value(dtype, by_row, by_column);
    const std::int64_t period = columns.period() > 0 && is_factor(chain, load) ? columns.period() : 0;
    bool in_place = (is_dense(columns) || period > 0) && rows.is_even();
    if (by_row && period == 0) in_place = in_place && (rows.step() == value(made).row_step || (by_column && columns_ >= kWideRow));
    if (in_place) {
      put(made, false, load.operand, chain, load.view, rows.step());
      value(made).period = period;
    } else {
      const std::size_t end = by_column ? chain.axes.size() : row_axes_;
      steps_.push_back({.kind = Step::Kind::collect,
                        .result = made,
                        .unary = swap_loop_of(dtype),
                        .operand = load.operand,
                        .walk = add_walk(Walk(chain, load.view, 0, end))});
    }
    return made;
  }

  // Is an f32 load read by binary instructions alone, whose other operand does not repeat? Their loops can take a table that does.
  bool is_factor(const Chain& chain, const Instruction& load) const {
    const auto index = static_cast<int>(&load - chain.instructions.data());
    bool only = load.dtype == DType::f32;
    for (const Instruction& user : chain.instructions) {
      if (std::find(user.arguments.begin(), user.arguments.end(), index) == user.arguments.end()) continue;
      only = only && is_binary(user.opcode);
      for (const int other : user.arguments) {
        const Instruction& operand = chain.instructions[static_cast<std::size_t>(other)];
        if (operand.opcode != Opcode::input) continue;
        const bool repeats = Walk(chain, operand.view, row_axes_, chain.axes.size()).period() > 0;
        only = only && repeats == (other == index);
      }
      only = only && user.arguments[0] != user.arguments[1];
    }
    return only &&
           std::none_of(chain.stores.begin(), chain.stores.end(), [&](const Store& store) { return store.instruction == index; });
  }

  // One element a row, or all columns side by side.
  bool is_dense(const Walk& columns) const { return !columns.varies() || (columns.is_even() && columns.step() == 1); }

  int converted(int from, DType dtype) {
    if (value(from).dtype == dtype) return from;
    const auto [found, is_new] = conversions_.try_emplace({from, dtype}, 0);
    if (is_new) {
      Step step{.kind = Step::Kind::unary, .a = from, .unary = unary_loop_of(Opcode::cast, value(from).dtype, dtype)};
      step.result = add_value(dtype, value(from).by_row, value(from).by_column);
      steps_.push_back(step);
      found->second = step.result;
    }
    return found->second;
  }

  void choose_binary(Step& step, Opcode opcode, DType dtype) {
    step.kind = Step::Kind::binary;
    const TileValue a = value(step.a), b = value(step.b);
    const bool by_row = a.by_row || b.by_row, by_column = a.by_column || b.by_column;
    step.result = add_value(dtype, by_row, by_column);
    const auto is_one = [](const TileValue& v) { return !v.by_row && !v.by_column; };
    const auto is_whole = [&](const TileValue& v) { return v.by_row && v.by_column && v.period == 0 && v.row_step == columns_; };
    step.flat = !by_column || !by_row || ((is_whole(a) || is_one(a)) && (is_whole(b) || is_one(b)));
    int stride_a = by_column ? a.by_column : a.by_row, stride_b = by_column ? b.by_column : b.by_row;
    if (is_one(a) && is_one(b)) stride_a = stride_b = 1;  // one element: any stride will do
    step.period = std::max(a.period, b.period);
    const auto row_step = [&](const TileValue& v) {
      if (step.period > 0) return v.period > 0 || !v.by_column ? 0 : step.period;
      return step.flat ? 0 : v.row_step;
    };
    step.a_step = row_step(a);
    step.b_step = row_step(b);
    step.binary = binary_loop_of(opcode, dtype, stride_a, stride_b);
  }

  // A result is made where it goes, if a loop can write it so and nothing that it may overwrite is read afterwards; else it is
  // copied there when the rest of the tile is done.
  void place(const Chain& chain, const Store& store) {
    const DType dtype = chain.outputs[static_cast<std::size_t>(store.output)].dtype;
    const Walk rows(chain, store.view, tile_axis_, row_axes_), columns(chain, store.view, row_axes_, chain.axes.size());
    const int stored = values_of_[static_cast<std::size_t>(store.instruction)];
    TileValue& v = value(stored);
    ZOE_INTERNAL_CHECK(v.dtype == dtype && v.by_row == rows.varies() && v.by_row == (segment_rows_ > 1) &&
                       v.by_column == columns.varies());
    const bool dense = is_dense(columns) && rows.is_even() && (!v.by_row || rows.step() == v.row_step || tile_rows_ == 1);
    const auto made =
        std::find_if(steps_.begin(), steps_.end(), [&](const Step& step) { return step.result == stored && step.output < 0; });
    if (!streams_ && v.memory < 0 && dense && made != steps_.end() &&
        !is_overwritten_early(chain, store.output, made - steps_.begin())) {
      put(stored, true, store.output, chain, store.view, rows.step());
      return;
    }
    const std::size_t end = v.by_column ? chain.axes.size() : row_axes_;
    Step step{.kind = Step::Kind::spread, .result = stored, .output = store.output};
    step.walk = add_walk(Walk(chain, store.view, 0, end));
    // At the end of the tile, or of the one segment that there is.
    if (v.by_row) steps_.push_back(step);
    else steps_.insert(steps_.begin() + static_cast<std::ptrdiff_t>(shared_steps_++), step);
  }

  // The operands a step reads in their memory.
  template <class Do>
  void each_read(const Step& step, const Do& act) const {
    if (step.operand >= 0) act(step.operand);
    for (const int v : {step.a, step.b, step.output >= 0 ? step.result : -1})
      if (v >= 0 && value(v).memory >= 0 && !memories_[static_cast<std::size_t>(value(v).memory)].is_output)
        act(memories_[static_cast<std::size_t>(value(v).memory)].number);
  }

  // Would a step behind `writer` read an operand that the output may lie in?
  bool is_overwritten_early(const Chain& chain, int output, std::ptrdiff_t writer) const {
    bool early = false;
    for (auto s = static_cast<std::size_t>(writer) + 1; s < steps_.size(); ++s)
      each_read(steps_[s], [&](int operand) { early = early || zoe::can_overwrite(chain, operand, output); });
    return early;
  }

  void find_overwritable(const Chain& chain) {
    overwritable_.assign(chain.outputs.size(), std::vector<bool>(chain.operands.size()));
    for (std::size_t o = 0; o < chain.outputs.size(); ++o)
      for (std::size_t i = 0; i < chain.operands.size(); ++i) {
        bool ok = zoe::can_overwrite(chain, static_cast<int>(i), static_cast<int>(o));
        bool written = false;
        for (const Step& step : steps_) {
          if (written) each_read(step, [&](int operand) { ok = ok && operand != static_cast<int>(i); });
          written = written || writes(step, static_cast<int>(o));
        }
        overwritable_[o][i] = ok;
      }
  }

  bool writes(const Step& step, int output) const {
    if (step.output >= 0) return step.output == output;
    const int memory = value(step.result).memory;
    return memory >= 0 && memories_[static_cast<std::size_t>(memory)].is_output &&
           memories_[static_cast<std::size_t>(memory)].number == output;
  }

  std::size_t size_bytes(const TileValue& v) const {
    return size_of(v.dtype) * static_cast<std::size_t>((v.by_row ? tile_rows_ : 1) * (v.by_column ? columns_ : 1));
  }

  // Scratch of a thread: the addresses of the tile values, then those that lie there. Each gets the lowest place that is free
  // while it lives; a loop's result takes the place of an operand that ends with it.
  void assign_scratch() {
    const int count = static_cast<int>(steps_.size()), shared = static_cast<int>(shared_steps_);
    for (int s = 0; s < count; ++s) {
      const Step& step = steps_[static_cast<std::size_t>(s)];
      if (step.output < 0) value(step.result).first = value(step.result).last = s;
      for (const int read : {step.a, step.b, step.output >= 0 ? step.result : -1})
        if (read >= 0) value(read).last = s;
    }
    for (TileValue& v : values_)  // kept for the next tile
      if (!v.by_row && v.first < shared && v.last >= shared) v.last = count;
    for (const Number& number : numbers_) value(number.value).first = -1, value(number.value).last = count;

    std::vector<int> placed;
    std::size_t end = aligned(values_.size() * sizeof(std::byte*));
    const std::size_t base = end;
    const auto give = [&](int i, const Step* step) {
      TileValue& v = value(i);
      const std::size_t bytes = aligned(size_bytes(v));
      if (step && (step->kind == Step::Kind::unary || step->kind == Step::Kind::binary))
        for (const int argument : {step->a, step->b})
          if (argument >= 0 && value(argument).memory < 0 && value(argument).last == v.first &&
              size_bytes(value(argument)) == size_bytes(v) && value(argument).by_column == v.by_column &&
              size_of(value(argument).dtype) == size_of(v.dtype)) {
            v.offset = value(argument).offset;
            placed.push_back(i);
            return;
          }
      v.offset = base;
      std::sort(placed.begin(), placed.end(), [&](int x, int y) { return value(x).offset < value(y).offset; });
      for (const int other : placed) {
        const TileValue& o = value(other);
        if (o.last < v.first || v.last < o.first) continue;
        if (v.offset + bytes <= o.offset) break;
        v.offset = std::max(v.offset, o.offset + aligned(size_bytes(o)));
      }
      placed.push_back(i);
      end = std::max(end, v.offset + bytes);
    };
    for (const Number& number : numbers_) give(number.value, nullptr);
    for (const Step& step : steps_)
      if (step.output < 0 && value(step.result).memory < 0) give(step.result, &step);
    thread_bytes_ = aligned(end);
  }

  void run_rows(std::span<const Slot> inputs, std::span<const Slot> outputs, std::byte* scratch, std::int64_t begin,
                std::int64_t end) const {
    auto** const at = reinterpret_cast<std::byte**>(scratch);
    for (std::size_t v = 0; v < values_.size(); ++v)
      if (values_[v].memory < 0) at[v] = scratch + values_[v].offset;
    for (const Number& number : numbers_) std::memcpy(at[number.value], number.bytes.data(), size_of(value(number.value).dtype));
    for (std::int64_t row = begin; row < end;) {
      const std::int64_t segment_end = std::min(end, (row / segment_rows_ + 1) * segment_rows_);
      for (const Memory& memory : memories_) {
        const Slot& slot = (memory.is_output ? outputs : inputs)[static_cast<std::size_t>(memory.number)];
        at[memory.value] = slot.data() + memory.rows.at(row) * static_cast<std::int64_t>(size_of(value(memory.value).dtype));
      }
      for (std::size_t s = 0; s < shared_steps_; ++s) execute(steps_[s], at, inputs, outputs, row, 1);
      if (shared_steps_ == steps_.size()) row = segment_end;
      while (row < segment_end) {
        const std::int64_t n = std::min(tile_rows_, segment_end - row);
        for (std::size_t s = shared_steps_; s < steps_.size(); ++s) execute(steps_[s], at, inputs, outputs, row, n);
        for (const Memory& memory : memories_) at[memory.value] += n * memory.row_bytes;
        row += n;
      }
    }
  }

  void execute(const Step& step, std::byte* const* at, std::span<const Slot> inputs, std::span<const Slot> outputs,
               std::int64_t row, std::int64_t n) const {
    const TileValue& result = value(step.result);
    const std::int64_t rows = result.by_row ? n : 1, length = result.by_column ? columns_ : 1;
    switch (step.kind) {
      case Step::Kind::unary: {
        const TileValue& a = value(step.a);
        const auto a_bytes = static_cast<std::int64_t>(size_of(a.dtype)), bytes = static_cast<std::int64_t>(size_of(result.dtype));
        if (!result.by_row || a.row_step == length) return step.unary(at[step.a], at[step.result], rows * length);
        for (std::int64_t r = 0; r < rows; ++r)
          step.unary(at[step.a] + r * a.row_step * a_bytes, at[step.result] + r * length * bytes, length);
        return;
      }
      case Step::Kind::binary:
        if (step.period > 0) return execute_by_period(step, at, rows);
        return step.binary({at[step.a], step.a_step}, {at[step.b], step.b_step}, at[step.result], step.flat ? 1 : rows,
                           step.flat ? rows * length : length);
      case Step::Kind::sum: {
        const TileValue& a = value(step.a);
        constexpr auto kBytes = static_cast<std::int64_t>(sizeof(float));
        if (!result.by_row || a.row_step == columns_) return sum_(at[step.a], at[step.result], rows, columns_);
        for (std::int64_t r = 0; r < rows; ++r)
          sum_(at[step.a] + r * a.row_step * kBytes, at[step.result] + r * kBytes, 1, columns_);
        return;
      }
      case Step::Kind::collect: {
        const std::byte* src = inputs[static_cast<std::size_t>(step.operand)].data();
        const Walk& walk = walks_[static_cast<std::size_t>(step.walk)];
        if (size_of(result.dtype) == 4) walk.collect<std::uint32_t>(src, at[step.result], row * length, rows * length, step.unary);
        else walk.collect<std::uint16_t>(src, at[step.result], row * length, rows * length, step.unary);
        return;
      }
      case Step::Kind::spread: {
        std::byte* dst = outputs[static_cast<std::size_t>(step.output)].data();
        const Walk& walk = walks_[static_cast<std::size_t>(step.walk)];
        const auto bytes = static_cast<std::int64_t>(size_of(result.dtype));
        // A load that is stored as it is may lie in rows of its own distance.
        const bool whole = !result.by_row || result.row_step == length;
        for (std::int64_t r = 0; r < (whole ? 1 : rows); ++r) {
          const std::byte* src = at[step.result] + r * result.row_step * bytes;
          const std::int64_t begin = (row + r) * length, count = whole ? rows * length : length;
          if (streams_ && walk.is_even() && walk.step() == 1) stream_(src, dst + walk.at(begin) * bytes, count * bytes);
          else if (bytes == 4) walk.spread<std::uint32_t>(src, dst, begin, count);
          else walk.spread<std::uint16_t>(src, dst, begin, count);
        }
        return;
      }
    }
  }

  void execute_by_period(const Step& step, std::byte* const* at, std::int64_t rows) const {
    const auto bytes = static_cast<std::int64_t>(size_of(value(step.result).dtype));
    const std::int64_t a_row = value(step.a).row_step * bytes, b_row = value(step.b).row_step * bytes;
    for (std::int64_t r = 0; r < rows; ++r)
      step.binary({at[step.a] + r * a_row, step.a_step}, {at[step.b] + r * b_row, step.b_step},
                  at[step.result] + r * columns_ * bytes, columns_ / step.period, step.period);
  }

  const int threads_;
  const bool streams_;  // results are copied past the caches when a tile is done, see outgrows_cache
  const StreamLoop stream_ = stream_loop_of_bytes();
  const std::string implementation_;
  const SumLoop sum_;
  std::vector<std::string> layouts_;          // of the operands
  std::size_t row_axes_ = 0, tile_axis_ = 0;  // the tile axes are [tile_axis_, row_axes_)
  std::int64_t rows_ = 1, columns_ = 1, segment_rows_ = 1, tile_rows_ = 1;
  std::vector<TileValue> values_;
  std::vector<Memory> memories_;
  std::vector<Walk> walks_;
  std::vector<Number> numbers_;
  std::vector<Step> steps_;       // those of a segment, then those of a tile
  std::size_t shared_steps_ = 0;  // of a segment
  std::vector<int> values_of_;    // instructions
  std::map<std::pair<int, DType>, int> conversions_;
  std::size_t thread_bytes_ = 0;
  std::vector<std::vector<bool>> overwritable_;  // [output][operand]
};

}  // namespace

std::unique_ptr<Kernel> make_row_blocks(const Chain& chain, const DeviceInfo& device) {
  for (const std::vector<Type>* types : {&chain.operands, &chain.outputs})
    for (const Type& type : *types)
      check(type.dtype == DType::f32 || type.dtype == DType::bf16, ErrorKind::unsupported, "cpu",
            "a chain cannot compute in {}: expected f32 or bf16. Cast the operand first.", name(type.dtype));
  return std::make_unique<RowBlocks>(chain, device);
}

}  // namespace zoe::cpu
