// Products on tiles: rows of bf16 times weights that were packed for them, in f32 sums.
//
// The weights are panels of 32 columns, each in steps of 32 of the sum: two tiles a step. A task is a block of the result. Its rows
// are copied so that they lie side by side in the second cache, those of a product in tile order, as many steps of them as it
// holds; four tiles hold the sums of 32 rows and a panel. A chunk of a panel's steps stays in the first cache while all rows of the
// task meet it, and sums wait in the second cache between chunks. Meanwhile the next chunk is fetched, and the sums of the panel
// before are finished: vectors work while tiles multiply. Each sum is made in the same order, whatever the task.
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

// The steps of a sum: how many of them the copied rows of a task hold at a time, and how many of a panel the first cache holds.
struct TileSteps {
  std::int64_t all, block, chunk = kChunkSteps;
  std::int64_t panel_bytes() const { return all * kStepBytes; }
};

// How a product [rows, depth] x [depth, columns] is cut into tasks, and what of a task the second cache holds at a time: the packed
// rows of a block of steps, and the sums: of one panel if these are all steps, of the whole task otherwise.
struct TileTasks {
  TileTasks(std::int64_t rows, std::int64_t depth, std::int64_t columns, int threads)
      : steps{blocks_of(depth, kStepDepth), blocks_of(depth, kStepDepth)} {
    // 48 steps of packed rows, or 16 and the sums, take 768 KiB: others may use the second cache, too.
    constexpr std::int64_t kMostRows = 256, kMostColumns = 512, kAllSteps = 48;
    if (steps.all > kAllSteps) steps.block = kChunkSteps;
    // The cut into even parts that takes the least time: that of the thread with the most tasks, and what has to be read for a task
    // in proportion to its edges.
    constexpr double kEdge = 64;
    double least = std::numeric_limits<double>::infinity();
    const auto for_cuts = [&](std::int64_t extent, std::int64_t most, const auto& body) {
      const std::int64_t blocks = blocks_of(extent, kBlockRows), parts = blocks_of(extent, most);
      for (std::int64_t n = parts; n <= std::min(blocks, parts + threads); ++n) body(blocks_of(blocks, n) * kBlockRows);
    };
    for_cuts(rows, kMostRows, [&](std::int64_t r) {
      for_cuts(columns, kMostColumns, [&](std::int64_t c) {
        const std::int64_t share = blocks_of(blocks_of(rows, r) * blocks_of(columns, c), threads);
        const double time =
            static_cast<double>(share * r * c) * (1 + kEdge / static_cast<double>(r) + kEdge / static_cast<double>(c));
        if (time < least) least = time, task_rows = r, task_columns = c;
      });
    });
    across = blocks_of(columns, task_columns);
    total = across * blocks_of(rows, task_rows);
  }
  TileSteps steps;
  std::int64_t task_rows = 0, task_columns = 0;
  std::int64_t across, total;  // tasks along the columns, and all
  std::int64_t packed_bytes() const { return blocks_of(task_rows, kBlockRows) * steps.block * kStepBytes; }
  std::int64_t sums() const {
    return blocks_of(task_rows, kBlockRows) * (steps.block < steps.all ? blocks_of(task_columns, kPanelColumns) : 2) * kBlockSums;
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

// A block of the result. Its rows come in blocks, whose sums lie one behind the other: whole ones, then such of `rest` rows.
struct TileTask {
  std::int64_t whole, rests, rest;
  std::int64_t rows;   // to finish, of 32 a block
  const std::byte* b;  // its first panel
  std::int64_t columns;
  float* sums;  // of a panel at even and one at odd places, or of all panels where the rows hold only some steps at a time
  std::int64_t blocks() const { return whole + rests; }
  std::int64_t panels() const { return blocks_of(columns, kPanelColumns); }
};

// The rows of a task of a product, copied in tile order.
struct PackedRows {
  const std::byte* a;  // the first, of `depth` numbers
  std::int64_t a_stride, depth, rows;
  std::byte* packed;  // TileTasks::packed_bytes()
  std::int64_t packed_steps = 0;

  // Numbers [32 * first_step, 32 * (first_step + steps)); what lies beyond the rows or the depth counts as zero. A few steps of a
  // block at a time: what is written then lies in one piece, and a whole row's steps would meet in two sets of the first cache.
  void pack(std::int64_t first_step, std::int64_t steps) {
    constexpr std::int64_t kTogether = 8;
    packed_steps = steps;
    const std::int64_t whole = std::min(steps, depth / kStepDepth - first_step);
    for (std::int64_t row0 = 0; row0 < rows; row0 += kBlockRows) {
      std::byte* const block = packed + row0 * steps * kTileBytes;
      const std::int64_t count = std::min(kBlockRows, rows - row0);
      const std::byte* const from = a + row0 * a_stride + first_step * kTileBytes;
      for (std::int64_t step0 = 0; step0 < whole; step0 += kTogether)
        for (std::int64_t row = 0; row < count; ++row)
          for (std::int64_t step = step0; step < std::min(step0 + kTogether, whole); ++step)
            std::memcpy(block + step * kStepBytes + row * kTileBytes, from + row * a_stride + step * kTileBytes, kTileBytes);
      if (whole == steps) continue;
      const auto rest = static_cast<std::size_t>(depth % kStepDepth) * 2;
      for (std::int64_t row = 0; row < count; ++row) {
        std::byte* const to = block + whole * kStepBytes + row * kTileBytes;
        std::memcpy(to, from + row * a_stride + whole * kTileBytes, rest);
        std::memset(to + rest, 0, kTileBytes - rest);
      }
    }
  }

  // Where the tiles of a block of rows are, from a step of those packed on: the upper one of a step, the distance of its rows, and
  // that of the lower tile. Each is loaded once for a panel's chunk.
  struct Block {
    static constexpr bool kOnce = true;
    const std::byte* first;
    const std::byte* at(std::int64_t step) const { return first + step * kStepBytes; }
    static constexpr std::int64_t stride = kTileBytes, below = kStepBytes / 2;
  };
  Block block(std::int64_t i, std::int64_t step) const { return {packed + (i * packed_steps + step) * kStepBytes}; }
};

// Adds the products of `steps` steps to the sums of a block of rows and a panel. Calls beside() after each step.
template <class Tiles, bool kTwoRows, bool kTwoColumns, class Block, class Beside>
inline void add_chunk(const Block& a, const std::byte* b, std::int64_t steps, float* sums, bool is_first, const Beside& beside) {
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
  for (std::int64_t step = 0; step < steps; ++step, b += kStepBytes) {
    const std::byte* const upper = a.at(step);
    if constexpr (Block::kOnce) Tiles::template load_past<4>(upper, a.stride);
    else Tiles::template load<4>(upper, a.stride);
    Tiles::template load<6>(b, kTileBytes);
    Tiles::template multiply<0, 4, 6>();
    if constexpr (kTwoColumns) {
      Tiles::template load<7>(b + kStepBytes / 2, kTileBytes);
      Tiles::template multiply<1, 4, 7>();
    }
    if constexpr (kTwoRows) {
      if constexpr (Block::kOnce) Tiles::template load_past<5>(upper + a.below, a.stride);
      else Tiles::template load<5>(upper + a.below, a.stride);
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
// releases the registers. `rows` are PackedRows or have the same functions. `is_packed`: their copy is there from the task before
// (possible where it has all steps).
template <class Tiles, class Rows, class Finish, class Fetch>
void run_tile_task(const TileSteps& of, const TileTask& task, Rows& rows, bool is_packed, const Finish& finish,
                   const Fetch& fetch) {
  constexpr std::int64_t kLeastRows = 2;  // finished at a time
  const std::int64_t blocks = task.blocks();
  const auto configure = [](std::int64_t count) {
    const std::int64_t above = std::min(count, kTileRows), below = std::max<std::int64_t>(count - kTileRows, 1);
    Tiles::configure(TileShapes::of_rows({above, above, below, below, above, below, kTileRows, kTileRows}));
  };
  if (task.whole > 0) configure(kBlockRows);
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
  for (std::int64_t first = 0; first < of.all; first += of.block) {
    const std::int64_t block_steps = std::min(of.block, of.all - first), chunks = blocks_of(block_steps, of.chunk);
    const bool is_last = first + block_steps == of.all;
    if (!is_packed) rows.pack(first, block_steps);
    for (std::int64_t panel = 0; panel < task.panels(); ++panel) {
      const std::int64_t column = panel * kPanelColumns, columns = std::min(kPanelColumns, task.columns - column);
      float* const panel_sums = task.sums + (of.block < of.all ? panel : panel % 2) * blocks * kBlockSums;
      const std::byte* const panel_b = task.b + panel * of.panel_bytes() + first * kStepBytes;
      const std::int64_t to_finish = waiting.sums ? task.rows : 0;
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
        const std::int64_t step0 = chunk * of.chunk, steps = std::min(of.chunk, block_steps - step0);
        const std::byte* const b = panel_b + step0 * kStepBytes;
        // The chunk that comes next is fetched in as many pieces as there are blocks of rows.
        const std::byte* const next = chunk + 1 < chunks ? b + steps * kStepBytes : panel_b + of.panel_bytes();
        const std::int64_t lines = blocks_of(kStepBytes / kTileBytes, blocks);  // a step
        const auto add = [&](std::int64_t i, std::int64_t count) {
          const auto a = rows.block(i, step0);
          float* const sums = panel_sums + i * kBlockSums;
          const std::byte* fetched = next + i * steps * lines * kTileBytes;
          const std::int64_t turn = chunk * blocks + i + 1, end = to_finish * turn / (chunks * blocks),
                             rows_a_step = std::max(blocks_of(end - waiting.row, steps), kLeastRows);
          const auto beside = [&] {
            for (std::int64_t line = 0; line < lines; ++line, fetched += kTileBytes) __builtin_prefetch(fetched, 0, 2);
            finish_rows(std::min(waiting.row + rows_a_step, end));
          };
          const bool is_first = first + step0 == 0;
          if (count > kTileRows && columns > 16) add_chunk<Tiles, true, true>(a, b, steps, sums, is_first, beside);
          else if (count > kTileRows) add_chunk<Tiles, true, false>(a, b, steps, sums, is_first, beside);
          else if (columns > 16) add_chunk<Tiles, false, true>(a, b, steps, sums, is_first, beside);
          else add_chunk<Tiles, false, false>(a, b, steps, sums, is_first, beside);
        };
        for (std::int64_t i = 0; i < task.whole; ++i) add(i, kBlockRows);
        if (task.rests == 0) continue;
        configure(task.rest);
        for (std::int64_t i = task.whole; i < blocks; ++i) add(i, task.rest);
        if (task.whole > 0) configure(kBlockRows);
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
  const bool is_small = product.rows * product.columns * tasks.steps.all < kParallelElements;
#pragma omp parallel num_threads(threads) if (!is_small)
  {
    std::byte* const own = work + static_cast<std::size_t>(omp_get_thread_num()) * tasks.work_bytes();
    std::int64_t packed_row = -1;
    // Tasks of the same rows follow one another in a thread, which packs them once.
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < tasks.total; ++i) {
      const std::int64_t row0 = i / tasks.across * tasks.task_rows, column0 = i % tasks.across * tasks.task_columns;
      const std::int64_t rows = std::min(tasks.task_rows, product.rows - row0), rest = rows % kBlockRows;
      PackedRows packed{product.a + row0 * product.a_stride, product.a_stride, product.depth, rows, own, tasks.steps.all};
      const TileTask task{.whole = rows / kBlockRows,
                          .rests = rest ? 1 : 0,
                          .rest = rest,
                          .rows = rows,
                          .b = product.b + column0 / kPanelColumns * tasks.steps.panel_bytes(),
                          .columns = std::min(tasks.task_columns, product.columns - column0),
                          .sums = reinterpret_cast<float*>(own + tasks.packed_bytes())};
      const bool is_packed = row0 == packed_row && tasks.steps.block == tasks.steps.all;
      packed_row = row0;
      run_tile_task<Tiles>(
          tasks.steps, task, packed, is_packed,
          [&](const float* sums, std::int64_t row, std::int64_t count, std::int64_t column, std::int64_t columns) {
            finish(sums, row0 + row, count, column0 + column, columns);
          },
          [&](std::int64_t row, std::int64_t count, std::int64_t column) { fetch(row0 + row, count, column0 + column); });
    }
    Tiles::release();
  }
}

}  // namespace zoe::cpu
