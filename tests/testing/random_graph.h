// Random graphs that the compiler finds something to do in, and their inputs and weights. There are two kinds:
//   small   every opcode on a few elements, for the interpreter: numbers are chosen so that what passes may change is nothing in
//           its f64, see Simplify and the notes below;
//   wide    what ends up in generated kernels, as models have it: rows of 1 to 5,000 columns, modulations, norms, rotations,
//           heads, casts, in random order. Numbers stay where a comparison means something, but for those put in to upset it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "ir/interpreter.h"
#include "ir/trace.h"

namespace zoe::testing {

enum class GraphKind { small, wide };

class RandomGraph {
 public:
  explicit RandomGraph(std::uint64_t seed, GraphKind kind = GraphKind::small) : random_(seed), seed_(seed) {
    kind == GraphKind::small ? make_small() : make_wide();
  }

  const Graph& graph() const { return graph_; }  // a wide one is named after its seed

  // Of a small graph.
  std::vector<ReferenceTensor> inputs() {
    std::vector<ReferenceTensor> tensors;
    for (const Value& each : inputs_) tensors.push_back(each == indices_ ? ReferenceTensor{{3}, {1, 0, 1}} : values(each.type()));
    return tensors;
  }
  // The same for the same name.
  static ReferenceTensor parameter_values(const Node& parameter) {
    std::mt19937_64 random(std::hash<std::string>()(parameter.name));
    return values(parameter.types[0], random);
  }

  // Of a wide graph, whose name says it: the elements of an input or a weight of this name, in its dtype.
  static std::vector<std::byte> wide_values(const std::string& graph, const std::string& name, const Type& type);

 private:
  struct Entry {
    Value value;
    bool is_rounded;         // small: to its dtype in the interpreter, which does not round bf16 arithmetic
    bool is_number = false;  // made of constants only
    double most = 4;         // wide: about the largest absolute value
  };

  void make_small() {
    const int inputs = 2 + below(3);
    for (int i = 0; i < inputs; ++i) {
      const Value made = input("x" + std::to_string(i), below(3) ? DType::f32 : DType::bf16, shape());
      inputs_.push_back(made);
      pool_.push_back({made, true});
    }
    inputs_.push_back(input("frames", DType::f32, {2, 4, 4, 2}));
    pool_.push_back({inputs_.back(), true});
    indices_ = input("indices", DType::i32, {3});
    inputs_.push_back(indices_);
    const int nodes = 4 + below(36);
    for (int i = 0; i < nodes; ++i) {
      add_node();
      if (has_bytes() && below(4) == 0) add_bytes(late());
    }
    std::vector<Value> outputs;
    for (int i = 1 + below(4); i > 0; --i) outputs.push_back(any().value);  // an input, or one value twice, now and then
    outputs.insert(outputs.end(), bytes_.begin(), bytes_.end());
    graph_ = make_graph("random", inputs_, std::move(outputs));
  }

  // Of these graphs bytes are a part, and of these products from codes.
  bool has_bytes() const { return seed_ % 4 == 3; }
  Codes codes() const { return seed_ % 4 == 1 ? Codes::i8 : Codes::none; }

  int below(int count) { return static_cast<int>(random_() % static_cast<std::uint64_t>(count)); }
  const Entry& any() { return pool_[static_cast<std::size_t>(below(static_cast<int>(pool_.size())))]; }
  // A late one more often, so that chains grow.
  Entry late() {
    const int count = static_cast<int>(pool_.size());
    return pool_[static_cast<std::size_t>(count - 1 - std::min(below(count), below(count)))];
  }

  Shape shape() {
    std::vector<std::int64_t> dims;
    for (int rank = below(4); rank > 0; --rank) dims.push_back(1 + below(4));
    return Shape(std::move(dims));
  }

