// Products on tiles: rows of bf16 that lie anywhere in memory times weights that were packed for them, in f32 sums.
//
// A row of the left operand is one or more pieces of `depth` numbers, at the same distances from each other in all rows: one for a
// linear, one a row of taps for a convolution. The weights are panels of 32 columns, each in steps of 32 of the sum: two tiles a
// step. Four tiles hold the sums of 32 rows and a panel; a chunk of a panel's steps stays in the first cache while all rows of a
// task meet it, and sums wait in the second cache between chunks. Each sum is made in the same order, whatever the task.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "platform/cpu/tiles.h"

namespace zoe::cpu {

constexpr std::int64_t kPanelColumns = 32, kStepDepth = 32, kBlockRows = 32;
constexpr std::int64_t kStepBytes = kPanelColumns * kStepDepth * 2;
constexpr std::int64_t kBlockSums = kBlockRows * kPanelColumns;

constexpr std::int64_t blocks_of(std::int64_t count, std::int64_t block) { return (count + block - 1) / block; }

// The steps of a sum, made once: by chunks, and by pieces inside them.
struct TileSteps {
  struct Run {
    std::int64_t offset;  // of the left operand, in bytes from the row's begin; in the row of tails if `tail`
    std::int64_t steps;
    bool tail;
  };
  struct Chunk {
    std::vector<Run> runs;
    std::int64_t first_step;
  };

  // `offsets`: bytes from a row's begin to its pieces, of `piece_depth` numbers each. Only a single piece may be no multiple of 32
  // numbers.
  TileSteps(const std::vector<std::int64_t>& offsets, std::int64_t piece_depth, std::int64_t chunk_steps) : depth(piece_depth) {
    std::int64_t room = 0;
    const auto add = [&](std::int64_t offset, std::int64_t count, bool tail) {
      while (count > 0) {
        if (room == 0) {
          chunks.push_back({{}, steps});
          room = chunk_steps;
        }
        const std::int64_t now = std::min(room, count);
        chunks.back().runs.push_back({offset, now, tail});
        offset += now * kTileBytes;
        steps += now;
        room -= now;
        count -= now;
      }
    };
    for (const std::int64_t offset : offsets) {
      add(offset, depth / kStepDepth, false);
      if (depth % kStepDepth) add(0, 1, true);
    }
  }

