#include "compiler/block_stream.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "compiler/weights.h"

namespace zoe {

namespace {

std::string key_of(const Plan& plan, const BlockLayout& block) {
  std::string key;
  for (const std::size_t weight : block.weights) key += plan.weights[weight].name + '\t' + plan.weights[weight].layout + '\n';
  return key;
}

}  // namespace

std::shared_ptr<HostBuffer> HostBlocks::find(const Plan& plan, const BlockLayout& block) const {
  const auto found = kept_.find(key_of(plan, block));
  return found == kept_.end() ? nullptr : found->second.buffer;
}

void HostBlocks::keep(const Plan& plan, const BlockLayout& block, std::shared_ptr<HostBuffer> buffer) {
  size_bytes_ += buffer->size_bytes;
  Kept kept{std::move(buffer), {}};
  for (const std::size_t weight : block.weights)
    for (const PlanWeight::Part& part : plan.weights[weight].parts) kept.tensors.push_back(part.name);
  kept_.emplace(key_of(plan, block), std::move(kept));
}

bool HostBlocks::make_room(std::size_t bytes, std::size_t limit, std::span<const Plan* const> plans) {
  if (bytes > limit) return false;
  if (size_bytes_ + bytes <= limit) return true;
  std::set<std::string> wanted;
  for (const Plan* const plan : plans)
    for (const BlockLayout& block : lay_out_blocks(*plan)) wanted.insert(key_of(*plan, block));
  for (auto each = kept_.begin(); each != kept_.end() && size_bytes_ + bytes > limit;) {
    if (wanted.contains(each->first)) {
      ++each;
      continue;
    }
    size_bytes_ -= each->second.buffer->size_bytes;
    each = kept_.erase(each);
  }
  return size_bytes_ + bytes <= limit;
}

BlockStream::BlockStream(Platform& platform, Pack pack, ReadAhead read_ahead, HostBlocks& host,
                         std::shared_ptr<SharedBlocks> shared, std::vector<const Plan*> plans, Streaming how)
    : platform_(platform),
      pack_(std::move(pack)),
      read_ahead_(std::move(read_ahead)),
      host_(host),
      shared_(std::move(shared)),
      plans_(std::move(plans)),
      how_(how),
      layout_(lay_out_arena(plans_, block_slots(platform), how_.device_bytes, how_.member)),
      arena_(platform.allocate_unset(layout_.size_bytes, "weights")),
      copies_(platform.make_stream()),
      has_stayed_(plans_.size()),
      places_(layout_.slots) {}

BlockStream::~BlockStream() {
  if (shared_) shared_->withdraw(platform_);
  drain();
}

std::size_t BlockStream::host_bytes() const {
  std::size_t bytes = 0;
  for (const Place& place : places_) bytes += place.staging ? place.staging->size_bytes : 0;
  return bytes;
}

void BlockStream::drain() noexcept {
  try {
    copies_->synchronize();
  } catch (...) {  // the device is lost; what failed first is what is told
  }
  for (Place& place : places_) place.source = nullptr;
}

void BlockStream::forget() {
  if (shared_) shared_->withdraw(platform_);
  drain();
  plan_ = nullptr;
  has_stayed_.assign(plans_.size(), false);
  for (Place& place : places_) place.block = -1;
}

std::vector<const PlanWeight*> BlockStream::weights_of(const BlockLayout& block) const {
  std::vector<const PlanWeight*> weights;
  for (const std::size_t weight : block.weights) weights.push_back(&plan_->weights[weight]);
  return weights;
}

void BlockStream::begin(const Plan& plan, const LoadOptions& options) {
  const auto number = static_cast<std::size_t>(std::find(plans_.begin(), plans_.end(), &plan) - plans_.begin());
  ZOE_INTERNAL_CHECK(number < plans_.size());
  if (plan_ != &plan)
    for (Place& place : places_) place.block = -1;
  plan_ = &plan;
  of_plan_ = &layout_.plans[number];
  if (has_stayed_[number]) return;
  try {
    pack_what_stays(number, options);
  } catch (...) {
    if (shared_) shared_->withdraw(platform_), has_stayed_.assign(plans_.size(), false);
    throw;
  }
  has_stayed_[number] = true;
}

void BlockStream::pack_what_stays(std::size_t number, const LoadOptions& options) {
  const Plan& plan = *plans_[number];
  const auto stays = [&](std::size_t s) {
    return of_plan_->slots[s] == PlanLayout::kStays && !of_plan_->blocks[s].weights.empty();
  };
  SharedBlocks::Offsets shared;
  if (shared_) {
    for (std::size_t s = 0; s < of_plan_->blocks.size(); ++s)
      if (stays(s)) shared[key_of(plan, of_plan_->blocks[s])] = of_plan_->offsets[s];
    shared_->announce(platform_, shared);
  }
  std::vector<const PlanWeight*> stay;
  bool is_copied = false;
  for (std::size_t s = 0; s < of_plan_->blocks.size(); ++s) {
    if (!stays(s)) continue;
    const BlockLayout& block = of_plan_->blocks[s];
    if (const auto prepared = platform_.info().host_addressable ? nullptr : host_.find(plan, block)) {
      platform_.upload_later(*copies_, *prepared, 0, {arena_.get(), of_plan_->offsets[s]}, block.size_bytes);
      is_copied = true;
      continue;
    }
    for (const PlanWeight* weight : weights_of(block)) stay.push_back(weight);
  }
  pack_(
      stay,
      [&](const PlanWeight& weight) {
        const Slot slot = at(weight);
        return Target{platform_.info().host_addressable ? slot.data() : nullptr, slot};
      },
      options);
  if (is_copied) copies_->synchronize();
  if (shared_) shared_->publish(platform_, shared, arena_);
}

Slot BlockStream::at(const PlanWeight& weight) const {
  const auto number = static_cast<std::size_t>(&weight - plan_->weights.data());
  const auto s = static_cast<std::size_t>(weight.block);
  const BlockLayout& block = of_plan_->blocks[s];
  const auto found = std::lower_bound(block.weights.begin(), block.weights.end(), number);
  return {arena_.get(), of_plan_->offsets[s] + block.offsets[static_cast<std::size_t>(found - block.weights.begin())]};
}

std::optional<int> BlockStream::next_of(int block) const {
  const std::vector<int>& coming = of_plan_->coming;
  const auto next = std::upper_bound(coming.begin(), coming.end(), block);
  if (next != coming.end()) return *next;
  if (coming.empty() || !how_.goes_round) return {};
  return coming.front();
}

void BlockStream::need(int block, Stream& compute, const LoadOptions& options) {
  const int slot = of_plan_->slots[static_cast<std::size_t>(block)];
  if (slot == PlanLayout::kStays) return;
  Place& place = places_[static_cast<std::size_t>(slot)];
  if (place.block != block) fetch(block, options);
  if (place.copied && !std::exchange(place.is_waited_for, true)) compute.wait_for(*place.copied);
  if (const auto next = next_of(block); next && places_.size() == 1) {
    const BlockLayout& layout = of_plan_->blocks[static_cast<std::size_t>(*next)];
    if (host_.find(*plan_, layout)) return;
    for (const PlanWeight* weight : weights_of(layout)) read_ahead_(*weight);
  }
}

void BlockStream::done(int block, Stream& compute, const LoadOptions& options) {
  const int slot = of_plan_->slots[static_cast<std::size_t>(block)];
  if (slot != PlanLayout::kStays) places_[static_cast<std::size_t>(slot)].used = compute.record_event();
  const auto next = next_of(block);
  if (!next || places_.size() == 1) return;
  const int next_slot = of_plan_->slots[static_cast<std::size_t>(*next)];
  if (places_[static_cast<std::size_t>(next_slot)].block != *next) fetch(*next, options);
}

void BlockStream::fetch(int block, const LoadOptions& options) {
  const auto s = static_cast<std::size_t>(block);
  Place& place = places_[static_cast<std::size_t>(of_plan_->slots[s])];
  place.block = -1;
  const Slot to{arena_.get(), of_plan_->offsets[s]};
  if (const auto held = shared_ ? shared_->find(key_of(*plan_, of_plan_->blocks[s]), platform_) : std::nullopt) {
    if (place.source && place.source != held->buffer) place.copied->wait();
    if (place.used) copies_->wait_for(*place.used);
    platform_.pull(*copies_, to, *held->device, {held->buffer.get(), held->offset}, of_plan_->blocks[s].size_bytes);
    place.copied = copies_->record_event();
    place.is_waited_for = false;
    place.source = held->buffer;
  } else if (platform_.info().host_addressable) {
    if (place.used) place.used->wait();
    if (place.copied) place.copied->wait();
    pack_(
        weights_of(of_plan_->blocks[s]),
        [&](const PlanWeight& weight) {
          return Target{at(weight).data(), at(weight)};
        },
        options);
  } else {
    const std::shared_ptr<HostBuffer> from = packed(block, options);
    if (place.used) copies_->wait_for(*place.used);
    platform_.upload_later(*copies_, *from, 0, to, of_plan_->blocks[s].size_bytes);
    place.copied = copies_->record_event();
    place.is_waited_for = false;
  }
  place.block = block;
}

std::shared_ptr<HostBuffer> BlockStream::packed(int block, const LoadOptions& options) {
  const auto s = static_cast<std::size_t>(block);
  const BlockLayout& layout = of_plan_->blocks[s];
  if (auto kept = host_.find(*plan_, layout)) return kept;
  const auto pack_to = [&](HostBuffer& buffer) {
    pack_(
        weights_of(layout),
        [&](const PlanWeight& weight) {
          const auto number = static_cast<std::size_t>(&weight - plan_->weights.data());
          const auto found = std::lower_bound(layout.weights.begin(), layout.weights.end(), number);
          return Target{buffer.data + layout.offsets[static_cast<std::size_t>(found - layout.weights.begin())], {}};
        },
        options);
  };
  if (host_.make_room(layout.size_bytes, how_.host_bytes, plans_)) {
    std::shared_ptr<HostBuffer> buffer = platform_.allocate_host(layout.size_bytes, "a block's weights", HostPages::locked);
    pack_to(*buffer);
    host_.keep(*plan_, layout, buffer);
    return buffer;
  }
  Place& place = places_[static_cast<std::size_t>(of_plan_->slots[s])];
  if (!place.staging) place.staging = platform_.allocate_host(layout_.slot_bytes, "a block's weights", HostPages::locked);
  else if (place.copied) place.copied->wait();
  pack_to(*place.staging);
  return place.staging;
}

}  // namespace zoe
