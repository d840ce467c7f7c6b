// The text of kernels/*.cl, embedded by CMake.
#pragma once

namespace zoe::opencl {

extern const char *const kStorageSource, *const kProductSource, *const kAttentionSource, *const kMovementSource,
                                                                                             *const kWidenSource;

}  // namespace zoe::opencl