  static ReferenceTensor values(const Type& type, std::mt19937_64& random) {
    ReferenceTensor tensor{type.shape, {}};
    for (std::int64_t i = 0; i < type.shape.count(); ++i) tensor.values.push_back(static_cast<double>(random() % 65) / 16 - 2);
    return tensor;  // few bits: exact in bf16
  }
  ReferenceTensor values(const Type& type) { return values(type, random_); }

  Value number(DType dtype) {
    constexpr double kNumbers[] = {0, -0.0, 1, 1, 0, 2, 0.5, -1};  // so that sums, products and quotients of two are exact in bf16
    const Value made = constant(kNumbers[below(8)], dtype);
    return below(4) ? made : reshape(made, below(2) ? Shape{1} : Shape{1, 1});
  }

  Value weight(DType dtype, Shape dims) {
    std::string label = "w" + std::to_string(below(2)) + dims.str();
    return parameter(std::move(label), dtype, std::move(dims));
  }

  void keep(Value value, bool is_rounded, bool is_number = false) {
    constexpr std::int64_t kMost = 512;
    if (value.shape().count() <= kMost) pool_.push_back({std::move(value), is_rounded, is_number});
  }

  void add_node() {
    const Entry entry = late();
    const Value& x = entry.value;
    const int rank = x.shape().rank(), axis = rank ? below(rank) : 0;
    const bool f32 = x.dtype() == DType::f32;
    switch (below(19)) {
      case 0:
      case 1: return add_unit(entry);
      case 2:
        if (entry.is_number) return;
        return keep(unary(x), false);
      case 3:
      case 4: return add_binary(entry);
      case 5:
        if (f32) return keep(cast(x, DType::bf16), true, entry.is_number);
        return entry.is_rounded ? keep(cast(x, DType::f32), true, entry.is_number) : void();
      case 6:
        if (!f32 || !rank || entry.is_number) return;
        return below(3) ? keep(sum(x), false) : keep(below(2) ? row_max(x) : row_abs_max(x), entry.is_rounded);
      case 7: return keep(reshape(x, reshaped(x.shape())), entry.is_rounded, entry.is_number);
      case 8:
        if (rank && x.dim(axis) > 1) {
          const int begin = below(static_cast<int>(x.dim(axis)));
          const int end = begin + 1 + below(static_cast<int>(x.dim(axis)) - begin);
          keep(slice(x, axis, begin, end), entry.is_rounded, entry.is_number);
        }
        return;
      case 9: {  // cut in two and, mostly, put together again
        if (!rank || x.dim(axis) < 2) return;
        const std::int64_t middle = 1 + below(static_cast<int>(x.dim(axis)) - 1);
        const Value a = slice(x, axis, 0, middle), b = slice(x, axis, middle, x.dim(axis));
        return keep(below(4) ? concat({a, b}, axis) : concat({b, a}, axis), entry.is_rounded, entry.is_number);
      }
      case 10: return rank ? keep(concat({x, below(2) ? x : neg(x)}, axis), entry.is_rounded, entry.is_number) : void();
      case 11: {
        std::vector<int> axes;
        for (int i = 0; i < rank; ++i) axes.push_back(i);
        std::shuffle(axes.begin(), axes.end(), random_);
        return rank ? keep(permute(x, axes), entry.is_rounded, entry.is_number) : void();
      }
      case 12: return rank && x.dim(-1) % 2 == 0 ? keep(swap_pairs(x), entry.is_rounded, entry.is_number) : void();
      case 13: return rank ? keep(flip(x, axis), entry.is_rounded, entry.is_number) : void();
      case 14: return rank == 2 && x.dim(0) > 1 ? keep(gather(x, indices_), entry.is_rounded, entry.is_number) : void();
      case 15:
        if (entry.is_number) return;
        if (rank == 4 && below(2)) return keep(attention(x, x, x, 0.5), true);
        if (rank == 4) return add_epilogue(conv(x, weight(x.dtype(), {2, x.dim(3), 1, 1, 1}), {}));
        return rank ? add_epilogue(linear(x, weight(x.dtype(), {3, x.dim(-1)}), {.codes = codes()})) : void();
      case 16: {  // the same again
        const Node& node = x.node();
        if (!node.inputs.empty() && node.types.size() == 1)
          keep(with_inputs(node, node.inputs, node.name), entry.is_rounded, entry.is_number);
        return;
      }
      default: return add_call(entry);
    }
  }

