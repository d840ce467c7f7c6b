#include "platform/kernel_cache.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <pwd.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/log.h"
#include "base/sha256.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;

constexpr int kFormat = 1;  // of an entry; part of every key
constexpr std::size_t kMaxBinaryBytes = std::size_t{256} << 20;
constexpr std::int64_t kStaleWorkSeconds = 24 * 60 * 60, kFailedSeconds = 30 * kStaleWorkSeconds;

std::string system_error() { return std::strerror(errno); }

// Creates `folder` and what is missing above it, for this user alone. "" or why not.
std::string create_private(const fs::path& folder) {
  if (::mkdir(folder.c_str(), 0700) == 0 || errno == EEXIST) return {};
  if (errno == ENOENT && folder.has_relative_path()) {
    if (std::string error = create_private(folder.parent_path()); !error.empty()) return error;
    if (::mkdir(folder.c_str(), 0700) == 0 || errno == EEXIST) return {};
  }
  return fmt::format("cannot create {}: {}", folder.string(), system_error());
}

// Code is loaded from here, so nobody else may be able to put some in, not even who shares a group with the user.
std::string why_not_trusted(const fs::path& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return {};  // not there yet
  if (info.st_uid != ::geteuid() && info.st_uid != 0) return fmt::format("{} belongs to another user", path.string());
  if (info.st_mode & S_IWOTH) return fmt::format("everybody may write to {} (chmod go-w makes it private)", path.string());
  if (info.st_mode & S_IWGRP) return fmt::format("its group may write to {} (chmod g-w makes it private)", path.string());
  return {};
}

std::string why_no_folder(const fs::path& folder) {
  struct stat info {};
  if (::stat(folder.c_str(), &info) == 0 && !S_ISDIR(info.st_mode)) return fmt::format("{} is not a folder", folder.string());
  return why_not_trusted(folder);
}

std::string sync(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return fmt::format("cannot open {}: {}", path.string(), system_error());
  const bool synced = ::fsync(fd) == 0 || errno == EINVAL || errno == EROFS;  // some file systems have nothing to sync
  const std::string error = synced ? "" : fmt::format("cannot write {}: {}", path.string(), system_error());
  ::close(fd);
  return error;
}

std::string write_file(const fs::path& path, std::string_view text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return fmt::format("cannot create {}: {}", path.string(), system_error());
  std::string error;
  while (!text.empty() && error.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written >= 0) text.remove_prefix(static_cast<std::size_t>(written));
    else if (errno != EINTR) error = fmt::format("cannot write {}: {}", path.string(), system_error());
  }
  if (::close(fd) != 0 && error.empty()) error = fmt::format("cannot write {}: {}", path.string(), system_error());
  return error;
}

std::string source_name(const KernelRecipe& recipe) {
  if (recipe.dialect == "opencl") return "source.cl";
  if (recipe.dialect == "cublaslt") return "product.txt";
  return recipe.dialect == "cuda" ? "source.cu" : "source.cpp";
}

// A name as that of a file.
std::string file_name(const KernelRecipe& recipe) { return recipe.name.substr(0, 100); }

// Removes what lies in `folder` and was last changed more than `seconds` ago.
void remove_older(const fs::path& folder, std::int64_t seconds) {
  std::error_code ignored;
  for (const fs::directory_entry& each : fs::directory_iterator(folder, ignored)) {
    struct stat info {};
    if (::lstat(each.path().c_str(), &info) == 0 && info.st_mtime < ::time(nullptr) - seconds) fs::remove_all(each.path(), ignored);
  }
}

}  // namespace

std::string KernelRecipe::key() const {
  std::string text = fmt::format("zoetrope kernel {}\n", kFormat);
  for (const std::string* part : {&dialect, &source, &compiler, &flags, &target})
    text += fmt::format("{}\n{}\n", part->size(), *part);  // the sizes keep the parts apart
  return sha256(text);
}

WorkFolder::WorkFolder(const fs::path& parent) {
  std::string name = (parent / fmt::format("zoetrope-{}-XXXXXX", ::getpid())).string();
  if (::mkdtemp(name.data())) path = name;
  else error = fmt::format("cannot create a folder in {}: {}", parent.string(), system_error());
}

WorkFolder::~WorkFolder() {
  std::error_code ignored;
  if (!path.empty()) fs::remove_all(path, ignored);
}

