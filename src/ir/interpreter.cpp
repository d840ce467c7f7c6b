#include "ir/interpreter.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "base/codes.h"
#include "base/error.h"
#include "ir/change.h"

namespace zoe {

namespace {

using Values = std::vector<double>;

double round_to(double value, DType dtype) {
  const auto narrow = static_cast<float>(value);
  std::uint32_t stored = 0;
  float back = 0;
  convert(&narrow, DType::f32, &stored, dtype, 1);
  convert(&stored, dtype, &back, DType::f32, 1);
  return static_cast<double>(back);
}

double combined(Opcode binary, double a, double b) {
  switch (binary) {
// clang-format off
#define ZOE_UNARY(name, value, spelling)
#define ZOE_BINARY(name, value, spelling) \
  case Opcode::name: return static_cast<double>(value);
#include "ir/opcodes.def"
    // clang-format on
    default: fail(ErrorKind::internal, "interpret", "got {}, expected a binary opcode", name(binary));
  }
}

// The flat index into an operand of shape `from` that broadcasts to index `flat` of `to`.
std::int64_t broadcast_index(std::int64_t flat, const Shape& from, const Shape& to) {
  std::int64_t index = 0, stride = 1;
  for (int i = 1; i <= to.rank(); ++i) {
    const std::int64_t position = flat % to.dim(-i);
    flat /= to.dim(-i);
    if (i > from.rank()) continue;
    if (from.dim(-i) != 1) index += position * stride;
    stride *= from.dim(-i);
  }
  return index;
}

double activate(double x, Activation activation) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::gelu_tanh: return 0.5 * x * (1.0 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case Activation::silu: return x / (1.0 + std::exp(-x));
  }
  return x;
}

// Rows of numbers as codes, in f32 as every platform makes them.
struct CodedRows {
  std::vector<std::int8_t> codes;
  std::vector<double> scales;

  // `rotated`: as rows of a linear are.
  CodedRows(const Values& values, std::int64_t width, bool rotated) : codes(values.size()) {
    std::vector<float> row(static_cast<std::size_t>(width));
    for (std::size_t begin = 0; begin < values.size(); begin += row.size()) {
      for (std::size_t i = 0; i < row.size(); ++i) row[i] = static_cast<float>(values[begin + i]);
      std::int8_t* const to = codes.data() + begin;
      scales.push_back(static_cast<double>(rotated ? encode_row(row, to) : encode_as_it_is(row, to)));
    }
  }
};

class Interpreter {
 public:
  Interpreter(const ParameterLookup& parameters, const ReferenceExchange& exchange)
      : parameters_(parameters), exchange_(exchange) {}

  std::vector<ReferenceTensor> run(const Graph& graph, const std::vector<ReferenceTensor>& inputs) {
    check(inputs.size() == graph.inputs.size(), ErrorKind::invalid_argument, graph.name, "got {} inputs, expected {}.",
          inputs.size(), graph.inputs.size());
    std::unordered_map<const Node*, std::vector<ReferenceTensor>> results;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const Node& node = graph.inputs[i].node();
      check(inputs[i].shape == node.types[0].shape, ErrorKind::invalid_argument, graph.name, "input {}: got {}, expected {}.",
            node.name, inputs[i].shape.str(), node.types[0].shape.str());
      results[&node] = {inputs[i]};
    }
    for (const NodePtr& node : graph.nodes) {
      if (node->opcode == Opcode::input) continue;
      std::vector<const ReferenceTensor*> in;
      for (const Value& operand : node->inputs)
        in.push_back(&results.at(&operand.node())[static_cast<std::size_t>(operand.output())]);
      if (node->opcode == Opcode::call || node->opcode == Opcode::fused) {
        std::vector<ReferenceTensor> arguments;
        for (const ReferenceTensor* argument : in) arguments.push_back(*argument);
        results[node.get()] = run(node->as<std::shared_ptr<const CallAttributes>>()->native, arguments);
      } else {
        results[node.get()] = {
            ReferenceTensor{node->types[0].shape, node->opcode == Opcode::parameter ? parameter_values(node) : compute(*node, in)}};
      }
    }
    std::vector<ReferenceTensor> outputs;
    for (const Value& output : graph.outputs)
      outputs.push_back(results.at(&output.node())[static_cast<std::size_t>(output.output())]);
    return outputs;
  }

