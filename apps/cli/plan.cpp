// `zoe plan`: what a request takes of memory, when, and whether it fits. Plans are compiled; no weight is read.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "apps/cli/commands.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "pipeline/model.h"
#include "pipeline/step_times.h"
#include "pipeline/video_files.h"

namespace zoe::cli {

namespace {

using Json = nlohmann::ordered_json;

struct PlanOptions {
  DeviceOptions device;
  ModelFiles model;
  std::string output = "out.mp4";
  SessionOptions session{.single_request = true, .spelling = Spelling::option};
  Request request;
  std::optional<double> device_tflops, bus_gbps;
  bool json = false;
};

// Where a stage's weights are while it runs.
std::string where(const StageMemory& stage) {
  if (stage.component.empty()) return "-";
  if (!stage.streamed)
    return stage.layouts == 0 ? "all on the device"
                              : fmt::format("all on the device, {} in a second layout", bytes_text(stage.layouts));
  if (stage.coming_blocks == 0) return "all on the device, as one";
  std::string text = fmt::format("{} of {} blocks come and go", stage.coming_blocks, stage.blocks);
  if (stage.peer_blocks > 0) text += fmt::format(", {} of them from the other devices", stage.peer_blocks);
  if (stage.peer_blocks == stage.coming_blocks) return text;
  if (stage.host > 0) text += fmt::format(", {} packed in this process", bytes_text(stage.host));
  else text += ", from their files";
  return text;
}

void print_table(const MemoryStatement& memory) {
  fmt::print("{:<22} {:<15} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}  {}\n", "stage", "component", "weights", "on device",
             "of others", "tensors", "workspace", "(alive)", "in all", "where its weights are");
  for (const StageMemory& stage : memory.stages)
    fmt::print("{:<22} {:<15} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}  {}\n", stage.stage,
               stage.component.empty() ? "-" : stage.component, bytes_text(stage.all_weights), bytes_text(stage.weights),
               bytes_text(stage.resident), bytes_text(stage.tensors), bytes_text(stage.workspace + stage.caller),
               bytes_text(stage.alive), bytes_text(memory.always + stage.total()), where(stage));
}

// What of each component is where, stage by stage.
void print_time_line(const MemoryStatement& memory) {
  constexpr std::size_t kWidth = 12;
  std::vector<std::string> components;
  for (const StageMemory& stage : memory.stages)
    if (!stage.component.empty() && std::find(components.begin(), components.end(), stage.component) == components.end())
      components.push_back(stage.component);
  fmt::print("\n{:<16}", "time");
  for (const StageMemory& stage : memory.stages) fmt::print("|{:<{}.{}}", stage.stage, kWidth, kWidth);
  fmt::print("|\n");
  bool any_blocks = false, any_packed = false;
  for (const std::string& component : components) {
    fmt::print("{:<16}", component);
    for (const StageMemory& stage : memory.stages) {
      const bool stays = std::find(stage.stay.begin(), stage.stay.end(), component) != stage.stay.end();
      const bool blocks = stage.component == component && stage.coming_blocks > 0, packed = stage.prepares == component;
      any_blocks |= blocks, any_packed |= packed;
      const char mark = blocks ? '=' : stage.component == component || stays ? '#' : packed ? '.' : ' ';
      fmt::print("|{}", std::string(kWidth, mark));
    }
    fmt::print("|\n");
  }
  fmt::print("{:<16}", "in all");
  for (const StageMemory& stage : memory.stages) fmt::print("|{:>{}}", bytes_text(memory.always + stage.total()), kWidth);
  fmt::print("|\n# on the device{}{}\n", any_blocks ? ", = in part: blocks come and go" : "",
             any_packed ? ", . being packed in this process" : "");
}

Json to_json(const MemoryStatement& memory) {
  Json stages = Json::array();
  for (const StageMemory& stage : memory.stages)
    stages.push_back({{"stage", stage.stage},
                      {"phase", name(stage.phase)},
                      {"component", stage.component},
                      {"weights", stage.all_weights},
                      {"weights_in_a_second_layout", stage.layouts},
                      {"weights_on_device", stage.weights},
                      {"weights_of_others", stage.resident},
                      {"others", stage.stay},
                      {"tensors", stage.tensors},
                      {"workspace", stage.workspace},
                      {"alive", stage.alive},
                      {"writer", stage.caller},
                      {"total", memory.always + stage.total()},
                      {"streamed", stage.streamed},
                      {"blocks", stage.blocks},
                      {"coming_blocks", stage.coming_blocks},
                      {"coming_bytes", stage.coming_bytes},
                      {"peer_blocks", stage.peer_blocks},
                      {"peer_bytes", stage.peer_bytes},
                      {"packed_in_process", stage.host},
                      {"packs_meanwhile", stage.prepares}});
  return stages;
}

int plan(PlanOptions& options) {
  Json notes = Json::array();
  const LogScope log_scope([&](LogLevel level, std::string_view text) {
    if (level != LogLevel::notice) return;
    notes.push_back(text);
    if (!options.json) fmt::print("note: {}\n", text);
  });
  if (options.request.prompts.empty()) options.request.prompts = {"a prompt of a few words"};
  const std::shared_ptr<Platform> platform = open(options.device);
  options.session.dtype = chosen_dtype(options.device, *platform);
  Session session(open_model(options.model, "MODEL"), platform, options.session);
  VideoFiles files(session, options.request, {.path = [&](std::size_t) { return std::filesystem::path(options.output); }});
  const Job job = files.plan();
  const Settled& settled = job.settled();
  const MemoryStatement& memory = job.memory();
  const DeviceInfo& device = platform->info();
  const bool fits = job.refusal().empty();
  DeviceRates said;
  if (options.device_tflops) said.operations = *options.device_tflops * 1e12;
  if (options.bus_gbps) said.bus_bytes = *options.bus_gbps * 1e9;
  const std::optional<StepSeconds> step = step_seconds(StepTimes(options.device.cache_dir), session, settled, memory, said);
  if (options.json) {
    const Json json{{"model", session.model().name},
                    {"platform", device.platform},
                    {"device", device.name},
                    {"dtype", name(session.dtype())},
                    {"width", settled.width},
                    {"height", settled.height},
                    {"num_frames", settled.num_frames},
                    {"guidance_batch_size", settled.batch},
                    {"guidance_devices", settled.guidance_devices},
                    {"sequence_devices", settled.sequence_devices},
                    {"token_pieces", settled.token_pieces},
                    {"vae_tiles", settled.vae_tiles},
                    {"step_seconds", step ? Json(step->seconds) : Json()},
                    {"step_seconds_from", !step                                       ? Json()
                                          : step->from == StepSeconds::From::measured ? Json("measured")
                                                                                      : Json("model")},
                    {"fits", fits},
                    {"refusal", job.refusal()},
                    {"offload", name(memory.offload)},
                    {"memory_bytes",
                     {{"planned", memory.peak()},
                      {"free", memory.free},
                      {"always", memory.always},
                      {"planned_host", memory.host_peak()},
                      {"host_limit", memory.host_limit}}},
                    {"stages", to_json(memory)},
                    {"notes", std::move(notes)}};
    fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
    return fits ? 0 : 3;
  }
  fmt::print("{}: {}x{}, {} frame{}, {}{} on {} ({})\n\n", session.model().name, settled.width, settled.height, settled.num_frames,
             settled.num_frames == 1 ? "" : "s", name(session.dtype()), settled.batch == 2 ? ", guidance in a batch of two" : "",
             device.platform, device.name);
  if (settled.token_pieces > 1 || settled.vae_tiles > 1)
    fmt::print("Tokens in {} piece{}, pictures of the VAE in {} tile{}.\n\n", settled.token_pieces,
               settled.token_pieces == 1 ? "" : "s", settled.vae_tiles, settled.vae_tiles == 1 ? "" : "s");
  if (settled.guidance_devices * settled.sequence_devices > 1)
    fmt::print(
        "A step is shared by {} devices: {}{}{}. Each has the weights and takes {} from others in a step; what follows is of the "
        "first, which has most.\n\n",
        settled.guidance_devices * settled.sequence_devices, settled.guidance_devices > 1 ? "prompt and negative prompt apart" : "",
        settled.guidance_devices > 1 && settled.sequence_devices > 1 ? ", " : "",
        settled.sequence_devices > 1 ? fmt::format("a video's tokens in {} shares", settled.sequence_devices) : "",
        bytes_text(settled.exchanged_bytes));
  print_table(memory);
  print_time_line(memory);
  fmt::print("\nOrder: stages as they come; a component's weights are read when its first stage comes{} and go {}.\n",
             memory.host_peak() > 0 ? ", or packed in this process while the transformer before it is at work," : "",
             memory.offload == Offload::experts || memory.offload == Offload::blocks
                 ? "behind each stage that uses them, so that two large ones are never there together"
                 : "behind the last stage that uses them");
  fmt::print("{}\n", memory_line(memory));
  if (step)
    fmt::print("A step takes {:.2f} s, {}.\n", step->seconds,
               step->from == StepSeconds::From::measured ? "as it was measured here"
               : options.device_tflops                   ? "by the rates that were said"
                                                         : "by the arithmetic of other sizes that ran here");
  else fmt::print("How long a step takes is not known: none was measured here. --device-tflops says what the device does.\n");
  if (!fits) fail(ErrorKind::out_of_memory, "memory", "{}", job.refusal());
  fmt::print("It fits{}.\n", memory.offload == Offload::none ? "" : fmt::format(" with --offload {}", name(memory.offload)));
  return 0;
}

}  // namespace

std::string memory_line(const MemoryStatement& memory) {
  std::string stages;
  for (const StageMemory& stage : memory.stages)
    stages += fmt::format("{}{} {}", stages.empty() ? "" : ", ", stage.stage, bytes_text(stage.total()));
  const std::string host = memory.host_peak() > 0 ? fmt::format(", {} in this process", bytes_text(memory.host_peak())) : "";
  return fmt::format("memory: {} planned of {} free ({}), offload {}{}", bytes_text(memory.peak()), bytes_text(memory.free), stages,
                     name(memory.offload), host);
}

Command add_plan(CLI::App& app) {
  auto options = std::make_shared<PlanOptions>();
  app.add_option(
         "MODEL,-m,--model-path", options->model.model_path,
         "As for generate: a folder, a file, random:MEMBER or random:MEMBER:SEED:ENCODING (default: the embedded toy model)")
      ->type_name("PATH");
  add_model_files(app, options->model);
  for (const RequestField& field : request_fields()) add_request_field(app, options->request, field);
  app.add_option("-o,--output", options->output, "Whose writer's memory counts, by suffix")
      ->type_name("PATH")
      ->capture_default_str();
  add_device_options(app, options->device);
  add_memory_options(app, options->session);
  add_compile_options(app, options->session.compile);
  app.add_option("--device-tflops", options->device_tflops,
                 "What the device does in a second, in 10^12 multiplications and additions, where no step was measured")
      ->check(CLI::PositiveNumber);
  app.add_option("--bus-gbps", options->bus_gbps, "What comes to the device in a second, in 10^9 bytes (default: 25)")
      ->check(CLI::PositiveNumber);
  add_json(app, options->json);
  return [options] { return plan(*options); };
}

}  // namespace zoe::cli
