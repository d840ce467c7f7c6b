#include "codegen/chain.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <numeric>

namespace zoe {

namespace {

std::int64_t product(std::vector<std::int64_t>::const_iterator begin, std::vector<std::int64_t>::const_iterator end) {
  return std::accumulate(begin, end, std::int64_t{1}, std::multiplies<>());
}

}  // namespace

std::int64_t Chain::rows() const { return product(axes.begin(), axes.begin() + row_axes); }
std::int64_t Chain::columns() const { return product(axes.begin() + row_axes, axes.end()); }

bool Chain::is_read_back(int instruction, int pass) const {
  const Instruction& i = instructions[static_cast<std::size_t>(instruction)];
  return i.kept && i.pass < pass;
}

std::vector<int> Chain::evaluated(int pass) const {
  std::vector<bool> needed(instructions.size());
  const auto need = [&](int i) {
    if (instructions[static_cast<std::size_t>(i)].place == Instruction::Place::column) needed[static_cast<std::size_t>(i)] = true;
  };
  for (const Store& store : stores)
    if (instructions[static_cast<std::size_t>(store.instruction)].pass == pass) need(store.instruction);
  for (const Instruction& sum : instructions)
    if (is_reduction(sum.opcode) && sum.pass == pass + 1) need(sum.arguments[0]);
  for (std::size_t i = 0; i < instructions.size(); ++i)
    if (instructions[i].kept && instructions[i].pass == pass) need(static_cast<int>(i));
  std::vector<int> order;
  for (int i = static_cast<int>(instructions.size()) - 1; i >= 0; --i) {
    if (!needed[static_cast<std::size_t>(i)]) continue;
    order.push_back(i);
    if (is_read_back(i, pass)) continue;
    for (const int argument : instructions[static_cast<std::size_t>(i)].arguments) need(argument);
  }
  return {order.rbegin(), order.rend()};
}

int cost(Opcode opcode) {
  switch (opcode) {
    case Opcode::div:
    case Opcode::sqrt:
    case Opcode::rsqrt: return 6;
    case Opcode::exp:
    case Opcode::tanh:
    case Opcode::silu:
    case Opcode::gelu_tanh: return 30;
    default: return 1;
  }
}

bool can_overwrite(const Chain& chain, int operand, int output) {
  const Store& store = chain.stores[static_cast<std::size_t>(output)];
  const Instruction& stored = chain.instructions[static_cast<std::size_t>(store.instruction)];
  if (stored.place != Instruction::Place::column) return false;
  // Equal views are equal addresses only for elements of one size.
  const DType from = chain.operands[static_cast<std::size_t>(operand)].dtype,
              to = chain.outputs[static_cast<std::size_t>(output)].dtype;
  if (size_of(from) != size_of(to)) return false;
  for (const Instruction& load : chain.instructions)
    if (load.opcode == Opcode::input && load.operand == operand && load.view != store.view) return false;
  // No pass behind the store may read the operand again.
  for (int pass = stored.pass + 1; pass < chain.passes; ++pass)
    for (const int i : chain.evaluated(pass)) {
      const Instruction& load = chain.instructions[static_cast<std::size_t>(i)];
      if (load.opcode == Opcode::input && load.operand == operand && !chain.is_read_back(i, pass)) return false;
    }
  return true;
}

std::string print(const Chain& chain) {
  std::string text = fmt::format("chain of rows [{}] by columns [{}], {} passes\n",
                                 fmt::join(chain.axes.begin(), chain.axes.begin() + chain.row_axes, ","),
                                 fmt::join(chain.axes.begin() + chain.row_axes, chain.axes.end(), ","), chain.passes);
  const auto view = [](const View& v) {
    return fmt::format("[{}{}]{}", v.offset ? fmt::format("{}: ", v.offset) : "", fmt::join(v.strides, ","),
                       v.swapped ? " swapped" : "");
  };
  for (std::size_t i = 0; i < chain.instructions.size(); ++i) {
    const Instruction& instruction = chain.instructions[i];
    constexpr const char* kPlaces[] = {"chain", "row", "column"};
    text += fmt::format("%{} = {}", i, instruction.opcode == Opcode::input ? "load" : name(instruction.opcode));
    if (instruction.opcode == Opcode::input) text += fmt::format(" {} {}", instruction.operand, view(instruction.view));
    if (instruction.opcode == Opcode::constant) text += fmt::format(" {}", instruction.value);
    for (const int argument : instruction.arguments) text += fmt::format(" %{}", argument);
    text += fmt::format(" : {} {} pass {}{}\n", name(instruction.dtype), kPlaces[static_cast<int>(instruction.place)],
                        instruction.pass, instruction.kept ? " kept" : "");
  }
  for (const Store& store : chain.stores)
    text += fmt::format("store {} = %{} {}\n", store.output, store.instruction, view(store.view));
  return text;
}

bool is_chain(Opcode opcode) {
  switch (opcode) {
    case Opcode::linear:
    case Opcode::conv:
    case Opcode::attention:
    case Opcode::concat:
    case Opcode::gather:
    case Opcode::all_to_all:
    case Opcode::all_gather: return false;
    default: return true;
  }
}

}  // namespace zoe
