#include "platform/cpu/generated.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <unordered_map>

#include "base/error.h"
#include "codegen/c_printer.h"
#include "platform/cpu/kernels.h"
#include "platform/cpu/parallel.h"

namespace zoe::cpu {

namespace {

using Function = void (*)(std::byte* const* memory, const std::int64_t* geometry, std::int64_t begin, std::int64_t end,
                          std::byte* scratch);

constexpr std::size_t kMostMemory = 64;  // operands and results of a kernel

class GeneratedKernel : public Kernel {
 public:
  GeneratedKernel(const Node& node, Chain chain, GeneratedSource source, Function function, int threads)
      : chain_(std::move(chain)), source_(std::move(source)), function_(function), threads_(threads) {
    ZOE_INTERNAL_CHECK(node.inputs.size() + node.types.size() <= kMostMemory);
    flat_ = chain_.row_axes == 0;
    count_ = flat_ ? chain_.columns() : chain_.rows();
    elements_ = chain_.rows() * chain_.columns();
  }

  std::string_view implementation() const override { return "generated c++"; }
  std::string_view source() const override { return source_.text; }
  std::string weight_layout(int input) const override {
    return "dense " + std::string(name(chain_.operands[static_cast<std::size_t>(input)].dtype));
  }
  std::size_t scratch_bytes() const override { return source_.scratch_bytes * static_cast<std::size_t>(threads_); }
  bool can_overwrite(int input, int output) const override { return zoe::can_overwrite(chain_, input, output); }

  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    std::byte* memory[kMostMemory];
    std::size_t next = 0;
    for (const Slot& slot : inputs) memory[next++] = slot.data();
    for (const Slot& slot : outputs) memory[next++] = slot.data();
    // Pieces of a flat chain begin at cache lines; pairs that are swapped stay together.
    parallel_ranges(count_, flat_ ? 64 : 1, elements_, threads_, [&](std::int64_t begin, std::int64_t end, int thread) {
      std::byte* own =
          source_.scratch_bytes == 0 ? nullptr : scratch.data() + static_cast<std::size_t>(thread) * source_.scratch_bytes;
      function_(memory, source_.geometry.data(), begin, end, own);
    });
  }

 private:
  Chain chain_;
  GeneratedSource source_;
  Function function_;
  int threads_;
  bool flat_ = false;
  std::int64_t count_ = 0, elements_ = 0;
};

constexpr const char* kFunction = "chain";  // in the text of every kernel: those of equal text are one

// "scale_residual_norm_scale_shift_1536": readable, and the same from run to run.
std::string kernel_name(const Node& node, const Chain& chain) {
  std::string name;
  for (const char c : node.name) {
    const bool is_word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (is_word) name += c;
    else if (!name.empty() && name.back() != '_') name += '_';
  }
  constexpr std::size_t kLongest = 80;
  name.resize(std::min(name.size(), kLongest));
  return chain.row_axes == 0 ? name : fmt::format("{}_{}", name, chain.columns());
}

}  // namespace

bool outgrows_cache(const Chain& chain, const DeviceInfo& device) {
  std::size_t bytes = 0;
  for (const Type& operand : chain.operands) bytes += operand.size_bytes();
  for (const Type& output : chain.outputs) bytes += output.size_bytes();
  return device.cache_bytes > 0 && bytes > device.cache_bytes;
}

std::vector<std::unique_ptr<Kernel>> make_generated(std::span<const Node* const> nodes, const DeviceInfo& device,
                                                    CppCompiler& compiler) {
  std::vector<Chain> chains;
  std::vector<GeneratedSource> sources;
  std::vector<CppKernel> kernels;  // distinct ones
  std::unordered_map<std::string, std::size_t> numbers;
  std::vector<std::size_t> number_of;
  for (const Node* node : nodes) {
    chains.push_back(chain_of(*node));
    sources.push_back(
        print_source(chains.back(), kCppDialect, {.name = kFunction, .stream = outgrows_cache(chains.back(), device)}));
    const auto [found, is_new] = numbers.try_emplace(sources.back().text, kernels.size());
    if (is_new) kernels.push_back({kernel_name(*node, chains.back()), sources.back().text, kFunction});
    number_of.push_back(found->second);
  }
  const std::vector<void*> functions = compiler.build(prelude(kCppDialect), kernels);
  std::vector<std::unique_ptr<Kernel>> made;
  if (functions.empty()) return made;
  for (std::size_t i = 0; i < nodes.size(); ++i)
    made.push_back(std::make_unique<GeneratedKernel>(*nodes[i], std::move(chains[i]), std::move(sources[i]),
                                                     reinterpret_cast<Function>(functions[number_of[i]]), device.threads));
  return made;
}

}  // namespace zoe::cpu
