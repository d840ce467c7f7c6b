#include "compiler/passes/split_rows.h"

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "compiler/passes/rebuild.h"
#include "ir/trace.h"

namespace zoe {

namespace {

// A part of a value: [begin, end) of some axes, by axis, none of them whole.
struct Range {
  int axis;
  std::int64_t begin, end;
  friend auto operator<=>(const Range&, const Range&) = default;
};
using Box = std::vector<Range>;

Box without_whole(const Box& box, const Shape& shape) {
  Box kept;
  for (const Range& range : box)
    if (range.begin > 0 || range.end < shape.dim(range.axis)) kept.push_back(range);
  return kept;
}

const Range* find(const Box& box, int axis) {
  const auto found = std::find_if(box.begin(), box.end(), [&](const Range& range) { return range.axis == axis; });
  return found == box.end() ? nullptr : &*found;
}

Box with(Box box, Range range) {
  box.insert(std::upper_bound(box.begin(), box.end(), range), range);
  return box;
}

Type type_of(const Type& whole, const Box& box) {
  Type type = whole;
  for (const Range& range : box) type.shape.dim(range.axis) = range.end - range.begin;
  return type;
}

Value sliced(Value value, const Box& box) {
  for (const Range& range : box) value = slice(value, range.axis, range.begin, range.end);
  return value;
}

// Of an operand that broadcasts to what `box` is of.
Box broadcast_box(const Box& box, const Shape& result, const Shape& operand) {
  Box of_operand;
  for (const Range& range : box) {
    const int axis = range.axis - (result.rank() - operand.rank());
    if (axis >= 0 && operand.dim(axis) == result.dim(range.axis)) of_operand.push_back({axis, range.begin, range.end});
  }
  return of_operand;
}

// The same elements in the shape before a reshape, if they are whole runs of one of its axes.
std::optional<Box> reshaped_box(const Box& box, const Shape& result, const Shape& operand) {
  Box of_operand;
  for (const Range& range : box) {
    const std::int64_t inner = result.count(range.axis + 1, result.rank());
    std::optional<Range> same;
    for (int axis = 0; axis < operand.rank() && !same; ++axis) {
      const std::int64_t step = operand.count(axis + 1, operand.rank());
      if (operand.dim(axis) == 1 || operand.count(0, axis) != result.count(0, range.axis) || step == 0) continue;
      if (range.begin * inner % step == 0 && range.end * inner % step == 0)
        same = Range{axis, range.begin * inner / step, range.end * inner / step};
    }
    if (!same || (!of_operand.empty() && of_operand.back().axis >= same->axis)) return std::nullopt;
    of_operand.push_back(*same);
  }
  return of_operand;
}

// Where the rules find the operands of a node that is made in parts.
class Parts {
 public:
  virtual ~Parts() = default;
  virtual Value whole(const Value& value) = 0;
  virtual Value part(const Value& value, const Box& box) = 0;
  // Keys and values of an attention; `batch` is a range of axis 0, or nothing.
  virtual std::pair<Value, Value> seen(const Value& keys, const Value& values, const Box& batch) {
    return {part(keys, batch), part(values, batch)};
  }
};

Value like(const Node& node, Attributes attributes, Type type, std::vector<Value> inputs) {
  const Node part{node.opcode, {}, std::move(attributes), {std::move(type)}, {}, node.block};
  return with_inputs(part, std::move(inputs), node.name);
}

std::vector<Value> part_of_call(const Node& node, const Box& box, Parts& outer);

// Part `box` of a node's results, from parts of its operands; nothing if there is no rule for it.
std::vector<Value> part_of(const Node& node, const Box& box, Parts& from) {
  const Type& whole = node.types[0];
  const Type type = type_of(whole, box);
  const auto made = [&](std::vector<Value> inputs) { return std::vector{like(node, node.attributes, type, std::move(inputs))}; };
  const int last = whole.shape.rank() - 1;
  const bool cuts_rows = find(box, last) != nullptr;
  if (is_unary(node.opcode) || node.opcode == Opcode::cast) return made({from.part(node.inputs[0], box)});
  if (is_binary(node.opcode)) {
    std::vector<Value> inputs;
    for (const Value& operand : node.inputs) inputs.push_back(from.part(operand, broadcast_box(box, whole.shape, operand.shape())));
    return made(std::move(inputs));
  }
  if (is_reduction(node.opcode) || node.opcode == Opcode::swap_pairs)
    return cuts_rows ? std::vector<Value>{} : made({from.part(node.inputs[0], box)});
  switch (node.opcode) {
    case Opcode::flip:
      if (find(box, node.as<AxisAttributes>().axis)) return {};
      return made({from.part(node.inputs[0], box)});
    case Opcode::reshape: {
      const auto before = reshaped_box(box, whole.shape, node.inputs[0].shape());
      if (!before) return {};
      return made({from.part(node.inputs[0], *before)});
    }
    case Opcode::permute: {
      Box before;
      for (const Range& range : box)
        before = with(before, {node.as<PermuteAttributes>().axes[static_cast<std::size_t>(range.axis)], range.begin, range.end});
      return made({from.part(node.inputs[0], before)});
    }
    case Opcode::slice: {
      const auto& cut = node.as<AxisAttributes>();
      Box before = box;
      for (Range& range : before)
        if (range.axis == cut.axis) range.begin += cut.begin, range.end += cut.begin;
      if (find(box, cut.axis)) return {from.part(node.inputs[0], before)};
      return made({from.part(node.inputs[0], before)});
    }
    case Opcode::concat: {
      const int axis = node.as<AxisAttributes>().axis;
      const Range* const along = find(box, axis);
      std::vector<Value> parts;
      std::int64_t begin = 0;
      for (const Value& operand : node.inputs) {
        const std::int64_t end = begin + operand.dim(axis);
        Box of_operand = box;
        for (Range& range : of_operand)
          if (range.axis == axis) range.begin = std::max(range.begin, begin) - begin, range.end = std::min(range.end, end) - begin;
        if (!along || find(of_operand, axis)->begin < find(of_operand, axis)->end) parts.push_back(from.part(operand, of_operand));
        begin = end;
      }
      if (parts.size() == 1) return parts;
      return made(std::move(parts));
    }
    case Opcode::linear: {
      if (cuts_rows) return {};
      const auto& product = node.as<ProductAttributes>();
      const std::size_t residual = product.has_residual ? (product.has_bias ? 3u : 2u) : 0;
      std::vector<Value> inputs{from.part(node.inputs[0], box)};
      for (std::size_t i = 1; i < node.inputs.size(); ++i)
        inputs.push_back(i == residual ? from.part(node.inputs[i], box) : from.whole(node.inputs[i]));
      return made(std::move(inputs));
    }
    case Opcode::attention: {
      Box batch, of_bias;
      for (const Range& range : box) {
        if (range.axis > 1) return {};
        if (range.axis == 0) batch.push_back(range);
        const int axis = range.axis == 0 ? 0 : 2;
        if (node.inputs.size() > 3 && node.inputs[3].dim(axis) > 1) of_bias.push_back({axis, range.begin, range.end});
      }
      const auto [keys, values] = from.seen(node.inputs[1], node.inputs[2], batch);
      std::vector<Value> inputs{from.part(node.inputs[0], box), keys, values};
      if (node.inputs.size() > 3) inputs.push_back(from.part(node.inputs[3], of_bias));
      return made(std::move(inputs));
    }
    case Opcode::gather: {
      const Range* const rows = find(box, 0);
      if (!rows || box.size() != 1) return {};
      return made({from.whole(node.inputs[0]), from.part(node.inputs[1], box)});
    }
    case Opcode::call: return part_of_call(node, box, from);
    default: return {};
  }
}

// The native graph of a call on parts of its arguments.
class CalledParts : public Parts {
 public:
  CalledParts(const Graph& native, const std::vector<Value>& arguments, Parts& outer)
      : native_(native), outer_arguments_(arguments), outer_(outer) {}

