#include "base/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <mutex>
#include <random>
#include <system_error>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/nearest.h"

namespace zoe {

namespace {

// Whether this process may do what only a file's owner may: root, but not in every container.
bool may_act_for_owners() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {};
  return ::syscall(SYS_capget, &header, sets) == 0 && (sets[0].effective & (1U << CAP_FOWNER)) != 0;
}

// The text of an errno, taken before anything else may set it.
std::string reason(int error) { return std::generic_category().message(error); }

#ifndef MADV_POPULATE_READ  // of Linux 5.14; libraries older than that do not name it
#define MADV_POPULATE_READ 22
#endif

const std::size_t kPageBytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));

// Whether this process has all pages of some memory: touching those asks the system for nothing. False where it does not say.
bool has_pages(const std::byte* first, std::size_t bytes) {
  static const int pagemap = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  static const pid_t opener = ::getpid();  // of whose memory it goes on to tell in a process that was forked
  if (pagemap < 0 || ::getpid() != opener) return false;
  constexpr std::size_t kAtOnce = 512;
  constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;
  std::array<std::uint64_t, kAtOnce> entries;
  const std::size_t begin = reinterpret_cast<std::uintptr_t>(first) / kPageBytes, pages = (bytes + kPageBytes - 1) / kPageBytes;
  for (std::size_t done = 0; done < pages; done += kAtOnce) {
    const std::size_t now = std::min(kAtOnce, pages - done), size = now * sizeof entries[0];
    if (::pread(pagemap, entries.data(), size, static_cast<off_t>((begin + done) * sizeof entries[0])) !=
        static_cast<ssize_t>(size))
      return false;
    std::uint64_t all = kPresent;
    for (std::size_t i = 0; i < now; ++i) all &= entries[i];
    if (all == 0) return false;
  }
  return true;
}

// A file descriptor that closes itself.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

// Opens a regular file for reading and tells its size.
Descriptor open_regular(const std::filesystem::path& path, std::string_view where, std::size_t* size) {
  // O_NONBLOCK: opening a FIFO must fail the check below, not wait for a writer.
  Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  const int error = file.fd < 0 ? errno : 0;
  const bool is_missing = error == ENOENT || error == ENOTDIR || error == ENAMETOOLONG;
  check(error == 0, is_missing ? ErrorKind::invalid_argument : ErrorKind::io, where, "cannot open {}: {}. Check the path.",
        path.string(), reason(error));
  struct stat info {};
  const int failed = ::fstat(file.fd, &info) == 0 ? 0 : errno;
  check(failed == 0, ErrorKind::io, where, "cannot read the size of {}: {}.", path.string(), reason(failed));
  check(S_ISREG(info.st_mode), ErrorKind::invalid_argument, where, "{} is {}, expected a regular file. Check the path.",
        path.string(), S_ISDIR(info.st_mode) ? "a folder" : "a special file");
  *size = static_cast<std::size_t>(info.st_size);
  return Descriptor{std::exchange(file.fd, -1)};
}

// Where files are mapped, for mapped_file_at: a list that only grows, whose free entries are used again. `begin` is set last.
struct MappedRange {
  std::atomic<const std::byte*> begin{nullptr};
  std::size_t size = 0;
  char path[512] = {};
  MappedRange* next = nullptr;
};
std::atomic<MappedRange*> mapped_ranges{nullptr};
std::mutex mapped_ranges_mutex;  // of those who map and unmap

void add_mapped_range(const std::byte* begin, std::size_t size, const std::string& path) {
  const std::lock_guard lock(mapped_ranges_mutex);
  MappedRange* range = mapped_ranges;
  while (range && range->begin) range = range->next;
  const bool is_new = !range;
  if (is_new) range = new MappedRange;
  range->size = size;
  range->path[path.copy(range->path, sizeof range->path - 1)] = 0;
  if (is_new) range->next = mapped_ranges, mapped_ranges = range;
  range->begin = begin;
}

