#include "checkpoint/encoding.h"

#include <algorithm>
#include <array>

namespace zoe {

namespace {

constexpr std::array<std::string_view, 15> kSafetensorsNames{"F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2", "I64", "I32",
                                                             "I16", "I8",  "U64",  "U32", "U16",     "U8",      "BOOL"};

struct Numbered {
  std::uint32_t type;
  std::string_view name;
};

constexpr std::array kGgufTypes{
    Numbered{0, "F32"},   Numbered{1, "F16"},   Numbered{2, "Q4_0"},    Numbered{3, "Q4_1"},    Numbered{6, "Q5_0"},
    Numbered{7, "Q5_1"},  Numbered{8, "Q8_0"},  Numbered{10, "Q2_K"},   Numbered{11, "Q3_K"},   Numbered{12, "Q4_K"},
    Numbered{13, "Q5_K"}, Numbered{14, "Q6_K"}, Numbered{20, "IQ4_NL"}, Numbered{23, "IQ4_XS"}, Numbered{24, "I8"},
    Numbered{25, "I16"},  Numbered{26, "I32"},  Numbered{27, "I64"},    Numbered{28, "F64"},    Numbered{30, "BF16"},
};

}  // namespace

const Encoding* safetensors_encoding(std::string_view name) {
  const bool is_known = std::find(kSafetensorsNames.begin(), kSafetensorsNames.end(), name) != kSafetensorsNames.end();
  return is_known ? find_encoding(name) : nullptr;
}

const Encoding* gguf_encoding(std::uint32_t type) {
  const auto* const found =
      std::find_if(kGgufTypes.begin(), kGgufTypes.end(), [&](const Numbered& each) { return each.type == type; });
  return found == kGgufTypes.end() ? nullptr : find_encoding(found->name);
}

}  // namespace zoe
