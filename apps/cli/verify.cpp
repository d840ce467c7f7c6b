#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/cli/commands.h"
#include "base/error.h"
#include "pipeline/verify.h"

namespace zoe::cli {

namespace {

using Json = nlohmann::ordered_json;

struct VerifyOptions {
  DeviceOptions device;
  CompileOptions compile;
  Request request;
  ModelFiles model;
  bool json = false;
};

Json to_json(const VerifyReport& report) {
  Json chains = Json::array();
  for (const ChainDifference& chain : report.chains)
    chains.push_back({{"plan", chain.plan},
                      {"what", chain.what},
                      {"implementation", chain.implementation},
                      {"fused", chain.fused},
                      {"passes", report.passes(chain)},
                      {"runs", chain.runs},
                      {"values", chain.values},
                      {"different", chain.different},
                      {"max_absolute", chain.max_absolute},
                      {"max_ulps", chain.max_ulps},
                      {"unmatched", chain.unmatched}});
  Json codes = Json::array();
  for (const CodesDifference& each : report.codes)
    codes.push_back({{"plan", each.plan},
                     {"what", each.what},
                     {"implementation", each.implementation},
                     {"passes", report.passes(each)},
                     {"runs", each.runs},
                     {"unseen", each.unseen},
                     {"values", each.values},
                     {"different", each.different},
                     {"relative_rms", each.relative_rms},
                     {"largest", each.largest}});
  const LatentDifference& latents = report.latents;
  return {{"passed", report.passed()},
          {"allowed_ulps", report.allowed_ulps},
          {"allowed_relative_rms", report.allowed_relative_rms},
          {"chains", std::move(chains)},
          {"codes", std::move(codes)},
          {"latents",
           {{"passes", report.latents_pass()},
            {"values", latents.values},
            {"different", latents.different},
            {"max_absolute", latents.max_absolute},
            {"relative_rms", latents.relative_rms}}}};
}

int verify(VerifyOptions& options) {
  check(options.compile.compile, ErrorKind::invalid_argument, "--compile", "off leaves nothing to compare: got off, expected on.");
  const std::shared_ptr<Platform> platform = open(options.device);
  const DType dtype = chosen_dtype(options.device, *platform);
  const ModelConfig model = open_model(options.model, "MODEL");
  const Request& request = options.request;
  const VerifyReport report = zoe::verify(model, platform, dtype, request, options.compile);
  if (options.json) {
    Json json{{"model", model.name},
              {"dtype", name(dtype)},
              {"platform", platform->info().platform},
              {"device", platform->info().name},
              {"request", Json::parse(to_json(request))}};
    json.update(to_json(report));
    fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
    check(report.passed(), ErrorKind::internal, "verify",
          "chains or latents differ from the uncompiled run, or codes from plain loops. Use --compile off, or --quality exact.");
    return 0;
  }

  const std::string promise =
      report.allowed_ulps == 0 ? "the same bits" : fmt::format("within {} units of the last place", report.allowed_ulps);
  fmt::print("{}: {}x{}, {} frame{}, {} step{}, {} on {} ({}); promised: {}\n", model.name, *request.width, *request.height,
             *request.num_frames, *request.num_frames == 1 ? "" : "s", *request.num_inference_steps,
             *request.num_inference_steps == 1 ? "" : "s", name(dtype), platform->info().platform, platform->info().name, promise);
  fmt::print("{:<6} {:>5} {:>10} {:>10} {:>10} {:>9}  {}\n", "", "runs", "values", "different", "max abs", "max ulp",
             "plan: chain (implementation)");
  std::size_t chains = 0, bad = 0, others = 0, other_values = 0;
  for (const ChainDifference& chain : report.chains) {
    const bool passes = report.passes(chain);
    if (!passes) ++bad;
    if (!chain.fused && passes) {  // products and copies in a line of their own
      others += chain.runs;
      other_values += chain.values;
      continue;
    }
    if (chain.fused) ++chains;
    fmt::print("{:<6} {:5} {:10} {:10} {:10.3g} {:9.3g}  {}: {} ({}){}\n", passes ? "ok" : "DIFFER", chain.runs, chain.values,
               chain.different, chain.max_absolute, chain.max_ulps, chain.plan, chain.what, chain.implementation,
               chain.unmatched ? fmt::format(", {} results without a twin", chain.unmatched) : "");
  }
  if (others) fmt::print("{:<6} {:5} {:10}  other steps (products, attention, copies)\n", "ok", others, other_values);
  std::size_t bad_codes = 0;
  for (const CodesDifference& each : report.codes) {
    const bool passes = report.passes(each);
    if (!passes) ++bad_codes;
    const std::string how =
        each.what == "attention"
            ? fmt::format("attention from codes beside f64 of the same codes, relative RMS {:.3g}, largest {:.3g}",
                          each.relative_rms, each.largest)
            : "sums of codes beside the integers of plain loops";
    fmt::print("{:<6} {:5} {:10} {:10} {:>10} {:>9}  {}: {} ({}){}\n", passes ? "ok" : "DIFFER", each.runs, each.values,
               each.different, "", "", each.plan, how, each.implementation,
               each.unseen ? fmt::format(", {} not seen", each.unseen) : "");
  }
  const LatentDifference& latents = report.latents;
  fmt::print("{:<6} {:5} {:10} {:10} {:10.3g} {:9}  final latents, relative RMS {:.3g}\n", report.latents_pass() ? "ok" : "DIFFER",
             1, latents.values, latents.different, latents.max_absolute, "", latents.relative_rms);
  check(bad_codes == 0, ErrorKind::internal, "verify",
        "{} kinds of what runs from codes differ from plain loops. Use --quality exact.", bad_codes);
  check(report.passed(), ErrorKind::internal, "verify", "{} of {} chains and {} differ from the uncompiled run. Use --compile off.",
        bad, chains, report.latents_pass() ? "not the latents" : "the final latents");
  fmt::print("{} chains hold\n", chains);
  return 0;
}

}  // namespace

Command add_verify(CLI::App& app) {
  auto options = std::make_shared<VerifyOptions>();
  Request& request = options->request;
  request.prompts = {"a big red circle moving right on a white background"};
  request.height = request.width = 64;
  request.num_frames = 5;
  request.num_inference_steps = 2;
  app.add_option("MODEL", options->model.model_path,
                 "A folder or a file of weights, in any layout (default: the embedded toy model)");
  add_model_files(app, options->model);
  add_request_field(app, request, "prompt", request.prompts[0]);
  for (const auto& [name, value] : {std::pair{"height", "64"}, {"width", "64"}, {"num_frames", "5"}, {"num_inference_steps", "2"}})
    add_request_field(app, request, name, value);
  for (const RequestField& field : request_fields())
    if (field.is_file()) add_request_field(app, request, field);
  for (const char* field : {"guidance_batch", "quality", "precision", "attention", "exact_blocks", "exact_steps"})
    add_request_field(app, request, field);
  add_json(app, options->json);
  add_device_options(app, options->device);
  add_compile_options(app, options->compile);
  return [options] { return verify(*options); };
}

}  // namespace zoe::cli
