// Compiled kernels on disk, shared by all processes of a user: docs/kernel-cache.md.
//
// An entry is a folder `kernels/<key>/` with the source, the binary and meta.json. It appears by a rename and disappears by one, so
// a reader sees all of it or nothing, and of two processes that build the same kernel the later one drops its own. Nothing
// here throws for what the disk does: a cache that cannot be read is empty, and one that cannot be written says so once.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <tuple>

namespace zoe {

// All that decides what a binary holds, and a name.
struct KernelRecipe {
  std::string name;           // a C identifier, the same from run to run; for people and messages, not part of the key
  std::string dialect;        // "cpp", "opencl", "cuda"; "cublaslt": an algorithm of that library for a product
  std::string source;         // all of it, with the prelude
  std::string compiler = {};  // which, and its version; "" if that is unknown: then nothing is cached
  std::string flags = {};
  std::string target = {};  // CPU features, or device and driver

  std::string key() const;  // SHA-256 in hex of the above but the name, and of the version of the cache's own format
};

struct CachedKernel {
  std::filesystem::path binary;
  std::string symbol;
};
struct CachedBytes {
  std::string bytes, symbol;
};

// A folder of this process's own that goes with the object. `path` is empty if it could not be created; `error` says why.
struct WorkFolder {
  explicit WorkFolder(const std::filesystem::path& parent);
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;
  ~WorkFolder();
  std::filesystem::path path;
  std::string error;
};

// For any thread. One object an opened device, so that what one part of a platform uses is not evicted by another.
class KernelCache {
 public:
  struct Options {
    std::filesystem::path folder = {};  // "": default_folder()
    std::uint64_t limit_bytes = std::uint64_t{1} << 30;
    bool enabled = true;  // false: finds nothing, stores nothing, says nothing
  };
  // $XDG_CACHE_HOME/zoetrope, else ~/.cache/zoetrope; "" if neither is known.
  static std::filesystem::path default_folder();

  explicit KernelCache(Options options);

  const std::filesystem::path& folder() const { return folder_; }  // "" if there is none
  // Why nothing can be stored, "" if it can. Creates the folder (0700) if need be.
  std::string why_not_writable();
  // Where to build what will be stored (on the same file system as the entries). Call it when why_not_writable() is "".
  std::filesystem::path work_parent() const { return folder_ / "tmp"; }

  // The entry, whose binary has the size and hash that were stored. A damaged one is deleted, with a notice for the first.
  std::optional<CachedKernel> find(const KernelRecipe& recipe) { return find(recipe, nullptr); }
  // The same, with the binary itself: it may go from the disk at any time, evicted by another process.
  std::optional<CachedBytes> read(const KernelRecipe& recipe);
  // For a binary that is whole and that the platform cannot load: as a damaged one.
  void reject(const KernelRecipe& recipe, std::string_view why);
  // In which of source, compiler, flags and target `recipe` differs from the entry stored last under its name: "source, flags".
  // "" if there is none.
  std::string what_changed(const KernelRecipe& recipe) const;

  struct NewKernel {
    const KernelRecipe* recipe;
    std::filesystem::path binary;  // becomes a hard link where the file system can, else a copy; several may share one
    std::string symbol;
    std::optional<std::string_view> bytes = {};  // if given, the binary's: `binary` is then a name, whose extension is kept
  };
  // Adds entries, then trims the cache to its limit. What cannot be stored is left out, with one notice.
  void store(std::span<const NewKernel> kernels);

  // Keeps the source and the compiler's output of a kernel that does not build in `failed/<name>/`, or, if the cache cannot be
  // written, in the system's folder for temporary files. Returns that folder, "" if there is no place.
  std::filesystem::path keep_failed(const KernelRecipe& recipe, std::string_view log);

  // Says once that kernels are compiled for this run only, and why.
  void notice_not_cached(std::string_view why);

 private:
  std::optional<CachedKernel> find(const KernelRecipe& recipe, std::string* bytes);
  std::string hash_of(const std::filesystem::path& binary, std::string* bytes);
  std::filesystem::path entry(const KernelRecipe& recipe) const;
  void remove_entry(const std::filesystem::path& path);
  std::string store_one(const NewKernel& kernel, const std::filesystem::path& staged);
  void trim();

  std::filesystem::path folder_;
  std::uint64_t limit_bytes_;
  std::atomic<bool> noticed_damage_{false}, noticed_not_cached_{false};
  std::mutex mutex_;            // of what follows
  std::set<std::string> used_;  // keys that this object has found or stored: never evicted by it
  // Kernels of one build share a file, which is hashed once: by device, inode, size and time of change.
  std::map<std::tuple<std::uint64_t, std::uint64_t, std::int64_t, std::int64_t>, std::string> hashes_;
};

}  // namespace zoe
