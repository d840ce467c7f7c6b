#include "compiler/block_layout.h"

#include <algorithm>

namespace zoe {

namespace {

constexpr std::size_t kAlignment = 256;  // of the strictest reader, a GPU's copies of boxes
constexpr std::size_t kSmall = 8;        // a segment of less than this part of the largest one stays

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

std::vector<int> candidates(const std::vector<SegmentLayout>& segments) {
  std::size_t largest = 0;
  for (std::size_t i = 1; i < segments.size(); ++i) largest = std::max(largest, segments[i].size_bytes);
  std::vector<int> found;
  for (std::size_t i = 1; i < segments.size(); ++i)
    if (segments[i].size_bytes * kSmall > largest) found.push_back(static_cast<int>(i));
  return found;
}

// `count` of them, spread evenly.
std::vector<int> spread(const std::vector<int>& all, std::size_t count) {
  std::vector<int> chosen;
  for (std::size_t i = 0; i < all.size(); ++i)
    if ((i + 1) * count / all.size() > i * count / all.size()) chosen.push_back(all[i]);
  return chosen;
}

struct Choice {
  std::vector<int> coming;
  std::size_t stays_bytes = 0, slot_bytes = 0;
};

Choice choose(const std::vector<SegmentLayout>& segments, std::vector<int> coming) {
  Choice choice{std::move(coming), 0, 0};
  for (std::size_t i = 0; i < segments.size(); ++i) {
    const bool comes = std::find(choice.coming.begin(), choice.coming.end(), static_cast<int>(i)) != choice.coming.end();
    if (comes) choice.slot_bytes = std::max(choice.slot_bytes, segments[i].size_bytes);
    else choice.stays_bytes += segments[i].size_bytes;
  }
  return choice;
}

}  // namespace

std::size_t block_slots(const Platform& platform) { return platform.info().copies_beside ? 2 : 1; }

std::vector<SegmentLayout> lay_out_segments(const Plan& plan) {
  std::vector<SegmentLayout> segments(static_cast<std::size_t>(std::max(1, plan.segment_count)));
  for (std::size_t i = 0; i < plan.weights.size(); ++i) {
    SegmentLayout& segment = segments[static_cast<std::size_t>(plan.weights[i].segment)];
    segment.weights.push_back(i);
    segment.offsets.push_back(segment.size_bytes);
    segment.size_bytes += aligned(plan.weights[i].size_bytes);
  }
  return segments;
}

ArenaLayout lay_out_arena(std::span<const Plan* const> plans, std::size_t slots, std::size_t most_bytes) {
  ArenaLayout arena{.plans = {}, .slots = slots};
  std::vector<Choice> choices;
  for (const Plan* plan : plans) {
    BlockLayout& layout = arena.plans.emplace_back();
    layout.segments = lay_out_segments(*plan);
    const std::vector<int> all = candidates(layout.segments);
    choices.push_back(choose(layout.segments, all.size() > slots ? all : std::vector<int>()));
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
    const std::vector<SegmentLayout>& segments = arena.plans[largest].segments;
    const std::vector<int> all = candidates(segments);
    // A multiple of the places, so that the first one's is free when the last one runs.
    for (std::size_t count = slots == 1 ? 2 : 2 * slots; count < all.size(); count += slots) {
      const Choice before = choices[largest];
      choices[largest] = choose(segments, spread(all, count));
      if (size() <= most_bytes) break;
      choices[largest] = before;
    }
  }
  std::size_t end = 0;
  for (const Choice& choice : choices) arena.slot_bytes = std::max(arena.slot_bytes, choice.slot_bytes);
  for (std::size_t p = 0; p < choices.size(); ++p) {
    BlockLayout& layout = arena.plans[p];
    layout.coming = choices[p].coming;
    layout.slots.assign(layout.segments.size(), BlockLayout::kStays);
    layout.offsets.assign(layout.segments.size(), 0);
    for (std::size_t i = 0; i < layout.coming.size(); ++i)
      layout.slots[static_cast<std::size_t>(layout.coming[i])] = static_cast<int>(i % slots);
    for (std::size_t s = 0; s < layout.segments.size(); ++s)
      if (layout.slots[s] == BlockLayout::kStays) layout.offsets[s] = end, end += layout.segments[s].size_bytes;
  }
  for (BlockLayout& layout : arena.plans)
    for (const int s : layout.coming)
      layout.offsets[static_cast<std::size_t>(s)] =
          end + static_cast<std::size_t>(layout.slots[static_cast<std::size_t>(s)]) * arena.slot_bytes;
  arena.size_bytes = end + slots * arena.slot_bytes;
  return arena;
}

}  // namespace zoe
