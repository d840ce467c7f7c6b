// What lies where in a server's data folder.
#pragma once

#include <filesystem>
#include <string>

namespace zoe::server {

struct Folders {
  std::filesystem::path root;  // absolute

  std::filesystem::path jobs() const { return root / "jobs.sqlite"; }
  std::filesystem::path uploads() const { return root / "uploads"; }  // while they arrive
  std::filesystem::path work() const { return root / "work"; }
  std::filesystem::path work(const std::string& id) const { return work() / id; }  // of one job: its uploads, state and preview
  std::filesystem::path state(const std::string& id) const { return work(id) / "state"; }
  std::filesystem::path preview(const std::string& id) const { return work(id) / "preview.gif"; }
  std::filesystem::path videos() const { return root / "videos"; }
  std::filesystem::path video(const std::string& id) const { return videos() / (id + ".mp4"); }
  std::filesystem::path thumbnail(const std::string& id) const { return videos() / (id + ".png"); }
  std::filesystem::path sheet(const std::string& id) const { return videos() / (id + "-sheet.png"); }

  // A message for clients, who need not know where the folder is.
  std::string without_root(std::string text) const {
    const std::string begin = root.string() + "/";
    for (std::size_t at = text.find(begin); at != text.npos; at = text.find(begin, at)) text.erase(at, begin.size());
    return text;
  }
  // All that a job has on the disk.
  void remove_all(const std::string& id) const {
    std::error_code status;
    for (const std::filesystem::path& path : {video(id), thumbnail(id), sheet(id)}) std::filesystem::remove(path, status);
    std::filesystem::remove_all(work(id), status);
  }
  // What is of no use to a job that is done.
  void remove_leftovers(const std::string& id) const {
    std::error_code status;
    for (const std::filesystem::path& path : {state(id), preview(id)}) std::filesystem::remove(path, status);
    if (std::filesystem::is_empty(work(id), status) && !status) std::filesystem::remove(work(id), status);
  }
};

}  // namespace zoe::server
