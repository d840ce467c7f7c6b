#include "server/errors.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "pipeline/request.h"

namespace zoe::server {

std::string_view code_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::invalid_argument: return "invalid_argument";
    case ErrorKind::unsupported: return "unsupported";
    case ErrorKind::out_of_memory: return "out_of_memory";
    case ErrorKind::io: return "io";
    case ErrorKind::compile: return "compile";
    case ErrorKind::device: return "device";
    case ErrorKind::cancelled: return "cancelled";
    case ErrorKind::internal: break;
  }
  return "internal";
}

int status_of(std::string_view code) {
  if (code == "invalid_argument") return 400;
  if (code == "unsupported" || code == "out_of_memory") return 422;
  if (code == "cancelled") return 409;
  return 500;
}

std::string_view type_of(std::string_view code) {
  const int status = status_of(code);
  return status == 500 ? "server_error" : "invalid_request_error";
}

std::string param_of(std::string_view message) {
  const std::size_t end = message.find(']');
  if (!message.starts_with('[') || end == message.npos) return {};
  const std::string name(message.substr(1, end - 1));
  constexpr std::string_view kOwn[] = {"model", "seconds", "input_reference", "extra_body", "limit",          "order",
                                       "after", "status",  "variant",         "Range",      "Idempotency-Key"};
  const bool is_known = find_field(name) || std::find(std::begin(kOwn), std::end(kOwn), name) != std::end(kOwn);
  return is_known ? name : std::string();
}

HttpResponse error_response(int status, std::string_view code, std::string_view message) {
  const std::string param = param_of(message);
  nlohmann::ordered_json error{{"message", message},
                               {"type", status >= 500 ? "server_error" : "invalid_request_error"},
                               {"code", code},
                               {"param", param.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(param)}};
  HttpResponse response{.status = status, .headers = {{"Content-Type", "application/json"}}};
  response.body =
      nlohmann::ordered_json{{"error", std::move(error)}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (status == 429 || status == 503) response.headers.emplace_back("Retry-After", "2");
  return response;
}

HttpResponse error_response(const Error& error) {
  const std::string_view code = code_of(error.kind());
  return error_response(status_of(code), code, error.what());
}

}  // namespace zoe::server