void remove_mapped_range(const std::byte* begin) {
  const std::lock_guard lock(mapped_ranges_mutex);
  for (MappedRange* range = mapped_ranges; range; range = range->next)
    if (range->begin == begin) range->begin = nullptr;
}

}  // namespace

const char* mapped_file_at(const void* address) noexcept {
  const auto* const byte = static_cast<const std::byte*>(address);
  for (const MappedRange* range = mapped_ranges; range; range = range->next) {
    const std::byte* const begin = range->begin;
    if (begin && byte >= begin &&
        byte - begin < static_cast<std::ptrdiff_t>((range->size + kPageBytes - 1) / kPageBytes * kPageBytes))
      return range->path;
  }
  return nullptr;
}

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  Descriptor file = open_regular(path, "file", &size_);
  check(size_ > 0, ErrorKind::invalid_argument, "file", "{} is empty: got 0 bytes. Download or copy it again.", path.string());
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
  const int error = address == MAP_FAILED ? errno : 0;
  check(error == 0, ErrorKind::io, "file", "cannot map {} ({} bytes): {}.", path.string(), size_, reason(error));
  data_ = static_cast<const std::byte*>(address);
  fd_ = std::exchange(file.fd, -1);
  add_mapped_range(data_, size_, path.string());
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      fd_(std::exchange(other.fd_, -1)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(fd_, other.fd_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) {
    remove_mapped_range(data_);
    ::munmap(const_cast<std::byte*>(data_), size_);
  }
  if (fd_ >= 0) ::close(fd_);
}

void MappedFile::fetch(std::size_t begin, std::size_t count) const {
  constexpr std::size_t kPiece = std::size_t{4} << 20;
  const std::size_t end = std::min(begin + count, size_);
  for (std::size_t at = begin / kPageBytes * kPageBytes; at < end; at += kPiece) {
    struct stat info {};
    check(::fstat(fd_, &info) == 0, ErrorKind::io, "file", "cannot read the size of {}: {}.", path_.string(), reason(errno));
    const auto size_now = static_cast<std::size_t>(info.st_size);
    check(size_now >= size_, ErrorKind::io, "file",
          "{} was cut while it was read: got {} bytes, expected {}. Leave it alone, or copy it again.", path_.string(), size_now,
          size_);
    const std::size_t bytes = std::min(kPiece, end - at);
    // Where pages are small, to be told that they are there takes half as long as to copy them.
    if (has_pages(data_ + at, bytes)) continue;
    int failure;
    do failure = ::madvise(const_cast<std::byte*>(data_) + at, bytes, MADV_POPULATE_READ) == 0 ? 0 : errno;
    while (failure == EINTR || failure == EAGAIN);
    if (failure != 0) read_through(at, bytes, failure);
  }
}

// What madvise refused is read in the ordinary way, which tells why. It may be no more than a system without MADV_POPULATE_READ
// (Linux before 5.14, where this is EINVAL): then the bytes are in the system's cache now.
void MappedFile::read_through(std::size_t begin, std::size_t count, int failure) const {
  std::vector<char> bytes(std::min(count, std::size_t{1} << 18));
  for (std::size_t done = 0; done < count;) {
    const ssize_t got = ::pread(fd_, bytes.data(), std::min(bytes.size(), count - done), static_cast<off_t>(begin + done));
    if (got < 0 && errno == EINTR) continue;
    check(got >= 0, ErrorKind::io, "file", "cannot read {}: {}. Check the disk, or copy the file again.", path_.string(),
          reason(errno));
    check(got > 0, ErrorKind::io, "file",
          "{} was cut while it was read: got {} bytes, expected {}. Leave it alone, or copy it again.", path_.string(),
          begin + done, size_);
    done += static_cast<std::size_t>(got);
  }
  check(failure == EINVAL, ErrorKind::io, "file", "cannot read {}: {}. Check the disk, or copy the file again.", path_.string(),
        reason(failure));
}

void MappedFile::read_ahead(std::size_t begin, std::size_t count) const {
  const std::size_t first = begin / kPageBytes * kPageBytes, end = std::min(begin + count, size_);
  if (first < end) ::madvise(const_cast<std::byte*>(data_) + first, end - first, MADV_WILLNEED);
}

