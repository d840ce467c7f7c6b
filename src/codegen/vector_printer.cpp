// Kernels of vectors, see c_printer.h.

#include <algorithm>

#include "codegen/printer.h"

namespace zoe {

namespace {

constexpr std::int64_t kKeptAlignment = 16;  // elements: 64 bytes

class VectorPrinter : public Printer {
 public:
  VectorPrinter(const Chain& chain, const Dialect& dialect, const PrintOptions& options) : Printer(chain, dialect, options) {
    find_shared();
  }

 private:
  std::string g(std::size_t i) const override { return fmt::format("g[{}]", i); }

  void begin() override {
    choose_rows();
    line("extern \"C\" void {}(char* const* m, const long* g, long begin, long end, char* scratch) {{", options_.name);
    ++indent_;
    for (std::size_t i = 0; i < chain_.instructions.size(); ++i) {
      if (!chain_.instructions[i].kept && !shared_[i]) continue;
      line("float* const k{} = (float*)(scratch + {});", i, source_.scratch_bytes);
      source_.scratch_bytes += static_cast<std::size_t>(kept_columns() * (shared_[i] ? 1 : rows_) * 4);
    }
  }

  std::int64_t kept_columns() const { return (chain_.columns() + kKeptAlignment - 1) / kKeptAlignment * kKeptAlignment; }
  std::string kept(int i) const {
    if (rows_ == 1 || shared_[static_cast<std::size_t>(i)]) return fmt::format("k{} + c", i);
    return fmt::format("k{} + (row - first) * {} + c", i, kept_columns());
  }

  std::string memory(std::size_t operand, DType dtype, bool is_const) const override {
    return fmt::format("({}{}*)m[{}]", is_const ? "const " : "", storage(dtype), operand);
  }

  std::string load1(DType, const std::string& address) const override { return fmt::format("load1({})", address); }

  std::string read(int i) const override {
    return fmt::format(fmt::runtime(at(i).place == Place::column ? "v{}" : "splat(v{})"), i);
  }

  std::string_view column_type() const { return long_ ? "auto" : "F"; }

  // Between two passes over a row there is a wait: the sum's last additions, a root, a division. Where a polynomial follows, the
  // processor does not see the next row soon enough to fill it. Then narrow rows go through each pass several at a time, and one
  // row's wait is the others' work. Their number: a power of two whose rows stay in the first cache until the last pass.
  void choose_rows() {
    constexpr std::int64_t kMostRows = 8, kRowsBytes = 16384;
    bool is_much = false;
    for (int pass = 1; pass < chain_.passes; ++pass) is_much = is_much || work(pass) >= kMuchWork;
    if (!is_much) return;
    const std::int64_t bytes = own_bytes();
    while (rows_ < kMostRows && rows_ * 2 * bytes <= kRowsBytes) rows_ *= 2;
  }

  std::int64_t row_bytes(int load) const { return chain_.columns() * static_cast<std::int64_t>(size_of(operand_type(at(load)))); }

  // What a row has in the caches for itself alone until its last pass.
  std::int64_t own_bytes() const {
    std::int64_t bytes = 0;
    for (int pass = 0; pass < chain_.passes; ++pass) {
      for (const int i : first_reads(pass)) bytes += row_bytes(i);
      for (const int i : evaluated(pass)) bytes += at(i).kept && at(i).pass == pass ? chain_.columns() * 4 : 0;
    }
    return bytes;
  }

  // The pass in whose loop a row value is made, and the last one whose loop uses it.
  int made_in(int i) const { return std::max(at(i).pass - 1, 0); }
  int used_until(int i) const {
    const auto uses = [&](int user) {
      const auto& arguments = at(user).arguments;
      return std::find(arguments.begin(), arguments.end(), i) != arguments.end();
    };
    int last = made_in(i);
    for (int pass = 0; pass < chain_.passes; ++pass)
      for (const int user : evaluated(pass))
        if (uses(user) && !is_read_back(user, pass)) last = std::max(last, pass);
    for (int user = 0; user < static_cast<int>(chain_.instructions.size()); ++user)
      if (uses(user) && at(user).place == Place::row) last = std::max(last, made_in(user));
    for (const Store& store : chain_.stores)
      if (store.instruction == i) last = chain_.passes - 1;
    return last;
  }

  // Calls act(i, made, last) for each row value that a loop behind its own uses.
  template <class Act>
  void each_carried(const Act& act) const {
    for (int i = 0; i < static_cast<int>(chain_.instructions.size()); ++i)
      if (at(i).place == Place::row && used_until(i) > made_in(i)) act(i, made_in(i), used_until(i));
  }

