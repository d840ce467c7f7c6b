// linear by cuBLASLt, with bias, GELU and residual in its epilogue. Weights are dense, so our own product can stand in.

#include <fmt/format.h>

#include <mutex>

#include "base/error.h"
#include "platform/cuda/cublaslt.h"
#include "platform/cuda/kernels.h"

namespace zoe::cuda {
namespace {

LtProblem problem_of(const Node& node) {
  const auto& attributes = node.as<ProductAttributes>();
  const Shape &weight = node.inputs[1].shape(), &result = node.types[0].shape;
  return {.dtype = node.types[0].dtype,
          .rows = result.count() / weight.dim(0),
          .columns = weight.dim(0),
          .inner = weight.dim(1),
          .bias = attributes.has_bias,
          .gelu = attributes.activation == Activation::gelu_tanh,
          .residual = attributes.has_residual};
}

class LinearKernel : public Kernel {
 public:
  LinearKernel(const Node& node, DevicePtr device, std::shared_ptr<Cublaslt> library, const LtProblem& problem,
               const LtChoice& choice)
      : device_(std::move(device)),
        library_(std::move(library)),
        node_(node),
        problem_(problem),
        choice_(choice),
        implementation_(fmt::format("cublasLt {}", library_->describe(choice_.algorithm))),
        layout_("dense " + std::string(name(problem_.dtype))) {}

  std::string_view implementation() const override { return implementation_; }
  std::size_t scratch_bytes() const override {
    return choice_.workspace_bytes ? choice_.workspace_bytes + Cublaslt::kWorkspaceAlignment : 0;
  }
  std::string weight_layout(int) const override { return layout_; }
  // Not even the residual may be overwritten: where it lies in the result's place the library adds the sums to it in memory, and
  // rounds them to bf16 before.
  bool can_overwrite(int, int) const override { return false; }

  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    LtOperands operands{.x = address_of(inputs[0]), .weight = address_of(inputs[1])};
    std::size_t next = 2;
    if (problem_.bias) operands.bias = address_of(inputs[next++]);
    if (problem_.residual) operands.residual = address_of(inputs[next]);
    operands.result = address_of(outputs[0]);
    const Address together = operands.x | operands.weight | operands.bias | operands.residual | operands.result;
    if (together % Cublaslt::kAlignment != 0) return own().run(stream, inputs, outputs, {});
    constexpr Address kUnit = Cublaslt::kWorkspaceAlignment;
    const Address workspace = choice_.workspace_bytes ? (address_of(scratch) + kUnit - 1) / kUnit * kUnit : 0;
    device_->make_current();
    library_->multiply(problem_, choice_, operands, workspace, handle_of(stream));
  }

 private:
  // For operands at any address: a view that begins inside a matrix of odd width. Built when the first one comes.
  const Kernel& own() const {
    std::call_once(own_once_, [&] {
      own_ = make_product(node_, device_);
      ZOE_INTERNAL_CHECK(own_->scratch_bytes() == 0 && own_->weight_layout(1) == layout_);
    });
    return *own_;
  }

  const DevicePtr device_;
  const std::shared_ptr<Cublaslt> library_;
  const Node node_;
  const LtProblem problem_;
  const LtChoice choice_;
  const std::string implementation_, layout_;
  mutable std::once_flag own_once_;
  mutable std::unique_ptr<Kernel> own_;
};

}  // namespace

Support cublaslt_takes(const Node& linear) {
  const auto& attributes = linear.as<ProductAttributes>();
  switch (attributes.activation) {
    case Activation::none: return Support::yes();
    case Activation::gelu_tanh:
      if (attributes.has_residual) return Support::no("the library adds the residual before the activation");
      if (linear.types[0].dtype != DType::bf16) return Support::no("the library's GELU is too coarse for f32");
      return Support::yes();
    case Activation::silu: break;
  }
  return Support::no("the library has no SiLU");
}

std::unique_ptr<Kernel> make_linear(const Node& node, const DevicePtr& device, const std::shared_ptr<Cublaslt>& library) {
  const LtProblem problem = problem_of(node);
  const std::optional<LtChoice> choice = library->choose(problem);
  if (!choice) return nullptr;
  return std::make_unique<LinearKernel>(node, device, library, problem, *choice);
}

}  // namespace zoe::cuda
