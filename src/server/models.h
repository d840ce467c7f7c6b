// The models that a server offers, and what a request to one is settled to before it has a device.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "pipeline/model.h"
#include "pipeline/recipe.h"
#include "pipeline/request.h"
#include "pipeline/statement.h"
#include "platform/platform.h"

namespace zoe::server {

struct RequestLimits {
  std::int64_t max_pixels = 4 << 20;  // of a frame
  std::int64_t max_frames = 257;
  std::uint64_t max_body_bytes = 32 << 20;
};

struct ServedModel {
  std::string name;
  ModelConfig config;
  std::unique_ptr<Recipe> recipe;
  std::unique_ptr<Tokenizer> tokenizer;
  bool has_preview = false;

  // Fields of requests that it takes.
  bool takes(const RequestField& field) const { return (field.taken_by & recipe->member()) != 0; }
  // The field that input_reference is another name of; "" if it takes no file.
  std::string_view reference_field() const;
};

class Models {
 public:
  // The first is the default. invalid_argument: two of one name, or none.
  Models(std::vector<std::pair<std::string, ModelConfig>> models, std::filesystem::path lora_folder, RequestLimits limits);

  const std::vector<std::unique_ptr<ServedModel>>& all() const { return models_; }
  const ServedModel& get(std::string_view name) const;  // "" is the default; Refusal model_not_found
  const ServedModel* find(std::string_view name) const;
  const RequestLimits& limits() const { return limits_; }

  struct Lora {
    std::string name;
    std::filesystem::path path;
    std::uint64_t bytes;
  };
  std::vector<Lora> loras() const;                               // of the folder, now
  std::filesystem::path lora_path(std::string_view name) const;  // invalid_argument for one that is not there
  // The request with the files that names of LoRAs and of uploads in `folder` stand for.
  Request with_files(Request request, const std::filesystem::path& folder) const;

  // Everything that is known before a device is asked: sizes, steps, errors of fields and of the files that it names; notices, too.
  struct Checked {
    Settled settled;
    std::vector<std::string> notes;
  };
  Checked check(const ServedModel& model, const Request& request, Platform& platform, DType dtype) const;

 private:
  std::vector<std::unique_ptr<ServedModel>> models_;
  const std::filesystem::path lora_folder_;
  const RequestLimits limits_;
  mutable std::mutex reading_;  // pictures are large: one request's at a time
};

}  // namespace zoe::server