fs::path KernelCache::default_folder() {
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  if (cache && fs::path(cache).is_absolute()) return fs::path(cache) / "zoetrope";  // a relative one is to be ignored
  const char* home = std::getenv("HOME");
  if (!home || !*home) {
    const passwd* const user = ::getpwuid(::geteuid());
    home = user ? user->pw_dir : nullptr;
  }
  // A home that is only a name (as for the users of services) is not made here.
  std::error_code none;
  if (!home || !fs::path(home).is_absolute() || !fs::is_directory(home, none)) return {};
  return fs::path(home) / ".cache" / "zoetrope";
}

KernelCache::KernelCache(Options options) : limit_bytes_(options.limit_bytes) {
  if (!options.enabled) {
    noticed_not_cached_ = true;
    return;
  }
  std::error_code error;
  folder_ = options.folder.empty() ? default_folder() : fs::absolute(options.folder, error);
}

std::string KernelCache::why_not_writable() {
  if (folder_.empty()) return "no folder is known";
  for (const fs::path& folder : {folder_, folder_ / "kernels", folder_ / "names", folder_ / "tmp", folder_ / "failed"}) {
    if (std::string error = create_private(folder); !error.empty()) return error;
    if (std::string error = why_no_folder(folder); !error.empty()) return error;
    if (::access(folder.c_str(), W_OK | X_OK) != 0) return fmt::format("cannot write to {}: {}", folder.string(), system_error());
  }
  struct statvfs info {};
  if (::statvfs(folder_.c_str(), &info) == 0 && (info.f_flag & ST_NOEXEC))
    return fmt::format("the file system of {} does not allow programs", folder_.string());
  return {};
}

void KernelCache::notice_not_cached(std::string_view why) {
  log(noticed_not_cached_.exchange(true) ? LogLevel::detail : LogLevel::notice,
      fmt::format("kernel cache: {}. Kernels are compiled for this run only; choose another folder with --cache-dir.", why));
}

fs::path KernelCache::entry(const KernelRecipe& recipe) const { return folder_ / "kernels" / recipe.key(); }

void KernelCache::remove_entry(const fs::path& path) {
  std::error_code error;
  const WorkFolder work(folder_ / "tmp");
  if (!work.path.empty()) fs::rename(path, work.path / "entry", error);
  if (work.path.empty() || error) fs::remove_all(path, error);
}

void KernelCache::reject(const KernelRecipe& recipe, std::string_view why) {
  const fs::path path = entry(recipe);
  remove_entry(path);
  {
    const std::lock_guard lock(mutex_);
    used_.erase(path.filename().string());
  }
  log(noticed_damage_.exchange(true) ? LogLevel::detail : LogLevel::notice,
      fmt::format("kernel cache: the entry of {} in {} is damaged and will be rebuilt: {}", recipe.name, path.string(), why));
}

// Of a file's bytes, which are read only if its hash is not known yet or if they are asked for.
std::string KernelCache::hash_of(const fs::path& binary, std::string* bytes) {
  struct stat info {};
  check(::stat(binary.c_str(), &info) == 0, ErrorKind::io, "kernel cache", "cannot read {}: {}.", binary.string(), system_error());
  const decltype(hashes_)::key_type file(info.st_dev, info.st_ino, info.st_size,
                                         info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec);
  if (!bytes) {
    const std::lock_guard lock(mutex_);
    if (const auto known = hashes_.find(file); known != hashes_.end()) return known->second;
  }
  std::string content = read_file(binary, "kernel cache", kMaxBinaryBytes), hash = sha256(content);
  if (bytes) *bytes = std::move(content);
  const std::lock_guard lock(mutex_);
  return hashes_[file] = std::move(hash);
}

std::optional<CachedBytes> KernelCache::read(const KernelRecipe& recipe) {
  CachedBytes cached;
  auto found = find(recipe, &cached.bytes);
  if (!found) return std::nullopt;
  cached.symbol = std::move(found->symbol);
  return cached;
}

