// The chains whose generated source is kept in the repository: every op, alone and with its neighbours, fused whole.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "codegen/chain.h"
#include "compiler/passes/fuse.h"
#include "compiler/passes/inline_calls.h"
#include "ir/trace.h"
#include "ops/channel_norm.h"
#include "ops/mul_add.h"
#include "ops/norm_scale_shift.h"
#include "ops/norm_tanh_mul_add.h"
#include "ops/rms_norm.h"
#include "ops/rotary_interleaved.h"
#include "ops/scale_residual_norm_scale_shift.h"
#include "ops/scale_shift.h"

namespace zoe::testing {

struct NamedChain {
  std::string name;
  NodePtr node;  // fused
  Chain chain;
};

// All outputs as one fused node; throws if that takes more than one.
inline NamedChain fuse_whole(std::string name, std::vector<Value> inputs, std::vector<Value> outputs) {
  DeviceInfo device{};
  device.generates_kernels = true;
  const Graph graph =
      fuse(inline_calls(make_graph(name, std::move(inputs), std::move(outputs))), device, [](const Node&) { return true; }).graph;
  NodePtr fused;
  for (const NodePtr& node : graph.nodes) {
    if (node->opcode == Opcode::input || node->opcode == Opcode::constant || node->opcode == Opcode::reshape) continue;
    if (node->opcode != Opcode::fused || fused) throw std::runtime_error(name + " is not one chain:\n" + print(graph));
    fused = node;
  }
  Lowered lowered = lower(fused->as<std::shared_ptr<const CallAttributes>>()->native);
  if (!lowered.chain) throw std::runtime_error(name + ": " + lowered.reason);
  return {std::move(name), fused, std::move(*lowered.chain)};
}

// `rows`: of tokens, a multiple of 3.
inline std::vector<NamedChain> op_chains(std::int64_t rows = 6) {
  std::vector<NamedChain> chains;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const std::string suffix = "_" + std::string(name(dtype));
    const Shape tokens{1, rows, 1536}, row{1, 1, 1536};
    const Value x = input("x", dtype, tokens), y = input("y", dtype, tokens), residual = input("residual", dtype, tokens);
    const Value scale = input("scale", DType::f32, row), shift = input("shift", DType::f32, row),
                gate = input("gate", DType::f32, row);
    const Value weight = input("weight", dtype, {1536});
    const Value cos = input("cos", DType::f32, {rows, 1, 128}), sin = input("sin", DType::f32, {rows, 1, 128});
    chains.push_back(fuse_whole("mul_add" + suffix, {x, gate, residual}, {mul_add(x, gate, residual)}));
    chains.push_back(fuse_whole("scale_shift" + suffix, {x, scale, shift}, {scale_shift(x, scale, shift)}));
    chains.push_back(fuse_whole("norm_scale_shift" + suffix, {x, scale, shift}, {norm_scale_shift(x, scale, shift)}));
    chains.push_back(
        fuse_whole("norm_scale_shift_rms" + suffix, {x, scale, shift}, {norm_scale_shift(x, scale, shift, {.kind = Norm::rms})}));
    const NormedResidual both = scale_residual_norm_scale_shift(residual, x, gate, scale, shift);
    chains.push_back(
        fuse_whole("scale_residual_norm_scale_shift" + suffix, {residual, x, gate, scale, shift}, {both.y, both.residual}));
    // A gate for all tokens, whose tanh all rows share, and one for each.
    chains.push_back(fuse_whole("norm_tanh_mul_add" + suffix, {x, gate, residual}, {norm_tanh_mul_add(x, gate, residual)}));
    chains.push_back(fuse_whole("norm_tanh_mul_add_tokens" + suffix, {x, y, residual}, {norm_tanh_mul_add(x, y, residual)}));
    const Value closed = mul_add(x, gate, residual);
    chains.push_back(fuse_whole("mul_add_norm_scale_shift" + suffix, {x, gate, residual, scale, shift},
                                {closed, norm_scale_shift(closed, scale, shift)}));
    chains.push_back(fuse_whole("rms_norm" + suffix, {x, weight}, {rms_norm(x, weight, 1e-6)}));
    const Value heads = reshape(rms_norm(x, weight, 1e-6), {1, rows, 12, 128});
    chains.push_back(
        fuse_whole("rms_norm_rotary_interleaved" + suffix, {x, weight, cos, sin}, {rotary_interleaved(heads, cos, sin)}));
    const Value pixels = input("pixels", dtype, {1, 2, rows, 96}), gamma = input("gamma", dtype, {96});
    chains.push_back(fuse_whole("channel_norm_silu" + suffix, {pixels, gamma}, {silu(channel_norm(pixels, gamma))}));
    const Value by_frame = input("by_frame", DType::f32, {1, 3, 1, 1536});
    chains.push_back(fuse_whole("scale_shift_by_frame" + suffix, {x, by_frame, shift}, {scale_shift(x, by_frame, shift)}));
    chains.push_back(fuse_whole("gelu_product_flat" + suffix, {x, y}, {gelu_tanh(x) * y}));
    const Value odd = input("odd", dtype, {rows - 1, 77}), power = exp(cast(odd, DType::f32));
    chains.push_back(fuse_whole("softmax_sum_odd" + suffix, {odd}, {cast(power / sum(power), dtype)}));
    const Value latent = input("latent", dtype, {3, 4, 6});
    chains.push_back(fuse_whole("silu_permute" + suffix, {latent}, {permute(silu(latent), {1, 2, 0})}));
    // Pixels: of a decoder, of rows that need sums on either side, and moved.
    const Value decoded = input("decoded", dtype, {2, rows, 5, 3}), wide = cast(decoded, DType::f32);
    chains.push_back(fuse_whole("frames_u8" + suffix, {decoded}, {cast((wide * 0.5 + 0.5) * 255.0, DType::u8)}));
    const Value normed = cast(norm_scale_shift(x, scale, shift), DType::f32);
    chains.push_back(fuse_whole("norm_to_u8" + suffix, {x, scale, shift}, {cast(normed * 20.0 + 128.0, DType::u8)}));
    const Value bytes = input("bytes", DType::u8, tokens), opened = cast(bytes, DType::f32) / 127.5 - 1.0;
    chains.push_back(
        fuse_whole("norm_of_u8" + suffix, {bytes, scale, shift}, {cast(norm_scale_shift(opened, scale, shift), dtype)}));
  }
  // Codes and their scale, of each row's largest.
  const Value wide = input("x", DType::bf16, {1, rows, 1536}), of_row = cast(wide, DType::f32);
  const Value scale = row_abs_max(of_row) * (1.0 / 127);
  chains.push_back(fuse_whole("codes_i8", {wide}, {cast(of_row / scale, DType::i8), scale}));
  const Value planes = input("planes", DType::u8, {3, 8, 32}), picture = input("picture", DType::u8, {3, rows, 96});
  chains.push_back(fuse_whole("u8_planes", {planes}, {permute(flip(planes, 1), {1, 2, 0})}));
  chains.push_back(fuse_whole("u8_flipped_part", {picture}, {flip(slice(picture, 2, 16, 80), 1)}));
  return chains;
}

// Rows of u8 in and out, with sums over them.
inline std::vector<NamedChain> u8_chains(DType dtype, std::int64_t rows, std::int64_t width) {
  const std::string suffix = "_" + std::string(name(dtype)) + "_" + std::to_string(width);
  const Value x = input("x", dtype, {1, rows, width}), bytes = input("bytes", DType::u8, {1, rows, width});
  const Value scale = input("scale", DType::f32, {1, 1, width}), shift = input("shift", DType::f32, {1, 1, width});
  const Value wide = cast(bytes, DType::f32) * 0.01, normed = norm_scale_shift(cast(x, DType::f32), scale, shift);
  std::vector<NamedChain> chains;
  chains.push_back(fuse_whole("rows_of_u8" + suffix, {bytes, scale, shift},
                              {cast(norm_scale_shift(wide, scale, shift), dtype), cast(wide - mean(wide), DType::bf16)}));
  chains.push_back(fuse_whole("rows_to_u8" + suffix, {x, scale, shift}, {cast(normed * 20.0 + 128.0, DType::u8)}));
  return chains;
}

}  // namespace zoe::testing
