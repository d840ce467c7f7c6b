// Files: read-only maps, whole small files, and output that appears complete or not at all.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace zoe {

// A file mapped read-only. Movable; the bytes stay valid until destruction. Touching a byte that the system cannot read (the file
// was cut, its disk is gone) ends the process by SIGBUS: fetch() what is about to be read, which fails with an error instead.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::filesystem::path& path);  // io error if it cannot be opened, is empty, or is not a regular file
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

  // Waits until bytes [begin, begin + count) are in memory. io error if the file is shorter than it was or cannot be read.
  void fetch(std::size_t begin, std::size_t count) const;
  // Asks the system to read them from the disk soon; returns at once, and has no other effect.
  void read_ahead(std::size_t begin, std::size_t count) const;

 private:
  void read_through(std::size_t begin, std::size_t count, int failure) const;

  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  int fd_ = -1;  // to ask for the size, and for the reason of a failure
};

// Reads a whole file; an error if it is missing, not a regular file, or larger than `max_bytes`.
std::string read_file(const std::filesystem::path& path, std::string_view where, std::size_t max_bytes);

// A path beside `final_path` to write to, renamed onto it by commit(); removed by the destructor otherwise.
// Works for a file and for a folder (a folder that exists and is not empty is refused by the constructor).
class PendingOutput {
 public:
  enum class Kind { file, folder };
  // io error if the parent is missing or not writable; `where` is who asks.
  PendingOutput(std::filesystem::path final_path, Kind kind, std::string_view where = "output");
  PendingOutput(const PendingOutput&) = delete;
  PendingOutput& operator=(const PendingOutput&) = delete;
  ~PendingOutput();
  // Keeps the suffix of the final path, so that libraries that look at it still do.
  const std::filesystem::path& path() const { return temporary_; }
  void commit();

 private:
  std::filesystem::path final_, temporary_;
  bool committed_ = false;
};

}  // namespace zoe
