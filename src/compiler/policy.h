// Where compiling (fusing nodes into generated kernels) is on: asked by engine, by platform and device, and by op, in this order,
// and the first no stands. So no row can switch on what the engine's own switch has off.
#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

#include "base/support.h"
#include "compiler/options.h"
#include "platform/platform.h"

namespace zoe {

// Rows for devices that we never saw: {"rows": [{"platform": "opencl", "device": "Adreno", "op": "*", "reason": "..."}]}, where an
// absent key is "*". `invalid_argument` names the row and what is wrong with it.
std::vector<PolicyRow> read_compile_policy(const std::filesystem::path& file);

// May the compiler fuse nodes that come from `op`? "" for nodes that come from none.
Support compile_policy(const CompileOptions& options, const DeviceInfo& device, std::string_view op);

}  // namespace zoe