  // To 8 bits and back, once or twice.
  void add_bytes(const Entry& entry) {
    if (entry.is_number || !(entry.is_rounded || entry.value.dtype() == DType::f32)) return;
    const DType byte = below(2) == 0 ? DType::u8 : DType::i8;
    Value narrow = cast(cast(entry.value, DType::f32), byte);
    if (below(3) == 0) narrow = cast(cast(narrow, DType::f32), byte);
    keep(cast(narrow, DType::f32), true);
    bytes_.push_back(narrow);
  }

  // What simplify may find to be nothing.
  void add_unit(const Entry& entry) {
    if (entry.is_number) return;
    const Value &x = entry.value, unit = number(x.dtype());
    switch (below(5)) {
      case 0: return keep(x * unit, entry.is_rounded);
      case 1: return keep(unit + x, entry.is_rounded);
      case 2: return keep(x - unit, false);
      case 3: return keep(neg(x), entry.is_rounded);
      default: return keep(x / unit, false);
    }
  }

  Value unary(const Value& x) {
    switch (below(6)) {
      case 0: return square(x);
      case 1: return tanh(x);
      case 2: return silu(x);
      case 3: return gelu_tanh(x);
      case 4: return rsqrt(square(x) + 1.0);
      default: return neg(x);
    }
  }

  void add_binary(const Entry& a) {
    const Entry b = below(4) ? late() : Entry{constant(below(2) ? 2 : -1, a.value.dtype()), true, true};
    Shape common;
    if (a.value.dtype() != b.value.dtype() || !broadcast(a.value.shape(), b.value.shape(), &common)) return;
    // Numbers of numbers of numbers would need more bits than bf16 has.
    if (a.is_number && b.is_number) return;
    switch (below(5)) {
      case 0: return keep(a.value + b.value, false);
      case 1: return keep(a.value - b.value, false);
      case 2: return keep(a.value * b.value, false);
      case 3: return keep(max(a.value, b.value), a.is_rounded && b.is_rounded);
      default: return keep(min(a.value, b.value), a.is_rounded && b.is_rounded);
    }
  }

  void add_epilogue(Value product) {
    bool is_rounded = true;
    if (below(2)) product = product + weight(product.dtype(), {product.dim(-1)}), is_rounded = false;
    if (below(3) == 0) product = below(2) ? silu(product) : gelu_tanh(product), is_rounded = false;
    if (below(2)) product = input_like(product) + product, is_rounded = false;
    keep(product, is_rounded);
  }
  Value input_like(const Value& value) {
    for (const Entry& entry : pool_)
      if (entry.value.type() == value.type()) return entry.value;
    return weight(value.dtype(), value.shape());
  }

  void add_call(const Entry& a) {
    const Entry b = late();
    if (a.is_number || b.is_number) return;
    std::vector<Entry> results;
    const auto made = call("op" + std::to_string(below(2)), {a.value, b.value}, [&](std::span<const Value> arguments) {
      std::vector<Entry> outside{{arguments[0], a.is_rounded}, {arguments[1], b.is_rounded}};
      std::swap(outside, pool_);
      for (int i = 0; i < 4; ++i) add_inner(late());
      results = {pool_.back(), any()};
      std::swap(outside, pool_);
      return std::vector<Value>{results[0].value, results[1].value};
    });
    for (std::size_t i = 0; i < made.size(); ++i) keep(made[i], results[i].is_rounded, results[i].is_number);
  }

