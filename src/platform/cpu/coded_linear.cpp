// linear with codes of i8: rows of x become codes in scratch memory, and meet the weight's, which are codes since they were loaded.
//
// On vectors a register holds words of 32 bits, each of as many numbers of a sum as the instruction set multiplies at once: four
// with AVX-512 VNNI, whose first operand has no sign, so that 128 is added to the weight's codes and 128 times the sum of x's row
// is taken from the result; two of 16 bits elsewhere on x86, where nothing saturates; one elsewhere. AMX tiles multiply words of
// four with their signs. The sums are the same integers everywhere.

// foreach_target.h includes this file again for each of them.
#define HWY_DISABLED_TARGETS HWY_SSSE3
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "platform/cpu/coded_linear.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "platform/cpu/math-inl.h"

#ifndef ZOE_PLATFORM_CPU_CODED_LINEAR_ONCE
#define ZOE_PLATFORM_CPU_CODED_LINEAR_ONCE
#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/codes.h"
#include "base/error.h"
#include "platform/coded_weight.h"
#include "platform/cpu/finish.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/parallel.h"
#include "platform/cpu/tile_product.h"

namespace zoe::cpu {
namespace {

constexpr std::int64_t kChunk = 16;  // numbers that rows of codes are filled up to with zeros

// A row of x as words of codes, filled up with zeros to `padded` numbers, whole chunks. `row` is room for so many.
struct CodedRow {
  float scale;
  std::int32_t sum;  // of the codes
};
template <class T>
using EncodeLoop = CodedRow (*)(const T* x, std::int64_t count, std::int64_t padded, float* row, std::int32_t* words);

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
  EncodeLoop<float> encode_bytes_f32;  // to words of four numbers
  EncodeLoop<std::uint16_t> encode_bytes_bf16;
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
CodedRow encode(const T* x, std::int64_t count, std::int64_t padded, float* row, std::int32_t* words) {
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
  CodeLoops made{.rows = kRows,
                 .panel = kPanel,
                 .numbers = kNumbers,
                 .is_offset = false,
                 .encode_f32 = encode<WordCode, float>,
                 .encode_bf16 = encode<WordCode, std::uint16_t>,
                 .encode_bytes_f32 = encode<std::int8_t, float>,
                 .encode_bytes_bf16 = encode<std::int8_t, std::uint16_t>,
                 .multiply = multiply,
                 .scale = scale_row};
#if HWY_TARGET <= HWY_AVX3
  if (has_vnni) made.numbers = 4, made.is_offset = true, made.multiply = multiply_fours;
#else
  static_cast<void>(has_vnni);
#endif
  return made;
}

}  // namespace
}  // namespace zoe::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace zoe::cpu {
namespace {

HWY_EXPORT(loops);

constexpr std::int64_t kMaxRows = 12, kMaxPanel = 32;

// Sums of a block: of rows [row, row + rows) and columns [column, column + columns), `stride` apart from row to row, to the end of
// their whole vectors.
using TakeSums = std::function<void(const std::int32_t* sums, std::int64_t stride, std::int64_t row, std::int64_t rows,
                                    std::int64_t column, std::int64_t columns)>;

// Rows to codes, and what follows the sums. How the sums are made is for those that derive from it.
class CodedLinear : public Kernel {
 public:
  bool can_overwrite(int input, int) const override { return attributes_.has_residual && input == (attributes_.has_bias ? 3 : 2); }
  std::string_view implementation() const override { return implementation_; }
  std::size_t scratch_bytes() const override { return place_of_work() + static_cast<std::size_t>(threads_) * thread_bytes_; }
  std::string weight_layout(int input) const override { return input == 1 ? layout_ : Kernel::weight_layout(input); }
  std::size_t packed_bytes(int input, const Type& type) const override {
    if (input != 1) return Kernel::packed_bytes(input, type);
    return static_cast<std::size_t>(panels() * (panel_bytes() + panel_ * static_cast<std::int64_t>(sizeof(float))));
  }

