// Wide accesses for chains of rows.
//
// A unit, which is a warp or, where rows are wide, a block of a few, works on several rows at once, in two ways in turn. Elements
// are made in vectors: a thread has vector_ columns beside each other, and what all rows have in common (the scale of a norm, say)
// is read and worked on once for all rows of the unit. Sums go another way, because each of a row's 32 partial sums takes its
// elements in order: of the rows_ rows of a warp, each has 32 / rows_ threads with rows_ partial sums each, which go through the
// row 32 columns a step. What is summed therefore waits in shared memory, where each side reads it its own way: rows of operands as
// they are in memory, kept values in bf16 if they have been rounded to it. So a row is read from memory once, however many passes
// go over it. warp_layout.cpp chooses what waits and how rows are shared out, warp_printer.cpp prints it.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "codegen/wide_printer.h"

namespace zoe {

class WarpPrinter : public WidePrinter {
 public:
  WarpPrinter(const Chain& chain, const Dialect& dialect, const PrintOptions& options, std::int64_t vector);
  // False if a row needs more shared memory than there is, or the chain stores what this kernel has no loop for.
  bool is_possible() const;

 private:
  // A value of each column that waits in shared memory for the sums or for later passes.
  struct Staged {
    int pass;  // whose vectors make it
    DType dtype;
    std::int64_t pitch = 0;   // from row to row, elements
    std::int64_t offset = 0;  // of the first row, bytes
  };

  // What waits.
  void find_same();
  void choose_staged();
  void stage(int i, int pass);
  bool is_same(int i) const { return same_[static_cast<std::size_t>(i)]; }
  // A load that is worth staging: of elements side by side that only one row has.
  bool is_row_of_memory(int i) const { return is_load(i) && !is_same(i) && at(i).view.strides.back() == 1; }
  // Where a value waits, if it does: loads of the same elements wait together.
  int place_of(int i) const { return is_load(i) ? access_of(i) : i; }
  const Staged* staged(int i) const {
    const auto found = staged_.find(place_of(i));
    return found == staged_.end() ? nullptr : &found->second;
  }
  bool is_ready(int i, int pass) const override { return staged(i) && staged(i)->pass < pass; }
  // What is evaluated for `targets` when `ready` values are at hand, in order; ready ones are part of it.
  std::vector<int> needed_for(const std::set<int>& targets, const std::function<bool(int)>& ready) const;
  // What the vectors of a pass are made for, results and values that wait, and what is evaluated for that.
  std::set<int> targets_of(int pass) const;
  std::vector<int> vectors_of(int pass) const;

  // How rows are shared out.
  void choose_sizes();
  std::int64_t place_staged();  // in shared memory; the bytes of a unit
  // Of each column: of what all rows have in common, which each unit reads, and of what waits.
  std::int64_t same_bytes() const;
  std::int64_t row_bytes() const;
  int same_work() const;  // on each column, once for all rows of a unit
  std::int64_t unit_threads() const { return kWarp * unit_warps_; }
  std::int64_t together() const { return unit_threads() / lanes_; }  // rows whose vectors are made at the same time
  std::int64_t shares() const { return unit_rows_ / together(); }

  // The number of a thread in its unit, and in its row while vectors are made.
  std::string thread() const { return unit_warps_ > 1 ? "threadIdx.x" : "lane"; }
  std::string lane() const { return lanes_ == unit_threads() ? thread() : fmt::format("{} % {}", thread(), lanes_); }
  std::string row_of_share() const;
  // The row that a thread sums, and whether it is the first of those that do.
  std::string own_row() const { return unit_rows_ == 1 ? "0" : fmt::format("{} / {}", thread(), sum_lanes_); }
  std::string is_first_of_row() const;
  std::string_view barrier() const { return unit_warps_ > 1 ? "__syncthreads();" : "__syncwarp();"; }

  void open_rows() override;
  void close_rows() override { close_loop(); }
  std::string storing() const override { return fmt::format("if ({} && first + {} < count) ", is_first_of_row(), own_row()); }
  void columns(int pass) override {
    vectors(pass);
    sums(pass);
  }
  // The elements that a pass makes: its results, and what waits for sums and later passes.
  void vectors(int pass);
  // Rows go from memory to shared memory as they are.
  void copies(const std::vector<int>& order);
  // The sums behind a pass. Each row has 32 / rows_ threads here, with rows_ partial sums each.
  void sums(int pass);
  // The values of rows that the vectors of a pass need are with the threads that have summed: u holds them for each of a thread's
  // rows.
  std::set<int> tell_row_values(const std::vector<int>& order, int pass);
  // An access into the vector `name`.
  void load_vector(int i, const std::string& name, const std::string& pointer, bool fixed);
  std::string offset_of(const View& view) const;
  std::vector<std::size_t> stores_of(int pass) const;
  std::int64_t accesses(int i) const;  // of a thread to a vector in memory
  // Whether a thread finds the same elements in each of its turns: those of a rotary table, one for all heads.
  bool repeats(const View& view) const;

  std::vector<bool> same_;  // of values: in all rows
  std::map<int, Staged> staged_;
  std::map<int, std::size_t> told_;  // values of rows that the unit's threads have told one another, and where
  std::int64_t unit_warps_ = 1;      // more than one: the unit is the block
  std::int64_t unit_rows_ = 1;
  std::int64_t rows_ = 1;           // of a warp
  std::int64_t lanes_ = kWarp;      // threads of a row while vectors are made
  std::int64_t sum_lanes_ = kWarp;  // threads of a row while it is summed
  std::int64_t turns_ = 0;          // over the columns, of vectors
  std::int64_t unit_bytes_ = 0;     // of shared memory
  std::int64_t told_offset_ = 0;
};

}  // namespace zoe
