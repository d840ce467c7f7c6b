#include "compiler/passes/simplify.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "compiler/passes/rebuild.h"
#include "ir/trace.h"

namespace zoe {

namespace {

float rounded(float value, DType dtype) { return dtype == DType::bf16 ? bf16_to_f32(f32_to_bf16(value)) : value; }

// The number a value is, if it is one: a constant, which may have got a rank by a reshape.
std::optional<float> number(const Value& value) {
  const Node& node = value.node();
  if (node.opcode == Opcode::reshape) return number(node.inputs[0]);
  if (node.opcode != Opcode::constant) return {};
  return rounded(static_cast<float>(node.as<ConstantAttributes>().value), value.dtype());
}

// In f32, one rounding, as platforms compute. Nothing where they may differ in the last bit.
std::optional<float> evaluate(Opcode opcode, float a, float b) {
  switch (opcode) {
    case Opcode::cast: return a;
    case Opcode::neg: return -a;
    case Opcode::square: return a * a;
    case Opcode::sqrt: return std::sqrt(a);
    case Opcode::rsqrt: return 1.0f / std::sqrt(a);
    case Opcode::add: return a + b;
    case Opcode::sub: return a - b;
    case Opcode::mul: return a * b;
    case Opcode::div: return a / b;
    case Opcode::max: return a > b ? a : b;
    case Opcode::min: return a < b ? a : b;
    default: return {};
  }
}

// Simplifies the nodes that stand for one node of the graph: they take its name and block.
class Simplifier {
 public:
  explicit Simplifier(const Node& origin) : origin_(origin) {}

  // A node of operands that are simplified already, or the value it comes to.
  Value make(Opcode opcode, Attributes attributes, Type type, std::vector<Value> inputs) const {
    const Node like{opcode, {}, std::move(attributes), {std::move(type)}, {}, origin_.block};
    const Value made = with_inputs(like, std::move(inputs), origin_.name);
    const Value better = simpler(made.node());
    return better ? better : made;
  }

 private:
  Value reshaped(const Value& x, const Shape& shape) const { return make(Opcode::reshape, {}, {x.dtype(), shape}, {x}); }

  Value sliced(const Value& x, int axis, std::int64_t begin, std::int64_t end) const {
    Type type = x.type();
    type.shape.dim(axis) = end - begin;
    return make(Opcode::slice, AxisAttributes{axis, begin, end}, std::move(type), {x});
  }

  // Absent if no rule applies.
  Value simpler(const Node& node) const {
    if (const Value folded = folded_number(node)) return folded;
    switch (node.opcode) {
      case Opcode::neg:
      case Opcode::swap_pairs: return undone(node);
      case Opcode::cast: return simpler_cast(node);
      case Opcode::add:
      case Opcode::sub: return simpler_binary(node, 0.0f);
      case Opcode::mul:
      case Opcode::div: return simpler_binary(node, 1.0f);
      case Opcode::max:
      case Opcode::min: return without_rank(node);
      case Opcode::sum: return node.inputs[0].dim(-1) == 1 ? node.inputs[0] : Value{};
      case Opcode::reshape: return simpler_reshape(node);
      case Opcode::slice: return simpler_slice(node);
      case Opcode::concat: return simpler_concat(node);
      case Opcode::permute: return simpler_permute(node);
      case Opcode::flip: return simpler_flip(node);
      default: return {};
    }
  }

  Value folded_number(const Node& node) const {
    if (!is_unary(node.opcode) && !is_binary(node.opcode) && node.opcode != Opcode::cast) return {};
    const std::optional<float> a = number(node.inputs.front()), b = number(node.inputs.back());
    if (!a || !b) return {};
    const DType dtype = node.types[0].dtype;
    if (is_byte(dtype)) return {};  // there are no such numbers
    const std::optional<float> value = evaluate(node.opcode, *a, *b);
    if (!value || std::isnan(*value)) return {};
    return reshaped(constant(static_cast<double>(rounded(*value, dtype)), dtype), node.types[0].shape);
  }

  static Value undone(const Node& node) {
    const Node& before = node.inputs[0].node();
    return before.opcode == node.opcode ? before.inputs[0] : Value{};
  }

  static Value simpler_cast(const Node& node) {
    const Value& x = node.inputs[0];
    if (x.dtype() == node.types[0].dtype) return x;
    const bool is_pair = x.node().opcode == Opcode::cast && x.node().inputs[0].dtype() == node.types[0].dtype;
    return is_pair && x.dtype() == DType::f32 ? x.node().inputs[0] : Value{};
  }

  Value simpler_binary(const Node& node, float unit) const {
    const Value &a = node.inputs[0], &b = node.inputs[1];
    if (number(b) == unit && a.shape().count() == node.types[0].shape.count()) return reshaped(a, node.types[0].shape);
    const bool commutes = node.opcode == Opcode::add || node.opcode == Opcode::mul;
    if (commutes && number(a) == unit && b.shape().count() == node.types[0].shape.count()) return reshaped(b, node.types[0].shape);
    return without_rank(node);
  }

