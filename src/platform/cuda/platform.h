// CUDA devices and those of vendors whose driver API is the same under other names (MUSA, HIP): one platform, three tables.
#pragma once

#include <memory>

#include "platform/cuda/api.h"
#include "platform/platform.h"

namespace zoe::cuda {

// The device `ordinal` of the vendor. Error of kind unsupported if the driver, the run-time compiler or the device is missing.
std::unique_ptr<Platform> open(const Vendor& vendor, const PlatformOptions& options, int ordinal = 0);

// `text` behind "cuda:" counts devices from 0.
int parse_ordinal(const Vendor& vendor, std::string_view text);

}  // namespace zoe::cuda