  // Inside a call.
  void add_inner(const Entry& entry) {
    switch (below(4)) {
      case 0: return add_unit(entry);
      case 1: return add_binary(entry);
      case 2: return keep(unary(entry.value), false);
      default: return keep(reshape(entry.value, reshaped(entry.value.shape())), entry.is_rounded);
    }
  }

  Shape reshaped(const Shape& from) {
    switch (below(3)) {
      case 0: return {from.count()};
      case 1: {
        std::vector<std::int64_t> dims = from.dims();
        dims.insert(dims.begin() + below(from.rank() + 1), 1);
        return Shape(std::move(dims));
      }
      default: return from.count() % 2 ? Shape{1, from.count()} : Shape{2, from.count() / 2};
    }
  }

  // ---- Wide graphs.

  void make_wide() {
    prefix_ = "s" + std::to_string(seed_) + ".";
    const bool is_long = below(16) == 0;  // enough elements for several threads
    most_elements_ = is_long ? 40000 : 6000;
    const Shape space = wide_shape(is_long);
    blocks_ = below(3) ? 1 : 3;
    for (int i = 1 + below(3); i > 0; --i) {
      const Value made = wide_leaf(below(2) ? DType::f32 : DType::bf16, space, true);
      pool_.push_back({made, false});
    }
    const int parts = 3 + below(14);
    for (int i = 0; i < parts; ++i) {
      block_ = blocks_ * i / parts;
      add_part();
      if (has_bytes() && below(2)) add_wide_bytes(late());
    }
    std::vector<Value> outputs{pool_.back().value};
    for (int i = below(4); i > 0; --i) outputs.push_back(below(2) ? late().value : any().value);
    for (const Value& each : bytes_)
      if (below(2)) outputs.push_back(each);
    graph_ = make_graph("fuzz_" + std::to_string(seed_), inputs_, std::move(outputs));
  }

  std::int64_t pick(std::int64_t from, std::int64_t to) {
    return from + static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(to - from + 1));
  }

  Shape wide_shape(bool is_long) {
    std::int64_t width = 1;
    switch (below(8)) {
      case 0: width = pick(1, 8); break;
      case 1: width = pick(9, 31); break;
      case 2: width = pick(32, 70); break;
      case 3: width = 2 * pick(4, 64); break;
      case 4: width = 16 * pick(1, 24); break;
      case 5: width = 12 * pick(1, 40); break;
      case 6: width = pick(71, 700); break;
      default: width = pick(701, 5000);
    }
    std::vector<std::int64_t> dims{width};
    std::int64_t left = most_elements_ / width;
    if (is_long && left > 1) dims.insert(dims.begin(), pick(std::max<std::int64_t>(left / 2, 1), left)), left = 1;
    for (int more = below(4); more > 0; --more) {
      dims.insert(dims.begin(), pick(1, std::clamp<std::int64_t>(left, 1, 9)));
      left /= dims.front();
    }
    return Shape(std::move(dims));
  }

  // A shape that broadcasts to this one.
  Shape narrowed(const Shape& shape) {
    std::vector<std::int64_t> dims = shape.dims();
    switch (below(4)) {
      case 0: break;
      case 1: dims.erase(dims.begin(), dims.begin() + below(shape.rank() + 1)); break;
      default:
        for (std::int64_t& dim : dims)
          if (below(2)) dim = 1;
    }
    return Shape(std::move(dims));
  }

  Value wide_leaf(DType dtype, Shape dims, bool is_input) {
    if (is_inside_call_) return constant(0.7, dtype);
    const std::string label = (is_input ? "x" : prefix_ + "w") + std::to_string(leaves_++);
    if (!is_input) return parameter(label, dtype, std::move(dims), block_);
    inputs_.push_back(input(label, dtype, std::move(dims)));
    return inputs_.back();
  }

