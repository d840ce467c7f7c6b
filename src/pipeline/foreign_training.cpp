#include "pipeline/foreign_training.h"

#include <algorithm>

namespace zoe {

namespace {

struct Telltale {
  std::string_view text, trained_for;
};
// FastVideo's FastWan, and TurboDiffusion's models.
constexpr Telltale kInKeys[] = {{"gate_compress", "video sparse attention (VSA)"},
                                {"local_attn.proj_l", "sparse-linear attention (SLA)"}};
// They have the keys of the models that they come from.
constexpr Telltale kInNames[] = {{"causal", "causal attention, a few frames at a time"},
                                 {"self-forcing", "causal attention, a few frames at a time"},
                                 {"longlive", "causal attention, a few frames at a time"},
                                 {"krea-realtime", "causal attention, a few frames at a time"}};

}  // namespace

std::string foreign_training(std::span<const std::string> keys, std::string_view name) {
  for (const Telltale& telltale : kInKeys)
    for (const std::string& key : keys)
      if (key.find(telltale.text) != std::string::npos) return std::string(telltale.trained_for);
  std::string lower(name);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) {
    return c == '_' ? '-' : c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  for (const Telltale& telltale : kInNames)
    if (lower.find(telltale.text) != std::string::npos) return std::string(telltale.trained_for);
  return {};
}

}  // namespace zoe