std::optional<CachedKernel> KernelCache::find(const KernelRecipe& recipe, std::string* bytes) {
  if (folder_.empty() || recipe.compiler.empty()) return std::nullopt;
  for (const fs::path& folder : {folder_, folder_ / "kernels"})
    if (!why_no_folder(folder).empty()) return std::nullopt;
  const fs::path path = entry(recipe);
  const std::string own_key = path.filename().string();
  struct stat info {};
  // From here on another thread's trim() leaves the entry, unless it is already gone.
  bool was_used = false;
  {
    const std::lock_guard lock(mutex_);
    was_used = !used_.insert(own_key).second;
  }
  const auto nothing = [&]() -> std::optional<CachedKernel> {
    const std::lock_guard lock(mutex_);
    if (!was_used) used_.erase(own_key);
    return std::nullopt;
  };
  if (::stat(path.c_str(), &info) != 0) return nothing();
  try {
    check(why_no_folder(path).empty(), ErrorKind::io, "kernel cache", "{}.", why_no_folder(path));
    const JsonObject meta = read_json_object(path / "meta.json", "meta.json");
    const auto expect_size = [&](const fs::path& file, std::string_view key) {
      check(::stat(file.c_str(), &info) == 0, ErrorKind::io, "kernel cache", "{} is missing.", file.filename().string());
      const std::int64_t expected = meta.integer(key, 0, kMaxBinaryBytes);
      check(info.st_size == expected, ErrorKind::io, "kernel cache", "{} is broken: got {} bytes, expected {}.",
            file.filename().string(), info.st_size, expected);
    };
    expect_size(path / source_name(recipe), "source_bytes");
    const fs::path binary = path / fs::path(meta.string("binary")).filename();
    expect_size(binary, "binary_bytes");
    check(why_not_trusted(binary).empty(), ErrorKind::io, "kernel cache", "{}.", why_not_trusted(binary));
    check(hash_of(binary, bytes) == meta.string("binary_sha256"), ErrorKind::io, "kernel cache",
          "{} is broken: its SHA-256 differs.", binary.filename().string());
    ::utimensat(AT_FDCWD, path.c_str(), nullptr, 0);  // used now; a read-only cache is not evicted from anyway
    return CachedKernel{binary, meta.string("symbol")};
  } catch (const Error& error) {
    // A folder that went between the two looks was evicted by another process, not damaged.
    if (::stat(path.c_str(), &info) == 0) reject(recipe, error.what());
    return nothing();
  }
}

std::string KernelCache::what_changed(const KernelRecipe& recipe) const {
  try {
    const JsonObject meta = read_json_object(folder_ / "names" / file_name(recipe) / "meta.json", "meta.json");
    std::string changed;
    const auto compare = [&](std::string_view part, const std::string& now, std::string_view key) {
      if (meta.string(key) != now) changed += fmt::format("{}{}", changed.empty() ? "" : ", ", part);
    };
    compare("dialect", recipe.dialect, "dialect");
    compare("source", sha256(recipe.source), "source_sha256");
    compare("compiler", recipe.compiler, "compiler");
    compare("flags", recipe.flags, "flags");
    compare("target", recipe.target, "target");
    return changed;
  } catch (const Error&) {
    return {};
  }
}

// Fills the folder `staged`. "" or why not.
std::string KernelCache::store_one(const NewKernel& kernel, const fs::path& staged) {
  const KernelRecipe& recipe = *kernel.recipe;
  if (::mkdir(staged.c_str(), 0700) != 0) return fmt::format("cannot create {}: {}", staged.string(), system_error());
  const fs::path source = staged / source_name(recipe), binary = staged / ("kernel" + kernel.binary.extension().string());
  if (std::string error = write_file(source, recipe.source); !error.empty()) return error;
  if (kernel.bytes) {
    if (std::string error = write_file(binary, *kernel.bytes); !error.empty()) return error;
  } else if (::link(kernel.binary.c_str(), binary.c_str()) != 0) {
    std::error_code error;
    fs::copy_file(kernel.binary, binary, error);
    if (error) return fmt::format("cannot write {}: {}", binary.string(), error.message());
  }
  // Compilers make files that a group may write to if the umask lets them.
  if (::chmod(binary.c_str(), 0600) != 0) return fmt::format("cannot change {}: {}", binary.string(), system_error());
  struct stat info {};
  if (::stat(binary.c_str(), &info) != 0) return fmt::format("cannot read {}: {}", binary.string(), system_error());
  const std::string hash = hash_of(binary, nullptr);
  const auto now = std::chrono::time_point_cast<std::chrono::seconds>(std::chrono::system_clock::now());
  const nlohmann::ordered_json meta = {{"name", recipe.name},
                                       {"symbol", kernel.symbol},
                                       {"created", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(now))},
                                       {"dialect", recipe.dialect},
                                       {"source_bytes", recipe.source.size()},
                                       {"source_sha256", sha256(recipe.source)},
                                       {"binary", binary.filename().string()},
                                       {"binary_bytes", info.st_size},
                                       {"binary_sha256", hash},
                                       {"compiler", recipe.compiler},
                                       {"flags", recipe.flags},
                                       {"target", recipe.target}};
  const fs::path meta_path = staged / "meta.json";
  const std::string text = meta.dump(2, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
  if (std::string error = write_file(meta_path, text); !error.empty()) return error;
  for (const fs::path& path : {source, binary, meta_path, staged})
    if (std::string error = sync(path); !error.empty()) return error;
  return {};
}

