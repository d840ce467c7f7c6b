#include "platform/cuda/hopper.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "platform/cuda/kernels.h"

namespace zoe::cuda {

bool is_hopper(const Device& device) {
  return has_tensor_cores(device) && device.description.major == 9 && device.api.tensor_map_encode != nullptr;
}

TensorMap boxes_of(const Device& device, Address address, const std::array<std::int64_t, 4>& extents,
                   const std::array<std::int64_t, 3>& steps, const std::array<std::int64_t, 4>& box, int swizzle,
                   const char* what) {
  ZOE_INTERNAL_CHECK(address % 16 == 0);
  constexpr std::uint64_t kBytes = 2;
  std::array<std::uint64_t, 4> given_extents{};
  std::array<std::uint64_t, 3> strides{};
  std::array<unsigned, 4> given_box{};
  std::ranges::copy(extents, given_extents.begin());
  std::ranges::transform(steps, strides.begin(), [](std::int64_t step) { return static_cast<std::uint64_t>(step) * kBytes; });
  std::ranges::transform(box, given_box.begin(), [](std::int64_t extent) { return static_cast<unsigned>(extent); });
  const std::array every{1u, 1u, 1u, 1u};
  TensorMap result;
  device.check_status(device.api.tensor_map_encode(&result, kTensorMapBf16, 4, reinterpret_cast<void*>(address),
                                                   given_extents.data(), strides.data(), given_box.data(), every.data(),
                                                   kTensorMapPlain, swizzle, kTensorMapL2Lines256, kTensorMapZeros),
                      what);
  return result;
}

namespace {

// An instruction of 64 rows: what is `sums`, the form behind its columns, and what follows its operands.
std::string instruction_source(std::string_view name, std::int64_t columns, Factor a, std::string_view type, char constraint,
                               std::string_view form, std::string_view more) {
  ZOE_INTERNAL_CHECK(columns % 8 == 0 && columns >= 8 && columns <= 256);
  const std::int64_t sums = columns / 2;  // of a thread
  std::string places, operands;
  for (std::int64_t i = 0; i < sums; ++i) {
    places += fmt::format("{}%{}", i == 0 ? "" : ", ", i);
    operands += fmt::format("{}\"+{}\"(sums[{}])", i == 0 ? "" : ", ", constraint, i);
  }
  const bool registers = a == Factor::registers;
  const std::int64_t after_a = sums + (registers ? 4 : 1);
  const std::string first =
      registers ? fmt::format("{{%{}, %{}, %{}, %{}}}", sums, sums + 1, sums + 2, sums + 3) : fmt::format("%{}", sums);
  return fmt::format(
      "static __device__ __forceinline__ void {}({} (&sums)[{}], {}, unsigned long long b, bool accumulates) {{\n"
      "  asm volatile(\n"
      "      \"{{\\n\"\n"
      "      \".reg .pred adds;\\n\"\n"
      "      \"setp.ne.b32 adds, %{}, 0;\\n\"\n"
      "      \"wgmma.mma_async.sync.aligned.m64n{}{} {{{}}}, {}, %{}, adds{};\\n\"\n"
      "      \"}}\"\n"
      "      : {}\n"
      "      : {}, \"l\"(b), \"r\"((int)accumulates));\n"
      "}}\n",
      name, type, sums, registers ? "const unsigned (&a)[4]" : "unsigned long long a", after_a + 1, columns, form, places, first,
      after_a, more, operands, registers ? "\"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3])" : "\"l\"(a)");
}

}  // namespace

std::string wgmma_source(std::string_view name, std::int64_t columns, Factor a, bool transposed) {
  const std::string more = fmt::format(", 1, 1{}, {}", a == Factor::registers ? "" : ", 0", transposed ? 1 : 0);
  return instruction_source(name, columns, a, "float", 'f', "k16.f32.bf16.bf16", more);
}

std::string integer_wgmma_source(std::string_view name, std::int64_t columns, Factor a) {
  return instruction_source(name, columns, a, "int", 'r', a == Factor::registers ? "k32.s32.u8.s8" : "k32.s32.s8.s8", "");
}

}  // namespace zoe::cuda
