// cuBLASLt on one device: which algorithm each product takes. The library offers some; each is timed once on random numbers, and
// the fastest is kept in the kernel cache (docs/kernel-cache.md).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "platform/cuda/cublaslt_api.h"
#include "platform/cuda/device.h"
#include "platform/kernel_cache.h"

namespace zoe::cuda {

// result[rows, columns] = activation(x[rows, inner] weight[columns, inner]^T + bias) + residual, all dense and row-major, all of
// one dtype, sums in f32, one rounding at the end. GELU and a residual are not joined.
struct LtProblem {
  DType dtype;
  std::int64_t rows, columns, inner;
  bool bias, gelu, residual;

  std::string text() const;  // "bf16 32760x8960x1536 bias gelu"
};

struct LtOperands {
  Address x = 0, weight = 0, bias = 0, residual = 0,
          result = 0;  // bias and residual: 0 if there is none; result: a place of its own
};

struct LtChoice {
  LtAlgorithm algorithm;
  std::size_t workspace_bytes;
};

// The algorithms that were found fastest, on disk: an entry a device, library and problem.
class AlgorithmCache {
 public:
  // `library`, `device`: all that an algorithm's meaning and its time depend on.
  AlgorithmCache(std::shared_ptr<KernelCache> cache, std::string library, std::string device);
  std::optional<LtAlgorithm> find(const LtProblem& problem);
  void store(const LtProblem& problem, const LtAlgorithm& algorithm);
  void reject(const LtProblem& problem, std::string_view why);  // what find() returned is of no use

 private:
  KernelRecipe recipe(const LtProblem& problem) const;
  const std::shared_ptr<KernelCache> cache_;
  const std::string library_, device_;
};

class Cublaslt {
 public:
  Cublaslt(DevicePtr device, const CublasltApi& api);
  ~Cublaslt();
  Cublaslt(const Cublaslt&) = delete;
  Cublaslt& operator=(const Cublaslt&) = delete;

  // Nothing if the library has no algorithm for it that rounds once.
  std::optional<LtChoice> choose(const LtProblem& problem);
  std::string describe(const LtAlgorithm& algorithm) const;  // "128x256 tile, cluster 2x1"
  // Every address is a multiple of kAlignment, that of the workspace of kWorkspaceAlignment.
  void multiply(const LtProblem& problem, const LtChoice& choice, const LtOperands& operands, Address workspace,
                StreamHandle stream) const;

  static constexpr Address kAlignment = 16, kWorkspaceAlignment = 256;

 private:
  class Bench;  // random operands of a problem, and a clock
  std::vector<LtCandidate> candidates(const LtProblem& problem) const;
  std::optional<LtChoice> cached(const LtProblem& problem);
  // The fastest of those that round once; nothing if none does.
  std::optional<LtChoice> fastest(const LtProblem& problem, const std::vector<LtCandidate>& offered);
  std::vector<std::size_t> by_time(const LtProblem& problem, const std::vector<LtCandidate>& offered, const Bench& bench,
                                   std::vector<double>& medians);
  void check_status(Status status, std::string_view call, const LtProblem& problem) const;

  const DevicePtr device_;
  const CublasltApi& api_;
  LtHandle handle_ = nullptr;
  std::mutex mutex_;  // of what follows
  AlgorithmCache cache_;
  std::map<std::string, std::optional<LtChoice>> chosen_;  // by the problem's text
  double measured_ms_ = 0;
  bool awake_ = false;  // the device is as warm, and its clock as low, as in a long run
};

}  // namespace zoe::cuda
