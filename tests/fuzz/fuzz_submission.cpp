// Any bytes as the body of a POST /v1/videos, JSON or parts of a form: a request, or one line that says why not. A byte 0xff
// separates parts of a form, a zero a name from its text.
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/error.h"
#include "pipeline/model.h"
#include "server/errors.h"
#include "server/submission.h"

namespace {

using namespace zoe::server;

const Models& models() {
  static const Models* const all = new Models(
      {{"toy-wan-i2v", zoe::read_model(ZOE_MODELS "/toy-wan-i2v")}, {"toy-wan", zoe::read_model(ZOE_MODELS "/toy-wan")}}, {}, {});
  return *all;
}

const Folders& folders() {
  static const Folders* const made = [] {
    std::string name = (std::filesystem::temp_directory_path() / "zoe-fuzz-submission-XXXXXX").string();
    if (!::mkdtemp(name.data())) std::abort();
    auto* const all = new Folders{name};
    std::filesystem::create_directories(all->uploads());
    return all;
  }();
  return *made;
}

void check_line(std::string_view line) {
  if (line.find('\n') != line.npos) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  HttpRequest http{
      .method = "POST", .path = "/v1/videos", .query = {}, .headers = {}, .body = {}, .is_form = (data[0] & 1) != 0, .parts = {}};
  if (http.is_form) {
    while (!rest.empty()) {
      const std::string_view part = rest.substr(0, rest.find('\xff'));
      rest.remove_prefix(std::min(rest.size(), part.size() + 1));
      const std::size_t zero = std::min(part.find('\0'), part.size());
      http.parts.push_back({std::string(part.substr(0, zero)), std::string(part.substr(std::min(part.size(), zero + 1))), nullptr});
    }
  } else {
    http.body = rest;
  }
  try {
    const Submission submission = read_submission(http, models(), folders());
    if (submission.request.prompts.size() > 1 || submission.request.seeds.size() != 1) std::abort();
    for (const Upload& upload : submission.uploads)
      if (!std::filesystem::exists(upload.file->path())) std::abort();
    static_cast<void>(to_json(submission.request));
  } catch (const zoe::Error& error) {
    if (error.kind() == zoe::ErrorKind::internal) throw;
    check_line(error.what());
  } catch (const Refusal& refusal) {
    check_line(refusal.what());
  }
  return 0;
}
