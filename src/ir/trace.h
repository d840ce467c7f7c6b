// How graphs are written: each function checks its operands, works out the result's type and makes one node.
//
// Shapes: [..] any leading axes. Operands of element-wise functions broadcast as in NumPy and must have the same dtype
// (cast first: precision is written on nodes). u8 and i8 are moved and cast, nothing else. Every mistake is an invalid_argument
// error that names function, got and expected.
#pragma once

#include <array>
#include <span>
#include <string>
#include <vector>

#include "ir/graph.h"

namespace zoe {

Value input(std::string name, DType dtype, Shape shape);
// A weight, in the dtype it is computed with; the checkpoint may store another. `block`: see Node::block. `stored`: the shape
// in files where it is another (a convolution that runs as a product); of as many elements, rank 0 for the same.
Value parameter(std::string name, DType dtype, Shape shape, int block = 0, Shape stored = {});
// For passes: a parameter of one tensor that stays as it is stored, and is widened where it is used.
Value kept_parameter(const Node& parameter, Storage storage);
// For passes: parameters of one dtype and block, which become one, rows [..] of the first before those of the next.
Value packed_parameter(std::vector<Value> parts);
Value constant(double value, DType dtype = DType::f32);  // rank 0

#define ZOE_UNARY(name, value, spelling) Value name(const Value& x);
#define ZOE_BINARY(name, value, spelling) Value name(const Value& a, const Value& b);
#define ZOE_REDUCTION(name, combine, identity) Value name(const Value& x);  // f32 [..,C] -> [..,1]
#include "ir/opcodes.def"

inline Value operator-(const Value& x) { return neg(x); }
inline Value operator+(const Value& a, const Value& b) { return add(a, b); }
inline Value operator-(const Value& a, const Value& b) { return sub(a, b); }
inline Value operator*(const Value& a, const Value& b) { return mul(a, b); }
inline Value operator/(const Value& a, const Value& b) { return div(a, b); }
inline Value operator+(const Value& a, double b) { return add(a, constant(b, a.dtype())); }
inline Value operator-(const Value& a, double b) { return sub(a, constant(b, a.dtype())); }
inline Value operator*(const Value& a, double b) { return mul(a, constant(b, a.dtype())); }
inline Value operator/(const Value& a, double b) { return div(a, constant(b, a.dtype())); }
inline Value operator+(double a, const Value& b) { return add(constant(a, b.dtype()), b); }
inline Value operator*(double a, const Value& b) { return mul(constant(a, b.dtype()), b); }

Value cast(const Value& x, DType dtype);  // between f32 and bf16, f32 and 8 bits; x itself if it already has that dtype
Value mean(const Value& x);               // sum(x) / C
Value row_abs_max(const Value& x);        // row_max(abs(x))

Value reshape(const Value& x, Shape shape);
Value slice(const Value& x, int axis, std::int64_t begin, std::int64_t end);
Value concat(std::vector<Value> parts, int axis);
Value permute(const Value& x, std::vector<int> axes);
Value swap_pairs(const Value& x);  // last axis even
Value flip(const Value& x, int axis);
Value gather(const Value& table, const Value& indices);  // [V,C], i32 [L] -> [L,C]; an index outside [0, V) is the caller's error

// Where the devices of a group hand each other their shares. Of one device nothing is exchanged.
Value all_to_all(const Value& x);                        // [devices,..] -> the same
Value all_gather(const Value& x, std::int64_t devices);  // [..] -> [devices,..]

struct ProductOptions {
  Value bias = {};      // [N]
  Value residual = {};  // of the result's shape
  Activation activation = Activation::none;
  Value history = {};         // conv: frames that come before x, [t,H,W,I], as if concat had put them there
  Codes codes = Codes::none;  // linear
};
// activation(x @ weight^T + bias) + residual, f32 accumulators, one rounding. [..,K], [N,K] -> [..,N]
// With codes rows of x and of weight become codes and scales first, and the sums are integers, exact: (sum * scale of x's row) *
// scale of weight's row, in f32, stands in their place.
Value linear(const Value& x, const Value& weight, const ProductOptions& options = {});

struct ConvWindow {  // axes T, H, W
  std::array<int, 3> stride = {1, 1, 1};
  std::array<int, 3> pad_begin = {0, 0, 0}, pad_end = {0, 0, 0};  // zeros
  // 2: the window slides over x made twice as high and wide by repeating every pixel. Part of the convolution, because no
  // platform need ever make the larger picture: of a 3x3 kernel's nine taps only four fall on different pixels.
  int upsample = 1;
};
// Cross-correlation over channels-last frames, with the same epilogue as linear.
// [T,H,W,I], [O,I,kt,kh,kw] -> [T',H',W',O]
Value conv(const Value& x, const Value& weight, const ConvWindow& window, const ProductOptions& options = {});

// softmax(scale * q k^T + bias) v for each of N heads, softmax in f32; the L x L matrix is never stored.
// q [B,Lq,N,D], k [B,Lk,N,D], v [B,Lk,N,D], bias f32 [1|B,1|N,1|Lq,Lk] or absent -> [B,Lq,N,D]
// With codes, of each batch and head: q and k (which is off by its mean over the keys, a constant that softmax does not see) become
// codes a token, v a channel; weights exp(score - largest of the row) become nearest(255 w), which are also what is summed.
Value attention(const Value& q, const Value& k, const Value& v, double scale, const Value& bias = {}, Codes codes = Codes::none);
// For passes: N is attributes.heads, and q, k and v may have more of them.
Value attention(const Value& q, const Value& k, const Value& v, const AttentionAttributes& attributes, const Value& bias);

// An op of src/ops: `native` traces its definition on placeholders of the arguments' types. Returns its results.
template <class Native>
std::vector<Value> call(std::string op, const std::vector<Value>& arguments, Native&& native);
std::vector<Value> make_call(std::string op, const std::vector<Value>& arguments, Graph native);
// For passes: `body` as one node. `op` says where its nodes come from.
std::vector<Value> make_fused(std::string op, const std::vector<Value>& arguments, Graph body);

// For passes: a new node like `node` with other inputs of the same types; `origin` becomes its name.
Value with_inputs(const Node& node, std::vector<Value> inputs, std::string origin);

// x as a value of a later block, a reshape to its own shape: what is made of it is made there, and not fused with what makes x and
// kept until then (is_border in compiler/passes/rebuild.h). `origin` becomes its name.
Value in_block(const Value& x, int block, std::string origin = {});

template <class Native>
std::vector<Value> call(std::string op, const std::vector<Value>& arguments, Native&& native) {
  std::vector<Value> placeholders;
  for (std::size_t i = 0; i < arguments.size(); ++i)
    placeholders.push_back(input("a" + std::to_string(i), arguments[i].dtype(), arguments[i].shape()));
  Graph graph = make_graph(op, placeholders, native(std::span<const Value>(placeholders)));
  return make_call(std::move(op), arguments, std::move(graph));
}

}  // namespace zoe