void KernelCache::store(std::span<const NewKernel> kernels) {
  if (std::string why = why_not_writable(); !why.empty()) return notice_not_cached(why);
  const WorkFolder work(work_parent());
  if (work.path.empty()) return notice_not_cached(work.error);
  for (const NewKernel& kernel : kernels) {
    if (kernel.recipe->compiler.empty()) continue;
    const std::string key = kernel.recipe->key();
    const fs::path staged = work.path / key, final_path = folder_ / "kernels" / key;
    std::string error;
    try {
      error = store_one(kernel, staged);
    } catch (const Error& refused) {
      error = refused.what();
    }
    if (error.empty()) {
      const std::lock_guard lock(mutex_);
      used_.insert(key);  // before it is there, so that no other thread's trim() finds it unused
    }
    // A folder replaces an empty one only: if the entry exists, another process was first, and its kernel is as good.
    if (error.empty() && ::rename(staged.c_str(), final_path.c_str()) != 0 && errno != ENOTEMPTY && errno != EEXIST)
      error = fmt::format("cannot write {}: {}", final_path.string(), system_error());
    if (!error.empty()) {
      notice_not_cached(error);
      break;
    }
    // For people who look for a kernel by its name, and for what_changed().
    const fs::path link = work.path / "name";
    if (::symlink((fs::path("..") / "kernels" / key).c_str(), link.c_str()) == 0)
      if (::rename(link.c_str(), (folder_ / "names" / file_name(*kernel.recipe)).c_str()) != 0) ::unlink(link.c_str());
  }
  sync(folder_ / "kernels");
  trim();
}

// Evicts the entries used longest ago until the rest fits. A file that entries share counts until the last of them goes.
void KernelCache::trim() {
  struct File {
    std::uint64_t bytes = 0;
    int links = 0;
  };
  struct Entry {
    fs::path path;
    std::int64_t used_ns;
    std::vector<std::uint64_t> files;  // inodes
  };
  std::map<std::uint64_t, File> files;
  std::vector<Entry> entries;
  std::uint64_t total = 0;
  std::error_code ignored;
  for (const fs::directory_entry& folder : fs::directory_iterator(folder_ / "kernels", ignored)) {
    struct stat info {};
    if (::stat(folder.path().c_str(), &info) != 0) continue;
    Entry entry{folder.path(), info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec, {}};
    for (const fs::directory_entry& file : fs::directory_iterator(folder.path(), ignored)) {
      if (::lstat(file.path().c_str(), &info) != 0) continue;
      File& counted = files[info.st_ino];
      if (counted.links++ == 0) total += counted.bytes = static_cast<std::uint64_t>(info.st_size);
      entry.files.push_back(info.st_ino);
    }
    entries.push_back(std::move(entry));
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.used_ns < b.used_ns; });
  int evicted = 0;
  for (const Entry& entry : entries) {
    if (total <= limit_bytes_) break;
    {
      const std::lock_guard lock(mutex_);
      if (used_.contains(entry.path.filename().string())) continue;
      remove_entry(entry.path);
    }
    ++evicted;
    for (const std::uint64_t inode : entry.files)
      if (File& file = files[inode]; --file.links == 0) total -= file.bytes;
  }
  if (evicted > 0) {
    log(LogLevel::detail, fmt::format("kernel cache: {} entries removed to stay below {} MiB", evicted, limit_bytes_ >> 20));
    for (const fs::directory_entry& link : fs::directory_iterator(folder_ / "names", ignored))
      if (!fs::exists(link.path(), ignored)) ::unlink(link.path().c_str());
  }
  remove_older(work_parent(), kStaleWorkSeconds);
  remove_older(folder_ / "failed", kFailedSeconds);
}

fs::path KernelCache::keep_failed(const KernelRecipe& recipe, std::string_view log_text) {
  std::error_code error;
  const bool in_cache = why_not_writable().empty();
  WorkFolder work(in_cache ? work_parent() : fs::temp_directory_path(error));
  if (work.path.empty()) return {};
  const fs::path kept = work.path / file_name(recipe);
  fs::create_directory(kept, error);
  if (!write_file(kept / source_name(recipe), recipe.source).empty() || !write_file(kept / "log.txt", log_text).empty()) return {};
  if (!in_cache) {
    work.path.clear();  // stays
    return kept;
  }
  const fs::path final_path = folder_ / "failed" / file_name(recipe);
  const std::lock_guard lock(mutex_);  // of threads whose kernels of one name fail, each finds its own or the other's
  fs::remove_all(final_path, error);
  fs::rename(kept, final_path, error);
  return error ? fs::path() : final_path;
}

}  // namespace zoe
