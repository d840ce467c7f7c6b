// cuBLASLt, NVIDIA's library of matrix products, as far as this platform needs it: types, constants and prototypes are declared
// here, entry points are found at run time. Matrices are column-major there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

#include "platform/cuda/api.h"

namespace zoe::cuda {

using LtHandle = struct LtHandleTag*;
using LtProduct = struct LtProductTag*;        // what is computed
using LtLayout = struct LtLayoutTag*;          // a matrix in memory
using LtPreference = struct LtPreferenceTag*;  // what an algorithm must keep to

// How a product is computed. Plain bytes, which the same version of the library takes back.
struct LtAlgorithm {
  std::uint64_t words[8];
};

struct LtCandidate {
  LtAlgorithm algorithm;
  std::size_t workspace_bytes;
  Status state;  // of this candidate: the rest holds only if it is kSuccess
  float waves;
  int reserved[4];
};

// Data types, compute types and other values of the library's enumerations.
inline constexpr int kLtF32 = 0, kLtBf16 = 14;
inline constexpr int kLtComputeF32 = 68;  // products and sums in f32, without TF32
inline constexpr int kLtTransposed = 1;
inline constexpr std::uint32_t kLtPlain = 1, kLtBias = 4, kLtGelu = 32;  // epilogues; the last two may be joined
// Split sums: their parts may be added in the compute type; the other schemes (1: in the result's memory, 4: in its type) round
// parts to the result's type.
inline constexpr std::uint32_t kLtReduceInComputeType = 2;

enum class LtProductAttribute { transpose_a = 3, transpose_b = 4, epilogue = 7, bias = 8, bias_batch_stride = 10 };
enum class LtLayoutAttribute { batch_count = 5, batch_stride = 6 };
enum class LtPreferenceAttribute {
  workspace_bytes = 1,
  reductions = 3,
  alignment_a = 5,
  alignment_b = 6,
  alignment_c = 7,
  alignment_d = 8
};
enum class LtAlgorithmAttribute { id = 0, tile = 1, splits = 2, reduction = 3, stages = 6, cluster = 8 };

struct CublasltApi {
  std::string path;          // of the library
  std::size_t (*version)();  // 130101: 13.1.1
  const char* (*status_text)(Status status);
  Status (*create)(LtHandle* handle);  // for the context that is current
  Status (*destroy)(LtHandle handle);
  Status (*product_create)(LtProduct* product, int compute_type, int scale_type);
  Status (*product_destroy)(LtProduct product);
  Status (*product_set)(LtProduct product, LtProductAttribute attribute, const void* value, std::size_t bytes);
  Status (*layout_create)(LtLayout* layout, int type, std::uint64_t rows, std::uint64_t columns, std::int64_t column_stride);
  Status (*layout_destroy)(LtLayout layout);
  Status (*layout_set)(LtLayout layout, LtLayoutAttribute attribute, const void* value, std::size_t bytes);
  Status (*preference_create)(LtPreference* preference);
  Status (*preference_destroy)(LtPreference preference);
  Status (*preference_set)(LtPreference preference, LtPreferenceAttribute attribute, const void* value, std::size_t bytes);
  // The library's candidates, the one it expects to be fastest first.
  Status (*candidates)(LtHandle handle, LtProduct product, LtLayout a, LtLayout b, LtLayout c, LtLayout d, LtPreference preference,
                       int most, LtCandidate* found, int* count);
  Status (*check)(LtHandle handle, LtProduct product, LtLayout a, LtLayout b, LtLayout c, LtLayout d, const LtAlgorithm* algorithm,
                  LtCandidate* result);
  Status (*algorithm_get)(const LtAlgorithm* algorithm, LtAlgorithmAttribute attribute, void* value, std::size_t bytes,
                          std::size_t* written);
  // d = epilogue(alpha a b + beta c); alpha and beta are f32 in this process's memory.
  Status (*multiply)(LtHandle handle, LtProduct product, const void* alpha, Address a, LtLayout a_layout, Address b,
                     LtLayout b_layout, const void* beta, Address c, LtLayout c_layout, Address d, LtLayout d_layout,
                     const LtAlgorithm* algorithm, Address workspace, std::size_t workspace_bytes, StreamHandle stream);
};

// Opened once per path (see library_folders). Null if there is none that this platform can use; `why` says so then.
const CublasltApi* load_cublaslt(const std::filesystem::path& given, std::string& why);

}  // namespace zoe::cuda
