// Linears of one operand, whose weights are parameters of one kind, become one with the rows of all their weights: q, k and v of a
// block. Each result is then a slice of the wider one's last axis, which chains read where it lies, and attention as heads among
// others. Linears that an exchange of devices stands between stay apart: it goes on beside the next one. Runs with
// and without compiling, so that both have the same products.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/support.h"
#include "ir/graph.h"

namespace zoe {

// `gains` is asked about each product that several would become. Its answers go to `notes`.
Graph merge_products(const Graph& graph, const std::function<Support(const Node& merged)>& gains, std::vector<std::string>& notes);

}  // namespace zoe