void MappedFile::drop(std::size_t begin, std::size_t count) const {
  // A page at an end may be its neighbour's, too.
  const std::size_t first = (begin + kPageBytes - 1) / kPageBytes * kPageBytes,
                    end = std::min(begin + count, size_) / kPageBytes * kPageBytes;
  if (first >= end) return;
  ::madvise(const_cast<std::byte*>(data_) + first, end - first, MADV_DONTNEED);
  ::posix_fadvise(fd_, static_cast<off_t>(first), static_cast<off_t>(end - first), POSIX_FADV_DONTNEED);
}

std::string read_file(const std::filesystem::path& path, std::string_view where, std::size_t max_bytes) {
  std::size_t size = 0;
  const Descriptor file = open_regular(path, where, &size);
  check(size <= max_bytes, ErrorKind::invalid_argument, where, "{} is too large: got {} bytes, expected at most {}.", path.string(),
        size, max_bytes);
  std::string text(size, '\0');
  std::size_t done = 0;
  while (done < size) {
    const ssize_t got = ::read(file.fd, text.data() + done, size - done);
    const int error = got < 0 ? errno : 0;
    if (error == EINTR) continue;
    check(error == 0, ErrorKind::io, where, "cannot read {}: {}.", path.string(), reason(error));
    if (got == 0) break;  // shortened since fstat
    done += static_cast<std::size_t>(got);
  }
  text.resize(done);
  return text;
}

// One for each PendingOutput, reused, never freed: a signal handler may look at any time. Only `state` changes hands.
struct PendingSlot {
  // busy: a thread makes, renames or removes the output, with all signals blocked, so that no handler on it waits for itself.
  enum State { free, busy, made };
  std::atomic<State> state{free};
  int parent = -1;  // the folder's descriptor
  char name[64] = {};
  bool is_folder = false;
  PendingSlot* next = nullptr;
};

namespace {

namespace fs = std::filesystem;

std::atomic<PendingSlot*> slots{nullptr};  // a list that only grows, at its head
std::atomic<bool> ending{false};           // remove_pending_outputs() was called

[[noreturn]] void wait_for_the_end() {
  for (;;) ::pause();
}

// Either remove_pending_outputs() sees the slot busy and waits for it, or its caller here sees `ending` and waits for ever.
void make_busy(PendingSlot& slot) {
  slot.state = PendingSlot::busy;
  if (!ending) return;
  slot.state = PendingSlot::made;
  wait_for_the_end();
}

class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

// All pending outputs: no two of them may be for one path.
struct Registry {
  std::mutex mutex;
  std::vector<const PendingOutput*> outputs;
  static Registry& instance() {
    static Registry* const registry = new Registry;  // outlives every output, static ones too
    return *registry;
  }
};

// Removes a file, or a folder of files, with nothing but system calls: called from a signal handler, too. In a folder that others
// still write to, removing goes on until it is empty.
void remove_entry(int parent, const char* name, bool is_folder) noexcept {
  if (!is_folder) {
    ::unlinkat(parent, name, 0);
    return;
  }
  for (int attempt = 0; attempt < 100; ++attempt) {
    if (::unlinkat(parent, name, AT_REMOVEDIR) == 0 || (errno != ENOTEMPTY && errno != EEXIST)) return;
    const int folder = ::openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0) return;
    struct Entry {  // linux_dirent64
      std::uint64_t inode;
      std::int64_t offset;
      unsigned short size;
      unsigned char type;
      char name[1];
    };
    alignas(Entry) char entries[4096];
    for (long got; (got = ::syscall(SYS_getdents64, folder, entries, sizeof entries)) > 0;)
      for (long at = 0; at < got;) {
        const auto* const entry = reinterpret_cast<const Entry*>(entries + at);
        ::unlinkat(folder, entry->name, 0);  // "." and ".." are refused
        at += entry->size;
      }
    ::close(folder);
  }
}

