#include "codegen/c_printer.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>
#include <limits>

#include "base/error.h"
#include "ir/math_text.h"

namespace zoe {

namespace {

using Place = Instruction::Place;

constexpr std::int64_t kThreads = 32;       // of a group: one for each partial sum
constexpr std::int64_t kWidestVector = 16;  // lanes: a run of columns that is a multiple of it takes whole vectors
constexpr std::size_t kKeptAlignment = 64;  // bytes

std::string literal(double value, DType dtype) {
  auto narrow = static_cast<float>(value);
  if (dtype == DType::bf16) narrow = bf16_to_f32(f32_to_bf16(narrow));
  if (std::isnan(narrow)) return "ZOE_NAN";
  if (std::isinf(narrow)) return narrow > 0 ? "ZOE_INFINITY" : "(-ZOE_INFINITY)";
  std::string text = fmt::format("{}", narrow);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return std::signbit(narrow) ? fmt::format("({}f)", text) : text + "f";
}

bool is_word(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_'; }

// The C spelling of an opcode with its operands' names: the words x, a and b stand for them.
std::string spell(Opcode opcode, const std::vector<std::string>& operands) {
  const std::string_view text = c_spelling(opcode);
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    std::size_t end = i;
    while (end < text.size() && is_word(text[end])) ++end;
    const std::string_view word = text.substr(i, end - i);
    if (word == "x" || word == "a") out += operands.at(0);
    else if (word == "b") out += operands.at(1);
    else if (end > i) out += word;
    else out += text[end++];
    i = end;
  }
  return out;
}

std::string_view storage(DType dtype) { return dtype == DType::bf16 ? "bf16" : "float"; }

class Printer {
 public:
  Printer(const Chain& chain, const Dialect& dialect, const PrintOptions& options)
      : chain_(chain), dialect_(dialect), options_(options), flat_(chain.row_axes == 0) {}

  GeneratedSource print() {
    read_geometry();
    describe();
    find_shared();
    dialect_.threads ? begin_threads() : begin_vectors();
    for (std::size_t i = 0; i < chain_.instructions.size(); ++i)
      if (chain_.instructions[i].place == Place::chain) declare(static_cast<int>(i));
    shared_values();
    open_rows();
    for (int pass = 0; pass < std::max(chain_.passes, 1); ++pass) {
      row_values(pass);
      if (pass < chain_.passes) columns(pass);
    }
    row_values(chain_.passes);
    row_stores();
    close_rows();
    source_.text = std::move(out_);
    return std::move(source_);
  }

 private:
  const Instruction& at(int i) const { return chain_.instructions[static_cast<std::size_t>(i)]; }
  std::string g(std::size_t i) const { return fmt::format(fmt::runtime(dialect_.threads ? "g{}" : "g[{}]"), i); }
  template <class... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    out_.append(static_cast<std::size_t>(indent_) * 2, ' ');
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
    out_ += '\n';
  }

  // Arguments that follow from the number of rows: extents of row axes but the first, then each view's offset and row strides.
  void read_geometry() {
    const auto argument = [&](std::int64_t value) {
      source_.geometry.push_back(value);
      return g(source_.geometry.size() - 1);
    };
    for (int a = 1; a < chain_.row_axes; ++a) row_extents_.push_back(argument(chain_.axes[static_cast<std::size_t>(a)]));
    std::string next_row;  // how far behind a view's row the next one lies; "" if they are the same
    const auto base = [&](const View& view) {
      std::string text;
      const auto term = [&](const std::string& each) { text += (text.empty() ? "" : " + ") + each; };
      if (view.offset != 0) term(argument(view.offset));
      for (int a = 0; a < chain_.row_axes; ++a)
        if (const std::int64_t stride = view.strides[static_cast<std::size_t>(a)]; stride != 0)
          term(fmt::format("r{} * {}", a, next_row = argument(stride)));
      if (flat_ || view.strides[static_cast<std::size_t>(chain_.row_axes - 1)] == 0) next_row.clear();
      return text.empty() ? std::string("0") : text;
    };
    for (const Instruction& instruction : chain_.instructions) {
      const bool loads = instruction.opcode == Opcode::input;
      bases_.push_back(loads ? base(instruction.view) : "");
      next_rows_.push_back(loads ? next_row : "");
    }
    for (const Store& store : chain_.stores) store_bases_.push_back(base(store.view));
  }