  void open_rows() override {
    if (rows_ > 1) {
      line("for (long first = begin; first < end; first += {}) {{", rows_);
      ++indent_;
      line("const long last = first + {0} < end ? first + {0} : end;", rows_);
      each_carried([&](int i, int, int) { line("float k{}[{}];", i, rows_); });
      return;
    }
    if (!flat_) {
      line("for (long row = begin; row < end; ++row) {{");
      ++indent_;
    }
    declare_row();
  }

  void declare_row() {
    row_indices();
    for (std::size_t i = 0; i < chain_.instructions.size(); ++i) {
      const Instruction& load = chain_.instructions[i];
      if (load.opcode == Opcode::input && load.place != Place::chain && !declared_outside_[i]) declare_pointer(i);
    }
    for (std::size_t s = 0; s < chain_.stores.size(); ++s) declare_result_pointer(s);
  }

  void open_pass(int pass) override {
    if (rows_ == 1) return;
    line("for (long row = first; row < last; ++row) {{");
    ++indent_;
    declare_row();
    each_carried([&](int i, int made, int last) {
      if (made < pass && pass <= last) line("const float v{0} = k{0}[row - first];", i);
    });
  }

  void close_pass(int pass) override {
    if (rows_ == 1) return;
    each_carried([&](int i, int made, int) {
      if (made == pass) line("k{0}[row - first] = v{0};", i);
    });
    --indent_;
    line("}}");
  }

  void close_rows() override {
    if (!flat_) {
      --indent_;
      line("}}");
    }
    if (options_.stream) line("ZOE_FENCE();");
    --indent_;
    line("}}");
  }

  void fill_columns(std::size_t s) override {
    open_columns(false);
    put(s);
    close_columns();
  }

  // Column values that are the same in every row (the tanh of a gate, say) and take more than reading them from memory: these are
  // made once before the rows, where one function goes through many.
  void find_shared() {
    const std::size_t count = chain_.instructions.size();
    shared_.assign(count, false);
    declared_outside_.assign(count, false);
    if (flat_) return;
    std::vector<bool> same(count), dear(count);
    for (std::size_t i = 0; i < count; ++i) {
      const Instruction& instruction = chain_.instructions[i];
      same[i] = instruction.place == Place::chain;
      if (instruction.place != Place::column) continue;
      const auto& strides = instruction.view.strides;
      same[i] =
          instruction.opcode == Opcode::input
              ? std::all_of(strides.begin(), strides.begin() + chain_.row_axes, [](std::int64_t stride) { return stride == 0; })
              : std::all_of(instruction.arguments.begin(), instruction.arguments.end(),
                            [&](int argument) { return same[static_cast<std::size_t>(argument)]; });
      dear[i] = cost(instruction.opcode) > 1;
      for (const int argument : instruction.arguments) dear[i] = dear[i] || dear[static_cast<std::size_t>(argument)];
    }
    // Of those, what others are made of.
    for (std::size_t i = 0; i < count; ++i) {
      if (same[i]) continue;
      for (const int argument : chain_.instructions[i].arguments) {
        const auto a = static_cast<std::size_t>(argument);
        shared_[a] = same[a] && dear[a];
      }
    }
  }

  void shared_values() override {
    std::vector<bool> needed = shared_;
    for (std::size_t i = needed.size(); i-- > 0;)
      if (needed[i])
        for (const int argument : chain_.instructions[i].arguments) needed[static_cast<std::size_t>(argument)] = true;
    if (std::find(shared_.begin(), shared_.end(), true) == shared_.end()) return;
    for (std::size_t i = 0; i < needed.size(); ++i) {
      const Instruction& load = chain_.instructions[i];
      declared_outside_[i] = needed[i] && load.opcode == Opcode::input && load.place == Place::column;
      if (declared_outside_[i]) declare_pointer(i);
    }
    line("// The same in every row.");
    open_columns(false);
    for (std::size_t i = 0; i < needed.size(); ++i) {
      if (!needed[i] || chain_.instructions[i].place != Place::column) continue;
      value(static_cast<int>(i));
      if (shared_[i]) line("store(lanes, {1}, v{0});", i, kept(static_cast<int>(i)));
    }
    close_columns();
  }

  // The statement that makes a column value.
  void value(int i) {
    const Instruction& instruction = at(i);
    line("const {} v{} = {};{}", column_type(), i, instruction.opcode == Opcode::input ? load(i) : expression(instruction),
         comment(instruction));
  }

  bool is_read_back(int i, int pass) const { return shared_[static_cast<std::size_t>(i)] || chain_.is_read_back(i, pass); }

