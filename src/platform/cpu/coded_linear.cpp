// linear with codes of i8: rows of x become codes in scratch memory, and meet the weight's, which are codes since they were loaded.
//
// A register holds words of 32 bits, each of as many numbers of a sum as the instruction set multiplies at once: four with AVX-512
// VNNI, whose first operand has no sign, so that 128 is added to the weight's codes and 128 times the sum of x's row is taken from
// the result; two of 16 bits elsewhere on x86, where nothing saturates; one elsewhere. The sums are the same integers everywhere.

// foreach_target.h includes this file again for each of them.
#define HWY_DISABLED_TARGETS HWY_SSSE3
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "platform/cpu/coded_linear.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "platform/cpu/math-inl.h"

#ifndef ZOE_PLATFORM_CPU_CODED_LINEAR_ONCE
#define ZOE_PLATFORM_CPU_CODED_LINEAR_ONCE
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "base/codes.h"
#include "base/error.h"
#include "platform/coded_weight.h"
#include "platform/cpu/finish.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/parallel.h"

namespace zoe::cpu {
namespace {

constexpr std::int64_t kChunk = 16;  // numbers that rows of codes are filled up to with zeros

// A row of x as words of codes. `row` is room for its numbers, up to a whole chunk.
struct CodedRow {
  float scale;
  std::int32_t sum;  // of the codes
};
template <class T>
using EncodeLoop = CodedRow (*)(const T* x, std::int64_t count, float* row, std::int32_t* words);

// Sums of kRows rows of words with a panel: row r's at sums + r * panel.
using MultiplyLoop = void (*)(const std::int32_t* words, std::int64_t stride, const std::byte* panel, std::int64_t steps,
                              std::int32_t* sums);
// (sum - offset) * scale * scales[column], of a row of a panel.
using ScaleLoop = void (*)(const std::int32_t* sums, std::int32_t offset, float scale, const float* scales, float* to);

struct CodeLoops {
  std::int64_t rows, panel;  // of a product's registers; columns
  std::int64_t numbers;      // in a word
  bool is_offset;            // the weight's codes have 128 added
  EncodeLoop<float> encode_f32;
  EncodeLoop<std::uint16_t> encode_bf16;
  MultiplyLoop multiply;
  ScaleLoop scale;
};

}  // namespace
}  // namespace zoe::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace zoe::cpu::HWY_NAMESPACE {
namespace {

const hn::CappedTag<float, 16> kLanes;
const hn::Rebind<std::int32_t, decltype(kLanes)> kInts;
const hn::Rebind<std::uint32_t, decltype(kLanes)> kBits;
using V = hn::Vec<decltype(kLanes)>;
constexpr std::int64_t kWidth = static_cast<std::int64_t>(hn::MaxLanes(hn::CappedTag<float, 16>()));
constexpr std::int64_t kPanel = 2 * kWidth;
constexpr std::int64_t kRows = kWidth == 16 ? 12 : 6;  // their sums fill the registers

// One pass of rotate_row() over numbers that lie a vector, or several, apart.
HWY_INLINE void pass(V& a, V& b, V& c, V& d) {
  const V total = hn::Add(hn::Add(a, b), hn::Add(c, d));
  const V first = hn::Sub(total, hn::Add(d, d)), second = hn::Sub(total, hn::Add(c, c));
  c = hn::Sub(total, hn::Add(b, b));
  d = hn::Sub(total, hn::Add(a, a));
  a = first;
  b = second;
}

#if HWY_TARGET != HWY_SCALAR
// The passes over numbers 1, 4 and 16 apart, of 64 at `x`.
HWY_INLINE void rotate_64(float* x) {
  constexpr std::int64_t kVectors = 64 / kWidth, kUnit = kVectors / 4;  // a unit: 16 numbers
  V v[kVectors];
  for (std::int64_t i = 0; i < kVectors; ++i) {
    const V given = hn::Load(kLanes, x + i * kWidth);
    const V pairs = hn::Add(given, hn::Shuffle2301(given)), reversed = hn::Shuffle0123(given);
    v[i] = hn::Sub(hn::Add(pairs, hn::Shuffle1032(pairs)), hn::Add(reversed, reversed));
  }
  for (std::int64_t i = 0; i < kVectors; i += kUnit) {
    if constexpr (kUnit == 4) {
      pass(v[i], v[i + 1], v[i + 2], v[i + 3]);
    } else if constexpr (kUnit == 2) {  // blocks a, b in one vector and c, d in the next
      const V ab = hn::Add(v[i], hn::SwapAdjacentBlocks(v[i])), cd = hn::Add(v[i + 1], hn::SwapAdjacentBlocks(v[i + 1]));
      const V total = hn::Add(ab, cd), dc = hn::SwapAdjacentBlocks(v[i + 1]), ba = hn::SwapAdjacentBlocks(v[i]);
      v[i] = hn::Sub(total, hn::Add(dc, dc));
      v[i + 1] = hn::Sub(total, hn::Add(ba, ba));
    } else {
      const V pairs = hn::Add(v[i], hn::SwapAdjacentBlocks(v[i])), reversed = hn::ReverseBlocks(kLanes, v[i]);
      v[i] = hn::Sub(hn::Add(pairs, hn::ReverseBlocks(kLanes, pairs)), hn::Add(reversed, reversed));
    }
  }
  for (std::int64_t i = 0; i < kUnit; ++i) pass(v[i], v[i + kUnit], v[i + 2 * kUnit], v[i + 3 * kUnit]);
  for (std::int64_t i = 0; i < kVectors; ++i) hn::Store(v[i], kLanes, x + i * kWidth);
}
#endif

// As rotate_row().
HWY_INLINE void rotate(float* row, std::int64_t count) {
#if HWY_TARGET != HWY_SCALAR
  if constexpr (kWidth == 4 || kWidth == 8 || kWidth == 16) {
    if (count % kLargestRotation == 0) {
      const V factor = hn::Set(kLanes, 1.0f / 16);
      for (float* group = row; group < row + count; group += kLargestRotation) {
        for (std::int64_t i = 0; i < kLargestRotation; i += 64) rotate_64(group + i);
        for (std::int64_t i = 0; i < 64; i += kWidth) {
          V v[4];
          for (std::int64_t k = 0; k < 4; ++k) v[k] = hn::Load(kLanes, group + 64 * k + i);
          pass(v[0], v[1], v[2], v[3]);
          for (std::int64_t k = 0; k < 4; ++k) hn::Store(hn::Mul(v[k], factor), kLanes, group + 64 * k + i);
        }
      }
      return;
    }
  }
#endif
  rotate_row({row, static_cast<std::size_t>(count)});
}

// `Code`: what a word is made of.
template <class Code, class T>
CodedRow encode(const T* x, std::int64_t count, float* row, std::int32_t* words) {
  const std::int64_t padded = (count + kChunk - 1) / kChunk * kChunk;
  std::int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) hn::Store(load(kLanes, x + i), kLanes, row + i);
  if (i < count) {
    T rest[kWidth] = {};
    std::copy_n(x + i, count - i, rest);
    hn::Store(load(kLanes, rest), kLanes, row + i);
    i += kWidth;
  }
  std::fill(row + std::min(i, padded), row + padded, 0.0f);
  rotate(row, count);
  auto most = hn::Zero(kBits);
  for (i = 0; i < padded; i += kWidth)
    most = hn::Max(most, hn::And(hn::BitCast(kBits, hn::Load(kLanes, row + i)), hn::Set(kBits, 0x7fffffffu)));
  const CodeScale scale = code_scale(hn::GetLane(hn::BitCast(kLanes, hn::MaxOfLanes(kBits, most))));
  if (scale.inverse == 0) {
    std::memset(words, 0, static_cast<std::size_t>(padded) * sizeof(Code));
    return {scale.scale, 0};
  }
  const V inverse = hn::Set(kLanes, scale.inverse);
  auto sum = hn::Zero(kInts);
  auto* to = reinterpret_cast<Code*>(words);
  const hn::Rebind<Code, decltype(kLanes)> codes;
  for (i = 0; i < padded; i += kWidth, to += kWidth) {
    const auto code = hn::NearestInt(hn::Mul(hn::Load(kLanes, row + i), inverse));
    sum = hn::Add(sum, code);
    if constexpr (sizeof(Code) == sizeof(std::int32_t)) hn::StoreU(code, codes, to);
    else hn::StoreU(hn::DemoteTo(codes, code), codes, to);
  }
  return {scale.scale, hn::GetLane(hn::SumOfLanes(kInts, sum))};
}

