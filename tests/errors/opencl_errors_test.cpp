// What can go wrong with OpenCL: no loader, no driver, no such device, no memory, a program that does not build. Each is one line
// that says what to do.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "base/error.h"
#include "platform/opencl/platform.h"
#include "testing/run_command.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

void expect_error(ErrorKind kind, const std::vector<std::string>& texts, const std::function<void()>& run) {
  try {
    run();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_EQ(error.kind(), kind) << what;
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    for (const std::string& text : texts) EXPECT_NE(what.find(text), std::string::npos) << what << "\nlacks: " << text;
  }
}

std::unique_ptr<Platform> open_or_null() {
  try {
    return open_platform("opencl");
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::unsupported) throw;
    return nullptr;
  }
}

#define SKIP_WITHOUT(platform) \
  if (!platform) GTEST_SKIP() << "no OpenCL device"

TEST(OpenclErrors, MissingLoaderNamesWhatWasLookedForAndThePackages) {
  expect_error(ErrorKind::unsupported,
               {"[opencl] no OpenCL loader", "/nowhere/libOpenCL.so.1", "Install ocl-icd-libopencl1", "pocl-opencl-icd"},
               [] { open_platform("opencl", {.opencl_loader = "/nowhere/libOpenCL.so.1"}); });
}

TEST(OpenclErrors, AnotherLibraryIsNoLoader) {
  expect_error(ErrorKind::unsupported, {"libm.so.6 is not an OpenCL 1.2 loader: it has no clGetPlatformIDs"},
               [] { open_platform("opencl", {.opencl_loader = "libm.so.6"}); });
}

// The loader reads its list of drivers from a folder: an empty one is a machine without drivers.
TEST(OpenclErrors, NoDriverSaysWhatToInstall) {
  const auto platform = open_or_null();
  SKIP_WITHOUT(platform);
  const testing::TemporaryFolder empty;
  const testing::CommandResult result =
      testing::run_command({ZOE_COMMAND, "bench", "transformer", "--size", "toy", "--platform", "opencl"},
                           {.environment = {{"OCL_ICD_VENDORS", empty.path().string()}}});
  EXPECT_EQ(result.code, 3);
  EXPECT_NE(result.err.find("[opencl] no OpenCL device"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("pocl-opencl-icd"), std::string::npos) << result.err;
}

TEST(OpenclErrors, UnknownDeviceNumbersAndVendors) {
  for (const char* name : {"opencl:", "opencl:x", "opencl:-1", "opencl:1x", "opencl:99999999999"})
    expect_error(ErrorKind::invalid_argument, {"[platform] bad device", name, "expected opencl:0 or another number"},
                 [&] { open_platform(name); });
  const auto platform = open_or_null();
  SKIP_WITHOUT(platform);
  expect_error(ErrorKind::invalid_argument, {"[opencl] no device 12345", "0: "}, [] { open_platform("opencl:12345"); });
  EXPECT_EQ(open_platform("opencl:0")->info().platform, "opencl");
  expect_error(ErrorKind::unsupported, {"[opencl] no OpenCL device of nobody but CPUs: there is 0: "},
               [] { opencl::open({}, {.vendor = "nobody"}); });
  // A vendor's name asks for its GPU: a driver that runs on the CPU of that vendor is none.
  const auto devices = opencl::find_devices(opencl::load_api(""));
  if (std::all_of(devices.begin(), devices.end(), [](const opencl::DeviceDescription& device) { return device.is_cpu(); }))
    expect_error(ErrorKind::unsupported, {"no OpenCL device of " + devices[0].vendor + " but CPUs"},
                 [&] { opencl::open({}, {.vendor = devices[0].vendor}); });
}

TEST(OpenclErrors, AllocationsThatCannotBeNameTheirSizes) {
  const auto platform = open_or_null();
  SKIP_WITHOUT(platform);
  const DeviceInfo info = platform->info();
  expect_error(ErrorKind::out_of_memory, {"[opencl] cannot allocate 1048576.00 GiB for \"everything\"", "has no buffers above"},
               [&] { platform->allocate(std::size_t{1} << 50, "everything"); });
  EXPECT_EQ(platform->free_bytes(), info.memory_bytes);
  {
    const auto buffer = platform->allocate(1000, "something");
    EXPECT_EQ(platform->free_bytes(), info.memory_bytes - 1000);
  }
  EXPECT_EQ(platform->free_bytes(), info.memory_bytes);
}

TEST(OpenclErrors, AProgramThatDoesNotBuildShowsTheEndOfItsLog) {
  const auto platform = open_or_null();
  SKIP_WITHOUT(platform);
  const opencl::Api& api = opencl::load_api("");
  const testing::TemporaryFolder cache;
  opencl::Device device(api, opencl::find_devices(api).front(),
                        std::make_shared<KernelCache>(KernelCache::Options{.folder = cache.path()}));
  std::string source = "kernel void broken() {\n";
  for (int i = 0; i < 50; ++i) source += "  unknown_name_" + std::to_string(i) + ";\n";
  expect_error(ErrorKind::compile,
               {"[opencl] kernel fused_17 failed to build", "CL_BUILD_PROGRAM_FAILURE", "The log ends: ", "unknown_name_49",
                "Source and log: " + (cache.path() / "failed" / "broken").string()},
               [&] { device.function(source + "}\n", "broken", "fused_17"); });
}

TEST(OpenclErrors, CodesHaveTheSpecificationsNames) {
  EXPECT_EQ(opencl::error_name(-5), "CL_OUT_OF_RESOURCES");
  EXPECT_EQ(opencl::error_name(-54), "CL_INVALID_WORK_GROUP_SIZE");
  EXPECT_EQ(opencl::error_name(12345), "an unknown error");
  expect_error(ErrorKind::out_of_memory, {"[opencl] clCreateBuffer of x failed: CL_OUT_OF_HOST_MEMORY (-6)"},
               [] { opencl::check_cl(-6, "clCreateBuffer", "x"); });
  expect_error(ErrorKind::device, {"[opencl] clFinish failed: CL_INVALID_COMMAND_QUEUE (-36)"},
               [] { opencl::check_cl(-36, "clFinish"); });
}

}  // namespace
}  // namespace zoe