  Value whole(const Value& value) override { return part(value, {}); }
  Value part(const Value& value, const Box& asked) override {
    const Box box = without_whole(asked, value.shape());
    const auto key = std::tuple(&value.node(), value.output(), box);
    if (const auto found = made_.find(key); found != made_.end()) return found->second;
    Value made;
    if (value.node().opcode == Opcode::input) made = placeholder(value, box);
    else if (value.node().opcode == Opcode::constant) made = value;
    else if (box.empty()) made = kept(value);
    else if (const auto parts = part_of(value.node(), box, *this); !parts.empty())
      made = parts[static_cast<std::size_t>(value.output())];
    else made = sliced(whole(value), box);
    return made_[key] = made;
  }

  const std::vector<Value>& placeholders() const { return placeholders_; }
  const std::vector<Value>& arguments() const { return arguments_; }

 private:
  Value placeholder(const Value& value, const Box& box) {
    const auto number = std::find(native_.inputs.begin(), native_.inputs.end(), value) - native_.inputs.begin();
    arguments_.push_back(outer_.part(outer_arguments_[static_cast<std::size_t>(number)], box));
    placeholders_.push_back(input("a" + std::to_string(placeholders_.size()), value.dtype(), arguments_.back().shape()));
    return placeholders_.back();
  }
  Value kept(const Value& value) {
    std::vector<Value> inputs;
    for (const Value& operand : value.node().inputs) inputs.push_back(whole(operand));
    return keep(value.node(), std::move(inputs))[static_cast<std::size_t>(value.output())];
  }