  // Something of that dtype that broadcasts with x: another value, an input, a weight or a number.
  Entry partner(const Value& x) {
    for (int i = below(12); i > 0; --i) {
      const Entry found = late();
      Shape common;
      if (found.value.dtype() == x.dtype() && broadcast(found.value.shape(), x.shape(), &common) &&
          common.count() <= most_elements_)
        return found;
    }
    if (below(5) == 0) {
      constexpr double kNumbers[] = {0.1, -1.7, 3, 0, 1, -0.0, 1e-3, 0.5};
      const Value made = constant(kNumbers[below(8)], x.dtype());
      return {below(4) ? made : reshape(made, Shape{1, 1}), false};
    }
    return {wide_leaf(x.dtype(), narrowed(x.shape()), below(3) > 0), false};
  }

  void put(const Value& value, double most) {
    if (value.shape().count() <= most_elements_ && value.shape().rank() <= 6) pool_.push_back({value, false, false, most});
  }

  // x no larger than `most`.
  Value tamed(const Entry& x, double most) {
    if (x.most <= most) return x.value;
    switch (below(3)) {
      case 0: return max(min(x.value, constant(most, x.value.dtype())), constant(-most, x.value.dtype()));
      case 1: return x.value * (most / x.most);
      default: return tanh(x.value);
    }
  }

  void add_part() {
    const Entry x = late();
    if (below(10) == 0) return add_wide_call(x);
    switch (below(11)) {
      case 0:
      case 1: return add_wide_unary(x);
      case 2:
      case 3:
      case 4: return add_wide_binary(x);
      case 5: return put(cast(x.value, x.value.dtype() == DType::f32 ? DType::bf16 : DType::f32), x.most);
      case 6:
      case 7: return add_norm(x);
      case 8: return add_movement(x);
      case 9: return below(2) ? add_rotation(x) : add_product(x);
      default: return add_again(x);
    }
  }

  // An op of a few parts.
  void add_wide_call(const Entry& x) {
    if (is_inside_call_) return;
    const Entry y = partner(x.value);
    std::vector<Entry> results;
    const auto made = call("op" + std::to_string(below(3)), {x.value, y.value}, [&](std::span<const Value> arguments) {
      std::vector<Entry> outside{{arguments[0], false, false, x.most}, {arguments[1], false, false, y.most}};
      std::swap(outside, pool_);
      is_inside_call_ = true;
      for (int i = 1 + below(4); i > 0; --i) add_part();
      is_inside_call_ = false;
      results = {pool_.back(), late()};
      std::swap(outside, pool_);
      return std::vector<Value>{results[0].value, results[1].value};
    });
    for (std::size_t i = 0; i < made.size(); ++i) put(made[i], results[i].most);
  }

  void add_wide_unary(const Entry& x) {
    const DType dtype = x.value.dtype();
    const bool is_wild = below(8) == 0;  // whatever comes of it
    switch (below(8)) {
      case 0: return put(neg(x.value), x.most);
      case 1: return put(square(tamed(x, 100)), std::min(x.most, 100.0) * std::min(x.most, 100.0));
      case 2: return put(is_wild ? sqrt(x.value) : sqrt(max(x.value, constant(0.01, dtype))), std::sqrt(x.most) + 1);
      case 3: return put(is_wild ? rsqrt(x.value) : rsqrt(square(tamed(x, 100)) + 0.01), is_wild ? 1e4 : 10);
      case 4: return put(is_wild ? exp(x.value) : exp(tamed(x, 4)), is_wild ? 1e9 : 55);
      case 5: return put(tanh(x.value), 1);
      case 6: return put(silu(x.value), x.most);
      default: return put(gelu_tanh(x.value), x.most);
    }
  }

