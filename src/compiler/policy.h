// Where compiling (fusing nodes into generated kernels) is on: asked by engine, by platform and by op, in this order, and the
// first no stands. So no row can switch on what the engine's own switch has off.
#pragma once

#include <span>
#include <string_view>

#include "base/support.h"
#include "compiler/options.h"

namespace zoe {

// Compiling is off for nodes of this op on this platform.
struct PolicyRow {
  std::string_view platform, op;  // "*": every one
  std::string_view reason;
};

std::span<const PolicyRow> compile_policy_rows();

// May the compiler fuse nodes that come from `op`? "" for nodes that come from none.
Support compile_policy(const CompileOptions& options, std::string_view platform, std::string_view op);

}  // namespace zoe
