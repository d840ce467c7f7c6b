// conv in bf16 on AMX tiles.
//
// A task is a box of results: some frames, rows and columns. The pixels that they see are copied to the second cache with the zeros
// around the picture, so that along a run of neighbouring results every tap of the kernel lies at one distance: sixteen pixels of
// such a run are the rows of a tile, and nothing is copied once a tap. The run goes on across the end of a row of the box; what it
// makes of the few pixels there is left out when sums are finished. Strides split the copy into planes of every second row and
// column, in each of which neighbours are neighbours again.
#include <fmt/format.h>

#include <limits>

#include "base/dtype.h"
#include "base/error.h"
#include "platform/cpu/finish.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/parallel.h"
#include "platform/cpu/tile_product.h"

namespace zoe::cpu {

namespace {

struct Box {
  std::int64_t frames, rows, columns;  // of results
};

// Where the pixels of a box lie in the copy: [frame][plane][row][column][channel].
struct CopyLayout {
  std::int64_t pixel;                   // bytes
  std::int64_t planes, plane_columns;   // planes of a frame, along a row of the picture
  std::int64_t row_pixels, plane_rows;  // of a plane
  std::int64_t frames;
  std::int64_t plane_bytes() const { return row_pixels * plane_rows * pixel; }
  std::int64_t frame_bytes() const { return planes * plane_bytes(); }
  std::int64_t run_bytes() const { return frames * frame_bytes(); }
  // And what a step of the last pixel reads beyond it.
  std::int64_t bytes() const { return (blocks_of(run_bytes(), kTileBytes) + 1) * kTileBytes; }
};

// A step of the sums: 32 numbers that lie side by side, from channel `channel` of tap (frame, row, column) on.
struct Step {
  std::int64_t frame, row, column, channel;
};

struct Geometry {
  Geometry(const Node& node, int threads)
      : attributes(node.as<ProductAttributes>()),
        x(node.inputs[0].shape()),
        kernel(node.inputs[1].shape()),
        result(node.types[0].shape),
        earlier(attributes.has_history ? node.inputs.back().dim(0) : 0) {
    make_steps();
    cut(threads);
  }

  ProductAttributes attributes;
  Shape x, kernel, result;
  std::int64_t earlier;  // frames of the history
  bool in_runs = false;  // the channels of neighbouring taps in one step
  std::vector<Step> sum;
  TileSteps steps{0, 0};
  Box box{0, 0, 0};
  std::int64_t task_columns = 0;  // channels of the result

  std::int64_t channels() const { return x.dim(3); }
  std::int64_t out_channels() const { return kernel.dim(0); }
  std::int64_t stride(int axis) const { return attributes.stride[static_cast<std::size_t>(axis)]; }
  std::int64_t pad(int axis) const { return attributes.pad_begin[static_cast<std::size_t>(axis)]; }
  std::int64_t boxes(int axis) const {
    return blocks_of(result.dim(axis), axis == 0 ? box.frames : axis == 1 ? box.rows : box.columns);
  }
  std::int64_t across() const { return blocks_of(out_channels(), task_columns); }  // tasks of one box
  std::int64_t tasks() const { return across() * boxes(0) * boxes(1) * boxes(2); }

  CopyLayout layout(const Box& of) const {
    return {.pixel = channels() * 2,
            .planes = stride(1) * stride(2),
            .plane_columns = stride(2),
            .row_pixels = of.columns + (kernel.dim(4) - 1) / stride(2),
            .plane_rows = of.rows + (kernel.dim(3) - 1) / stride(1),
            .frames = (of.frames - 1) * stride(0) + kernel.dim(2)};
  }
  // Rows of tiles of a box's frame: the run of its pixels in the copy.
  static std::int64_t run_of(const Box& of, const CopyLayout& copy) { return (of.rows - 1) * copy.row_pixels + of.columns; }

  std::int64_t sums() const {
    const std::int64_t run = run_of(box, layout(box));
    return 2 * box.frames * blocks_of(run, kBlockRows) * kBlockSums;
  }
  std::size_t work_bytes() const {
    return static_cast<std::size_t>(layout(box).bytes()) + static_cast<std::size_t>(sums()) * sizeof(float);
  }

