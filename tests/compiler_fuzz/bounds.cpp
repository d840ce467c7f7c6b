#include "compiler_fuzz/bounds.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <unordered_map>

#include "base/codes.h"
#include "codegen/chain.h"
#include "compiler/passes/inline_calls.h"
#include "ir/trace.h"

namespace zoe::fuzz {
namespace {

using Values = std::vector<double>;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kF32 = 0x1p-24, kLargest = 0x1.fffffep127;

double unit(DType dtype) { return dtype == DType::bf16 ? 0x1p-8 : kF32; }

// By the interpreter, as a graph of its own.
ReferenceTensor run_alone(const Node& node, const std::vector<ReferenceTensor>& inputs) {
  return interpret(single_node_graph(node), inputs, [](const Node&) { return ReferenceTensor{}; }).at(0);
}

ReferenceTensor stretched(const ReferenceTensor& x, const Shape& shape) {
  if (x.shape == shape) return x;
  const Value zeros = input("zeros", DType::f32, shape), value = input("x", DType::f32, x.shape);
  ReferenceTensor all{shape, Values(static_cast<std::size_t>(shape.count()), -0.0)};
  return interpret(make_graph("stretch", {value, zeros}, {value + zeros}), {x, all}, nullptr).at(0);
}

class Bounds {
 public:
  explicit Bounds(const Rounding& rounding) : rounding_(rounding) {}

  Values of(const Node& node, const std::vector<const Bounded*>& in, const ReferenceTensor& result) const {
    const DType dtype = node.types[0].dtype;
    const Shape& shape = node.types[0].shape;
    Values error(result.values.size());
    const auto finish = [&](const auto& each) {
      for (std::size_t i = 0; i < error.size(); ++i) {
        const double e = each(i), v = std::abs(result.values[i]);
        // Stored in the node's dtype; no result is known once it overflows there.
        const double tiny = std::max(rounding_.tiny, dtype == DType::bf16 ? 0x1p-133 : 0);
        const double all = e + unit(dtype) * (v + e) + tiny;
        error[i] = all >= 0 && v + all < kLargest * 0.99 ? all : kInfinity;
      }
      return error;
    };
    if (is_binary(node.opcode)) {
      const ReferenceTensor a = stretched(in[0]->value, shape), b = stretched(in[1]->value, shape);
      const ReferenceTensor ea = stretched({in[0]->value.shape, in[0]->error}, shape);
      const ReferenceTensor eb = stretched({in[1]->value.shape, in[1]->error}, shape);
      return finish([&](std::size_t i) {
        return binary(node.opcode, std::abs(a.values[i]), ea.values[i], std::abs(b.values[i]), eb.values[i]);
      });
    }
    const auto& x = in.empty() ? result.values : in[0]->value.values;
    const auto& e = in.empty() ? result.values : in[0]->error;
    switch (node.opcode) {
      case Opcode::constant: return finish([](std::size_t) { return 0.0; });
      case Opcode::cast:  // the reference is rounded here, too
        if (is_byte(dtype)) return finish([&](std::size_t i) { return to_byte(dtype, x[i], e[i], result.values[i]); });
        return finish([&](std::size_t i) { return e[i] + unit(dtype) * (std::abs(x[i]) + e[i]); });
      case Opcode::sum: {
        const auto width = static_cast<std::size_t>(node.inputs[0].dim(-1));
        return finish([&](std::size_t row) {
          double carried = 0, size = 0;
          for (std::size_t c = row * width; c < (row + 1) * width; ++c) carried += e[c], size += std::abs(x[c]) + e[c];
          // Partial sums may overflow where the whole does not.
          return size < kLargest ? carried + (static_cast<double>(width) / 32 + 6) * kF32 * size : kInfinity;
        });
      }
      case Opcode::row_max: {
        const auto width = static_cast<std::size_t>(node.inputs[0].dim(-1));
        return finish([&](std::size_t row) {
          double most = 0;
          for (std::size_t c = row * width; c < (row + 1) * width; ++c)
            most = std::isfinite(x[c]) && std::isfinite(e[c]) ? std::max(most, e[c]) : kInfinity;
          return most;
        });
      }
      case Opcode::linear: {
        if (node.as<ProductAttributes>().codes != Codes::none) return finish(of_codes(node, *in[0], *in[1], result));
        const auto inner = static_cast<std::size_t>(node.inputs[0].dim(-1)),
                   width = static_cast<std::size_t>(node.types[0].shape.dim(-1));
        const auto &w = in[1]->value.values, &ew = in[1]->error;
        // The processor's products of bf16 take what is subnormal for zero. The reference is rounded, as a cast's.
        const double flushed = dtype == DType::bf16 ? 0x1p-126 : 0;
        return finish([&](std::size_t i) {
          double carried = flushed, size = 0;
          for (std::size_t k = 0; k < inner; ++k) {
            const std::size_t a = i / width * inner + k, b = i % width * inner + k;
            const double xa = std::abs(x[a]), wb = std::abs(w[b]);
            const double ea = e[a] + std::min(xa + e[a], flushed), eb = ew[b] + std::min(wb + ew[b], flushed);
            carried += xa * eb + wb * ea + ea * eb;
            size += (xa + ea) * (wb + eb);
          }
          carried += static_cast<double>(inner + 2) * kF32 * size;
          return size < kLargest ? carried + unit(dtype) * (std::abs(result.values[i]) + carried) : kInfinity;
        });
      }
      default: break;
    }
    if (is_unary(node.opcode)) return finish([&](std::size_t i) { return unary(node.opcode, x[i], e[i], result.values[i]); });
    std::vector<ReferenceTensor> errors;  // movement moves the errors
    for (const Bounded* operand : in) errors.push_back({operand->value.shape, operand->error});
    return run_alone(node, errors).values;
  }

