// Kernels of fused nodes: C++ written by codegen, built by the system's compiler.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "platform/cpu/compiler.h"
#include "platform/platform.h"

namespace zoe::cpu {

// A kernel for each of the fused nodes, in their order. All that the cache does not hold is built in one go.
std::vector<std::unique_ptr<Kernel>> make_generated(std::span<const Node* const> nodes, const DeviceInfo& device,
                                                    CppCompiler& compiler);

}  // namespace zoe::cpu