  const Graph& native_;
  const std::vector<Value>& outer_arguments_;
  Parts& outer_;
  std::map<std::tuple<const Node*, int, Box>, Value> made_;
  std::vector<Value> placeholders_, arguments_;
};

std::vector<Value> part_of_call(const Node& node, const Box& box, Parts& outer) {
  for (const Type& type : node.types)
    if (type.shape != node.types[0].shape) return {};
  const auto& called = *node.as<std::shared_ptr<const CallAttributes>>();
  CalledParts parts(called.native, node.inputs, outer);
  std::vector<Value> results;
  for (const Value& output : called.native.outputs) results.push_back(parts.part(output, box));
  const std::vector<Value> made =
      make_call(called.op, parts.arguments(), make_graph(called.native.name, parts.placeholders(), std::move(results)));
  std::vector<Value> named;  // in the block that the node was in
  const Value first = with_inputs(Node{Opcode::call, {}, made[0].node().attributes, made[0].node().types, {}, node.block},
                                  parts.arguments(), node.name);
  for (int i = 0; i < static_cast<int>(made.size()); ++i) named.emplace_back(first.node_ptr(), i);
  return named;
}

bool is_leaf(const Node& node) {
  return node.opcode == Opcode::input || node.opcode == Opcode::parameter || node.opcode == Opcode::constant;
}

class Splitter : public Parts {
 public:
  Splitter(const Graph& graph, const RowSplit& split) : graph_(graph), split_(split) {
    const std::int64_t step = (split.rows + split.pieces - 1) / split.pieces;
    step_ = std::min(split.rows, (step + split.multiple - 1) / split.multiple * split.multiple);
    int last = 0;
    for (const NodePtr& node : graph.nodes) last = std::max(last, node->block);
    for (const NodePtr& node : graph.nodes)
      for (const Value& operand : node->inputs) {
        if (!has_rows(operand)) continue;
        const int block = operand.node().block;
        const auto along_texts = [&](Opcode opcode) { return node->opcode == opcode && node->as<AxisAttributes>().axis == 0; };
        // What leaves the last block is taken apart into texts, or rows become something else.
        const bool leaves =
            node->block > block ||
            (block == last && (along_texts(Opcode::slice) || (node->opcode == Opcode::reshape && !has_rows(Value(node)))));
        if (leaves) cut_.insert({&operand.node(), operand.output()});
        else if (split.texts_apart && along_texts(Opcode::concat)) repeated_.insert({&operand.node(), operand.output()});
      }
    for (const NodePtr& node : graph.nodes) {
      const bool reads = std::any_of(node->inputs.begin(), node->inputs.end(),
                                     [&](const Value& operand) { return in_parts_.contains(&operand.node()); });
      bool is_cut = false;
      for (int i = 0; i < static_cast<int>(node->types.size()); ++i)
        is_cut |= cut_.contains({node.get(), i}) || repeated_.contains({node.get(), i});
      if (reads || is_cut) in_parts_.insert(node.get());
    }
  }

  Graph run() {
    std::vector<Value> together;  // repeated values, which have much in common: all of them piece by piece
    for (const NodePtr& node : graph_.nodes) {
      for (int i = 0; i < static_cast<int>(node->types.size()); ++i) {
        const Value value(node, i);
        if (repeated_.contains({node.get(), i})) together.push_back(value);
        if (!cut_.contains({node.get(), i})) continue;
        make_pieces(together);
        together.clear();
        make_pieces({value});
      }
    }
    std::vector<Value> outputs;
    for (const Value& output : graph_.outputs) outputs.push_back(whole(output));
    return make_graph(graph_.name, graph_.inputs, std::move(outputs));
  }

  Value whole(const Value& value) override {
    if (is_leaf(value.node())) return value;
    const auto key = std::pair(&value.node(), value.output());
    if (const auto found = whole_.find(key); found != whole_.end()) return found->second;
    if (kept_.contains({&value.node(), value.output(), boxes(value).front()})) return whole_[key] = joined(value);
    std::vector<Value> inputs;
    for (const Value& operand : value.node().inputs) inputs.push_back(whole(operand));
    const std::vector<Value> results = keep(value.node(), std::move(inputs));
    for (int i = 0; i < static_cast<int>(results.size()); ++i) whole_[{&value.node(), i}] = results[static_cast<std::size_t>(i)];
    return results[static_cast<std::size_t>(value.output())];
  }

