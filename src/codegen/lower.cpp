// Lowering: the index space of a fused node is worked out from its graph, then every value is traced back to loads.
//
// A value is asked for "at a view": where, in each of its dimensions, the element lies for an index of the chain. Movement changes
// only the view, so reshape, slice, permute, flip and swap_pairs cost nothing; broadcasting drops dimensions from it. Values
// asked for at the same view are one instruction. Where a reshape splits or joins dimensions that the axes so far do not tell
// apart, an axis is split in two and the work starts again.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "codegen/chain.h"
#include "ir/trace.h"

namespace zoe {

namespace {

// Where an element lies in one dimension of a value.
struct Dimension {
  std::int64_t offset = 0;
  std::vector<std::int64_t> strides;  // per axis of the chain
};

// Where an element lies in a value.
struct Position {
  std::vector<Dimension> dimensions;
  bool swapped = false;
};

struct NotAChain {
  std::string reason;
};
template <class... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  throw NotAChain{fmt::format(format, std::forward<Args>(args)...)};
}

// Asks for axis `axis` to be two: the inner one of extent `inner`.
struct Split {
  std::size_t axis;
  std::int64_t inner;
};

std::vector<std::int64_t> row_major_strides(const Shape& shape) {
  std::vector<std::int64_t> strides(static_cast<std::size_t>(shape.rank()));
  std::int64_t stride = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[static_cast<std::size_t>(i)] = stride;
    stride *= shape.dim(i);
  }
  return strides;
}

class Lowering {
 public:
  Lowering(const Graph& body, std::vector<std::int64_t> axes, std::int64_t columns) : body_(body), columns_(columns) {
    chain_.axes = std::move(axes);
    chain_.row_axes = static_cast<int>(chain_.axes.size());
    std::int64_t product = 1;
    while (columns_ > 0 && product < columns_) {
      if (chain_.row_axes == 0) refuse("a row of {} columns does not fit its index space", columns_);
      --chain_.row_axes;
      const std::int64_t extent = chain_.axes[static_cast<std::size_t>(chain_.row_axes)];
      if (columns_ % (product * extent) != 0) {
        if ((product * extent) % columns_ == 0) throw Split{static_cast<std::size_t>(chain_.row_axes), columns_ / product};
        refuse("a sum runs over {} columns, which is no whole number of axes", columns_);
      }
      product *= extent;
    }
  }

  int repeated_work = 0;

  Chain lower() {
    for (const Value& operand : body_.inputs) chain_.operands.push_back(operand.type());
    for (std::size_t i = 0; i < body_.outputs.size(); ++i) {
      const Value& output = body_.outputs[i];
      chain_.outputs.push_back(output.type());
      const Position position = whole(output.shape());
      const int instruction = value(output, position);
      chain_.stores.push_back({static_cast<int>(i), instruction, linear(position, output.shape())});
    }
    return std::move(chain_);
  }

 private:
  std::size_t axis_count() const { return chain_.axes.size(); }
  Dimension nowhere() const { return {0, std::vector<std::int64_t>(axis_count())}; }

  // Element i of the value for index i of the chain; a value of one element a row lies at the same place for all columns.
  Position whole(const Shape& shape) {
    std::int64_t total = 1, rows = 1;
    for (std::size_t a = 0; a < axis_count(); ++a) {
      total *= chain_.axes[a];
      if (static_cast<int>(a) < chain_.row_axes) rows *= chain_.axes[a];
    }
    std::size_t axes = axis_count();
    if (shape.count() != total) {
      if (columns_ == 0 || shape.count() != rows) refuse("a result {} has neither one element an index nor one a row", shape.str());
      axes = static_cast<std::size_t>(chain_.row_axes);
    }
    View flat{0, std::vector<std::int64_t>(axis_count()), false};
    std::int64_t stride = 1;
    for (std::size_t a = axes; a-- > 0; stride *= chain_.axes[a]) flat.strides[a] = stride;
    return split(flat, shape);
  }

