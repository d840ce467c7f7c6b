// Values and graphs: the functions of ir/trace.h by name.
#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <set>
#include <vector>

#include "apps/capi/handles.h"
#include "base/nearest.h"
#include "codegen/c_printer.h"
#include "codegen/chain.h"
#include "ir/interpreter.h"
#include "ir/trace.h"

namespace zoe::capi {

namespace {

using Operands = std::vector<Value>;

// What a function is given: its operands (absent ones are empty values) and its attributes, each of which must be known and read.
class Arguments {
 public:
  Arguments(std::string_view what, Operands operands, Json attributes)
      : what_(what), operands_(std::move(operands)), attributes_(std::move(attributes)) {}

  const Operands& operands() const { return operands_; }
  const Value& operand(std::size_t i) const {
    check(i < operands_.size() && operands_[i], ErrorKind::invalid_argument, what_, "operand {} is absent. Give it.", i);
    return operands_[i];
  }
  Value optional(std::size_t i) const { return i < operands_.size() ? operands_[i] : Value(); }
  void check_count(std::size_t least, std::size_t most) const {
    check(operands_.size() >= least && operands_.size() <= most, ErrorKind::invalid_argument, what_,
          "got {} operands, expected {}.", operands_.size(),
          least == most ? fmt::format("{}", least) : fmt::format("{} to {}", least, most));
  }
  void check_names(const std::vector<std::string_view>& known) const {
    for (const auto& [key, value] : attributes_.items())
      check(std::find(known.begin(), known.end(), key) != known.end(), ErrorKind::invalid_argument, what_,
            "unknown attribute: got {}, expected {}.", in_quotes(key),
            known.empty() ? "none" : fmt::format("{}", fmt::join(known, ", ")));
  }

  bool has(const char* key) const { return attributes_.contains(key); }
  std::int64_t integer(const char* key) const {
    const Json& value = at(key);
    check(value.is_number_integer(), ErrorKind::invalid_argument, what_, "bad {}: got {}, expected a whole number.", key,
          dump(value));
    return value;
  }
  int axis(const char* key, int rank) const {
    const std::int64_t value = integer(key);
    check(value >= -rank && value < rank, ErrorKind::invalid_argument, what_, "bad {}: got {}, expected {} to {}.", key, value,
          -rank, rank - 1);
    return static_cast<int>(value < 0 ? value + rank : value);
  }
  double number(const char* key) const {
    const Json& value = at(key);
    check(value.is_number(), ErrorKind::invalid_argument, what_, "bad {}: got {}, expected a number.", key, dump(value));
    return value;
  }
  std::string text(const char* key, std::string fallback) const {
    const auto found = attributes_.find(key);
    if (found == attributes_.end()) return fallback;
    check(found->is_string(), ErrorKind::invalid_argument, what_, "bad {}: got {}, expected a text.", key, dump(*found));
    return *found;
  }
  std::vector<int> integers(const char* key) const {
    const Json& list = at(key);
    check(list.is_array() && std::all_of(list.begin(), list.end(), [](const Json& each) { return each.is_number_integer(); }),
          ErrorKind::invalid_argument, what_, "bad {}: got {}, expected a list of whole numbers.", key, dump(list));
    return list;
  }
  std::array<int, 3> three(const char* key, std::array<int, 3> fallback) const {
    if (!attributes_.contains(key)) return fallback;
    const std::vector<int> list = integers(key);
    check(list.size() == 3, ErrorKind::invalid_argument, what_, "bad {}: got {}, expected three whole numbers.", key,
          dump(at(key)));
    return {list[0], list[1], list[2]};
  }
  DType dtype(const char* key) const { return parse_dtype(text(key, "f32"), what_); }
  Shape shape(const char* key) const { return parse_shape(at(key), what_); }
  Activation activation() const {
    const std::string name = text("activation", "none");
    if (name == "none") return Activation::none;
    if (name == "gelu_tanh") return Activation::gelu_tanh;
    if (name == "silu") return Activation::silu;
    fail(ErrorKind::invalid_argument, what_, "bad activation: got {}, expected none, gelu_tanh or silu.", in_quotes(name));
  }

 private:
  const Json& at(const char* key) const {
    const auto found = attributes_.find(key);
    check(found != attributes_.end(), ErrorKind::invalid_argument, what_, "no {} given. Say it.", key);
    return *found;
  }

