#include "base/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace zoe {

namespace {

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

MappedFile::MappedFile(const std::filesystem::path& path) {
  const Descriptor file = open_regular(path, "file", &size_);
  check(size_ > 0, ErrorKind::invalid_argument, "file", "{} is empty: got 0 bytes. Download or copy it again.", path.string());
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
  check(address != MAP_FAILED, ErrorKind::io, "file", "cannot map {} ({} bytes): {}.", path.string(), size_, std::strerror(errno));
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

void read_ahead(const std::byte* bytes, std::size_t size) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE)),
             begin = reinterpret_cast<std::uintptr_t>(bytes) / page * page;
  ::madvise(reinterpret_cast<void*>(begin), reinterpret_cast<std::uintptr_t>(bytes) + size - begin, MADV_WILLNEED);
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
