// Element-wise opcodes, cast and sum as loops for every instruction set, chosen when a kernel is made.

// foreach_target.h includes this file again for each of them. AVX2 and AVX-512 matter; SSE4 and plain C++ are the baseline.
#define HWY_DISABLED_TARGETS HWY_SSSE3
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "platform/cpu/elementwise.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "platform/cpu/math-inl.h"

#ifndef ZOE_PLATFORM_CPU_ELEMENTWISE_ONCE
#define ZOE_PLATFORM_CPU_ELEMENTWISE_ONCE
#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/loops.h"
#include "platform/cpu/parallel.h"
#endif

HWY_BEFORE_NAMESPACE();
namespace zoe::cpu::HWY_NAMESPACE {
namespace {

// Calls write(tag, compute(tag, i), i) so that lanes [i, i + lanes of tag) of all calls cover [0, count): full vectors, then one
// that ends at `count` and may repeat some lanes; a count below one vector takes narrower ones. That last vector is computed
// before anything is written, so results may lie where the operands do.
template <std::size_t kLanes, class Compute, class Write>
HWY_INLINE void for_lanes(std::int64_t count, const Compute& compute, const Write& write) {
  const hn::CappedTag<float, kLanes> d;
  const std::int64_t lanes = static_cast<std::int64_t>(hn::Lanes(d));
  if (count >= lanes) {
    const auto last = compute(d, count - lanes);
    for (std::int64_t i = 0; i + lanes < count; i += lanes) write(d, compute(d, i), i);
    write(d, last, count - lanes);
  } else if constexpr (kLanes > 1) {
    for_lanes<kLanes / 2>(count, compute, write);
  }
}
constexpr std::size_t kMaxLanes = HWY_MAX_BYTES / sizeof(float);

template <Opcode kOpcode, class Source, class Result>
void unary_loop(const std::byte* src_bytes, std::byte* dst_bytes, std::int64_t count) {
  const auto* src = reinterpret_cast<const Source*>(src_bytes);
  auto* dst = reinterpret_cast<Result*>(dst_bytes);
  for_lanes<kMaxLanes>(
      count, [&](auto d, std::int64_t i) HWY_ATTR { return Formula<kOpcode, decltype(d)>::of(load(d, src + i)).v; },
      [&](auto d, auto value, std::int64_t i) HWY_ATTR { store(d, value, dst + i); });
}

template <Opcode kOpcode, class T, int kStrideA, int kStrideB>
void binary_loop(RowOperand a, RowOperand b, std::byte* dst_bytes, std::int64_t rows, std::int64_t length) {
  const auto* row_a = reinterpret_cast<const T*>(a.data);
  const auto* row_b = reinterpret_cast<const T*>(b.data);
  auto* dst = reinterpret_cast<T*>(dst_bytes);
  const auto operand = [](auto d, const T* row, std::int64_t i, auto stride) HWY_ATTR {
    if constexpr (stride() == 1) return load(d, row + i);
    const hn::CappedTag<float, 1> one;
    return hn::Set(d, hn::GetLane(load(one, row)));
  };
  for (std::int64_t row = 0; row < rows; ++row, row_a += a.row_step, row_b += b.row_step, dst += length)
    for_lanes<kMaxLanes>(
        length,
        [&](auto d, std::int64_t i) HWY_ATTR {
          const auto va = operand(d, row_a, i, std::integral_constant<int, kStrideA>());
          const auto vb = operand(d, row_b, i, std::integral_constant<int, kStrideB>());
          return Formula<kOpcode, decltype(d)>::of(va, vb).v;
        },
        [&](auto d, auto value, std::int64_t i) HWY_ATTR { store(d, value, dst + i); });
}

// Partial j of 32 starts at the identity and takes elements j, j + 32, ... in order; then the upper half of the partials is
// combined with the lower half, five times.
template <Opcode kOpcode>
void reduction_loop(const std::byte* src_bytes, std::byte* dst_bytes, std::int64_t rows, std::int64_t length) {
  constexpr std::int64_t kPartials = 32;
  const hn::CappedTag<float, kMaxLanes> d;
  constexpr std::size_t kLanes = hn::MaxLanes(d), kVectors = kPartials / kLanes;
  using Reduction = Formula<kOpcode, std::remove_const_t<decltype(d)>>;
  const auto* src = reinterpret_cast<const float*>(src_bytes);
  auto* dst = reinterpret_cast<float*>(dst_bytes);
  for (std::int64_t row = 0; row < rows; ++row, src += length) {
    hn::Vec<decltype(d)> partials[kVectors];
    for (auto& partial : partials) partial = hn::Set(d, Reduction::kIdentity);
    std::int64_t i = 0;
    for (; i + kPartials <= length; i += kPartials)
      for (std::size_t v = 0; v < kVectors; ++v) partials[v] = Reduction::combined(hn::LoadU(d, src + i + v * kLanes), partials[v]);
    // The rest, with identities for the missing elements.
    for (std::size_t v = 0; v < kVectors; ++v, i += kLanes) {
      if (i + static_cast<std::int64_t>(kLanes) <= length) {
        partials[v] = Reduction::combined(hn::LoadU(d, src + i), partials[v]);
      } else if (i < length) {
        float rest[kLanes];
        std::fill_n(rest, kLanes, Reduction::kIdentity);
        std::copy(src + i, src + length, rest);
        partials[v] = Reduction::combined(hn::LoadU(d, rest), partials[v]);
      }
    }
    dst[row] = reduce_partials<kOpcode>(d, partials);
  }
}

UnaryLoop select_unary(Opcode opcode, DType src, DType dst) {
  switch (opcode) {
#define ZOE_UNARY(name, value, spelling) \
  case Opcode::name:                     \
    return src == DType::f32 ? unary_loop<Opcode::name, float, float> : unary_loop<Opcode::name, std::uint16_t, std::uint16_t>;
#define ZOE_BINARY(name, value, spelling)
#include "ir/opcodes.def"
    default:
      if (src == DType::u8) return unary_loop<Opcode::cast, std::uint8_t, float>;
      if (dst == DType::u8) return unary_loop<Opcode::cast, float, std::uint8_t>;
      if (src == DType::i8) return unary_loop<Opcode::cast, std::int8_t, float>;
      if (dst == DType::i8) return unary_loop<Opcode::cast, float, std::int8_t>;
      return src == DType::f32
                 ? dst == DType::f32 ? unary_loop<Opcode::cast, float, float> : unary_loop<Opcode::cast, float, std::uint16_t>
             : dst == DType::f32 ? unary_loop<Opcode::cast, std::uint16_t, float>
                                 : unary_loop<Opcode::cast, std::uint16_t, std::uint16_t>;
  }
}

template <Opcode kOpcode, class T>
BinaryLoop select_strides(int stride_a, int stride_b) {
  if (stride_a == 0) return binary_loop<kOpcode, T, 0, 1>;
  return stride_b == 0 ? binary_loop<kOpcode, T, 1, 0> : binary_loop<kOpcode, T, 1, 1>;
}

BinaryLoop select_binary(Opcode opcode, DType dtype, int stride_a, int stride_b) {
  switch (opcode) {
#define ZOE_UNARY(name, value, spelling)
#define ZOE_BINARY(name, value, spelling)                                                \
  case Opcode::name:                                                                     \
    return dtype == DType::f32 ? select_strides<Opcode::name, float>(stride_a, stride_b) \
                               : select_strides<Opcode::name, std::uint16_t>(stride_a, stride_b);
#include "ir/opcodes.def"
    default: return nullptr;
  }
}

// A pair is one integer of twice the width, turned by half of it.
template <class Pair>
void swap_loop(const std::byte* src, std::byte* dst, std::int64_t count) {
  constexpr int kHalf = sizeof(Pair) * 4;
  const hn::ScalableTag<Pair> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d)), pairs = count / 2;
  std::int64_t i = 0;
  const auto at = [](auto* bytes, std::int64_t pair) { return bytes + pair * static_cast<std::int64_t>(sizeof(Pair)); };
  for (; i + lanes <= pairs; i += lanes)
    hn::StoreU(hn::RotateRight<kHalf>(hn::LoadU(d, reinterpret_cast<const Pair*>(at(src, i)))), d,
               reinterpret_cast<Pair*>(at(dst, i)));
  for (; i < pairs; ++i) {
    Pair pair;
    std::memcpy(&pair, at(src, i), sizeof pair);
    pair = (pair << kHalf) | (pair >> kHalf);
    std::memcpy(at(dst, i), &pair, sizeof pair);
  }
}

