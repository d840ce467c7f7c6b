// The text of kernels/*.cu, embedded by CMake.
#pragma once

namespace zoe::cuda {

extern const char* const kMovementSource;

}  // namespace zoe::cuda