  std::string what_;
  Operands operands_;
  Json attributes_;
};

using Unary = Value (*)(const Value&);
using Binary = Value (*)(const Value&, const Value&);
const std::map<std::string_view, Unary>& unary_functions() {
  static const std::map<std::string_view, Unary> functions = {
#define ZOE_UNARY(name, value, spelling) {#name, static_cast<Unary>(&zoe::name)},
#define ZOE_BINARY(name, value, spelling)
#include "ir/opcodes.def"
  };
  return functions;
}
const std::map<std::string_view, Binary>& binary_functions() {
  static const std::map<std::string_view, Binary> functions = {
#define ZOE_UNARY(name, value, spelling)
#define ZOE_BINARY(name, value, spelling) {#name, static_cast<Binary>(&zoe::name)},
#include "ir/opcodes.def"
  };
  return functions;
}

struct Function {
  std::string_view name;
  std::size_t least, most;  // operands
  std::vector<std::string_view> attributes;
  Value (*make)(const Arguments& a);
};

// All but the element-wise ones.
const std::vector<Function>& functions() {
  static const std::vector<Function> table = {
      {"input",
       0,
       0,
       {"name", "dtype", "shape"},
       [](const Arguments& a) { return input(a.text("name", "x"), a.dtype("dtype"), a.shape("shape")); }},
      {"constant", 0, 0, {"value", "dtype"}, [](const Arguments& a) { return constant(a.number("value"), a.dtype("dtype")); }},
      {"cast", 1, 1, {"dtype"}, [](const Arguments& a) { return cast(a.operand(0), a.dtype("dtype")); }},
      {"sum", 1, 1, {}, [](const Arguments& a) { return sum(a.operand(0)); }},
      {"mean", 1, 1, {}, [](const Arguments& a) { return mean(a.operand(0)); }},
      {"reshape", 1, 1, {"shape"}, [](const Arguments& a) { return reshape(a.operand(0), a.shape("shape")); }},
      {"slice",
       1,
       1,
       {"axis", "begin", "end"},
       [](const Arguments& a) {
         const Value& x = a.operand(0);
         return slice(x, a.axis("axis", x.shape().rank()), a.integer("begin"), a.integer("end"));
       }},
      {"concat",
       1,
       64,
       {"axis"},
       [](const Arguments& a) {
         for (std::size_t i = 0; i < a.operands().size(); ++i) a.operand(i);
         return concat(a.operands(), a.axis("axis", a.operand(0).shape().rank()));
       }},
      {"permute", 1, 1, {"axes"}, [](const Arguments& a) { return permute(a.operand(0), a.integers("axes")); }},
      {"swap_pairs", 1, 1, {}, [](const Arguments& a) { return swap_pairs(a.operand(0)); }},
      {"flip", 1, 1, {"axis"}, [](const Arguments& a) { return flip(a.operand(0), a.axis("axis", a.operand(0).shape().rank())); }},
      {"gather", 2, 2, {}, [](const Arguments& a) { return gather(a.operand(0), a.operand(1)); }},
      {"linear",
       2,
       4,
       {"activation"},
       [](const Arguments& a) {
         return linear(a.operand(0), a.operand(1),
                       {.bias = a.optional(2), .residual = a.optional(3), .activation = a.activation()});
       }},
      {"conv",
       2,
       4,
       {"activation", "stride", "pad_begin", "pad_end", "upsample"},
       [](const Arguments& a) {
         ConvWindow window;
         window.stride = a.three("stride", window.stride);
         window.pad_begin = a.three("pad_begin", window.pad_begin);
         window.pad_end = a.three("pad_end", window.pad_end);
         if (a.has("upsample")) window.upsample = static_cast<int>(a.integer("upsample"));
         return conv(a.operand(0), a.operand(1), window,
                     {.bias = a.optional(2), .residual = a.optional(3), .activation = a.activation()});
       }},
      {"attention",
       3,
       4,
       {"scale"},
       [](const Arguments& a) { return attention(a.operand(0), a.operand(1), a.operand(2), a.number("scale"), a.optional(3)); }},
  };
  return table;
}

Value make_value(std::string_view what, Operands operands, Json attributes) {
  const Arguments arguments(what, std::move(operands), std::move(attributes));
  if (const auto unary = unary_functions().find(what); unary != unary_functions().end()) {
    arguments.check_count(1, 1);
    arguments.check_names({});
    return unary->second(arguments.operand(0));
  }
  if (const auto binary = binary_functions().find(what); binary != binary_functions().end()) {
    arguments.check_count(2, 2);
    arguments.check_names({});
    return binary->second(arguments.operand(0), arguments.operand(1));
  }
  for (const Function& function : functions())
    if (function.name == what) {
      arguments.check_count(function.least, function.most);
      arguments.check_names(function.attributes);
      return function.make(arguments);
    }
  std::vector<std::string> known;
  for (const auto& [name, function] : unary_functions()) known.emplace_back(name);
  for (const auto& [name, function] : binary_functions()) known.emplace_back(name);
  for (const Function& function : functions()) known.emplace_back(function.name);
  const std::string near = nearest(what, known);
  fail(ErrorKind::invalid_argument, "value", "unknown function: got {}, expected one of {}.{}", in_quotes(what),
       fmt::join(known, ", "), near.empty() ? "" : fmt::format(" Did you mean {}?", near));
}

Operands values_of(const zoe_value* const* handles, std::size_t count, bool may_be_absent) {
  Operands values;
  for (std::size_t i = 0; i < count; ++i) {
    const zoe_value* const handle = (&given(handles, "values"))[i];
    check(handle || may_be_absent, ErrorKind::invalid_argument, "values", "value {} is null.", i);
    values.push_back(handle ? handle->value : Value());
  }
  return values;
}

Json type_json(const Type& type) { return {{"dtype", name(type.dtype)}, {"shape", shape_json(type.shape)}}; }

const Dialect& dialect_named(std::string_view name) {
  for (const Dialect* dialect : {&kCppDialect, &kCudaDialect, &kOpenclDialect})
    if (dialect->name == name) return *dialect;
  fail(ErrorKind::invalid_argument, "source", "unknown dialect: got {}, expected cpp, cuda or opencl.", in_quotes(name));
}

// A name for C of what a kernel comes from.
std::string function_name(const Node& node, std::size_t number) {
  std::string text;
  for (const char c : node.name) text += std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return fmt::format("{}_{}", text.empty() ? "kernel" : text, number);
}

}  // namespace

}  // namespace zoe::capi