  void add_wide_binary(const Entry& x) {
    const Entry y = partner(x.value);
    const bool is_turned = below(2);
    const Entry &a = is_turned ? y : x, &b = is_turned ? x : y;
    const double most = std::max(a.most, b.most);
    switch (below(7)) {
      case 0: return put(a.value + b.value, 2 * most);
      case 1: return put(a.value - b.value, 2 * most);
      case 2:
      case 3: return put(tamed(a, 100) * tamed(b, 100), std::min(a.most, 100.0) * std::min(b.most, 100.0));
      case 4: return put(max(a.value, b.value), most);
      case 5: return put(min(a.value, b.value), most);
      default:
        if (below(6) == 0) return put(a.value / b.value, 1e9);
        return put(a.value / (square(tamed(b, 100)) + 0.3), 4 * a.most);
    }
  }

  // Bytes made or given, moved, and cast back.
  void add_wide_bytes(const Entry& given) {
    if (bytes_.empty() || below(2)) {
      const Value x = cast(given.value, DType::f32);
      const DType byte = below(3) ? DType::u8 : DType::i8;
      const Value made = cast(below(3) ? x * (100 / given.most) + (byte == DType::u8 ? 120.0 : -5.0) : x, byte);
      bytes_.push_back(below(4) ? made : wide_leaf(byte, x.shape(), true));
    }
    Value bytes = bytes_[static_cast<std::size_t>(below(static_cast<int>(bytes_.size())))];
    if (const int rank = bytes.shape().rank(); rank > 0) {
      const int axis = below(rank);
      switch (below(7)) {
        case 0: bytes = permute(bytes, some_axes(rank)); break;
        case 1: bytes = flip(bytes, axis); break;
        case 2: bytes = slice(bytes, axis, pick(0, bytes.dim(axis) - 1), bytes.dim(axis)); break;
        case 3: bytes = reshape(bytes, regrouped(bytes.shape())); break;
        case 4: bytes = concat({bytes, slice(bytes, axis, 0, 1)}, axis); break;
        default: break;
      }
    }
    if (below(2)) bytes_.push_back(bytes);
    put(cast(bytes, DType::f32), 255);
  }

  // Row sums and what is made of them.
  void add_norm(const Entry& given) {
    if (given.value.shape().rank() == 0) return;
    Value from = given.value;
    if (below(6) == 0 && from.shape().rank() > 1 &&
        from.dim(-1) > 1) {  // over other axes: a norm per head, or of channels in front
      std::vector<int> axes = some_axes(from.shape().rank());
      from = permute(from, axes);
    } else if (below(5) == 0) {
      from = reshape(from, regrouped(from.shape()));
    }
    const Value x = cast(tamed({from, false, false, given.most}, 1000), DType::f32);
    const auto width = static_cast<double>(x.dim(-1));
    const auto finish = [&](const Value& y, double most) {
      put(y, most);
      if (below(2)) put(cast(y, given.value.dtype()), most);
      if (below(5) == 0) put(reshape(y, given.value.shape().count() == y.shape().count() ? given.value.shape() : y.shape()), most);
    };
    switch (below(8)) {
      case 0: return put(sum(x), 1000 * width);
      case 7: {  // codes and their scale
        const Value scale = row_abs_max(x) * (1.0 / 127) + 1e-6;
        const Value codes = cast(x / scale, DType::i8);
        put(row_max(x), 1000);
        return finish(cast(codes, DType::f32) * scale, 1001);
      }
      case 1: return finish(x - mean(x), 2000);
      case 2: return finish(x * rsqrt(mean(square(x)) + 1e-6), std::sqrt(width));
      case 3: {
        const Value d = x - mean(x);
        Value y = d * rsqrt(mean(square(d)) + 1e-5);
        if (below(2)) y = y * (1.0 + cast(wide_leaf(DType::bf16, narrowed(y.shape()), below(2)), DType::f32));
        if (below(2)) y = y + wide_leaf(DType::f32, narrowed(y.shape()), below(2));
        return finish(y, 4 * std::sqrt(width) + 4);
      }
      case 4: {
        const Value e = exp(tanh(x) * 3.0);
        return finish(e / sum(e), 1);
      }
      case 5: return finish(sum(square(tanh(x))) + sum(x), 1001 * width);
      default: return finish(max(x, mean(x)) + sqrt(sum(square(tanh(x)))) * tanh(x), 1000 + std::sqrt(width));
    }
  }

