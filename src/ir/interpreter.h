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

// What a device has after an exchange with the others of its group, each of which runs the graph in a thread of its own.
using ReferenceExchange = std::function<std::vector<double>(const Node& exchange, const std::vector<double>& own)>;

// Runs the graph (calls through their native graphs). `inputs` in argument order, of exactly the inputs' shapes.
std::vector<ReferenceTensor> interpret(const Graph& graph, const std::vector<ReferenceTensor>& inputs,
                                       const ParameterLookup& parameters, const ReferenceExchange& exchange = {});

}  // namespace zoe
