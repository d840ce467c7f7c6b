// Movement opcodes: bytes copied from place to place, four, two or one to an element.

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/loops.h"
#include "platform/cpu/parallel.h"

namespace zoe::cpu {
namespace {

class MovementKernel : public Kernel {
 public:
  MovementKernel(const Node& node, const DeviceInfo& device)
      : size_(static_cast<std::int64_t>(size_of(node.types[0].dtype))),
        count_(node.types[0].shape.count()),
        threads_(device.threads),
        layout_("dense " + std::string(name(node.inputs[0].dtype()))) {}
  std::string_view implementation() const override { return "copy"; }
  std::string weight_layout(int) const override { return layout_; }

 protected:
  const std::int64_t size_;   // bytes of an element
  const std::int64_t count_;  // of the result's elements
  const int threads_;

 private:
  const std::string layout_;
};

// `bytes` of them, with a constant count where the run is as short as one element or a pixel.
inline void copy_short(std::byte* dst, const std::byte* src, std::int64_t bytes) {
  switch (bytes) {
    case 1: *dst = *src; break;
    case 2: std::memcpy(dst, src, 2); break;
    case 3: std::memcpy(dst, src, 3); break;
    case 4: std::memcpy(dst, src, 4); break;
    case 6: std::memcpy(dst, src, 6); break;
    case 8: std::memcpy(dst, src, 8); break;
    case 12: std::memcpy(dst, src, 12); break;
    case 16: std::memcpy(dst, src, 16); break;
    case 32: std::memcpy(dst, src, 32); break;
    default: std::memcpy(dst, src, static_cast<std::size_t>(bytes));
  }
}

// `rows` runs of `length` bytes, `dst_step` and `src_step` bytes apart. Threads share rows, or bytes where the rows are few.
struct StridedCopy {
  std::int64_t rows, length, dst_step, src_step;

  void run(std::byte* dst, const std::byte* src, std::int64_t element_size, int threads) const {
    const std::int64_t bytes = rows * length;
    parallel_ranges(bytes, 64, bytes / element_size, threads, [&](std::int64_t begin, std::int64_t end) {
      while (begin < end) {
        const std::int64_t row = begin / length, at = begin % length, n = std::min(length - at, end - begin);
        if (n < length) {
          std::memcpy(dst + row * dst_step + at, src + row * src_step + at, static_cast<std::size_t>(n));
          begin += n;
          continue;
        }
        const std::int64_t last = end / length;
        for (std::int64_t i = row; i < last; ++i) copy_short(dst + i * dst_step, src + i * src_step, length);
        begin = last * length;
      }
    });
  }
};

class SliceKernel : public MovementKernel {
 public:
  SliceKernel(const Node& node, const DeviceInfo& device) : MovementKernel(node, device) {
    const auto& slice = node.as<AxisAttributes>();
    const Shape& shape = node.inputs[0].shape();
    const std::int64_t inner = shape.count(slice.axis + 1, shape.rank()) * size_;
    offset_ = slice.begin * inner;
    const std::int64_t length = (slice.end - slice.begin) * inner;
    copy_ = {shape.count(0, slice.axis), length, length, shape.dim(slice.axis) * inner};
  }
  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    copy_.run(outputs[0].data(), inputs[0].data() + offset_, size_, threads_);
  }

 private:
  std::int64_t offset_;
  StridedCopy copy_;
};

class ReshapeKernel : public MovementKernel {
 public:
  ReshapeKernel(const Node& node, const DeviceInfo& device)
      : MovementKernel(node, device), copy_{1, count_ * size_, count_ * size_, count_ * size_} {}
  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    copy_.run(outputs[0].data(), inputs[0].data(), size_, threads_);
  }

 private:
  const StridedCopy copy_;
};

