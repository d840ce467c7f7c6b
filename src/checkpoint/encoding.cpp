#include "checkpoint/encoding.h"

#include <algorithm>
#include <array>

namespace zoe {

namespace {

// Of safetensors files and of GGUF's.
constexpr std::array kWithoutNumbers{
    Encoding{"F8_E8M0", 1, 1, {}, nullptr}, Encoding{"I64", 1, 8, {}, nullptr}, Encoding{"I32", 1, 4, {}, nullptr},
    Encoding{"I16", 1, 2, {}, nullptr},     Encoding{"I8", 1, 1, {}, nullptr},  Encoding{"U64", 1, 8, {}, nullptr},
    Encoding{"U32", 1, 4, {}, nullptr},     Encoding{"U16", 1, 2, {}, nullptr}, Encoding{"U8", 1, 1, {}, nullptr},
    Encoding{"BOOL", 1, 1, {}, nullptr},
};
constexpr std::array<std::string_view, 6> kNumbersOfSafetensors{"F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2"};
constexpr std::array<std::string_view, 2> kScaledNumbers{"I8", "F4_E2M1"};

struct Numbered {
  std::uint32_t type;
  std::string_view name;
};
constexpr std::array kNumbersOfGguf{
    Numbered{0, "F32"},     Numbered{1, "F16"},     Numbered{2, "Q4_0"},  Numbered{3, "Q4_1"},
    Numbered{6, "Q5_0"},    Numbered{7, "Q5_1"},    Numbered{8, "Q8_0"},  Numbered{10, "Q2_K"},
    Numbered{11, "Q3_K"},   Numbered{12, "Q4_K"},   Numbered{13, "Q5_K"}, Numbered{14, "Q6_K"},
    Numbered{20, "IQ4_NL"}, Numbered{23, "IQ4_XS"}, Numbered{28, "F64"},  Numbered{30, "BF16"},
};
constexpr std::array kOthersOfGguf{Numbered{24, "I8"}, Numbered{25, "I16"}, Numbered{26, "I32"}, Numbered{27, "I64"}};

const Encoding* without_numbers(std::string_view name) {
  const auto* const found =
      std::find_if(kWithoutNumbers.begin(), kWithoutNumbers.end(), [&](const Encoding& encoding) { return encoding.name == name; });
  return found == kWithoutNumbers.end() ? nullptr : found;
}

bool contains(const auto& names, std::string_view name) { return std::find(names.begin(), names.end(), name) != names.end(); }

}  // namespace

const Encoding* safetensors_encoding(std::string_view name) {
  return contains(kNumbersOfSafetensors, name) ? find_encoding(name) : without_numbers(name);
}

const Encoding* scaled_encoding(std::string_view name) { return contains(kScaledNumbers, name) ? find_encoding(name) : nullptr; }

const Encoding* gguf_encoding(std::uint32_t type) {
  for (const Numbered& each : kNumbersOfGguf)
    if (each.type == type) return find_encoding(each.name);
  for (const Numbered& each : kOthersOfGguf)
    if (each.type == type) return without_numbers(each.name);
  return nullptr;
}

}  // namespace zoe
