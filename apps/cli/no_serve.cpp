// `zoe serve` of a program without the HTTP library.
#include <CLI/CLI.hpp>

#include "apps/cli/commands.h"
#include "base/error.h"

namespace zoe::cli {

Command add_serve(CLI::App& app) {
  app.allow_extras();
  return []() -> int {
    fail(ErrorKind::unsupported, "serve", "this program was built without its server, as everything portable is. Build it with `./dev build`.");
  };
}

}  // namespace zoe::cli