class ConcatKernel : public MovementKernel {
 public:
  ConcatKernel(const Node& node, const DeviceInfo& device) : MovementKernel(node, device) {
    const int axis = node.as<AxisAttributes>().axis;
    const Shape& shape = node.types[0].shape;
    const std::int64_t inner = shape.count(axis + 1, shape.rank()) * size_, step = shape.dim(axis) * inner;
    std::int64_t offset = 0;
    for (const Value& part : node.inputs) {
      const std::int64_t length = part.dim(axis) * inner;
      operands_.push_back({offset, {shape.count(0, axis), length, step, length}});
      offset += length;
    }
  }
  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    for (std::size_t i = 0; i < operands_.size(); ++i) {
      std::byte* place = outputs[0].data() + operands_[i].offset;
      if (inputs[i].data() != place) operands_[i].copy.run(place, inputs[i].data(), size_, threads_);
    }
  }

 private:
  struct Operand {
    std::int64_t offset;
    StridedCopy copy;
  };
  std::vector<Operand> operands_;
};

// Axes that stay neighbours are merged first. If the last axis then stays last, its runs are copied; otherwise the result's
// last axis and the operand's last axis span tiles that fit the first-level cache, and elements move within a tile.
class PermuteKernel : public MovementKernel {
 public:
  PermuteKernel(const Node& node, const DeviceInfo& device) : MovementKernel(node, device) {
    const Shape& source = node.inputs[0].shape();
    std::vector<Axis> axes;  // of the result
    for (const int from : node.as<PermuteAttributes>().axes) {
      Axis next{source.dim(from), source.count(from + 1, source.rank()), 0};
      if (next.extent == 1) continue;
      if (!axes.empty() && axes.back().src_step == next.src_step * next.extent) next.extent *= axes.back().extent, axes.pop_back();
      axes.push_back(next);
    }
    if (axes.empty()) axes.push_back({1, 1, 1});
    std::int64_t step = 1;
    for (std::size_t i = axes.size(); i-- > 0; step *= axes[i].extent) axes[i].dst_step = step;
    row_ = axes.back();
    axes.pop_back();
    if (row_.src_step != 1) {
      const auto found = std::find_if(axes.begin(), axes.end(), [](const Axis& axis) { return axis.src_step == 1; });
      ZOE_INTERNAL_CHECK(found != axes.end());
      column_ = *found;
      axes.erase(found);
    }
    for (const Axis& axis : axes) outer_count_ *= axis.extent;
    outer_ = std::move(axes);
  }

  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    if (size_ == 4) run_elements<std::uint32_t>(inputs[0].data(), outputs[0].data());
    else if (size_ == 2) run_elements<std::uint16_t>(inputs[0].data(), outputs[0].data());
    else run_elements<std::uint8_t>(inputs[0].data(), outputs[0].data());
  }

 private:
  struct Axis {
    std::int64_t extent, src_step, dst_step;  // steps in elements
  };
  static constexpr std::int64_t kTile = 32;

  template <class T>
  void run_elements(const std::byte* src_bytes, std::byte* dst_bytes) const {
    const T* src = reinterpret_cast<const T*>(src_bytes);
    T* dst = reinterpret_cast<T*>(dst_bytes);
    // One item of work: a band of tiles along the row, or the whole row where rows are copied.
    const std::int64_t bands = (column_.extent + kTile - 1) / kTile;
    parallel_ranges(outer_count_ * bands, 1, count_, threads_, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t item = begin; item < end; ++item) {
        std::int64_t from = 0, to = 0, rest = item / bands;
        for (std::size_t i = outer_.size(); i-- > 0; rest /= outer_[i].extent) {
          from += rest % outer_[i].extent * outer_[i].src_step;
          to += rest % outer_[i].extent * outer_[i].dst_step;
        }
        if (row_.src_step == 1)
          copy_short(reinterpret_cast<std::byte*>(dst + to), reinterpret_cast<const std::byte*>(src + from), row_.extent * size_);
        else transpose_band(src + from, dst + to, item % bands * kTile);
      }
    });
  }

  template <class T>
  void transpose_band(const T* src, T* dst, std::int64_t column) const {
    const std::int64_t column_end = std::min(column + kTile, column_.extent);
    for (std::int64_t begin = 0; begin < row_.extent; begin += kTile) {
      const std::int64_t end = std::min(begin + kTile, row_.extent);
      for (std::int64_t c = column; c < column_end; ++c)
        for (std::int64_t r = begin; r < end; ++r) dst[c * column_.dst_step + r] = src[c + r * row_.src_step];
    }
  }

  Axis row_{}, column_{1, 0, 0};
  std::vector<Axis> outer_;
  std::int64_t outer_count_ = 1;
};

