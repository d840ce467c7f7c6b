// CUDA's driver and run-time compiler, as far as this platform needs them, and those of vendors whose API is the same under other
// names. Types and constants are declared here so that building needs no vendor's headers; entry points are found at run time
// (driver.def), so nothing is linked.
//
// Values are those of the CUDA driver API and NVRTC; every handle is a pointer to something only the driver knows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace zoe::cuda {

using Status = int;
using Address = std::uint64_t;  // of device memory
using ContextHandle = struct ContextTag*;
using PoolHandle = struct PoolTag*;
using StreamHandle = struct StreamTag*;
using EventHandle = struct EventTag*;
using GraphHandle = struct GraphTag*;
using GraphExecHandle = struct GraphExecTag*;
using ModuleHandle = struct ModuleTag*;
using FunctionHandle = struct FunctionTag*;
using ProgramHandle = struct ProgramTag*;

inline constexpr Status kSuccess = 0, kOutOfMemory = 2, kNotReady = 600;
inline constexpr unsigned kStreamNonBlocking = 1, kEventDisableTiming = 2;
inline constexpr int kCaptureThreadLocal = 1;
// Attributes of a pool, std::uint64_t: bytes it keeps when they are freed, bytes it has from the device, bytes that are in use.
inline constexpr int kPoolReleaseThreshold = 4, kPoolReserved = 5, kPoolUsed = 7;
inline constexpr int kFunctionMaxDynamicSharedBytes = 8;  // a function's attribute

// Which device may read and write a pool's memory: that of a kind (1: a device) and number.
struct PoolAccess {
  int kind, device, flags;
};
inline constexpr int kPoolOfDevice = 1, kPoolReadAndWrite = 3;

// How a tensor lies in memory, for copies of boxes of it to shared memory; the driver fills it in, and it is passed by value.
struct alignas(64) TensorMap {
  std::uint64_t words[16];
};
// Of tensor_map_encode: elements, no interleaving, rows of 64 or 128 bytes swizzled, lines of 256 bytes to the L2 cache, zeros
// outside.
inline constexpr int kTensorMapBf16 = 9, kTensorMapPlain = 0, kTensorMapSwizzle64 = 2, kTensorMapSwizzle128 = 3,
                     kTensorMapL2Lines256 = 3, kTensorMapZeros = 0;

struct DriverApi {
  std::string path;  // of the library
#define ZOE_DRIVER(member, arguments, cuda, musa, hip) Status(*member) arguments;
#define ZOE_COMPILER(member, arguments, cuda, musa, hip)
#include "platform/cuda/driver.def"
};

struct CompilerApi {
  std::string path;  // of the library
#define ZOE_DRIVER(member, arguments, cuda, musa, hip)
#define ZOE_COMPILER(member, arguments, cuda, musa, hip) Status(*member) arguments;
#include "platform/cuda/driver.def"
};

// Numbers of device attributes, which differ between CUDA and HIP.
struct AttributeNumbers {
  int major, minor, multiprocessors, l2_bytes, shared_bytes, warp_threads, integrated;
};

// A vendor: its names and what else differs. All other numbers (statuses, flags, attributes of pools and functions) are the same.
struct Vendor {
  std::string_view platform;                  // "cuda"
  std::string_view company;                   // "NVIDIA"
  int column;                                 // of driver.def
  std::vector<std::string> driver, compiler;  // file names of the libraries, the first that opens is taken
  std::string_view compiler_name;             // "NVRTC"
  std::vector<std::string> homes;             // environment variables that name the toolkit's folder
  std::string_view toolkit;                   // where it is installed: this folder, or this and a version
  AttributeNumbers attributes;
  std::string_view architecture;  // the compiler's option, with {} for the numbers; "": the compiler asks the device itself
  std::string_view exact, loose;  // the compiler's options: no contraction of products and sums, or as it likes
  std::string_view prelude;       // in front of every source: CUDA's spellings that this compiler lacks
  std::string_view advice;        // what to install if a library is missing
};

extern const Vendor kCuda, kMusa, kRocm;

// A shared library, found in the folders of a search path; it stays open until the process ends. Null if there is none; then
// `tried` gets an entry for each place: a folder, or a library there and why it does not load.
void* open_library(const std::vector<std::string>& names, const std::vector<std::filesystem::path>& folders,
                   std::vector<std::string>& tried);
std::string path_of_library(void* library);

// Where libraries are looked for, in this order: `given` (--cuda-path) and its lib folders, where the system looks (an empty
// path), the toolkit's folders (Vendor::homes, CONDA_PREFIX, Vendor::toolkit), and for NVIDIA those of pip's packages in
// VIRTUAL_ENV, beside the Pythons of PATH and in ~/.local.
std::vector<std::filesystem::path> library_folders(const std::filesystem::path& given, const Vendor& vendor = kCuda);

// Each is opened once per vendor and path, and may be called from any thread. Error of kind unsupported, naming what is missing
// and where it was looked for. `driver_version` (13000: CUDA 13.0): a compiler of the same major version is taken first, as a
// newer one makes programs that the driver does not load; 0: not known.
const DriverApi& load_driver(const Vendor& vendor, const std::filesystem::path& given);
const CompilerApi& load_compiler(const Vendor& vendor, const std::filesystem::path& given, int driver_version = 0);

// Throws an Error of kind device (out_of_memory for the status that means it) unless `status` is success; `call`, and what it was
// for, are named.
void check_driver(const DriverApi& api, const Vendor& vendor, Status status, std::string_view call, std::string_view what = {});

}  // namespace zoe::cuda
