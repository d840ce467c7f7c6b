// The texts that fields of a request with choices take, for its table and its parser. Internal to this folder.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "pipeline/request.h"

namespace zoe {

inline constexpr std::size_t kMaxVideos = 9999;  // of a request

template <class T>
struct Choice {
  std::string_view text;
  T value;
};
// The first text of a value is its name; the others are what other programs call it.
inline constexpr Choice<SchedulerKind> kSchedulers[] = {{"unipc", SchedulerKind::unipc},
                                                        {"euler", SchedulerKind::euler},
                                                        {"lcm", SchedulerKind::lcm},
                                                        {"dpm++", SchedulerKind::dpmpp},
                                                        {"rcm", SchedulerKind::rcm},
                                                        {"uni_pc", SchedulerKind::unipc},
                                                        {"UniPCMultistepScheduler", SchedulerKind::unipc},
                                                        {"FlowMatchEulerDiscreteScheduler", SchedulerKind::euler},
                                                        {"FlowMatchLCMScheduler", SchedulerKind::lcm},
                                                        {"dpmpp_2m", SchedulerKind::dpmpp},
                                                        {"DPMSolverMultistepScheduler", SchedulerKind::dpmpp}};
inline constexpr Choice<GuidanceBatch> kGuidanceBatches[] = {
    {"auto", GuidanceBatch::automatic}, {"on", GuidanceBatch::on}, {"off", GuidanceBatch::off}};

inline constexpr Choice<Fit> kFits[] = {{"crop", Fit::crop}, {"stretch", Fit::stretch}, {"pad", Fit::pad}};
inline constexpr Choice<Preset> kPresets[] = {{"none", Preset::none},
                                              {"lightx2v-4step", Preset::lightx2v_4step},
                                              {"dmd-3step", Preset::dmd_3step},
                                              {"lightning-4step", Preset::lightx2v_4step},
                                              {"causvid-3step", Preset::dmd_3step},
                                              {"fastwan-3step", Preset::dmd_3step},
                                              {"rcm-4step", Preset::rcm_4step},
                                              {"rcm-4step-i2v", Preset::rcm_4step_i2v},
                                              {"turbo-4step", Preset::rcm_4step},
                                              {"turbo-4step-i2v", Preset::rcm_4step_i2v}};

inline constexpr Choice<LoraMode> kLoraModes[] = {{"auto", LoraMode::automatic},
                                                  {"merge", LoraMode::merge},
                                                  {"beside", LoraMode::beside},
                                                  {"immediately", LoraMode::merge},
                                                  {"at_runtime", LoraMode::beside}};

inline constexpr Choice<Arithmetic> kArithmetics[] = {{"exact", Arithmetic::exact}, {"int8", Arithmetic::int8}};
inline constexpr Choice<Quality> kQualities[] = {{"exact", Quality::exact}, {"high", Quality::high}, {"fast", Quality::fast}};

template <class T>
constexpr auto& choices_of() {
  if constexpr (std::is_same_v<T, SchedulerKind>) return kSchedulers;
  else if constexpr (std::is_same_v<T, Fit>) return kFits;
  else if constexpr (std::is_same_v<T, Preset>) return kPresets;
  else if constexpr (std::is_same_v<T, LoraMode>) return kLoraModes;
  else if constexpr (std::is_same_v<T, Arithmetic>) return kArithmetics;
  else if constexpr (std::is_same_v<T, Quality>) return kQualities;
  else return kGuidanceBatches;
}

template <class T>
std::vector<std::string_view> names_of() {
  std::vector<std::string_view> names;
  std::vector<T> seen;
  for (const Choice<T>& choice : choices_of<T>())
    if (std::find(seen.begin(), seen.end(), choice.value) == seen.end()) {
      names.push_back(choice.text);
      seen.push_back(choice.value);
    }
  return names;
}

template <class T>
std::string_view name_of(T value) {
  const auto& choices = choices_of<T>();
  return std::find_if(std::begin(choices), std::end(choices), [&](const Choice<T>& choice) { return choice.value == value; })->text;
}

inline std::string or_list(const std::vector<std::string_view>& names) {
  return fmt::format("{} or {}", fmt::join(names.begin(), names.end() - 1, ", "), names.back());
}

template <class... T>
struct Overloaded : T... {
  using T::operator()...;
};
template <class... T>
Overloaded(T...) -> Overloaded<T...>;

}  // namespace zoe
