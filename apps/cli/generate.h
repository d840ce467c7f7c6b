// What `generate` and `resume` have in common: options beside a request's, and the run itself.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "apps/cli/commands.h"
#include "pipeline/preview.h"
#include "pipeline/saved_state.h"

namespace zoe::cli {

struct GenerateOptions {
  DeviceOptions device;
  ModelFiles model;
  std::string prompt_file, from, output = "out.mp4", profile, save_state, preview, preview_decoder;
  int save_every = 5, preview_every = 5;
  SessionOptions session{.single_request = true, .spelling = Spelling::option};
  Request request;
  std::map<std::string, std::string> made_with;  // what the file of --from says besides the request: model, dtype, ...
  bool has_prompt = false, has_dtype = false, quiet = false, verbose = false, json = false;
  bool numbered = false;               // outputs have numbers though there is one video
  std::vector<std::string> arguments;  // what was said beside the request, kept in a saved run
  std::optional<SavedRun> saved;       // to go on from
};

// All options but those of a request and what a request is read from.
void add_run_options(CLI::App& app, GenerateOptions& options);

// What was said of `app`'s options beside those of a request, as arguments that say it again from any folder.
std::vector<std::string> said_arguments(const CLI::App& app);

int generate(GenerateOptions& options);

}  // namespace zoe::cli
