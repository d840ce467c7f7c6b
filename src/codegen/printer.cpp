#include "codegen/printer.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "ir/math_text.h"

namespace zoe {

namespace {

constexpr std::int64_t kWidestVector = 16;  // lanes: a run of columns that is a multiple of it takes whole vectors

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

}  // namespace

std::string_view storage(DType dtype) {
  ZOE_INTERNAL_CHECK(!dtype_row(dtype).storage.empty());  // lowering lets in what has one
  return dtype_row(dtype).storage;
}

std::string comment(const Instruction& instruction) {
  return instruction.op.empty() ? std::string() : fmt::format("  // {}", instruction.op);
}

GeneratedSource Printer::print() {
  read_geometry();
  line("// {}: {}{}", options_.name, flat_ ? "elements" : fmt::format("rows of {}", chain_.columns()),
       chain_.passes > 1 ? fmt::format(", {} passes", chain_.passes) : "");
  begin();
  for (std::size_t i = 0; i < chain_.instructions.size(); ++i)
    if (chain_.instructions[i].place == Place::chain) declare(static_cast<int>(i));
  shared_values();
  open_rows();
  const int loops = std::max(chain_.passes, 1);
  for (int pass = 0; pass < loops; ++pass) {
    open_pass(pass);
    if (pass == 0) row_values(0);
    if (pass < chain_.passes) columns(pass);
    if (pass < chain_.passes) row_values(pass + 1);
    if (pass == loops - 1)
      for (std::size_t s = 0; s < chain_.stores.size(); ++s)
        if (at(chain_.stores[s].instruction).place != Place::column) row_store(s);
    close_pass(pass);
  }
  close_rows();
  source_.text = std::move(out_);
  return std::move(source_);
}

// Arguments that follow from the number of rows: extents of row axes but the first, then each view's offset and row strides.
void Printer::read_geometry() {
  const auto argument = [&](std::int64_t value) {
    source_.geometry.push_back(value);
    return g(source_.geometry.size() - 1);
  };
  for (int a = 1; a < chain_.row_axes; ++a) row_extents_.push_back(argument(chain_.axes[static_cast<std::size_t>(a)]));
  std::string next_row;
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

void Printer::row_indices() {
  for (int a = chain_.row_axes - 1, left = a; a >= 0; --a) {
    const std::string rest = a == left ? std::string("row") : fmt::format("q{}", a + 1);
    if (a == 0) {
      line("const long r0 = {};", rest);
    } else {
      line("const long q{0} = {1} / {2}, r{0} = {1} % {2};", a, rest, row_extents_[static_cast<std::size_t>(a - 1)]);
    }
  }
}

void Printer::declare_pointer(std::size_t i) {
  const Instruction& load = chain_.instructions[i];
  line("{0}const {1}* const p{2} = {3} + {4};", dialect_.global, storage(operand_type(load)), i,
       memory(static_cast<std::size_t>(load.operand), operand_type(load), true), bases_[i]);
}

void Printer::declare_result_pointer(std::size_t s) {
  const DType dtype = output_type(chain_.stores[s]);
  line("{0}{1}* const w{2} = {3} + {4};", dialect_.global, storage(dtype), s,
       memory(chain_.operands.size() + static_cast<std::size_t>(chain_.stores[s].output), dtype, false), store_bases_[s]);
}

std::string Printer::expression(const Instruction& instruction, bool rounded) const {
  std::vector<std::string> operands;
  const bool column = instruction.place == Place::column;
  for (const int argument : instruction.arguments) operands.push_back(column ? read(argument) : fmt::format("v{}", argument));
  const Opcode opcode = instruction.opcode;
  const bool of_bf16 = dialect_.bf16_functions && (opcode == Opcode::silu || opcode == Opcode::gelu_tanh) &&
                       instruction.dtype == DType::bf16 && is_bf16(instruction.arguments[0]);
  const std::string text = opcode == Opcode::cast ? operands[0]
                           : of_bf16              ? fmt::format("zoe_{}_bf16({})", name(opcode), operands[0])
                                                  : spell(opcode, operands);
  const DTypeRow& dtype = dtype_row(instruction.dtype);
  // What readers leave out is the rounding of floats.
  return dtype.round.empty() || (!rounded && dtype.is_float) ? text : fmt::format("{}({})", dtype.round, text);
}

// A value of the chain or of a row.
void Printer::declare(int i) {
  const Instruction& instruction = at(i);
  if (is_reduction(instruction.opcode)) return;  // comes out of its pass
  std::string text;
  if (instruction.opcode == Opcode::constant) {
    text = literal(instruction.value, instruction.dtype);
  } else if (instruction.opcode == Opcode::input) {
    const DType dtype = operand_type(instruction);
    text = instruction.place == Place::chain
               ? load1(dtype, fmt::format("{} + {}", memory(static_cast<std::size_t>(instruction.operand), dtype, true),
                                          bases_[static_cast<std::size_t>(i)]))
               : load1(dtype, fmt::format("p{}", i));
  } else {
    text = expression(instruction);
  }
  line("const float v{} = {};{}", i, text, instruction.arguments.empty() ? std::string() : comment(instruction));
}

void Printer::row_values(int pass) {
  for (std::size_t i = 0; i < chain_.instructions.size(); ++i)
    if (chain_.instructions[i].place == Place::row && chain_.instructions[i].pass == pass) declare(static_cast<int>(i));
}

void Printer::row_store(std::size_t s) {
  const Store& store = chain_.stores[s];
  if (has_columns(store.view)) return fill_columns(s);
  line("{}{}(w{}, v{});", storing(), store1(output_type(store)), s, store.instruction);
}

std::vector<int> Printer::sums_after(int pass) const {
  std::vector<int> sums;
  for (std::size_t i = 0; i < chain_.instructions.size(); ++i)
    if (is_reduction(chain_.instructions[i].opcode) && chain_.instructions[i].pass == pass + 1) sums.push_back(static_cast<int>(i));
  return sums;
}

bool Printer::has_columns(const View& view) const {
  for (std::size_t a = static_cast<std::size_t>(chain_.row_axes); a < chain_.axes.size(); ++a)
    if (view.strides[a] != 0) return true;
  return false;
}

Printer::Walk Printer::walk(const View& view) const {
  const auto first = static_cast<std::size_t>(chain_.row_axes);
  std::int64_t stride = 1;
  bool dense = true;
  for (std::size_t a = chain_.axes.size(); a-- > first; stride *= chain_.axes[a]) dense = dense && view.strides[a] == stride;
  if (dense) return Walk::dense;
  if (flat_ || chain_.axes.back() % kWidestVector != 0) return Walk::scattered;
  if (view.strides.back() == 1) return Walk::runs;
  return view.strides.back() == 0 ? Walk::constant_runs : Walk::scattered;
}

std::string Printer::offset(const View& view, const std::string& c) const {
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

std::string combined(Opcode reduction, const std::string& element, const std::string& total) {
  return spell(reduction_of(reduction).combine, {element, total});
}
std::string identity(Opcode reduction) { return literal(static_cast<double>(reduction_of(reduction).identity), DType::f32); }

std::string prelude(const Dialect& dialect) {
  std::string text = fmt::format("{}\n{}\n{}\n", dialect.prelude, kMathText, dialect.more);
  constexpr std::string_view kAgain = "#include \"ir/math.inc\"\n";
  if (const std::size_t at = text.find(kAgain); at != std::string::npos) text.replace(at, kAgain.size(), kMathText);
  for (int i = 0; i <= static_cast<int>(Opcode::fused); ++i)
    if (const auto opcode = static_cast<Opcode>(i); is_reduction(opcode))
      text += fmt::format("ZOE_REDUCTION({}, {}, {})\n", name(opcode), identity(opcode), combined(opcode, "a", "b"));
  return text;
}

GeneratedSource print_source(const Chain& chain, const Dialect& dialect, const PrintOptions& options) {
  if (dialect.warps) return print_warps(chain, dialect, options);
  return dialect.threads ? print_threads(chain, dialect, options) : print_vectors(chain, dialect, options);
}

}  // namespace zoe
