// What is made from the parser: help, completion for shells, and the man page.
#include <CLI/CLI.hpp>
#include <algorithm>

#include "apps/cli/commands.h"
#include "base/error.h"

namespace zoe::cli {

namespace {

// Letters, then the first of the long names; the others, other programs' names, are in the docs.
std::vector<std::string> shown_names(const CLI::Option& option) {
  std::vector<std::string> names;
  for (const std::string& letter : option.get_snames()) names.push_back("-" + letter);
  if (!option.get_lnames().empty()) names.push_back("--" + option.get_lnames().front());
  return names;
}

class Formatter : public CLI::Formatter {
 public:
  std::string make_option_name(const CLI::Option* option, bool is_positional) const override {
    return is_positional ? option->get_name(true, false) : fmt::format("{}", fmt::join(shown_names(*option), ","));
  }
};

std::vector<const CLI::Option*> named_options(const CLI::App& app) {
  std::vector<const CLI::Option*> options;
  for (const CLI::Option* option : app.get_options())
    if (!option->get_positional() && !option->get_group().empty()) options.push_back(option);
  return options;
}

std::vector<const CLI::App*> commands_of(const CLI::App& app) {
  std::vector<const CLI::App*> commands;
  for (const CLI::App* command : app.get_subcommands({}))
    if (!command->get_group().empty()) commands.push_back(command);
  return commands;
}

bool takes_value(const CLI::Option& option) { return option.get_items_expected_max() > 0; }

// Words that a value can be, from a type name such as "auto|on|off".
std::vector<std::string> value_words(const CLI::Option& option) {
  std::vector<std::string> words;
  const std::string type = option.get_type_name();
  if (type.find('|') == std::string::npos) return words;
  for (std::size_t begin = 0; begin <= type.size();) {
    const std::size_t end = std::min(type.find('|', begin), type.size());
    words.push_back(type.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

bool is_path(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  return type == "FILE" || type == "PATH" || type == "FOLDER" || type == "VIDEO";
}

std::string joined_names(const CLI::App& app) {
  std::string text;
  for (const CLI::Option* option : named_options(app))
    text += fmt::format("{}{}", text.empty() ? "" : " ", fmt::join(shown_names(*option), " "));
  return text;
}

std::string bash(const CLI::App& app) {
  std::string commands, cases;
  for (const CLI::App* command : commands_of(app)) {
    commands += (commands.empty() ? "" : " ") + command->get_name();
    if (command->get_name() == "completion") continue;  // takes words, below
    std::string values;
    for (const CLI::Option* option : named_options(*command)) {
      if (!takes_value(*option)) continue;
      const std::string names = fmt::format("{}", fmt::join(shown_names(*option), "|"));
      if (const auto words = value_words(*option); !words.empty())
        values +=
            fmt::format("        {}) COMPREPLY=($(compgen -W \"{}\" -- \"$cur\")); return ;;\n", names, fmt::join(words, " "));
      else if (is_path(*option)) values += fmt::format("        {}) _filedir; return ;;\n", names);
      else values += fmt::format("        {}) return ;;\n", names);
    }
    cases += fmt::format("    {})\n      case $prev in\n{}      esac\n      options=\"{}\" ;;\n", command->get_name(), values,
                         joined_names(*command));
  }
  return fmt::format(
      "# bash completion for zoe, made by `zoe completion bash`\n"
      "declare -F _filedir >/dev/null || _filedir() {{ compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- \"$cur\")); "
      "}}\n"
      "_zoe() {{\n"
      "  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} options=\n"
      "  COMPREPLY=()\n"
      "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
      "    COMPREPLY=($(compgen -W \"{} {}\" -- \"$cur\"))\n"
      "    return\n"
      "  fi\n"
      "  case ${{COMP_WORDS[1]}} in\n{}    completion) options=\"bash zsh fish\" ;;\n  esac\n"
      "  case $cur in\n"
      "    -*) COMPREPLY=($(compgen -W \"$options\" -- \"$cur\")) ;;\n"
      "    *) if [ \"${{COMP_WORDS[1]}}\" = completion ]; then COMPREPLY=($(compgen -W \"$options\" -- \"$cur\")); else _filedir; "
      "fi ;;\n"
      "  esac\n"
      "}}\n"
      "complete -F _zoe zoe\n",
      commands, joined_names(app), cases);
}

// Text within single quotes of a shell.
std::string in_shell_quotes(std::string_view text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::string replaced(std::string text, std::string_view what, std::string_view with) {
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + with.size()))
    text.replace(at, what.size(), with);
  return text;
}

std::string zsh(const CLI::App& app) {
  const auto arguments = [](const CLI::App& of) {
    std::string text;
    for (const CLI::Option* option : named_options(of)) {
      std::string about = option->get_description();
      for (const char* c : {"[", "]", ":"}) about = replaced(about, c, std::string("\\") + c);
      std::string value;
      if (takes_value(*option)) {
        const auto words = value_words(*option);
        value = fmt::format(":{}:{}", replaced(option->get_type_name(), ":", "\\:"),
                            !words.empty()     ? fmt::format("({})", fmt::join(words, " "))
                            : is_path(*option) ? "_files"
                                               : "");
      }
      for (const std::string& name : shown_names(*option))
        text += fmt::format(" \\\n        {}", in_shell_quotes(fmt::format("{}[{}]{}", name, about, value)));
    }
    return text;
  };
  std::string commands, cases;
  for (const CLI::App* command : commands_of(app)) {
    commands += fmt::format(
        "    {}\n", in_shell_quotes(fmt::format("{}:{}", command->get_name(), replaced(command->get_description(), ":", "\\:"))));
    cases += fmt::format("    {})\n      _arguments{} \\\n        {} ;;\n", command->get_name(), arguments(*command),
                         command->get_name() == "completion" ? "'1:shell:(bash zsh fish)'" : "'*:file:_files'");
  }
  return fmt::format(
      "#compdef zoe\n# zsh completion for zoe, made by `zoe completion zsh`\n"
      "_zoe() {{\n  local -a commands=(\n{}  )\n"
      "  if (( CURRENT == 2 )); then\n    _describe command commands\n    _arguments{}\n    return\n  fi\n"
      "  local command=$words[2]\n  shift words\n  (( CURRENT-- ))\n  case $command in\n{}  esac\n}}\n"
      "if [ \"$funcstack[1]\" = _zoe ]; then _zoe \"$@\"; else compdef _zoe zoe; fi\n",
      commands, arguments(app), cases);
}

std::string fish(const CLI::App& app) {
  std::string text = "# fish completion for zoe, made by `zoe completion fish`\n";
  const auto options = [&](const CLI::App& of, const std::string& when) {
    for (const CLI::Option* option : named_options(of)) {
      std::string line = fmt::format("complete -c zoe -n {}", in_shell_quotes(when));
      for (const std::string& name : option->get_snames()) line += " -s " + name;
      if (!option->get_lnames().empty()) line += " -l " + option->get_lnames().front();
      if (takes_value(*option)) {
        const auto words = value_words(*option);
        if (!words.empty()) line += fmt::format(" -x -a {}", in_shell_quotes(fmt::format("{}", fmt::join(words, " "))));
        else line += is_path(*option) ? " -r -F" : " -x";
      }
      text += fmt::format("{} -d {}\n", line, in_shell_quotes(option->get_description()));
    }
  };
  options(app, "__fish_use_subcommand");
  for (const CLI::App* command : commands_of(app)) {
    text += fmt::format("complete -c zoe -f -n __fish_use_subcommand -a {} -d {}\n", command->get_name(),
                        in_shell_quotes(command->get_description()));
    options(*command, "__fish_seen_subcommand_from " + command->get_name());
  }
  return text + "complete -c zoe -f -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'\n";
}

// Text of a man page: a backslash and a dash mean something, and so does a dot at the beginning of a line.
std::string roff(std::string text) {
  text = replaced(std::move(text), "\\", "\\e");
  text = replaced(std::move(text), "-", "\\-");
  return text.starts_with('.') || text.starts_with('\'') ? "\\&" + text : text;
}

std::string in_capitals(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; });
  return text;
}

std::string man(const CLI::App& app) {
  const auto options = [](const CLI::App& of) {
    std::string text;
    for (const CLI::Option* option : of.get_options()) {
      if (option->get_group().empty()) continue;
      const bool positional = option->get_positional();
      std::string names = positional ? roff(option->get_name(true, false)) : "";
      for (const std::string& name : positional ? std::vector<std::string>{} : shown_names(*option))
        names += fmt::format("{}\\fB{}\\fR", names.empty() ? "" : ", ", roff(name));
      const std::string type = positional || !takes_value(*option) ? "" : fmt::format(" \\fI{}\\fR", roff(option->get_type_name()));
      text += fmt::format(".TP\n{}{}\n{}\n", names, type, roff(option->get_description()));
    }
    return text;
  };
  std::string text = fmt::format(
      ".TH ZOE 1 \"\" \"Zoetrope {}\" \"User Commands\"\n.SH NAME\nzoe \\- {}\n.SH SYNOPSIS\n.B zoe\n.I "
      "COMMAND\n[\\fIOPTION\\fR...]\n"
      ".SH OPTIONS\n{}",
      kVersion, roff(app.get_description()), options(app));
  for (const CLI::App* command : commands_of(app))
    text += fmt::format(".SH ZOE {}\n{}\n{}", roff(in_capitals(command->get_name())), roff(command->get_description()) + ".",
                        options(*command));
  return text + fmt::format(".SH EXIT STATUS\n{}\n", roff(app.get_footer()));
}

// docs/requests.md.
std::string request_docs() {
  std::string text =
      "# What a request says\n\n"
      "The fields of a request, as `src/pipeline/request.cpp` lists them. The command spells a field `--num-frames`, files' "
      "metadata and JSON\n"
      "spell it `num_frames`; the command takes `--num_frames`, too. Where a default is the model's, it is what its "
      "`zoetrope.json` says, or\n"
      "what Wan's own code takes. This page is made by `zoe request-fields`; a test holds it to that.\n\n"
      "| field | takes | default | what it is | other names that work | taken by |\n|---|---|---|---|---|---|\n";
  const auto names = [](const std::vector<std::string_view>& list) {
    return list.empty() ? std::string("-") : fmt::format("`{}`", fmt::join(list, "`, `"));
  };
  for (const RequestField& field : request_fields()) {
    std::string takes(field.type());
    if (const std::string range = field.range(); !range.empty())
      takes = field.choices().empty() ? fmt::format("{}, {}", takes, range) : range;
    if (!field.unit.empty()) takes += fmt::format(" ({})", field.unit);
    text += fmt::format("| `{}`{} | {} | {} | {} | {} | {} |\n", field.name,
                        field.letter.empty() ? "" : fmt::format(", `-{}`", field.letter), takes,
                        field.fallback.empty() ? "none: must be said" : field.fallback, field.help, names(field.aliases),
                        member_names(field.taken_by));
  }
  return text +
         "\nSeveral prompts (`-p A -p B`, a list in JSON, or `--prompt-file`) and several seeds (`--seed 1,2,3`) make a video of "
         "each prompt with\n"
         "each seed: `out-0001.mp4` is the first prompt with the first seed, `out-0002.mp4` the first prompt with the second "
         "seed.\n\n"
         "`sigmas` are levels before the shift, as Diffusers' `sigmas=`: `--scheduler euler --flow-shift 5 --sigmas "
         "1,0.75,0.5,0.25` steps from\n"
         "1 to 0.9375, 0.8333, 0.625 and 0, as the recipes for four steps mean it; `--num-inference-steps 4` takes Diffusers' own "
         "levels, others.\n\n"
         "Names of other programs with another meaning are refused, and the error names the field to take:\n\n" +
         [&] {
           std::string list;
           for (const RequestField& field : request_fields())
             if (!field.hints.empty()) list += fmt::format("- {}: see `{}`\n", names(field.hints), field.name);
           return list;
         }();
}

}  // namespace

std::shared_ptr<CLI::FormatterBase> help_formatter() { return std::make_shared<Formatter>(); }

Command add_completion(CLI::App& app) {
  auto shell = std::make_shared<std::string>();
  app.add_option("SHELL", *shell, "bash, zsh or fish")->required();
  const CLI::App* const root = app.get_parent();
  return [shell, root] {
    check(*shell == "bash" || *shell == "zsh" || *shell == "fish", ErrorKind::invalid_argument, "SHELL",
          "got \"{}\", expected bash, zsh or fish.", *shell);
    fmt::print("{}", *shell == "bash" ? bash(*root) : *shell == "zsh" ? zsh(*root) : fish(*root));
    return 0;
  };
}

Command add_man(CLI::App& app) {
  const CLI::App* const root = app.get_parent();
  return [root] {
    fmt::print("{}", man(*root));
    return 0;
  };
}

Command add_request_fields(CLI::App&) {
  return [] {
    fmt::print("{}", request_docs());
    return 0;
  };
}

}  // namespace zoe::cli
