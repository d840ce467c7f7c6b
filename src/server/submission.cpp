#include "server/submission.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/nearest.h"
#include "base/sha256.h"
#include "server/errors.h"

namespace zoe::server {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

namespace {

constexpr std::size_t kMostValues = 10'000;  // of a JSON body

// What a file is, from its first bytes: its suffix decides how a video is read.
std::string suffix_of(std::string_view bytes) {
  using namespace std::string_view_literals;
  if (bytes.starts_with("\x89PNG"sv)) return ".png";
  if (bytes.starts_with("\xff\xd8\xff"sv)) return ".jpg";
  if (bytes.starts_with("RIFF"sv) && bytes.size() > 11 && bytes.substr(8, 4) == "WEBP"sv) return ".webp";
  return ".bin";
}

std::string first_bytes(const fs::path& path) {
  std::string bytes(16, '\0');
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const ssize_t count = file < 0 ? 0 : ::read(file, bytes.data(), bytes.size());
  if (file >= 0) ::close(file);
  bytes.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
  return bytes;
}

void sync(const fs::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool ok = file >= 0 && ::fsync(file) == 0;
  if (file >= 0) ::close(file);
  check(ok, ErrorKind::io, "uploads", "cannot write {}.", path.string());
}

// A field as it came: texts, or files.
struct Value {
  std::string name;
  Json json;                       // of a JSON body; else null
  std::vector<std::string> texts;  // of a form
  std::vector<std::shared_ptr<TemporaryFile>> files;
  bool is_form() const { return json.is_null() && (!texts.empty() || !files.empty()); }
};

class Reader {
 public:
  Reader(const HttpRequest& http, const Models& models, const Folders& folders, Submission& into)
      : http_(http), models_(models), folders_(folders), into_(into) {}

  void read() {
    const std::vector<Value> values = http_.is_form ? of_form() : of_json();
    // The model says what input_reference stands for, and the rate how many frames a second has: both before the others.
    for (const Value& value : values)
      if (value.name == "model") into_.model = text_of(value);
    model_ = &models_.get(into_.model);
    into_.model = model_->name;
    for (const Value& value : values) set(value);
    if (seconds_said_) set_seconds(values);
    else if (std::any_of(values.begin(), values.end(),
                         [](const Value& each) { return each.name == "num_frames" || each.name == "fps"; }))
      into_.seconds.clear();  // an earlier job's
  }

 private:
  [[noreturn]] static void refuse(std::string_view where, std::string_view got, std::string_view expected) {
    fail(ErrorKind::invalid_argument, where, "got {}, expected {}.", got, expected);
  }

  std::vector<Value> of_json() {
    const std::string_view type = http_.header("content-type");
    if (!type.empty() && !type.starts_with("application/json"))
      throw Refusal(415, "unsupported_media_type",
                    fmt::format("[Content-Type] got {}, expected application/json or multipart/form-data.", in_quotes(type)));
    into_.digest = sha256(http_.path + '\n' + http_.body);
    parse_json_object(http_.body, "body", kMostValues);  // its errors have line and column
    Json object = Json::parse(http_.body);
    std::vector<Value> values;
    const auto add = [&](Json& from) {
      for (auto& [key, value] : from.items()) {
        if (key == "extra_body") continue;
        const std::string name = canonical(key);
        std::erase_if(values, [&](const Value& each) { return each.name == name; });
        if (!value.is_null()) values.push_back({.name = name, .json = std::move(value), .texts = {}, .files = {}});
      }
    };
    add(object);
    if (object.contains("extra_body") && !object["extra_body"].is_null()) {
      check(object["extra_body"].is_object(), ErrorKind::invalid_argument, "extra_body", "got {}, expected an object of fields.",
            in_quotes(object["extra_body"].dump().substr(0, 40)));
      add(object["extra_body"]);
    }
    return values;
  }

  std::vector<Value> of_form() {
    std::string all = http_.path + '\n';
    std::vector<Value> values;
    std::optional<Json> extra;
    for (const FormPart& part : http_.parts) {
      std::string name = part.name, text = part.text;
      // How clients write lists and objects in forms.
      if (name.ends_with("[]")) name.resize(name.size() - 2);
      else if (name.ends_with("[image_url]")) name.resize(name.size() - std::string_view("[image_url]").size());
      all += fmt::format("{}:{}", name, part.file ? sha256(content_of(part.file->path())) : sha256(text));
      if (name == "extra_body") {
        parse_json_object(text, "extra_body", kMostValues);
        extra = Json::parse(text);
        continue;
      }
      name = canonical(name);
      auto found = std::find_if(values.begin(), values.end(), [&](const Value& each) { return each.name == name; });
      if (found == values.end()) {
        values.push_back({.name = name, .json = {}, .texts = {}, .files = {}});
        found = std::prev(values.end());
      }
      if (part.file) found->files.push_back(part.file);
      else found->texts.push_back(std::move(text));
    }
    into_.digest = sha256(all);
    if (extra)
      for (auto& [key, value] : extra->items()) {
        const std::string name = canonical(key);
        std::erase_if(values, [&](const Value& each) { return each.name == name; });
        if (!value.is_null()) values.push_back({.name = name, .json = std::move(value), .texts = {}, .files = {}});
      }
    return values;
  }

