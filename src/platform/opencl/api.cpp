#include "platform/opencl/api.h"

#include <dlfcn.h>

#include <map>
#include <memory>
#include <mutex>

#include "base/error.h"

namespace zoe::opencl {
namespace {

std::unique_ptr<Api> open_loader(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  check(library != nullptr, ErrorKind::unsupported, "opencl",
        "no OpenCL loader: looked for {} ({}). Install ocl-icd-libopencl1 and a driver (pocl-opencl-icd runs on any CPU).", path,
        dlerror());
  auto api = std::make_unique<Api>();
  const auto find = [&](const char* name, auto& entry) {
    void* symbol = dlsym(library, name);
    check(symbol != nullptr, ErrorKind::unsupported, "opencl", "{} is not an OpenCL 1.2 loader: it has no {}.", path, name);
    entry = reinterpret_cast<std::remove_reference_t<decltype(entry)>>(symbol);
  };
  find("clGetPlatformIDs", api->clGetPlatformIDs);
  find("clGetPlatformInfo", api->clGetPlatformInfo);
  find("clGetDeviceIDs", api->clGetDeviceIDs);
  find("clGetDeviceInfo", api->clGetDeviceInfo);
  find("clCreateContext", api->clCreateContext);
  find("clReleaseContext", api->clReleaseContext);
  find("clCreateCommandQueue", api->clCreateCommandQueue);
  find("clReleaseCommandQueue", api->clReleaseCommandQueue);
  find("clCreateBuffer", api->clCreateBuffer);
  find("clReleaseMemObject", api->clReleaseMemObject);
  find("clCreateProgramWithSource", api->clCreateProgramWithSource);
  find("clCreateProgramWithBinary", api->clCreateProgramWithBinary);
  find("clReleaseProgram", api->clReleaseProgram);
  find("clBuildProgram", api->clBuildProgram);
  find("clGetProgramInfo", api->clGetProgramInfo);
  find("clGetProgramBuildInfo", api->clGetProgramBuildInfo);
  find("clCreateKernel", api->clCreateKernel);
  find("clReleaseKernel", api->clReleaseKernel);
  find("clSetKernelArg", api->clSetKernelArg);
  find("clEnqueueNDRangeKernel", api->clEnqueueNDRangeKernel);
  find("clEnqueueReadBuffer", api->clEnqueueReadBuffer);
  find("clEnqueueWriteBuffer", api->clEnqueueWriteBuffer);
  find("clEnqueueFillBuffer", api->clEnqueueFillBuffer);
  find("clEnqueueCopyBuffer", api->clEnqueueCopyBuffer);
  find("clFinish", api->clFinish);
  return api;
}

}  // namespace

const Api& load_api(const std::string& path) {
  static std::mutex mutex;
  static std::map<std::string, std::unique_ptr<Api>> opened;
  const std::lock_guard lock(mutex);
  auto& api = opened[path.empty() ? "libOpenCL.so.1" : path];
  if (!api) api = open_loader(path.empty() ? "libOpenCL.so.1" : path);
  return *api;
}

std::string_view error_name(cl_int code) {
  switch (code) {
#define NAME(name, value) \
  case value: return #name;
    NAME(CL_SUCCESS, 0)
    NAME(CL_DEVICE_NOT_FOUND, -1)
    NAME(CL_DEVICE_NOT_AVAILABLE, -2)
    NAME(CL_COMPILER_NOT_AVAILABLE, -3)
    NAME(CL_MEM_OBJECT_ALLOCATION_FAILURE, -4)
    NAME(CL_OUT_OF_RESOURCES, -5)
    NAME(CL_OUT_OF_HOST_MEMORY, -6)
    NAME(CL_PROFILING_INFO_NOT_AVAILABLE, -7)
    NAME(CL_MEM_COPY_OVERLAP, -8)
    NAME(CL_IMAGE_FORMAT_MISMATCH, -9)
    NAME(CL_IMAGE_FORMAT_NOT_SUPPORTED, -10)
    NAME(CL_BUILD_PROGRAM_FAILURE, -11)
    NAME(CL_MAP_FAILURE, -12)
    NAME(CL_MISALIGNED_SUB_BUFFER_OFFSET, -13)
    NAME(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST, -14)
    NAME(CL_COMPILE_PROGRAM_FAILURE, -15)
    NAME(CL_LINKER_NOT_AVAILABLE, -16)
    NAME(CL_LINK_PROGRAM_FAILURE, -17)
    NAME(CL_DEVICE_PARTITION_FAILED, -18)
    NAME(CL_KERNEL_ARG_INFO_NOT_AVAILABLE, -19)
    NAME(CL_INVALID_VALUE, -30)
    NAME(CL_INVALID_DEVICE_TYPE, -31)
    NAME(CL_INVALID_PLATFORM, -32)
    NAME(CL_INVALID_DEVICE, -33)
    NAME(CL_INVALID_CONTEXT, -34)
    NAME(CL_INVALID_QUEUE_PROPERTIES, -35)
    NAME(CL_INVALID_COMMAND_QUEUE, -36)
    NAME(CL_INVALID_HOST_PTR, -37)
    NAME(CL_INVALID_MEM_OBJECT, -38)
    NAME(CL_INVALID_BINARY, -42)
    NAME(CL_INVALID_BUILD_OPTIONS, -43)
    NAME(CL_INVALID_PROGRAM, -44)
    NAME(CL_INVALID_PROGRAM_EXECUTABLE, -45)
    NAME(CL_INVALID_KERNEL_NAME, -46)
    NAME(CL_INVALID_KERNEL_DEFINITION, -47)
    NAME(CL_INVALID_KERNEL, -48)
    NAME(CL_INVALID_ARG_INDEX, -49)
    NAME(CL_INVALID_ARG_VALUE, -50)
    NAME(CL_INVALID_ARG_SIZE, -51)
    NAME(CL_INVALID_KERNEL_ARGS, -52)
    NAME(CL_INVALID_WORK_DIMENSION, -53)
    NAME(CL_INVALID_WORK_GROUP_SIZE, -54)
    NAME(CL_INVALID_WORK_ITEM_SIZE, -55)
    NAME(CL_INVALID_GLOBAL_OFFSET, -56)
    NAME(CL_INVALID_EVENT_WAIT_LIST, -57)
    NAME(CL_INVALID_EVENT, -58)
    NAME(CL_INVALID_OPERATION, -59)
    NAME(CL_INVALID_BUFFER_SIZE, -61)
    NAME(CL_INVALID_GLOBAL_WORK_SIZE, -63)
    NAME(CL_PLATFORM_NOT_FOUND_KHR, -1001)
#undef NAME
    default: return "an unknown error";
  }
}

void check_cl(cl_int code, std::string_view call, std::string_view what) {
  if (code == CL_SUCCESS) [[likely]]
    return;
  const bool memory = code == CL_MEM_OBJECT_ALLOCATION_FAILURE || code == CL_OUT_OF_HOST_MEMORY || code == CL_OUT_OF_RESOURCES;
  fail(memory ? ErrorKind::out_of_memory : ErrorKind::device, "opencl", "{}{}{} failed: {} ({}).{}", call,
       what.empty() ? "" : " of ", what, error_name(code), code, memory ? " Ask for a smaller size or fewer frames." : "");
}

}  // namespace zoe::opencl