ReductionLoop select_reduction(Opcode opcode) {
  switch (opcode) {
#define ZOE_UNARY(name, value, spelling)
#define ZOE_BINARY(name, value, spelling)
// clang-format off
#define ZOE_REDUCTION(name, combine, identity) \
  case Opcode::name: return reduction_loop<Opcode::name>;
#include "ir/opcodes.def"
    // clang-format on
    default: return nullptr;
  }
}
UnaryLoop select_swap(DType dtype) { return size_of(dtype) == 4 ? swap_loop<std::uint64_t> : swap_loop<std::uint32_t>; }

std::string_view target_name() { return hwy::TargetName(HWY_TARGET); }

}  // namespace
}  // namespace zoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace zoe::cpu {
namespace {

HWY_EXPORT(select_unary);
HWY_EXPORT(select_binary);
HWY_EXPORT(select_reduction);
HWY_EXPORT(select_swap);
HWY_EXPORT(target_name);

}  // namespace

UnaryLoop unary_loop_of(Opcode opcode, DType src, DType dst) { return HWY_DYNAMIC_DISPATCH(select_unary)(opcode, src, dst); }
BinaryLoop binary_loop_of(Opcode opcode, DType dtype, int stride_a, int stride_b) {
  return HWY_DYNAMIC_DISPATCH(select_binary)(opcode, dtype, stride_a, stride_b);
}
ReductionLoop reduction_loop_of(Opcode opcode) { return HWY_DYNAMIC_DISPATCH(select_reduction)(opcode); }
UnaryLoop swap_loop_of(DType dtype) { return HWY_DYNAMIC_DISPATCH(select_swap)(dtype); }

