#include "pipeline/lora_shelf.h"

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "base/nearest.h"
#include "pipeline/component.h"

namespace zoe {

namespace {

namespace fs = std::filesystem;

std::string first_of(const std::vector<std::string>& keys, std::size_t most) {
  std::string text;
  for (std::size_t i = 0; i < std::min(most, keys.size()); ++i) text += fmt::format("{}{}", i ? ", " : "", in_quotes(keys[i]));
  if (keys.size() > most) text += fmt::format(" and {} more", keys.size() - most);
  return text;
}

}  // namespace

std::map<std::string, WeightChanges> LoraShelf::changes(const Request& request, const ModelConfig& model,
                                                        const std::vector<std::string>& components, Spelling spelling) {
  std::map<std::string, Opened> opened;
  const auto open = [&](const std::string& path) -> const LoraFile& {
    std::error_code status;
    const std::uintmax_t size = fs::is_regular_file(path, status) ? fs::file_size(path, status) : 0;
    const fs::file_time_type written = fs::last_write_time(path, status);
    if (const auto found = opened.find(path); found != opened.end()) return *found->second.file;
    const auto before = opened_.find(path);
    const bool is_same = before != opened_.end() && before->second.size_bytes == size && before->second.written == written;
    return *opened.emplace(path, Opened{size, written, is_same ? before->second.file : std::make_shared<const LoraFile>(path)})
                .first->second.file;
  };
  std::map<std::string, WeightChanges> all;
  const auto take = [&](const LoraChoice& choice, const std::vector<std::string>& into) {
    const LoraFile& file = open(choice.path);
    bool is_said = false;
    for (const std::string& component : into) {
      const LoraFit fit = fit_lora(file, model, component, choice.strength);
      const std::string unknown = first_of(fit.unknown, request.lora_allow_unused ? fit.unknown.size() : 3);
      if (!fit.unknown.empty()) {
        const std::string near = fit.nearest.empty() ? "" : fmt::format("; the nearest name is {}", in_quotes(fit.nearest));
        check(!fit.changes.empty(), ErrorKind::invalid_argument, file.name(),
              "fits nothing in {} of {}: got {}, expected names of its tensors{}. Choose a LoRA for this model.", component,
              model.name, first_of(fit.unknown, 3), near);
        check(request.lora_allow_unused, ErrorKind::invalid_argument, file.name(),
              "{} of {} keys mean nothing in {} of {}: got {}, expected names of its tensors{}. Choose a LoRA for this model, or "
              "go on "
              "without them by {}.",
              fit.unknown.size(), file.key_count(), component, model.name, unknown, near, spelled("lora_allow_unused", spelling));
        if (!is_said)
          log(LogLevel::notice,
              fmt::format("{}: {} of {} keys are not used: {}", file.name(), fit.unknown.size(), file.key_count(), unknown));
        is_said = true;
      }
      if (choice.strength == 0) continue;
      for (const auto& [tensor, of] : fit.changes) {
        std::vector<WeightChange>& list = all[component][tensor];
        list.insert(list.end(), of.begin(), of.end());
      }
    }
  };
  std::vector<std::string> transformers;
  for (const std::string& name : components)
    if (name.starts_with("transformer")) transformers.push_back(name);
  for (const auto& [component, files] : model.loras)
    for (const fs::path& path : files) take({path.string()}, {component});
  for (const LoraChoice& choice : request.loras) take(choice, transformers);
  for (const LoraChoice& choice : request.loras_high) take(choice, {"transformer"});
  for (const LoraChoice& choice : request.loras_low) take(choice, {"transformer_2"});
  opened_ = std::move(opened);
  return all;
}

}  // namespace zoe
