#include <array>
#include <fstream>

#include "apps/cli/commands.h"
#include "base/error.h"
#include "base/json.h"
#include "base/nearest.h"

namespace zoe::cli {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMaxConfigBytes = 1 << 20;

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

// What a single file is by its first bytes.
std::string_view kind_of_file(const fs::path& path) {
  std::array<char, 9> bytes{};
  std::ifstream(path, std::ios::binary).read(bytes.data(), bytes.size());
  const std::string_view begin(bytes.data(), bytes.size());
  if (begin.starts_with("GGUF")) return "a GGUF file";
  if (begin.starts_with("PK")) return "a file of PyTorch";
  if (begin[8] == '{' && path.extension() == ".safetensors") return "a safetensors file of one part";
  return "a file";
}

// What a folder without model_index.json is, or "".
std::string kind_of_folder(const fs::path& path) {
  std::error_code status;
  if (fs::exists(path / "Wan2.1_VAE.pth", status) || fs::exists(path / "models_t5_umt5-xxl-enc-bf16.pth", status))
    return "a model in Wan's own layout (.pth files)";
  if (!fs::exists(path / "config.json", status)) return "";
  const std::string kind = read_json_object(path / "config.json", "config.json", kMaxConfigBytes).string("_class_name", "");
  if (kind == "WanModel") return "a transformer in Wan's own layout";
  if (!kind.empty()) return fmt::format("one part of a model ({})", kind);
  return "";
}

}  // namespace

ModelConfig open_model(const std::string& name, std::string_view where) {
  if (name.empty() || name.starts_with("random:")) return read_model(name);
  const fs::path path = name;
  std::error_code status;
  constexpr auto kind = ErrorKind::invalid_argument;
  if (!fs::exists(path, status)) {
    check(!is_published_name(name), kind, where,
          "no folder {} here. If it is a published model, download it: {} (then give that folder).", name, download_command(name));
    fail(kind, where, "{} is not a folder. Give a model in the Diffusers layout (a folder with model_index.json).", name);
  }
  check(fs::is_directory(path, status), kind, where,
        "{} is not a folder but {}. Give a model in the Diffusers layout (a folder with model_index.json).", name,
        kind_of_file(path));
  if (!fs::exists(path / "model_index.json", status)) {
    const std::string what = kind_of_folder(path);
    check(
        what.empty(), kind, where,
        "{} is {}, expected a model in the Diffusers layout (a folder with model_index.json). Of a published one take the edition "
        "whose name ends in -Diffusers.",
        name, what);
  }
  return read_model_config(path);
}

}  // namespace zoe::cli