 private:
  Values parameter_values(const NodePtr& node) const {
    Values values;
    for (const Value& part : parts_of(node)) {
      const Values of_part = parameters_(part.node()).values;
      values.insert(values.end(), of_part.begin(), of_part.end());
    }
    return values;
  }

  static Values reduced(Opcode opcode, const ReferenceTensor& x, std::int64_t rows) {
    const Reduction reduction = reduction_of(opcode);
    Values totals(static_cast<std::size_t>(rows), static_cast<double>(reduction.identity));
    const auto width = static_cast<std::size_t>(x.shape.dim(-1));
    for (std::size_t row = 0; row < totals.size(); ++row)
      for (std::size_t c = 0; c < width; ++c) totals[row] = combined(reduction.combine, x.values[row * width + c], totals[row]);
    return totals;
  }

  Values compute(const Node& node, const std::vector<const ReferenceTensor*>& in) {
    const Shape& shape = node.types[0].shape;
    const std::int64_t count = shape.count();
    Values out(static_cast<std::size_t>(count));
    const auto each = [&](auto&& value) {
      for (std::int64_t i = 0; i < count; ++i) out[static_cast<std::size_t>(i)] = value(i);
      return std::move(out);
    };
    const auto at = [&](std::size_t operand, std::int64_t i) { return in[operand]->values[static_cast<std::size_t>(i)]; };
    const auto wide = [&](std::size_t operand, std::int64_t i) {
      return at(operand, broadcast_index(i, in[operand]->shape, shape));
    };
    switch (node.opcode) {
// clang-format off
#define ZOE_UNARY(name, value, spelling)                   \
  case Opcode::name: return each([&](std::int64_t i) { \
    const double x = at(0, i);                   \
    return static_cast<double>(value);           \
  });
#define ZOE_BINARY(name, value, spelling)                  \
  case Opcode::name: return each([&](std::int64_t i) { \
    const double a = wide(0, i), b = wide(1, i); \
    return static_cast<double>(value);           \
  });
#define ZOE_REDUCTION(name, combine, identity) \
  case Opcode::name:
#include "ir/opcodes.def"
      // clang-format on
      return reduced(node.opcode, *in[0], count);
      case Opcode::constant: return each([&](std::int64_t) { return node.as<ConstantAttributes>().value; });
      case Opcode::cast: return each([&](std::int64_t i) { return round_to(at(0, i), node.types[0].dtype); });
      case Opcode::reshape: return in[0]->values;
      case Opcode::slice: {
        const auto& axis = node.as<AxisAttributes>();
        const std::int64_t inner = shape.count(axis.axis + 1, shape.rank()), from = in[0]->shape.dim(axis.axis),
                           to = shape.dim(axis.axis);
        return each([&](std::int64_t i) {
          const std::int64_t position = i / inner % to, outer = i / inner / to;
          return at(0, (outer * from + position + axis.begin) * inner + i % inner);
        });
      }
      case Opcode::concat: {
        const int axis = node.as<AxisAttributes>().axis;
        const std::int64_t inner = shape.count(axis + 1, shape.rank()), to = shape.dim(axis);
        return each([&](std::int64_t i) {
          std::int64_t position = i / inner % to;
          std::size_t part = 0;
          while (position >= in[part]->shape.dim(axis)) position -= in[part++]->shape.dim(axis);
          return at(part, (i / inner / to * in[part]->shape.dim(axis) + position) * inner + i % inner);
        });
      }
      case Opcode::permute: {
        const auto& axes = node.as<PermuteAttributes>().axes;
        const Shape& from = in[0]->shape;
        return each([&](std::int64_t i) {
          std::int64_t index = 0;
          for (int axis = shape.rank() - 1; axis >= 0; --axis) {
            index += i % shape.dim(axis) * from.count(axes[static_cast<std::size_t>(axis)] + 1, from.rank());
            i /= shape.dim(axis);
          }
          return at(0, index);
        });
      }
      case Opcode::flip: {
        const int axis = node.as<AxisAttributes>().axis;
        const std::int64_t inner = shape.count(axis + 1, shape.rank()), extent = shape.dim(axis);
        return each([&](std::int64_t i) { return at(0, i + (extent - 1 - 2 * (i / inner % extent)) * inner); });
      }
      case Opcode::swap_pairs: return each([&](std::int64_t i) { return at(0, i ^ 1); });
      case Opcode::gather: {
        const std::int64_t width = shape.dim(1), rows = in[0]->shape.dim(0);
        return each([&](std::int64_t i) {
          const auto row = static_cast<std::int64_t>(at(1, i / width));
          check(row >= 0 && row < rows, ErrorKind::invalid_argument, "gather", "bad index: got {}, expected 0 to {}.", row,
                rows - 1);
          return at(0, row * width + i % width);
        });
      }
      case Opcode::all_to_all:
      case Opcode::all_gather:
        check(static_cast<bool>(exchange_), ErrorKind::unsupported, name(node.opcode),
              "an exchange of {} devices: got one, expected a group.", shape.dim(0));
        return exchange_(node, in[0]->values);
      case Opcode::linear: {
        const std::int64_t k_count = in[0]->shape.dim(-1), n_count = shape.dim(-1);
        const bool is_changed = has_change(node);
        if (node.as<ProductAttributes>().codes != Codes::none) {
          const CodedRows x(in[0]->values, k_count, true), w(in[1]->values, k_count, true);
          return each([&](std::int64_t i) {
            const auto row = static_cast<std::size_t>(i / n_count), column = static_cast<std::size_t>(i % n_count);
            return epilogue(node, in, dot(x, row, w, column, k_count) * x.scales[row] * w.scales[column], i);
          });
        }
        const auto weight = [&](std::int64_t i) {
          return is_changed ? round_to(at(1, i) + at(in.size() - 1, i), node.inputs[1].dtype()) : at(1, i);
        };
        return each([&](std::int64_t i) {
          double total = 0;
          for (std::int64_t k = 0; k < k_count; ++k) total += at(0, i / n_count * k_count + k) * weight(i % n_count * k_count + k);
          return epilogue(node, in, total, i);
        });
      }
      case Opcode::conv: return each([&](std::int64_t i) { return epilogue(node, in, convolve(node, in, i), i); });
      case Opcode::attention: return attend(node, in);
      case Opcode::input:
      case Opcode::parameter:
      case Opcode::call:
      case Opcode::fused: break;
    }
    fail(ErrorKind::internal, "interpreter", "no value for {}.", name(node.opcode));
  }