  View linear(const Position& position, const Shape& shape) const {
    const auto strides = row_major_strides(shape);
    View view{0, std::vector<std::int64_t>(axis_count()), position.swapped};
    for (std::size_t d = 0; d < strides.size(); ++d) {
      view.offset += position.dimensions[d].offset * strides[d];
      for (std::size_t a = 0; a < axis_count(); ++a) view.strides[a] += position.dimensions[d].strides[a] * strides[d];
    }
    for (std::size_t a = 0; a < axis_count(); ++a)
      if (chain_.axes[a] == 1) view.strides[a] = 0;
    std::size_t last = axis_count();
    while (last > 0 && chain_.axes[last - 1] == 1) --last;
    view.swapped = view.swapped && last > 0 && view.strides[last - 1] != 0;
    return view;
  }

  // The same elements by the dimensions of a shape of equal count.
  Position split(const View& view, const Shape& shape) const {
    Position position;
    position.swapped = view.swapped;
    position.dimensions.assign(static_cast<std::size_t>(shape.rank()), nowhere());
    const auto strides = row_major_strides(shape);
    std::int64_t offset = view.offset;
    std::vector<std::int64_t> reach(strides.size());  // the largest index each dimension meets
    for (std::size_t a = 0; a < axis_count(); ++a) {
      const std::int64_t extent = chain_.axes[a], stride = view.strides[a], step = std::abs(stride);
      if (extent == 1 || stride == 0) continue;
      if (stride < 0) offset += stride * (extent - 1);
      std::size_t d = 0;
      while (d < strides.size() && (shape.dim(static_cast<int>(d)) == 1 || strides[d] > step)) ++d;
      ZOE_INTERNAL_CHECK(d < strides.size());
      if (step % strides[d] != 0) refuse("a reshape to {} cuts across the elements that lie {} apart", shape.str(), step);
      const std::int64_t inside = step / strides[d], room = shape.dim(static_cast<int>(d));
      if (inside * extent > room) {  // the axis runs on into an outer dimension
        if (room % inside != 0 || extent % (room / inside) != 0)
          refuse("a reshape to {} cuts an axis of {} unevenly", shape.str(), extent);
        throw Split{a, room / inside};
      }
      position.dimensions[d].strides[a] = stride < 0 ? -inside : inside;
      if (stride < 0) position.dimensions[d].offset += inside * (extent - 1);
      reach[d] += inside * (extent - 1);
    }
    for (std::size_t d = 0; d < strides.size(); ++d) {
      const std::int64_t own = offset / strides[d] % shape.dim(static_cast<int>(d));
      if (own + reach[d] >= shape.dim(static_cast<int>(d)))
        refuse("a slice begins inside a dimension of {} that a reshape joins", shape.str());
      position.dimensions[d].offset += own;
    }
    return position;
  }

  int add(Instruction instruction) {
    using Place = Instruction::Place;
    for (const int argument : instruction.arguments) {
      const Instruction& a = chain_.instructions[static_cast<std::size_t>(argument)];
      if (is_reduction(instruction.opcode)) continue;
      instruction.place = std::max(instruction.place, a.place);
      instruction.pass = std::max(instruction.pass, a.pass);
    }
    if (is_reduction(instruction.opcode)) {
      instruction.place = Place::row;
      instruction.pass = chain_.instructions[static_cast<std::size_t>(instruction.arguments[0])].pass + 1;
    }
    chain_.instructions.push_back(std::move(instruction));
    return static_cast<int>(chain_.instructions.size()) - 1;
  }

  int load(const Node& node, int operand, const View& view) {
    Instruction instruction{.opcode = Opcode::input, .dtype = node.types[0].dtype};
    instruction.operand = operand;
    instruction.view = view;
    for (std::size_t a = 0; a < axis_count(); ++a) {
      if (view.strides[a] == 0) continue;
      const bool column = static_cast<int>(a) >= chain_.row_axes;
      instruction.place = std::max(instruction.place, column ? Instruction::Place::column : Instruction::Place::row);
    }
    return add(std::move(instruction));
  }

