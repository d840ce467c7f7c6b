// CUDA devices and those of vendors whose driver API is the same under other names (MUSA, HIP): one platform, three tables.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "platform/cuda/api.h"
#include "platform/platform.h"

namespace zoe::cuda {

// The device `ordinal` of the vendor. Error of kind unsupported if the driver, the run-time compiler or the device is missing.
std::unique_ptr<Platform> open(const Vendor& vendor, const PlatformOptions& options, int ordinal = 0);

// At least 1: opening that says why there is none.
int count_devices(const Vendor& vendor, const PlatformOptions& options);
// How each two devices of a vendor reach each other; nothing for the names of other platforms.
std::vector<std::string> links(std::string_view platform, const PlatformOptions& options);

// `text` behind "cuda:" counts devices from 0.
int parse_ordinal(const Vendor& vendor, std::string_view text);

}  // namespace zoe::cuda