  static std::string content_of(const fs::path& path) {
    std::error_code status;
    return fs::file_size(path, status) == 0 || status ? std::string() : read_file(path, "uploads", std::size_t{1} << 32);
  }

  // A field of the table by its own name, whichever name was said.
  static std::string canonical(const std::string& said) {
    const RequestField* const field = find_field(said);
    return field ? std::string(field->name) : said;
  }

  static std::string text_of(const Json& json, std::string_view where) {
    if (json.is_structured()) refuse(where, json.is_array() ? "a list" : "an object", "a text, a number, true or false");
    return json.is_string() ? json.get<std::string>() : json.dump();
  }

  static std::string text_of(const Value& value) {
    if (!value.is_form()) return text_of(value.json, value.name);
    if (!value.files.empty() || value.texts.size() != 1)
      refuse(value.name, value.files.empty() ? fmt::format("{} values", value.texts.size()) : std::string("a file"), "one text");
    return value.texts.front();
  }

  static std::vector<Json> elements(const Value& value) {
    std::vector<Json> all;
    if (value.is_form())
      for (const std::string& text : value.texts)
        all.push_back(text.starts_with('{') && Json::accept(text) ? Json::parse(text) : Json(text));
    else if (value.json.is_array()) all.assign(value.json.begin(), value.json.end());
    else all.push_back(value.json);
    return all;
  }

  void set(const Value& value) {
    if (value.name == "model" || value.name == "user") return;
    if (value.name == "seconds") {
      seconds_said_ = true;
      into_.seconds = text_of(value);
      return;
    }
    std::string name = value.name;
    if (name == "input_reference") {
      name = model_->reference_field();
      check(!name.empty(), ErrorKind::invalid_argument, "input_reference", "{} takes no picture and no video. Leave it out.",
            model_->name);
    }
    const RequestField* const field = find_field(name);
    if (!field) set_field(into_.request, name, std::string_view());  // throws, with the nearest name
    if (field->is_file()) return set_files(*field, value);
    check(value.files.empty(), ErrorKind::invalid_argument, name, "got a file, expected {}.", field->type());
    std::vector<std::string> texts;
    if (std::holds_alternative<std::vector<LoraChoice> Request::*>(field->slot)) {
      for (const Json& each : elements(value)) texts.push_back(lora_text(*field, each));
    } else {
      for (const Json& each : elements(value)) texts.push_back(text_of(each, name));
    }
    check(!texts.empty(), ErrorKind::invalid_argument, name, "got an empty list, expected {}.", field->type());
    set_field(into_.request, name, texts);
    check(into_.request.prompts.size() <= 1, ErrorKind::invalid_argument, "prompt",
          "got {} prompts, expected one: a job is one video. Send a request for each.", into_.request.prompts.size());
    check(into_.request.seeds.size() == 1, ErrorKind::invalid_argument, "seed",
          "got {} seeds, expected one: a job is one video. Send a request for each.", into_.request.seeds.size());
    if (std::holds_alternative<std::vector<LoraChoice> Request::*>(field->slot))
      for (const LoraChoice& each : into_.request.*std::get<std::vector<LoraChoice> Request::*>(field->slot))
        static_cast<void>(models_.lora_path(each.path));  // refused now
  }

  std::string lora_text(const RequestField& field, const Json& json) const {
    if (!json.is_object()) return text_of(json, field.name);
    std::string lora, strength = "1";
    for (const auto& [key, value] : json.items()) {
      if (key == "name" || key == "id") lora = text_of(value, field.name);
      else if (key == "strength" || key == "scale") strength = text_of(value, field.name);
      else refuse(field.name, in_quotes(key), "name and strength");
    }
    if (lora.empty()) refuse(field.name, "an object without a name", R"({"name": ..., "strength": ...})");
    return fmt::format("{}={}", lora, strength);
  }

  void set_files(const RequestField& field, const Value& value) {
    std::vector<std::shared_ptr<TemporaryFile>> files = value.files;
    for (const Json& each : elements(value)) files.push_back(of_data_url(field, each));
    check(field.is_list() || files.size() == 1, ErrorKind::invalid_argument, field.name, "got {} files, expected one.",
          files.size());
    // What it replaces of an earlier job's.
    for (const std::string& before : get_field(into_.request, field))
      std::erase_if(into_.uploads, [&](const Upload& each) { return each.name == before; });
    std::vector<std::string> names;
    for (std::size_t i = 0; i < files.size(); ++i) {
      const std::string suffix = suffix_of(first_bytes(files[i]->path()));
      files[i]->add_suffix(suffix);
      names.push_back(fmt::format("{}-{}{}", field.name, i, suffix));
      into_.uploads.push_back({names.back(), files[i]});
    }
    if (auto* const one = std::get_if<fs::path Request::*>(&field.slot)) into_.request.*(*one) = names.front();
    else into_.request.*std::get<std::vector<fs::path> Request::*>(field.slot) = std::vector<fs::path>(names.begin(), names.end());
  }

