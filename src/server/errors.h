// Errors as answers: the engine's one line, in the form that OpenAI's clients read.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"
#include "server/http.h"

namespace zoe::server {

// {"error": {"message", "type", "code", "param"}}; `param` is what stands in the message's brackets where it is a field.
HttpResponse error_response(int status, std::string_view code, std::string_view message);
HttpResponse error_response(const Error& error);

// Where the server itself says no.
class Refusal : public std::runtime_error {
 public:
  Refusal(int status, std::string code, const std::string& message)
      : std::runtime_error(message), status_(status), code_(std::move(code)) {}
  int status() const { return status_; }
  const std::string& code() const { return code_; }

 private:
  int status_;
  std::string code_;
};

std::string_view code_of(ErrorKind kind);         // "invalid_argument"
int status_of(std::string_view code);             // 400
std::string_view type_of(std::string_view code);  // "invalid_request_error" or "server_error"
std::string param_of(std::string_view message);   // "num_frames" of "[num_frames] got ..."; "" if that is no field

}  // namespace zoe::server