using namespace zoe;
using namespace zoe::capi;

zoe_status zoe_elementwise(char** json) {
  return guarded([&] {
    Json all = Json::array();
    for (const auto& [name, function] : unary_functions()) all.push_back({{"name", name}, {"operands", 1}});
    for (const auto& [name, function] : binary_functions()) all.push_back({{"name", name}, {"operands", 2}});
    given(json, "json") = copy_text(all);
  });
}

zoe_status zoe_value_make(const char* what, const zoe_value* const* operands, size_t count, const char* attributes,
                          zoe_value** value) {
  return guarded([&] {
    given(value, "value") =
        new zoe_value{make_value(&given(what, "what"), values_of(operands, count, true), parse_object(attributes, "attributes"))};
  });
}

void zoe_value_close(zoe_value* value) { delete value; }
const char* zoe_value_dtype(const zoe_value* value) { return name(value->value.dtype()).data(); }
size_t zoe_value_shape(const zoe_value* value, const int64_t** extents) {
  const std::vector<std::int64_t>& dims = value->value.shape().dims();
  *extents = dims.data();
  return dims.size();
}

zoe_status zoe_graph_make(const char* name, const zoe_value* const* inputs, size_t input_count, const zoe_value* const* outputs,
                          size_t output_count, zoe_graph** graph) {
  return guarded([&] {
    check(output_count > 0, ErrorKind::invalid_argument, "graph", "got no results, expected one or more.");
    Operands arguments = values_of(inputs, input_count, false), results = values_of(outputs, output_count, false);
    for (const Value& argument : arguments)
      check(argument.node().opcode == Opcode::input, ErrorKind::invalid_argument, "graph",
            "got a {} for an input, expected inputs.", zoe::name(argument.node().opcode));
    // make_graph takes it for a bug of its caller's, which here is somebody else.
    std::vector<const Node*> open;
    std::set<const Node*> seen;
    for (const Value& result : results) open.push_back(&result.node());
    while (!open.empty()) {
      const Node* const node = open.back();
      open.pop_back();
      if (!seen.insert(node).second) continue;
      check(node->opcode != Opcode::input ||
                std::any_of(arguments.begin(), arguments.end(), [&](const Value& each) { return &each.node() == node; }),
            ErrorKind::invalid_argument, "graph",
            "a result needs the input {}, which is none of the graph's. Return what follows from its arguments.",
            in_quotes(node->name));
      for (const Value& operand : node->inputs) open.push_back(&operand.node());
    }
    Graph made = make_graph(&given(name, "name"), std::move(arguments), std::move(results));
    verify(made);
    given(graph, "graph") = new zoe_graph{std::move(made)};
  });
}