 private:
  // The order of a sum. Where 32 numbers are of one tap, taps that are neighbours along a row follow one another, as they read the
  // same pixels but one; else a step takes what lies side by side, which is of several taps. What it reads behind the last of them
  // meets weights of zero: there a number that is none reaches a few more results than it should.
  void make_steps() {
    in_runs = stride(2) == 1 && channels() % kStepDepth != 0;
    const std::int64_t in_row = kernel.dim(4) * channels();
    for (std::int64_t f = 0; f < kernel.dim(2); ++f)
      for (std::int64_t r = 0; r < kernel.dim(3); ++r) {
        if (in_runs) {
          for (std::int64_t at = 0; at < in_row; at += kStepDepth) sum.push_back({f, r, at / channels(), at % channels()});
          continue;
        }
        for (std::int64_t c = 0; c < channels(); c += kStepDepth)
          for (std::int64_t column = 0; column < kernel.dim(4); ++column) sum.push_back({f, r, column, c});
      }
    // Chunks of even length, each of whole groups of neighbours.
    constexpr std::int64_t kMost = 18;
    const auto all = static_cast<std::int64_t>(sum.size());
    const std::int64_t group = in_runs || kernel.dim(4) > kMost ? 1 : kernel.dim(4), groups = blocks_of(all, group),
                       chunks = blocks_of(groups, std::max<std::int64_t>(kMost / group, 1));
    steps = {all, all, blocks_of(groups, chunks) * group};
  }

  // The boxes and parts of the columns that take the least time: in cycles of a core, roughly.
  void cut(int threads) {
    constexpr double kStepCycles = 64, kCopyCycles = 0.25, kWeightCycles = 0.15, kTaskCycles = 4000;  // the middle two a byte
    constexpr std::int64_t kRoom = 1 << 20;
    double least = std::numeric_limits<double>::infinity();
    const auto for_cuts = [](std::int64_t extent, std::int64_t most, const auto& body) {
      std::int64_t before = 0;
      for (std::int64_t parts = 1; parts <= std::min(extent, most); ++parts)
        if (const std::int64_t size = blocks_of(extent, parts); size != before) body(before = size);
    };
    constexpr std::int64_t kAny = std::numeric_limits<std::int64_t>::max();
    for_cuts(result.dim(0), kAny, [&](std::int64_t frames) {
      for_cuts(result.dim(1), kAny, [&](std::int64_t rows) {
        for_cuts(result.dim(2), blocks_of(result.dim(2), 64), [&](std::int64_t columns) {
          const Box of{frames, rows, columns};
          const CopyLayout copy = layout(of);
          const std::int64_t run = run_of(of, copy), whole = run / kBlockRows, rest = run % kBlockRows;
          const std::int64_t bytes = copy.bytes() + 2 * frames * (whole + 1) * kBlockSums * 4;
          const double excess = bytes > kRoom ? static_cast<double>(bytes) / kRoom : 1;  // of what comes from the third cache
          const double blocks = static_cast<double>(frames) * (static_cast<double>(whole) + (rest == 0           ? 0
                                                                                             : rest <= kTileRows ? 0.6
                                                                                                                 : 1));
          const std::int64_t panels = blocks_of(out_channels(), kPanelColumns), all = blocks_of(result.dim(0), frames) *
                                                                                      blocks_of(result.dim(1), rows) *
                                                                                      blocks_of(result.dim(2), columns);
          for_cuts(panels, 2 * threads, [&](std::int64_t task_panels) {
            const auto number = [](std::int64_t n) { return static_cast<double>(n); };
            const double products = blocks * kStepCycles * (out_channels() <= 16 ? 0.6 : 1) * excess,
                         weights = number(kStepBytes) * kWeightCycles;
            const double time = number(blocks_of(all * blocks_of(panels, task_panels), threads)) *
                                (number(task_panels * steps.all) * std::max(products, weights) +
                                 number(copy.run_bytes()) * kCopyCycles * excess + kTaskCycles);
            if (time < least) least = time, box = of, task_columns = task_panels * kPanelColumns;
          });
        });
      });
    });
  }
};

// The pixels of a box, as tiles read them. Made anew for each box; see PackedRows.
struct BoxRows {
  const Geometry& geometry;
  const CopyLayout& copy;
  const std::int64_t* offsets;  // of each step, bytes from the first pixel of a run
  const std::byte *x, *history;
  std::int64_t frame, row, column;  // of its first result
  Box box;                          // as much of it as there is
  std::int64_t whole;               // blocks of a frame
  std::byte* packed;