  void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const override {
    if (input != 1) return Kernel::pack_weight(input, type, source, packed);
    auto* const scales = reinterpret_cast<float*>(packed + panels() * panel_bytes());
    parallel_ranges(panels(), 1, columns_ * depth_, threads_, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> numbers(2 * static_cast<std::size_t>(depth_));
      std::vector<std::int8_t> codes(static_cast<std::size_t>(padded_));
      for (std::int64_t panel = begin; panel < end; ++panel)
        for (std::int64_t c = 0; c < panel_; ++c) {
          const std::int64_t column = panel * panel_ + c;
          std::fill(codes.begin(), codes.end(), std::int8_t{0});
          float& scale = scales[column] = 0;
          if (column < columns_) scale = encode_weight_row(type, source, column, numbers, codes.data());
          place_codes(codes, c, reinterpret_cast<std::uint8_t*>(packed + panel * panel_bytes()));
        }
    });
  }

  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    if (dtype_ == DType::f32) run_in<float>(bytes_ ? loops_.encode_bytes_f32 : loops_.encode_f32, inputs, outputs, scratch);
    else run_in<std::uint16_t>(bytes_ ? loops_.encode_bytes_bf16 : loops_.encode_bf16, inputs, outputs, scratch);
  }

 protected:
  // `panel`: columns that lie side by side in the weight. `numbers`: of a word. `row_step`, `depth_step`: rows and numbers are
  // filled up with zeros to multiples. `thread_bytes`: of scratch memory that add_sums() wants for a thread.
  CodedLinear(const Node& node, const DeviceInfo& device, const CodeLoops& loops, std::int64_t panel, std::int64_t numbers,
              std::int64_t row_step, std::int64_t depth_step)
      : loops_(loops),
        threads_(device.threads),
        rows_(node.inputs[0].shape().count(0, node.inputs[0].shape().rank() - 1)),
        depth_(node.inputs[0].dim(-1)),
        columns_(node.inputs[1].dim(0)),
        panel_(panel),
        numbers_(numbers),
        padded_(blocks_of(depth_, depth_step) * depth_step),
        padded_rows_(blocks_of(rows_, row_step) * row_step),
        dtype_(node.types[0].dtype),
        attributes_(node.as<ProductAttributes>()),
        bytes_(numbers == 4) {}

  // Where the codes of a column of a panel lie in it.
  virtual void place_codes(const std::vector<std::int8_t>& codes, std::int64_t column, std::uint8_t* panel) const = 0;
  // Hands all sums of x's words with the weight to `take`. `work`: thread_bytes_ for each thread.
  virtual void add_sums(const std::int32_t* words, const std::byte* weight, std::byte* work, const TakeSums& take) const = 0;

  std::int64_t words() const { return padded_ / numbers_; }  // of a row
  std::int64_t panels() const { return blocks_of(columns_, panel_); }
  std::int64_t panel_bytes() const { return padded_ * panel_; }

  const CodeLoops loops_;
  const int threads_;
  const std::int64_t rows_, depth_, columns_, panel_, numbers_;
  const std::int64_t padded_, padded_rows_;
  std::string implementation_, layout_;
  bool is_offset_ = false;  // the weight's codes have 128 added
  std::size_t thread_bytes_ = 0;

 private:
  struct RowEnd {
    float scale;
    std::int32_t offset;
  };
  static std::size_t lines(std::size_t bytes) { return (bytes + 63) / 64 * 64; }
  // Of the scratch memory: words of all rows; their scales; a thread's row of numbers; what add_sums() wants.
  std::size_t place_of_ends() const { return lines(static_cast<std::size_t>(padded_rows_ * words()) * sizeof(std::int32_t)); }
  std::size_t place_of_numbers() const { return place_of_ends() + lines(static_cast<std::size_t>(rows_) * sizeof(RowEnd)); }
  std::size_t row_bytes() const { return lines(static_cast<std::size_t>(padded_) * sizeof(float)); }
  std::size_t place_of_work() const { return place_of_numbers() + static_cast<std::size_t>(threads_) * row_bytes(); }

  template <class T>
  void run_in(EncodeLoop<T> encode, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const {
    const auto numbers_at = [](const Slot& slot) { return reinterpret_cast<T*>(slot.data()); };
    const T* const x = numbers_at(inputs[0]);
    auto* const codes = reinterpret_cast<std::int32_t*>(scratch.data());
    auto* const ends = reinterpret_cast<RowEnd*>(scratch.data() + place_of_ends());
    parallel_ranges(rows_, 1, rows_ * depth_, threads_, [&](std::int64_t begin, std::int64_t end, int thread) {
      auto* const row =
          reinterpret_cast<float*>(scratch.data() + place_of_numbers() + static_cast<std::size_t>(thread) * row_bytes());
      for (std::int64_t r = begin; r < end; ++r) {
        const CodedRow made = encode(x + r * depth_, depth_, padded_, row, codes + r * words());
        ends[r] = {made.scale, is_offset_ ? 128 * made.sum : 0};
      }
    });
    std::memset(codes + rows_ * words(), 0, static_cast<std::size_t>((padded_rows_ - rows_) * words()) * sizeof *codes);

    const T* const bias = attributes_.has_bias ? numbers_at(inputs[2]) : nullptr;
    const T* const residual = attributes_.has_residual ? numbers_at(inputs[attributes_.has_bias ? 3 : 2]) : nullptr;
    T* const result = numbers_at(outputs[0]);
    const FinishLoop<T> finish = finish_loop<T>();
    const auto* const scales = reinterpret_cast<const float*>(inputs[1].data() + panels() * panel_bytes());
    const auto take = [&](const std::int32_t* sums, std::int64_t stride, std::int64_t row, std::int64_t rows, std::int64_t column,
                          std::int64_t columns) {
      alignas(64) float scaled[kMaxRows * kMaxPanel];
      for (std::int64_t first = 0; first < rows; first += kMaxRows) {
        const std::int64_t count = std::min(kMaxRows, rows - first), at = (row + first) * columns_ + column;
        for (std::int64_t r = 0; r < count; ++r) {
          const RowEnd& end = ends[row + first + r];
          for (std::int64_t c = 0; c < columns; c += loops_.panel)
            loops_.scale(sums + (first + r) * stride + c, end.offset, end.scale, scales + column + c, scaled + r * kMaxPanel + c);
        }
        const Finish<T> block{bias ? bias + column : nullptr, residual ? residual + at : nullptr, result + at, columns_,
                              attributes_.activation};
        finish(block, scaled, kMaxPanel, count, columns);
      }
    };
    add_sums(codes, inputs[1].data(), scratch.data() + place_of_work(), take);
  }

  const DType dtype_;
  const ProductAttributes attributes_;
  const bool bytes_;  // words hold four codes
};