  // A number that got a rank, taken as it was where the other operand gives the result its shape.
  Value without_rank(const Node& node) const {
    for (std::size_t i = 0; i < 2; ++i) {
      const Value& x = node.inputs[i];
      if (x.node().opcode != Opcode::reshape || !number(x) || node.inputs[1 - i].shape() != node.types[0].shape) continue;
      std::vector<Value> inputs = node.inputs;
      inputs[i] = x.node().inputs[0];
      return make(node.opcode, {}, node.types[0], std::move(inputs));
    }
    return {};
  }

  Value simpler_reshape(const Node& node) const {
    const Value& x = node.inputs[0];
    if (is_border(node)) return {};
    if (x.shape() == node.types[0].shape) return x;
    return x.node().opcode == Opcode::reshape ? reshaped(x.node().inputs[0], node.types[0].shape) : Value{};
  }

  Value simpler_slice(const Node& node) const {
    const auto [axis, begin, end] = node.as<AxisAttributes>();
    const Value& x = node.inputs[0];
    if (end - begin == x.dim(axis)) return x;
    if (x.node().opcode == Opcode::slice && x.node().as<AxisAttributes>().axis == axis) {
      const std::int64_t offset = x.node().as<AxisAttributes>().begin;
      return sliced(x.node().inputs[0], axis, offset + begin, offset + end);
    }
    if (x.node().opcode == Opcode::concat && x.node().as<AxisAttributes>().axis == axis) {
      std::int64_t offset = 0;
      for (const Value& part : x.node().inputs) {
        if (offset <= begin && end <= offset + part.dim(axis)) return sliced(part, axis, begin - offset, end - offset);
        offset += part.dim(axis);
      }
    }
    return {};
  }

  Value simpler_concat(const Node& node) const {
    const int axis = node.as<AxisAttributes>().axis;
    struct Piece {
      Value part;  // absent: to be cut from the source
      Value source;
      std::int64_t begin, end;
    };
    std::vector<Piece> pieces;
    for (const Value& part : node.inputs) {
      Piece piece{part, part, 0, part.dim(axis)};
      if (part.node().opcode == Opcode::slice && part.node().as<AxisAttributes>().axis == axis)
        piece = {part, part.node().inputs[0], part.node().as<AxisAttributes>().begin, part.node().as<AxisAttributes>().end};
      if (!pieces.empty() && pieces.back().source == piece.source && pieces.back().end == piece.begin)
        pieces.back() = {{}, piece.source, pieces.back().begin, piece.end};
      else pieces.push_back(std::move(piece));
    }
    if (pieces.size() == node.inputs.size() && pieces.size() > 1) return {};
    std::vector<Value> parts;
    for (const Piece& piece : pieces) parts.push_back(piece.part ? piece.part : sliced(piece.source, axis, piece.begin, piece.end));
    if (parts.size() == 1) return parts.front();
    return make(Opcode::concat, AxisAttributes{axis}, node.types[0], std::move(parts));
  }

  Value simpler_permute(const Node& node) const {
    const Value& x = node.inputs[0];
    const std::vector<int>& axes = node.as<PermuteAttributes>().axes;
    if (x.node().opcode == Opcode::permute) {
      std::vector<int> composed;
      for (const int axis : axes) composed.push_back(x.node().as<PermuteAttributes>().axes[static_cast<std::size_t>(axis)]);
      return make(Opcode::permute, PermuteAttributes{std::move(composed)}, node.types[0], x.node().inputs);
    }
    std::vector<int> wide;
    std::copy_if(axes.begin(), axes.end(), std::back_inserter(wide), [&](int axis) { return x.dim(axis) != 1; });
    return std::is_sorted(wide.begin(), wide.end()) ? reshaped(x, node.types[0].shape) : Value{};
  }

  static Value simpler_flip(const Node& node) {
    const Value& x = node.inputs[0];
    const int axis = node.as<AxisAttributes>().axis;
    if (x.dim(axis) == 1) return x;
    const bool is_pair = x.node().opcode == Opcode::flip && x.node().as<AxisAttributes>().axis == axis;
    return is_pair ? x.node().inputs[0] : Value{};
  }

  const Node& origin_;
};

}  // namespace

Graph simplify(const Graph& graph) {
  return rebuild(graph, [](const Node& node, std::vector<Value> inputs) {
    if (inputs.empty() || node.types.size() != 1) return keep(node, std::move(inputs));
    return std::vector<Value>{Simplifier(node).make(node.opcode, node.attributes, node.types[0], std::move(inputs))};
  });
}

}  // namespace zoe
