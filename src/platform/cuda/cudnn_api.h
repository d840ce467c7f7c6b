// cuDNN 9's graph API, as far as this platform needs it: prototypes and numbers of our own, entry points found at run time.
//
// A graph is described with descriptors: opaque objects that are created, get attributes, and are finalised. Names and values are
// those of cudnn_graph.h; a call returns 0 for success.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

#include "platform/cuda/api.h"

namespace zoe::cuda {

using CudnnStatus = int;
using CudnnHandle = struct CudnnHandleTag*;
using CudnnDescriptor = void*;

struct CudnnApi {
  std::string path;
  std::size_t (*version)();  // 91900: 9.19.0
  const char* (*error_text)(CudnnStatus status);
  void (*last_error)(char* text, std::size_t size);  // of this thread
  CudnnStatus (*create)(CudnnHandle* handle);
  CudnnStatus (*destroy)(CudnnHandle handle);
  CudnnStatus (*set_stream)(CudnnHandle handle, StreamHandle stream);
  CudnnStatus (*descriptor_create)(int kind, CudnnDescriptor* descriptor);
  CudnnStatus (*descriptor_destroy)(CudnnDescriptor descriptor);
  CudnnStatus (*descriptor_finalize)(CudnnDescriptor descriptor);
  CudnnStatus (*descriptor_set)(CudnnDescriptor descriptor, int name, int type, std::int64_t count, const void* values);
  CudnnStatus (*descriptor_get)(CudnnDescriptor descriptor, int name, int type, std::int64_t room, std::int64_t* count,
                                void* values);
  CudnnStatus (*execute)(CudnnHandle handle, CudnnDescriptor plan, CudnnDescriptor operands);
};

struct CudnnLibrary {
  CudnnApi api;
  std::string why;  // there is none that can be used, and where it was looked for; empty if there is
};

// Opened once per path.
const CudnnLibrary& load_cudnn(const std::filesystem::path& given);

std::string cudnn_version(const CudnnApi& api);  // "9.19.0"

namespace cudnn {

enum Kind {
  kPointwise = 0,
  kConvolution = 1,
  kEngine = 2,
  kEngineConfig = 3,
  kHeuristics = 4,
  kExecutionPlan = 5,
  kConvolutionForward = 10,
  kPointwiseOperation = 13,
  kOperationGraph = 15,
  kVariantPack = 16,
  kTensor = 17,
  kMatmul = 18,
  kMatmulOperation = 19,
  kReduction = 21,
  kReductionOperation = 22,
  kSoftmaxOperation = 45
};

enum Attribute {
  kPointwiseMode = 0,
  kPointwisePrecision = 1,
  kConvolutionPrecision = 100,
  kConvolutionMode = 101,
  kConvolutionDilations = 102,
  kConvolutionStrides = 103,
  kConvolutionPostPaddings = 104,
  kConvolutionPrePaddings = 105,
  kConvolutionAxes = 106,
  kHeuristicsMode = 200,
  kHeuristicsGraph = 201,
  kHeuristicsResults = 202,
  kConfigEngine = 300,
  kPlanHandle = 400,
  kPlanConfig = 401,
  kPlanWorkspace = 402,
  kPlanJson = 405,
  kConvolutionAlpha = 700,
  kConvolutionBeta = 701,
  kConvolutionDescriptor = 702,
  kConvolutionW = 703,
  kConvolutionX = 704,
  kConvolutionY = 705,
  kPointwiseDescriptor = 750,
  kPointwiseX = 751,
  kPointwiseB = 752,
  kPointwiseY = 753,
  kGraphHandle = 800,
  kGraphOperations = 801,
  kTensorAlignment = 900,
  kTensorType = 901,
  kTensorDimensions = 902,
  kTensorStrides = 903,
  kTensorId = 906,
  kTensorIsVirtual = 907,
  kTensorIsByValue = 908,
  kPackIds = 1000,
  kPackPointers = 1001,
  kPackWorkspace = 1003,
  kEngineIndex = 1301,
  kEngineNumericalNotes = 1303,
  kEngineBehaviorNotes = 1305,
  kMatmulPrecision = 1500,
  kMatmulA = 1520,
  kMatmulB = 1521,
  kMatmulC = 1522,
  kMatmulDescriptor = 1523,
  kReductionMode = 1600,
  kReductionPrecision = 1601,
  kReductionX = 1610,
  kReductionY = 1611,
  kReductionDescriptor = 1612,
  kSoftmaxX = 3100,
  kSoftmaxY = 3101
};

enum AttributeType {
  kHandleType = 0,
  kDataTypeType = 1,
  kBooleanType = 2,
  kInt64Type = 3,
  kFloatType = 4,
  kPointerType = 6,
  kConvolutionModeType = 7,
  kHeuristicsModeType = 8,
  kNumericalNoteType = 11,
  kPointwiseModeType = 14,
  kDescriptorType = 15,
  kReductionModeType = 18,
  kBehaviorNoteType = 19,
  kCharType = 24
};

enum DataType { kFloat = 0, kBf16 = 9 };
enum PointwiseMode { kAdd = 0, kMultiply = 1, kDivide = 6, kSubtract = 9, kExp = 13, kLog = 15 };
enum ReductionMode { kSum = 0, kMax = 3 };
enum Numbers { kCrossCorrelation = 1, kHeuristicsA = 3, kHeuristicsFallback = 2 };
// What an engine does to numbers and when it is built.
enum NumericalNote { kTensorCore = 0, kDownConvert = 1, kReducedReduction = 2, kFft = 3, kNondeterministic = 4, kWinograd = 5 };
enum BehaviorNote { kRuntimeCompilation = 0 };

}  // namespace cudnn

}  // namespace zoe::cuda
