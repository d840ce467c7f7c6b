// What a model expects of its files: the names and shapes of its tensors.
#pragma once

#include <string>
#include <vector>

#include "base/shape.h"
#include "ir/graph.h"

namespace zoe {

struct ExpectedTensor {
  std::string name;
  Shape shape;  // as in files
};

// A second name under which an expected tensor may be stored, instead of its own or beside it.
struct TensorAlias {
  std::string name, alias;
  bool first = false;  // of both, the one under the alias is read; else the one under the name
};

// The tensors behind a traced graph's parameters, in the order of its nodes, each name once. Tracing is the one place where a
// model's tensors are named: graphs of the smallest sizes tell what its files must hold.
std::vector<ExpectedTensor> parameters_of(const Graph& graph);

}  // namespace zoe
