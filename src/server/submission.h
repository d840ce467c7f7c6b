// The body of a POST as a request: fields of the table by their names, and what HTTP has beside them. No field opens a file or an
// address: files are those that came with the body.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/request.h"
#include "server/folders.h"
#include "server/http.h"
#include "server/models.h"

namespace zoe::server {

struct Upload {
  std::string name;  // that the request has for it
  std::shared_ptr<TemporaryFile> file;
};

struct Submission {
  std::string model;    // "": the default
  std::string seconds;  // as it was said; "": it was not
  Request request;      // files by the names of uploads, LoRAs by their names
  std::vector<Upload> uploads;
  std::string digest;  // of the body: equal if a client sent the same

  // Where the files are while the job is not kept yet.
  Request with_uploads(const Models& models) const;
  // Moves them into a job's folder, and has them on the disk.
  void place(const std::filesystem::path& folder);
};

// invalid_argument (an Error with the command's line) or a Refusal. `before`: what the body's fields come on top of.
Submission read_submission(const HttpRequest& http, const Models& models, const Folders& folders,
                           const std::optional<Submission>& before = {});

// The bytes of base64 text; nothing if it is none. White space is none.
std::optional<std::string> decode_base64(std::string_view text);

}  // namespace zoe::server
