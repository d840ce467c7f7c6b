// The reference interpreter's values of a graph's results, each with a bound on how far a correct run may be from it: the rounding
// errors of every node, carried through the nodes behind it.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "ir/interpreter.h"

namespace zoe::fuzz {

// How a platform rounds.
struct Rounding {
  double division_ulps = 0.5;  // of quotients and square roots
  double tiny = 0x1p-149;      // results below it may be zero
};

struct Bounded {
  ReferenceTensor value;
  std::vector<double> error;  // infinite where nothing can be said: next to a pole, or after an overflow
};

using LeafValues = std::function<ReferenceTensor(const std::string& name, const Type& type)>;

// `leaves`: of inputs and weights, rounded to their dtypes.
std::vector<Bounded> bounded_reference(const Graph& graph, const LeafValues& leaves, const Rounding& rounding);

}  // namespace zoe::fuzz
