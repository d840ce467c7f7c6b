// Generated kernels: a chain becomes OpenCL C (codegen/c_printer.h), and all chains that are asked for at once one program. Equal
// texts are one function, whatever their row counts. GPUs take a group of 32 work-items a row, CPUs one that has vectors.

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "codegen/c_printer.h"
#include "platform/opencl/kernels.h"

namespace zoe::opencl {
namespace {

constexpr std::size_t kRowGroup = 32;   // work-items a row: one for each of its partial sums
constexpr std::size_t kRowsGroup = 16;  // rows of a group where a work-item has a whole row
constexpr std::size_t kFlatGroup = 64, kFlatGroupOfCpu = 256;

class ChainKernel : public Kernel {
 public:
  ChainKernel(Chain chain, GeneratedSource source, std::shared_ptr<Function> function, DevicePtr device)
      : device_(std::move(device)), chain_(std::move(chain)), source_(std::move(source)), function_(std::move(function)) {}
  std::string_view implementation() const override { return "generated"; }
  std::string_view source() const override { return source_.text; }
  std::string weight_layout(int input) const override {
    return "dense " + std::string(name(chain_.operands[static_cast<std::size_t>(input)].dtype));
  }
  bool can_overwrite(int input, int output) const override { return zoe::can_overwrite(chain_, input, output); }
  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    Launch launch(*function_, stream);
    for (std::size_t i = 0; i < inputs.size(); ++i) launch.place(inputs[i], size_of(chain_.operands[i].dtype));
    for (std::size_t i = 0; i < outputs.size(); ++i) launch.place(outputs[i], size_of(chain_.outputs[i].dtype));
    for (const std::int64_t value : source_.geometry) launch.large(value);
    const bool flat = chain_.row_axes == 0;
    const std::int64_t count = flat ? chain_.columns() : chain_.rows();
    launch.large(count);
    const auto items = static_cast<std::size_t>(count);
    const bool whole_rows = !device_->local_tiles;
    if (flat)
      launch.run({items},
                 {whole_rows ? std::min<std::size_t>(kFlatGroupOfCpu, device_->description.work_group_items) : kFlatGroup});
    else if (whole_rows) launch.run({items}, {kRowsGroup});
    else launch.run({items * kRowGroup}, {kRowGroup});
  }

 private:
  const DevicePtr device_;
  const Chain chain_;
  const GeneratedSource source_;
  const std::shared_ptr<Function> function_;
};

}  // namespace

std::vector<std::unique_ptr<Kernel>> make_chains(std::span<const Node* const> nodes, const DevicePtr& device) {
  constexpr std::string_view kPlaceholder = "zoe_chain";  // equal texts are found before they get a name
  struct Entry {
    Chain chain;
    GeneratedSource source;
    std::string function;
  };
  std::vector<Entry> entries;
  std::map<std::string, std::string> functions;  // text with the placeholder, name
  const Dialect& dialect = device->local_tiles ? kOpenclDialect : kOpenclRowsDialect;
  std::string source = prelude(dialect);
  for (const Node* node : nodes) {
    Chain chain = chain_of(*node);
    GeneratedSource printed = print_source(chain, dialect, {.name = std::string(kPlaceholder)});
    const auto [found, is_new] = functions.try_emplace(printed.text, fmt::format("chain_{}", functions.size()));
    if (is_new) source += print_source(chain, dialect, {.name = found->second}).text + "\n";
    entries.push_back({std::move(chain), std::move(printed), found->second});
  }
  std::map<std::string, std::shared_ptr<Function>> built;
  std::vector<std::unique_ptr<Kernel>> kernels;
  for (Entry& entry : entries) {
    auto& function = built[entry.function];
    if (!function) function = device->function(source, entry.function, fmt::format("{} of {}", entry.function, functions.size()));
    kernels.push_back(std::make_unique<ChainKernel>(std::move(entry.chain), std::move(entry.source), function, device));
  }
  return kernels;
}

}  // namespace zoe::opencl