class SwapPairsKernel : public MovementKernel {
 public:
  SwapPairsKernel(const Node& node, const DeviceInfo& device)
      : MovementKernel(node, device), loop_(swap_loop_of(node.types[0].dtype)) {}
  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    const std::byte* src = inputs[0].data();
    std::byte* dst = outputs[0].data();
    parallel_ranges(count_, 64, count_, threads_,
                    [&](std::int64_t begin, std::int64_t end) { loop_(src + begin * size_, dst + begin * size_, end - begin); });
  }

 private:
  const UnaryLoop loop_;
};

class FlipKernel : public MovementKernel {
 public:
  FlipKernel(const Node& node, const DeviceInfo& device) : MovementKernel(node, device) {
    const int axis = node.as<AxisAttributes>().axis;
    const Shape& shape = node.types[0].shape;
    extent_ = shape.dim(axis);
    run_bytes_ = shape.count(axis + 1, shape.rank()) * size_;
  }
  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    const std::byte* src = inputs[0].data();
    std::byte* dst = outputs[0].data();
    parallel_ranges(count_ * size_ / run_bytes_, 1, count_, threads_, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        copy_short(dst + i * run_bytes_, src + (i + extent_ - 1 - 2 * (i % extent_)) * run_bytes_, run_bytes_);
    });
  }

 private:
  std::int64_t extent_, run_bytes_;
};

class GatherKernel : public MovementKernel {
 public:
  GatherKernel(const Node& node, const DeviceInfo& device)
      : MovementKernel(node, device),
        table_rows_(node.inputs[0].dim(0)),
        rows_(node.inputs[1].shape().count()),
        row_bytes_(node.inputs[0].dim(1) * size_) {}
  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    const std::byte* table = inputs[0].data();
    const auto* indices = reinterpret_cast<const std::int32_t*>(inputs[1].data());
    std::byte* dst = outputs[0].data();
    for (std::int64_t i = 0; i < rows_; ++i)
      check(indices[i] >= 0 && indices[i] < table_rows_, ErrorKind::invalid_argument, "gather",
            "bad index at position {}: got {}, expected 0 to {}. The tokenizer and the embedding table do not belong together.", i,
            indices[i], table_rows_ - 1);
    parallel_ranges(rows_, 1, count_, threads_, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        std::memcpy(dst + i * row_bytes_, table + indices[i] * row_bytes_, static_cast<std::size_t>(row_bytes_));
    });
  }

 private:
  const std::int64_t table_rows_, rows_, row_bytes_;
};

}  // namespace

std::unique_ptr<Kernel> make_movement(const Node& node, const DeviceInfo& device) {
  switch (node.opcode) {
    case Opcode::reshape: return std::make_unique<ReshapeKernel>(node, device);
    case Opcode::slice: return std::make_unique<SliceKernel>(node, device);
    case Opcode::concat: return std::make_unique<ConcatKernel>(node, device);
    case Opcode::permute: return std::make_unique<PermuteKernel>(node, device);
    case Opcode::swap_pairs: return std::make_unique<SwapPairsKernel>(node, device);
    case Opcode::flip: return std::make_unique<FlipKernel>(node, device);
    case Opcode::gather: return std::make_unique<GatherKernel>(node, device);
    default: fail(ErrorKind::internal, "cpu", "{} is not a movement", name(node.opcode));
  }
}

}  // namespace zoe::cpu