  void pack(std::int64_t, std::int64_t) {
    const Geometry& g = geometry;
    std::byte* to = packed;
    const std::int64_t frames = (box.frames - 1) * g.stride(0) + g.kernel.dim(2);
    for (std::int64_t f = 0; f < frames; ++f) {
      const std::int64_t from = frame * g.stride(0) + f - g.pad(0);
      const std::int64_t frame_bytes = g.x.count(1, 4) * 2;
      const std::byte* source = nullptr;  // of zeros
      if (from >= 0 && from < g.earlier) source = history + from * frame_bytes;
      else if (from >= g.earlier && from < g.earlier + g.x.dim(0)) source = x + (from - g.earlier) * frame_bytes;
      for (std::int64_t plane = 0; plane < copy.planes; ++plane, to += copy.plane_bytes())
        copy_plane(source, plane / copy.plane_columns, plane % copy.plane_columns, to);
    }
  }

  struct Block {
    static constexpr bool kOnce = false;
    const std::byte* first;
    const std::int64_t* offsets;
    std::int64_t stride, below;
    const std::byte* at(std::int64_t step) const { return first + offsets[step]; }
  };
  Block block(std::int64_t i, std::int64_t step) const {
    const auto [f, pixel] = place(i);
    return {packed + f * geometry.stride(0) * copy.frame_bytes() + pixel * copy.pixel, offsets + step, copy.pixel,
            kTileRows * copy.pixel};
  }
  // The frame of a block, and the place of its first row in the frame's run.
  std::pair<std::int64_t, std::int64_t> place(std::int64_t i) const {
    const std::int64_t all = box.frames * whole;
    if (i >= all) return {i - all, whole * kBlockRows};
    return {i / whole, i % whole * kBlockRows};
  }

 private:
  // Rows and columns of one parity, from the first that the box's taps see.
  void copy_plane(const std::byte* source, std::int64_t row_parity, std::int64_t column_parity, std::byte* to) const {
    const Geometry& g = geometry;
    const std::int64_t rows = box.rows + (g.kernel.dim(3) - 1) / g.stride(1), width = g.x.dim(2);
    // Pixel i of a row is column first + i * step of the picture: there are some in [begin, end).
    const std::int64_t first = column * g.stride(2) - g.pad(2) + column_parity, step = g.stride(2);
    const std::int64_t begin = std::clamp<std::int64_t>(first < 0 ? blocks_of(-first, step) : 0, 0, copy.row_pixels),
                       end = std::clamp<std::int64_t>(first < width ? blocks_of(width - first, step) : 0, begin, copy.row_pixels);
    const auto bytes = [&](std::int64_t pixels) { return static_cast<std::size_t>(pixels * copy.pixel); };
    for (std::int64_t r = 0; r < rows; ++r, to += copy.row_pixels * copy.pixel) {
      const std::int64_t y = (row + r) * g.stride(1) - g.pad(1) + row_parity;
      if (!source || y < 0 || y >= g.x.dim(1)) {
        std::memset(to, 0, bytes(copy.row_pixels));
        continue;
      }
      const std::byte* const line = source + y * width * copy.pixel;
      std::memset(to, 0, bytes(begin));
      if (step == 1) std::memcpy(to + begin * copy.pixel, line + (first + begin) * copy.pixel, bytes(end - begin));
      else
        for (std::int64_t i = begin; i < end; ++i)
          std::memcpy(to + i * copy.pixel, line + (first + i * step) * copy.pixel, bytes(1));
      std::memset(to + end * copy.pixel, 0, bytes(copy.row_pixels - end));
    }
    std::memset(to, 0, kTileBytes);  // a step of the last pixel may read on: by weights of zero, so it has to be a number
  }
};

template <class Tiles>
class TileConvKernel : public Kernel {
 public:
  TileConvKernel(const Node& node, const DeviceInfo& device, std::string_view implementation)
      : implementation_(implementation),
        geometry_(node, device.threads),
        threads_(static_cast<int>(std::min<std::int64_t>(device.threads, geometry_.tasks()))),
        copy_(geometry_.layout(geometry_.box)),
        finish_(finish_loop<std::uint16_t>()) {
    for (const Step& step : geometry_.sum) {
      const std::int64_t rows = geometry_.stride(1), columns = geometry_.stride(2);
      const std::int64_t plane = step.row % rows * columns + step.column % columns;
      offsets_.push_back(step.frame * copy_.frame_bytes() + plane * copy_.plane_bytes() +
                         (step.row / rows * copy_.row_pixels + step.column / columns) * copy_.pixel + step.channel * 2);
    }
  }

