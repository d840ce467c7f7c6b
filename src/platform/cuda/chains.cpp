// Generated kernels: a chain becomes CUDA C++ (codegen/c_printer.h), each a program of its own, so that
// the cache holds what many plans share. All that are asked for at once are compiled at once.

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "base/error.h"
#include "codegen/c_printer.h"
#include "platform/cuda/kernels.h"

namespace zoe::cuda {
namespace {

class ChainKernel : public Kernel {
 public:
  // `unaligned`: for operands whose addresses are no multiples of GeneratedSource::alignment.
  ChainKernel(Chain chain, GeneratedSource source, Function function, Function unaligned)
      : chain_(std::move(chain)), source_(std::move(source)), function_(std::move(function)), unaligned_(std::move(unaligned)) {}
  std::string_view implementation() const override { return "generated"; }
  std::string_view source() const override { return source_.text; }
  std::string weight_layout(int input) const override {
    return "dense " + std::string(name(chain_.operands[static_cast<std::size_t>(input)].dtype));
  }
  bool can_overwrite(int input, int output) const override { return zoe::can_overwrite(chain_, input, output); }
  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    const auto is_unaligned = [&](const Slot& slot) { return address_of(slot) % source_.alignment != 0; };
    const bool aligned =
        std::none_of(inputs.begin(), inputs.end(), is_unaligned) && std::none_of(outputs.begin(), outputs.end(), is_unaligned);
    Launch launch(aligned ? function_ : unaligned_, stream);
    for (const Slot& slot : inputs) launch.place(slot);
    for (const Slot& slot : outputs) launch.place(slot);
    for (const std::int64_t value : source_.geometry) launch.large(value);
    const std::int64_t count = chain_.row_axes == 0 ? chain_.columns() : chain_.rows();
    launch.large(count);
    const Grid& grid = aligned ? source_.grid : source_.grid_unaligned;
    launch.run({(count + grid.per_block - 1) / grid.per_block}, {grid.threads}, grid.shared_bytes);
  }

 private:
  const Chain chain_;
  const GeneratedSource source_;
  const Function function_, unaligned_;
};

// What profilers show: the ops that a chain comes from, or the first of many.
std::string function_name(const Node& node) {
  constexpr std::size_t kMost = 100;  // tools, file systems and compilers have limits of their own
  std::string text = "zoe_";
  for (const char c : node.name.empty() ? std::string(name(node.opcode)) : node.name) {
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_') text += c;
    else if (text.back() != '_') text += '_';
    if (text.size() == kMost) break;
  }
  return text;
}

}  // namespace

std::vector<std::unique_ptr<Kernel>> make_chains(std::span<const Node* const> nodes, const DevicePtr& device) {
  struct Entry {
    Chain chain;
    GeneratedSource source;
    Device::Program program;
  };
  std::vector<Entry> entries;
  std::vector<Device::Program> programs;
  const std::string start = prelude(kCudaDialect);
  for (const Node* node : nodes) {
    Chain chain = chain_of(*node);
    const std::string name = function_name(*node);
    GeneratedSource printed = print_source(chain, kCudaDialect, {.name = name});
    programs.push_back({start + printed.text, name, name});
    entries.push_back({std::move(chain), std::move(printed), programs.back()});
  }
  device->build(programs);
  std::vector<std::unique_ptr<Kernel>> kernels;
  for (Entry& entry : entries) {
    const Function function = device->function(entry.program, entry.program.name);
    const Function unaligned =
        entry.source.alignment > 1 ? device->function(entry.program, entry.program.name + "_unaligned") : function;
    kernels.push_back(std::make_unique<ChainKernel>(std::move(entry.chain), std::move(entry.source), function, unaligned));
  }
  return kernels;
}

}  // namespace zoe::cuda
