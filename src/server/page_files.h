// The files of the page, as they were when the program was built (apps/server/page/).
#pragma once

#include <span>
#include <string_view>

namespace zoe::server {

struct PageFile {
  std::string_view path;  // "/", "/page.js"
  std::string_view type;  // "text/html; charset=utf-8"
  std::string_view text;
};
std::span<const PageFile> page_files();

}  // namespace zoe::server
