// CUDA kernels that reach the speed of memory, for chains whose operands lie so that neighbours can be read together.
//
// A unit, which is a warp or, where rows are wide, a block of a few, works on several rows at once, in two ways in turn. Elements
// are made in vectors: a thread has vector_ columns beside each other, its accesses are 16 bytes wide, and what all rows have in
// common (the scale of a norm, say) is read and worked on once for all rows of the unit. Sums go another way, because each of a
// row's 32 partial sums takes its elements in order: of the rows_ rows of a warp, each has 32 / rows_ threads with rows_ partial
// sums each, which go through the row 32 columns a step. What is summed therefore waits in shared memory, where each side reads
// it its own way: rows of operands as they are in memory, kept values in bf16 if they have been rounded to it. So a row is read
// from memory once, however many passes go over it.
//
// A flat chain gives each thread several vectors. Chains that cannot be read in vectors are kernels of threads
// (thread_printer.cpp), and so is each kernel's second function, for operands at addresses that are no multiples of 16.

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "codegen/printer.h"

namespace zoe {

namespace {

constexpr std::int64_t kWarp = 32, kPartialSums = 32;
constexpr std::int64_t kAccessBytes = 16;                // the widest access
constexpr std::int64_t kWarpBytes = 2 * 1024;            // of shared memory a warp may fill in order to have more than one row,
constexpr std::int64_t kSharingWarpBytes = 20 * 1024;    // and where rows share work
constexpr std::int64_t kWarpRows = 8;                    // at most, where sums run over them
constexpr std::int64_t kBlockRows = 4;                   // of a block that is a unit, at least, if they fit
constexpr std::int64_t kBlockVectors = 128;              // of a row, at least, for a block to be a unit
constexpr std::int64_t kBlockWarps[] = {8, 4, 6, 3, 2};  // of a block that is a unit: the first that divides a row's vectors
constexpr std::int64_t kInFlight = 24;                   // accesses to memory that a thread begins before it waits for the first
constexpr std::int64_t kAhead = 4;                       // accesses of a turn, at least, for the next turn's to begin meanwhile
constexpr int kCheap = 8;                                // work on a column that is no more than it takes to read it again
constexpr std::int64_t kWrittenOut = 5;                  // turns of a loop, at most, that are written out

bool is_zero(std::int64_t stride) { return stride == 0; }

// How many neighbours a thread has at once; 1 if the views do not allow more.
std::int64_t vector_of(const Chain& chain) {
  const auto first = static_cast<std::ptrdiff_t>(chain.row_axes);
  std::size_t narrowest = sizeof(float);
  const auto one_element = [&](const View& view) { return std::all_of(view.strides.begin() + first, view.strides.end(), is_zero); };
  const auto in_rows = [&](const View& view, DType dtype) {
    const bool all_alike = std::all_of(view.strides.begin(), view.strides.begin() + first, is_zero);
    // Of u8 half an access: more neighbours would take more registers than the loads of wider operands have.
    const std::size_t size = std::max(size_of(dtype), size_of(DType::bf16));
    if (!one_element(view) && (!all_alike || chain.row_axes == 0)) narrowest = std::min(narrowest, size);
  };
  for (const Instruction& load : chain.instructions)
    if (load.opcode == Opcode::input) in_rows(load.view, chain.operands[static_cast<std::size_t>(load.operand)].dtype);
  for (const Store& store : chain.stores) in_rows(store.view, chain.outputs[static_cast<std::size_t>(store.output)].dtype);
  std::int64_t vector = kAccessBytes / static_cast<std::int64_t>(narrowest);
  // Neighbours are a run of the last axis that begins at a multiple, with stride one or none.
  const auto divide = [&](std::int64_t number) {
    while (number % vector != 0) vector /= 2;
  };
  if (chain.row_axes > 0) divide(chain.axes.back());
  const auto fit = [&](const View& view) {
    if (one_element(view) || (view.strides.back() == 0 && !view.swapped)) return;
    if (view.strides.back() != 1) vector = 1;
    divide(view.offset);
    for (std::size_t a = 0; a + 1 < view.strides.size(); ++a) divide(view.strides[a]);
  };
  for (const Instruction& load : chain.instructions)
    if (load.opcode == Opcode::input) fit(load.view);
  for (const Store& store : chain.stores) fit(store.view);
  return vector;
}

class WarpPrinter : public Printer {
 public:
  WarpPrinter(const Chain& chain, const Dialect& dialect, const PrintOptions& options, std::int64_t vector)
      : Printer(chain, dialect, options), vector_(vector) {
    find_same();
    choose_staged();
    choose_sizes();
  }
  // False if a row needs more shared memory than there is, or the chain stores what this kernel has no loop for.
  bool is_possible() const {
    const bool fills = std::any_of(chain_.stores.begin(), chain_.stores.end(), [&](const Store& store) {
      return at(store.instruction).place != Place::column && (flat_ || has_columns(store.view));
    });
    return !fills && block_warps_ > 0;
  }

