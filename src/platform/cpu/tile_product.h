// Products on tiles: rows of bf16 times weights that were packed for them, in f32 sums.
//
// The weights are panels of 32 columns, each in steps of 32 of the sum: two tiles a step. A task is a block of the result. Its rows
// are copied in tile order, so that they lie side by side in the second cache, as many steps of them as it holds; four tiles hold
// the sums of 32 rows and a panel. A chunk of a panel's steps stays in the first cache while all rows of the task meet it, and sums
// wait in the second cache between chunks. Meanwhile the next chunk is fetched, and the sums of the panel before are finished:
// vectors work while tiles multiply. Each sum is made in the same order, whatever the task.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "platform/cpu/parallel.h"
#include "platform/cpu/tiles.h"

namespace zoe::cpu {

constexpr std::int64_t kPanelColumns = 32, kStepDepth = 32, kBlockRows = 32;
constexpr std::int64_t kStepBytes = kPanelColumns * kStepDepth * 2;  // of a panel as of a block of rows
constexpr std::int64_t kBlockSums = kBlockRows * kPanelColumns;
constexpr std::int64_t kChunkSteps = 16;  // of a panel: 32 KiB
static_assert(kPanelColumns == kBlockRows);

constexpr std::int64_t blocks_of(std::int64_t count, std::int64_t block) { return (count + block - 1) / block; }

// How a product [rows, depth] x [depth, columns] is cut into tasks, and what of a task the second cache holds at a time: the packed
// rows of a sum's `block_steps` steps, and the sums: of one panel if these are all steps, of the whole task otherwise.
struct TileTasks {
  TileTasks(std::int64_t rows, std::int64_t depth, std::int64_t columns, int threads)
      : steps(blocks_of(depth, kStepDepth)), block_steps(steps) {
    constexpr std::int64_t kMost = 512;  // rows and columns: sums of 1 MiB, or 48 steps of packed rows in 1.5 MiB
    constexpr std::int64_t kAllSteps = 48;
    if (steps > kAllSteps) block_steps = kChunkSteps;
    // The cut into even parts that takes the least time: that of the thread with the most tasks, and what has to be read for a task
    // in proportion to its edges.
    constexpr double kEdge = 64;
    double least = std::numeric_limits<double>::infinity();
    const auto for_cuts = [&](std::int64_t extent, const auto& body) {
      const std::int64_t blocks = blocks_of(extent, kBlockRows), parts = blocks_of(extent, kMost);
      for (std::int64_t n = parts; n <= std::min(blocks, parts + threads); ++n) body(blocks_of(blocks, n) * kBlockRows);
    };
    for_cuts(rows, [&](std::int64_t r) {
      for_cuts(columns, [&](std::int64_t c) {
        const std::int64_t share = blocks_of(blocks_of(rows, r) * blocks_of(columns, c), threads);
        const double time =
            static_cast<double>(share * r * c) * (1 + kEdge / static_cast<double>(r) + kEdge / static_cast<double>(c));
        if (time < least) least = time, task_rows = r, task_columns = c;
      });
    });
    across = blocks_of(columns, task_columns);
    total = across * blocks_of(rows, task_rows);
  }
  std::int64_t steps, block_steps;
  std::int64_t task_rows = 0, task_columns = 0;
  std::int64_t across, total;  // tasks along the columns, and all
  std::int64_t panel_bytes() const { return steps * kStepBytes; }
  std::int64_t packed_bytes() const { return blocks_of(task_rows, kBlockRows) * block_steps * kStepBytes; }
  std::int64_t sums() const {
    return blocks_of(task_rows, kBlockRows) * (block_steps < steps ? blocks_of(task_columns, kPanelColumns) : 2) * kBlockSums;
  }
  // Of both, for a thread.
  std::size_t work_bytes() const {
    return static_cast<std::size_t>(packed_bytes()) + static_cast<std::size_t>(sums()) * sizeof(float);
  }
};

// A product: rows of `depth` numbers of two bytes (or pairs of codes), `a_stride` bytes apart, times packed panels.
struct TileProduct {
  const std::byte* a;
  std::int64_t a_stride, depth, rows;
  const std::byte* b;
  std::int64_t columns;
};

// A block of the result.
struct TileTask {
  const std::byte* a;  // its first row, of `depth` numbers
  std::int64_t a_stride, depth, rows;
  const std::byte* b;  // its first panel
  std::int64_t columns;
  std::byte* packed;  // TileTasks::packed_bytes()
  float* sums;        // TileTasks::sums()
  std::int64_t panels() const { return blocks_of(columns, kPanelColumns); }
};

// Rows [0, rows) of numbers [begin, begin + 32 * steps) in tile order; what lies beyond the rows or the depth counts as zero.
inline void pack_rows(const TileTask& task, std::int64_t first_step, std::int64_t steps) {
  for (std::int64_t row = 0; row < task.rows; ++row) {
    const std::byte* from = task.a + row * task.a_stride + first_step * kTileBytes;
    std::byte* to = task.packed + row / kBlockRows * steps * kStepBytes + row % kBlockRows * kTileBytes;
    const std::int64_t whole = std::min(steps, task.depth / kStepDepth - first_step);
    for (std::int64_t step = 0; step < whole; ++step, from += kTileBytes, to += kStepBytes) std::memcpy(to, from, kTileBytes);
    if (whole == steps) continue;
    const auto rest = static_cast<std::size_t>(task.depth % kStepDepth) * 2;
    std::memcpy(to, from, rest);
    std::memset(to + rest, 0, kTileBytes - rest);
  }
}

// Adds the products of `steps` steps to the sums of a block of rows and a panel. Calls beside() after each step.
template <class Tiles, bool kTwoRows, bool kTwoColumns, class Beside>
inline void add_chunk(const std::byte* a, const std::byte* b, std::int64_t steps, float* sums, bool is_first,
                      const Beside& beside) {
  constexpr std::int64_t kSumsStride = kPanelColumns * sizeof(float);
  float* const below = sums + kTileRows * kPanelColumns;
  if (is_first) {
    Tiles::template zero<0>();
    if constexpr (kTwoColumns) Tiles::template zero<1>();
    if constexpr (kTwoRows) Tiles::template zero<2>();
    if constexpr (kTwoRows && kTwoColumns) Tiles::template zero<3>();
  } else {
    Tiles::template load<0>(sums, kSumsStride);
    if constexpr (kTwoColumns) Tiles::template load<1>(sums + 16, kSumsStride);
    if constexpr (kTwoRows) Tiles::template load<2>(below, kSumsStride);
    if constexpr (kTwoRows && kTwoColumns) Tiles::template load<3>(below + 16, kSumsStride);
  }
  for (std::int64_t step = 0; step < steps; ++step, a += kStepBytes, b += kStepBytes) {
    Tiles::template load_past<4>(a, kTileBytes);
    Tiles::template load<6>(b, kTileBytes);
    Tiles::template multiply<0, 4, 6>();
    if constexpr (kTwoColumns) {
      Tiles::template load<7>(b + kStepBytes / 2, kTileBytes);
      Tiles::template multiply<1, 4, 7>();
    }
    if constexpr (kTwoRows) {
      Tiles::template load_past<5>(a + kStepBytes / 2, kTileBytes);
      Tiles::template multiply<2, 5, 6>();
      if constexpr (kTwoColumns) Tiles::template multiply<3, 5, 7>();
    }
    beside();
  }
  Tiles::template store<0>(sums, kSumsStride);
  if constexpr (kTwoColumns) Tiles::template store<1>(sums + 16, kSumsStride);
  if constexpr (kTwoRows) Tiles::template store<2>(below, kSumsStride);
  if constexpr (kTwoRows && kTwoColumns) Tiles::template store<3>(below + 16, kSumsStride);
}

// Configures the thread's registers and calls finish(sums, row, rows, column, columns) for all of the task, some rows of a panel at
// a time, when their sums are there, kPanelColumns floats a row; and fetch(row, rows, column) for them a while before. The caller
// releases the registers. `is_packed`: the rows' copy is there from the task before (possible where it has all steps).
template <class Tiles, class Finish, class Fetch>
void run_tile_task(const TileTasks& tasks, const TileTask& task, bool is_packed, const Finish& finish, const Fetch& fetch) {
  const std::int64_t whole = task.rows / kBlockRows, rest = task.rows % kBlockRows, blocks = whole + (rest ? 1 : 0);
  const auto configure = [](std::int64_t rows) {
    const std::int64_t above = std::min(rows, kTileRows), below = std::max<std::int64_t>(rows - kTileRows, 1);
    Tiles::configure(TileShapes::of_rows({above, above, below, below, above, below, kTileRows, kTileRows}));
  };
  if (whole > 0) configure(kBlockRows);
  // The panel whose sums wait for their end, from `row` on.
  struct {
    const float* sums = nullptr;
    std::int64_t row = 0, column = 0, columns = 0;
  } waiting;
  const auto finish_rows = [&](std::int64_t end) {
    if (end <= waiting.row) return;
    constexpr std::int64_t kAhead = 16;
    if (const std::int64_t from = waiting.row + kAhead; from < task.rows)
      fetch(from, std::min(end + kAhead, task.rows) - from, waiting.column);
    finish(waiting.sums + waiting.row * kPanelColumns, waiting.row, end - waiting.row, waiting.column, waiting.columns);
    waiting.row = end;
  };
  for (std::int64_t first = 0; first < tasks.steps; first += tasks.block_steps) {
    const std::int64_t block_steps = std::min(tasks.block_steps, tasks.steps - first), chunks = blocks_of(block_steps, kChunkSteps);
    const bool is_last = first + block_steps == tasks.steps;
    if (!is_packed) pack_rows(task, first, block_steps);
    for (std::int64_t panel = 0; panel < task.panels(); ++panel) {
      const std::int64_t column = panel * kPanelColumns, columns = std::min(kPanelColumns, task.columns - column);
      float* const panel_sums = task.sums + (tasks.block_steps < tasks.steps ? panel : panel % 2) * blocks * kBlockSums;
      const std::byte* const panel_b = task.b + panel * tasks.panel_bytes() + first * kStepBytes;
      const std::int64_t to_finish = waiting.sums ? task.rows : 0;
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
        const std::int64_t step0 = chunk * kChunkSteps, steps = std::min(kChunkSteps, block_steps - step0);
        const std::byte* const b = panel_b + step0 * kStepBytes;
        // The chunk that comes next is fetched in as many pieces as there are blocks of rows.
        const std::byte* const next = chunk + 1 < chunks ? b + steps * kStepBytes : panel_b + tasks.panel_bytes();
        const std::int64_t lines = blocks_of(kStepBytes / kTileBytes, blocks);  // a step
        const auto add = [&](std::int64_t i, std::int64_t rows) {
          const std::byte* const a = task.packed + (i * block_steps + step0) * kStepBytes;
          float* const sums = panel_sums + i * kBlockSums;
          const std::byte* fetched = next + i * steps * lines * kTileBytes;
          const std::int64_t turn = chunk * blocks + i + 1, end = to_finish * turn / (chunks * blocks),
                             rows_a_step = blocks_of(end - waiting.row, steps);
          const auto beside = [&] {
            for (std::int64_t line = 0; line < lines; ++line, fetched += kTileBytes) __builtin_prefetch(fetched, 0, 2);
            finish_rows(std::min(waiting.row + rows_a_step, end));
          };
          const bool is_first = first + step0 == 0;
          if (rows > kTileRows && columns > 16) add_chunk<Tiles, true, true>(a, b, steps, sums, is_first, beside);
          else if (rows > kTileRows) add_chunk<Tiles, true, false>(a, b, steps, sums, is_first, beside);
          else if (columns > 16) add_chunk<Tiles, false, true>(a, b, steps, sums, is_first, beside);
          else add_chunk<Tiles, false, false>(a, b, steps, sums, is_first, beside);
        };
        for (std::int64_t i = 0; i < whole; ++i) add(i, kBlockRows);
        if (rest == 0) continue;
        configure(rest);
        add(whole, rest);
        if (whole > 0) configure(kBlockRows);
      }
      if (is_last) waiting = {panel_sums, 0, column, columns};
    }
  }
  finish_rows(task.rows);
}

