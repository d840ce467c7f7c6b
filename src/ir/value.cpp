#include "ir/value.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"

namespace zoe {

std::string_view name(Codes codes) { return codes == Codes::i8 ? "i8" : "none"; }

std::string_view name(Opcode opcode) {
  switch (opcode) {
// clang-format off
#define ZOE_UNARY(name, value, spelling) \
  case Opcode::name: return #name;
#define ZOE_BINARY(name, value, spelling) \
  case Opcode::name: return #name;
#define ZOE_REDUCTION(name, combine, identity) \
  case Opcode::name: return #name;
#include "ir/opcodes.def"
      // clang-format on
    case Opcode::input: return "input";
    case Opcode::parameter: return "parameter";
    case Opcode::constant: return "constant";
    case Opcode::cast: return "cast";
    case Opcode::reshape: return "reshape";
    case Opcode::slice: return "slice";
    case Opcode::concat: return "concat";
    case Opcode::permute: return "permute";
    case Opcode::swap_pairs: return "swap_pairs";
    case Opcode::flip: return "flip";
    case Opcode::gather: return "gather";
    case Opcode::all_to_all: return "all_to_all";
    case Opcode::all_gather: return "all_gather";
    case Opcode::linear: return "linear";
    case Opcode::conv: return "conv";
    case Opcode::attention: return "attention";
    case Opcode::call: return "call";
    case Opcode::fused: return "fused";
  }
  return "?";
}

bool is_unary(Opcode opcode) {
  switch (opcode) {
// clang-format off
#define ZOE_UNARY(name, value, spelling) case Opcode::name:
#define ZOE_BINARY(name, value, spelling)
#include "ir/opcodes.def"
    // clang-format on
    return true;
    default: return false;
  }
}

bool is_binary(Opcode opcode) {
  switch (opcode) {
// clang-format off
#define ZOE_UNARY(name, value, spelling)
#define ZOE_BINARY(name, value, spelling) case Opcode::name:
#include "ir/opcodes.def"
    // clang-format on
    return true;
    default: return false;
  }
}

namespace {

const Reduction* find_reduction(Opcode opcode) {
  switch (opcode) {
// clang-format off
#define ZOE_UNARY(name, value, spelling)
#define ZOE_BINARY(name, value, spelling)
#define ZOE_REDUCTION(name, combine, identity)                    \
  case Opcode::name: {                                            \
    static constexpr Reduction kRow{Opcode::combine, (identity)}; \
    return &kRow;                                                 \
  }
#include "ir/opcodes.def"
    // clang-format on
    default: return nullptr;
  }
}

}  // namespace

bool is_reduction(Opcode opcode) { return find_reduction(opcode) != nullptr; }

Reduction reduction_of(Opcode opcode) {
  const Reduction* const row = find_reduction(opcode);
  check(row != nullptr, ErrorKind::internal, "reduction_of", "got {}, expected a reduction.", name(opcode));
  return *row;
}

std::string_view c_spelling(Opcode opcode) {
  switch (opcode) {
// clang-format off
#define ZOE_UNARY(name, value, spelling) \
  case Opcode::name: return #spelling;
#define ZOE_BINARY(name, value, spelling) \
  case Opcode::name: return #spelling;
#include "ir/opcodes.def"
    // clang-format on
    default: fail(ErrorKind::internal, "c_spelling", "got {}, expected an element-wise opcode.", name(opcode));
  }
}

std::string Type::str() const { return fmt::format("{}{}", name(dtype), shape.str()); }

}  // namespace zoe
