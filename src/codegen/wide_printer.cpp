#include "codegen/wide_printer.h"

#include <algorithm>

namespace zoe {

namespace {

// How many neighbours a thread has at once; 1 if the views do not allow more.
std::int64_t vector_of(const Chain& chain) {
  const auto first = static_cast<std::ptrdiff_t>(chain.row_axes);
  std::size_t narrowest = sizeof(float);
  const auto one_element = [&](const View& view) { return std::all_of(view.strides.begin() + first, view.strides.end(), is_zero); };
  const auto in_rows = [&](const View& view, DType dtype) {
    const bool all_alike = std::all_of(view.strides.begin(), view.strides.begin() + first, is_zero);
    // Of bytes half an access: more neighbours would take more registers than the loads of wider operands have.
    const std::size_t size = std::max(size_of(dtype), size_of(DType::bf16));
    if (!one_element(view) && (!all_alike || chain.row_axes == 0)) narrowest = std::min(narrowest, size);
  };
  for (const Instruction& load : chain.instructions)
    if (load.opcode == Opcode::input) in_rows(load.view, chain.operands[static_cast<std::size_t>(load.operand)].dtype);
  for (const Store& store : chain.stores) in_rows(store.view, chain.outputs[static_cast<std::size_t>(store.output)].dtype);
  std::int64_t vector = kAccessBytes / static_cast<std::int64_t>(narrowest);
  // Neighbours are a run of the last axis that begins at a multiple, with stride one or none.
  const auto divide = [&](std::int64_t number) {
    while (number % vector != 0) vector /= 2;
  };
  if (chain.row_axes > 0) divide(chain.axes.back());
  const auto fit = [&](const View& view) {
    if (one_element(view) || (view.strides.back() == 0 && !view.swapped)) return;
    if (view.strides.back() != 1) vector = 1;
    divide(view.offset);
    for (std::size_t a = 0; a + 1 < view.strides.size(); ++a) divide(view.strides[a]);
  };
  for (const Instruction& load : chain.instructions)
    if (load.opcode == Opcode::input) fit(load.view);
  for (const Store& store : chain.stores) fit(store.view);
  return vector;
}

}  // namespace

void WidePrinter::begin() {
  std::string arguments;
  const auto argument = [&](const std::string& text) { arguments += (arguments.empty() ? "" : ", ") + text; };
  for (std::size_t i = 0; i < chain_.operands.size(); ++i)
    argument(fmt::format("const {}* m{}", storage(chain_.operands[i].dtype), i));
  for (std::size_t i = 0; i < chain_.outputs.size(); ++i)
    argument(fmt::format("{}* m{}", storage(chain_.outputs[i].dtype), chain_.operands.size() + i));
  for (std::size_t i = 0; i < source_.geometry.size(); ++i) argument(fmt::format("long g{}", i));
  argument("long count");
  line("{} __launch_bounds__({}) {}({}) {{", dialect_.kernel, block_warps_ * kWarp, options_.name, arguments);
  ++indent_;
}

int WidePrinter::access_of(int i) const {
  for (int other = 0; other < i; ++other)
    if (is_load(other) && at(other).operand == at(i).operand && at(other).view.offset == at(i).view.offset &&
        at(other).view.strides == at(i).view.strides)
      return other;
  return i;
}

std::set<int> WidePrinter::rounded_by_readers(const std::vector<int>& order, int pass) const {
  std::set<int> rounded;
  for (std::size_t n = order.size(); n-- > 0;) {
    const int i = order[n];
    if (is_load(i) || !is_bf16(i) || is_byte(at(i).dtype)) continue;
    bool all = true;
    for (const Store& store : chain_.stores) all = all && (store.instruction != i || output_type(store) == DType::bf16);
    for (const int reader : order) {
      const auto& arguments = at(reader).arguments;
      const bool reads = !is_ready(reader, pass) && std::find(arguments.begin(), arguments.end(), i) != arguments.end();
      all = all && (!reads || (at(reader).opcode == Opcode::cast && rounded.contains(reader)));
    }
    if (all) rounded.insert(i);
  }
  return rounded;
}

void WidePrinter::value(int i, const std::set<int>& rounded_later) {
  line("const float v{} = {};{}", i, expression(at(i), !rounded_later.contains(i)), comment(at(i)));
}

void WidePrinter::open_loop(std::string_view name, std::int64_t turns) {
  line("#pragma unroll");
  line("for (int {0} = 0; {0} < {1}; ++{0}) {{", name, turns);
  ++indent_;
}

void WidePrinter::close_loop() {
  --indent_;
  line("}}");
}

GeneratedSource print_warps(const Chain& chain, const Dialect& dialect, const PrintOptions& options) {
  const std::int64_t vector = vector_of(chain);
  std::optional<GeneratedSource> source;
  if (vector > 1) source = (chain.row_axes == 0 ? print_flat : print_rows)(chain, dialect, options, vector);
  if (!source) return print_threads(chain, dialect, options);
  GeneratedSource unaligned = print_threads(chain, dialect, {.name = options.name + "_unaligned"});
  source->text += unaligned.text;
  source->grid_unaligned = unaligned.grid;
  return *std::move(source);
}

}  // namespace zoe