class CodedVectorLinear : public CodedLinear {
 public:
  CodedVectorLinear(const Node& node, const DeviceInfo& device, const CodeLoops& loops)
      : CodedLinear(node, device, loops, loops.panel, loops.numbers, loops.rows, kChunk) {
    is_offset_ = loops.is_offset;
    implementation_ = loops.numbers == 4   ? "i8 codes, AVX-512 VNNI"
                      : loops.numbers == 2 ? "i8 codes, products of 16 bits"
                                           : "i8 codes, products of 32 bits";
    layout_ = fmt::format("i8 codes{}, panels of {} columns, words of {}", is_offset_ ? " + 128" : "", panel_, numbers_);
    // As many rows' codes as half of the second cache holds, beside a panel of the weight's.
    constexpr std::int64_t kCodes = 384 << 10, kMost = 384;
    const std::int64_t fit = std::max(std::min(kMost, kCodes / (4 * words())) / loops.rows * loops.rows, loops.rows);
    const std::int64_t even = blocks_of(blocks_of(rows_, fit), threads_) * threads_;
    task_rows_ = std::min(fit, blocks_of(blocks_of(rows_, even), loops.rows) * loops.rows);
  }

 private:
  void place_codes(const std::vector<std::int8_t>& codes, std::int64_t column, std::uint8_t* panel) const override {
    for (std::int64_t k = 0; k < padded_; ++k)
      panel[(k / numbers_ * panel_ + column) * numbers_ + k % numbers_] =
          static_cast<std::uint8_t>(codes[static_cast<std::size_t>(k)] + (is_offset_ ? 128 : 0));
  }

