// OpenCL 1.2, as far as this platform needs it: types, constants and entry points, declared here so that building needs no
// vendor's headers, and found in the ICD loader at run time so that nothing is linked.
//
// Names and values are those of the OpenCL specification; every handle is a pointer to something only the driver knows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace zoe::opencl {

using cl_int = std::int32_t;
using cl_uint = std::uint32_t;
using cl_ulong = std::uint64_t;
using cl_bitfield = cl_ulong;
using cl_platform_id = struct cl_platform_tag*;
using cl_device_id = struct cl_device_tag*;
using cl_context = struct cl_context_tag*;
using cl_command_queue = struct cl_command_queue_tag*;
using cl_mem = struct cl_mem_tag*;
using cl_program = struct cl_program_tag*;
using cl_kernel = struct cl_kernel_tag*;
using cl_event = struct cl_event_tag*;

inline constexpr cl_int CL_SUCCESS = 0;
inline constexpr cl_int CL_DEVICE_NOT_FOUND = -1;
inline constexpr cl_int CL_MEM_OBJECT_ALLOCATION_FAILURE = -4;
inline constexpr cl_int CL_OUT_OF_RESOURCES = -5;
inline constexpr cl_int CL_OUT_OF_HOST_MEMORY = -6;
inline constexpr cl_int CL_PLATFORM_NOT_FOUND_KHR = -1001;  // the loader's: no driver is installed

inline constexpr cl_uint CL_TRUE = 1;
inline constexpr cl_uint CL_PLATFORM_NAME = 0x0902;
inline constexpr cl_bitfield CL_DEVICE_TYPE_CPU = 1 << 1, CL_DEVICE_TYPE_GPU = 1 << 2, CL_DEVICE_TYPE_ACCELERATOR = 1 << 3,
                             CL_DEVICE_TYPE_ALL = 0xffffffff;
inline constexpr cl_uint CL_DEVICE_TYPE = 0x1000, CL_DEVICE_MAX_COMPUTE_UNITS = 0x1002, CL_DEVICE_MAX_WORK_GROUP_SIZE = 0x1004,
                         CL_DEVICE_MAX_MEM_ALLOC_SIZE = 0x1010, CL_DEVICE_GLOBAL_MEM_SIZE = 0x101f,
                         CL_DEVICE_LOCAL_MEM_SIZE = 0x1023, CL_DEVICE_AVAILABLE = 0x1027, CL_DEVICE_COMPILER_AVAILABLE = 0x1028,
                         CL_DEVICE_NAME = 0x102b, CL_DEVICE_VENDOR = 0x102c, CL_DRIVER_VERSION = 0x102d, CL_DEVICE_VERSION = 0x102f,
                         CL_DEVICE_HOST_UNIFIED_MEMORY = 0x1035, CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT = 0x103a,
                         CL_DEVICE_SINGLE_FP_CONFIG = 0x101b;
inline constexpr cl_bitfield CL_FP_CORRECTLY_ROUNDED_DIVIDE_SQRT = 1 << 7;
inline constexpr cl_bitfield CL_MEM_READ_WRITE = 1 << 0;
inline constexpr cl_uint CL_PROGRAM_BUILD_LOG = 0x1183, CL_PROGRAM_BINARY_SIZES = 0x1165, CL_PROGRAM_BINARIES = 0x1166;

// The entry points, by their names in the specification.
struct Api {
  cl_int (*clGetPlatformIDs)(cl_uint, cl_platform_id*, cl_uint*);
  cl_int (*clGetPlatformInfo)(cl_platform_id, cl_uint, std::size_t, void*, std::size_t*);
  cl_int (*clGetDeviceIDs)(cl_platform_id, cl_bitfield, cl_uint, cl_device_id*, cl_uint*);
  cl_int (*clGetDeviceInfo)(cl_device_id, cl_uint, std::size_t, void*, std::size_t*);
  cl_context (*clCreateContext)(const std::intptr_t*, cl_uint, const cl_device_id*,
                                void (*)(const char*, const void*, std::size_t, void*), void*, cl_int*);
  cl_int (*clReleaseContext)(cl_context);
  cl_command_queue (*clCreateCommandQueue)(cl_context, cl_device_id, cl_bitfield, cl_int*);
  cl_int (*clReleaseCommandQueue)(cl_command_queue);
  cl_mem (*clCreateBuffer)(cl_context, cl_bitfield, std::size_t, void*, cl_int*);
  cl_int (*clReleaseMemObject)(cl_mem);
  cl_program (*clCreateProgramWithSource)(cl_context, cl_uint, const char**, const std::size_t*, cl_int*);
  cl_program (*clCreateProgramWithBinary)(cl_context, cl_uint, const cl_device_id*, const std::size_t*, const unsigned char**,
                                          cl_int*, cl_int*);
  cl_int (*clReleaseProgram)(cl_program);
  cl_int (*clBuildProgram)(cl_program, cl_uint, const cl_device_id*, const char*, void (*)(cl_program, void*), void*);
  cl_int (*clGetProgramInfo)(cl_program, cl_uint, std::size_t, void*, std::size_t*);
  cl_int (*clGetProgramBuildInfo)(cl_program, cl_device_id, cl_uint, std::size_t, void*, std::size_t*);
  cl_kernel (*clCreateKernel)(cl_program, const char*, cl_int*);
  cl_int (*clReleaseKernel)(cl_kernel);
  cl_int (*clSetKernelArg)(cl_kernel, cl_uint, std::size_t, const void*);
  cl_int (*clEnqueueNDRangeKernel)(cl_command_queue, cl_kernel, cl_uint, const std::size_t*, const std::size_t*, const std::size_t*,
                                   cl_uint, const cl_event*, cl_event*);
  cl_int (*clEnqueueReadBuffer)(cl_command_queue, cl_mem, cl_uint, std::size_t, std::size_t, void*, cl_uint, const cl_event*,
                                cl_event*);
  cl_int (*clEnqueueWriteBuffer)(cl_command_queue, cl_mem, cl_uint, std::size_t, std::size_t, const void*, cl_uint, const cl_event*,
                                 cl_event*);
  cl_int (*clEnqueueFillBuffer)(cl_command_queue, cl_mem, const void*, std::size_t, std::size_t, std::size_t, cl_uint,
                                const cl_event*, cl_event*);
  cl_int (*clEnqueueCopyBuffer)(cl_command_queue, cl_mem, cl_mem, std::size_t, std::size_t, std::size_t, cl_uint, const cl_event*,
                                cl_event*);
  cl_int (*clFinish)(cl_command_queue);
};

// Opens the loader once per path; it stays open until the process ends. `path` empty: libOpenCL.so.1. Error of kind unsupported
// if there is none, or if it lacks an entry point.
const Api& load_api(const std::string& path);

std::string_view error_name(cl_int code);  // "CL_OUT_OF_RESOURCES"; "an unknown error" for others

// Throws an Error of kind device (out_of_memory for the codes that mean it) unless `code` is CL_SUCCESS; `call`, and what it was
// for, are named.
void check_cl(cl_int code, std::string_view call, std::string_view what = {});

}  // namespace zoe::opencl
