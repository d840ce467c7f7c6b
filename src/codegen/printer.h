// What the printers of all shapes of kernel have in common: arguments, addresses, values of the chain and of rows, the order of
// passes. The printers of vectors, threads, flat chains and warps print the loops over columns, each in its way.
#pragma once

#include <fmt/format.h>

#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "codegen/c_printer.h"

namespace zoe {

// A reduction's text for one more element, and what its total begins as.
std::string combined(Opcode reduction, const std::string& element, const std::string& total);
std::string identity(Opcode reduction);

class Printer {
 public:
  Printer(const Chain& chain, const Dialect& dialect, const PrintOptions& options)
      : chain_(chain), dialect_(dialect), options_(options), flat_(chain.row_axes == 0) {}
  virtual ~Printer() = default;
  GeneratedSource print();

 protected:
  using Place = Instruction::Place;

  virtual void begin() = 0;        // the function's head
  virtual void shared_values() {}  // what is made once for all rows
  virtual void open_rows() = 0;
  virtual void open_pass(int) {}       // a pass with the row values that it finishes; the first one also those before it
  virtual void columns(int pass) = 0;  // one pass over the columns, its sums and its stores
  // Stores of a value of the chain or of a row: one element, by the thread that `storing` is the condition of, or one in each
  // column.
  virtual std::string storing() const { return ""; }
  virtual void fill_columns(std::size_t) {}
  virtual void close_pass(int) {}
  virtual void close_rows() = 0;
  virtual std::string g(std::size_t i) const = 0;  // an argument that depends on rows
  virtual std::string memory(std::size_t operand, DType dtype, bool is_const) const = 0;
  virtual std::string load1(DType dtype, const std::string& address) const = 0;
  virtual std::string store1(DType) const { return "store1"; }  // the function's name
  // The name by which a column statement reads an instruction's value.
  virtual std::string read(int i) const { return fmt::format("v{}", i); }

  const Instruction& at(int i) const { return chain_.instructions[static_cast<std::size_t>(i)]; }
  DType operand_type(const Instruction& load) const { return chain_.operands[static_cast<std::size_t>(load.operand)].dtype; }
  DType output_type(const Store& store) const { return chain_.outputs[static_cast<std::size_t>(store.output)].dtype; }

  template <class... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    out_.append(static_cast<std::size_t>(indent_) * 2, ' ');
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
    out_ += '\n';
  }

  void row_indices();  // r0, r1, ... of `row`
  void declare_pointer(std::size_t load);
  void declare_result_pointer(std::size_t store);
  // `rounded`: to the instruction's dtype; not where its readers do that.
  std::string expression(const Instruction& instruction, bool rounded = true) const;
  // Whether a value's bits are those of a bf16, which has all numbers of 8 bits.
  bool is_bf16(int i) const {
    return at(i).dtype == DType::bf16 || is_byte(at(i).dtype) || (at(i).opcode == Opcode::cast && is_bf16(at(i).arguments[0]));
  }
  std::vector<int> sums_after(int pass) const;  // the sums that pass `pass` finishes

  // How a view walks through the columns.
  enum class Walk { dense, runs, constant_runs, scattered };
  Walk walk(const View& view) const;
  // The offset of column `c` behind a row's beginning.
  std::string offset(const View& view, const std::string& c) const;
  // True of a result with an element for each column.
  bool has_columns(const View& view) const;

  const Chain& chain_;
  const Dialect& dialect_;
  const PrintOptions& options_;
  const bool flat_;
  GeneratedSource source_;
  std::string out_;
  int indent_ = 0;
  std::vector<std::string> row_extents_, bases_, store_bases_;
  std::vector<std::string> next_rows_;  // how far behind a load's row the next one lies; "" if they are the same

 private:
  void read_geometry();
  void declare(int i);
  void row_values(int pass);
  void row_store(std::size_t s);
};

std::string comment(const Instruction& instruction);
std::string_view storage(DType dtype);

GeneratedSource print_vectors(const Chain& chain, const Dialect& dialect, const PrintOptions& options);
GeneratedSource print_warps(const Chain& chain, const Dialect& dialect, const PrintOptions& options);
GeneratedSource print_threads(const Chain& chain, const Dialect& dialect, const PrintOptions& options);

}  // namespace zoe