  // What a pass evaluates, less what only shared values are made of.
  std::vector<int> evaluated(int pass) const {
    std::vector<int> order = chain_.evaluated(pass);
    std::vector<bool> needed(chain_.instructions.size());
    for (const Store& store : chain_.stores)
      if (at(store.instruction).pass == pass) needed[static_cast<std::size_t>(store.instruction)] = true;
    for (const Instruction& sum : chain_.instructions)
      if (is_reduction(sum.opcode) && sum.pass == pass + 1) needed[static_cast<std::size_t>(sum.arguments[0])] = true;
    std::vector<int> left;
    for (std::size_t n = order.size(); n-- > 0;) {
      const int i = order[n];
      const bool kept_here = at(i).kept && at(i).pass == pass && !shared_[static_cast<std::size_t>(i)];
      if (!needed[static_cast<std::size_t>(i)] && !kept_here) continue;
      left.push_back(i);
      if (is_read_back(i, pass)) continue;
      for (const int argument : at(i).arguments) needed[static_cast<std::size_t>(argument)] = true;
    }
    return {left.rbegin(), left.rend()};
  }

  std::string load(int i) const {
    const Instruction& instruction = at(i);
    const View& view = instruction.view;
    std::string text;
    switch (walk(view)) {
      case Walk::dense:
      case Walk::runs: text = fmt::format("load(lanes, p{} + ({}))", i, offset(view, "c")); break;
      case Walk::constant_runs: text = fmt::format("splat(load1(p{} + ({})))", i, offset(view, "c")); break;
      case Walk::scattered: {
        const std::string index = view.swapped ? "((c + i) ^ 1)" : "(c + i)";
        return fmt::format("gather(lanes, p{}, [&](long i) {{ return {}; }})", i, offset(view, index));
      }
    }
    return view.swapped ? fmt::format("swap({})", text) : text;
  }

  void put(std::size_t s) {
    const Store& store = chain_.stores[s];
    const std::string value = read(store.instruction);
    const Walk how = walk(store.view);
    if (how == Walk::scattered || how == Walk::constant_runs)
      line("scatter(lanes, w{}, [&](long i) {{ return {}; }}, {});", s, offset(store.view, "(c + i)"), value);
    else line("{}(lanes, w{} + ({}), {});", options_.stream ? "stream" : "store", s, offset(store.view, "c"), value);
  }

  void open_columns(bool sums) {
    if (flat_) line("for_{}range(begin, end, [&](auto lanes, long c) {{", long_ ? "long_" : "");
    else
      line("for_{}<{}>([&](auto lanes, auto part, long c) {{",
           long_  ? "long_columns"
           : sums ? "parts"
                  : "columns",
           chain_.columns());
    ++indent_;
  }

  void close_columns() {
    --indent_;
    line("}});");
  }

  static constexpr int kMuchWork = 30;  // as much as a polynomial
  int work(int pass) const {
    int sum = 0;
    for (const int i : evaluated(pass))
      if (at(i).opcode != Opcode::input && !is_read_back(i, pass)) sum += cost(at(i).opcode);
    return sum;
  }

  bool rounds(int pass) const {
    const std::vector<int> made = evaluated(pass);
    return std::any_of(made.begin(), made.end(), [&](int i) { return at(i).dtype == DType::bf16 && !is_read_back(i, pass); });
  }

  // A loop of much work goes by several vectors at a time, if what it reads and writes lies one behind the other. Not in rows of
  // f32: there memory is the slower one, and likes an even pace.
  bool is_long(int pass) const {
    if (work(pass) < kMuchWork) return false;
    if (!flat_ && !rounds(pass)) return false;
    for (const int i : evaluated(pass))
      if (at(i).opcode == Opcode::input && !is_read_back(i, pass) && walk(at(i).view) != Walk::dense) return false;
    return std::all_of(chain_.stores.begin(), chain_.stores.end(), [&](const Store& store) {
      return at(store.instruction).place != Place::column || at(store.instruction).pass != pass || walk(store.view) == Walk::dense;
    });
  }

  // The loads by which a pass is the first to read an operand of its row, an element behind the other.
  std::vector<int> first_reads(int pass) const {
    std::vector<int> reads, seen;  // seen: operands
    for (int reader = 0; reader <= pass; ++reader) {
      for (const int i : evaluated(reader)) {
        const Instruction& load = at(i);
        if (load.opcode != Opcode::input || is_read_back(i, reader)) continue;
        if (next_rows_[static_cast<std::size_t>(i)].empty() || walk(load.view) != Walk::dense) continue;
        if (std::find(seen.begin(), seen.end(), load.operand) != seen.end()) continue;
        seen.push_back(load.operand);
        if (reader == pass) reads.push_back(i);
      }
    }
    return reads;
  }