  // The instruction for `wanted` at `position`, made if it is not there yet.
  int value(const Value& wanted, const Position& position) {
    const Node& node = wanted.node();
    const Shape& shape = wanted.shape();
    const auto dimension = [&](int i) -> Dimension& {
      return const_cast<Dimension&>(position.dimensions[static_cast<std::size_t>(i)]);
    };
    // Movement first: it makes no instruction.
    switch (node.opcode) {
      case Opcode::reshape: return value(node.inputs[0], split(linear(position, shape), node.inputs[0].shape()));
      case Opcode::slice: {
        Position moved = position;
        moved.dimensions[static_cast<std::size_t>(node.as<AxisAttributes>().axis)].offset += node.as<AxisAttributes>().begin;
        return value(node.inputs[0], moved);
      }
      case Opcode::flip: {
        const int axis = node.as<AxisAttributes>().axis;
        Position moved = position;
        Dimension& d = moved.dimensions[static_cast<std::size_t>(axis)];
        d.offset = shape.dim(axis) - 1 - d.offset;
        for (std::int64_t& stride : d.strides) stride = -stride;
        return value(node.inputs[0], moved);
      }
      case Opcode::permute: {
        const auto& axes = node.as<PermuteAttributes>().axes;
        Position moved = position;
        for (std::size_t i = 0; i < axes.size(); ++i)
          moved.dimensions[static_cast<std::size_t>(axes[i])] = dimension(static_cast<int>(i));
        return value(node.inputs[0], moved);
      }
      case Opcode::swap_pairs: return value(node.inputs[0], swap(position, shape));
      default: break;
    }
    const View view = linear(position, shape);
    const auto key = std::make_tuple(&node, wanted.output(), view.offset, view.strides, view.swapped);
    if (const auto found = made_.find(key); found != made_.end()) return found->second;
    const int made = make(wanted, position, view);
    made_[key] = made;
    const bool is_work = is_reduction(node.opcode) || is_unary(node.opcode) || is_binary(node.opcode);
    // Without sums every value that varies is one an element.
    const Instruction::Place place = chain_.instructions[static_cast<std::size_t>(made)].place;
    const bool is_an_element = columns_ == 0 ? place != Instruction::Place::chain : place == Instruction::Place::column;
    if (is_work && !once_.insert(&node).second && is_an_element) repeated_work += cost(node.opcode);
    return made;
  }

  int make(const Value& wanted, const Position& position, const View& view) {
    const Node& node = wanted.node();
    if (dtype_row(wanted.dtype()).storage.empty()) refuse("generated code has no {}", name(wanted.dtype()));
    for (std::size_t i = 0; i < body_.inputs.size(); ++i)
      if (body_.inputs[i] == wanted) return load(node, static_cast<int>(i), view);
    Instruction instruction{.opcode = node.opcode, .dtype = node.types[0].dtype};
    instruction.op = node.name;
    if (node.opcode == Opcode::constant) {
      instruction.value = node.as<ConstantAttributes>().value;
      return add(std::move(instruction));
    }
    if (node.opcode == Opcode::cast || is_unary(node.opcode)) {
      instruction.arguments = {value(node.inputs[0], position)};
      return add(std::move(instruction));
    }
    if (is_binary(node.opcode)) {
      for (const Value& operand : node.inputs)
        instruction.arguments.push_back(value(operand, narrowed(position, wanted.shape(), operand.shape())));
      return add(std::move(instruction));
    }
    if (!is_reduction(node.opcode)) refuse("{} is not part of chains", name(node.opcode));
    // A reduction: the operand's last dimension runs over all columns in order, whatever its other dimensions do with rows.
    const Shape& shape = node.inputs[0].shape();
    if (columns_ == 0 || shape.dim(-1) != columns_) refuse("sums run over {} and {} columns", shape.dim(-1), columns_);
    Position row = position;
    row.swapped = false;
    for (std::size_t a = 0; a < axis_count(); ++a) {
      const bool column = static_cast<int>(a) >= chain_.row_axes;
      for (const Dimension& d : row.dimensions)
        if (column && d.strides[a] != 0) refuse("a sum's result varies along the columns");
    }
    Dimension& columns = row.dimensions.back();
    std::int64_t stride = 1;
    columns = nowhere();
    for (std::size_t a = axis_count(); a-- > static_cast<std::size_t>(chain_.row_axes); stride *= chain_.axes[a])
      columns.strides[a] = stride;
    int argument = value(node.inputs[0], row);
    if (chain_.instructions[static_cast<std::size_t>(argument)].place != Instruction::Place::column) {
      if (columns_ > 1) refuse("a sum of a value that does not vary along the columns");
      // One column: its value and the identity.
      const Reduction reduction = reduction_of(node.opcode);
      Instruction identity{.opcode = Opcode::constant};
      identity.value = static_cast<double>(reduction.identity);
      instruction.opcode = reduction.combine;
      instruction.arguments = {argument, add(std::move(identity))};
      return add(std::move(instruction));
    }
    instruction.arguments = {argument};
    return add(std::move(instruction));
  }

