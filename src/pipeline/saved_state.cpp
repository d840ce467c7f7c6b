#include "pipeline/saved_state.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <span>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/log.h"
#include "base/nearest.h"
#include "base/sha256.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/tensor_file.h"
#include "pipeline/model.h"
#include "pipeline/recipe.h"
#include "text/unicode.h"

namespace zoe {

namespace {

namespace fs = std::filesystem;
using Texts = std::map<std::string, std::string>;

constexpr std::string_view kFormat = "zoetrope run";
// Another number where a state means something else: a file's layout, or what follows from equal latents.
constexpr std::string_view kVersion = "1";
constexpr std::string_view kInput = "input.", kSetting = "setting.";

std::string_view text_of(std::span<const float> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}

// Of all texts and tensors of a file, whatever their order in it.
std::string digest_of(const Texts& texts, const DenoiseState& state) {
  std::string all;
  const auto add = [&](std::string_view text) { all += fmt::format("{}:", text.size()).append(text); };
  for (const auto& [key, value] : texts) {
    add(key);
    add(value);
  }
  add(sha256(text_of(state.latents)));
  for (const std::vector<float>& kept : state.kept) add(sha256(text_of(kept)));
  return sha256(all);
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    char32_t code = 0;
    const std::size_t length = decode_utf8(text, &code);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

// The size of a file and its bytes; of a large one those of pieces from its begin to its end.
std::string sample_of(const fs::path& path) {
  constexpr std::uintmax_t kWhole = 1 << 20, kPiece = 4096, kPieces = 64;
  std::error_code status;
  const std::uintmax_t size = fs::file_size(path, status);
  std::ifstream file(path, std::ios::binary);
  check(!status && file.is_open(), ErrorKind::io, "state", "cannot read {}.", path.string());
  std::string bytes = fmt::format("{}:", size);
  const auto add = [&](std::uintmax_t begin, std::uintmax_t count) {
    const std::size_t at = bytes.size();
    bytes.resize(at + count);
    file.seekg(static_cast<std::streamoff>(begin));
    check(static_cast<bool>(file.read(bytes.data() + at, static_cast<std::streamsize>(count))), ErrorKind::io, "state",
          "cannot read {}.", path.string());
  };
  if (size <= kWhole) add(0, size);
  else
    for (std::uintmax_t i = 0; i < kPieces; ++i) add(i * (size - kPiece) / (kPieces - 1), kPiece);
  return bytes;
}

// Of a file, or of all files of a folder in the order of their names.
std::string digest_of(const fs::path& path) {
  std::error_code status;
  std::vector<fs::path> files;
  if (fs::is_directory(path, status)) {
    for (const fs::directory_entry& entry : fs::directory_iterator(path))
      if (entry.is_regular_file(status)) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
  } else {
    files.push_back(path);
  }
  std::string all;
  for (const fs::path& file : files) all += sha256(sample_of(file));
  return sha256(all);
}

Texts texts_of(const SavedRun& run) {
  Texts texts{{"format", std::string(kFormat)},
              {"version", std::string(kVersion)},
              {"software", fmt::format("Zoetrope {}", version())},
              {"request", to_json(run.request)},
              {"device", run.device},
              {"batch", fmt::format("{}", run.batch)},
              {"video", fmt::format("{}", run.state.video)},
              {"next_step", fmt::format("{}", run.state.next_step)}};
  for (const auto& [name, digest] : run.inputs) texts[std::string(kInput) + name] = digest;
  for (const auto& [name, value] : run.settings) texts[std::string(kSetting) + name] = value;
  return texts;
}

void write_saved_run(const fs::path& path, const SavedRun& run) {
  const DenoiseState& state = run.state;
  std::vector<TensorToStore> tensors;
  const auto add = [&](std::string name, const std::vector<float>& values) {
    tensors.push_back({std::move(name), "F32", {static_cast<std::int64_t>(values.size())}, values.size() * sizeof(float)});
  };
  add("latents", state.latents);
  for (std::size_t i = 0; i < state.kept.size(); ++i) add(fmt::format("kept.{}", i), state.kept[i]);
  Texts texts = texts_of(run);
  texts["sha256"] = digest_of(texts, state);
  PendingOutput output(path, PendingOutput::Kind::file, "--save-state");
  TensorFile file(output.path(), TensorFile::Format::safetensors, std::move(tensors), texts);
  file.write(std::as_bytes(std::span(state.latents)));
  for (const std::vector<float>& kept : state.kept) file.write(std::as_bytes(std::span(kept)));
  file.close();
  output.commit();
}

void make_absolute(Request& request) {
  for (const RequestField& field : request_fields()) {
    std::vector<std::string> paths = get_field(request, field);
    if (!field.is_file() || paths.empty()) continue;
    for (std::string& path : paths) path = fs::absolute(path).string();
    set_field(request, field.name, paths);
  }
  for (std::vector<LoraChoice>* const loras : {&request.loras, &request.loras_high, &request.loras_low})
    for (LoraChoice& lora : *loras) lora.path = fs::absolute(lora.path).string();
}

// A whole number that the file says of itself.
std::int64_t number(const Texts& texts, const std::string& key, std::string_view where) {
  const auto found = texts.find(key);
  check(found != texts.end(), ErrorKind::invalid_argument, where, "no {} in the saved run. Check the file.", key);
  return parse_json_object(fmt::format("{{\"{}\":{}}}", key, found->second), where).integer(key, 0, 1 << 24);
}

std::string text(const Texts& texts, const std::string& key) {
  const auto found = texts.find(key);
  return found == texts.end() ? "" : found->second;
}

}  // namespace

std::map<std::string, std::string> digests_of(const ModelConfig& model, const Request& request) {
  Texts digests;
  std::vector<std::string> parts = make_recipe(model)->components();
  parts.insert(parts.end(), {"scheduler", "tokenizer"});
  std::error_code status;
  if (model.random_seed) digests["model"] = fmt::format("{}, random weights of seed {}", model.name, *model.random_seed);
  else
    for (const std::string& part : parts)
      if (const fs::path path = model.part(part); fs::exists(path, status)) digests[part] = digest_of(path);
  for (const auto& [part, files] : model.loras) {
    std::string all;
    for (const fs::path& file : files) all += digest_of(file);
    digests[part + ".loras"] = sha256(all);
  }
  for (const RequestField& field : request_fields()) {
    std::string all;
    for (const std::string& text : get_field(request, field))
      if (field.is_file()) all += digest_of(fs::path(text));
    if (!all.empty()) digests[std::string(field.name)] = sha256(all);
  }
  for (const auto& [name, loras] :
       {std::pair("lora", &request.loras), {"lora_high", &request.loras_high}, {"lora_low", &request.loras_low}}) {
    std::string all;
    for (const LoraChoice& lora : *loras) all += digest_of(fs::path(lora.path));
    if (!all.empty()) digests[name] = sha256(all);
  }
  return digests;
}

SavedRun read_saved_run(const fs::path& path, std::string_view where) {
  const MappedFile file(path);
  file.fetch(0, file.bytes().size());
  const Safetensors stored = parse_safetensors(file.bytes(), where);
  const Texts& texts = stored.metadata;
  constexpr auto kInvalid = ErrorKind::invalid_argument;
  check(text(texts, "format") == kFormat, kInvalid, where,
        "{} holds no saved run: got {} as its format, expected {}. Give a file of --save-state.", path.string(),
        in_quotes(text(texts, "format")), in_quotes(kFormat));
  check(text(texts, "version") == kVersion, ErrorKind::unsupported, where,
        "{} is of another version: got {} (of {}), expected {}. Go on with the version that began it.", path.string(),
        in_quotes(text(texts, "version")), text(texts, "software"), kVersion);
  SavedRun run;
  for (std::size_t i = 0; i < stored.tensors.size(); ++i) {
    const std::string name = i == 0 ? "latents" : fmt::format("kept.{}", i - 1);
    const auto found =
        std::find_if(stored.tensors.begin(), stored.tensors.end(), [&](const TensorEntry& each) { return each.name == name; });
    check(found != stored.tensors.end() && found->dtype() == "F32", kInvalid, where,
          "{} is damaged: no tensor {} in f32. Check the file.", path.string(), name);
    std::vector<float>& values = i == 0 ? run.state.latents : run.state.kept.emplace_back();
    values.resize(found->bytes.size() / sizeof(float));
    std::memcpy(values.data(), found->bytes.data(), found->bytes.size());
  }
  Texts rest = texts;
  rest.erase("sha256");
  check(digest_of(rest, run.state) == text(texts, "sha256"), kInvalid, where,
        "{} is damaged: its SHA-256 differs. Take a copy, or begin anew.", path.string());
  run.request = request_from_json(text(texts, "request"), where);
  run.device = text(texts, "device");
  run.batch = number(texts, "batch", where);
  run.state.video = static_cast<std::size_t>(number(texts, "video", where));
  run.state.next_step = static_cast<int>(number(texts, "next_step", where));
  for (const auto& [key, value] : texts) {
    if (key.starts_with(kInput)) run.inputs[key.substr(kInput.size())] = value;
    if (key.starts_with(kSetting)) run.settings[key.substr(kSetting.size())] = value;
  }
  if (const std::string now = fmt::format("Zoetrope {}", version()); text(texts, "software") != now)
    log(LogLevel::notice, fmt::format("{} was begun by {}, this is {}: the rest may differ in its bits", path.string(),
                                      text(texts, "software"), now));
  return run;
}

void check_same_inputs(const SavedRun& saved, const ModelConfig& model, std::string_view where) {
  const Texts now = digests_of(model, saved.request);
  for (const Texts* const one : {&saved.inputs, &now})
    for (const auto& [name, digest] : *one)
      check(text(now, name) == text(saved.inputs, name), ErrorKind::invalid_argument, where,
            "{} of {} is not what the run began with. Give the same files, or begin anew.", name, model.name);
}

StateSaver::StateSaver(fs::path path, int every, SavedRun run) : path_(std::move(path)), every_(every), run_(std::move(run)) {
  make_absolute(run_.request);
  for (const auto& [key, value] : texts_of(run_))
    check(is_utf8(value), ErrorKind::invalid_argument, "--save-state",
          "{} is no UTF-8, which a saved run is written in. Rename the file.", key);
  // What is not UTF-8 in a request has become U+FFFD in its text.
  check(request_from_json(to_json(run_.request), "--save-state") == run_.request, ErrorKind::invalid_argument, "--save-state",
        "a prompt or a path of the request is no UTF-8, which a saved run is written in. Write it so.");
  const PendingOutput probe(path_, PendingOutput::Kind::file, "--save-state");
}

void StateSaver::step(const StepDone& done) {
  if ((done.step + 1) % every_ != 0 && done.step + 1 != done.total) return;
  const auto start = std::chrono::steady_clock::now();
  run_.state = done.state();
  // A run that has gone wrong ends with an error of its own: what was saved before it is worth more.
  const std::vector<float>& latents = run_.state.latents;
  if (!std::all_of(latents.begin(), latents.end(), [](float value) { return std::isfinite(value); })) return;
  try {
    write_saved_run(path_, run_);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::io) throw;
    if (!std::exchange(failed_, true)) log(LogLevel::notice, fmt::format("the run goes on unsaved: {}", error.what()));
  }
  seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void StateSaver::done() {
  std::error_code status;
  fs::remove(path_, status);
}

}  // namespace zoe