#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR
using WordCode = std::int16_t;
constexpr std::int64_t kNumbers = 2;

HWY_INLINE hn::Vec<decltype(kInts)> multiplied(hn::Vec<decltype(kInts)> words, hn::Vec<decltype(kInts)> panel,
                                               hn::Vec<decltype(kInts)> sum) {
  const hn::Repartition<std::int16_t, decltype(kInts)> halves;
  auto unused = hn::Zero(kInts);
  return hn::ReorderWidenMulAccumulate(kInts, hn::BitCast(halves, words), hn::BitCast(halves, panel), sum, unused);
}
HWY_INLINE hn::Vec<decltype(kInts)> widened(const std::int8_t* codes) {
  const hn::Repartition<std::int16_t, decltype(kInts)> halves;
  const hn::Rebind<std::int8_t, decltype(halves)> bytes;
  return hn::BitCast(kInts, hn::PromoteTo(halves, hn::LoadU(bytes, codes)));
}
#else
using WordCode = std::int32_t;
constexpr std::int64_t kNumbers = 1;

HWY_INLINE hn::Vec<decltype(kInts)> multiplied(hn::Vec<decltype(kInts)> words, hn::Vec<decltype(kInts)> panel,
                                               hn::Vec<decltype(kInts)> sum) {
  return hn::Add(sum, hn::Mul(words, panel));
}
HWY_INLINE hn::Vec<decltype(kInts)> widened(const std::int8_t* codes) {
  const hn::Rebind<std::int8_t, decltype(kInts)> bytes;
  return hn::PromoteTo(kInts, hn::LoadU(bytes, codes));
}
#endif