// All tasks of a product by so many threads, with TileTasks::work_bytes() of `work` for each: finish and fetch as above, of the
// whole product's rows and columns.
template <class Tiles, class Finish, class Fetch>
void run_tile_tasks(const TileTasks& tasks, const TileProduct& product, int threads, std::byte* work, const Finish& finish,
                    const Fetch& fetch) {
  const bool is_small = product.rows * product.columns * tasks.steps < kParallelElements;
#pragma omp parallel num_threads(threads) if (!is_small)
  {
    std::byte* const own = work + static_cast<std::size_t>(omp_get_thread_num()) * tasks.work_bytes();
    std::int64_t packed_row = -1;
    // Tasks of the same rows follow one another in a thread, which packs them once.
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < tasks.total; ++i) {
      const std::int64_t row0 = i / tasks.across * tasks.task_rows, column0 = i % tasks.across * tasks.task_columns;
      const TileTask task{product.a + row0 * product.a_stride,
                          product.a_stride,
                          product.depth,
                          std::min(tasks.task_rows, product.rows - row0),
                          product.b + column0 / kPanelColumns * tasks.panel_bytes(),
                          std::min(tasks.task_columns, product.columns - column0),
                          own,
                          reinterpret_cast<float*>(own + tasks.packed_bytes())};
      const bool is_packed = row0 == packed_row && tasks.block_steps == tasks.steps;
      packed_row = row0;
      run_tile_task<Tiles>(
          tasks, task, is_packed,
          [&](const float* sums, std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns) {
            finish(sums, row0 + row, rows, column0 + column, columns);
          },
          [&](std::int64_t row, std::int64_t rows, std::int64_t column) { fetch(row0 + row, rows, column0 + column); });
    }
    Tiles::release();
  }
}

}  // namespace zoe::cpu
