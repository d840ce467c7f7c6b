#include "platform/cuda/cudnn_plan.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "base/log.h"

namespace zoe::cuda {
namespace {

constexpr std::int64_t kAlignment = 16;
constexpr std::int64_t kMostProposals = 32;  // that are looked at
constexpr std::size_t kMostMeasured = 8;     // plans that are built and timed
constexpr int kMeasuredRuns = 3;
constexpr float kHopeless = 1.2f;  // times the fastest: not timed again
constexpr std::size_t kMostWorkspaceBytes = std::size_t{256} << 20;

// A call that cuDNN refused: an expected no while a plan is looked for.
struct Refusal {
  std::string text;
};

std::string last_error(const CudnnApi& api, CudnnStatus status, std::string_view call) {
  std::array<char, 512> text{};
  api.last_error(text.data(), text.size() - 1);
  return fmt::format("{}: {}{}{}", call, api.error_text(status), text[0] ? ", " : "", text.data());
}

class Descriptor {
 public:
  Descriptor(const CudnnApi& api, int kind, std::string_view what) : api_(&api), what_(what) {
    ok(api.descriptor_create(kind, &handle_));
  }
  Descriptor(Descriptor&& other) noexcept : api_(other.api_), what_(other.what_), handle_(std::exchange(other.handle_, nullptr)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (handle_) api_->descriptor_destroy(handle_);
  }

  CudnnDescriptor get() const { return handle_; }
  CudnnDescriptor release() { return std::exchange(handle_, nullptr); }

  template <class T>
  Descriptor& set(int name, int type, std::span<const T> values) {
    ok(api_->descriptor_set(handle_, name, type, static_cast<std::int64_t>(values.size()), values.data()));
    return *this;
  }
  template <class T>
  Descriptor& set(int name, int type, const T& value) {
    return set(name, type, std::span<const T>(&value, 1));
  }
  Descriptor& set(int name, const Descriptor& value) { return set(name, cudnn::kDescriptorType, value.get()); }
  Descriptor& set(int name, const std::vector<std::int64_t>& values) {
    return set(name, cudnn::kInt64Type, std::span<const std::int64_t>(values));
  }
  Descriptor& integer(int name, std::int64_t value) { return set(name, cudnn::kInt64Type, value); }
  Descriptor& type(int name, int value) { return set(name, cudnn::kDataTypeType, value); }
  Descriptor& finalize() {
    ok(api_->descriptor_finalize(handle_));
    return *this;
  }

  // Fills in values; returns how many there are.
  template <class T>
  std::int64_t get(int name, int type, std::span<T> values) const {
    std::int64_t count = 0;
    ok(api_->descriptor_get(handle_, name, type, static_cast<std::int64_t>(values.size()), &count, values.data()));
    return count;
  }

 private:
  void ok(CudnnStatus status) const {
    if (status != 0) throw Refusal{last_error(*api_, status, what_)};
  }

