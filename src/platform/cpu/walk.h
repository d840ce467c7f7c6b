// The places of a view's elements in the order of the flat index over some axes of a chain.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/error.h"
#include "codegen/chain.h"

namespace zoe::cpu {

class Walk {
 public:
  static constexpr std::size_t kMostAxes = 16;

  // Axes [begin, end) of the chain. Neighbours that the view walks through alike are one.
  Walk(const Chain& chain, const View& view, std::size_t begin, std::size_t end) : offset_(view.offset), swapped_(view.swapped) {
    for (std::size_t a = begin; a < end; ++a) {
      const Axis next{chain.axes[a], view.strides[a]};
      if (next.extent == 1) continue;
      if (!axes_.empty() && axes_.back().stride == next.stride * next.extent)
        axes_.back() = {axes_.back().extent * next.extent, next.stride};
      else axes_.push_back(next);
    }
    if (axes_.empty()) axes_.push_back({1, 0});
    ZOE_INTERNAL_CHECK(axes_.size() <= kMostAxes);
  }

  bool is_straight() const { return axes_.size() == 1; }  // but for the swap, a constant step from each element to the next
  bool is_swapped() const { return swapped_; }
  // Of the innermost axis: what is straight, and has this step.
  std::int64_t extent() const { return axes_.back().extent; }
  std::int64_t step() const { return axes_.back().stride; }
  bool varies() const {
    return std::any_of(axes_.begin(), axes_.end(), [](const Axis& axis) { return axis.stride != 0; });
  }

  // The place of element `index`, the view's swap left aside.
  std::int64_t at(std::int64_t index) const {
    std::int64_t place = offset_;
    for (std::size_t a = axes_.size() - 1; a > 0; --a) {
      place += index % axes_[a].extent * axes_[a].stride;
      index /= axes_[a].extent;
    }
    return place + index * axes_[0].stride;
  }

  // `count` elements from element `begin` on, from their places in `src` to a dense `dst`.
  template <class T>
  void collect(const T* src, T* dst, std::int64_t begin, std::int64_t count) const {
    const std::int64_t stride = step(), turned = swapped_ ? 1 : 0;
    each_run(begin, count, [&](std::int64_t at, std::int64_t inner, std::int64_t n) {
      if (stride == 1 && !swapped_) std::copy_n(src + at + inner, n, dst);
      else
        for (std::int64_t i = 0; i < n; ++i) dst[i] = src[at + ((inner + i) ^ turned) * stride];
      dst += n;
    });
  }

  // The way back.
  template <class T>
  void spread(const T* src, T* dst, std::int64_t begin, std::int64_t count) const {
    const std::int64_t stride = step(), turned = swapped_ ? 1 : 0;
    each_run(begin, count, [&](std::int64_t at, std::int64_t inner, std::int64_t n) {
      if (stride == 1 && !swapped_) std::copy_n(src, n, dst + at + inner);
      else
        for (std::int64_t i = 0; i < n; ++i) dst[at + ((inner + i) ^ turned) * stride] = src[i];
      src += n;
    });
  }

 private:
  struct Axis {
    std::int64_t extent, stride;
  };

  // Calls run(at, inner, n) for runs along the innermost axis: n elements from its index `inner` on, index 0 lying at `at`.
  template <class Run>
  void each_run(std::int64_t begin, std::int64_t count, const Run& run) const {
    std::array<std::int64_t, kMostAxes> index{};
    std::int64_t at = offset_;
    for (std::size_t a = axes_.size(); a-- > 0;) {
      index[a] = a > 0 ? begin % axes_[a].extent : begin;
      begin /= axes_[a].extent;
      if (a + 1 < axes_.size()) at += index[a] * axes_[a].stride;
    }
    std::int64_t inner = index[axes_.size() - 1];
    while (count > 0) {
      const std::int64_t n = std::min(axes_.back().extent - inner, count);
      run(at, inner, n);
      count -= n;
      inner = 0;
      for (std::size_t a = axes_.size() - 1; a-- > 0;) {
        at += axes_[a].stride;
        if (++index[a] < axes_[a].extent) break;
        at -= axes_[a].stride * axes_[a].extent;
        index[a] = 0;
      }
    }
  }

  std::vector<Axis> axes_;  // at least one
  std::int64_t offset_;
  bool swapped_;
};

}  // namespace zoe::cpu