  // Where an operand that broadcasts to `shape` lies.
  Position narrowed(const Position& position, const Shape& shape, const Shape& operand) const {
    Position result{{}, position.swapped};
    for (int d = 0; d < operand.rank(); ++d) {
      const int own = d + shape.rank() - operand.rank();
      const bool stretched = operand.dim(d) == 1 && shape.dim(own) != 1;
      result.dimensions.push_back(stretched ? nowhere() : position.dimensions[static_cast<std::size_t>(own)]);
    }
    return result;
  }

  // The partner in each pair of the last dimension: the index of the chain's last axis with its lowest bit turned.
  Position swap(const Position& position, const Shape& shape) const {
    const Dimension& last = position.dimensions.back();
    std::size_t axis = axis_count();
    while (axis > 0 && chain_.axes[axis - 1] == 1) --axis;
    if (axis == 0) refuse("swap_pairs over no axis");
    --axis;
    // Sums of one column: the last axis is one of rows, and a partner is in another row.
    if (columns_ > 0 && static_cast<int>(axis) < chain_.row_axes) refuse("swap_pairs of {} exchanges rows", shape.str());
    bool pairs = last.offset % 2 == 0 && std::abs(last.strides[axis]) == 1 && chain_.axes[axis] % 2 == 0;
    for (std::size_t a = 0; a < axis; ++a) pairs = pairs && (last.strides[a] % 2 == 0 || chain_.axes[a] == 1);
    if (!pairs) refuse("swap_pairs of {}: its pairs are not neighbours of the last axis", shape.str());
    for (std::size_t d = 0; d + 1 < position.dimensions.size(); ++d)
      if (position.dimensions[d].strides[axis] != 0)
        refuse("swap_pairs of {}: the last axis reaches into an outer dimension", shape.str());
    Position swapped = position;
    swapped.swapped = !position.swapped;
    return swapped;
  }

  const Graph& body_;
  const std::int64_t columns_;  // of the sums; 0 without any
  Chain chain_;
  std::map<std::tuple<const Node*, int, std::int64_t, std::vector<std::int64_t>, bool>, int> made_;
  std::set<const Node*> once_;
};

// All views of the chain.
template <class Do>
void each_view(Chain& chain, const Do& act) {
  for (Instruction& instruction : chain.instructions)
    if (instruction.opcode == Opcode::input) act(instruction.view);
  for (Store& store : chain.stores) act(store.view);
}

void remove_axis(Chain& chain, std::size_t axis) {
  each_view(chain, [&](View& view) { view.strides.erase(view.strides.begin() + static_cast<std::ptrdiff_t>(axis)); });
  chain.axes.erase(chain.axes.begin() + static_cast<std::ptrdiff_t>(axis));
  if (static_cast<int>(axis) < chain.row_axes) --chain.row_axes;
}

// Drops axes of extent 1 and joins neighbours that every view walks through alike. Rows and columns stay apart if `keep_rows`.
void merge_axes(Chain& chain, bool keep_rows) {
  for (std::size_t a = chain.axes.size(); a-- > 0;) {
    const bool last_column = static_cast<int>(a) >= chain.row_axes && static_cast<int>(chain.axes.size()) - chain.row_axes == 1;
    if (chain.axes[a] == 1 && chain.axes.size() > 1 && !(keep_rows && last_column)) remove_axis(chain, a);
  }
  for (std::size_t a = chain.axes.size(); a-- > 1;) {
    if (keep_rows && static_cast<int>(a) == chain.row_axes) continue;
    bool alike = true;
    const std::int64_t extent = chain.axes[a];
    each_view(chain, [&](const View& view) { alike = alike && view.strides[a - 1] == view.strides[a] * extent; });
    if (!alike) continue;
    each_view(chain, [&](View& view) { view.strides[a - 1] = view.strides[a]; });
    chain.axes[a - 1] *= extent;
    remove_axis(chain, a);
  }
}

// An axis becomes two, the inner one of extent `inner`.
void split_axis(Chain& chain, std::size_t axis, std::int64_t inner) {
  const auto place = static_cast<std::ptrdiff_t>(axis);
  each_view(chain, [&](View& view) {
    view.strides.insert(view.strides.begin() + place + 1, view.strides[axis]);
    view.strides[axis] *= inner;
  });
  chain.axes.insert(chain.axes.begin() + place + 1, inner);
  chain.axes[axis] /= inner;
}

