// `zoe serve`, of a build with the server or without.
#pragma once

#include "apps/cli/commands.h"

namespace zoe::cli {

Command add_serve(CLI::App& app);

}  // namespace zoe::cli