  // x met by itself, moved, in its own place or not: what a chain may and may not write over.
  void add_again(const Entry& given) {
    const Value& x = given.value;
    const int rank = x.shape().rank(), axis = rank ? below(rank) : 0;
    if (rank == 0) return;
    Value other = x;
    switch (below(5)) {
      case 0: other = flip(x, axis); break;
      case 1: other = x.dim(-1) % 2 == 0 ? swap_pairs(x) : flip(x, -1); break;
      case 2: other = reshape(permute(x, some_axes(rank)), x.shape()); break;
      case 3:
        other = concat(
            {slice(x, axis, x.dim(axis) / 2, x.dim(axis)), slice(x, axis, 0, std::max<std::int64_t>(x.dim(axis) / 2, 1))}, axis);
        break;
      default: other = slice(x, axis, x.dim(axis) - 1, x.dim(axis));
    }
    if (Shape common; !broadcast(x.shape(), other.shape(), &common)) return;
    put(below(2) ? x - other * constant(0.5, x.dtype()) : min(tanh(x), other), 2 * given.most);
  }

  // x cos + (its pairs or halves exchanged) sin.
  void add_rotation(const Entry& given) {
    const Value x = cast(given.value, DType::f32);
    if (x.shape().rank() == 0 || x.dim(-1) % 2 != 0) return add_movement(given);
    const Value cos = wide_leaf(DType::f32, narrowed(x.shape()), true), sin = wide_leaf(DType::f32, narrowed(x.shape()), true);
    const std::int64_t half = x.dim(-1) / 2;
    const Value other = below(3) ? swap_pairs(x) : concat({neg(slice(x, -1, half, 2 * half)), slice(x, -1, 0, half)}, -1);
    const Value y = x * cos + other * sin;
    put(below(2) ? cast(y, DType::bf16) : y, 8 * given.most);
  }

  void add_product(const Entry& given) {
    if (given.value.shape().rank() == 0 || given.value.dim(-1) > 300 || is_inside_call_) return add_movement(given);
    const Value x = tamed(given, 10);
    const std::int64_t inner = x.dim(-1), width = pick(1, 40);
    Value y = linear(x, wide_leaf(x.dtype(), {width, inner}, false), {.codes = codes()});
    double most = 40 * static_cast<double>(inner);
    if (below(2)) y = y + wide_leaf(y.dtype(), {width}, false);
    if (below(3) == 0) y = below(2) ? silu(y) : gelu_tanh(y);
    put(y, most);
  }

  void add_movement(const Entry& given) {
    const Value& x = given.value;
    const int rank = x.shape().rank(), axis = rank ? below(rank) : 0;
    if (rank == 0) return put(reshape(x, {1, 1}), given.most);
    switch (below(8)) {
      case 0: return put(reshape(x, regrouped(x.shape())), given.most);
      case 1: {
        const std::int64_t begin = pick(0, x.dim(axis) - 1), end = pick(begin + 1, x.dim(axis));
        return put(slice(x, axis, begin, end), given.most);
      }
      case 2:
      case 3: return put(permute(x, some_axes(rank)), given.most);
      case 4: return x.dim(-1) % 2 == 0 ? put(swap_pairs(x), given.most) : put(flip(x, -1), given.most);
      case 5: return put(flip(x, axis), given.most);
      case 6: {
        const Entry other = late();
        Shape dims = other.value.shape();
        const bool fits =
            other.value.dtype() == x.dtype() && dims.rank() == rank && (dims.dim(axis) = x.dim(axis), dims == x.shape());
        return put(concat({x, fits ? other.value : neg(x)}, axis), std::max(given.most, fits ? other.most : 0));
      }
      default: {  // cut in two and put together again, mostly the other way round
        if (x.dim(axis) < 2) return;
        const std::int64_t middle = pick(1, x.dim(axis) - 1);
        const Value a = slice(x, axis, 0, middle), b = slice(x, axis, middle, x.dim(axis));
        return put(below(4) ? concat({b, a}, axis) : concat({a, b}, axis), given.most);
      }
    }
  }

