// CUDA kernels that reach the speed of memory, for chains whose operands lie so that neighbours can be read together: a thread has
// several columns beside each other, and its accesses are 16 bytes wide. flat_printer.cpp prints flat chains, warp_printer.h those
// of rows. Chains that cannot be read in vectors are kernels of threads (thread_printer.cpp), and so is each kernel's second
// function, for operands at addresses that are no multiples of 16.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "codegen/printer.h"

namespace zoe {

constexpr std::int64_t kWarp = 32;
constexpr std::int64_t kAccessBytes = 16;  // the widest access

inline bool is_zero(std::int64_t stride) { return stride == 0; }

class WidePrinter : public Printer {
 public:
  // `vector`: columns beside each other that a thread has.
  WidePrinter(const Chain& chain, const Dialect& dialect, const PrintOptions& options, std::int64_t vector)
      : Printer(chain, dialect, options), vector_(vector) {}

 protected:
  std::string g(std::size_t i) const override { return fmt::format("g{}", i); }
  std::string memory(std::size_t operand, DType, bool) const override { return fmt::format("m{}", operand); }
  std::string load1(DType, const std::string& address) const override { return fmt::format("load1({})", address); }
  void begin() override;
  // Whether pass `pass` finds a column value made by an earlier one.
  virtual bool is_ready(int, int) const { return false; }

  bool is_load(int i) const { return at(i).opcode == Opcode::input; }
  bool is_column(int i) const { return at(i).place == Place::column; }
  // Loads of the same elements, swapped or not, are one access.
  int access_of(int i) const;
  // The index in a vector by which element e of a value is read.
  std::string element(int i) const { return is_load(i) && at(i).view.swapped ? "e ^ 1" : "e"; }
  // Values whose readers round them to bf16 anyway.
  std::set<int> rounded_by_readers(const std::vector<int>& order, int pass) const;
  void value(int i, const std::set<int>& rounded_later = {});
  void open_loop(std::string_view name, std::int64_t turns);  // one that is unrolled
  void close_loop();

  const std::int64_t vector_;
  std::int64_t block_warps_ = 0;
};

// Nothing if the chain stores what these kernels have no loop for, or a row needs more shared memory than there is.
std::optional<GeneratedSource> print_flat(const Chain& chain, const Dialect& dialect, const PrintOptions& options,
                                          std::int64_t vector);
std::optional<GeneratedSource> print_rows(const Chain& chain, const Dialect& dialect, const PrintOptions& options,
                                          std::int64_t vector);

}  // namespace zoe