std::string instruction_set() {
  std::string out;
  for (const char c : HWY_DYNAMIC_DISPATCH(target_name)()) out += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

namespace {

class LoopKernel : public Kernel {
 public:
  std::string_view implementation() const override { return implementation_; }
  std::string weight_layout(int) const override { return layout_; }

 protected:
  LoopKernel(const Node& node, const DeviceInfo& device)
      : count_(node.types[0].shape.count()),
        threads_(device.threads),
        implementation_("loop:" + instruction_set()),
        layout_("dense " + std::string(name(node.inputs[0].dtype()))) {}

  const std::int64_t count_;  // of the result's elements
  const int threads_;

 private:
  const std::string implementation_, layout_;
};

constexpr std::int64_t kGrain = 64;  // elements: pieces for threads begin at cache lines of the result

class UnaryKernel : public LoopKernel {
 public:
  UnaryKernel(const Node& node, const DeviceInfo& device)
      : LoopKernel(node, device),
        src_size_(static_cast<std::int64_t>(size_of(node.inputs[0].dtype()))),
        dst_size_(static_cast<std::int64_t>(size_of(node.types[0].dtype))),
        loop_(unary_loop_of(node.opcode, node.inputs[0].dtype(), node.types[0].dtype)) {}

  bool can_overwrite(int, int) const override { return src_size_ == dst_size_; }

  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    const std::byte* src = inputs[0].data();
    std::byte* dst = outputs[0].data();
    parallel_ranges(count_, kGrain, count_, threads_, [&](std::int64_t begin, std::int64_t end) {
      loop_(src + begin * src_size_, dst + begin * dst_size_, end - begin);
    });
  }

 private:
  const std::int64_t src_size_, dst_size_;
  const UnaryLoop loop_;
};

class ReductionKernel : public LoopKernel {
 public:
  ReductionKernel(const Node& node, const DeviceInfo& device)
      : LoopKernel(node, device), length_(node.inputs[0].dim(-1)), loop_(reduction_loop_of(node.opcode)) {}

  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    constexpr std::int64_t kSize = sizeof(float);
    const std::byte* src = inputs[0].data();
    std::byte* dst = outputs[0].data();
    parallel_ranges(count_, 1, count_ * length_, threads_, [&](std::int64_t begin, std::int64_t end) {
      loop_(src + begin * length_ * kSize, dst + begin * kSize, end - begin, length_);
    });
  }

 private:
  const std::int64_t length_;
  const ReductionLoop loop_;
};