  std::vector<int> some_axes(int rank) {
    std::vector<int> axes;
    for (int i = 0; i < rank; ++i) axes.push_back(i);
    if (below(2)) std::swap(axes[static_cast<std::size_t>(below(rank))], axes[static_cast<std::size_t>(below(rank))]);
    else std::shuffle(axes.begin(), axes.end(), random_);
    return axes;
  }

  // The same elements: an axis split in two, two neighbours made one, or all of them.
  Shape regrouped(const Shape& from) {
    std::vector<std::int64_t> dims = from.dims();
    const auto axis = static_cast<std::size_t>(below(from.rank()));
    if (const int how = below(6); how == 0) {
      return {from.count()};
    } else if (how == 1) {
      dims.insert(dims.begin() + static_cast<std::ptrdiff_t>(axis), 1);
    } else if (how <= 3 && axis + 1 < dims.size()) {
      dims[axis] *= dims[axis + 1];
      dims.erase(dims.begin() + static_cast<std::ptrdiff_t>(axis) + 1);
    } else {
      std::vector<std::int64_t> divisors;
      for (std::int64_t d = 2; d < dims[axis]; ++d)
        if (dims[axis] % d == 0) divisors.push_back(d);
      if (divisors.empty()) return {from.count()};
      const std::int64_t inner = divisors[static_cast<std::size_t>(below(static_cast<int>(divisors.size())))];
      dims[axis] /= inner;
      dims.insert(dims.begin() + static_cast<std::ptrdiff_t>(axis) + 1, inner);
    }
    return Shape(std::move(dims));
  }

  std::mt19937_64 random_;
  std::vector<Value> inputs_;
  Value indices_;
  std::vector<Entry> pool_;
  std::vector<Value> bytes_;  // of u8
  Graph graph_;
  // Of wide graphs.
  const std::uint64_t seed_;
  std::string prefix_;  // of weights: no two graphs share any
  std::int64_t most_elements_ = 0;
  int leaves_ = 0, block_ = 0, blocks_ = 1;
  bool is_inside_call_ = false;
};

inline std::vector<std::byte> RandomGraph::wide_values(const std::string& graph, const std::string& name, const Type& type) {
  const auto hash = [](const std::string& text) {
    std::uint64_t h = 14695981039346656037u;  // FNV-1a
    for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 1099511628211u;
    return h;
  };
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kCalm[] = {0.0f, -0.0f, 1.0f, -1.0f, 1e-40f, -3e-39f, 0.5f, 2.0f};
  constexpr float kWild[] = {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN(), 3e38f, -3e38f, 90.0f, -90.0f, 1e-45f};
  const bool is_wild = hash(graph) % 4 == 0;
  std::mt19937_64 random(hash(graph + " " + name));
  std::vector<std::byte> bytes(type.size_bytes());
  for (std::size_t i = 0; i < bytes.size(); i += size_of(type.dtype)) {
    const std::uint64_t bits = random();
    float value = static_cast<float>(static_cast<double>(bits >> 11) * 0x1p-51 - 2);  // [-2, 2)
    if (bits % 64 == 0) value = kCalm[(bits >> 6) % 8];
    if (is_wild && bits % 64 == 1) value = kWild[(bits >> 6) % 8];
    if (is_byte(type.dtype)) value = static_cast<float>((bits >> 11) % 256) - (type.dtype == DType::i8 ? 128.0f : 0.0f);
    convert(&value, DType::f32, bytes.data() + i, type.dtype, 1);
  }
  return bytes;
}

}  // namespace zoe::testing