constexpr std::int64_t kEnoughColumns = 64;  // below that a row costs more than its elements
constexpr std::int64_t kMostColumns = 4096;  // more by joining axes may leave too few rows to share out

// The inner part of an axis of `extent` that makes enough columns with the `columns` behind it, or 0: an even one, as pairs may be
// swapped.
std::int64_t part_to_join(std::int64_t extent, std::int64_t columns) {
  for (std::int64_t part = 2; columns * part <= kMostColumns; part += 2)
    if (columns * part >= kEnoughColumns && extent % part == 0) return part;
  return 0;
}

// Without sums any axes may be the columns: one flat run where all views are dense or constant, else the innermost axes.
void choose_columns(Chain& chain) {
  chain.row_axes = static_cast<int>(chain.axes.size());
  merge_axes(chain, false);
  bool flat = chain.axes.size() == 1;
  each_view(chain, [&](const View& view) { flat = flat && (view.strides[0] == 0 || view.strides[0] == 1); });
  if (flat) {
    chain.row_axes = 0;
  } else {
    std::int64_t columns = 1;
    while (chain.row_axes > 0 && columns < kEnoughColumns) {
      const auto axis = static_cast<std::size_t>(chain.row_axes - 1);
      const std::int64_t extent = chain.axes[axis];
      const bool is_row_of_its_own = columns == 1 && axis > 0;
      if (columns * extent > kMostColumns && !is_row_of_its_own) {
        if (const std::int64_t part = part_to_join(extent, columns)) {
          split_axis(chain, axis, part);
          break;
        }
        if (columns > 1) break;
      }
      columns *= extent;
      --chain.row_axes;
    }
    if (chain.row_axes == 0) {  // rows of one chain: a kernel over rows needs an axis of them
      chain.axes.insert(chain.axes.begin(), 1);
      each_view(chain, [](View& view) { view.strides.insert(view.strides.begin(), 0); });
      chain.row_axes = 1;
    }
  }
  for (Instruction& instruction : chain.instructions) {
    if (instruction.opcode == Opcode::input) {
      instruction.place = Instruction::Place::chain;
      for (std::size_t a = 0; a < chain.axes.size(); ++a)
        if (instruction.view.strides[a] != 0)
          instruction.place = std::max(instruction.place,
                                       static_cast<int>(a) < chain.row_axes ? Instruction::Place::row : Instruction::Place::column);
    } else if (instruction.opcode != Opcode::constant) {
      instruction.place = Instruction::Place::chain;
      for (const int argument : instruction.arguments)
        instruction.place = std::max(instruction.place, chain.instructions[static_cast<std::size_t>(argument)].place);
    }
  }
}

// Decides in which pass column values are made, and which of them later passes read again instead of making them again.
void choose_kept(Chain& chain) {
  const auto at = [&](int i) -> Instruction& { return chain.instructions[static_cast<std::size_t>(i)]; };
  chain.passes = 0;
  for (const Store& store : chain.stores)
    if (at(store.instruction).place == Instruction::Place::column)
      chain.passes = std::max(chain.passes, at(store.instruction).pass + 1);
  for (const Instruction& instruction : chain.instructions)
    if (is_reduction(instruction.opcode)) chain.passes = std::max(chain.passes, instruction.pass);
  // What no pass wants yet waits for the first one that does.
  std::vector<int> first(chain.instructions.size(), -1);
  for (int pass = 0; pass < chain.passes; ++pass)
    for (const int i : chain.evaluated(pass))
      if (int& known = first[static_cast<std::size_t>(i)]; known < 0) known = pass;
  for (std::size_t i = 0; i < first.size(); ++i)
    if (first[i] >= 0) chain.instructions[i].pass = first[i];
  // A value needed in pass p that could be had in an earlier one. Earlier passes first: what they keep makes later ones cheap.
  constexpr int kCheap = 2, kLoads = 2;
  for (int pass = 1; pass < chain.passes; ++pass) {
    for (const int i : chain.evaluated(pass)) {
      Instruction& instruction = at(i);
      if (instruction.pass >= pass || instruction.kept || instruction.opcode == Opcode::input) continue;
      // Only where the value meets the pass's own work: its users are new here or stored here.
      bool meets = false;
      for (const int user : chain.evaluated(pass)) {
        const auto& arguments = at(user).arguments;
        meets = meets || (at(user).pass == pass && std::find(arguments.begin(), arguments.end(), i) != arguments.end());
      }
      for (const Instruction& sum : chain.instructions)
        meets = meets || (is_reduction(sum.opcode) && sum.pass == pass + 1 && sum.arguments[0] == i);
      if (!meets) continue;
      int work = 0, loads = 0;
      std::vector<int> pending{i};
      std::vector<bool> seen(chain.instructions.size());
      while (!pending.empty()) {
        const int next = pending.back();
        pending.pop_back();
        if (seen[static_cast<std::size_t>(next)] || at(next).place != Instruction::Place::column) continue;
        seen[static_cast<std::size_t>(next)] = true;
        if (at(next).opcode == Opcode::input || (at(next).kept && at(next).pass < pass)) {
          ++loads;
          continue;
        }
        work += cost(at(next).opcode);
        for (const int argument : at(next).arguments) pending.push_back(argument);
      }
      instruction.kept = work > kCheap || loads > kLoads;
    }
  }
}

}  // namespace