 private:
  // What the codes of a row stand for, and how far another row within its bounds may be from that: a row that is the same bits has
  // the same codes; of another one each code may be the next.
  struct CodedRow {
    Values values;
    double error = 0, scale = 0;
  };
  static std::vector<CodedRow> coded(const Bounded& operand, std::size_t width) {
    std::vector<CodedRow> rows;
    for (std::size_t begin = 0; begin < operand.value.values.size(); begin += width) {
      std::vector<float> row(width);
      double most = 0, largest_error = 0, errors = 0;
      for (std::size_t i = 0; i < width; ++i) {
        const double e = operand.error[begin + i], x = operand.value.values[begin + i];
        row[i] = static_cast<float>(x);
        most += std::abs(x) + e;
        errors += e;
        largest_error = std::max(largest_error, e);
      }
      // The rotation spreads errors over its group, and its f32 sums must not overflow.
      const double moved = errors == 0 ? 0 : 1.01 * (errors + 16 * kF32 * most);
      std::vector<std::int8_t> codes(width);
      const double scale = static_cast<double>(encode_row(row, codes.data()));
      CodedRow& made = rows.emplace_back();
      made.scale = scale;
      for (const std::int8_t code : codes) made.values.push_back(code * scale);
      made.error = !(most < kLargest / 2) || !std::isfinite(scale) ? kInfinity
                   : moved == 0                                    ? 0
                                                                   : moved + 1.02 * (scale + moved / 127);
    }
    return rows;
  }
  static std::function<double(std::size_t)> of_codes(const Node& node, const Bounded& x, const Bounded& w,
                                                     const ReferenceTensor& result) {
    const auto inner = static_cast<std::size_t>(node.inputs[0].dim(-1)),
               width = static_cast<std::size_t>(node.types[0].shape.dim(-1));
    return [rows = coded(x, inner), columns = coded(w, inner), &result, inner, width, dtype = node.types[0].dtype](std::size_t i) {
      const CodedRow &a = rows[i / width], &b = columns[i % width];
      double carried = 0, size = 0;
      for (std::size_t k = 0; k < inner; ++k) {
        carried += std::abs(a.values[k]) * b.error + std::abs(b.values[k]) * a.error + a.error * b.error;
        size += (std::abs(a.values[k]) + a.error) * (std::abs(b.values[k]) + b.error);
      }
      carried += 8 * kF32 * size + 0x1p-126;
      // The integers' sum is multiplied by x's scale first: that may be infinite where the result would not be.
      if (b.scale > 0 && !(size / b.scale < kLargest)) return kInfinity;
      return size < kLargest ? carried + unit(dtype) * (std::abs(result.values[i]) + carried) : kInfinity;
    };
  }

