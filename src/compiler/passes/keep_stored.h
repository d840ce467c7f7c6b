// Weights that stay in memory as files store them.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/support.h"
#include "base/weight_reader.h"
#include "ir/graph.h"

namespace zoe {

// A tensor's storage, by its name.
using StorageOf = std::function<Storage(const std::string& name)>;

// Matrices that only linears read, and that are stored in fewer bytes than bf16 takes, stay as they are stored where `takes` says
// yes of the encoding. All others are widened as they are loaded.
Graph keep_stored(const Graph& graph, const StorageOf& storage_of, const std::function<Support(const Encoding&)>& takes);

// Whether an encoding is one of those: of fewer bytes than bf16, and of single bytes or runs of 16 elements.
bool may_stay_stored(const Encoding& encoding);

}  // namespace zoe
