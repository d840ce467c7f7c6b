// `zoe resume`: goes on with what `zoe generate --save-state` kept of a run that did not end.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>

#include "apps/cli/generate.h"
#include "base/error.h"

namespace zoe::cli {

namespace {

int resume(const std::string& file, const std::vector<std::string>& said) {
  for (const std::string& each : said)
    check(!each.starts_with("--save-state="), ErrorKind::invalid_argument, "--save-state",
          "resume goes on writing {}: expected no other. Leave --save-state out.", file);
  GenerateOptions options;
  SavedRun saved = read_saved_run(file, "resume");
  // What the run was told, then what it is told now, by the same parser.
  CLI::App again;
  again.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  add_run_options(again, options);
  std::vector<std::string> arguments;
  try {
    arguments = nlohmann::json::parse(saved.settings["arguments"]).get<std::vector<std::string>>();
    arguments.insert(arguments.end(), said.begin(), said.end());
    arguments.push_back("--save-state=" + file);
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes them
    again.parse(arguments);
  } catch (const nlohmann::json::exception&) {
    fail(ErrorKind::invalid_argument, "resume", "{} says not how it was run. Begin anew.", file);
  } catch (const CLI::ParseError& error) {
    fail(ErrorKind::invalid_argument, "resume", "{} was run with options that are unknown here: {}. Begin anew.", file,
         error.what());
  }
  options.arguments = said_arguments(again);
  options.numbered = saved.settings["numbered"] == "true";
  options.request = saved.request;
  options.saved = std::move(saved);
  return generate(options);
}

}  // namespace

Command add_resume(CLI::App& app) {
  auto file = std::make_shared<std::string>();
  auto unused = std::make_shared<GenerateOptions>();  // read again behind what the file says
  app.add_option("FILE", *file, "What --save-state of the run wrote")->required()->type_name("FILE");
  add_run_options(app, *unused);
  return [file, unused, &app] { return resume(*file, said_arguments(app)); };
}

}  // namespace zoe::cli
