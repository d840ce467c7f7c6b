// A request's videos as files: the whole road from a request to what a person opens, for every front end.
//
//   VideoFiles files(session, request, {.path = [](std::size_t) { return "out.mp4"; }});
//   Job job = files.prepare();
//   files.run(job, callbacks);
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/session.h"

namespace zoe {

struct FileOptions {
  // Of each video; its suffix says the format (media/video_writer.h).
  std::function<std::filesystem::path(std::size_t video)> path;
  bool tells_folders = true;  // of the files that were read, in metadata; else their names alone
};

class VideoFiles {
 public:
  VideoFiles(Session& session, Request request, FileOptions options);
  ~VideoFiles();

  // As Session::prepare; also refuses paths that cannot be written and sizes that the format cannot hold.
  Job prepare();
  Job plan();  // the same as Session::plan
  // As Session::run. Each file appears complete, or not at all.
  Timings run(Job& job, Callbacks callbacks);

  // The request with all that the model and the session decided, so that it can be made again: of all videos, and of one.
  Request decided(const Job& job) const;
  Request decided(const Job& job, std::size_t video) const;
  // What its file carries: that, and what made it.
  std::vector<std::pair<std::string, std::string>> metadata(const Job& job, std::size_t video) const;
  double write_seconds() const;                 // of run(): all writing,
  double write_seconds_while_decoding() const;  // of that, what happened between frames

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace zoe
