// Zoetrope's public face: text (and what else a model takes) to video with the Wan diffusion models.
//
//   zoe::Session session = zoe::open_session("Wan2.2-T2V-A14B-Diffusers");
//   zoe::Request request;
//   request.prompts = {"a fox in the snow"};
//   zoe::generate(session, request, "fox.mp4");
//
// A session keeps the model from request to request and may be used from several threads; requests take turns. Errors are
// zoe::Error, with a kind and one line of text. The library prints nothing, installs no signal handler, and keeps no state outside
// its objects; messages for people go to a LogScope's sink, if the calling thread has one.
#pragma once

#include <memory>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "pipeline/callbacks.h"
#include "pipeline/request.h"
#include "pipeline/session.h"
#include "pipeline/statement.h"

namespace zoe {

struct DeviceOptions {
  std::string platform = "auto";         // "cpu", "cuda:1", ...: see `zoe platforms`
  int threads = 0;                       // cpu: 0 takes as many as the process may use
  std::string cache_dir = {};            // of compiled kernels; "": the user's cache folder
  std::uint64_t memory_limit_bytes = 0;  // of the device, but of opencl; 0: all that is free
};

// `model`: a folder or a file of any layout (docs/files.md), "random:MEMBER[:SEED]", or "" for the model that comes with the
// engine. Of parts from several files: Session(read_model(ModelFiles{...}), platform), see pipeline/model_files.h.
Session open_session(const std::string& model = {}, const DeviceOptions& device = {}, SessionOptions options = {});

struct Generated {
  Settled settled;
  MemoryStatement memory;
  Timings timings;
};

// Makes the first video of the request, as the file that the path's suffix names (.mp4 .webm .gif .png, or a folder of frames).
Generated generate(Session& session, const Request& request, const std::string& path, const Callbacks& callbacks = {});

}  // namespace zoe
