// Work that cuDNN does as one: a small graph of operations on tensors, and the plan that runs it.
//
// A graph is plain data. Its text is the key under which the plan that was chosen for it is kept in the kernel cache, with
// whatever code cuDNN generated for it: the second process to need it neither asks, compiles nor measures.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "platform/cuda/cudnn_api.h"
#include "platform/cuda/device.h"
#include "platform/kernel_cache.h"

namespace zoe::cuda {

struct CudnnTensor {
  std::vector<std::int64_t> dims, strides;  // in elements
  int type = cudnn::kFloat;
  enum class Where { memory, nowhere, value } where = Where::memory;  // nowhere: between two operations; value: one f32 on the host
};

struct CudnnOperation {
  int kind = cudnn::kPointwiseOperation;  // or a convolution (x, w), product (a, b), reduction (x), softmax (x)
  int mode = 0;                           // of a pointwise operation or a reduction
  std::vector<int> inputs = {};           // numbers of tensors
  int output = 0;
  std::vector<std::int64_t> stride = {}, pad_begin = {}, pad_end = {};  // of a convolution, an element an axis
  std::string text() const;
};

// Arithmetic is in f32 throughout; what is stored is rounded to its tensor's type.
struct CudnnGraph {
  std::vector<CudnnTensor> tensors;
  std::vector<CudnnOperation> operations;

  int tensor(CudnnTensor tensor);
  int pointwise(int mode, std::vector<int> inputs, CudnnTensor output);
  int reduction(int mode, int input, CudnnTensor output);
  std::string text() const;      // equal text, equal graph
  std::string headline() const;  // the first operation, for people
};

class Cudnn;

// Immutable; may be run from any thread.
class CudnnPlan {
 public:
  // Owns `plan`.
  CudnnPlan(std::shared_ptr<Cudnn> cudnn, const CudnnGraph& graph, CudnnDescriptor plan, std::string engine);
  ~CudnnPlan();
  CudnnPlan(const CudnnPlan&) = delete;
  CudnnPlan& operator=(const CudnnPlan&) = delete;

  std::size_t workspace_bytes() const { return workspace_; }
  const std::string& engine() const { return engine_; }  // cuDNN's number of it
  std::string json() const;                              // all of it, with generated code
  // Addresses of the graph's tensors in memory and pointers to its values, in the order of the tensors. Engines count on addresses
  // that are multiples of 16; tensors elsewhere (a slice or a part of a concat at an odd offset) are copied, which no graph can
  // hold.
  void run(StreamHandle stream, std::span<void* const> operands, Address workspace) const;

 private:
  const std::shared_ptr<Cudnn> cudnn_;
  const CudnnDescriptor plan_;
  const std::string engine_;
  std::size_t workspace_ = 0;
  struct Operand {
    std::size_t size_bytes;  // in device memory; 0 for a value
    bool is_result;
  };
  void execute(StreamHandle stream, std::span<void* const> operands, Address workspace) const;
  void run_on_copies(StreamHandle stream, std::span<void* const> operands, Address workspace) const;

  std::vector<std::int64_t> ids_;  // of the operands
  std::vector<Operand> operands_;
};

// cuDNN on one device.
class Cudnn : public std::enable_shared_from_this<Cudnn> {
 public:
  // Null if it does not open on this device; `why` then says why.
  static std::shared_ptr<Cudnn> open(const CudnnApi& api, const DevicePtr& device, std::string& why);
  Cudnn(const CudnnApi& api, DevicePtr device);
  ~Cudnn();

  // The fastest of the plans that cuDNN proposes first, measured once if there are several. Null if it has none; `why` then says
  // so. Engines that compute f32 with fewer bits, by transforms, or with results that change from run to run are left out.
  std::shared_ptr<CudnnPlan> plan(const CudnnGraph& graph, std::string& why);

  const CudnnApi& api;
  const DevicePtr device;
  const std::string version;  // "9.19.0"

 private:
  friend class CudnnPlan;
  std::shared_ptr<CudnnPlan> stored(const CudnnGraph& graph, const KernelRecipe& recipe);
  void store(const CudnnPlan& plan, const KernelRecipe& recipe);
  std::vector<std::shared_ptr<CudnnPlan>> proposals(const CudnnGraph& graph, std::string& why);
  std::size_t fastest(const CudnnGraph& graph, std::span<const std::shared_ptr<CudnnPlan>> plans) const;

  CudnnHandle handle_ = nullptr;
  mutable std::mutex mutex_;  // of the handle, which one thread may use at a time
  std::mutex plans_mutex_;
  std::map<std::string, std::weak_ptr<CudnnPlan>> plans_;  // by the graph's text
};

}  // namespace zoe::cuda
