// Kernels for devices of compute capability 9.0 (kernels/hopper.cu): what their texts begin with.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "platform/cuda/api.h"

namespace zoe::cuda {

class Device;

// True if the device has wgmma and copies of tensors' boxes, and the driver describes them.
bool is_hopper(const Device& device);

// Copies of boxes of bf16 from a tensor of four axes, innermost first, dense along the first; the others' elements are `steps`
// elements apart. In shared memory a box's rows of 64 or 128 bytes are swizzled (`swizzle`, kTensorMapSwizzle...); what lies
// outside is zero. `what` it is for, for errors. The address is a multiple of 16 bytes.
TensorMap boxes_of(const Device& device, Address address, const std::array<std::int64_t, 4>& extents,
                   const std::array<std::int64_t, 3>& steps, const std::array<std::int64_t, 4>& box, int swizzle, const char* what);

// Where the first factor of a product lies; the second is in shared memory.
enum class Factor { registers, shared };

// void name(float (&sums)[columns / 2], a, unsigned long long b, bool accumulates): starts sums (+)= a [64 x 16] * b [16 x columns]
// in bf16 (PTX: wgmma.mma_async). `a` is a descriptor or, in registers, unsigned (&a)[4]; `transposed`: b lies as 16 rows.
std::string wgmma_source(std::string_view name, std::int64_t columns, Factor a, bool transposed);
// The same of 8-bit integers, a [64 x 32] by b [32 x columns]: sums are s32, `a` is s8 in shared memory and u8 in registers, b is
// s8.
std::string integer_wgmma_source(std::string_view name, std::int64_t columns, Factor a);

}  // namespace zoe::cuda
