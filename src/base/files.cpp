#include "base/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/error.h"

namespace zoe {

namespace {

#ifndef MADV_POPULATE_READ  // of Linux 5.14; libraries older than that do not name it
#define MADV_POPULATE_READ 22
#endif

const std::size_t kPageBytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));

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
  check(file.fd >= 0, errno == ENOENT ? ErrorKind::invalid_argument : ErrorKind::io, where, "cannot open {}: {}. Check the path.",
        path.string(), std::strerror(errno));
  struct stat info {};
  check(::fstat(file.fd, &info) == 0, ErrorKind::io, where, "cannot read the size of {}: {}.", path.string(), std::strerror(errno));
  check(S_ISREG(info.st_mode), ErrorKind::invalid_argument, where, "{} is {}, expected a regular file. Check the path.",
        path.string(), S_ISDIR(info.st_mode) ? "a folder" : "a special file");
  *size = static_cast<std::size_t>(info.st_size);
  return Descriptor{std::exchange(file.fd, -1)};
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  Descriptor file = open_regular(path, "file", &size_);
  check(size_ > 0, ErrorKind::invalid_argument, "file", "{} is empty: got 0 bytes. Download or copy it again.", path.string());
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
  check(address != MAP_FAILED, ErrorKind::io, "file", "cannot map {} ({} bytes): {}.", path.string(), size_, std::strerror(errno));
  data_ = static_cast<const std::byte*>(address);
  fd_ = std::exchange(file.fd, -1);
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
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
  if (fd_ >= 0) ::close(fd_);
}

void MappedFile::fetch(std::size_t begin, std::size_t count) const {
  constexpr std::size_t kPiece = std::size_t{4} << 20;
  const std::size_t end = std::min(begin + count, size_);
  for (std::size_t at = begin / kPageBytes * kPageBytes; at < end; at += kPiece) {
    struct stat info {};
    check(::fstat(fd_, &info) == 0, ErrorKind::io, "file", "cannot read the size of {}: {}.", path_.string(), std::strerror(errno));
    const auto size_now = static_cast<std::size_t>(info.st_size);
    check(size_now >= size_, ErrorKind::io, "file",
          "{} was cut while it was read: got {} bytes, expected {}. Leave it alone, or copy it again.", path_.string(), size_now,
          size_);
    const std::size_t bytes = std::min(kPiece, end - at);
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
          std::strerror(errno));
    check(got > 0, ErrorKind::io, "file",
          "{} was cut while it was read: got {} bytes, expected {}. Leave it alone, or copy it again.", path_.string(),
          begin + done, size_);
    done += static_cast<std::size_t>(got);
  }
  check(failure == EINVAL, ErrorKind::io, "file", "cannot read {}: {}. Check the disk, or copy the file again.", path_.string(),
        std::strerror(failure));
}

void MappedFile::read_ahead(std::size_t begin, std::size_t count) const {
  const std::size_t first = begin / kPageBytes * kPageBytes, end = std::min(begin + count, size_);
  if (first < end) ::madvise(const_cast<std::byte*>(data_) + first, end - first, MADV_WILLNEED);
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
    if (got < 0 && errno == EINTR) continue;
    check(got >= 0, ErrorKind::io, where, "cannot read {}: {}.", path.string(), std::strerror(errno));
    if (got == 0) break;  // shortened since fstat
    done += static_cast<std::size_t>(got);
  }
  text.resize(done);
  return text;
}

PendingOutput::PendingOutput(std::filesystem::path final_path, Kind kind, std::string_view where) : final_(std::move(final_path)) {
  namespace fs = std::filesystem;
  std::error_code status;
  while (!final_.has_filename() && final_.has_parent_path() && final_.parent_path() != final_) final_ = final_.parent_path();
  check(final_.has_filename(), ErrorKind::invalid_argument, where, "no file name in {}. Name a file or a folder.", final_.string());
  const fs::path parent = final_.has_parent_path() ? final_.parent_path() : fs::path(".");
  check(fs::is_directory(parent, status), ErrorKind::invalid_argument, where,
        "cannot write {}: {} is not a folder. Create it first.", final_.string(), parent.string());
  check(::access(parent.c_str(), W_OK | X_OK) == 0, ErrorKind::io, where, "cannot write into {}: {}. Choose another folder.",
        parent.string(), std::strerror(errno));
  const bool is_folder = fs::is_directory(final_, status);
  if (kind == Kind::file) {
    check(!is_folder, ErrorKind::invalid_argument, where, "{} is a folder, expected a file. Choose another name.", final_.string());
    check(!fs::exists(final_, status) || fs::is_regular_file(final_, status), ErrorKind::invalid_argument, where,
          "{} exists and is not a regular file. Choose another name.", final_.string());
  } else {
    check(!fs::exists(final_, status) || is_folder, ErrorKind::invalid_argument, where,
          "{} exists and is not a folder. Choose another name.", final_.string());
    check(!is_folder || fs::is_empty(final_, status), ErrorKind::invalid_argument, where,
          "folder {} is not empty. Choose another, or empty it.", final_.string());
  }
  // The process number keeps two runs with the same -o apart; the last to finish wins.
  temporary_ = parent / fmt::format(".{}.partial-{}{}", final_.stem().string(), ::getpid(), final_.extension().string());
  fs::remove_all(temporary_, status);
  if (kind == Kind::folder) {
    const bool created = fs::create_directory(temporary_, status);
    check(created, ErrorKind::io, where, "cannot create {}: {}. Choose another folder.", temporary_.string(), status.message());
  }
}

PendingOutput::~PendingOutput() {
  std::error_code ignored;
  if (!committed_) std::filesystem::remove_all(temporary_, ignored);
}

void PendingOutput::commit() {
  std::error_code status;
  std::filesystem::rename(temporary_, final_, status);
  check(!status, ErrorKind::io, "output", "cannot rename {} to {}: {}.", temporary_.string(), final_.string(), status.message());
  committed_ = true;
}

}  // namespace zoe
