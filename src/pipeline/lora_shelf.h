// The LoRA files of a session's requests: opened once, and matched to its transformers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/lora.h"
#include "pipeline/model.h"
#include "pipeline/request.h"

namespace zoe {

// Keeps the files of the last request that was asked for. One that was written anew meanwhile is opened again.
class LoraShelf {
 public:
  // What the request's LoRAs change, by component: `loras` all whose name begins with "transformer", `loras_high` and `loras_low`
  // the first and the second. Errors of LoraFile; a key that means nothing in the model is one, too (invalid_argument, with the
  // first such keys and the nearest name), or a notice, if the request allows it. A LoRA of which nothing is used is always an
  // error.
  std::map<std::string, WeightChanges> changes(const Request& request, const ModelConfig& model,
                                               const std::vector<std::string>& components, Spelling spelling);

 private:
  struct Opened {
    std::uintmax_t size_bytes;
    std::filesystem::file_time_type written;
    std::shared_ptr<const LoraFile> file;
  };
  std::map<std::string, Opened> opened_;  // by path
};

}  // namespace zoe