  Value part(const Value& value, const Box& asked) override {
    const Box box = without_whole(asked, value.shape());
    if (box.empty()) return whole(value);
    const Key key{&value.node(), value.output(), box};
    if (const auto found = local_.find(key); found != local_.end()) return found->second;
    if (const auto found = kept_.find(key); found != kept_.end()) return local_[key] = behind_border(found->second);
    std::vector<Value> made;
    if (in_parts_.contains(&value.node()) && !kept_.contains({&value.node(), value.output(), boxes(value).front()}))
      made = part_of(value.node(), box, *this);
    if (made.empty()) return local_[key] = sliced(whole(value), box);
    if (made.size() == 1) return local_[key] = made[0];
    for (int i = 0; i < static_cast<int>(made.size()); ++i) local_[{&value.node(), i, box}] = made[static_cast<std::size_t>(i)];
    return made[static_cast<std::size_t>(value.output())];
  }

  std::pair<Value, Value> seen(const Value& keys, const Value& values, const Box& batch) override {
    const auto is_whole = [&](const Value& value) { return !in_parts_.contains(&value.node()) || value.dim(1) != split_.rows; };
    if (is_whole(keys) || is_whole(values) || step_ == split_.rows) return {part(keys, batch), part(values, batch)};
    const Key of_keys{&keys.node(), keys.output(), batch}, of_values{&values.node(), values.output(), batch};
    if (!kept_.contains(of_keys) || !kept_.contains(of_values)) {
      // One behind the other, so that each is a product that writes its rows into the whole; the norm in front of both is made
      // again.
      auto outside = std::exchange(local_, {});
      for (const auto& [value, to] : {std::pair(&keys, &of_keys), {&values, &of_values}}) {
        std::vector<Value> rows_of_all;
        for (const Range& rows : pieces()) {
          rows_of_all.push_back(part(*value, with(batch, rows)));
          local_.clear();
        }
        kept_[*to] = concat(std::move(rows_of_all), 1);
      }
      local_ = std::move(outside);
    }
    return {kept_.at(of_keys), kept_.at(of_values)};
  }

 private:
  using Key = std::tuple<const Node*, int, Box>;

  bool has_rows(const Value& value) const {
    return !is_leaf(value.node()) && value.shape().rank() >= 3 && value.dim(1) == split_.rows;
  }

  std::vector<Range> pieces() const {
    std::vector<Range> all;
    for (std::int64_t begin = 0; begin < split_.rows; begin += step_)
      all.push_back({1, begin, std::min(split_.rows, begin + step_)});
    return all;
  }

  // Of a value that is cut, in the order they are made.
  std::vector<Box> boxes(const Value& value) const {
    if (!has_rows(value)) return {Box{}};
    const std::int64_t texts = split_.texts_apart ? value.dim(0) : 1;
    std::vector<Box> all;
    for (std::int64_t text = 0; text < texts; ++text)
      for (const Range& rows : pieces()) {
        Box box{rows};
        if (texts > 1) box = with(box, {0, text, text + 1});
        all.push_back(without_whole(box, value.shape()));
      }
    return all;
  }

  void make_pieces(const std::vector<Value>& values) {
    if (values.empty()) return;
    block_ = values[0].node().block;
    std::map<Key, Value> made;
    for (const Box& box : boxes(values[0])) {
      for (const Value& value : values) made[{&value.node(), value.output(), box}] = part(value, box);
      local_.clear();
    }
    kept_.merge(made);
  }

  // A piece that was made in an earlier block, for what is made of it now: norms of it, say, which are small beside all of them.
  Value behind_border(const Value& piece) const {
    return piece.node().block >= block_ ? piece : in_block(piece, block_, piece.node().name);
  }

  Value joined(const Value& value) {
    std::vector<Value> texts;
    const std::vector<Box> all = boxes(value);
    const std::size_t count = pieces().size();
    for (std::size_t first = 0; first < all.size(); first += count) {
      std::vector<Value> rows;
      for (std::size_t i = first; i < first + count; ++i) rows.push_back(kept_.at({&value.node(), value.output(), all[i]}));
      texts.push_back(count == 1 ? rows[0] : concat(std::move(rows), 1));
    }
    return texts.size() == 1 ? texts[0] : concat(std::move(texts), 0);
  }

  const Graph& graph_;
  const RowSplit split_;
  std::int64_t step_;
  int block_ = 0;  // of what is being made
  std::set<std::pair<const Node*, int>> cut_, repeated_;
  std::set<const Node*> in_parts_;  // what follows from cut values, and these
  std::map<std::pair<const Node*, int>, Value> whole_;
  std::map<Key, Value> kept_;   // pieces of cut values; keys and values that attention sees
  std::map<Key, Value> local_;  // while one piece is made
};

}  // namespace

Graph split_rows(const Graph& graph, const RowSplit& split) {
  if (split.pieces <= 1 && !split.texts_apart) return graph;
  return Splitter(graph, split).run();
}

}  // namespace zoe