  void describe() {
    line("// {}: {}{}", options_.name, flat_ ? "elements" : fmt::format("rows of {}", chain_.columns()),
         chain_.passes > 1 ? fmt::format(", {} passes", chain_.passes) : "");
  }

  void begin_vectors() {
    line("extern \"C\" void {}(char* const* m, const long* g, long begin, long end, char* scratch) {{", options_.name);
    ++indent_;
    for (std::size_t i = 0; i < chain_.instructions.size(); ++i) {
      if (!chain_.instructions[i].kept && !shared_[i]) continue;
      line("float* const k{} = (float*)(scratch + {});", i, source_.scratch_bytes);
      source_.scratch_bytes +=
          (static_cast<std::size_t>(chain_.columns()) * 4 + kKeptAlignment - 1) / kKeptAlignment * kKeptAlignment;
    }
  }

  void begin_threads() {
    std::string arguments;
    const auto argument = [&](const std::string& text) { arguments += (arguments.empty() ? "" : ", ") + text; };
    const auto pointer = [&](std::size_t i, DType dtype, const char* qualifier) {
      argument(fmt::format("{}{}{}* m{}", dialect_.global, qualifier, storage(dtype), i));
      if (dialect_.offsets) argument(fmt::format("long o{}", i));
    };
    for (std::size_t i = 0; i < chain_.operands.size(); ++i) pointer(i, chain_.operands[i].dtype, "const ");
    for (std::size_t i = 0; i < chain_.outputs.size(); ++i) pointer(chain_.operands.size() + i, chain_.outputs[i].dtype, "");
    for (std::size_t i = 0; i < source_.geometry.size(); ++i) argument(fmt::format("long g{}", i));
    argument("long count");
    line("{} {}({}) {{", dialect_.kernel, options_.name, arguments);
    ++indent_;
    const bool sums = std::any_of(chain_.instructions.begin(), chain_.instructions.end(),
                                  [](const Instruction& i) { return i.opcode == Opcode::sum; });
    if (sums && !dialect_.local_sums.empty()) line("{}", dialect_.local_sums);
  }

  std::string memory(std::size_t operand, DType dtype, bool is_const) const {
    if (!dialect_.threads) return fmt::format("({}{}*)m[{}]", is_const ? "const " : "", storage(dtype), operand);
    return dialect_.offsets ? fmt::format("m{} + o{}", operand, operand) : fmt::format("m{}", operand);
  }

  std::string_view column_type() const { return dialect_.threads ? "float" : long_ ? "auto" : "F"; }

  std::string load1(DType dtype, const std::string& address) const {
    // OpenCL C has no overloading.
    if (dialect_.offsets) return fmt::format("load1_{}({})", storage(dtype), address);
    return fmt::format("load1({})", address);
  }

