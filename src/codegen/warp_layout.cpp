// Which values of a row wait in shared memory, and how rows are shared out among warps.
#include <algorithm>

#include "codegen/warp_printer.h"

namespace zoe {

namespace {

constexpr std::int64_t kWarpBytes = 2 * 1024;            // of shared memory a warp may fill in order to have more than one row,
constexpr std::int64_t kSharingWarpBytes = 20 * 1024;    // and where rows share work
constexpr std::int64_t kWarpRows = 8;                    // at most, where sums run over them
constexpr std::int64_t kBlockRows = 4;                   // of a block that is a unit, at least, if they fit
constexpr std::int64_t kBlockVectors = 128;              // of a row, at least, for a block to be a unit
constexpr std::int64_t kBlockWarps[] = {8, 4, 6, 3, 2};  // of a block that is a unit: the first that divides a row's vectors
constexpr int kCheap = 8;                                // work on a column that is no more than it takes to read it again

}  // namespace

WarpPrinter::WarpPrinter(const Chain& chain, const Dialect& dialect, const PrintOptions& options, std::int64_t vector)
    : WidePrinter(chain, dialect, options, vector) {
  find_same();
  choose_staged();
  choose_sizes();
}

bool WarpPrinter::is_possible() const {
  const bool fills = std::any_of(chain_.stores.begin(), chain_.stores.end(), [&](const Store& store) {
    return at(store.instruction).place != Place::column && has_columns(store.view);
  });
  return !fills && block_warps_ > 0;
}

void WarpPrinter::find_same() {
  same_.assign(chain_.instructions.size(), false);
  for (std::size_t i = 0; i < same_.size(); ++i) {
    const Instruction& instruction = chain_.instructions[i];
    const auto& strides = instruction.view.strides;
    same_[i] = instruction.opcode == Opcode::input
                   ? std::all_of(strides.begin(), strides.begin() + chain_.row_axes, is_zero)
                   : instruction.place == Place::chain || (instruction.place == Place::column &&
                                                           std::all_of(instruction.arguments.begin(), instruction.arguments.end(),
                                                                       [&](int a) { return is_same(a); }));
  }
}

std::vector<int> WarpPrinter::needed_for(const std::set<int>& targets, const std::function<bool(int)>& ready) const {
  std::set<int> needed = targets;
  std::vector<int> order;
  for (int i = static_cast<int>(chain_.instructions.size()) - 1; i >= 0; --i) {
    if (!needed.contains(i)) continue;
    if (is_column(i)) order.push_back(i);
    if (!is_column(i) || ready(i)) continue;
    needed.insert(at(i).arguments.begin(), at(i).arguments.end());
  }
  return {order.rbegin(), order.rend()};
}

void WarpPrinter::stage(int i, int pass) {
  const int place = place_of(i);
  const DType dtype = is_load(i) ? operand_type(at(i)) : is_bf16(i) ? DType::bf16 : DType::f32;
  const auto [found, is_new] = staged_.try_emplace(place, Staged{pass, dtype});
  if (!is_new) found->second.pass = std::min(found->second.pass, pass);
}

void WarpPrinter::choose_staged() {
  for (std::size_t i = 0; i < chain_.instructions.size(); ++i)
    if (chain_.instructions[i].kept) stage(static_cast<int>(i), chain_.instructions[i].pass);
  for (int pass = 0; pass < chain_.passes; ++pass) {
    for (const int sum : sums_after(pass)) {
      const int summed = at(sum).arguments[0];
      if (!is_column(summed)) continue;
      // Either the one load it is made of waits, or what is summed itself.
      int work = 0;
      std::set<int> loads;
      bool ready = true;
      for (const int i : needed_for({summed}, [&](int i) { return staged(i) != nullptr; })) {
        if (staged(i)) continue;
        work += is_load(i) ? 0 : cost(at(i).opcode);
        if (is_load(i)) loads.insert(access_of(i));
        ready = ready && (!is_load(i) || is_row_of_memory(i));
      }
      if (ready && work <= kCheap && loads.size() <= 1) {
        for (const int i : loads) stage(i, pass);
      } else {
        stage(summed, pass);
      }
    }
  }
  // What later passes would read from memory again.
  std::map<int, int> first_read;
  for (int pass = 0; pass < chain_.passes; ++pass)
    for (const int i : vectors_of(pass))
      if (is_row_of_memory(i) && !staged(i))
        if (const auto [found, is_new] = first_read.try_emplace(access_of(i), pass); !is_new && found->second < pass)
          stage(i, found->second);
}

std::set<int> WarpPrinter::targets_of(int pass) const {
  std::set<int> targets;
  for (const Store& store : chain_.stores)
    if (is_column(store.instruction) && at(store.instruction).pass == pass) targets.insert(store.instruction);
  for (const auto& [i, staged] : staged_)
    if (staged.pass == pass) targets.insert(i);
  return targets;
}

std::vector<int> WarpPrinter::vectors_of(int pass) const {
  return needed_for(targets_of(pass), [&](int i) { return is_ready(i, pass); });
}

// Shared memory of the unit's rows and of what threads tell one another about them.
std::int64_t WarpPrinter::place_staged() {
  std::int64_t total = 0;
  for (auto& [i, staged] : staged_) {
    const auto size = static_cast<std::int64_t>(size_of(staged.dtype));
    // Rows of bf16 begin half of the banks apart: the threads of two rows then read from different ones.
    std::int64_t pitch = (chain_.columns() * size + kAccessBytes - 1) / kAccessBytes * kAccessBytes;
    if (size == 2 && rows_ > 1) pitch = (pitch + 63) / 128 * 128 + 64;
    staged.pitch = pitch / size;
    staged.offset = total;
    total += pitch * unit_rows_;
  }
  told_offset_ = total;
  std::int64_t row_values = 0;
  for (const Instruction& instruction : chain_.instructions) row_values += instruction.place == Place::row;
  if (unit_warps_ > 1) total += (row_values * unit_rows_ * 4 + kAccessBytes - 1) / kAccessBytes * kAccessBytes;
  return total;
}

std::int64_t WarpPrinter::same_bytes() const {
  std::size_t bytes = 0;
  for (int pass = 0; pass < chain_.passes; ++pass) {
    std::set<int> loads;
    for (const int i : vectors_of(pass))
      if (is_load(i) && is_same(i) && at(i).view.strides.back() == 1) loads.insert(access_of(i));
    for (const int i : loads) bytes += size_of(operand_type(at(i)));
  }
  return static_cast<std::int64_t>(bytes);
}

std::int64_t WarpPrinter::row_bytes() const {
  std::size_t bytes = 0;
  for (const auto& [i, staged] : staged_) bytes += size_of(staged.dtype);
  return static_cast<std::int64_t>(bytes);
}

int WarpPrinter::same_work() const {
  int work = 0;
  for (std::size_t i = 0; i < chain_.instructions.size(); ++i)
    if (const int n = static_cast<int>(i); is_column(n) && is_same(n) && !is_load(n)) work += cost(at(n).opcode);
  return work;
}

void WarpPrinter::choose_sizes() {
  const std::int64_t vectors = chain_.columns() / vector_;
  // Threads side by side in a row: as many as leave few of them without work.
  const auto choose_lanes = [&](std::int64_t fewest) {
    lanes_ = kWarp;
    while (lanes_ > fewest && ((vectors + lanes_ - 1) / lanes_ * lanes_ - vectors) * 8 > vectors) lanes_ /= 2;
  };
  const bool sums = std::any_of(chain_.instructions.begin(), chain_.instructions.end(),
                                [](const Instruction& instruction) { return is_reduction(instruction.opcode); });
  const auto most_bytes = static_cast<std::int64_t>(kMostSharedBytes);
  if (!sums && staged_.empty()) {
    choose_lanes(4);
    rows_ = unit_rows_ = std::min<std::int64_t>(kWarp, kWarp / lanes_ * 4);
    block_warps_ = 4;
  } else {
    for (const std::int64_t warps : kBlockWarps) {
      if (same_bytes() <= row_bytes() || vectors < kBlockVectors || vectors % (kWarp * warps) != 0) continue;
      unit_warps_ = unit_rows_ = warps;
      rows_ = 1;
      for (; unit_rows_ < kBlockRows && rows_ * 2 <= vector_; unit_rows_ *= 2) rows_ *= 2;
      for (; rows_ > 1 && place_staged() > most_bytes; unit_rows_ /= 2) rows_ /= 2;
      // Fewer rows than warps: the others wait while they are summed.
      while (unit_rows_ > 2 && place_staged() > most_bytes) --unit_rows_;
      if (place_staged() <= most_bytes) break;
      unit_warps_ = 1;
    }
    if (unit_warps_ > 1) {
      lanes_ = unit_threads();
      block_warps_ = unit_warps_;
    } else {
      rows_ = unit_rows_ = std::min(vector_, kWarpRows);
      const std::int64_t most = same_work() > kCheap ? kSharingWarpBytes : kWarpBytes;
      for (; rows_ > 1 && place_staged() > most; unit_rows_ /= 2) rows_ /= 2;
      choose_lanes(kWarp / rows_);
      const std::int64_t bytes = place_staged();
      block_warps_ = bytes == 0 ? 4 : std::min<std::int64_t>(4, most_bytes / bytes);
    }
    unit_bytes_ = place_staged();
  }
  sum_lanes_ = kWarp / rows_;
  turns_ = (vectors + lanes_ - 1) / lanes_;
}

}  // namespace zoe
