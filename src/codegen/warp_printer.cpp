#include "codegen/warp_printer.h"

#include <algorithm>

namespace zoe {

namespace {

constexpr std::int64_t kPartialSums = 32;
constexpr std::int64_t kInFlight = 24;   // accesses to memory that a thread begins before it waits for the first
constexpr std::int64_t kAhead = 4;       // accesses of a turn, at least, for the next turn's to begin meanwhile
constexpr std::int64_t kWrittenOut = 5;  // turns of a loop, at most, that are written out

}  // namespace

std::string WarpPrinter::row_of_share() const {
  if (together() == 1) return "i";
  const std::string own = lanes_ == 1 ? "lane" : fmt::format("lane / {}", lanes_);
  return shares() == 1 ? own : fmt::format("(i * {} + {})", together(), own);
}

std::string WarpPrinter::is_first_of_row() const {
  const std::string first = fmt::format("{} % {} == 0", thread(), sum_lanes_);
  const std::int64_t summing = unit_rows_ * sum_lanes_;
  return summing < unit_threads() ? fmt::format("{} && threadIdx.x < {}", first, summing) : first;
}

void WarpPrinter::open_rows() {
  source_.alignment = kAccessBytes;
  source_.grid.threads = static_cast<int>(block_warps_ * kWarp);
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

void WarpPrinter::load_vector(int i, const std::string& name, const std::string& pointer, bool fixed) {
  const std::string address = fmt::format("{} + {}", pointer, offset_of(at(i).view));
  if (at(i).view.strides.back() == 1) {
    line("load{}({}, {});", fixed ? "<true>" : "", name, address);
  } else {
    line("fill({}, load1({}));", name, address);
  }
}

std::string WarpPrinter::offset_of(const View& view) const {
  const std::string text = offset(view, "c");
  return text == "c" ? text : fmt::format("({})", text);
}

void WarpPrinter::vectors(int pass) {
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

std::vector<std::size_t> WarpPrinter::stores_of(int pass) const {
  std::vector<std::size_t> stores;
  for (std::size_t s = 0; s < chain_.stores.size(); ++s)
    if (is_column(chain_.stores[s].instruction) && at(chain_.stores[s].instruction).pass == pass) stores.push_back(s);
  return stores;
}

std::int64_t WarpPrinter::accesses(int i) const {
  if (at(i).view.strides.back() != 1) return 1;
  return std::max<std::int64_t>(1, vector_ * static_cast<std::int64_t>(size_of(operand_type(at(i)))) / kAccessBytes);
}

bool WarpPrinter::repeats(const View& view) const {
  std::int64_t period = 1;
  for (std::size_t a = chain_.axes.size(); a-- > static_cast<std::size_t>(chain_.row_axes);) {
    period *= chain_.axes[a];
    if (view.strides[a] == 0) continue;
    if (static_cast<int>(a) == chain_.row_axes || lanes_ * vector_ % period != 0) return false;
  }
  return turns_ > 1;
}

std::set<int> WarpPrinter::tell_row_values(const std::vector<int>& order, int pass) {
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

void WarpPrinter::copies(const std::vector<int>& order) {
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
    line("copy<{0}>(s{1} + {2} * {3} + c, p{1}{4} + {5});", vector_, i, row_of_share(), staged_.at(i).pitch,
         is_same(i) ? "" : "[i]", offset_of(at(i).view));
  close_loop();
  close_loop();
  line("copies_done();");
  line("{}", barrier());
}

void WarpPrinter::sums(int pass) {
  const std::vector<int> sums = sums_after(pass);
  if (sums.empty()) return;
  std::set<int> targets, waiting;
  for (const int sum : sums) targets.insert(at(sum).arguments[0]);
  const auto ready = [&](int i) { return staged(i) != nullptr; };
  const std::vector<int> order = needed_for(targets, ready);
  for (const int i : order)
    if (ready(i)) waiting.insert(place_of(i));
  for (const int sum : sums) {
    line("float s{}[{}];", sum, rows_);
    line("fill(s{}, {});", sum, identity(at(sum).opcode));
  }
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
  for (const int sum : sums) {
    const std::string total = fmt::format("s{}[e]", sum);
    line("{} = {};", total, combined(at(sum).opcode, fmt::format("v{}", at(sum).arguments[0]), total));
  }
  close_loop();
  close_loop();
  if (summing < unit_threads()) close_loop();
  for (const int sum : sums) line("const float v{0} = row_total<reduce_{1}>(s{0});", sum, name(at(sum).opcode));
}

std::optional<GeneratedSource> print_rows(const Chain& chain, const Dialect& dialect, const PrintOptions& options,
                                          std::int64_t vector) {
  WarpPrinter printer(chain, dialect, options, vector);
  if (!printer.is_possible()) return std::nullopt;
  return printer.print();
}

}  // namespace zoe
