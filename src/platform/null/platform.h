// The platform that makes every plan and runs nothing: for tests of graphs, passes and plans without a device.
//
// Memory is reserved address space, so that plans of any size allocate; kernels and uploads do nothing, and downloads give zeros.
#pragma once

#include <memory>

#include "platform/platform.h"

namespace zoe::null {

std::unique_ptr<Platform> open(const PlatformOptions& options);

}  // namespace zoe::null
