#include <CLI/CLI.hpp>

#include "apps/cli/commands.h"
#include "base/error.h"

namespace zoe::cli {

namespace fs = std::filesystem;

namespace {

bool is_word(std::string_view text) {
  return !text.empty() && text.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") == text.npos;
}

// "Wan-AI/Wan2.1-T2V-1.3B": an owner and a name, as models are published.
bool is_published_name(std::string_view text) {
  const std::size_t slash = text.find('/');
  return slash != text.npos && !text.starts_with('.') && is_word(text.substr(0, slash)) && is_word(text.substr(slash + 1));
}

// The command that downloads a published model in the layout that runs.
std::string download_command(std::string name) {
  if (name.starts_with("Wan-AI/") && !name.ends_with("-Diffusers")) name += "-Diffusers";
  return fmt::format("hf download {} --local-dir {}", name, name.substr(name.find('/') + 1));
}

}  // namespace

ModelConfig open_model(const ModelFiles& files, std::string_view where) {
  const std::string& name = files.model_path;
  std::error_code status;
  check(name.empty() || name.starts_with("random:") || fs::exists(name, status) || !is_published_name(name),
        ErrorKind::invalid_argument, where,
        "no folder {} here. If it is a published model, download it: {} (then give that folder).", name, download_command(name));
  return read_model(files, where);
}

void add_model_files(CLI::App& app, ModelFiles& files) {
  for (const FileOption& each : file_options())
    app.add_option(spelled(each.name, Spelling::option), files.*each.slot, std::string(each.help))
        ->type_name(each.part.empty() ? "FOLDER" : "FILE");
}

}  // namespace zoe::cli