  std::shared_ptr<TemporaryFile> of_data_url(const RequestField& field, const Json& json) const {
    constexpr std::string_view kExpected = "a file of a form, or a data URL: data:image/png;base64,... (nothing is fetched)";
    Json said = json;
    if (said.is_object()) {
      if (said.contains("image_url") && said.size() == 1) said = said["image_url"];
      else refuse(field.name, said.contains("file_id") ? "a file_id" : "an object", kExpected);
    }
    if (!said.is_string()) refuse(field.name, "no text", kExpected);
    const auto& text = said.get_ref<const std::string&>();
    const std::size_t comma = text.find(',');
    if (!text.starts_with("data:") || comma == text.npos || !std::string_view(text).substr(0, comma).ends_with(";base64"))
      refuse(field.name, in_quotes(std::string_view(text).substr(0, 60)), kExpected);
    const std::optional<std::string> bytes = decode_base64(std::string_view(text).substr(comma + 1));
    if (!bytes || bytes->empty()) refuse(field.name, "a data URL whose base64 is damaged or empty", "all of it");
    static std::atomic<std::uint64_t> count{0};
    static const std::uint32_t start = std::random_device()();
    auto file = std::make_shared<TemporaryFile>(folders_.uploads() / fmt::format("data-{:08x}-{}", start, count++));
    const int out = ::open(file->path().c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool ok = out >= 0;
    for (std::size_t at = 0; ok && at < bytes->size();) {
      const ssize_t wrote = ::write(out, bytes->data() + at, bytes->size() - at);
      ok = wrote > 0;
      at += ok ? static_cast<std::size_t>(wrote) : 0;
    }
    if (out >= 0) ::close(out);
    check(ok, ErrorKind::io, "uploads", "cannot write {}.", file->path().string());
    return file;
  }

  void set_seconds(const std::vector<Value>& values) {
    for (const Value& value : values)
      check(value.name != "num_frames", ErrorKind::invalid_argument, "seconds",
            "got seconds and num_frames, expected one of them.");
    double seconds = 0;
    const std::string& text = into_.seconds;
    const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), seconds);
    constexpr double kMost = 3600;
    check(status == std::errc() && end == text.data() + text.size() && seconds >= 0 && seconds <= kMost,
          ErrorKind::invalid_argument, "seconds", "got {}, expected a number from 0 to {}.", in_quotes(text), kMost);
    const double fps = into_.request.fps.value_or(model_->config.defaults.fps);
    into_.request.num_frames = static_cast<std::int64_t>(std::llround(seconds * fps)) + 1;
  }

  const HttpRequest& http_;
  const Models& models_;
  const Folders& folders_;
  Submission& into_;
  const ServedModel* model_ = nullptr;
  bool seconds_said_ = false;
};

}  // namespace

std::optional<std::string> decode_base64(std::string_view text) {
  const auto value = [](char c) -> int {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
  };
  if (text.size() % 4 != 0) return {};
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  text.remove_suffix(padding);
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3 + 2);
  std::uint32_t bits = 0;
  int held = 0;
  for (const char c : text) {
    const int six = value(c);
    if (six < 0) return {};
    bits = bits << 6 | static_cast<std::uint32_t>(six);
    if ((held += 6) >= 8) bytes += static_cast<char>(bits >> (held -= 8) & 0xff);
  }
  return bytes;
}

Request Submission::with_uploads(const Models& models) const {
  // Beside one another in the folder of uploads they have names that are taken: each is looked up.
  Request found = request;
  const auto path_of = [&](const fs::path& name) {
    for (const Upload& upload : uploads)
      if (upload.name == name) return upload.file->path();
    fail(ErrorKind::internal, "uploads", "no upload is called {}.", name.string());
  };
  for (fs::path* path : {&found.image, &found.last_image, &found.video, &found.mask})
    if (!path->empty()) *path = path_of(*path);
  for (fs::path& path : found.reference_images) path = path_of(path);
  for (std::vector<LoraChoice>* loras : {&found.loras, &found.loras_high, &found.loras_low})
    for (LoraChoice& each : *loras) each.path = models.lora_path(each.path).string();
  return found;
}

void Submission::place(const fs::path& folder) {
  if (uploads.empty()) return;
  std::error_code status;
  fs::create_directories(folder, status);
  check(!status, ErrorKind::io, "uploads", "cannot make {}: {}.", folder.string(), status.message());
  for (const Upload& upload : uploads) {
    const fs::path to = folder / upload.name;
    sync(upload.file->path());
    fs::create_hard_link(upload.file->path(), to, status);
    if (status) fs::copy_file(upload.file->path(), to, fs::copy_options::overwrite_existing, status);
    check(!status, ErrorKind::io, "uploads", "cannot write {}: {}.", to.string(), status.message());
  }
  sync(folder);
  sync(folder.parent_path());
}

Submission read_submission(const HttpRequest& http, const Models& models, const Folders& folders,
                           const std::optional<Submission>& before) {
  Submission submission;
  if (before) submission = *before;
  Reader(http, models, folders, submission).read();
  return submission;
}

}  // namespace zoe::server
