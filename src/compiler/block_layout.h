// Where the weights of plans lie whose blocks come and go: first what stays, then places that blocks take in turns.
//
// All of it is one buffer, an arena, and a block always comes to the same place in it: what a device recorded of a block's kernels
// stays good.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "compiler/compile.h"

namespace zoe {

// Weights of one block side by side: packed in one go, copied as one.
struct BlockLayout {
  std::vector<std::size_t> weights;  // their numbers in the plan
  std::vector<std::size_t> offsets;  // of each, in the block
  std::size_t size_bytes = 0;
};
std::vector<BlockLayout> lay_out_blocks(const Plan& plan);

struct PlanLayout {
  static constexpr int kStays = -1;
  std::vector<BlockLayout> blocks;
  std::vector<std::size_t> offsets;  // of each block, in the arena
  std::vector<int> slots;            // of each block: which of the places it takes, or kStays
  std::vector<int> coming;           // the blocks that come and go, in their order
};

struct ArenaLayout {
  std::vector<PlanLayout> plans;  // in the order of the plans
  std::size_t slot_bytes = 0, slots = 0;
  std::size_t size_bytes = 0;
};

// Of devices that have the same weights: which one this is. Each keeps other blocks than the ones before it, as far as there are
// others: where each has room for 1 / count of them, every block stays on one.
struct Member {
  std::size_t number = 0, count = 1;
  friend bool operator==(const Member&, const Member&) = default;
};

// Block 0 stays, and small ones (heads and tails). Of the others as many stay as `most_bytes` holds beside `slots` places for the
// largest of the rest, spread evenly among those that come and go; with 0 none does. At least what the plans take is taken.
ArenaLayout lay_out_arena(std::span<const Plan* const> plans, std::size_t slots, std::size_t most_bytes = 0, Member member = {});

// How many blocks' places a platform uses: one is filled while the kernels of the other one's run, where it can do so.
std::size_t block_slots(const Platform& platform);

}  // namespace zoe
