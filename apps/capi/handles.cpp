#include "apps/capi/handles.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "base/json.h"
#include "base/nearest.h"
#include "pipeline/statement.h"

namespace zoe::capi {

namespace {

thread_local std::string last_error;

zoe_status status_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::invalid_argument: return ZOE_INVALID_ARGUMENT;
    case ErrorKind::unsupported: return ZOE_UNSUPPORTED;
    case ErrorKind::out_of_memory: return ZOE_OUT_OF_MEMORY;
    case ErrorKind::io: return ZOE_IO;
    case ErrorKind::compile: return ZOE_COMPILE;
    case ErrorKind::device: return ZOE_DEVICE;
    case ErrorKind::cancelled: return ZOE_CANCELLED;
    case ErrorKind::internal: break;
  }
  return ZOE_INTERNAL;
}

zoe_status keep(zoe_status status, const char* text) noexcept {
  try {
    last_error = text;
  } catch (...) {
    last_error.clear();
  }
  return status;
}

}  // namespace

zoe_status failed() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    return keep(status_of(error.kind()), error.what());
  } catch (const std::bad_alloc&) {
    return keep(ZOE_OUT_OF_MEMORY, "[memory] out of memory. Lower width, height or num_frames.");
  } catch (const std::exception& error) {
    return keep(ZOE_INTERNAL, error.what());
  } catch (...) {
    return keep(ZOE_INTERNAL, "[internal] an unknown exception");
  }
}

char* copy_text(std::string_view text) {
  auto* const copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (!copy) throw std::bad_alloc();
  std::memcpy(copy, text.data(), text.size());
  copy[text.size()] = '\0';
  return copy;
}

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }
char* copy_text(const Json& json) { return copy_text(std::string_view(dump(json))); }

Json parse_object(const char* text, std::string_view where) {
  if (!text || *text == '\0') return Json::object();
  parse_json_object(text, where);  // its errors have line and column
  return Json::parse(text);
}

DType parse_dtype(std::string_view text, std::string_view where) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::i32, DType::u8})
    if (text == name(dtype)) return dtype;
  fail(ErrorKind::invalid_argument, where, "unknown dtype: got {}, expected f32, bf16, i32 or u8.", in_quotes(text));
}

Shape parse_shape(const Json& json, std::string_view where) {
  check(json.is_array() && json.size() <= 8, ErrorKind::invalid_argument, where,
        "bad shape: got {}, expected a list of at most 8 extents.", dump(json));
  std::vector<std::int64_t> extents;
  double count = 1;
  for (const Json& extent : json) {
    check(extent.is_number_integer() && extent.get<std::int64_t>() > 0, ErrorKind::invalid_argument, where,
          "bad shape: got {}, expected whole numbers above 0.", dump(json));
    extents.push_back(extent.get<std::int64_t>());
    count *= static_cast<double>(extents.back());
  }
  check(count < 1e15, ErrorKind::invalid_argument, where, "bad shape: got {}, expected fewer than 1e15 elements.", dump(json));
  return Shape(std::move(extents));
}

Json shape_json(const Shape& shape) { return Json(shape.dims()); }

void refuse_option(std::string_view name, const std::vector<std::string>& known, std::string_view where) {
  const std::string near = nearest(name, known);
  fail(ErrorKind::invalid_argument, where, "unknown option: got {}, expected one of {}.{}", in_quotes(name), fmt::join(known, ", "),
       near.empty() ? "" : fmt::format(" Did you mean {}?", near));
}

void check_option_type(std::string_view name, std::string_view type, const Json& value) {
  const bool is_right = type == "text"            ? value.is_string()
                        : type == "true or false" ? value.is_boolean()
                        : type == "texts"         ? value.is_array() && std::all_of(value.begin(), value.end(),
                                                                                    [](const Json& each) { return each.is_string(); })
                                                  : value.is_number_integer() && value.get<double>() >= 0;
  check(is_right, ErrorKind::invalid_argument, name, "got {}, expected {} {}.", dump(value), type == "texts" ? "a list of" : "a",
        type);
}

std::vector<Option<PlatformChoice>> platform_option_table() {
  return {
      {"platform", "text", "Where it runs: auto, cpu, cuda, cuda:1, opencl, ...",
       [](PlatformChoice& choice, const Json& value) { choice.platform = value; }},
      {"threads", "whole number", "Of the cpu; 0 takes as many as the process may use",
       [](PlatformChoice& choice, const Json& value) {
         check(value.get<double>() <= 1024, ErrorKind::invalid_argument, "threads", "got {}, expected 0 to 1024.", dump(value));
         choice.options.threads = value;
       }},
      {"cache_dir", "text", "Of compiled kernels; the user's cache folder where it is not said",
       [](PlatformChoice& choice, const Json& value) { choice.options.cache_dir = value.get<std::string>(); }},
      {"cuda_path", "text", "Where the libraries of cuda, musa or rocm are, before the usual places",
       [](PlatformChoice& choice, const Json& value) { choice.options.cuda_path = value.get<std::string>(); }},
      {"memory_limit_bytes", "bytes", "The most memory to take of the device; all that is free where it is not said",
       [](PlatformChoice& choice, const Json& value) { choice.options.memory_limit_bytes = value; }},
  };
}

Json device_json(const Platform& platform) {
  const DeviceInfo& info = platform.info();
  return {{"platform", info.platform},          {"device", info.name},
          {"features", info.features},          {"host_addressable", info.host_addressable},
          {"exact_bits", info.exact_bits},      {"generates_kernels", info.generates_kernels},
          {"free_bytes", platform.free_bytes()}};
}

}  // namespace zoe::capi

using namespace zoe::capi;

const char* zoe_error_text() { return last_error.c_str(); }

const char* zoe_status_name(zoe_status status) {
  switch (status) {
    case ZOE_OK: return "ok";
    case ZOE_INVALID_ARGUMENT: return "invalid_argument";
    case ZOE_UNSUPPORTED: return "unsupported";
    case ZOE_OUT_OF_MEMORY: return "out_of_memory";
    case ZOE_IO: return "io";
    case ZOE_COMPILE: return "compile";
    case ZOE_DEVICE: return "device";
    case ZOE_CANCELLED: return "cancelled";
    case ZOE_INTERNAL: break;
  }
  return "internal";
}

const char* zoe_version() {
  static const std::string text(zoe::version());
  return text.c_str();
}

void zoe_free(void* text) { std::free(text); }

zoe_status zoe_platforms(char** json) {
  return guarded([&] {
    Json all = Json::array();
    for (const zoe::PlatformReport& report : zoe::list_platforms())
      all.push_back({{"name", report.name}, {"opens", report.opens}, {"detail", report.detail}});
    given(json, "json") = copy_text(all);
  });
}