 private:
  // A value of each column that waits in shared memory for the sums or for later passes.
  struct Staged {
    int pass;  // whose vectors make it
    DType dtype;
    std::int64_t pitch = 0;   // from row to row, elements
    std::int64_t offset = 0;  // of the first row, bytes
  };

  std::string g(std::size_t i) const override { return fmt::format("g{}", i); }
  std::string memory(std::size_t operand, DType, bool) const override { return fmt::format("m{}", operand); }
  std::string load1(DType, const std::string& address) const override { return fmt::format("load1({})", address); }

  bool is_load(int i) const { return at(i).opcode == Opcode::input; }
  bool is_column(int i) const { return at(i).place == Place::column; }
  bool is_same(int i) const { return same_[static_cast<std::size_t>(i)]; }
  bool has_sums() const {
    return std::any_of(chain_.instructions.begin(), chain_.instructions.end(),
                       [](const Instruction& i) { return i.opcode == Opcode::sum; });
  }
  // Loads of the same elements, swapped or not, are one access.
  int access_of(int i) const {
    for (int other = 0; other < i; ++other)
      if (is_load(other) && at(other).operand == at(i).operand && at(other).view.offset == at(i).view.offset &&
          at(other).view.strides == at(i).view.strides)
        return other;
    return i;
  }
  // Where a value waits, if it does: loads of the same elements wait together.
  int place_of(int i) const { return is_load(i) ? access_of(i) : i; }
  const Staged* staged(int i) const {
    const auto found = staged_.find(place_of(i));
    return found == staged_.end() ? nullptr : &found->second;
  }

  void find_same() {
    same_.assign(chain_.instructions.size(), false);
    for (std::size_t i = 0; i < same_.size(); ++i) {
      const Instruction& instruction = chain_.instructions[i];
      const auto& strides = instruction.view.strides;
      same_[i] = instruction.opcode == Opcode::input
                     ? !flat_ && std::all_of(strides.begin(), strides.begin() + chain_.row_axes, is_zero)
                     : instruction.place == Place::chain || (instruction.place == Place::column &&
                                                             std::all_of(instruction.arguments.begin(), instruction.arguments.end(),
                                                                         [&](int a) { return is_same(a); }));
    }
  }

