#include "compiler/block_layout.h"

#include <algorithm>

namespace zoe {

namespace {

constexpr std::size_t kAlignment = 256;  // of the strictest reader, a GPU's copies of boxes
constexpr std::size_t kSmall = 8;        // a block of less than this part of the largest one stays

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

std::vector<int> candidates(const std::vector<BlockLayout>& blocks) {
  std::size_t largest = 0;
  for (std::size_t i = 1; i < blocks.size(); ++i) largest = std::max(largest, blocks[i].size_bytes);
  std::vector<int> found;
  for (std::size_t i = 1; i < blocks.size(); ++i)
    if (blocks[i].size_bytes * kSmall > largest) found.push_back(static_cast<int>(i));
  return found;
}

// `count` of them, spread evenly. By i * count modulo their number, those that are not chosen fill a range as long as there are of
// them, which begins elsewhere for each member: ranges meet only where they must.
std::vector<int> spread(const std::vector<int>& all, std::size_t count, Member member) {
  const std::size_t first = member.number * all.size() / member.count;
  std::vector<int> chosen;
  for (std::size_t i = 0; i < all.size(); ++i)
    if (((i + 1) * count + first) / all.size() > (i * count + first) / all.size()) chosen.push_back(all[i]);
  return chosen;
}

struct Choice {
  std::vector<int> coming;
  std::size_t stays_bytes = 0, slot_bytes = 0;
};

Choice choose(const std::vector<BlockLayout>& blocks, std::vector<int> coming) {
  Choice choice{std::move(coming), 0, 0};
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const bool comes = std::find(choice.coming.begin(), choice.coming.end(), static_cast<int>(i)) != choice.coming.end();
    if (comes) choice.slot_bytes = std::max(choice.slot_bytes, blocks[i].size_bytes);
    else choice.stays_bytes += blocks[i].size_bytes;
  }
  return choice;
}

}  // namespace

std::size_t block_slots(const Platform& platform) { return platform.info().copies_beside ? 2 : 1; }

std::vector<BlockLayout> lay_out_blocks(const Plan& plan) {
  std::vector<BlockLayout> blocks(static_cast<std::size_t>(std::max(1, plan.block_count)));
  for (std::size_t i = 0; i < plan.weights.size(); ++i) {
    BlockLayout& block = blocks[static_cast<std::size_t>(plan.weights[i].block)];
    block.weights.push_back(i);
    block.offsets.push_back(block.size_bytes);
    block.size_bytes += aligned(plan.weights[i].size_bytes);
  }
  return blocks;
}

ArenaLayout lay_out_arena(std::span<const Plan* const> plans, std::size_t slots, std::size_t most_bytes, Member member) {
  ArenaLayout arena{.plans = {}, .slots = slots};
  std::vector<Choice> choices;
  for (const Plan* plan : plans) {
    PlanLayout& layout = arena.plans.emplace_back();
    layout.blocks = lay_out_blocks(*plan);
    const std::vector<int> all = candidates(layout.blocks);
    choices.push_back(choose(layout.blocks, all.size() > slots ? all : std::vector<int>()));
  }
  const auto size = [&] {
    std::size_t stays = 0, slot = 0;
    for (const Choice& choice : choices) stays += choice.stays_bytes, slot = std::max(slot, choice.slot_bytes);
    return stays + slots * slot;
  };
  // What is left goes to the plan with the largest blocks, which is the one that runs most often.
  if (!choices.empty()) {
    const std::size_t largest =
        static_cast<std::size_t>(std::max_element(choices.begin(), choices.end(),
                                                  [](const Choice& a, const Choice& b) { return a.slot_bytes < b.slot_bytes; }) -
                                 choices.begin());
    const std::vector<BlockLayout>& blocks = arena.plans[largest].blocks;
    const std::vector<int> all = candidates(blocks);
    // A multiple of the places, so that the first one's is free when the last one runs.
    for (std::size_t count = slots == 1 ? 2 : 2 * slots; count < all.size(); count += slots) {
      const Choice before = choices[largest];
      choices[largest] = choose(blocks, spread(all, count, member));
      if (size() <= most_bytes) break;
      choices[largest] = before;
    }
  }
  std::size_t end = 0;
  for (const Choice& choice : choices) arena.slot_bytes = std::max(arena.slot_bytes, choice.slot_bytes);
  for (std::size_t p = 0; p < choices.size(); ++p) {
    PlanLayout& layout = arena.plans[p];
    layout.coming = choices[p].coming;
    layout.slots.assign(layout.blocks.size(), PlanLayout::kStays);
    layout.offsets.assign(layout.blocks.size(), 0);
    for (std::size_t i = 0; i < layout.coming.size(); ++i)
      layout.slots[static_cast<std::size_t>(layout.coming[i])] = static_cast<int>(i % slots);
    for (std::size_t s = 0; s < layout.blocks.size(); ++s)
      if (layout.slots[s] == PlanLayout::kStays) layout.offsets[s] = end, end += layout.blocks[s].size_bytes;
  }
  for (PlanLayout& layout : arena.plans)
    for (const int s : layout.coming)
      layout.offsets[static_cast<std::size_t>(s)] =
          end + static_cast<std::size_t>(layout.slots[static_cast<std::size_t>(s)]) * arena.slot_bytes;
  arena.size_bytes = end + slots * arena.slot_bytes;
  return arena;
}

}  // namespace zoe