  const CudnnApi* api_;
  std::string_view what_;
  CudnnDescriptor handle_ = nullptr;
};

Descriptor tensor_descriptor(const CudnnApi& api, const CudnnTensor& tensor, std::int64_t id) {
  using Where = CudnnTensor::Where;
  Descriptor descriptor(api, cudnn::kTensor, "a tensor");
  descriptor.type(cudnn::kTensorType, tensor.type)
      .set(cudnn::kTensorDimensions, tensor.dims)
      .set(cudnn::kTensorStrides, tensor.strides)
      .integer(cudnn::kTensorId, id)
      .integer(cudnn::kTensorAlignment, kAlignment)
      .set(cudnn::kTensorIsVirtual, cudnn::kBooleanType, tensor.where == Where::nowhere)
      .set(cudnn::kTensorIsByValue, cudnn::kBooleanType, tensor.where == Where::value);
  descriptor.finalize();
  return descriptor;
}

// `details` keeps what the operation refers to.
Descriptor operation_descriptor(const CudnnApi& api, const CudnnOperation& operation, const std::vector<Descriptor>& tensors,
                                std::vector<Descriptor>& details) {
  const auto tensor = [&](int number) -> const Descriptor& { return tensors[static_cast<std::size_t>(number)]; };
  const auto input = [&](std::size_t i) -> const Descriptor& { return tensor(operation.inputs[i]); };
  if (operation.kind == cudnn::kConvolutionForward) {
    Descriptor& window = details.emplace_back(api, cudnn::kConvolution, "a convolution's window");
    window.type(cudnn::kConvolutionPrecision, cudnn::kFloat)
        .set(cudnn::kConvolutionMode, cudnn::kConvolutionModeType, static_cast<int>(cudnn::kCrossCorrelation))
        .integer(cudnn::kConvolutionAxes, static_cast<std::int64_t>(operation.stride.size()))
        .set(cudnn::kConvolutionDilations, std::vector<std::int64_t>(operation.stride.size(), 1))
        .set(cudnn::kConvolutionStrides, operation.stride)
        .set(cudnn::kConvolutionPrePaddings, operation.pad_begin)
        .set(cudnn::kConvolutionPostPaddings, operation.pad_end)
        .finalize();
    Descriptor descriptor(api, cudnn::kConvolutionForward, "a convolution");
    descriptor.set(cudnn::kConvolutionAlpha, cudnn::kFloatType, 1.0f)
        .set(cudnn::kConvolutionBeta, cudnn::kFloatType, 0.0f)
        .set(cudnn::kConvolutionDescriptor, window)
        .set(cudnn::kConvolutionX, input(0))
        .set(cudnn::kConvolutionW, input(1))
        .set(cudnn::kConvolutionY, tensor(operation.output))
        .finalize();
    return descriptor;
  }
  if (operation.kind == cudnn::kMatmulOperation) {
    Descriptor& product = details.emplace_back(api, cudnn::kMatmul, "a product's precision");
    product.type(cudnn::kMatmulPrecision, cudnn::kFloat).finalize();
    Descriptor descriptor(api, cudnn::kMatmulOperation, "a product");
    descriptor.set(cudnn::kMatmulDescriptor, product)
        .set(cudnn::kMatmulA, input(0))
        .set(cudnn::kMatmulB, input(1))
        .set(cudnn::kMatmulC, tensor(operation.output))
        .finalize();
    return descriptor;
  }
  if (operation.kind == cudnn::kReductionOperation) {
    Descriptor& reduction = details.emplace_back(api, cudnn::kReduction, "a reduction's mode");
    reduction.type(cudnn::kReductionPrecision, cudnn::kFloat)
        .set(cudnn::kReductionMode, cudnn::kReductionModeType, operation.mode)
        .finalize();
    Descriptor descriptor(api, cudnn::kReductionOperation, "a reduction");
    descriptor.set(cudnn::kReductionDescriptor, reduction)
        .set(cudnn::kReductionX, input(0))
        .set(cudnn::kReductionY, tensor(operation.output))
        .finalize();
    return descriptor;
  }
  if (operation.kind == cudnn::kSoftmaxOperation) {
    Descriptor descriptor(api, cudnn::kSoftmaxOperation, "a softmax");
    descriptor.set(cudnn::kSoftmaxX, input(0)).set(cudnn::kSoftmaxY, tensor(operation.output)).finalize();
    return descriptor;
  }
  Descriptor& pointwise = details.emplace_back(api, cudnn::kPointwise, "a pointwise operation's mode");
  pointwise.set(cudnn::kPointwiseMode, cudnn::kPointwiseModeType, operation.mode)
      .type(cudnn::kPointwisePrecision, cudnn::kFloat)
      .finalize();
  Descriptor descriptor(api, cudnn::kPointwiseOperation, "a pointwise operation");
  descriptor.set(cudnn::kPointwiseDescriptor, pointwise).set(cudnn::kPointwiseX, input(0));
  if (operation.inputs.size() > 1) descriptor.set(cudnn::kPointwiseB, input(1));
  descriptor.set(cudnn::kPointwiseY, tensor(operation.output)).finalize();
  return descriptor;
}

bool contains(const std::vector<int>& notes, int note) { return std::find(notes.begin(), notes.end(), note) != notes.end(); }

// A graph as cuDNN has it, and all that it refers to.
struct WholeGraph {
  WholeGraph(const CudnnApi& api, const CudnnGraph& description, CudnnHandle handle)
      : graph(api, cudnn::kOperationGraph, "a graph") {
    for (const CudnnTensor& tensor : description.tensors)
      tensors.push_back(tensor_descriptor(api, tensor, static_cast<std::int64_t>(tensors.size()) + 1));
    details.reserve(description.operations.size());
    std::vector<CudnnDescriptor> handles;
    for (const CudnnOperation& operation : description.operations)
      handles.push_back(operations.emplace_back(operation_descriptor(api, operation, tensors, details)).get());
    graph.set(cudnn::kGraphHandle, cudnn::kHandleType, handle)
        .set(cudnn::kGraphOperations, cudnn::kDescriptorType, std::span<const CudnnDescriptor>(handles))
        .finalize();
  }
  std::vector<Descriptor> tensors, details, operations;
  Descriptor graph;
};

// What cuDNN proposes, best first.
std::vector<Descriptor> engine_configs(const CudnnApi& api, const Descriptor& graph, int mode) {
  Descriptor heuristics(api, cudnn::kHeuristics, "proposals");
  heuristics.set(cudnn::kHeuristicsGraph, graph).set(cudnn::kHeuristicsMode, cudnn::kHeuristicsModeType, mode).finalize();
  std::vector<Descriptor> configs;
  std::vector<CudnnDescriptor> handles;
  for (std::int64_t i = 0; i < kMostProposals; ++i)
    handles.push_back(configs.emplace_back(api, cudnn::kEngineConfig, "an engine's configuration").get());
  const std::int64_t count = heuristics.get(cudnn::kHeuristicsResults, cudnn::kDescriptorType, std::span<CudnnDescriptor>(handles));
  while (static_cast<std::int64_t>(configs.size()) > count) configs.pop_back();
  return configs;
}

struct Engine {
  Engine(const CudnnApi& api, const Descriptor& config) {
    const Descriptor engine(api, cudnn::kEngine, "an engine");
    CudnnDescriptor handle = engine.get();
    config.get(cudnn::kConfigEngine, cudnn::kDescriptorType, std::span<CudnnDescriptor>(&handle, 1));
    engine.get(cudnn::kEngineIndex, cudnn::kInt64Type, std::span<std::int64_t>(&number, 1));
    std::array<int, 32> notes{};
    const auto read = [&](int name, int type) {
      const std::int64_t count = engine.get(name, type, std::span<int>(notes));
      return std::vector<int>(notes.begin(), notes.begin() + count);
    };
    numerical = read(cudnn::kEngineNumericalNotes, cudnn::kNumericalNoteType);
    is_generated = contains(read(cudnn::kEngineBehaviorNotes, cudnn::kBehaviorNoteType), cudnn::kRuntimeCompilation);
  }
  // Whether it multiplies what it is given, adds in f32, and gives the same bits every time.
  bool keeps_precision(bool bf16) const {
    for (const int note : {cudnn::kNondeterministic, cudnn::kReducedReduction, cudnn::kDownConvert, cudnn::kFft, cudnn::kWinograd})
      if (contains(numerical, note)) return false;
    return bf16 || !contains(numerical, cudnn::kTensorCore);  // f32 on tensor cores is TF32
  }
  std::int64_t number = 0;
  std::vector<int> numerical;
  bool is_generated = false;
};

std::size_t size_bytes(const CudnnTensor& tensor) {
  std::int64_t last = 0;
  for (std::size_t i = 0; i < tensor.dims.size(); ++i) last += (tensor.dims[i] - 1) * tensor.strides[i];
  return static_cast<std::size_t>(last + 1) * (tensor.type == cudnn::kBf16 ? 2 : 4);
}

class Timer {
 public:
  Timer(const Device& device, StreamHandle stream) : device_(device), stream_(stream) {
    for (EventHandle& event : events_) device.check_status(device.api.event_create(&event, 0), "creating an event");
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() {
    for (const EventHandle event : events_) device_.api.event_destroy(event);
  }
  void mark(std::size_t which) { device_.check_status(device_.api.event_record(events_[which], stream_), "recording an event"); }
  float milliseconds() {
    float elapsed = 0;
    device_.check_status(device_.api.event_synchronize(events_[1]), "waiting for an event");
    device_.check_status(device_.api.event_elapsed(&elapsed, events_[0], events_[1]), "reading an event");
    return elapsed;
  }

 private:
  const Device& device_;
  const StreamHandle stream_;
  std::array<EventHandle, 2> events_{};
};

}  // namespace

std::string CudnnOperation::text() const {
  return fmt::format("operation {} mode {} of {} to {}, stride [{}], pads [{}] [{}]", kind, mode, fmt::join(inputs, ","), output,
                     fmt::join(stride, ","), fmt::join(pad_begin, ","), fmt::join(pad_end, ","));
}

int CudnnGraph::tensor(CudnnTensor tensor) {
  tensors.push_back(std::move(tensor));
  return static_cast<int>(tensors.size()) - 1;
}

int CudnnGraph::pointwise(int mode, std::vector<int> inputs, CudnnTensor output) {
  const int number = tensor(std::move(output));
  operations.push_back({.mode = mode, .inputs = std::move(inputs), .output = number});
  return number;
}

int CudnnGraph::reduction(int mode, int input, CudnnTensor output) {
  const int number = tensor(std::move(output));
  operations.push_back({.kind = cudnn::kReductionOperation, .mode = mode, .inputs = {input}, .output = number});
  return number;
}

std::string CudnnGraph::text() const {
  std::string text;
  for (const CudnnTensor& tensor : tensors)
    text +=
        fmt::format("tensor {} [{}] strides [{}] {}\n", tensor.type, fmt::join(tensor.dims, ","), fmt::join(tensor.strides, ","),
                    tensor.where == CudnnTensor::Where::memory    ? "memory"
                    : tensor.where == CudnnTensor::Where::nowhere ? "nowhere"
                                                                  : "value");
  for (const CudnnOperation& operation : operations) text += operation.text() + "\n";
  return text;
}

std::string CudnnGraph::headline() const {
  std::string shapes;
  for (const int input : operations.front().inputs)
    shapes += fmt::format("[{}] ", fmt::join(tensors[static_cast<std::size_t>(input)].dims, ","));
  return fmt::format("operation {} of {}and {} more", operations.front().kind, shapes, operations.size() - 1);
}

CudnnPlan::CudnnPlan(std::shared_ptr<Cudnn> cudnn, const CudnnGraph& graph, CudnnDescriptor plan, std::string engine)
    : cudnn_(std::move(cudnn)), plan_(plan), engine_(std::move(engine)) {
  std::int64_t bytes = 0, count = 0;
  const CudnnStatus status = cudnn_->api.descriptor_get(plan_, cudnn::kPlanWorkspace, cudnn::kInt64Type, 1, &count, &bytes);
  check(status == 0, ErrorKind::device, "cudnn", "{}.", last_error(cudnn_->api, status, "a plan's workspace"));
  workspace_ = static_cast<std::size_t>(bytes);
  std::vector<bool> is_result(graph.tensors.size());
  for (const CudnnOperation& operation : graph.operations) is_result[static_cast<std::size_t>(operation.output)] = true;
  for (std::size_t i = 0; i < graph.tensors.size(); ++i) {
    const CudnnTensor& tensor = graph.tensors[i];
    if (tensor.where == CudnnTensor::Where::nowhere) continue;
    ids_.push_back(static_cast<std::int64_t>(i) + 1);
    operands_.push_back({tensor.where == CudnnTensor::Where::memory ? size_bytes(tensor) : 0, is_result[i]});
  }
}

CudnnPlan::~CudnnPlan() { cudnn_->api.descriptor_destroy(plan_); }

std::string CudnnPlan::json() const {
  std::int64_t size = 0;
  const auto get = [&](std::int64_t room, char* text) {
    return cudnn_->api.descriptor_get(plan_, cudnn::kPlanJson, cudnn::kCharType, room, &size, text);
  };
  if (get(0, nullptr) != 0 || size <= 0) return {};
  std::string text(static_cast<std::size_t>(size), '\0');
  if (get(size, text.data()) != 0) return {};
  return text;
}

void CudnnPlan::run(StreamHandle stream, std::span<void* const> operands, Address workspace) const {
  ZOE_INTERNAL_CHECK(operands.size() == operands_.size());
  cudnn_->device->make_current();
  for (std::size_t i = 0; i < operands.size(); ++i)
    if (operands_[i].size_bytes && reinterpret_cast<Address>(operands[i]) % kAlignment != 0)
      return run_on_copies(stream, operands, workspace);
  execute(stream, operands, workspace);
}

void CudnnPlan::run_on_copies(StreamHandle stream, std::span<void* const> operands, Address workspace) const {
  Device& device = *cudnn_->device;
  const auto copy = [&](void* to, const void* from, std::size_t bytes) {
    device.check_status(device.api.copy_async(reinterpret_cast<Address>(to), reinterpret_cast<Address>(from), bytes, stream),
                        "a copy");
  };
  std::vector<std::shared_ptr<Buffer>> copies(operands.size());
  std::vector<void*> places(operands.begin(), operands.end());
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const std::size_t bytes = operands_[i].size_bytes;
    if (reinterpret_cast<Address>(operands[i]) % kAlignment == 0 || bytes == 0) continue;
    copies[i] = device.allocate(bytes, "operands at odd addresses");
    places[i] = copies[i]->data;
    if (!operands_[i].is_result) copy(places[i], operands[i], bytes);
  }
  execute(stream, places, workspace);
  for (std::size_t i = 0; i < operands.size(); ++i)
    if (copies[i] && operands_[i].is_result) copy(operands[i], places[i], operands_[i].size_bytes);
}

void CudnnPlan::execute(StreamHandle stream, std::span<void* const> operands, Address workspace) const {
  const CudnnApi& api = cudnn_->api;
  try {
    Descriptor pack(api, cudnn::kVariantPack, "operands");
    pack.set(cudnn::kPackIds, ids_)
        .set(cudnn::kPackPointers, cudnn::kPointerType, operands)
        .set(cudnn::kPackWorkspace, cudnn::kPointerType, reinterpret_cast<void*>(workspace))
        .finalize();
    const std::lock_guard lock(cudnn_->mutex_);
    CudnnStatus status = api.set_stream(cudnn_->handle_, stream);
    if (status == 0) status = api.execute(cudnn_->handle_, plan_, pack.get());
    if (status != 0) throw Refusal{last_error(api, status, "running a plan")};
  } catch (const Refusal& refusal) {
    fail(ErrorKind::device, "cudnn", "{} ({}).", refusal.text, engine_);
  }
}

Cudnn::Cudnn(const CudnnApi& api_, DevicePtr device_) : api(api_), device(std::move(device_)), version(cudnn_version(api_)) {}

Cudnn::~Cudnn() {
  if (handle_) api.destroy(handle_);
}

std::shared_ptr<Cudnn> Cudnn::open(const CudnnApi& api, const DevicePtr& device, std::string& why) {
  auto cudnn = std::make_shared<Cudnn>(api, device);
  device->make_current();
  if (const CudnnStatus status = api.create(&cudnn->handle_); status != 0) {
    why = last_error(api, status, fmt::format("cuDNN {} does not open", cudnn->version));
    return nullptr;
  }
  return cudnn;
}

std::shared_ptr<CudnnPlan> Cudnn::plan(const CudnnGraph& graph, std::string& why) {
  KernelRecipe recipe{.name = "cudnn_plan", .dialect = "cudnn", .source = graph.text()};
  recipe.compiler = "cudnn " + version;
  recipe.target = fmt::format("{} {}.{}, driver {}", device->description.name, device->description.major, device->description.minor,
                              device->description.driver_version);
  const std::lock_guard lock(plans_mutex_);
  std::weak_ptr<CudnnPlan>& known = plans_[recipe.source];
  if (std::shared_ptr<CudnnPlan> plan = known.lock()) return plan;
  device->make_current();
  std::shared_ptr<CudnnPlan> chosen = stored(graph, recipe);
  if (!chosen) {
    const std::vector<std::shared_ptr<CudnnPlan>> plans = proposals(graph, why);
    if (plans.empty()) return nullptr;
    chosen = plans.front();
    if (plans.size() > 1) try {
        chosen = plans[fastest(graph, plans)];
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::out_of_memory) throw;
        known = chosen;  // unmeasured, and not remembered as the best
        return chosen;
      }
    store(*chosen, recipe);
  }
  known = chosen;
  return chosen;
}

