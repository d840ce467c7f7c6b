// A run as a file, to go on from: the latents of the video at hand, what the scheduler keeps, which step is next, and the request.
//
//   StateSaver saver(path, every, run);            // the run's request, what front ends keep, what it read
//   callbacks.step = [&](const StepDone& done) { saver.step(done); };
//   session.run(job, callbacks);
//   saver.done();                                  // every video is whole: the file is of no use any more
//
//   SavedRun saved = read_saved_run(path, "resume");
//   check_same_inputs(saved, model, path);
//   callbacks.resume = saved.state;                // videos before saved.state.video are whole and not made again
//
// The file is a safetensors file: `latents` and `kept.0`, ... in f32, all else as text in its metadata, with a SHA-256 of
// everything. It is written beside and renamed, so that a run that is killed at any moment leaves the last whole state.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "pipeline/callbacks.h"
#include "pipeline/request.h"
#include "pipeline/session.h"

namespace zoe {

struct SavedRun {
  DenoiseState state;
  Request request;                            // of all videos, with what the model and the session decided
  std::int64_t batch = 1;                     // texts that the transformer took as one: another number of them may have other bits
  std::string device;                         // that it ran on, as text
  std::map<std::string, std::string> inputs;  // digests of what it read, by part or field (digests_of)
  std::map<std::string, std::string> settings;  // of a front end, handed back as they are
};

// What identifies the files of a run: of each part of the model, and of each field of the request that is a file, a digest of sizes
// and of samples of the bytes (all of them up to 1 MiB), not of names and places. Of random weights it is their member and seed.
std::map<std::string, std::string> digests_of(const ModelConfig& model, const Request& request);

// invalid_argument for a file that cannot be opened, another kind of file, a damaged or cut one; unsupported for one of another
// version of the format.
SavedRun read_saved_run(const std::filesystem::path& path, std::string_view where);

// invalid_argument where a part of the model or a file of the request is not what the run had read; names the first such.
void check_same_inputs(const SavedRun& saved, const ModelConfig& model, std::string_view where);

class StateSaver {
 public:
  // `run`: all but the state; paths of its request become absolute. Refuses a path that cannot be written and texts that a file
  // cannot hold (invalid_argument, io).
  StateSaver(std::filesystem::path path, int every, SavedRun run);
  // After every so many steps, and after a video's last, the state is written. Where that fails a notice says so, once, and the
  // state before it stays.
  void step(const StepDone& done);
  void done();                                 // removes the file
  double seconds() const { return seconds_; }  // of writing

 private:
  std::filesystem::path path_;
  int every_;
  SavedRun run_;
  bool failed_ = false;
  double seconds_ = 0;
};

}  // namespace zoe
