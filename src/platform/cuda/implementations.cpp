// The table of the CUDA platform and its kin: which implementation a node gets, best first. Choices are by measurement; the figures
// are where the implementation is, or here.

#include "platform/implementation.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "codegen/chain.h"
#include "ir/change.h"
#include "platform/cuda/kernels.h"

namespace zoe::cuda {

namespace {

Support is_nvidia(const Device& device) {
  return device.vendor.column == kCuda.column ? Support::yes() : Support::no("a library of NVIDIA's");
}

// Of our own product before cuDNN. On an H200, cuDNN 9.14 and 9.19, 3 to 96 channels, 4 frames of 480x832, 3x3x3: 0.77 ms against
// 1.01 (and 153 MiB of scratch memory). cuDNN fills channels up to eight; the product takes taps and channels as one row.
Support few_channels_win(const Node& conv, const Device& device) {
  constexpr std::int64_t kFewest = 8, kLeastTaps = 9;
  const auto& attributes = conv.as<ProductAttributes>();
  const Shape& weight = conv.inputs[1].shape();
  if (conv.types[0].dtype != DType::bf16 || device.description.major != 9 || !has_tensor_cores(device))
    return Support::no("measured in bf16 on compute capability 9.0 only");
  if (weight.dim(1) >= kFewest) return Support::no("{} channels: from {} on cuDNN is faster", weight.dim(1), kFewest);
  if (attributes.upsample != 1 || attributes.stride != std::array{1, 1, 1} || weight.count(2, 5) < kLeastTaps)
    return Support::no("measured for kernels of {} points and more, without strides or upsampling", kLeastTaps);
  return Support::yes();
}

}  // namespace

std::vector<Implementation> implementations(const DevicePtr& device, Libraries libraries) {
  const auto made_by = [&device](std::unique_ptr<Kernel> (*make)(const Node&, const DevicePtr&)) {
    return [device, make](const Node& node, Making&) { return make(node, device); };
  };
  const auto built_of = [&device](auto program) {
    return [device, program](std::span<const Node* const> nodes) {
      std::vector<Device::Program> programs;
      for (const Node* node : nodes) programs.push_back(program(*node));
      device->build(programs);
    };
  };
  const auto made_by_cudnn = [&libraries](decltype(make_cudnn_conv)* make) {
    return [cudnn = libraries.cudnn, make](const Node& node, Making& making) -> std::unique_ptr<Kernel> {
      std::string why;
      const std::shared_ptr<Cudnn> library = cudnn(why);
      auto kernel = library ? make(node, library, why) : nullptr;
      return kernel ? std::move(kernel) : making.refuse(why);
    };
  };
  const auto taken_by_cudnn = [&device](Support (*takes)(const Node&)) {
    return [device, takes](const Node& node) {
      const Support nvidia = is_nvidia(*device);
      return nvidia ? takes(node) : nvidia;
    };
  };
  return {
      {.name = "kept",
       .of = one_of<Opcode::linear>,
       .make = [device](const Node& node,
                        Making& making) { return make_kept_linear(node, device, making.part(behind_widening(node))); },
       .takes_kept = true},
      {.name = "i8_linear",
       .of = one_of<Opcode::linear>,
       .supports = [device](const Node& node) { return coded_linear_takes(node, *device); },
       .make = made_by(make_coded_linear),
       .prepare =
           [device](std::span<const Node* const> nodes) {
             std::vector<Device::Program> programs;
             for (const Node* node : nodes) std::ranges::move(coded_linear_programs(*node), std::back_inserter(programs));
             device->build(programs);
           },
       .takes_codes = true,
       .gains_by_merging = true},  // the operand's codes are made once
      {.name = "cublaslt",
       .of = one_of<Opcode::linear>,
       .supports =
           [cublaslt = libraries.cublaslt](const Node& node) {
             std::string why;
             return cublaslt(why) ? cublaslt_takes(node) : Support::no("{}", why);
           },
       .make = [device, cublaslt = libraries.cublaslt](const Node& node, Making& making) -> std::unique_ptr<Kernel> {
         std::string why;
         auto kernel = make_linear(node, device, cublaslt(why));
         return kernel ? std::move(kernel) : making.refuse("the library has no algorithm for it that rounds once");
       },
       .gains_by_merging = true},
      {.name = "implicit_gemm",
       .of = one_of<Opcode::conv>,
       .supports = [device](const Node& node) { return implicit_gemm_wins(node, *device); },
       .make = made_by(make_implicit_gemm),
       .prepare = built_of([device](const Node& node) { return implicit_gemm_program(node, *device); }),
       .reads_history = true},
      {.name = "few_channels",
       .of = one_of<Opcode::conv>,
       .supports = [device](const Node& node) { return few_channels_win(node, *device); },
       .make = made_by(make_product)},
      {.name = "cudnn_conv",
       .of = one_of<Opcode::conv>,
       .supports = taken_by_cudnn(cudnn_takes_conv),
       .make = made_by_cudnn(make_cudnn_conv)},
      {.name = "implicit_gemm_of_few_tiles",  // where cuDNN, which is faster then, is not there
       .of = one_of<Opcode::conv>,
       .supports = [device](const Node& node) { return implicit_gemm_takes(node, *device); },
       .make = made_by(make_implicit_gemm)},
      {.name = "product", .of = one_of<Opcode::linear, Opcode::conv>, .make = made_by(make_product)},
      {.name = "i8_attention",
       .of = one_of<Opcode::attention>,
       .supports = [device](const Node& node) { return coded_attention_takes(node, *device); },
       .make = made_by(make_coded_attention),
       .prepare = built_of(coded_attention_program),
       .takes_codes = true},
      {.name = "flash_attention",
       .of = one_of<Opcode::attention>,
       .supports = [device](const Node& node) { return flash_attention_takes(node, *device); },
       .make = made_by(make_flash_attention),
       .prepare = built_of(flash_attention_program)},
      {.name = "wide_attention",
       .of = one_of<Opcode::attention>,
       .supports = [device](const Node& node) { return wide_attention_takes(node, *device); },
       .make = made_by(make_wide_attention),
       .prepare = built_of([](const Node&) { return wide_attention_program(); })},
      {.name = "cudnn_attention",
       .of = one_of<Opcode::attention>,
       .supports = taken_by_cudnn(cudnn_takes_attention),
       .make = made_by_cudnn(make_cudnn_attention)},
      {.name = "attention",
       .of = one_of<Opcode::attention>,
       .supports = [device](const Node& node) { return takes_attention(node, *device); },
       .make = made_by(make_attention)},
      {.name = "concat", .of = one_of<Opcode::concat>, .make = made_by(make_concat)},
      {.name = "gather", .of = one_of<Opcode::gather>, .make = made_by(make_gather)},
      {.name = "generated",
       .of = is_chain,
       .make_all = [device](std::span<const Node* const> nodes, std::string&) { return make_chains(nodes, device); }},
  };
}

}  // namespace zoe::cuda
