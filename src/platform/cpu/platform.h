// The CPU: memory straight from the operating system, streams that run at once, kernels from kernels.h.
#pragma once

#include <memory>

#include "platform/platform.h"

namespace zoe::cpu {

// `options.threads` 0 takes as many as affinity and cgroup allow. Kernels may run on any thread; allocate and info are for
// one thread at a time. An allocation beyond what is free (of the machine, and of the process's cgroup) is refused before
// it is made, counting what was allocated and not yet touched.
std::unique_ptr<Platform> open(const PlatformOptions& options);

}  // namespace zoe::cpu
