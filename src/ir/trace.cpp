#include "ir/trace.h"

#include <algorithm>
#include <atomic>
#include <numeric>

#include "base/encoding.h"
#include "base/error.h"

namespace zoe {

namespace {

bool is_float(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16; }

template <class... Args>
void require(bool ok, std::string_view where, fmt::format_string<Args...> format, Args&&... args) {
  check(ok, ErrorKind::invalid_argument, where, format, std::forward<Args>(args)...);
}

Value make_node(Opcode opcode, std::vector<Value> inputs, Attributes attributes, std::vector<Type> types,
                std::string node_name = {}, int block = 0) {
  static std::atomic<std::uint64_t> serial{0};
  auto node = std::make_shared<Node>();
  node->opcode = opcode;
  node->block = block;
  for (const Value& operand : inputs) {
    require(static_cast<bool>(operand), name(opcode), "an operand is absent.");
    node->block = std::max(node->block, operand.node().block);
  }
  node->inputs = std::move(inputs);
  node->attributes = std::move(attributes);
  node->types = std::move(types);
  node->name = std::move(node_name);
  node->serial = ++serial;
  return Value(std::move(node));
}

Value unary(Opcode opcode, const Value& x) {
  require(is_float(x.dtype()), name(opcode), "bad dtype of the operand: got {}, expected f32 or bf16.", name(x.dtype()));
  return make_node(opcode, {x}, {}, {x.type()});
}

Value binary(Opcode opcode, const Value& a, const Value& b) {
  require(is_float(a.dtype()) && a.dtype() == b.dtype(), name(opcode),
          "bad dtypes: got {} and {}, expected two f32 or two bf16. Cast one.", name(a.dtype()), name(b.dtype()));
  Shape shape;
  require(broadcast(a.shape(), b.shape(), &shape), name(opcode), "shapes do not broadcast: got {} and {}.", a.shape().str(),
          b.shape().str());
  return make_node(opcode, {a, b}, {}, {Type{a.dtype(), std::move(shape)}});
}

int positive_axis(std::string_view where, int axis, int rank) {
  require(axis >= -rank && axis < rank, where, "bad axis: got {}, expected {} to {}.", axis, -rank, rank - 1);
  return axis < 0 ? axis + rank : axis;
}

// Appends the optional operands of a product and checks their shapes.
ProductAttributes add_epilogue(std::string_view where, std::vector<Value>& inputs, const Type& result,
                               const ProductOptions& options) {
  ProductAttributes attributes;
  attributes.activation = options.activation;
  if (options.bias) {
    const Type expected{result.dtype, {result.shape.dim(-1)}};
    require(options.bias.type() == expected, where, "bad bias: got {}, expected {}.", options.bias.type().str(), expected.str());
    attributes.has_bias = true;
    inputs.push_back(options.bias);
  }
  if (options.residual) {
    require(options.residual.type() == result, where, "bad residual: got {}, expected {}.", options.residual.type().str(),
            result.str());
    attributes.has_residual = true;
    inputs.push_back(options.residual);
  }
  return attributes;
}

Value reduction(Opcode opcode, const Value& x) {
  require(x.dtype() == DType::f32 && x.shape().rank() > 0, name(opcode), "bad operand: got {}, expected f32 of rank 1 or more.",
          x.type().str());
  Shape shape = x.shape();
  shape.dim(-1) = 1;
  return make_node(opcode, {x}, {}, {Type{DType::f32, std::move(shape)}});
}

}  // namespace

Value input(std::string input_name, DType dtype, Shape shape) {
  return make_node(Opcode::input, {}, {}, {Type{dtype, std::move(shape)}}, std::move(input_name));
}

Value parameter(std::string parameter_name, DType dtype, Shape shape, int block, Shape stored) {
  require(!is_byte(dtype), "parameter", "bad dtype of {}: got {}, expected f32 or bf16. Make it an input.", parameter_name,
          name(dtype));
  Attributes attributes;
  if (stored.rank() > 0 && stored != shape) {
    require(stored.count() == shape.count(), "parameter", "bad stored shape of {}: got {}, expected as many elements as {}.",
            parameter_name, stored.str(), shape.str());
    attributes = StoredAttributes{std::move(stored)};
  }
  return make_node(Opcode::parameter, {}, std::move(attributes), {Type{dtype, std::move(shape)}}, std::move(parameter_name), block);
}

Value kept_parameter(const Node& of, Storage storage) {
  require(of.opcode == Opcode::parameter && !std::holds_alternative<PackedAttributes>(of.attributes), "kept_parameter",
          "got {}, expected a parameter of one tensor.", name(of.opcode));
  const Shape& shape = of.types[0].shape;
  require(storage.encoding && storage.encoding->is_weight() && shape.rank() == 2 &&
              shape.dim(1) % storage.encoding->block_elements == 0,
          "kept_parameter", "bad storage of {}: got {} in {}, expected rows of whole blocks of an encoding of weights.", of.name,
          shape.str(), storage.encoding ? storage.encoding->name : "none");
  return make_node(Opcode::parameter, {}, StoredAttributes{stored_shape(of), storage}, of.types, of.name, of.block);
}

Value packed_parameter(std::vector<Value> parts) {
  require(parts.size() > 1, "packed_parameter", "got {} parts, expected two or more.", parts.size());
  Type type = parts.front().type();
  const int block = parts.front().node().block;
  require(type.shape.rank() > 0, "packed_parameter", "got {}, expected rank 1 or more.", type.str());
  std::int64_t rows = 0;
  std::string names;
  for (const Value& part : parts) {
    const Node& node = part.node();
    require(node.opcode == Opcode::parameter && !std::holds_alternative<PackedAttributes>(node.attributes), "packed_parameter",
            "got a part that is {}, expected a parameter of one tensor.", name(node.opcode));
    require(part.dtype() == type.dtype && part.shape().rank() == type.shape.rank() && node.block == block &&
                part.shape().count(1, type.shape.rank()) == type.shape.count(1, type.shape.rank()),
            "packed_parameter", "parts do not fit together: got {} of block {}, expected one like {} of block {}.",
            part.type().str(), node.block, type.str(), block);
    rows += part.dim(0);
    names += (names.empty() ? "" : " + ") + node.name;
  }
  type.shape.dim(0) = rows;
  return make_node(Opcode::parameter, {}, PackedAttributes{std::move(parts)}, {std::move(type)}, std::move(names), block);
}

Value constant(double value, DType dtype) {
  require(!is_byte(dtype), "constant", "bad dtype: got {}, expected f32 or bf16. Cast one.", name(dtype));
  return make_node(Opcode::constant, {}, ConstantAttributes{value}, {Type{dtype, Shape{}}});
}

#define ZOE_UNARY(name, value, spelling) \
  Value name(const Value& x) { return unary(Opcode::name, x); }
#define ZOE_BINARY(name, value, spelling) \
  Value name(const Value& a, const Value& b) { return binary(Opcode::name, a, b); }
#define ZOE_REDUCTION(name, combine, identity) \
  Value name(const Value& x) { return reduction(Opcode::name, x); }
#include "ir/opcodes.def"

Value cast(const Value& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  if (is_byte(x.dtype()) || is_byte(dtype))
    require(x.dtype() == DType::f32 || dtype == DType::f32, "cast", "bad dtypes: got {} to {}, expected f32 to {} or {} to f32.",
            name(x.dtype()), name(dtype), name(is_byte(dtype) ? dtype : x.dtype()), name(is_byte(dtype) ? dtype : x.dtype()));
  else
    require(is_float(x.dtype()) && is_float(dtype), "cast", "bad dtypes: got {} to {}, expected f32 or bf16.", name(x.dtype()),
            name(dtype));
  return make_node(Opcode::cast, {x}, {}, {Type{dtype, x.shape()}});
}

Value row_abs_max(const Value& x) { return row_max(abs(x)); }
Value mean(const Value& x) { return sum(x) / static_cast<double>(x.dim(-1)); }

Value reshape(const Value& x, Shape shape) {
  require(shape.count() == x.shape().count(), "reshape", "sizes differ: got {} to {}.", x.shape().str(), shape.str());
  if (shape == x.shape()) return x;
  return make_node(Opcode::reshape, {x}, {}, {Type{x.dtype(), std::move(shape)}});
}

Value slice(const Value& x, int axis, std::int64_t begin, std::int64_t end) {
  axis = positive_axis("slice", axis, x.shape().rank());
  require(0 <= begin && begin < end && end <= x.dim(axis), "slice", "bad range of axis {} of {}: got [{},{}).", axis,
          x.shape().str(), begin, end);
  if (begin == 0 && end == x.dim(axis)) return x;
  Shape shape = x.shape();
  shape.dim(axis) = end - begin;
  return make_node(Opcode::slice, {x}, AxisAttributes{axis, begin, end}, {Type{x.dtype(), std::move(shape)}});
}

Value concat(std::vector<Value> parts, int axis) {
  require(!parts.empty(), "concat", "no operands.");
  if (parts.size() == 1) return parts.front();
  Type type = parts.front().type();
  axis = positive_axis("concat", axis, type.shape.rank());
  std::int64_t extent = 0;
  for (const Value& part : parts) {
    Type same = part.type();
    require(same.shape.rank() == type.shape.rank(), "concat", "ranks differ: got {} and {}.", same.str(), type.str());
    extent += same.shape.dim(axis);
    same.shape.dim(axis) = type.shape.dim(axis);
    require(same == type, "concat", "types differ off axis {}: got {} and {}.", axis, part.type().str(), type.str());
  }
  type.shape.dim(axis) = extent;
  return make_node(Opcode::concat, std::move(parts), AxisAttributes{axis}, {std::move(type)});
}

Value permute(const Value& x, std::vector<int> axes) {
  const int rank = x.shape().rank();
  std::vector<bool> used(static_cast<std::size_t>(rank));
  require(static_cast<int>(axes.size()) == rank, "permute", "got {} axes for {}.", axes.size(), x.shape().str());
  std::vector<std::int64_t> dims;
  for (int& axis : axes) {
    axis = positive_axis("permute", axis, rank);
    require(!used[static_cast<std::size_t>(axis)], "permute", "axis {} given twice.", axis);
    used[static_cast<std::size_t>(axis)] = true;
    dims.push_back(x.dim(axis));
  }
  if (std::is_sorted(axes.begin(), axes.end())) return x;
  return make_node(Opcode::permute, {x}, PermuteAttributes{std::move(axes)}, {Type{x.dtype(), Shape(std::move(dims))}});
}

Value swap_pairs(const Value& x) {
  require(is_float(x.dtype()) && x.shape().rank() > 0 && x.dim(-1) % 2 == 0, "swap_pairs",
          "bad operand: got {}, expected f32 or bf16 with an even last axis.", x.type().str());
  return make_node(Opcode::swap_pairs, {x}, {}, {x.type()});
}

Value flip(const Value& x, int axis) {
  axis = positive_axis("flip", axis, x.shape().rank());
  if (x.dim(axis) == 1) return x;
  return make_node(Opcode::flip, {x}, AxisAttributes{axis}, {x.type()});
}

Value gather(const Value& table, const Value& indices) {
  require(is_float(table.dtype()) && table.shape().rank() == 2, "gather", "bad table: got {}, expected [V,C].", table.type().str());
  require(indices.dtype() == DType::i32 && indices.shape().rank() == 1, "gather", "bad indices: got {}, expected i32[L].",
          indices.type().str());
  return make_node(Opcode::gather, {table, indices}, {}, {Type{table.dtype(), {indices.dim(0), table.dim(1)}}});
}

Value all_to_all(const Value& x) {
  require(x.shape().rank() >= 1, "all_to_all", "bad operand: got {}, expected [devices,..].", x.type().str());
  if (x.dim(0) == 1) return x;
  return make_node(Opcode::all_to_all, {x}, {}, {x.type()});
}

Value all_gather(const Value& x, std::int64_t devices) {
  require(devices >= 1, "all_gather", "bad number of devices: got {}, expected 1 or more.", devices);
  std::vector<std::int64_t> dims(x.shape().dims().begin(), x.shape().dims().end());
  dims.insert(dims.begin(), devices);
  if (devices == 1) return reshape(x, Shape(dims));
  return make_node(Opcode::all_gather, {x}, {}, {Type{x.dtype(), Shape(dims)}});
}

Value linear(const Value& x, const Value& weight, const ProductOptions& options) {
  require(is_float(x.dtype()) && x.shape().rank() >= 1, "linear", "bad x: got {}, expected [..,K].", x.type().str());
  require(weight.dtype() == x.dtype() && weight.shape().rank() == 2 && weight.dim(1) == x.dim(-1), "linear",
          "bad weight: got {}, expected {}[N,{}] to match x {}.", weight.type().str(), name(x.dtype()), x.dim(-1), x.type().str());
  Type type = x.type();
  type.shape.dim(-1) = weight.dim(0);
  std::vector<Value> inputs{x, weight};
  ProductAttributes attributes = add_epilogue("linear", inputs, type, options);
  attributes.codes = options.codes;
  return make_node(Opcode::linear, std::move(inputs), attributes, {std::move(type)});
}

Value conv(const Value& x, const Value& weight, const ConvWindow& window, const ProductOptions& options) {
  require(is_float(x.dtype()) && x.shape().rank() == 4, "conv", "bad x: got {}, expected [T,H,W,I].", x.type().str());
  require(weight.dtype() == x.dtype() && weight.shape().rank() == 5 && weight.dim(1) == x.dim(3), "conv",
          "bad weight: got {}, expected {}[O,{},kt,kh,kw] to match x {}.", weight.type().str(), name(x.dtype()), x.dim(3),
          x.type().str());
  require(options.codes == Codes::none, "conv", "got codes of {}, expected none: only linear and attention have them.",
          name(options.codes));
  require(window.upsample == 1 || window.upsample == 2, "conv", "bad upsample: got {}, expected 1 or 2.", window.upsample);
  Type type{x.dtype(), {0, 0, 0, weight.dim(0)}};
  Shape frames = x.shape();
  if (options.history) {
    const Type expected{x.dtype(), {options.history.dim(0), x.dim(1), x.dim(2), x.dim(3)}};
    require(options.history.type() == expected, "conv", "bad history: got {}, expected {}.", options.history.type().str(),
            expected.str());
    frames.dim(0) += options.history.dim(0);
  }
  for (int axis = 0; axis < 3; ++axis) {
    const auto a = static_cast<std::size_t>(axis);
    require(window.stride[a] >= 1 && window.pad_begin[a] >= 0 && window.pad_end[a] >= 0, "conv", "bad window on axis {}.", axis);
    const std::int64_t room =
        frames.dim(axis) * (axis > 0 ? window.upsample : 1) + window.pad_begin[a] + window.pad_end[a] - weight.dim(2 + axis);
    require(room >= 0, "conv", "x {} is smaller than the kernel {} on axis {}.", frames.str(), weight.shape().str(), axis);
    type.shape.dim(axis) = room / window.stride[a] + 1;
  }
  std::vector<Value> inputs{x, weight};
  ProductAttributes attributes = add_epilogue("conv", inputs, type, options);
  if (options.history) {
    attributes.has_history = true;
    inputs.push_back(options.history);
  }
  attributes.upsample = window.upsample;
  attributes.stride = window.stride;
  attributes.pad_begin = window.pad_begin;
  attributes.pad_end = window.pad_end;
  return make_node(Opcode::conv, std::move(inputs), attributes, {std::move(type)});
}

Value attention(const Value& q, const Value& k, const Value& v, double scale, const Value& bias, Codes codes) {
  return attention(q, k, v, AttentionAttributes{.scale = scale, .codes = codes}, bias);
}

Value attention(const Value& q, const Value& k, const Value& v, const AttentionAttributes& given, const Value& bias) {
  AttentionAttributes attributes = given;
  attributes.has_bias = static_cast<bool>(bias);
  require(is_float(q.dtype()) && q.shape().rank() == 4, "attention", "bad q: got {}, expected [B,Lq,N,D].", q.type().str());
  // Each operand as it would be without the heads that are not attended with.
  const auto attended = [&](const Value& operand, std::size_t i) {
    Type type = operand.type();
    if (given.heads == 0 || type.shape.rank() != 4) return type;
    require(given.heads > 0 && given.first_head[i] >= 0 && given.first_head[i] + given.heads <= type.shape.dim(2), "attention",
            "bad heads of operand {}: got {} from number {}, it has {}.", i, given.heads, given.first_head[i], type.shape.dim(2));
    type.shape.dim(2) = given.heads;
    return type;
  };
  const Type result = attended(q, 0), keys = attended(k, 1), values = attended(v, 2);
  const Shape& shape = result.shape;
  require(keys.dtype == q.dtype() && keys.shape.rank() == 4 &&
              keys.shape == Shape({shape.dim(0), k.dim(1), shape.dim(2), shape.dim(3)}),
          "attention", "bad k: got {}, expected [B,Lk,N,D] to match q {}.", keys.str(), result.str());
  require(values == keys, "attention", "bad v: got {}, expected {} as k.", values.str(), keys.str());
  std::vector<Value> inputs{q, k, v};
  require(!bias || attributes.codes == Codes::none, "attention", "got a bias and codes of {}, expected one of them.",
          name(attributes.codes));
  if (bias) {
    const Shape full{shape.dim(0), shape.dim(2), shape.dim(1), k.dim(1)};
    bool ok = bias.dtype() == DType::f32 && bias.shape().rank() == 4 && bias.dim(3) == full.dim(3);
    for (int axis = 0; ok && axis < 3; ++axis) ok = bias.dim(axis) == 1 || bias.dim(axis) == full.dim(axis);
    require(ok, "attention", "bad bias: got {}, expected f32{} or 1 on its first three axes.", bias.type().str(), full.str());
    inputs.push_back(bias);
  }
  return make_node(Opcode::attention, std::move(inputs), attributes, {result});
}

namespace {

std::vector<Value> make_graph_node(Opcode opcode, std::string op, const std::vector<Value>& arguments, Graph native) {
  std::vector<Type> types;
  for (const Value& result : native.outputs) types.push_back(result.type());
  const std::size_t count = types.size();
  auto attributes = std::make_shared<const CallAttributes>(CallAttributes{op, std::move(native)});
  const Value node = make_node(opcode, arguments, std::move(attributes), std::move(types), std::move(op));
  std::vector<Value> results;
  for (std::size_t i = 0; i < count; ++i) results.emplace_back(node.node_ptr(), static_cast<int>(i));
  return results;
}

}  // namespace

std::vector<Value> make_call(std::string op, const std::vector<Value>& arguments, Graph native) {
  return make_graph_node(Opcode::call, std::move(op), arguments, std::move(native));
}

std::vector<Value> make_fused(std::string op, const std::vector<Value>& arguments, Graph body) {
  return make_graph_node(Opcode::fused, std::move(op), arguments, std::move(body));
}

Value with_inputs(const Node& node, std::vector<Value> inputs, std::string origin) {
  return make_node(node.opcode, std::move(inputs), node.attributes, node.types, std::move(origin), node.block);
}

Value in_block(const Value& x, int block, std::string origin) {
  return make_node(Opcode::reshape, {x}, {}, {x.type()}, std::move(origin), block);
}

}  // namespace zoe