  void open_rows() {
    if (dialect_.threads) {
      line("const long {} = {};", flat_ ? "c" : "row", flat_ ? dialect_.element : dialect_.row);
      line("if ({} >= count) return;", flat_ ? "c" : "row");
      if (!flat_ && !dialect_.whole_rows) line("const int lane = {};", dialect_.lane);
    } else if (!flat_) {
      line("for (long row = begin; row < end; ++row) {{");
      ++indent_;
    }
    for (int a = chain_.row_axes - 1, left = a; a >= 0; --a) {
      const std::string rest = a == left ? std::string("row") : fmt::format("q{}", a + 1);
      if (a == 0) {
        line("const long r0 = {};", rest);
      } else {
        line("const long q{0} = {1} / {2}, r{0} = {1} % {2};", a, rest, row_extents_[static_cast<std::size_t>(a - 1)]);
      }
    }
    for (std::size_t i = 0; i < chain_.instructions.size(); ++i) {
      const Instruction& load = chain_.instructions[i];
      if (load.opcode == Opcode::input && load.place != Place::chain && !declared_outside_[i]) declare_pointer(i);
    }
    for (std::size_t s = 0; s < chain_.stores.size(); ++s) {
      const auto output = static_cast<std::size_t>(chain_.stores[s].output);
      line("{0}{1}* const w{2} = {3} + {4};", dialect_.global, storage(chain_.outputs[output].dtype), s,
           memory(chain_.operands.size() + output, chain_.outputs[output].dtype, false), store_bases_[s]);
    }
    if (dialect_.threads && !flat_)
      for (std::size_t i = 0; i < chain_.instructions.size(); ++i)
        if (chain_.instructions[i].kept) line("float k{}[{}];", i, dialect_.whole_rows ? chain_.columns() : turns());
  }

  void declare_pointer(std::size_t i) {
    const Instruction& load = chain_.instructions[i];
    line("{0}const {1}* const p{2} = {3} + {4};", dialect_.global, storage(operand_type(load)), i,
         memory(static_cast<std::size_t>(load.operand), operand_type(load), true), bases_[i]);
  }

