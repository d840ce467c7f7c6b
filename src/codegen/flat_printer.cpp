// Flat chains in wide accesses: each thread has several vectors.
#include <algorithm>

#include "codegen/wide_printer.h"

namespace zoe {

namespace {

class FlatPrinter : public WidePrinter {
 public:
  FlatPrinter(const Chain& chain, const Dialect& dialect, const PrintOptions& options, std::int64_t vector)
      : WidePrinter(chain, dialect, options, vector) {
    block_warps_ = 8;
  }

 private:
  // Vectors of a thread, whose accesses begin together.
  std::int64_t batch() const {
    std::set<int> loads;
    for (const int i : chain_.evaluated(0))
      if (is_load(i)) loads.insert(access_of(i));
    return loads.size() <= 2 ? 4 : loads.size() <= 4 ? 2 : 1;
  }

  void open_rows() override {
    source_.alignment = kAccessBytes;
    source_.grid.threads = static_cast<int>(block_warps_ * kWarp);
    source_.grid.per_block = block_warps_ * kWarp * vector_ * batch();
    for (std::size_t i = 0; i < chain_.instructions.size(); ++i)
      if (is_load(static_cast<int>(i)) && is_column(static_cast<int>(i)) && access_of(static_cast<int>(i)) == static_cast<int>(i))
        declare_pointer(i);
    for (std::size_t s = 0; s < chain_.stores.size(); ++s) declare_result_pointer(s);
  }
  void close_rows() override { close_loop(); }

  void columns(int) override {
    const std::vector<int> order = chain_.evaluated(0);
    const std::int64_t batch = this->batch(), threads = block_warps_ * kWarp, per_block = source_.grid.per_block;
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
};

}  // namespace

std::optional<GeneratedSource> print_flat(const Chain& chain, const Dialect& dialect, const PrintOptions& options,
                                          std::int64_t vector) {
  const auto is_element = [&](const Store& store) {
    return chain.instructions[static_cast<std::size_t>(store.instruction)].place == Instruction::Place::column;
  };
  if (!std::all_of(chain.stores.begin(), chain.stores.end(), is_element)) return std::nullopt;
  return FlatPrinter(chain, dialect, options, vector).print();
}

}  // namespace zoe
