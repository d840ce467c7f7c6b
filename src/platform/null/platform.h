// The platform that makes every plan and runs nothing: for tests of graphs, passes and plans without a device.
//
// Memory is reserved address space, so that plans of any size allocate; kernels and uploads do nothing, and downloads give zeros.
// With a limit of memory it is a device that has as much, as far as plans go.
#pragma once

#include <memory>

#include "platform/platform.h"

namespace zoe::null {

std::unique_ptr<Platform> open(const PlatformOptions& options);

}  // namespace zoe::null