constexpr std::string_view kPrefix = ".zoe-", kSuffix = ".partial";

// The beginning of all temporaries for one final name: what a killed process left is found again by it.
std::string stem_for(std::string_view name) {
  std::uint32_t hash = 2166136261u;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return fmt::format("{}{:08x}-", kPrefix, hash);
}

std::string random_name(std::string_view name) {
  std::uint64_t bits = 0;
  if (::getrandom(&bits, sizeof bits, 0) != sizeof bits)
    bits = (std::uint64_t{std::random_device{}()} << 32) | std::random_device{}();
  return fmt::format("{}{:016x}{}", stem_for(name), bits, kSuffix);
}

void sync_folder(int parent, const char* name) {
  const Descriptor folder{::openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (folder.fd >= 0) ::fsync(folder.fd);
}

// An error of fsync is one of writing, unless the file system has no fsync.
bool sync(int fd) { return ::fsync(fd) == 0 || errno == EINVAL || errno == ENOSYS || errno == EROFS; }

}  // namespace

PendingOutput::PendingOutput(fs::path final_path, Kind kind, std::string_view where)
    : final_(std::move(final_path)), where_(where), kind_(kind) {
  while (!final_.has_filename() && final_.has_parent_path() && final_.parent_path() != final_) final_ = final_.parent_path();
  name_ = final_.filename().string();
  check(!name_.empty() && name_ != "." && name_ != "..", ErrorKind::invalid_argument, where,
        "no file name in {}. Name a file or a folder.", in_quotes(final_.string()));
  try {
    check_place(where);
    remove_stale();
    make(where);
  } catch (...) {
    close();
    throw;
  }
}