  // It grows with what it rounds: the ends of where that may lie bound it. All is known of what is unknown: the ends of the dtype.
  static double to_byte(DType dtype, double x, double e, double result) {
    const double low = dtype == DType::i8 ? -128.0 : 0.0, high = low + 255.0;
    if (!std::isfinite(x) || !std::isfinite(e)) return e == 0 ? 0 : 255;
    const auto rounded = [&](double value) { return std::clamp(std::nearbyint(value), low, high); };
    return std::max({rounded(x + e) - result, result - rounded(x - e), 0.0});
  }

  // Relative error of a quotient or square root beyond the final rounding, which `finish` adds.
  double division() const { return 2 * rounding_.division_ulps * kF32; }

  // Of f32 arithmetic on operands that may be off; `a` and `b` are absolute values.
  double binary(Opcode opcode, double a, double ea, double b, double eb) const {
    switch (opcode) {
      case Opcode::add:
      case Opcode::sub: return ea + eb + kF32 * (a + b + ea + eb);
      case Opcode::mul: return a * eb + b * ea + ea * eb + kF32 * (a + ea) * (b + eb);
      case Opcode::div: {
        if (!(b > eb)) return kInfinity;
        const double carried = (ea + a / b * eb) / (b - eb);
        return carried + division() * (a / b + carried);
      }
      default: return std::max(ea, eb);  // max, min
    }
  }

  double unary(Opcode opcode, double x, double e, double result) const {
    const double v = std::abs(result);
    if (!std::isfinite(e)) return kInfinity;
    switch (opcode) {
      case Opcode::neg:
      case Opcode::abs: return e;
      case Opcode::square: return (2 * std::abs(x) + e) * e + kF32 * (std::abs(x) + e) * (std::abs(x) + e);
      case Opcode::sqrt: {
        if (!(x - e > 0)) return x == 0 && e <= rounding_.tiny ? std::sqrt(e) : kInfinity;
        return std::sqrt(x) - std::sqrt(x - e) + division() * (v + e);
      }
      case Opcode::rsqrt: {
        if (!(x - e > 0)) return kInfinity;
        const double most = 1 / std::sqrt(x - e);
        return most - v + 2 * division() * most;
      }
      case Opcode::exp: return v * std::expm1(e) + 4 * kF32 * std::exp(x + e);
      case Opcode::tanh: return std::min(e, 2.0) + (6 * kF32 + 2 * division()) * (v + std::min(e, 2.0));
      // Steeper nowhere than 1.1 and 1.13; e^-x overflows where the result is below 1e-36.
      case Opcode::silu: return 1.1 * e + (8 * kF32 + 2 * division()) * (v + 1.1 * e) + 1e-36;
      case Opcode::gelu_tanh: return 1.13 * e + (24 * kF32 + 2 * division()) * (std::abs(x) + e);
      default: return kInfinity;
    }
  }

  const Rounding rounding_;
};

}  // namespace

std::vector<Bounded> bounded_reference(const Graph& traced, const LeafValues& leaves, const Rounding& rounding) {
  const Graph graph = inline_calls(traced);
  const Bounds bounds(rounding);
  std::unordered_map<const Node*, Bounded> made;
  const auto add_leaf = [&](const Node& node) {
    ReferenceTensor value = leaves(node.name, node.types[0]);
    Values error(value.values.size());
    // A platform that drops what is tiny may do so when it reads.
    for (std::size_t i = 0; i < error.size(); ++i) error[i] = std::abs(value.values[i]) < rounding.tiny ? rounding.tiny : 0;
    made[&node] = {std::move(value), std::move(error)};
  };
  for (const Value& each : graph.inputs) add_leaf(each.node());
  for (const NodePtr& node : graph.nodes) {
    if (node->opcode == Opcode::input) continue;
    if (node->opcode == Opcode::parameter) {
      add_leaf(*node);
      continue;
    }
    std::vector<const Bounded*> in;
    std::vector<ReferenceTensor> values;
    for (const Value& operand : node->inputs) {
      in.push_back(&made.at(&operand.node()));
      values.push_back(in.back()->value);
    }
    ReferenceTensor value = node->opcode == Opcode::constant
                                ? ReferenceTensor{node->types[0].shape, {node->as<ConstantAttributes>().value}}
                                : run_alone(*node, values);
    Values error = bounds.of(*node, in, value);
    made[node.get()] = {std::move(value), std::move(error)};
  }
  std::vector<Bounded> results;
  for (const Value& output : graph.outputs) results.push_back(made.at(&output.node()));
  return results;
}

}  // namespace zoe::fuzz
