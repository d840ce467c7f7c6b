// The reference run: every node in f64, one at a time, rounded only where a value is stored in a narrower dtype by a cast.
//
// Slow and obvious on purpose. Tests bound the error of platforms by it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "ir/graph.h"

namespace zoe {

struct ReferenceTensor {
  Shape shape;
  std::vector<double> values;  // row-major; i32 values too
};

using ParameterLookup = std::function<ReferenceTensor(const Node& parameter)>;

// Runs the graph (calls through their native graphs). `inputs` in argument order, of exactly the inputs' shapes.
std::vector<ReferenceTensor> interpret(const Graph& graph, const std::vector<ReferenceTensor>& inputs,
                                       const ParameterLookup& parameters);

}  // namespace zoe