Lowered lower(const Graph& body) {
  // The index space: as many indices as the largest result or summed value has elements, in the dimensions of that value.
  const Shape* space = nullptr;
  std::int64_t columns = 0;
  const auto widen = [&](const Shape& shape) {
    if (!space || shape.count() > space->count()) space = &shape;
  };
  for (const NodePtr& node : body.nodes) {
    if (!is_reduction(node->opcode)) continue;
    const std::int64_t summed = node->inputs[0].dim(-1);
    if (columns != 0 && columns != summed) return {{}, fmt::format("sums run over {} and {} columns", columns, summed), 0};
    columns = summed;
    widen(node->inputs[0].shape());
  }
  for (const Value& output : body.outputs) widen(output.shape());
  if (!space) return {{}, "no result", 0};
  std::vector<std::int64_t> axes = space->dims();
  if (axes.empty()) axes.push_back(1);
  constexpr int kMostSplits = 32;
  for (int round = 0; round < kMostSplits; ++round) {
    try {
      Lowering lowering(body, axes, columns);
      Chain chain = lowering.lower();
      if (columns > 0) {
        merge_axes(chain, true);
        if (chain.row_axes == 0) {
          chain.axes.insert(chain.axes.begin(), 1);
          each_view(chain, [](View& view) { view.strides.insert(view.strides.begin(), 0); });
          chain.row_axes = 1;
        }
      } else {
        choose_columns(chain);
      }
      choose_kept(chain);
      return {std::move(chain), {}, lowering.repeated_work};
    } catch (const NotAChain& no) {
      return {{}, no.reason, 0};
    } catch (const Split& split) {
      const std::int64_t extent = axes[split.axis];
      if (split.inner <= 1 || split.inner >= extent || extent % split.inner != 0)
        return {{}, fmt::format("an axis of {} does not split by {}", extent, split.inner), 0};
      axes[split.axis] = extent / split.inner;
      axes.insert(axes.begin() + static_cast<std::ptrdiff_t>(split.axis) + 1, split.inner);
    }
  }
  return {{}, "its reshapes split too many axes", 0};
}

Chain chain_of(const Node& node) {
  const auto graph = [&] {
    if (node.opcode == Opcode::fused) return node.as<std::shared_ptr<const CallAttributes>>()->native;
    if (node.opcode != Opcode::reshape) return single_node_graph(node);
    // A copy: what the operand's dimensions are does not matter.
    const Value x = input("a0", node.types[0].dtype, node.types[0].shape);
    return make_graph("reshape", {x}, {with_inputs(node, {x}, node.name)});
  };
  Lowered lowered = lower(graph());
  check(lowered.chain.has_value(), ErrorKind::unsupported, "lower", "no kernel for {} of {}: {}.", name(node.opcode),
        node.types[0].str(), lowered.reason);
  return std::move(*lowered.chain);
}

Graph single_node_graph(const Node& node) {
  std::vector<Value> inputs;
  for (std::size_t i = 0; i < node.inputs.size(); ++i)
    inputs.push_back(input(fmt::format("a{}", i), node.inputs[i].dtype(), node.inputs[i].shape()));
  return make_graph(std::string(name(node.opcode)), inputs, {with_inputs(node, inputs, node.name)});
}

}  // namespace zoe
