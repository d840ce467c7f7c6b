// Random graphs that passes find something to do in, small enough for the interpreter, and their inputs and weights.
//
// Numbers are chosen so that what passes may change is nothing in the interpreter's f64: see Simplify and the notes below.
#pragma once

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "ir/interpreter.h"
#include "ir/trace.h"

namespace zoe::testing {

class RandomGraph {
 public:
  explicit RandomGraph(std::uint64_t seed) : random_(seed) {
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
    for (int i = 0; i < nodes; ++i) add_node();
    std::vector<Value> outputs;
    for (int i = 1 + below(4); i > 0; --i) outputs.push_back(any().value);  // an input, or one value twice, now and then
    graph_ = make_graph("random", inputs_, std::move(outputs));
  }

  const Graph& graph() const { return graph_; }

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

 private:
  struct Entry {
    Value value;
    bool is_rounded;         // to its dtype in the interpreter, which does not round bf16 arithmetic
    bool is_number = false;  // made of constants only
  };

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
      case 6: return f32 && rank && !entry.is_number ? keep(sum(x), false) : void();
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
        return rank ? add_epilogue(linear(x, weight(x.dtype(), {3, x.dim(-1)}))) : void();
      case 16: {  // the same again
        const Node& node = x.node();
        if (!node.inputs.empty() && node.types.size() == 1)
          keep(with_inputs(node, node.inputs, node.name), entry.is_rounded, entry.is_number);
        return;
      }
      default: return add_call(entry);
    }
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

  std::mt19937_64 random_;
  std::vector<Value> inputs_;
  Value indices_;
  std::vector<Entry> pool_;
  Graph graph_;
};

}  // namespace zoe::testing