  void add_sums(const std::int32_t* codes, const std::byte* weight, std::byte*, const TakeSums& take) const override {
    // Tasks of the same rows follow one another in a thread, whose cache has their codes.
    constexpr std::int64_t kTaskPanels = 8;
    const std::int64_t across = blocks_of(panels(), kTaskPanels), tasks = across * blocks_of(rows_, task_rows_);
    parallel_ranges(tasks, 1, rows_ * columns_ * blocks_of(depth_, kChunk), threads_, [&](std::int64_t begin, std::int64_t end) {
      alignas(64) std::int32_t sums[kMaxRows * kMaxPanel];
      for (std::int64_t task = begin; task < end; ++task) {
        const std::int64_t row0 = task / across * task_rows_, panel0 = task % across * kTaskPanels,
                           row_end = std::min(row0 + task_rows_, rows_), panel_end = std::min(panel0 + kTaskPanels, panels());
        for (std::int64_t panel = panel0; panel < panel_end; ++panel)
          for (std::int64_t row = row0; row < row_end; row += loops_.rows) {
            loops_.multiply(codes + row * words(), words(), weight + panel * panel_bytes(), words(), sums);
            take(sums, panel_, row, std::min(loops_.rows, row_end - row), panel * panel_,
                 std::min(panel_, columns_ - panel * panel_));
          }
      }
    });
  }

  std::int64_t task_rows_;
};

// On AMX tiles by the frame of tile_product.h, to which a step of 64 codes is one of 32 numbers of bf16: the same bytes.
template <class Tiles>
class CodedTileLinear : public CodedLinear {
 public:
  CodedTileLinear(const Node& node, const DeviceInfo& device, const CodeLoops& loops, std::string_view name)
      : CodedLinear(node, device, loops, kPanelColumns, 4, 1, kTileBytes), tasks_(rows_, padded_ / 2, columns_, threads_) {
    implementation_ = fmt::format("i8 codes, {}", name);
    layout_ = "i8 codes, panels of 32 columns, tiles of 64x16 in fours";
    thread_bytes_ = tasks_.work_bytes();
  }

 private:
  void place_codes(const std::vector<std::int8_t>& codes, std::int64_t column, std::uint8_t* panel) const override {
    constexpr std::int64_t kColumns = 16;  // of a tile
    for (std::int64_t k = 0; k < padded_; ++k) {
      const std::int64_t tile = k / kTileBytes * 2 + column / kColumns, in_step = k % kTileBytes;
      panel[tile * kStepBytes / 2 + (in_step / 4 * kColumns + column % kColumns) * 4 + in_step % 4] =
          static_cast<std::uint8_t>(codes[static_cast<std::size_t>(k)]);
    }
  }

  void add_sums(const std::int32_t* codes, const std::byte* weight, std::byte* work, const TakeSums& take) const override {
    run_tile_tasks<Tiles>(
        tasks_, {reinterpret_cast<const std::byte*>(codes), padded_, padded_ / 2, rows_, weight, columns_}, threads_, work,
        [&](const float* sums, std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns) {
          take(reinterpret_cast<const std::int32_t*>(sums), kPanelColumns, row, rows, column, columns);
        },
        [](std::int64_t, std::int64_t, std::int64_t) {});
  }

  const TileTasks tasks_;
};

}  // namespace

std::unique_ptr<Kernel> make_coded_linear(const Node& node, const DeviceInfo& device, CodeProducts products) {
  using enum CodeProducts;
#if defined(__x86_64__)
  const bool has_vnni = products == best && __builtin_cpu_supports("avx512vnni");
  if (products == best && why_no_code_tiles().empty())
    return std::make_unique<CodedTileLinear<HardwareCodeTiles>>(node, device, HWY_DYNAMIC_DISPATCH(loops)(true), "amx tiles");
#else
  const bool has_vnni = false;
#endif
  if (products == emulated_tiles)
    return std::make_unique<CodedTileLinear<EmulatedCodeTiles>>(node, device, HWY_DYNAMIC_DISPATCH(loops)(false),
                                                                "amx tiles, emulated");
  return std::make_unique<CodedVectorLinear>(node, device, HWY_DYNAMIC_DISPATCH(loops)(has_vnni));
}

}  // namespace zoe::cpu
#endif