  // The passes but the first, those with the fewest results to write before the others, the last ones before those.
  std::vector<int> later_passes() const {
    const auto results = [&](int pass) {
      return std::count_if(chain_.stores.begin(), chain_.stores.end(), [&](const Store& store) {
        return at(store.instruction).place == Place::column && at(store.instruction).pass == pass;
      });
    };
    std::vector<int> passes;
    for (int pass = chain_.passes - 1; pass > 0; --pass) passes.push_back(pass);
    std::stable_sort(passes.begin(), passes.end(), [&](int a, int b) { return results(a) < results(b); });
    return passes;
  }

  // So that memory never waits, what a pass is the first to read is asked for before it comes to it. What the first one will read
  // of the next row: by the later ones, in turn; they find much of their own row in the caches. What a later one reads: by itself,
  // a page ahead (the processor's own prefetching ends with the page), or, where rows are long or of bf16, by the pass before. A
  // single pass over long rows asks a page ahead, of bf16 two. Where a next row would push the present one out of the first
  // cache, or that one fills it alone, the first pass asks a little ahead of itself, less where it asks for the next one, too. A
  // pass of much work has the time to ask, while it computes, for what it will read of the next row itself. The sizes are measured.
  void prefetch(int pass) {
    constexpr std::int64_t kNextRowBytes = 32768, kOwnBytes = 49152, kLongRowBytes = 16384, kManyColumns = 2048, kNearAhead = 128,
                           kAhead = 512, kFarAhead = 1024, kFarthestAhead = 4096;
    const auto asks_itself = [&](int i) { return row_bytes(i) <= kLongRowBytes && operand_type(at(i)) == DType::f32; };
    const auto is_much = [&](int reader) { return work(reader) >= kMuchWork; };
    const auto ahead = [&](int i, std::int64_t elements) { line("prefetch(lanes, p{} + c + {});", i, elements); };
    const auto next_row = [&](int i) {
      line("prefetch(lanes, p{} + {}{} + c);", i, rows_ > 1 ? fmt::format("{} * ", rows_) : "",
           next_rows_[static_cast<std::size_t>(i)]);
    };
    std::vector<int> for_next;  // what this pass asks for, as the next one is the first to read it
    if (pass + 1 < chain_.passes && !is_much(pass + 1))
      for (const int i : first_reads(pass + 1))
        if (!asks_itself(i)) for_next.push_back(i);
    const std::vector<int> own = first_reads(pass);
    if (chain_.passes == 1) {
      for (const int i : own)
        if (chain_.columns() >= kManyColumns) ahead(i, operand_type(at(i)) == DType::bf16 ? kFarthestAhead : kFarAhead);
      return;
    }
    if (!is_much(0)) {
      std::int64_t bytes = 0;
      const std::vector<int> reads = first_reads(0), idle = later_passes();
      for (const int i : reads) bytes += row_bytes(i);
      const bool asks_ahead = bytes > kNextRowBytes || own_bytes() > kOwnBytes;
      for (std::size_t n = 0; n < reads.size(); ++n) {
        if (asks_ahead && pass == 0) ahead(reads[n], for_next.empty() ? kAhead : kNearAhead);
        if (!asks_ahead && idle[n % idle.size()] == pass) next_row(reads[n]);
      }
    }
    if (pass > 0)
      for (const int i : own) {
        if (is_much(pass)) next_row(i);
        else if (asks_itself(i)) ahead(i, kFarAhead);
      }
    for (const int i : for_next) line("prefetch(lanes, p{} + c);", i);
  }

  void columns(int pass) override {
    const std::vector<int> sums = sums_after(pass);
    long_ = is_long(pass);
    for (const int sum : sums) line("Partials<reduce_{}> s{};", name(at(sum).opcode), sum);
    open_columns(!sums.empty());
    for (const int i : evaluated(pass)) {
      if (is_read_back(i, pass)) {
        line("const {1} v{0} = load(lanes, {2});", i, column_type(), kept(i));
        continue;
      }
      value(i);
      if (at(i).kept && at(i).pass == pass) line("store(lanes, {1}, v{0});", i, kept(i));
    }
    if (!flat_) prefetch(pass);
    for (const int sum : sums) line("s{}.add(lanes, part, {});", sum, read(at(sum).arguments[0]));
    for (std::size_t s = 0; s < chain_.stores.size(); ++s) {
      const Instruction& stored = at(chain_.stores[s].instruction);
      if (stored.place == Place::column && stored.pass == pass) put(s);
    }
    close_columns();
    long_ = false;
    for (const int sum : sums) line("const float v{0} = s{0}.total();", sum);
  }

  std::int64_t rows_ = 1;                        // at a time, see choose_rows
  bool long_ = false;                            // the loop over columns that is being written, see is_long
  std::vector<bool> shared_, declared_outside_;  // see find_shared; of pointers
};

}  // namespace

GeneratedSource print_vectors(const Chain& chain, const Dialect& dialect, const PrintOptions& options) {
  return VectorPrinter(chain, dialect, options).print();
}

}  // namespace zoe
