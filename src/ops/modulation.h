// What the modulated ops share: optional arguments, and the forms in which a gate, a scale or a shift may come.
//
// For x [B,L,C] a modulation is one of, in any float dtype:
//   scalar (rank 0), [C], [1|B,C], [1|B,1|L,C], or [B,F,1,C] where F divides L (each latent frame of L/F tokens has its row).
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ir/trace.h"

namespace zoe {

// Each check throws invalid_argument, naming op and argument, what it got and the forms it takes, unless ...
// x is a float [B,L,C];
void check_tokens(std::string_view op, std::string_view argument, const Value& x);
// `modulation` is not absent, for ops where it may not be;
void check_present(std::string_view op, std::string_view argument, const Value& modulation);
// `modulation` is absent or has one of the forms above for x [B,L,C].
void check_modulation(std::string_view op, std::string_view argument, const Value& modulation, const Shape& x);

// x (op) modulation, for an f32 x [B,L,C] and a checked f32 modulation.
Value multiply_modulation(const Value& x, const Value& modulation);
Value add_modulation(const Value& x, const Value& modulation);

// x * (k + scale) + shift in f32, for an f32 x [B,L,C] and checked modulations. An absent scale or shift is 0 and costs nothing.
Value modulate(Value x, const Value& scale, const Value& shift, double k);

// zoe::call with the absent arguments left out; `native` gets them as absent Values in their places.
template <class Native>
std::vector<Value> call_with_optional(std::string op, const std::vector<Value>& arguments, Native&& native) {
  std::vector<Value> present;
  std::copy_if(arguments.begin(), arguments.end(), std::back_inserter(present),
               [](const Value& value) { return static_cast<bool>(value); });
  return call(std::move(op), present, [&](std::span<const Value> placeholders) {
    std::vector<Value> all;
    for (const Value& argument : arguments) {
      all.push_back(argument ? placeholders.front() : Value{});
      if (argument) placeholders = placeholders.subspan(1);
    }
    return native(std::as_const(all));
  });
}

}  // namespace zoe