  std::string_view implementation() const override { return implementation_; }
  std::size_t scratch_bytes() const override { return static_cast<std::size_t>(threads_) * geometry_.work_bytes(); }
  bool can_overwrite(int input, int) const override { return geometry_.attributes.has_residual && input == residual_operand(); }
  std::string weight_layout(int input) const override {
    if (input != 1) return Kernel::weight_layout(input);
    return fmt::format("bf16 panels of 32 columns, tiles of 32x16 in pairs, {} of {}", geometry_.in_runs ? "runs" : "taps",
                       geometry_.kernel.str());
  }
  std::size_t packed_bytes(int input, const Type& type) const override {
    if (input != 1) return Kernel::packed_bytes(input, type);
    return static_cast<std::size_t>(panels() * geometry_.steps.panel_bytes());
  }

  void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const override {
    if (input != 1) return Kernel::pack_weight(input, type, source, packed);
    parallel_ranges(panels(), 1, type.shape.count(), threads_, [&](std::int64_t begin, std::int64_t end) {
      std::vector<std::uint16_t> numbers(static_cast<std::size_t>(geometry_.kernel.count(1, 5)));
      for (std::int64_t panel = begin; panel < end; ++panel)
        pack_panel(source, panel * kPanelColumns, numbers, packed + panel * geometry_.steps.panel_bytes());
    });
  }

  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    const Geometry& g = geometry_;
    const auto numbers = [](const Slot& slot) { return reinterpret_cast<std::uint16_t*>(slot.data()); };
    const std::uint16_t* const bias = g.attributes.has_bias ? numbers(inputs[2]) : nullptr;
    const std::uint16_t* const residual =
        g.attributes.has_residual ? numbers(inputs[static_cast<std::size_t>(residual_operand())]) : nullptr;
    std::uint16_t* const result = numbers(outputs[0]);
    const bool is_small = g.result.count() * g.steps.all < kParallelElements;
#pragma omp parallel num_threads(threads_) if (!is_small)
    {
      std::byte* const own = scratch.data() + static_cast<std::size_t>(omp_get_thread_num()) * g.work_bytes();
      std::int64_t packed_box = -1;
      // Tasks of the same box follow one another in a thread, which copies its pixels once.
#pragma omp for schedule(static)
      for (std::int64_t i = 0; i < g.tasks(); ++i) {
        const std::int64_t box = i / g.across(), column0 = i % g.across() * g.task_columns;
        const std::int64_t frame = box / (g.boxes(1) * g.boxes(2)) * g.box.frames, row = box / g.boxes(2) % g.boxes(1) * g.box.rows,
                           column = box % g.boxes(2) * g.box.columns;
        const Box there{std::min(g.box.frames, g.result.dim(0) - frame), std::min(g.box.rows, g.result.dim(1) - row),
                        std::min(g.box.columns, g.result.dim(2) - column)};
        const std::int64_t run = Geometry::run_of(there, copy_), rest = run % kBlockRows;
        BoxRows rows{g,
                     copy_,
                     offsets_.data(),
                     inputs[0].data(),
                     g.attributes.has_history ? inputs.back().data() : nullptr,
                     frame,
                     row,
                     column,
                     there,
                     run / kBlockRows,
                     own};
        const std::int64_t rests = rest ? there.frames : 0;
        const TileTask task{.whole = there.frames * rows.whole,
                            .rests = rests,
                            .rest = rest,
                            .rows = (there.frames * rows.whole + rests) * kBlockRows,
                            .b = inputs[1].data() + column0 / kPanelColumns * g.steps.panel_bytes(),
                            .columns = std::min(g.task_columns, g.out_channels() - column0),
                            .sums = reinterpret_cast<float*>(own + copy_.bytes())};
        const bool is_packed = box == packed_box;
        packed_box = box;
        run_tile_task<Tiles>(
            g.steps, task, rows, is_packed,
            [&](const float* sums, std::int64_t first, std::int64_t count, std::int64_t task_column, std::int64_t columns) {
              const std::int64_t o = column0 + task_column;
              for_results(rows, first, count, [&](std::int64_t from, std::int64_t pixels, std::int64_t pixel) {
                const std::int64_t at = pixel * g.out_channels() + o;
                finish_({bias ? bias + o : nullptr, residual ? residual + at : nullptr, result + at, g.out_channels(),
                         g.attributes.activation},
                        sums + (from - first) * kPanelColumns, kPanelColumns, pixels, columns);
              });
            },
            [&](std::int64_t first, std::int64_t count, std::int64_t task_column) {
              if (!residual) return;
              for_results(rows, first, count, [&](std::int64_t, std::int64_t pixels, std::int64_t pixel) {
                for (std::int64_t p = pixel; p < pixel + pixels; ++p)
                  __builtin_prefetch(residual + p * g.out_channels() + column0 + task_column, 0, 3);
              });
            });
      }
      Tiles::release();
    }
  }