  // What is evaluated for `targets` when `ready` values are at hand, in order; ready ones are part of it.
  template <class Ready>
  std::vector<int> needed_for(const std::set<int>& targets, const Ready& ready) const {
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

  void stage(int i, int pass) {
    const int place = place_of(i);
    const DType dtype = is_load(i) ? operand_type(at(i)) : is_bf16(i) ? DType::bf16 : DType::f32;
    const auto [found, is_new] = staged_.try_emplace(place, Staged{pass, dtype});
    if (!is_new) found->second.pass = std::min(found->second.pass, pass);
  }

  // A load that is worth staging: of elements side by side that only one row has.
  bool is_row_of_memory(int i) const { return is_load(i) && !is_same(i) && at(i).view.strides.back() == 1; }

  void choose_staged() {
    if (flat_) return;
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

  // What the vectors of a pass are made for: results, and values that wait.
  std::set<int> targets_of(int pass) const {
    std::set<int> targets;
    for (const Store& store : chain_.stores)
      if (is_column(store.instruction) && at(store.instruction).pass == pass) targets.insert(store.instruction);
    for (const auto& [i, staged] : staged_)
      if (staged.pass == pass) targets.insert(i);
    return targets;
  }
  std::vector<int> vectors_of(int pass) const {
    return needed_for(targets_of(pass), [&](int i) { return is_ready(i, pass); });
  }
  bool is_ready(int i, int pass) const { return staged(i) && staged(i)->pass < pass; }

  // Shared memory of the unit's rows and of what threads tell one another about them.
  std::int64_t place_staged() {
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

  // Of each column: of what all rows have in common, which each unit reads, and of what waits.
  std::int64_t same_bytes() const {
    std::size_t bytes = 0;
    for (int pass = 0; pass < chain_.passes; ++pass) {
      std::set<int> loads;
      for (const int i : vectors_of(pass))
        if (is_load(i) && is_same(i) && at(i).view.strides.back() == 1) loads.insert(access_of(i));
      for (const int i : loads) bytes += size_of(operand_type(at(i)));
    }
    return static_cast<std::int64_t>(bytes);
  }
  std::int64_t row_bytes() const {
    std::size_t bytes = 0;
    for (const auto& [i, staged] : staged_) bytes += size_of(staged.dtype);
    return static_cast<std::int64_t>(bytes);
  }

  // On each column, once for all rows of a unit.
  int same_work() const {
    int work = 0;
    for (std::size_t i = 0; i < chain_.instructions.size(); ++i)
      if (const int n = static_cast<int>(i); is_column(n) && is_same(n) && !is_load(n)) work += cost(at(n).opcode);
    return work;
  }

  void choose_sizes() {
    if (flat_) {
      block_warps_ = 8;
      return;
    }
    const std::int64_t vectors = chain_.columns() / vector_;
    // Threads side by side in a row: as many as leave few of them without work.
    const auto choose_lanes = [&](std::int64_t fewest) {
      lanes_ = kWarp;
      while (lanes_ > fewest && ((vectors + lanes_ - 1) / lanes_ * lanes_ - vectors) * 8 > vectors) lanes_ /= 2;
    };
    const auto most_bytes = static_cast<std::int64_t>(kMostSharedBytes);
    if (!has_sums() && staged_.empty()) {
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

  std::int64_t unit_threads() const { return kWarp * unit_warps_; }
  std::int64_t together() const { return unit_threads() / lanes_; }  // rows whose vectors are made at the same time
  std::int64_t shares() const { return unit_rows_ / together(); }
  // The number of a thread in its unit, and in its row while vectors are made.
  std::string thread() const { return unit_warps_ > 1 ? "threadIdx.x" : "lane"; }
  std::string lane() const { return lanes_ == unit_threads() ? thread() : fmt::format("{} % {}", thread(), lanes_); }
  std::string row_of_share() const {
    if (together() == 1) return "i";
    const std::string own = lanes_ == 1 ? "lane" : fmt::format("lane / {}", lanes_);
    return shares() == 1 ? own : fmt::format("(i * {} + {})", together(), own);
  }
  std::string own_row() const { return unit_rows_ == 1 ? "0" : fmt::format("{} / {}", thread(), sum_lanes_); }
  // Of the threads that sum a row.
  std::string is_first_of_row() const {
    const std::string first = fmt::format("{} % {} == 0", thread(), sum_lanes_);
    const std::int64_t summing = unit_rows_ * sum_lanes_;
    return summing < unit_threads() ? fmt::format("{} && threadIdx.x < {}", first, summing) : first;
  }
  std::string_view barrier() const { return unit_warps_ > 1 ? "__syncthreads();" : "__syncwarp();"; }

  void begin() override {
    std::string arguments;
    const auto argument = [&](const std::string& text) { arguments += (arguments.empty() ? "" : ", ") + text; };
    for (std::size_t i = 0; i < chain_.operands.size(); ++i)
      argument(fmt::format("const {}* m{}", storage(chain_.operands[i].dtype), i));
    for (std::size_t i = 0; i < chain_.outputs.size(); ++i)
      argument(fmt::format("{}* m{}", storage(chain_.outputs[i].dtype), chain_.operands.size() + i));
    for (std::size_t i = 0; i < source_.geometry.size(); ++i) argument(fmt::format("long g{}", i));
    argument("long count");
    line("{} __launch_bounds__({}) {}({}) {{", dialect_.kernel, block_warps_ * kWarp, options_.name, arguments);
    ++indent_;
  }

  void open_rows() override {
    source_.alignment = kAccessBytes;
    source_.grid.threads = static_cast<int>(block_warps_ * kWarp);
    if (flat_) return open_elements();
    const std::int64_t units = block_warps_ / unit_warps_;
    source_.grid.per_block = units * unit_rows_;
    source_.grid.shared_bytes = static_cast<std::size_t>(units * unit_bytes_);
    if (unit_warps_ > 1) {
      line("const long first = (long)blockIdx.x * {0};  // of the block's {0} rows", unit_rows_);
    } else {
      line("const int lane = threadIdx.x % 32;");
      line("const long first = ((long)blockIdx.x * {0} + threadIdx.x / 32) * {1};  // of the warp's {1} rows", units, unit_rows_);
      line("if (first >= count) return;");
    }
    if (unit_bytes_ > 0) line("extern __shared__ uint4 shared[];");
    const auto in_shared = [&](std::int64_t offset) {
      std::string text = "(char*)shared";
      if (units > 1) text += fmt::format(" + threadIdx.x / 32 * {}", unit_bytes_);
      return offset == 0 ? text : fmt::format("{} + {}", text, offset);
    };
    for (const auto& [i, staged] : staged_)
      line("{0}* const s{1} = ({0}*)({2});", storage(staged.dtype), i, in_shared(staged.offset));
    if (unit_warps_ > 1) line("float* const told = (float*)({});  // values of rows", in_shared(told_offset_));
    std::vector<std::size_t> own;
    std::set<int> loads;
    for (std::size_t i = 0; i < chain_.instructions.size(); ++i) {
      const Instruction& load = chain_.instructions[i];
      if (load.opcode != Opcode::input || load.place == Place::chain) continue;
      if (load.place == Place::row) own.push_back(i);
      else if (access_of(static_cast<int>(i)) != static_cast<int>(i)) continue;
      else if (is_same(static_cast<int>(i))) declare_pointer(i);
      else loads.insert(static_cast<int>(i));
    }
    std::vector<std::size_t> stores, own_stores;
    for (std::size_t s = 0; s < chain_.stores.size(); ++s)
      (is_column(chain_.stores[s].instruction) ? stores : own_stores).push_back(s);
    for (const int i : loads) line("const {}* p{}[{}];", storage(operand_type(at(i))), i, shares());
    for (const std::size_t s : stores) line("{}* w{}[{}];", storage(output_type(chain_.stores[s])), s, shares());
    open_loop("i", shares());
    // Behind the last row it is read again, and not written.
    line("const long row = min(first + {}, count - 1);", row_of_share());
    row_indices();
    for (const int i : loads) line("p{}[i] = m{} + {};", i, at(i).operand, bases_[static_cast<std::size_t>(i)]);
    for (const std::size_t s : stores)
      line("w{}[i] = m{} + {};", s, chain_.operands.size() + static_cast<std::size_t>(chain_.stores[s].output), store_bases_[s]);
    close_loop();
    if (own.empty() && own_stores.empty()) return;
    line("const long row = min(first + {}, count - 1);", own_row());
    row_indices();
    for (const std::size_t i : own) declare_pointer(i);
    for (const std::size_t s : own_stores) declare_result_pointer(s);
  }

  void open_loop(std::string_view name, std::int64_t turns) {
    line("#pragma unroll");
    line("for (int {0} = 0; {0} < {1}; ++{0}) {{", name, turns);
    ++indent_;
  }
  void close_loop() {
    --indent_;
    line("}}");
  }

  void close_rows() override { close_loop(); }

  void row_store(std::size_t s) override {
    line("if ({} && first + {} < count) store1(w{}, v{});", is_first_of_row(), own_row(), s, chain_.stores[s].instruction);
  }

  void columns(int pass) override {
    if (flat_) return elements();
    vectors(pass);
    sums(pass);
  }

  // Values whose readers round them to bf16 anyway.
  std::set<int> rounded_by_readers(const std::vector<int>& order, int pass) const {
    std::set<int> rounded;
    for (std::size_t n = order.size(); n-- > 0;) {
      const int i = order[n];
      if (is_load(i) || !is_bf16(i) || at(i).dtype == DType::u8) continue;
      bool all = true;
      for (const Store& store : chain_.stores) all = all && (store.instruction != i || output_type(store) == DType::bf16);
      for (const int reader : order) {
        const auto& arguments = at(reader).arguments;
        const bool reads = !is_ready(reader, pass) && std::find(arguments.begin(), arguments.end(), i) != arguments.end();
        all = all && (!reads || (at(reader).opcode == Opcode::cast && rounded.contains(reader)));
      }
      if (all) rounded.insert(i);
    }
    return rounded;
  }

  void value(int i, const std::set<int>& rounded_later = {}) {
    line("const float v{} = {};{}", i, expression(at(i), !rounded_later.contains(i)), comment(at(i)));
  }

  // An access into the vector `name`.
  void load_vector(int i, const std::string& name, const std::string& pointer, bool fixed) {
    const std::string address = fmt::format("{} + {}", pointer, offset_of(at(i).view));
    if (at(i).view.strides.back() == 1) {
      line("load{}({}, {});", fixed ? "<true>" : "", name, address);
    } else {
      line("fill({}, load1({}));", name, address);
    }
  }
  std::string offset_of(const View& view) const {
    const std::string text = offset(view, "c");
    return text == "c" ? text : fmt::format("({})", text);
  }
  std::string element(int i) const { return is_load(i) && at(i).view.swapped ? "e ^ 1" : "e"; }

  // The elements that a pass makes: its results, and what waits for sums and later passes.
  void vectors(int pass) {
    const std::set<int> targets = targets_of(pass);
    if (targets.empty()) return;
    const std::vector<int> order = vectors_of(pass);
    const auto is_copy = [&](int i) { return is_load(i) && staged(i) && staged(i)->pass == pass; };
    if (std::all_of(order.begin(), order.end(), is_copy)) return copies(order);
    const std::set<int> row_values = tell_row_values(order, pass);

    std::set<int> loads, fixed_loads, waiting;
    for (const int i : order) {
      if (is_ready(i, pass)) waiting.insert(place_of(i));
      else if (is_load(i)) (repeats(at(i).view) ? fixed_loads : loads).insert(access_of(i));
    }
    const auto declare_vectors = [&](const std::set<int>& of, const std::string& times) {
      for (const int i : of) line("float x{}{}{}[{}];", i, times, is_same(i) ? "" : fmt::format("[{}]", shares()), vector_);
    };
    const auto load_vectors = [&](const std::set<int>& of, const std::string& slot) {
      for (const int i : of)
        if (is_same(i)) load_vector(i, fmt::format("x{}{}", i, slot), fmt::format("p{}", i), true);
      if (std::all_of(of.begin(), of.end(), [&](int i) { return is_same(i); })) return;
      open_loop("i", shares());
      for (const int i : of)
        if (!is_same(i)) load_vector(i, fmt::format("x{}{}[i]", i, slot), fmt::format("p{}[i]", i), false);
      close_loop();
    };
    const bool partial = turns_ * lanes_ * vector_ != chain_.columns();
    const auto at_turn = [&](std::string_view turn) {
      if (turn == "0") line("const int c = {} * {};", lane(), vector_);
      else line("const int c = ({} + {} * {}) * {};", lane(), lanes_, turn, vector_);
    };
    if (!fixed_loads.empty()) {
      line("// The same in every turn.");
      declare_vectors(fixed_loads, "");
      line("{{");
      ++indent_;
      at_turn("0");
      load_vectors(fixed_loads, "");
      close_loop();
    }

    // So that memory never waits: either a turn's accesses begin while the one before it is worked on, which takes turns that
    // are written out, or those of several turns begin together.
    std::int64_t in_turn = 0, batch = 1;
    for (const int i : loads) in_turn += (is_same(i) ? 1 : shares()) * accesses(i);
    const bool ahead = !staged_.empty() && in_turn >= kAhead && turns_ > 1 && (turns_ <= kWrittenOut || turns_ % 2 == 0);
    for (std::int64_t more = 2; !ahead && more <= turns_ && more * in_turn <= kInFlight; ++more)
      if (turns_ % more == 0) batch = more;
    std::string slot, turn;
    int inner_loops = 0;
    if (ahead) {
      slot = "[t % 2]";
      declare_vectors(loads, "[2]");
      line("{{");
      ++indent_;
      at_turn("0");
      if (partial) line("if (c < {}) {{", chain_.columns());
      load_vectors(loads, "[0]");
      if (partial) line("}}");
      close_loop();
      const bool in_pairs = turns_ % 2 == 0;
      line("#pragma unroll {}", in_pairs ? 1 : turns_);
      line("for (int t = 0; t < {}; t += {}) {{", turns_, in_pairs ? 2 : 1);
      ++indent_;
      if (in_pairs) {
        open_loop("u", 2);
        slot = "[u]";
      }
      turn = in_pairs ? "(t + u)" : "t";
      const std::string next = in_pairs ? "(t + u + 1)" : "(t + 1)";
      line("if ({} < {}) {{", next, turns_);
      ++indent_;
      at_turn(next);
      if (partial) line("if (c < {}) {{", chain_.columns());
      load_vectors(loads, in_pairs ? "[1 - u]" : "[(t + 1) % 2]");
      if (partial) line("}}");
      close_loop();
      at_turn(turn);
      if (partial) line(fmt::runtime(in_pairs ? "if (c >= {}) continue;" : "if (c >= {}) break;"), chain_.columns());
      inner_loops = in_pairs ? 1 : 0;
    } else {
      line("#pragma unroll 1");
      line("for (int t = 0; t < {}; t += {}) {{", turns_, batch);
      ++indent_;
      if (batch > 1) slot = "[u]";
      const auto open_batch = [&] {
        if (batch > 1) open_loop("u", batch);
        at_turn(batch > 1 ? "(t + u)" : "t");
        if (partial) line(fmt::runtime(batch > 1 ? "if (c >= {}) continue;" : "if (c >= {}) break;"), chain_.columns());
      };
      declare_vectors(loads, batch > 1 ? fmt::format("[{}]", batch) : "");
      open_batch();
      load_vectors(loads, slot);
      if (batch > 1) {
        close_loop();
        open_batch();
        inner_loops = 1;
      }
    }
    const auto loaded = [&](int i, std::string_view element) {
      return fmt::format("x{}{}{}[{}]", access_of(i), fixed_loads.contains(access_of(i)) ? "" : slot, is_same(i) ? "" : "[i]",
                         element);
    };

    // Once for all rows.
    std::set<int> same_work, same_results, same_operands;
    for (const int i : order)
      if (is_same(i) && !is_load(i) && !is_ready(i, pass)) same_work.insert(i);
    for (const int i : same_work) {
      same_operands.insert(at(i).arguments.begin(), at(i).arguments.end());
      if (targets.contains(i)) same_results.insert(i);
    }
    for (const int i : order)
      if (!is_same(i) && !is_ready(i, pass))
        for (const int argument : at(i).arguments)
          if (same_work.contains(argument)) same_results.insert(argument);
    if (!same_work.empty()) {
      for (const int i : same_results) line("float x{}[{}];", i, vector_);
      open_loop("e", vector_);
      for (const int i : order) {
        if (is_load(i) && !is_ready(i, pass) && same_operands.contains(i)) line("const float v{} = {};", i, loaded(i, element(i)));
        if (same_work.contains(i)) value(i);
        if (same_results.contains(i)) line("x{0}[e] = v{0};", i);
      }
      close_loop();
    }

    const auto is_used = [&](int same) {
      return std::any_of(order.begin(), order.end(), [&](int i) {
        const auto& arguments = at(i).arguments;
        return !is_same(i) && !is_ready(i, pass) && std::find(arguments.begin(), arguments.end(), same) != arguments.end();
      });
    };
    const std::set<int> rounded_later = rounded_by_readers(order, pass);
    open_loop("i", shares());
    for (const int i : row_values) line("const float v{0} = u{0}[i];", i);
    for (const int i : waiting) {
      line("float x{}[{}];", i, vector_);
      line("load(x{0}, s{0} + {1} * {2} + c);", i, row_of_share(), staged_.at(i).pitch);
    }
    for (const int i : targets) line("float y{}[{}];", i, vector_);
    open_loop("e", vector_);
    for (const int i : order) {
      if (is_ready(i, pass)) line("const float v{} = x{}[{}];", i, place_of(i), element(i));
      else if (is_load(i) && (!is_same(i) || is_used(i))) line("const float v{} = {};", i, loaded(i, element(i)));
      else if (!is_same(i)) value(i, rounded_later);
      else if (same_results.contains(i)) line("const float v{0} = x{0}[e];", i);
      if (targets.contains(i)) line("y{}[e] = {};", i, is_load(i) ? loaded(i, "e") : fmt::format("v{}", i));
    }
    close_loop();
    for (const auto& [i, staged] : staged_)
      if (staged.pass == pass) line("store(s{0} + {1} * {2} + c, y{0});", i, row_of_share(), staged.pitch);
    const std::vector<std::size_t> stores = stores_of(pass);
    // A thread that has all rows writes the last one several times instead: that costs no branch.
    if (!stores.empty() && together() > 1) line("if (first + {} >= count) continue;", row_of_share());
    for (const std::size_t s : stores)
      line("store(w{}[i] + {}, y{});", s, offset_of(chain_.stores[s].view), chain_.stores[s].instruction);
    close_loop();
    if (inner_loops > 0) close_loop();
    close_loop();
    if (std::any_of(staged_.begin(), staged_.end(), [&](const auto& s) { return s.second.pass == pass; })) line("{}", barrier());
  }

  std::vector<std::size_t> stores_of(int pass) const {
    std::vector<std::size_t> stores;
    for (std::size_t s = 0; s < chain_.stores.size(); ++s)
      if (is_column(chain_.stores[s].instruction) && at(chain_.stores[s].instruction).pass == pass) stores.push_back(s);
    return stores;
  }

  // Accesses of a thread to a vector in memory.
  std::int64_t accesses(int i) const {
    if (at(i).view.strides.back() != 1) return 1;
    return std::max<std::int64_t>(1, vector_ * static_cast<std::int64_t>(size_of(operand_type(at(i)))) / kAccessBytes);
  }

  // Whether a thread finds the same elements in each of its turns: those of a rotary table, one for all heads.
  bool repeats(const View& view) const {
    std::int64_t period = 1;
    for (std::size_t a = chain_.axes.size(); a-- > static_cast<std::size_t>(chain_.row_axes);) {
      period *= chain_.axes[a];
      if (view.strides[a] == 0) continue;
      if (static_cast<int>(a) == chain_.row_axes || lanes_ * vector_ % period != 0) return false;
    }
    return turns_ > 1;
  }

  // The values of rows that the vectors of a pass need are with the threads that have summed: u holds them for each of a thread's
  // rows.
  std::set<int> tell_row_values(const std::vector<int>& order, int pass) {
    std::set<int> row_values;
    for (const int i : order)
      if (!is_ready(i, pass))
        for (const int argument : at(i).arguments)
          if (at(argument).place == Place::row) row_values.insert(argument);
    if (row_values.empty()) return row_values;
    if (unit_warps_ > 1) {
      std::vector<int> untold;
      for (const int i : row_values)
        if (told_.try_emplace(i, told_.size()).second) untold.push_back(i);
      if (!untold.empty()) {
        line("if ({}) {{", is_first_of_row());
        ++indent_;
        for (const int i : untold) line("told[{} + {}] = v{};", told_.at(i) * unit_rows_, own_row(), i);
        close_loop();
        line("__syncthreads();");
      }
    }
    for (const int i : row_values) line("float u{}[{}];", i, shares());
    open_loop("i", shares());
    for (const int i : row_values) {
      if (unit_warps_ > 1) line("u{}[i] = told[{} + {}];", i, told_.at(i) * unit_rows_, row_of_share());
      else line("u{0}[i] = __shfl_sync(0xffffffffu, v{0}, {1} * {2});", i, row_of_share(), sum_lanes_);
    }
    close_loop();
    return row_values;
  }

  // Rows go from memory to shared memory as they are.
  void copies(const std::vector<int>& order) {
    std::set<int> loads;
    for (const int i : order) loads.insert(access_of(i));
    const std::int64_t unroll = std::max<std::int64_t>(1, std::min(turns_, kInFlight / shares()));
    line("#pragma unroll {}", unroll);
    line("for (int t = 0; t < {}; ++t) {{", turns_);
    ++indent_;
    line("const int c = ({} + {} * t) * {};", lane(), lanes_, vector_);
    if (turns_ * lanes_ * vector_ != chain_.columns()) line("if (c >= {}) break;", chain_.columns());
    open_loop("i", shares());
    for (const int i : loads)
      line("copy<{0}>(s{1} + {2} * {3} + c, p{1}[i] + {4});", vector_, i, row_of_share(), staged_.at(i).pitch,
           offset_of(at(i).view));
    close_loop();
    close_loop();
    line("copies_done();");
    line("{}", barrier());
  }

  // The sums behind a pass. Each row has 32 / rows_ threads here, with rows_ partial sums each.
  void sums(int pass) {
    const std::vector<int> sums = sums_after(pass);
    if (sums.empty()) return;
    std::set<int> targets, waiting;
    for (const int sum : sums) targets.insert(at(sum).arguments[0]);
    const auto ready = [&](int i) { return staged(i) != nullptr; };
    const std::vector<int> order = needed_for(targets, ready);
    for (const int i : order)
      if (ready(i)) waiting.insert(place_of(i));
    for (const int sum : sums) line("float s{}[{}] = {{}};", sum, rows_);
    const std::int64_t steps = (chain_.columns() + kPartialSums - 1) / kPartialSums, summing = unit_rows_ * sum_lanes_;
    if (summing < unit_threads()) {
      line("if (threadIdx.x < {}) {{", summing);
      ++indent_;
    }
    line("#pragma unroll {}", std::min<std::int64_t>(steps, 8));
    line("for (int t = 0; t < {}; ++t) {{", steps);
    ++indent_;
    line("const int c = {} % {} * {} + {} * t;", thread(), sum_lanes_, rows_, kPartialSums);
    if (chain_.columns() % kPartialSums != 0) line("if (c >= {}) break;", chain_.columns());
    for (const int i : waiting) {
      line("float x{}[{}];", i, rows_);
      line("load(x{0}, s{0} + {1} * {2} + c);", i, own_row(), staged_.at(i).pitch);
    }
    open_loop("e", rows_);
    for (const int i : order) {
      if (ready(i)) line("const float v{} = x{}[{}];", i, place_of(i), element(i));
      else value(i);
    }
    for (const int sum : sums) line("s{}[e] += v{};", sum, at(sum).arguments[0]);
    close_loop();
    close_loop();
    if (summing < unit_threads()) close_loop();
    for (const int sum : sums) line("const float v{0} = row_sum(s{0});", sum);
  }

  // Flat chains.
  std::int64_t flat_batch() const {
    std::set<int> loads;
    for (const int i : chain_.evaluated(0))
      if (is_load(i)) loads.insert(access_of(i));
    return loads.size() <= 2 ? 4 : loads.size() <= 4 ? 2 : 1;
  }

  void open_elements() {
    source_.grid.per_block = block_warps_ * kWarp * vector_ * flat_batch();
    for (std::size_t i = 0; i < chain_.instructions.size(); ++i)
      if (is_load(static_cast<int>(i)) && is_column(static_cast<int>(i)) && access_of(static_cast<int>(i)) == static_cast<int>(i))
        declare_pointer(i);
    for (std::size_t s = 0; s < chain_.stores.size(); ++s) declare_result_pointer(s);
  }

  void elements() {
    const std::vector<int> order = chain_.evaluated(0);
    const std::int64_t batch = flat_batch(), threads = block_warps_ * kWarp, per_block = source_.grid.per_block;
    const std::set<int> rounded_later = rounded_by_readers(order, 0);
    std::set<int> loads, targets;
    for (const int i : order)
      if (is_load(i)) loads.insert(access_of(i));
    for (const Store& store : chain_.stores) targets.insert(store.instruction);
    line("const long begin = (long)blockIdx.x * {};", per_block);
    line("if (begin + {} <= count) {{", per_block);
    ++indent_;
    for (const int i : loads) line("float x{}[{}][{}];", i, batch, vector_);
    const auto open_batch = [&] {
      open_loop("u", batch);
      line("const long c = begin + (threadIdx.x + {} * u) * {};", threads, vector_);
    };
    open_batch();
    for (const int i : loads) line("load(x{0}[u], p{0} + c);", i);
    close_loop();
    open_batch();
    for (const int i : targets) line("float y{}[{}];", i, vector_);
    open_loop("e", vector_);
    for (const int i : order) {
      if (is_load(i)) line("const float v{} = x{}[u][{}];", i, access_of(i), element(i));
      else value(i, rounded_later);
      if (targets.contains(i)) line("y{0}[e] = v{0};", i);
    }
    close_loop();
    for (std::size_t s = 0; s < chain_.stores.size(); ++s) line("store(w{} + c, y{});", s, chain_.stores[s].instruction);
    close_loop();
    --indent_;
    line("}} else {{");
    ++indent_;
    line("for (long c = begin + threadIdx.x; c < count; c += {}) {{", threads);
    ++indent_;
    for (const int i : order) {
      if (is_load(i)) line("const float v{} = load1(p{} + {});", i, access_of(i), at(i).view.swapped ? "(c ^ 1)" : "c");
      else value(i, rounded_later);
    }
    for (std::size_t s = 0; s < chain_.stores.size(); ++s) line("store1(w{} + c, v{});", s, chain_.stores[s].instruction);
    close_loop();
    close_loop();
  }

  const std::int64_t vector_;  // columns beside each other that a thread has
  std::vector<bool> same_;     // of values: in all rows
  std::map<int, Staged> staged_;
  std::map<int, std::size_t> told_;  // values of rows that the unit's threads have told one another, and where
  std::int64_t unit_warps_ = 1;      // more than one: the unit is the block
  std::int64_t block_warps_ = 0;
  std::int64_t unit_rows_ = 1;
  std::int64_t rows_ = 1;           // of a warp
  std::int64_t lanes_ = kWarp;      // threads of a row while vectors are made
  std::int64_t sum_lanes_ = kWarp;  // threads of a row while it is summed
  std::int64_t turns_ = 0;          // over the columns, of vectors
  std::int64_t unit_bytes_ = 0;     // of shared memory
  std::int64_t told_offset_ = 0;
};

}  // namespace

GeneratedSource print_warps(const Chain& chain, const Dialect& dialect, const PrintOptions& options) {
  const std::int64_t vector = vector_of(chain);
  if (vector == 1) return print_threads(chain, dialect, options);
  WarpPrinter printer(chain, dialect, options, vector);
  if (!printer.is_possible()) return print_threads(chain, dialect, options);
  GeneratedSource source = printer.print();
  GeneratedSource unaligned = print_threads(chain, dialect, {.name = options.name + "_unaligned"});
  source.text += unaligned.text;
  source.grid_unaligned = unaligned.grid;
  return source;
}

}  // namespace zoe