void zoe_graph_close(zoe_graph* graph) { delete graph; }

zoe_status zoe_graph_info(const zoe_graph* graph, char** json) {
  return guarded([&] {
    const Graph& of = given(graph, "graph").graph;
    Json inputs = Json::array(), outputs = Json::array();
    for (const Value& value : of.inputs) {
      Json one = type_json(value.type());
      one["name"] = value.node().name;
      inputs.push_back(std::move(one));
    }
    for (const Value& value : of.outputs) outputs.push_back(type_json(value.type()));
    given(json, "json") =
        copy_text(Json{{"name", of.name}, {"inputs", std::move(inputs)}, {"outputs", std::move(outputs)}, {"text", print(of)}});
  });
}

zoe_status zoe_graph_call(const zoe_graph* graph, const char* op, const zoe_value* const* arguments, size_t count,
                          zoe_value** results) {
  return guarded([&] {
    const Graph& native = given(graph, "graph").graph;
    const std::string_view name = &given(op, "op");
    const Operands values = values_of(arguments, count, false);
    check(values.size() == native.inputs.size(), ErrorKind::invalid_argument, name, "got {} arguments, expected {}.", values.size(),
          native.inputs.size());
    for (std::size_t i = 0; i < values.size(); ++i)
      check(values[i].type() == native.inputs[i].type(), ErrorKind::invalid_argument, name, "argument {}: got {}, expected {}.", i,
            values[i].type().str(), native.inputs[i].type().str());
    const std::vector<Value> made = make_call(std::string(name), values, native);
    std::vector<std::unique_ptr<zoe_value>> handles;
    for (const Value& value : made) handles.push_back(std::make_unique<zoe_value>(zoe_value{value}));
    given(results, "results");
    for (std::size_t i = 0; i < handles.size(); ++i) results[i] = handles[i].release();
  });
}

zoe_status zoe_graph_source(const zoe_graph* graph, const char* dialect, char** text) {
  return guarded([&] {
    const Dialect& spelled = dialect_named(&given(dialect, "dialect"));
    const auto platform = open_platform("null");  // fuses as a device does that has no limits of its own
    const Plan plan = compile(given(graph, "graph").graph, *platform);
    std::string all;
    for (std::size_t i = 0; i < plan.steps.size(); ++i) {
      const Node& node = *plan.steps[i].node;
      if (node.opcode != Opcode::fused && !is_chain(node.opcode)) {
        all += fmt::format("// step {}: {}: a kernel of the platform's own, or its library's\n\n", i, headline(node));
        continue;
      }
      const GeneratedSource source = print_source(chain_of(node), spelled, {.name = function_name(node, i)});
      all += fmt::format("// step {}: {}\n{}\n", i, headline(node), source.text);
    }
    given(text, "text") = copy_text(std::string_view(all));
  });
}

zoe_status zoe_graph_interpret(const zoe_graph* graph, const double* const* inputs, double* const* outputs) {
  return guarded([&] {
    const Graph& of = given(graph, "graph").graph;
    std::vector<ReferenceTensor> tensors;
    for (std::size_t i = 0; i < of.inputs.size(); ++i) {
      const Shape& shape = of.inputs[i].shape();
      const double* const values = &given((&given(inputs, "inputs"))[i], "input");
      tensors.push_back({shape, {values, values + shape.count()}});
    }
    const std::vector<ReferenceTensor> results = interpret(of, tensors, {});
    for (std::size_t i = 0; i < results.size(); ++i)
      std::copy(results[i].values.begin(), results[i].values.end(), &given((&given(outputs, "outputs"))[i], "output"));
  });
}
