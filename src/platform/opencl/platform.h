// Any OpenCL 1.2 device, found at run time: products, attention and movement by the kernels of kernels/, everything element-wise by
// generated code. Values are computed in f32; f32 and bf16 are stored.
#pragma once

#include <memory>
#include <string>

#include "platform/opencl/device.h"
#include "platform/platform.h"

namespace zoe::opencl {

// Errors of kind unsupported say what is missing: the loader, a driver, a device that fits, the vendor's.
std::unique_ptr<Platform> open(const PlatformOptions& options, const Selector& selector);
// The best device.
std::unique_ptr<Platform> open(const PlatformOptions& options);
// `text` behind "opencl:" is an index.
Selector parse_selector(std::string_view text);

}  // namespace zoe::opencl