void PendingOutput::check_place(std::string_view where) {
  constexpr auto kInvalid = ErrorKind::invalid_argument;
  std::error_code status;
  // A folder that is reached by a link is replaced where it lies.
  if (kind_ == Kind::folder && fs::is_symlink(final_, status) && fs::is_directory(final_, status)) {
    const fs::path target = fs::canonical(final_, status);
    if (!status && target.has_filename()) final_ = target, name_ = final_.filename().string();
  }
  const fs::path parent = final_.has_parent_path() ? final_.parent_path() : fs::path(".");
  parent_ = ::open(parent.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  const int error = parent_ < 0 ? errno : 0;
  check(error != ENOENT && error != ENOTDIR, kInvalid, where, "cannot write {}: {} is not a folder. Create it first.",
        final_.string(), parent.string());
  check(error == 0, ErrorKind::io, where, "cannot write into {}: {}. Choose another folder.", parent.string(), reason(error));

  struct stat folder {};
  struct stat old {};
  check(::fstat(parent_, &folder) == 0, ErrorKind::io, where, "cannot write into {}. Choose another folder.", parent.string());
  const bool exists = ::fstatat(parent_, name_.c_str(), &old, 0) == 0;  // what a link leads to
  const int missing = exists ? 0 : errno;
  check(missing != ENAMETOOLONG, kInvalid, where, "the name of {} is too long: got {} bytes. Choose a shorter one.",
        final_.string(), name_.size());
  check(exists || missing == ENOENT || missing == ELOOP, ErrorKind::io, where, "cannot write {}: {}. Choose another folder.",
        final_.string(), reason(missing));
  if (kind_ == Kind::file && exists) {
    check(!S_ISDIR(old.st_mode), kInvalid, where, "{} is a folder, expected a file. Choose another name.", final_.string());
    check(S_ISREG(old.st_mode), kInvalid, where, "{} exists and is not a regular file. Choose another name.", final_.string());
  } else if (exists) {
    check(S_ISDIR(old.st_mode), kInvalid, where, "{} exists and is not a folder. Choose another name.", final_.string());
    const bool is_empty = fs::is_empty(final_, status);
    check(!status, ErrorKind::io, where, "cannot look into {}: {}. Choose another.", final_.string(), status.message());
    check(is_empty, kInvalid, where, "folder {} is not empty. Choose another, or empty it.", final_.string());
    check(old.st_dev == folder.st_dev, kInvalid, where,
          "{} is where a disk is mounted, which cannot be replaced. Choose a folder in it.", final_.string());
  }
  // In a folder like /tmp only its owner, or a file's, may replace a file.
  struct stat entry {};
  if (!may_act_for_owners() && (folder.st_mode & S_ISVTX) && folder.st_uid != ::geteuid() &&
      ::fstatat(parent_, name_.c_str(), &entry, AT_SYMLINK_NOFOLLOW) == 0)
    check(entry.st_uid == ::geteuid(), ErrorKind::io, where,
          "cannot replace {}, which belongs to another user. Choose another name.", final_.string());

  Registry& registry = Registry::instance();
  const std::lock_guard lock(registry.mutex);
  for (const PendingOutput* other : registry.outputs) {
    struct stat its {};
    const bool is_same =
        other->name_ == name_ && ::fstat(other->parent_, &its) == 0 && its.st_dev == folder.st_dev && its.st_ino == folder.st_ino;
    check(!is_same, kInvalid, where, "{} is being written already, for [{}]. Choose another name.", final_.string(), other->where_);
  }
  registry.outputs.push_back(this);
}

void PendingOutput::remove_stale() const {
  const std::string stem = stem_for(name_);
  const int listed = ::openat(parent_, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (listed < 0) return;
  DIR* const folder = ::fdopendir(listed);
  if (!folder) {
    ::close(listed);
    return;
  }
  while (const dirent* entry = ::readdir(folder)) {
    const std::string_view name = entry->d_name;
    if (!name.starts_with(stem) || !name.ends_with(kSuffix)) continue;
    const Descriptor file{::openat(parent_, entry->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)};
    struct stat info {};
    if (file.fd < 0 || ::fstat(file.fd, &info) != 0 || info.st_uid != ::geteuid()) continue;
    // Whoever writes it holds this lock.
    if ((S_ISREG(info.st_mode) || S_ISDIR(info.st_mode)) && ::flock(file.fd, LOCK_EX | LOCK_NB) == 0)
      remove_entry(parent_, entry->d_name, S_ISDIR(info.st_mode));
  }
  ::closedir(folder);
}

void PendingOutput::make(std::string_view where) {
  const bool is_folder = kind_ == Kind::folder;
  {
    // Under this lock slots are taken, so that two threads do not take one.
    const std::lock_guard lock(Registry::instance().mutex);
    for (slot_ = slots; slot_ && slot_->state != PendingSlot::free; slot_ = slot_->next) {
    }
    if (!slot_) {
      slot_ = new PendingSlot;
      slot_->next = slots;
      slots = slot_;
    }
    slot_->parent = parent_;
    slot_->is_folder = is_folder;
    slot_->state = PendingSlot::made;  // of nothing yet: the name is empty
  }
  for (int attempt = 0;; ++attempt) {
    const std::string temporary = random_name(name_);
    int error = 0;
    {
      const SignalsBlocked blocked;
      make_busy(*slot_);
      temporary.copy(slot_->name, sizeof slot_->name - 1);
      if (is_folder && ::mkdirat(parent_, slot_->name, 0777) != 0) error = errno;
      if (error == 0) {
        // 0666: what the user's mask makes of it is what the finished file has.
        own_ = ::openat(
            parent_, slot_->name,
            is_folder ? O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC : O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
        if (own_ < 0) error = errno;
        if (is_folder && own_ < 0) ::unlinkat(parent_, slot_->name, AT_REMOVEDIR);
      }
      if (error == 0) {
        // Between making and locking it, another process may have taken it for a dead one's.
        struct stat info {};
        const bool is_taken = ::flock(own_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
        if (is_taken || (::fstat(own_, &info) == 0 && info.st_nlink == 0)) {
          ::close(std::exchange(own_, -1));
          error = EEXIST;
        }
      }
      if (error != 0) slot_->name[0] = '\0';
      slot_->state = PendingSlot::made;
    }
    if (error == 0) {
      const fs::path parent = final_.has_parent_path() ? final_.parent_path() : fs::path(".");
      write_path_ = is_folder ? parent / temporary : fs::path(fmt::format("/proc/self/fd/{}", own_));
      if (!is_folder && ::access("/proc/self/fd", X_OK) != 0) write_path_ = parent / temporary;
      return;
    }
    check(error == EEXIST && attempt < 100, ErrorKind::io, where, "cannot write into {}: {}. Choose another folder.",
          final_.has_parent_path() ? final_.parent_path().string() : "the current folder", reason(error));
  }
}

// Gives the slot back, removes what is left of the temporary, closes.
void PendingOutput::close() {
  if (slot_) {
    const SignalsBlocked blocked;
    make_busy(*slot_);
    if (slot_->name[0] != '\0') remove_entry(parent_, slot_->name, slot_->is_folder);
    slot_->name[0] = '\0';
    slot_->state = PendingSlot::free;
    slot_ = nullptr;
  }
  {
    Registry& registry = Registry::instance();
    const std::lock_guard lock(registry.mutex);
    std::erase(registry.outputs, this);
  }
  if (own_ >= 0) ::close(std::exchange(own_, -1));
  if (parent_ >= 0) ::close(std::exchange(parent_, -1));
}

PendingOutput::~PendingOutput() { close(); }

void PendingOutput::commit() {
  const auto check_system = [&](bool ok, std::string_view doing) {
    const int error = errno;
    check(ok, ErrorKind::io, where_, "cannot {} {}: {}. Free some space or choose another place.", doing, final_.string(),
          reason(error));
  };
  ZOE_INTERNAL_CHECK(slot_ != nullptr);
  if (kind_ == Kind::folder) {
    std::error_code status;
    for (const auto& entry : fs::directory_iterator(write_path_, status)) {
      const Descriptor file{::open(entry.path().c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)};
      check_system(file.fd >= 0 && sync(file.fd), "write");
    }
    check(!status, ErrorKind::io, where_, "cannot write {}: {}. Choose another place.", final_.string(), status.message());
  }
  check_system(sync(own_), "write");
  struct stat mine {};
  struct stat named {};
  check_system(::fstat(own_, &mine) == 0 && ::fstatat(parent_, slot_->name, &named, AT_SYMLINK_NOFOLLOW) == 0, "write");
  check(mine.st_dev == named.st_dev && mine.st_ino == named.st_ino, ErrorKind::io, where_,
        "cannot write {}: somebody else changed the folder meanwhile. Choose another folder.", final_.string());
  {
    const SignalsBlocked blocked;
    make_busy(*slot_);
    const int result = ::renameat(parent_, slot_->name, parent_, name_.c_str());
    const int error = errno;
    if (result == 0) slot_->name[0] = '\0';  // nothing to remove any more
    slot_->state = PendingSlot::made;
    errno = error;
    check_system(result == 0, "put in place");
  }
  sync_folder(parent_, ".");
  close();
}

void remove_pending_outputs() noexcept {
  if (ending.exchange(true)) wait_for_the_end();  // the first caller ends the process
  for (PendingSlot* slot = slots; slot; slot = slot->next) {
    PendingSlot::State state;
    while ((state = slot->state) == PendingSlot::busy) ::sched_yield();  // soon over: its thread is in system calls
    if (state == PendingSlot::made && slot->name[0] != '\0') remove_entry(slot->parent, slot->name, slot->is_folder);
  }
}

bool is_inside(const fs::path& path, const fs::path& folder) {
  std::error_code status;
  fs::path at = fs::absolute(path, status);
  if (!at.has_filename()) at = at.parent_path();
  // A link at the end of the path would be replaced, not followed.
  at = fs::weakly_canonical(at.parent_path(), status) / at.filename();
  for (; at.has_relative_path(); at = at.parent_path())
    if (fs::equivalent(at, folder, status)) return true;
  return fs::equivalent(at, folder, status);
}

bool same_file(const fs::path& a, const fs::path& b) {
  std::error_code status;
  return fs::equivalent(a, b, status);
}

}  // namespace zoe