 private:
  int residual_operand() const { return geometry_.attributes.has_bias ? 3 : 2; }
  std::int64_t panels() const { return blocks_of(geometry_.out_channels(), kPanelColumns); }

  // The results among rows [first, first + count) of the task's blocks: body(first row, count, first pixel of the result) for each
  // piece of a row of the picture.
  template <class Body>
  void for_results(const BoxRows& rows, std::int64_t first, std::int64_t count, const Body& body) const {
    const Box& box = rows.box;
    for (const std::int64_t end = first + count; first < end;) {
      const std::int64_t in_block = first % kBlockRows, left = std::min(end - first, kBlockRows - in_block);
      const auto [frame, start] = rows.place(first / kBlockRows);
      const std::int64_t row = (start + in_block) / copy_.row_pixels, column = (start + in_block) % copy_.row_pixels;
      const std::int64_t pieces = std::min(left, copy_.row_pixels - column), pixels = std::min(pieces, box.columns - column);
      if (row < box.rows && pixels > 0)
        body(first, pixels,
             ((rows.frame + frame) * geometry_.result.dim(1) + rows.row + row) * geometry_.result.dim(2) + rows.column + column);
      first += pieces;
    }
  }

  // 32 columns, weights of the channels of the result from `first` on; those that do not exist are zeros.
  void pack_panel(const WeightReader& source, std::int64_t first, std::vector<std::uint16_t>& numbers, std::byte* packed) const {
    const Geometry& g = geometry_;
    const std::int64_t channels = g.channels(), taps = g.kernel.count(2, 5), in_row = g.kernel.dim(4) * channels;
    std::memset(packed, 0, static_cast<std::size_t>(g.steps.panel_bytes()));
    auto* const to = reinterpret_cast<std::uint16_t*>(packed);
    for (std::int64_t c = 0; c < std::min(kPanelColumns, g.out_channels() - first); ++c) {
      const auto count = static_cast<std::int64_t>(numbers.size());
      source.read((first + c) * count, count, DType::bf16, numbers.data());  // [channel][tap]
      for (std::int64_t s = 0; s < g.steps.all; ++s) {
        const Step& step = g.sum[static_cast<std::size_t>(s)];
        const std::int64_t tap_row = (step.frame * g.kernel.dim(3) + step.row) * g.kernel.dim(4);
        const std::int64_t begin = step.column * channels + step.channel,
                           end = std::min(begin + kStepDepth, g.in_runs ? in_row : (step.column + 1) * channels);
        std::uint16_t* const tile = to + (s * 2 + c / 16) * kStepBytes / 4;
        std::int64_t channel = step.channel, tap = tap_row + step.column;
        for (std::int64_t k = 0; k < end - begin; ++k) {
          tile[(k / 2 * 16 + c % 16) * 2 + k % 2] = numbers[static_cast<std::size_t>(channel * taps + tap)];
          if (++channel == channels) channel = 0, ++tap;
        }
      }
    }
  }

  std::string implementation_;
  Geometry geometry_;
  int threads_;
  CopyLayout copy_;
  std::vector<std::int64_t> offsets_;
  FinishLoop<std::uint16_t> finish_;
};

}  // namespace

std::unique_ptr<Kernel> make_tile_conv(const Node& node, const DeviceInfo& device, bool emulated) {
  ZOE_INTERNAL_CHECK(tiles_take_conv(node));
#if defined(__x86_64__)
  if (!emulated) return std::make_unique<TileConvKernel<HardwareTiles>>(node, device, "amx tiles, implicit");
#endif
  ZOE_INTERNAL_CHECK(emulated);
  return std::make_unique<TileConvKernel<EmulatedTiles>>(node, device, "amx tiles, implicit, emulated");
}

bool tiles_take_conv(const Node& conv) {
  return conv.types[0].dtype == DType::bf16 && conv.inputs[1].node().opcode == Opcode::parameter &&
         conv.as<ProductAttributes>().upsample == 1;
}

}  // namespace zoe::cpu