void multiply(const std::int32_t* words, std::int64_t stride, const std::byte* panel, std::int64_t steps, std::int32_t* sums) {
  hn::Vec<decltype(kInts)> sum[kRows][2];
#pragma GCC unroll 12
  for (std::int64_t r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = hn::Zero(kInts);
  const auto* codes = reinterpret_cast<const std::int8_t*>(panel);
  for (std::int64_t i = 0; i < steps; ++i, codes += kPanel * kNumbers) {
    const auto b0 = widened(codes), b1 = widened(codes + kWidth * kNumbers);
#pragma GCC unroll 12
    for (std::int64_t r = 0; r < kRows; ++r) {
      const auto word = hn::Set(kInts, words[r * stride + i]);
      sum[r][0] = multiplied(word, b0, sum[r][0]);
      sum[r][1] = multiplied(word, b1, sum[r][1]);
    }
  }
#pragma GCC unroll 12
  for (std::int64_t r = 0; r < kRows; ++r) {
    hn::StoreU(sum[r][0], kInts, sums + r * kPanel);
    hn::StoreU(sum[r][1], kInts, sums + r * kPanel + kWidth);
  }
}

#if HWY_TARGET <= HWY_AVX3
__attribute__((target("avx512vnni"), noinline)) void multiply_fours(const std::int32_t* words, std::int64_t stride,
                                                                    const std::byte* panel, std::int64_t steps,
                                                                    std::int32_t* sums) {
  __m512i sum[kRows][2];
#pragma GCC unroll 12
  for (std::int64_t r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = _mm512_setzero_si512();
  for (std::int64_t i = 0; i < steps; ++i, panel += kPanel * 4) {
    const __m512i b0 = _mm512_loadu_si512(panel), b1 = _mm512_loadu_si512(panel + kWidth * 4);
#pragma GCC unroll 12
    for (std::int64_t r = 0; r < kRows; ++r) {
      const __m512i word = _mm512_set1_epi32(words[r * stride + i]);
      sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], b0, word);
      sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], b1, word);
    }
  }
#pragma GCC unroll 12
  for (std::int64_t r = 0; r < kRows; ++r) {
    _mm512_storeu_si512(sums + r * kPanel, sum[r][0]);
    _mm512_storeu_si512(sums + r * kPanel + kWidth, sum[r][1]);
  }
}
#endif

void scale_row(const std::int32_t* sums, std::int32_t offset, float scale, const float* scales, float* to) {
  const auto by = hn::Set(kLanes, scale);
  const auto less = hn::Set(kInts, offset);
  for (std::int64_t c = 0; c < kPanel; c += kWidth) {
    const V sum = hn::ConvertTo(kLanes, hn::Sub(hn::LoadU(kInts, sums + c), less));
    hn::StoreU(hn::Mul(hn::Mul(sum, by), hn::LoadU(kLanes, scales + c)), kLanes, to + c);
  }
}

