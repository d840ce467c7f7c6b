// The cases of tests/fixtures that are whole requests: a command line, and the frames Diffusers made of the same.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace zoe::testing {

// `zoe generate` with the settings of a case, into `output`; `more` are further arguments.
inline std::vector<std::string> generate_command(const nlohmann::json& c, const std::string& output,
                                                 std::vector<std::string> more) {
  std::vector<std::string> command{ZOE_COMMAND, "generate", "-o", output};
  const auto add = [&](const char* flag, const char* key) {
    const nlohmann::json& value = c.at(key);
    command.insert(command.end(), {flag, value.is_string() ? value.get<std::string>() : value.dump()});
  };
  add("--prompt", "prompt");
  add("--negative-prompt", "negative_prompt");
  add("--height", "height");
  add("--width", "width");
  add("--num-frames", "num_frames");
  add("--num-inference-steps", "num_inference_steps");
  add("--guidance-scale", "guidance_scale");
  add("--flow-shift", "flow_shift");
  add("--scheduler", "scheduler");
  add("--seed", "seed");
  command.insert(command.end(), more.begin(), more.end());
  return command;
}

}  // namespace zoe::testing
