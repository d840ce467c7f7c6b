// Attention by cuDNN, which recognises the pattern of operations: two products with a softmax between them, in one kernel.

#include "base/error.h"
#include "ir/graph.h"
#include "platform/cuda/cudnn_plan.h"
#include "platform/cuda/kernels.h"

namespace zoe::cuda {
namespace {

constexpr std::int64_t kWidestHead = 256;
constexpr std::size_t kSoftmaxVersion = 92100;  // has softmax as one operation, and no longer knows it as several

class CudnnAttentionKernel : public Kernel {
 public:
  CudnnAttentionKernel(std::shared_ptr<CudnnPlan> plan, const Node& node, std::string implementation)
      : plan_(std::move(plan)),
        scale_(static_cast<float>(node.as<AttentionAttributes>().scale)),
        implementation_(std::move(implementation)) {
    for (int i = 0; i < 3; ++i) first_heads_[i] = static_cast<std::size_t>(heads_layout(node, i).first) * sizeof(std::uint16_t);
  }
  std::string_view implementation() const override { return implementation_; }
  std::size_t scratch_bytes() const override { return plan_->workspace_bytes(); }
  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    float scale = scale_;
    std::vector<void*> operands;
    for (std::size_t i = 0; i < 3; ++i) operands.push_back(inputs[i].data() + first_heads_[i]);
    operands.push_back(&scale);
    if (inputs.size() > 3) operands.push_back(inputs[3].data());
    operands.push_back(outputs[0].data());
    plan_->run(handle_of(stream), operands, scratch.buffer ? address_of(scratch) : 0);
  }

 private:
  const std::shared_ptr<CudnnPlan> plan_;
  const float scale_;
  std::size_t first_heads_[3];  // of q, k and v: bytes before the heads that are attended with
  const std::string implementation_;
};

}  // namespace

CudnnGraph attention_graph(const Node& node, std::size_t version) {
  using Where = CudnnTensor::Where;
  const Shape &q = node.types[0].shape, &k = node.inputs[1].shape();
  const std::int64_t batch = q.dim(0), rows = q.dim(1), columns = k.dim(1), heads = q.dim(2), width = q.dim(3);
  // [B,L,N,D] as it lies in memory, `step` elements from token to token, under the names of axes that cuDNN wants: B, N, L, D.
  const auto placed = [&](std::int64_t length, std::int64_t step) {
    return CudnnTensor{{batch, heads, length, width}, {length * step, width, step, 1}, cudnn::kBf16};
  };
  const CudnnTensor scores{
      {batch, heads, rows, columns}, {heads * rows * columns, rows * columns, columns, 1}, cudnn::kFloat, Where::nowhere};
  const CudnnTensor row{{batch, heads, rows, 1}, {heads * rows, rows, 1, 1}, cudnn::kFloat, Where::nowhere};
  CudnnTensor transposed = placed(columns, heads_layout(node, 1).step);
  std::swap(transposed.dims[2], transposed.dims[3]);
  std::swap(transposed.strides[2], transposed.strides[3]);

  CudnnGraph graph;
  const int query = graph.tensor(placed(rows, heads_layout(node, 0).step)), key = graph.tensor(transposed);
  const int value = graph.tensor(placed(columns, heads_layout(node, 2).step));
  const int scale = graph.tensor({{1, 1, 1, 1}, {1, 1, 1, 1}, cudnn::kFloat, Where::value});
  const int product = graph.tensor(scores);
  graph.operations.push_back({.kind = cudnn::kMatmulOperation, .inputs = {query, key}, .output = product});
  int last = graph.pointwise(cudnn::kMultiply, {product, scale}, scores);
  if (node.as<AttentionAttributes>().has_bias) {
    const Shape& shape = node.inputs[3].shape();
    CudnnTensor bias{shape.dims(), {shape.count(1, 4), shape.count(2, 4), shape.dim(3), 1}};
    last = graph.pointwise(cudnn::kAdd, {last, graph.tensor(bias)}, scores);
  }
  CudnnTensor rounded = scores;
  rounded.type = cudnn::kBf16;
  int weights = 0;
  if (version >= kSoftmaxVersion) {
    weights = graph.tensor(rounded);
    graph.operations.push_back({.kind = cudnn::kSoftmaxOperation, .inputs = {last}, .output = weights});
  } else {
    const int highest = graph.reduction(cudnn::kMax, last, row);
    const int centred = graph.pointwise(cudnn::kSubtract, {last, highest}, scores);
    const int powers = graph.pointwise(cudnn::kExp, {centred}, scores);
    const int total = graph.reduction(cudnn::kSum, powers, row);
    // What training would keep. Nothing reads it, but without it the pattern is not recognised.
    const int logarithm = graph.pointwise(cudnn::kLog, {total}, row);
    graph.pointwise(cudnn::kAdd, {highest, logarithm}, row);
    weights = graph.pointwise(cudnn::kDivide, {powers, total}, rounded);
  }
  const int result = graph.tensor(placed(rows, heads * width));
  graph.operations.push_back({.kind = cudnn::kMatmulOperation, .inputs = {weights, value}, .output = result});
  return graph;
}

Support cudnn_takes_attention(const Node& node) {
  const Value& q = node.inputs[0];
  if (q.dtype() != DType::bf16) return Support::no("cuDNN's attention takes bf16");
  if (q.dim(3) > kWidestHead || q.dim(3) % 8 != 0)
    return Support::no("cuDNN's attention takes heads of up to {} elements, a multiple of 8: got {}", kWidestHead, q.dim(3));
  if (node.as<AttentionAttributes>().has_bias && node.inputs[3].dim(2) != 1)
    return Support::no("a bias of its own for every query may mask all keys of one, which is zero here and no number in cuDNN");
  return Support::yes();
}

std::unique_ptr<Kernel> make_cudnn_attention(const Node& node, const std::shared_ptr<Cudnn>& cudnn, std::string& why) {
  auto plan = cudnn->plan(attention_graph(node, cudnn->api.version()), why);
  if (!plan) return nullptr;
  std::string implementation = fmt::format("cudnn {} attention, {}", cudnn->version, plan->engine());
  return std::make_unique<CudnnAttentionKernel>(std::move(plan), node, std::move(implementation));
}

}  // namespace zoe::cuda