  // Of row a and row b, exact.
  static double dot(const CodedRows& a, std::size_t row_a, const CodedRows& b, std::size_t row_b, std::int64_t width) {
    std::int64_t total = 0;
    for (std::size_t k = 0, n = static_cast<std::size_t>(width); k < n; ++k)
      total += std::int64_t{a.codes[row_a * n + k]} * b.codes[row_b * n + k];
    return static_cast<double>(total);
  }

  static double epilogue(const Node& node, const std::vector<const ReferenceTensor*>& in, double total, std::int64_t i) {
    const auto& attributes = node.as<ProductAttributes>();
    std::size_t next = 2;
    if (attributes.has_bias) total += in[next++]->values[static_cast<std::size_t>(i % node.types[0].shape.dim(-1))];
    total = activate(total, attributes.activation);
    if (attributes.has_residual) total += in[next]->values[static_cast<std::size_t>(i)];
    return node.types[0].dtype == DType::bf16 ? round_to(total, DType::bf16) : total;
  }

  static double convolve(const Node& node, const std::vector<const ReferenceTensor*>& in, std::int64_t i) {
    const auto& attributes = node.as<ProductAttributes>();
    const Shape &to = node.types[0].shape, &from = in[0]->shape, &kernel = in[1]->shape;
    const std::int64_t out_channel = i % to.dim(3), channels = from.dim(3);
    const ReferenceTensor* const history = attributes.has_history ? in.back() : nullptr;
    const std::int64_t earlier = history ? history->shape.dim(0) : 0;  // frames
    const std::int64_t position[3] = {i / to.dim(3) / to.dim(2) / to.dim(1), i / to.dim(3) / to.dim(2) % to.dim(1),
                                      i / to.dim(3) % to.dim(2)};
    double total = 0;
    for (std::int64_t tap = 0; tap < kernel.count(2, 5); ++tap) {
      const std::int64_t offset[3] = {tap / kernel.dim(4) / kernel.dim(3), tap / kernel.dim(4) % kernel.dim(3),
                                      tap % kernel.dim(4)};
      std::int64_t source = 0;
      bool inside = true;
      for (std::size_t axis = 0; axis < 3; ++axis) {
        const std::int64_t repeat = axis > 0 ? attributes.upsample : 1,
                           extent = from.dim(static_cast<int>(axis)) + (axis == 0 ? earlier : 0);
        const std::int64_t p = position[axis] * attributes.stride[axis] + offset[axis] - attributes.pad_begin[axis];
        inside = inside && p >= 0 && p < extent * repeat;
        source = source * extent + p / repeat;
      }
      if (!inside) continue;
      const std::int64_t before = earlier * from.dim(1) * from.dim(2);
      const ReferenceTensor& x = source < before ? *history : *in[0];
      if (source >= before) source -= before;
      for (std::int64_t c = 0; c < channels; ++c)
        total += x.values[static_cast<std::size_t>(source * channels + c)] *
                 in[1]->values[static_cast<std::size_t>((out_channel * channels + c) * kernel.count(2, 5) + tap)];
    }
    return total;
  }

