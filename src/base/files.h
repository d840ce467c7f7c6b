// Files: read-only maps, whole small files, and output that appears complete or not at all.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace zoe {

// A file mapped read-only. Movable; the bytes stay valid until destruction. Touching a byte that the system cannot read (the file
// was cut, its disk is gone) is a SIGBUS: fetch() what is about to be read, which fails with an error instead. What fails between
// that and its use, or when the system has dropped it meanwhile, is left to a handler: mapped_file_at() tells it of which file.
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
  // Tells the system that they are not wanted again soon: they leave this process's memory, and the system's where nobody else
  // uses them.
  void drop(std::size_t begin, std::size_t count) const;

 private:
  void read_through(std::size_t begin, std::size_t count, int failure) const;

  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  int fd_ = -1;  // to ask for the size, and for the reason of a failure
};

// The path of the mapped file that an address lies in, as far as it is shorter than 512 bytes; null: it lies in none. For signal
// handlers: takes no lock and no memory.
const char* mapped_file_at(const void* address) noexcept;

// Reads a whole file; an error if it is missing, not a regular file, or larger than `max_bytes`.
std::string read_file(const std::filesystem::path& path, std::string_view where, std::size_t max_bytes);

struct PendingSlot;

// Output that appears whole or not at all: written beside `final_path` under a name of its own, renamed onto it by commit(),
// removed by the destructor otherwise. Works for a file and for a folder.
//
// The name is short, unpredictable, and made exclusively; the file is locked (flock) as long as the object lives. So outputs never
// meet in a temporary, whoever writes them, and what a killed process left is told from what a living one writes: the constructor
// removes the former, if it was meant for the same path.
class PendingOutput {
 public:
  enum class Kind { file, folder };
  // Refuses all that commit() could not replace. invalid_argument: no folder to write into, something of another kind in place, a
  // folder that is not empty, or a path that another PendingOutput of this process is for. io: the system refuses. `where` is who
  // asks.
  PendingOutput(std::filesystem::path final_path, Kind kind, std::string_view where = "output");
  PendingOutput(const PendingOutput&) = delete;
  PendingOutput& operator=(const PendingOutput&) = delete;
  ~PendingOutput();
  // Where to write: an empty file to open again, or an empty folder to make files in. A file's path leads to what the constructor
  // made, and creates nothing when that is gone.
  const std::filesystem::path& path() const { return write_path_; }
  const std::filesystem::path& final_path() const { return final_; }
  // Everything written is on the disk (fsync) before the new name is.
  void commit();

 private:
  void check_place(std::string_view where);
  void make(std::string_view where);
  void remove_stale() const;
  void close();

  std::filesystem::path final_, write_path_;
  std::string where_, name_;  // who asked; the final path without its folder
  Kind kind_;
  int parent_ = -1, own_ = -1;   // descriptors: of the folder it appears in, and of the temporary, locked
  PendingSlot* slot_ = nullptr;  // what remove_pending_outputs() sees of it, until committed
};

// Removes what every PendingOutput of the process has made and not committed. For a signal handler of a process that ends right
// behind it: async-signal-safe, as long as the handler's signals are blocked while it runs; threads that would make, commit or
// remove an output from now on wait for ever.
void remove_pending_outputs() noexcept;

// Whether `path`, which need not exist, is `folder` or lies below it, through whatever links.
bool is_inside(const std::filesystem::path& path, const std::filesystem::path& folder);
// Whether both exist and are one file.
bool same_file(const std::filesystem::path& a, const std::filesystem::path& b);

}  // namespace zoe