  std::vector<Chunk> chunks;
  std::int64_t steps = 0;  // of a panel
  std::int64_t depth;
  bool has_tail() const { return depth % kStepDepth != 0; }
  std::int64_t panel_bytes() const { return steps * kStepBytes; }
};

// A block of the result.
struct TileTask {
  const std::byte* a;  // its first row
  std::int64_t a_stride, rows;
  const std::byte* b;  // its first panel
  std::int64_t columns;
  float* sums;           // kBlockSums for each block of rows and panel
  std::uint16_t* tails;  // kStepDepth a row, for what of a piece fills no step; null if nothing
  std::int64_t panels() const { return blocks_of(columns, kPanelColumns); }
};

template <class Tiles, bool kTwoRows, bool kTwoColumns>
inline void add_chunk(const TileSteps::Chunk& chunk, const std::byte* a, std::int64_t a_stride, const std::byte* tail,
                      const std::byte* b, float* sums, bool is_first) {
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
  b += chunk.first_step * kStepBytes;
  for (const TileSteps::Run& run : chunk.runs) {
    const std::byte* from = (run.tail ? tail : a) + run.offset;
    const std::int64_t stride = run.tail ? kTileBytes : a_stride;
    for (std::int64_t step = 0; step < run.steps; ++step, from += kTileBytes, b += kStepBytes) {
      Tiles::template load<4>(from, stride);
      Tiles::template load<6>(b, kTileBytes);
      Tiles::template multiply<0, 4, 6>();
      if constexpr (kTwoColumns) {
        Tiles::template load<7>(b + kStepBytes / 2, kTileBytes);
        Tiles::template multiply<1, 4, 7>();
      }
      if constexpr (kTwoRows) {
        Tiles::template load<5>(from + kTileRows * stride, stride);
        Tiles::template multiply<2, 5, 6>();
        if constexpr (kTwoColumns) Tiles::template multiply<3, 5, 7>();
      }
    }
  }
  Tiles::template store<0>(sums, kSumsStride);
  if constexpr (kTwoColumns) Tiles::template store<1>(sums + 16, kSumsStride);
  if constexpr (kTwoRows) Tiles::template store<2>(below, kSumsStride);
  if constexpr (kTwoRows && kTwoColumns) Tiles::template store<3>(below + 16, kSumsStride);
}

// Configures the thread's registers and calls finish(sums, row, rows, column, columns) for each block of at most 32 x 32 whose sums
// are there, kPanelColumns floats a row. The caller releases the registers.
template <class Tiles, class Finished>
void run_tile_task(const TileSteps& steps, const TileTask& task, const Finished& finish) {
  const std::int64_t whole = task.rows / kBlockRows, rest = task.rows % kBlockRows, blocks = whole + (rest ? 1 : 0);
  const std::int64_t tail_depth = steps.depth % kStepDepth;
  if (tail_depth)
    for (std::int64_t row = 0; row < task.rows; ++row) {
      std::uint16_t* const to = task.tails + row * kStepDepth;
      std::memcpy(to, task.a + row * task.a_stride + (steps.depth - tail_depth) * 2, static_cast<std::size_t>(tail_depth) * 2);
      std::fill(to + tail_depth, to + kStepDepth, std::uint16_t{0});
    }
  const auto block = [&](const TileSteps::Chunk& chunk, std::int64_t i, std::int64_t rows, std::int64_t panel) {
    const std::int64_t row = i * kBlockRows, column = panel * kPanelColumns,
                       columns = std::min(kPanelColumns, task.columns - column);
    const std::byte *a = task.a + row * task.a_stride, *b = task.b + panel * steps.panel_bytes();
    const auto* tail = reinterpret_cast<const std::byte*>(task.tails + (task.tails ? row * kStepDepth : 0));
    float* const sums = task.sums + (panel * blocks + i) * kBlockSums;
    const bool is_first = &chunk == &steps.chunks.front();
    const auto add = rows > kTileRows ? (columns > 16 ? add_chunk<Tiles, true, true> : add_chunk<Tiles, true, false>)
                                      : (columns > 16 ? add_chunk<Tiles, false, true> : add_chunk<Tiles, false, false>);
    add(chunk, a, task.a_stride, tail, b, sums, is_first);
    if (&chunk == &steps.chunks.back()) finish(sums, row, rows, column, columns);
  };
  const auto configure = [](std::int64_t rows) {
    const std::int64_t above = std::min(rows, kTileRows), below = std::max<std::int64_t>(rows - kTileRows, 1);
    Tiles::configure(TileShapes::of_rows({above, above, below, below, above, below, kTileRows, kTileRows}));
  };
  if (whole > 0) configure(kBlockRows);
  for (const TileSteps::Chunk& chunk : steps.chunks) {
    for (std::int64_t panel = 0; panel < task.panels(); ++panel)
      for (std::int64_t i = 0; i < whole; ++i) block(chunk, i, kBlockRows, panel);
    if (rest == 0) continue;
    configure(rest);
    for (std::int64_t panel = 0; panel < task.panels(); ++panel) block(chunk, whole, rest, panel);
    if (whole > 0 && &chunk != &steps.chunks.back()) configure(kBlockRows);
  }
}

// Rows and columns of a task: about 256 x 256, whose operands' chunks and sums the second cache holds, but several a thread.
struct TileTasks {
  TileTasks(std::int64_t rows, std::int64_t columns, int threads) {
    const auto count = [&] { return blocks_of(rows, task_rows) * blocks_of(columns, task_columns); };
    const auto shrink = [](std::int64_t& extent, std::int64_t of) {
      extent = std::min(extent, blocks_of(of, kBlockRows) * kBlockRows);
    };
    shrink(task_rows, rows);
    shrink(task_columns, columns);
    while (count() < 4 * threads && std::max(task_rows, task_columns) > 32) {
      std::int64_t& larger = task_rows >= task_columns ? task_rows : task_columns;
      larger = blocks_of(larger / 2, 32) * 32;
    }
    across = blocks_of(rows, task_rows);
    total = count();
  }
  std::int64_t task_rows = 256, task_columns = 256;
  std::int64_t across = 0, total = 0;  // tasks along the rows, and all
  std::int64_t sums() const { return task_rows * task_columns; }
};

}  // namespace zoe::cpu