  // One head's positions [L,D] of an operand.
  static Values head_of(const Node& node, const ReferenceTensor& tensor, int operand, std::int64_t batch, std::int64_t head) {
    const HeadsLayout layout = heads_layout(node, operand);
    const std::int64_t width = node.types[0].shape.dim(3), length = tensor.shape.dim(1);
    Values values;
    for (std::int64_t position = 0; position < length; ++position) {
      const auto* const from = tensor.values.data() + (batch * length + position) * layout.step + layout.first + head * width;
      values.insert(values.end(), from, from + width);
    }
    return values;
  }

  static Values transposed(const Values& values, std::int64_t width) {
    const auto columns = static_cast<std::size_t>(width), rows = values.size() / columns;
    Values turned(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) turned[i % columns * rows + i / columns] = values[i];
    return turned;
  }

  static Values attend_in_codes(const Node& node, const std::vector<const ReferenceTensor*>& in) {
    const Shape& shape = node.types[0].shape;  // [B,Lq,N,D]
    const std::int64_t heads = shape.dim(2), width = shape.dim(3), queries = shape.dim(1), keys = in[1]->shape.dim(1);
    const double scale = node.as<AttentionAttributes>().scale;
    Values out(static_cast<std::size_t>(shape.count()));
    for (std::int64_t batch = 0; batch < shape.dim(0); ++batch)
      for (std::int64_t head = 0; head < heads; ++head) {
        Values k = head_of(node, *in[1], 1, batch, head);
        for (std::int64_t d = 0; d < width; ++d) {
          double mean = 0;
          for (std::int64_t key = 0; key < keys; ++key) mean += k[static_cast<std::size_t>(key * width + d)];
          for (std::int64_t key = 0; key < keys; ++key)
            k[static_cast<std::size_t>(key * width + d)] -= mean / static_cast<double>(keys);
        }
        const CodedRows q_codes(head_of(node, *in[0], 0, batch, head), width, false), k_codes(k, width, false),
            v_codes(transposed(head_of(node, *in[2], 2, batch, head), width), keys, false);
        for (std::int64_t query = 0; query < queries; ++query) {
          const auto row = static_cast<std::size_t>(query);
          Values scores(static_cast<std::size_t>(keys));
          for (std::size_t key = 0; key < scores.size(); ++key)
            scores[key] = dot(q_codes, row, k_codes, key, width) * q_codes.scales[row] * k_codes.scales[key] * scale;
          // A score that is not a number makes all of the row so.
          double largest = -HUGE_VAL, total = 0;
          for (const double score : scores) largest = score > largest || std::isnan(score) ? score : largest;
          for (double& score : scores) total += score = std::nearbyint(255 * std::exp(score - largest));
          for (std::int64_t d = 0; d < width; ++d) {
            const auto channel = static_cast<std::size_t>(d);
            double sum = 0;
            for (std::size_t key = 0; key < scores.size(); ++key) sum += scores[key] * v_codes.codes[channel * scores.size() + key];
            const double value = sum * v_codes.scales[channel] / total;
            out[static_cast<std::size_t>(((batch * queries + query) * heads + head) * width + d)] =
                node.types[0].dtype == DType::bf16 ? round_to(value, DType::bf16) : value;
          }
        }
      }
    return out;
  }