std::shared_ptr<CudnnPlan> Cudnn::stored(const CudnnGraph& graph, const KernelRecipe& recipe) {
  const auto entry = device->cache->read(recipe);
  if (!entry) return nullptr;
  const std::lock_guard lock(mutex_);
  try {
    Descriptor plan(api, cudnn::kExecutionPlan, "a stored plan");
    plan.set(cudnn::kPlanHandle, cudnn::kHandleType, handle_)
        .set(cudnn::kPlanJson, cudnn::kCharType, std::span<const char>(entry->bytes))
        .finalize();
    return std::make_shared<CudnnPlan>(shared_from_this(), graph, plan.release(), entry->symbol);
  } catch (const Refusal& refusal) {
    device->cache->reject(recipe, refusal.text);
    return nullptr;
  }
}

void Cudnn::store(const CudnnPlan& plan, const KernelRecipe& recipe) {
  const std::string json = plan.json();
  if (json.empty()) return;  // an engine that cannot be written down
  const KernelCache::NewKernel entry{&recipe, "plan.json", plan.engine(), json};
  device->cache->store({&entry, 1});
}

std::vector<std::shared_ptr<CudnnPlan>> Cudnn::proposals(const CudnnGraph& graph, std::string& why) {
  std::vector<std::shared_ptr<CudnnPlan>> plans;
  why = "cuDNN proposes no engine";
  const std::lock_guard lock(mutex_);
  try {
    const WholeGraph whole(api, graph, handle_);
    const bool bf16 = std::any_of(graph.tensors.begin(), graph.tensors.end(),
                                  [](const CudnnTensor& tensor) { return tensor.type == cudnn::kBf16; });
    for (const int mode : {cudnn::kHeuristicsA, cudnn::kHeuristicsFallback}) {
      const std::vector<Descriptor> configs = engine_configs(api, whole.graph, mode);
      // Engines that are there already come first: another takes a second to generate.
      for (const bool generated : {false, true})
        for (const Descriptor& config : configs) {
          if (plans.size() >= (generated ? 1 : kMostMeasured)) break;
          try {
            const Engine engine(api, config);
            if (engine.is_generated != generated || !engine.keeps_precision(bf16)) continue;
            Descriptor plan(api, cudnn::kExecutionPlan, "a plan");
            plan.set(cudnn::kPlanHandle, cudnn::kHandleType, handle_).set(cudnn::kPlanConfig, config).finalize();
            auto made =
                std::make_shared<CudnnPlan>(shared_from_this(), graph, plan.release(), fmt::format("engine {}", engine.number));
            if (made->workspace_bytes() <= kMostWorkspaceBytes) plans.push_back(std::move(made));
          } catch (const Refusal& refusal) {
            why = refusal.text;
          }
        }
      if (!plans.empty()) break;
    }
  } catch (const Refusal& refusal) {
    why = refusal.text;
  }
  return plans;
}