// Two broadcast operands. Axes along which both advance alike are merged; the last that remains is the row, where each
// operand has stride 0 or 1, and a tile is a run of rows along the last but one.
class BinaryKernel : public LoopKernel {
 public:
  BinaryKernel(const Node& node, const DeviceInfo& device)
      : LoopKernel(node, device), is_whole_{node.inputs[0].shape().count() == count_, node.inputs[1].shape().count() == count_} {
    const Shape& result = node.types[0].shape;
    size_ = static_cast<std::int64_t>(size_of(node.types[0].dtype));
    for (int axis = 0; axis < result.rank(); ++axis) {
      Axis next{result.dim(axis), {}};
      if (next.extent == 1) continue;
      for (std::size_t operand = 0; operand < 2; ++operand) {
        const Shape& shape = node.inputs[operand].shape();
        const int own = axis - result.rank() + shape.rank();
        next.step[operand] = own < 0 || shape.dim(own) == 1 ? 0 : shape.count(own + 1, shape.rank());
      }
      if (!axes_.empty() && axes_.back().step[0] == next.step[0] * next.extent &&
          axes_.back().step[1] == next.step[1] * next.extent)
        next.extent *= axes_.back().extent, axes_.pop_back();
      axes_.push_back(next);
    }
    if (axes_.empty()) axes_.push_back({1, {1, 1}});
    row_ = axes_.back();
    axes_.pop_back();
    loop_ = binary_loop_of(node.opcode, node.types[0].dtype, static_cast<int>(row_.step[0]), static_cast<int>(row_.step[1]));
    ZOE_INTERNAL_CHECK(loop_ != nullptr && row_.step[0] + row_.step[1] > 0);
  }

  bool can_overwrite(int input, int) const override { return is_whole_[static_cast<std::size_t>(input)]; }

  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    const std::byte* a = inputs[0].data();
    const std::byte* b = inputs[1].data();
    std::byte* dst = outputs[0].data();
    parallel_ranges(count_, kGrain, count_, threads_,
                    [&](std::int64_t begin, std::int64_t end) { run_range(a, b, dst, begin, end); });
  }

 private:
  struct Axis {
    std::int64_t extent;
    std::array<std::int64_t, 2> step;  // of the operands, in elements
  };

  // Elements [begin, end) of the result: a part of a row, whole rows, a part of a row.
  void run_range(const std::byte* a, const std::byte* b, std::byte* dst, std::int64_t begin, std::int64_t end) const {
    const Axis tile = axes_.empty() ? Axis{1, {0, 0}} : axes_.back();
    while (begin < end) {
      const std::int64_t row = begin / row_.extent, column = begin % row_.extent;
      std::int64_t length = std::min(row_.extent - column, end - begin), rows = 1;
      if (length == row_.extent) rows = std::min((end - begin) / row_.extent, tile.extent - row % tile.extent);
      std::int64_t at_a = column * row_.step[0], at_b = column * row_.step[1], rest = row;
      for (std::size_t axis = axes_.size(); axis-- > 0; rest /= axes_[axis].extent) {
        const std::int64_t index = rest % axes_[axis].extent;
        at_a += index * axes_[axis].step[0];
        at_b += index * axes_[axis].step[1];
      }
      loop_({a + at_a * size_, tile.step[0]}, {b + at_b * size_, tile.step[1]}, dst + begin * size_, rows, length);
      begin += rows * length;
    }
  }

  const std::array<bool, 2> is_whole_;  // operands that do not broadcast
  std::int64_t size_;                   // bytes of an element
  std::vector<Axis> axes_;
  Axis row_{};
  BinaryLoop loop_;
};

}  // namespace

std::unique_ptr<Kernel> make_elementwise(const Node& node, const DeviceInfo& device) {
  const auto takes = [&](DType dtype) {
    return dtype == DType::f32 || dtype == DType::bf16 || (is_byte(dtype) && node.opcode == Opcode::cast);
  };
  for (const Value& operand : node.inputs)
    check(takes(operand.dtype()), ErrorKind::unsupported, "cpu",
          "{} cannot compute in {}: expected f32 or bf16. Cast the operand first.", name(node.opcode), name(operand.dtype()));
  check(takes(node.types[0].dtype), ErrorKind::unsupported, "cpu", "{} cannot make {}: expected f32 or bf16.", name(node.opcode),
        name(node.types[0].dtype));
  if (is_reduction(node.opcode)) return std::make_unique<ReductionKernel>(node, device);
  if (is_binary(node.opcode)) return std::make_unique<BinaryKernel>(node, device);
  ZOE_INTERNAL_CHECK(is_unary(node.opcode) || node.opcode == Opcode::cast);
  return std::make_unique<UnaryKernel>(node, device);
}

}  // namespace zoe::cpu
#endif