  // Column values that are the same in every row (the tanh of a gate, say) and take more than reading them from memory: these are
  // made once before the rows, where one function goes through many.
  void find_shared() {
    const std::size_t count = chain_.instructions.size();
    shared_.assign(count, false);
    declared_outside_.assign(count, false);
    if (flat_ || dialect_.threads) return;
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

  void shared_values() {
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
      if (shared_[i]) line("store(lanes, k{0} + c, v{0});", i);
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
      if (sum.opcode == Opcode::sum && sum.pass == pass + 1) needed[static_cast<std::size_t>(sum.arguments[0])] = true;
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

  DType operand_type(const Instruction& load) const { return chain_.operands[static_cast<std::size_t>(load.operand)].dtype; }
  std::int64_t turns() const { return (chain_.columns() + kThreads - 1) / kThreads; }

  void close_rows() {
    if (!dialect_.threads) {
      if (!flat_) {
        --indent_;
        line("}}");
      }
      if (options_.stream) line("ZOE_FENCE();");
    }
    --indent_;
    line("}}");
  }

  // The name by which a column statement reads an instruction's value.
  std::string read(int i) const {
    const bool vector = !dialect_.threads;
    if (vector && at(i).place != Place::column) return fmt::format("splat(v{})", i);
    return fmt::format("v{}", i);
  }

  std::string rounded(const Instruction& instruction, std::string text) const {
    return instruction.dtype == DType::bf16 ? fmt::format("round_bf16({})", text) : text;
  }

  std::string expression(const Instruction& instruction) const {
    std::vector<std::string> operands;
    const bool column = instruction.place == Place::column;
    for (const int argument : instruction.arguments) operands.push_back(column ? read(argument) : fmt::format("v{}", argument));
    if (instruction.opcode == Opcode::cast) return rounded(instruction, operands[0]);
    return rounded(instruction, spell(instruction.opcode, operands));
  }

  static std::string comment(const Instruction& instruction) {
    return instruction.op.empty() ? std::string() : fmt::format("  // {}", instruction.op);
  }

  // A value of the chain or of a row.
  void declare(int i) {
    const Instruction& instruction = at(i);
    if (instruction.opcode == Opcode::sum) return;  // comes out of its pass
    if (instruction.opcode == Opcode::constant) {
      line("const float v{} = {};", i, literal(instruction.value, instruction.dtype));
    } else if (instruction.opcode == Opcode::input) {
      const std::string pointer = fmt::format("p{}", i);
      if (instruction.place == Place::chain)
        line("const float v{} = {};", i,
             load1(operand_type(instruction),
                   fmt::format("{} + {}", memory(static_cast<std::size_t>(instruction.operand), operand_type(instruction), true),
                               bases_[static_cast<std::size_t>(i)])));
      else line("const float v{} = {};", i, load1(operand_type(instruction), pointer));
    } else {
      line("const float v{} = {};{}", i, expression(instruction), comment(instruction));
    }
  }

  void row_values(int pass) {
    if (declared_ >= pass) return;
    declared_ = pass;
    for (std::size_t i = 0; i < chain_.instructions.size(); ++i)
      if (chain_.instructions[i].place == Place::row && chain_.instructions[i].pass == pass) declare(static_cast<int>(i));
  }

  void row_stores() {
    for (std::size_t s = 0; s < chain_.stores.size(); ++s) {
      const Store& store = chain_.stores[s];
      if (at(store.instruction).place == Place::column) continue;
      const DType dtype = chain_.outputs[static_cast<std::size_t>(store.output)].dtype;
      std::string put = fmt::format(fmt::runtime(dialect_.offsets ? "store1_{2}(w{0}, v{1});" : "store1(w{0}, v{1});"), s,
                                    store.instruction, storage(dtype));
      if (whole_row(store.view)) {  // the same value in all columns
        fill(s, store, dtype);
        continue;
      }
      if (dialect_.threads && !flat_ && !dialect_.whole_rows) put = "if (lane == 0) " + put;
      line("{}", put);
    }
  }

  bool whole_row(const View& view) const {
    for (std::size_t a = static_cast<std::size_t>(chain_.row_axes); a < chain_.axes.size(); ++a)
      if (view.strides[a] != 0) return true;
    return false;
  }

  void fill(std::size_t s, const Store& store, DType dtype) {
    open_columns(false);
    put(s, store, dtype);
    close_columns();
  }

  // How a view walks through the columns.
  enum class Walk { dense, runs, constant_runs, scattered };
  Walk walk(const View& view) const {
    const auto first = static_cast<std::size_t>(chain_.row_axes);
    std::int64_t stride = 1;
    bool dense = true;
    for (std::size_t a = chain_.axes.size(); a-- > first; stride *= chain_.axes[a]) dense = dense && view.strides[a] == stride;
    if (dense) return Walk::dense;
    if (flat_ || chain_.axes.back() % kWidestVector != 0) return Walk::scattered;
    if (view.strides.back() == 1) return Walk::runs;
    return view.strides.back() == 0 ? Walk::constant_runs : Walk::scattered;
  }

  // The offset of column `c` behind a row's beginning.
  std::string offset(const View& view, const std::string& c) const {
    const auto first = static_cast<std::size_t>(chain_.row_axes);
    if (walk(view) == Walk::dense) return c;
    std::string text;
    std::int64_t inner = 1;
    for (std::size_t a = chain_.axes.size(); a-- > first; inner *= chain_.axes[a]) {
      if (view.strides[a] == 0) continue;
      std::string index = inner == 1 ? c : fmt::format("{} / {}", c, inner);
      if (a > first) index = fmt::format("{} % {}", index, chain_.axes[a]);
      text += (text.empty() ? "" : " + ") + (view.strides[a] == 1 ? index : fmt::format("({}) * {}", index, view.strides[a]));
    }
    return text.empty() ? "0" : text;
  }

  std::string load(int i) const {
    const Instruction& instruction = at(i);
    const View& view = instruction.view;
    if (dialect_.threads) {
      const std::string column = view.swapped ? "(c ^ 1)" : "c";
      return load1(operand_type(instruction), fmt::format("p{} + ({})", i, offset(view, column)));
    }
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

  void put(std::size_t s, const Store& store, DType dtype) {
    const std::string value = read(store.instruction);
    if (dialect_.threads) {
      line(fmt::runtime(dialect_.offsets ? "store1_{3}(w{0} + ({1}), {2});" : "store1(w{0} + ({1}), {2});"), s,
           offset(store.view, "c"), value, storage(dtype));
      return;
    }
    const Walk how = walk(store.view);
    if (how == Walk::scattered || how == Walk::constant_runs)
      line("scatter(lanes, w{}, [&](long i) {{ return {}; }}, {});", s, offset(store.view, "(c + i)"), value);
    else line("{}(lanes, w{} + ({}), {});", options_.stream ? "stream" : "store", s, offset(store.view, "c"), value);
  }

  void open_columns(bool sums) {
    if (dialect_.whole_rows && !flat_) {
      // No turn of the loop reads what another has written: a result over an operand lies element on element.
      constexpr std::string_view kIndependent = "#pragma clang loop vectorize(assume_safety)";
      if (!sums || chain_.columns() <= kThreads) {
        line("{}", kIndependent);
        line("for (int c = 0; c < {}; ++c) {{", chain_.columns());
        ++indent_;
        if (sums) line("const int lane = c;");
        return;
      }
      const std::int64_t rest = chain_.columns() % kThreads;
      line("for (int t = 0; t < {}; ++t) {{", turns());
      ++indent_;
      if (rest != 0) line("const int lanes = t < {} ? {} : {};", turns() - 1, kThreads, rest);
      line("{}", kIndependent);
      line("for (int lane = 0; lane < {}; ++lane) {{", rest != 0 ? "lanes" : std::to_string(kThreads));
      ++indent_;
      line("const int c = lane + {} * t;", kThreads);
      return;
    }
    if (dialect_.threads) {
      if (!flat_) {
        line("for (int t = 0; t < {}; ++t) {{", turns());
        ++indent_;
        line("const int c = lane + {} * t;", kThreads);
        if (chain_.columns() % kThreads != 0) line("if (c >= {}) break;", chain_.columns());
      }
      return;
    }
    if (flat_) line("for_{}range(begin, end, [&](auto lanes, long c) {{", long_ ? "long_" : "");
    else
      line("for_{}<{}>([&](auto lanes, auto part, long c) {{",
           long_  ? "long_columns"
           : sums ? "parts"
                  : "columns",
           chain_.columns());
    ++indent_;
  }

  void close_columns(bool sums = false) {
    if (dialect_.threads && flat_) return;
    --indent_;
    if (dialect_.whole_rows && sums && chain_.columns() > kThreads) {
      line("}}");
      --indent_;
    }
    line("{}", dialect_.threads ? "}" : "});");
  }

  static constexpr int kMuchWork = 30;  // as much as a polynomial
  int work(int pass) const {
    int sum = 0;
    for (const int i : evaluated(pass))
      if (at(i).opcode != Opcode::input && !is_read_back(i, pass)) sum += cost(at(i).opcode);
    return sum;
  }

  // A loop of much work goes by several vectors at a time, if what it reads and writes lies one behind the other.
  bool is_long(int pass) const {
    if (dialect_.threads || work(pass) < kMuchWork) return false;
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

  // So that memory never waits: a pass asks for what the next one will be the first to read, and the later passes in turn for what
  // the first one will read of the next row; they find much of their own row in the caches. A pass of much work has the time to
  // ask, while it computes, for what it will read of the next row itself; the first one leaves that to the processor. Where a next
  // row would push the present one out of the first cache, the first pass asks a little ahead of itself.
  void prefetch(int pass) {
    constexpr std::int64_t kNextRowBytes = 32768, kAhead = 512;
    const auto next_row = [&](int i) { line("prefetch(lanes, p{} + {} + c);", i, next_rows_[static_cast<std::size_t>(i)]); };
    const auto is_much = [&](int reader) { return work(reader) >= kMuchWork; };
    if (!is_much(0)) {
      std::int64_t bytes = 0;
      const std::vector<int> reads = first_reads(0);
      for (const int i : reads) bytes += chain_.columns() * static_cast<std::int64_t>(size_of(operand_type(at(i))));
      for (std::size_t n = 0; n < reads.size(); ++n) {
        if (bytes > kNextRowBytes && pass == 0) line("prefetch(lanes, p{} + c + {});", reads[n], kAhead);
        if (bytes <= kNextRowBytes && 1 + static_cast<int>(n) % (chain_.passes - 1) == pass) next_row(reads[n]);
      }
    }
    if (pass > 0 && is_much(pass))
      for (const int i : first_reads(pass)) next_row(i);
    if (pass + 1 < chain_.passes && !is_much(pass + 1))
      for (const int i : first_reads(pass + 1)) line("prefetch(lanes, p{} + c);", i);
  }

  void columns(int pass) {
    std::vector<int> sums;
    for (std::size_t i = 0; i < chain_.instructions.size(); ++i)
      if (chain_.instructions[i].opcode == Opcode::sum && chain_.instructions[i].pass == pass + 1)
        sums.push_back(static_cast<int>(i));
    const bool whole = dialect_.whole_rows;
    long_ = is_long(pass);
    for (const int sum : sums)
      line(fmt::runtime(whole ? "float s{}[32] = {{0.0f}};" : dialect_.threads ? "float s{} = 0.0f;" : "Sum s{};"), sum);
    open_columns(!sums.empty());
    for (const int i : evaluated(pass)) {
      const Instruction& instruction = at(i);
      if (is_read_back(i, pass)) {
        line(fmt::runtime(whole              ? "const float v{0} = k{0}[c];"
                          : dialect_.threads ? "const float v{0} = k{0}[t];"
                                             : "const {1} v{0} = load(lanes, k{0} + c);"),
             i, column_type());
        continue;
      }
      value(i);
      if (instruction.kept && instruction.pass == pass)
        line(fmt::runtime(whole ? "k{0}[c] = v{0};" : dialect_.threads ? "k{0}[t] = v{0};" : "store(lanes, k{0} + c, v{0});"), i);
    }
    if (chain_.passes > 1 && !dialect_.threads) prefetch(pass);
    for (const int sum : sums)
      line(fmt::runtime(whole              ? "s{}[lane] += {};"
                        : dialect_.threads ? "s{} += {};"
                                           : "s{}.add(lanes, part, {});"),
           sum, read(at(sum).arguments[0]));
    for (std::size_t s = 0; s < chain_.stores.size(); ++s) {
      const Store& store = chain_.stores[s];
      if (at(store.instruction).place == Place::column && at(store.instruction).pass == pass)
        put(s, store, chain_.outputs[static_cast<std::size_t>(store.output)].dtype);
    }
    close_columns(!sums.empty());
    long_ = false;
    for (const int sum : sums)
      line(fmt::runtime(whole              ? "const float v{0} = row_sum_of(s{0});"
                        : dialect_.threads ? "const float v{0} = ROW_SUM(s{0});"
                                           : "const float v{0} = s{0}.total();"),
           sum);
  }

  const Chain& chain_;
  const Dialect& dialect_;
  const PrintOptions& options_;
  const bool flat_;
  GeneratedSource source_;
  std::string out_;
  int indent_ = 0, declared_ = -1;
  bool long_ = false;                            // the loop over columns that is being written, see is_long
  std::vector<bool> shared_, declared_outside_;  // see find_shared; of pointers
  std::vector<std::string> row_extents_, bases_, next_rows_, store_bases_;
};

}  // namespace

std::string prelude(const Dialect& dialect) {
  std::string text = fmt::format("{}\n{}\n{}\n", dialect.prelude, kMathText, dialect.more);
  constexpr std::string_view kAgain = "#include \"ir/math.inc\"\n";
  if (const std::size_t at = text.find(kAgain); at != std::string::npos) text.replace(at, kAgain.size(), kMathText);
  return text;
}

GeneratedSource print_source(const Chain& chain, const Dialect& dialect, const PrintOptions& options) {
  return Printer(chain, dialect, options).print();
}

}  // namespace zoe
