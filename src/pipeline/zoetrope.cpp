#include "zoetrope.h"

#include "pipeline/model.h"
#include "pipeline/recipe.h"
#include "pipeline/video_files.h"
#include "platform/platform.h"

namespace zoe {

std::string_view version() { return ZOE_VERSION; }

Session open_session(const std::string& model, const DeviceOptions& device, SessionOptions options) {
  std::shared_ptr<Platform> platform = open_platform(
      device.platform, {.threads = device.threads, .cache_dir = device.cache_dir, .memory_limit_bytes = device.memory_limit_bytes});
  return Session(read_model(model), std::move(platform), std::move(options));
}

Generated generate(Session& session, const Request& request, const std::string& path, const Callbacks& callbacks) {
  Request one = request;
  if (!one.prompts.empty()) one.prompts = {request.prompts.front()};
  if (!one.seeds.empty()) one.seeds = {request.seeds.front()};
  VideoFiles files(session, one, {.path = [&](std::size_t) { return std::filesystem::path(path); }});
  Job job = files.prepare();
  const Timings timings = files.run(job, callbacks);
  return {job.settled(), job.memory(), timings};
}

}  // namespace zoe
