// What the files of the C interface share: failures as statuses, texts that the caller frees, and what is behind the handles.
#pragma once

#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "apps/capi/zoetrope_c.h"
#include "base/error.h"
#include "compiler/compile.h"
#include "ir/graph.h"
#include "platform/platform.h"
#include "platform/tensor.h"

namespace zoe::capi {

using Json = nlohmann::ordered_json;

zoe_status failed() noexcept;  // keeps the text of the exception that is being handled, and says its kind

// Runs `body`; what it throws becomes a status. No exception leaves the library.
template <class Body>
zoe_status guarded(Body&& body) noexcept {
  try {
    body();
    return ZOE_OK;
  } catch (...) {
    return failed();
  }
}

// A caller's handle or pointer that is null where it may not be.
template <class T>
T& given(T* pointer, std::string_view what) {
  check(pointer != nullptr, ErrorKind::invalid_argument, what, "got a null pointer, expected {}.", what);
  return *pointer;
}

char* copy_text(std::string_view text);  // for zoe_free
char* copy_text(const Json& json);
std::string dump(const Json& json);
// One JSON object; null or "" is an empty one. Errors name `where`, line and column.
Json parse_object(const char* text, std::string_view where);

DType parse_dtype(std::string_view text, std::string_view where);
Shape parse_shape(const Json& json, std::string_view where);
Json shape_json(const Shape& shape);

// Options of a table {name, type, help, set}: unknown names and values of another type are errors that name the option.
template <class Target>
struct Option {
  std::string_view name, type, help;  // type: "text", "whole number", "bytes", "true or false", "texts"
  void (*set)(Target& target, const Json& value);
};
[[noreturn]] void refuse_option(std::string_view name, const std::vector<std::string>& known, std::string_view where);
void check_option_type(std::string_view name, std::string_view type, const Json& value);

template <class Target, class Table>
void set_options(Target& target, const Table& table, const Json& object, std::string_view where) {
  for (const auto& [key, value] : object.items()) {
    const Option<Target>* found = nullptr;
    for (const Option<Target>& option : table)
      if (option.name == key) found = &option;
    if (!found) {
      std::vector<std::string> known;
      for (const Option<Target>& option : table) known.emplace_back(option.name);
      refuse_option(key, known, where);
    }
    if (value.is_null()) continue;
    check_option_type(key, found->type, value);
    found->set(target, value);
  }
}

// What opens a platform: options of sessions and of platforms alike.
struct PlatformChoice {
  std::string platform = "auto";
  PlatformOptions options;
};
std::vector<Option<PlatformChoice>> platform_option_table();
Json device_json(const Platform& platform);

}  // namespace zoe::capi

struct zoe_value {
  zoe::Value value;
};

struct zoe_graph {
  zoe::Graph graph;
};

struct zoe_platform {
  std::shared_ptr<zoe::Platform> platform;
};

struct zoe_tensor {
  std::shared_ptr<zoe::Platform> platform;
  zoe::Tensor tensor;
};
