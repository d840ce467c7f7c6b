// Kernels of threads, see c_printer.h.

#include <algorithm>

#include "codegen/printer.h"

namespace zoe {

namespace {

constexpr std::int64_t kThreads = 32;  // of a group: one for each partial sum
constexpr int kBlock = 256;            // threads of a CUDA block, of one group or several

class ThreadPrinter : public Printer {
 public:
  using Printer::Printer;

 private:
  std::string g(std::size_t i) const override { return fmt::format("g{}", i); }
  std::int64_t turns() const { return (chain_.columns() + kThreads - 1) / kThreads; }

  void begin() override {
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
                                  [](const Instruction& i) { return is_reduction(i.opcode); });
    if (sums && !dialect_.local_partials.empty()) line("{}", dialect_.local_partials);
  }

  std::string memory(std::size_t operand, DType, bool) const override {
    return dialect_.offsets ? fmt::format("m{} + o{}", operand, operand) : fmt::format("m{}", operand);
  }

  std::string load1(DType dtype, const std::string& address) const override {
    // OpenCL C has no overloading.
    if (dialect_.offsets) return fmt::format("load1_{}({})", storage(dtype), address);
    return fmt::format("load1({})", address);
  }

  std::string store1(DType dtype) const override {
    return dialect_.offsets ? fmt::format("store1_{}", storage(dtype)) : std::string("store1");
  }

  void open_rows() override {
    line("const long {} = {};", flat_ ? "c" : "row", flat_ ? dialect_.element : dialect_.row);
    line("if ({} >= count) return;", flat_ ? "c" : "row");
    if (!flat_ && !dialect_.whole_rows) line("const int lane = {};", dialect_.lane);
    row_indices();
    for (std::size_t i = 0; i < chain_.instructions.size(); ++i)
      if (chain_.instructions[i].opcode == Opcode::input && chain_.instructions[i].place != Place::chain) declare_pointer(i);
    for (std::size_t s = 0; s < chain_.stores.size(); ++s) declare_result_pointer(s);
    if (flat_) return;
    for (std::size_t i = 0; i < chain_.instructions.size(); ++i)
      if (chain_.instructions[i].kept) line("float k{}[{}];", i, dialect_.whole_rows ? chain_.columns() : turns());
  }

  void close_rows() override {
    if (flat_) source_.grid = {.threads = kBlock, .per_block = kBlock};
    else source_.grid = {.threads = kBlock, .per_block = kBlock / kThreads};
    --indent_;
    line("}}");
  }

  std::string storing() const override { return flat_ || dialect_.whole_rows ? "" : "if (lane == 0) "; }

  void fill_columns(std::size_t s) override {
    open_columns(false);
    put(s);
    close_columns(false);
  }

  void put(std::size_t s) {
    const Store& store = chain_.stores[s];
    line("{}(w{} + ({}), {});", store1(output_type(store)), s, offset(store.view, "c"), read(store.instruction));
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
    if (flat_) return;
    line("for (int t = 0; t < {}; ++t) {{", turns());
    ++indent_;
    line("const int c = lane + {} * t;", kThreads);
    if (chain_.columns() % kThreads != 0) line("if (c >= {}) break;", chain_.columns());
  }

  void close_columns(bool sums) {
    if (flat_) return;
    --indent_;
    if (dialect_.whole_rows && sums && chain_.columns() > kThreads) {
      line("}}");
      --indent_;
    }
    line("}}");
  }

  void columns(int pass) override {
    const std::vector<int> sums = sums_after(pass);
    const bool whole = dialect_.whole_rows;
    for (const int sum : sums) {
      const std::string first = identity(at(sum).opcode);
      if (whole) {
        line("float s{}[32];", sum);
        line("for (int lane = 0; lane < 32; ++lane) s{}[lane] = {};", sum, first);
      } else {
        line("float s{} = {};", sum, first);
      }
    }
    open_columns(!sums.empty());
    for (const int i : chain_.evaluated(pass)) {
      const Instruction& instruction = at(i);
      if (chain_.is_read_back(i, pass)) {
        line(fmt::runtime(whole ? "const float v{0} = k{0}[c];" : "const float v{0} = k{0}[t];"), i);
        continue;
      }
      std::string text;
      if (instruction.opcode == Opcode::input) {
        const std::string column = instruction.view.swapped ? "(c ^ 1)" : "c";
        text = load1(operand_type(instruction), fmt::format("p{} + ({})", i, offset(instruction.view, column)));
      } else {
        text = expression(instruction);
      }
      line("const float v{} = {};{}", i, text, comment(instruction));
      if (instruction.kept && instruction.pass == pass) line(fmt::runtime(whole ? "k{0}[c] = v{0};" : "k{0}[t] = v{0};"), i);
    }
    for (const int sum : sums) {
      const std::string total = fmt::format(fmt::runtime(whole ? "s{}[lane]" : "s{}"), sum);
      line("{} = {};", total, combined(at(sum).opcode, read(at(sum).arguments[0]), total));
    }
    for (std::size_t s = 0; s < chain_.stores.size(); ++s) {
      const Instruction& stored = at(chain_.stores[s].instruction);
      if (stored.place == Place::column && stored.pass == pass) put(s);
    }
    close_columns(!sums.empty());
    for (const int sum : sums)
      line(fmt::runtime(whole ? "const float v{0} = total_{1}_of(s{0});" : "const float v{0} = ROW_TOTAL({1}, s{0});"), sum,
           name(at(sum).opcode));
  }
};

}  // namespace

GeneratedSource print_threads(const Chain& chain, const Dialect& dialect, const PrintOptions& options) {
  return ThreadPrinter(chain, dialect, options).print();
}

}  // namespace zoe