CodeLoops loops(bool has_vnni) {
#if HWY_TARGET <= HWY_AVX3
  if (has_vnni)
    return {kRows, kPanel, 4, true, encode<std::int8_t, float>, encode<std::int8_t, std::uint16_t>, multiply_fours, scale_row};
#else
  static_cast<void>(has_vnni);
#endif
  return {kRows, kPanel, kNumbers, false, encode<WordCode, float>, encode<WordCode, std::uint16_t>, multiply, scale_row};
}

}  // namespace
}  // namespace zoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace zoe::cpu {
namespace {

HWY_EXPORT(loops);

constexpr std::int64_t kMaxRows = 12, kMaxPanel = 32, kLine = 64;
constexpr std::int64_t blocks_of(std::int64_t count, std::int64_t block) { return (count + block - 1) / block; }

class CodedLinearKernel : public Kernel {
 public:
  CodedLinearKernel(const Node& node, const DeviceInfo& device, bool has_vnni)
      : loops_(HWY_DYNAMIC_DISPATCH(loops)(has_vnni)),
        implementation_(loops_.numbers == 4   ? "i8 codes, AVX-512 VNNI"
                        : loops_.numbers == 2 ? "i8 codes, products of 16 bits"
                                              : "i8 codes, products of 32 bits"),
        threads_(device.threads),
        dtype_(node.types[0].dtype),
        rows_(node.inputs[0].shape().count(0, node.inputs[0].shape().rank() - 1)),
        depth_(node.inputs[0].dim(-1)),
        columns_(node.inputs[1].dim(0)),
        attributes_(node.as<ProductAttributes>()),
        padded_(blocks_of(depth_, kChunk) * kChunk),
        words_(padded_ / loops_.numbers) {
    // As many rows' codes as half of the second cache holds, beside a panel of the weight's.
    constexpr std::int64_t kCodes = 384 << 10, kMost = 384;
    const std::int64_t fit = std::min(kMost, kCodes / (4 * words_)) / loops_.rows * loops_.rows;
    const std::int64_t even = blocks_of(blocks_of(rows_, std::max(fit, loops_.rows)), threads_) * threads_;
    task_rows_ = std::min(std::max(fit, loops_.rows), blocks_of(blocks_of(rows_, even), loops_.rows) * loops_.rows);
  }

  std::string_view implementation() const override { return implementation_; }
  std::size_t scratch_bytes() const override { return place_of_numbers() + static_cast<std::size_t>(threads_) * row_bytes(); }
  bool can_overwrite(int input, int) const override { return attributes_.has_residual && input == (attributes_.has_bias ? 3 : 2); }
  std::string weight_layout(int input) const override {
    return input == 1 ? fmt::format("i8 codes{}, panels of {} columns, words of {}", loops_.is_offset ? " + 128" : "", loops_.panel,
                                    loops_.numbers)
                      : Kernel::weight_layout(input);
  }
  std::size_t packed_bytes(int input, const Type& type) const override {
    if (input != 1) return Kernel::packed_bytes(input, type);
    return static_cast<std::size_t>(panels() * (panel_bytes() + loops_.panel * static_cast<std::int64_t>(sizeof(float))));
  }

