// The graph's words: a Node is one immutable operation, a Value is a handle to one of its results.
//
// Values are dense and row-major; only the platform that runs a plan knows where they live. A Node never refers to
// real memory, and no Node changes after it was made, so graphs share nodes freely and passes return new graphs.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/dtype.h"
#include "base/shape.h"
#include "base/weight_reader.h"

namespace zoe {

enum class Opcode : std::uint8_t {
  // Leaves: an argument of the graph, a weight, a number.
  input,
  parameter,
  constant,
// Element-wise, operands broadcast, result in the operands' dtype (rounded once).
#define ZOE_UNARY(name, value, spelling) name,
#define ZOE_BINARY(name, value, spelling) name,
// Over the last axis, which stays with extent 1; f32 only.
#define ZOE_REDUCTION(name, combine, identity) name,
#include "ir/opcodes.def"
  cast,  // to another float dtype, round to nearest even; between f32 and 8 bits, see f32_to_u8
  // Movement: no arithmetic.
  reshape,     // same elements, same order
  slice,       // [begin, end) of one axis
  concat,      // along one axis
  permute,     // axes reordered
  swap_pairs,  // x[..., 2i], x[..., 2i+1] -> x[..., 2i+1], x[..., 2i]: the shuffle of a rotary embedding
  flip,        // one axis in reverse order
  gather,      // rows of a table by i32 index
  // Between the devices of a group, which run equal graphs (platform/group.h): the first axis is one of devices.
  all_to_all,  // piece i goes to device i, and the result's piece i comes from it
  all_gather,  // piece i of the result is device i's operand
  // Products, asked of the platform's library.
  linear,
  conv,
  attention,
  // An op of src/ops with its native graph.
  call,
  // A chain of the opcodes above that runs as one kernel: a call whose native graph the platform generates code for.
  fused,
};

std::string_view name(Opcode opcode);
bool is_unary(Opcode opcode);   // element-wise with one operand, cast excluded
bool is_binary(Opcode opcode);  // element-wise with two operands
bool is_reduction(Opcode opcode);
constexpr bool is_exchange(Opcode opcode) { return opcode == Opcode::all_to_all || opcode == Opcode::all_gather; }
// What a reduction is made of.
struct Reduction {
  Opcode combine;  // of an element and the total so far
  float identity;
};
Reduction reduction_of(Opcode opcode);
// How C spells a unary opcode of x or a binary one of a and b, with the functions of ir/math.inc: "zoe_silu(x)", "a + b".
std::string_view c_spelling(Opcode opcode);

struct Type {
  DType dtype = DType::f32;
  Shape shape;
  std::size_t size_bytes() const { return static_cast<std::size_t>(shape.count()) * size_of(dtype); }
  std::string str() const;  // "bf16[1,32760,5120]"
  friend bool operator==(const Type&, const Type&) = default;
};

struct Node;
using NodePtr = std::shared_ptr<const Node>;

class Value {
 public:
  Value() = default;
  explicit Value(NodePtr node, int output = 0) : node_(std::move(node)), output_(output) {}
  const Node& node() const { return *node_; }
  const NodePtr& node_ptr() const { return node_; }
  int output() const { return output_; }
  const Type& type() const;
  DType dtype() const { return type().dtype; }
  const Shape& shape() const { return type().shape; }
  std::int64_t dim(int axis) const { return shape().dim(axis); }
  explicit operator bool() const { return node_ != nullptr; }  // an absent optional argument is a default Value
  friend bool operator==(const Value&, const Value&) = default;

 private:
  NodePtr node_;
  int output_ = 0;
};

enum class Activation : std::uint8_t { none, gelu_tanh, silu };

// What a product multiplies: its operands as they are, or codes that are made of them (base/codes.h), one scale a row.
enum class Codes : std::uint8_t { none, i8 };
std::string_view name(Codes codes);  // "i8"

struct ConstantAttributes {
  double value;
};
struct PackedAttributes {    // parameter: several tensors of the checkpoint, one behind the other along the first axis
  std::vector<Value> parts;  // parameters, of one tensor each
};
struct StoredAttributes {  // parameter: how its tensor is stored, where that is in another way than it is computed with
  Shape shape;             // in files; of as many elements
  Storage kept = {};       // in memory, too: what reads it widens it. Nothing: it is widened as it is loaded
};
struct AxisAttributes {  // slice (end exclusive), concat and flip (begin and end unused)
  int axis;
  std::int64_t begin = 0, end = 0;
};
struct PermuteAttributes {
  std::vector<int> axes;  // result axis i is operand axis axes[i]
};
struct ProductAttributes {  // linear and conv; operands are x, weight, then bias, residual and history where present
  bool has_bias = false, has_residual = false;
  bool has_history = false;                  // conv: frames that come before x
  Activation activation = Activation::none;  // before the residual is added
  Codes codes = Codes::none;                 // linear
  int upsample = 1;                          // conv: 2 if x is first made twice as high and wide, see ConvWindow
  std::array<int, 3> stride = {1, 1, 1};     // conv, axes T H W
  std::array<int, 3> pad_begin = {0, 0, 0}, pad_end = {0, 0, 0};
};
struct AttentionAttributes {  // operands are q, k, v, then bias where present
  double scale;
  bool has_bias = false;
  Codes codes = Codes::none;  // without a bias
  // Set where q, k or v hold more heads than are attended with (they are parts of one wider product): `heads` of operand i from
  // number first_head[i] on. 0: all there are.
  std::int64_t heads = 0;
  std::array<std::int64_t, 3> first_head = {0, 0, 0};
};
struct CallAttributes;  // call and fused; ir/graph.h: it holds a Graph

using Attributes = std::variant<std::monostate, ConstantAttributes, PackedAttributes, StoredAttributes, AxisAttributes,
                                PermuteAttributes, ProductAttributes, AttentionAttributes, std::shared_ptr<const CallAttributes>>;

struct Node {
  Opcode opcode;
  std::vector<Value> inputs;
  Attributes attributes;
  std::vector<Type> types;  // of the results: one, but for a call and a fused node
  std::string name;         // of an input or a parameter; else the op whose native graph this node comes from, may be empty
  // Blocks are the units in which weights come and go (one a transformer block): the largest block of the inputs.
  int block = 0;
  std::uint64_t serial = 0;  // grows in the order nodes are made: the order a plan runs them in

  template <class T>
  const T& as() const {
    return std::get<T>(attributes);
  }
};

inline const Type& Value::type() const { return node_->types[static_cast<std::size_t>(output_)]; }

}  // namespace zoe