std::size_t Cudnn::fastest(const CudnnGraph& graph, std::span<const std::shared_ptr<CudnnPlan>> plans) const {
  const StreamHandle stream = device->memory_stream();
  std::vector<std::shared_ptr<Buffer>> buffers;
  std::vector<void*> operands;
  // On zeros products run faster than they will: small numbers in either type.
  const auto room = [&](std::size_t bytes) {
    buffers.push_back(device->allocate(bytes, "measuring cuDNN's plans"));
    device->check_status(device->api.set_bytes_async(reinterpret_cast<Address>(buffers.back()->data), 0x3c, bytes, stream),
                         "a fill");
    return buffers.back()->data;
  };
  float value = 1.0f;
  for (const CudnnTensor& tensor : graph.tensors) {
    if (tensor.where == CudnnTensor::Where::value) operands.push_back(&value);
    if (tensor.where == CudnnTensor::Where::memory) operands.push_back(room(size_bytes(tensor)));
  }
  std::size_t most = 1, best = 0;
  for (const auto& plan : plans) most = std::max(most, plan->workspace_bytes());
  const auto workspace = reinterpret_cast<Address>(room(most));
  float first = 0, least = 0;  // of one run
  Timer timer(*device, stream);
  const auto time = [&](const CudnnPlan& plan, int runs) {
    timer.mark(0);
    for (int run = 0; run < runs; ++run) plan.run(stream, operands, workspace);
    timer.mark(1);
    return timer.milliseconds() / static_cast<float>(runs);
  };
  for (std::size_t i = 0; i < plans.size(); ++i) {
    plans[i]->run(stream, operands, workspace);
    float elapsed = time(*plans[i], 1);
    if (i > 0 && elapsed > kHopeless * least) continue;
    elapsed = time(*plans[i], kMeasuredRuns);
    if (i == 0) first = elapsed;
    if (i > 0 && elapsed >= least) continue;
    best = i;
    least = elapsed;
  }
  log(LogLevel::detail, fmt::format("cuDNN: plan {} of {} is the fastest, {:.3f} ms against the first's {:.3f}, of {}", best + 1,
                                    plans.size(), least, first, graph.headline()));
  return best;
}

}  // namespace zoe::cuda