  static Values attend(const Node& node, const std::vector<const ReferenceTensor*>& in) {
    if (node.as<AttentionAttributes>().codes != Codes::none) return attend_in_codes(node, in);
    const auto& attributes = node.as<AttentionAttributes>();
    const Shape& shape = node.types[0].shape;  // [B,Lq,N,D]
    const std::int64_t heads = shape.dim(2), width = shape.dim(3), queries = shape.dim(1), keys = in[1]->shape.dim(1);
    const Shape scores_shape{shape.dim(0), heads, queries, keys};
    Values out(static_cast<std::size_t>(shape.count())), scores(static_cast<std::size_t>(keys));
    for (std::int64_t row = 0; row < shape.dim(0) * heads * queries; ++row) {
      const std::int64_t query = row % queries, head = row / queries % heads, batch = row / queries / heads;
      const auto element = [&](int operand, std::int64_t position) {
        const HeadsLayout layout = heads_layout(node, operand);
        const std::int64_t token = batch * node.inputs[static_cast<std::size_t>(operand)].dim(1) + position;
        return in[static_cast<std::size_t>(operand)]->values.data() + token * layout.step + layout.first + head * width;
      };
      double largest = -HUGE_VAL, total = 0;
      for (std::int64_t key = 0; key < keys; ++key) {
        double dot = 0;
        for (std::int64_t d = 0; d < width; ++d) dot += element(0, query)[d] * element(1, key)[d];
        dot *= attributes.scale;
        if (attributes.has_bias)
          dot += in[3]->values[static_cast<std::size_t>(broadcast_index(row * keys + key, in[3]->shape, scores_shape))];
        scores[static_cast<std::size_t>(key)] = dot;
        largest = std::max(largest, dot);
      }
      for (double& score : scores) total += score = std::exp(score - largest);
      for (std::int64_t d = 0; d < width; ++d) {
        double value = 0;
        for (std::int64_t key = 0; key < keys; ++key) value += scores[static_cast<std::size_t>(key)] * element(2, key)[d];
        value /= total;
        out[static_cast<std::size_t>(((batch * queries + query) * heads + head) * width + d)] =
            node.types[0].dtype == DType::bf16 ? round_to(value, DType::bf16) : value;
      }
    }
    return out;
  }

  const ParameterLookup& parameters_;
  const ReferenceExchange& exchange_;
};

}  // namespace

std::vector<ReferenceTensor> interpret(const Graph& graph, const std::vector<ReferenceTensor>& inputs,
                                       const ParameterLookup& parameters, const ReferenceExchange& exchange) {
  return Interpreter(parameters, exchange).run(graph, inputs);
}

}  // namespace zoe