  void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const override {
    if (input != 1) return Kernel::pack_weight(input, type, source, packed);
    auto* const scales = reinterpret_cast<float*>(packed + panels() * panel_bytes());
    parallel_ranges(panels(), 1, columns_ * depth_, threads_, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> numbers(2 * static_cast<std::size_t>(depth_));
      std::vector<std::int8_t> codes(static_cast<std::size_t>(padded_));
      for (std::int64_t panel = begin; panel < end; ++panel) {
        auto* const to = reinterpret_cast<std::uint8_t*>(packed + panel * panel_bytes());
        for (std::int64_t c = 0; c < loops_.panel; ++c) {
          const std::int64_t column = panel * loops_.panel + c;
          std::fill(codes.begin(), codes.end(), std::int8_t{0});
          float& scale = scales[column] = 0;
          if (column < columns_) scale = encode_weight_row(type, source, column, numbers, codes.data());
          const std::int64_t numbers_of_word = loops_.numbers;
          for (std::int64_t k = 0; k < padded_; ++k)
            to[(k / numbers_of_word * loops_.panel + c) * numbers_of_word + k % numbers_of_word] =
                static_cast<std::uint8_t>(codes[static_cast<std::size_t>(k)] + (loops_.is_offset ? 128 : 0));
        }
      }
    });
  }

  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    if (dtype_ == DType::f32) run_in<float>(loops_.encode_f32, inputs, outputs, scratch);
    else run_in<std::uint16_t>(loops_.encode_bf16, inputs, outputs, scratch);
  }

 private:
  struct RowEnd {
    float scale;
    std::int32_t offset;
  };
  // Of the scratch memory: words of all rows, up to whole registers of them; their scales; a thread's row of numbers.
  std::int64_t padded_rows() const { return blocks_of(rows_, loops_.rows) * loops_.rows; }
  std::size_t place_of_ends() const { return static_cast<std::size_t>(padded_rows() * words_) * sizeof(std::int32_t); }
  std::size_t place_of_numbers() const {
    return static_cast<std::size_t>(
        blocks_of(static_cast<std::int64_t>(place_of_ends()) + padded_rows() * static_cast<std::int64_t>(sizeof(RowEnd)), kLine) *
        kLine);
  }
  std::size_t row_bytes() const { return static_cast<std::size_t>(blocks_of(padded_ * 4, kLine) * kLine); }
  std::int64_t panels() const { return blocks_of(columns_, loops_.panel); }
  std::int64_t panel_bytes() const { return padded_ * loops_.panel; }

  template <class T>
  void run_in(EncodeLoop<T> encode, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const {
    const auto numbers_at = [](const Slot& slot) { return reinterpret_cast<T*>(slot.data()); };
    const T* const x = numbers_at(inputs[0]);
    auto* const words = reinterpret_cast<std::int32_t*>(scratch.data());
    auto* const ends = reinterpret_cast<RowEnd*>(scratch.data() + place_of_ends());
    parallel_ranges(rows_, 1, rows_ * depth_, threads_, [&](std::int64_t begin, std::int64_t end, int thread) {
      auto* const row =
          reinterpret_cast<float*>(scratch.data() + place_of_numbers() + static_cast<std::size_t>(thread) * row_bytes());
      for (std::int64_t r = begin; r < end; ++r) {
        const CodedRow made = encode(x + r * depth_, depth_, row, words + r * words_);
        ends[r] = {made.scale, loops_.is_offset ? 128 * made.sum : 0};
      }
    });
    std::memset(words + rows_ * words_, 0, static_cast<std::size_t>((padded_rows() - rows_) * words_) * sizeof *words);

    Finish<T> all{attributes_.has_bias ? numbers_at(inputs[2]) : nullptr,
                  attributes_.has_residual ? numbers_at(inputs[attributes_.has_bias ? 3 : 2]) : nullptr, numbers_at(outputs[0]),
                  columns_, attributes_.activation};
    const FinishLoop<T> finish = finish_loop<T>();
    const auto* const scales = reinterpret_cast<const float*>(inputs[1].data() + panels() * panel_bytes());
    // Tasks of the same rows follow one another in a thread, whose cache has their codes.
    constexpr std::int64_t kTaskPanels = 8;
    const std::int64_t across = blocks_of(panels(), kTaskPanels), tasks = across * blocks_of(rows_, task_rows_);
    parallel_ranges(tasks, 1, rows_ * columns_ * blocks_of(depth_, kChunk), threads_, [&](std::int64_t begin, std::int64_t end) {
      alignas(64) std::int32_t sums[kMaxRows * kMaxPanel];
      alignas(64) float scaled[kMaxRows * kMaxPanel];
      for (std::int64_t task = begin; task < end; ++task) {
        const std::int64_t row0 = task / across * task_rows_, panel0 = task % across * kTaskPanels,
                           row_end = std::min(row0 + task_rows_, rows_), panel_end = std::min(panel0 + kTaskPanels, panels());
        for (std::int64_t panel = panel0; panel < panel_end; ++panel) {
          const std::int64_t column = panel * loops_.panel, columns = std::min(loops_.panel, columns_ - column);
          for (std::int64_t row = row0; row < row_end; row += loops_.rows) {
            const std::int64_t rows = std::min(loops_.rows, row_end - row), at = row * columns_ + column;
            loops_.multiply(words + row * words_, words_, inputs[1].data() + panel * panel_bytes(), words_, sums);
            for (std::int64_t r = 0; r < rows; ++r)
              loops_.scale(sums + r * loops_.panel, ends[row + r].offset, ends[row + r].scale, scales + column,
                           scaled + r * loops_.panel);
            const Finish<T> block{all.bias ? all.bias + column : nullptr, all.residual ? all.residual + at : nullptr,
                                  all.result + at, columns_, all.activation};
            finish(block, scaled, loops_.panel, rows, columns);
          }
        }
      }
    });
  }

  const CodeLoops loops_;
  const std::string implementation_;
  const int threads_;
  const DType dtype_;
  const std::int64_t rows_, depth_, columns_;
  const ProductAttributes attributes_;
  const std::int64_t padded_, words_;  // numbers and words of a row of codes
  std::int64_t task_rows_;
};

}  // namespace

std::unique_ptr<Kernel> make_coded_linear(const Node& node, const DeviceInfo& device, CodeProducts products) {
  bool has_vnni = false;
#if defined(__x86_64__)
  has_vnni = products == CodeProducts::best && __builtin_cpu_supports("avx512vnni");
#else
  static_cast<void>(products);
#endif
  return std::make_unique<CodedLinearKernel>(node, device, has_vnni);
}

}  // namespace zoe::cpu
#endif
