#include "platform/cpu/host.h"

#include <fmt/format.h>
#include <malloc.h>
#include <sched.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string_view>
#include <vector>

namespace zoe::cpu {
namespace {

namespace fs = std::filesystem;

// Files of /proc and /sys, whole; "" if there is none.
std::string read_text(const fs::path& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::optional<std::uint64_t> parse(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  std::uint64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  return result.ec == std::errc() ? std::optional(value) : std::nullopt;
}

// What follows `key` at the start of a line, up to its end.
std::optional<std::string_view> line_after(std::string_view text, std::string_view key) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = text.substr(at, end - at);
    if (line.starts_with(key)) return line.substr(key.size());
    at = end + 1;
  }
  return std::nullopt;
}

std::uint64_t number_after(std::string_view text, std::string_view key) {
  const auto line = line_after(text, key);
  return line ? parse(*line).value_or(0) : 0;
}

// The folders that may limit this process, innermost first, for one controller of cgroup v1 or, for "", for v2. In a container
// the path that /proc names may not exist below the mount; its root is the container's own group then.
std::vector<fs::path> cgroup_folders(const fs::path& root, std::string_view controller) {
  const fs::path mount = root / "sys/fs/cgroup" / controller;
  std::vector<fs::path> folders;
  std::istringstream lines(read_text(root / "proc/self/cgroup"));
  for (std::string line; std::getline(lines, line);) {  // "4:memory:/a/b", v2 "0::/a/b"
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string names = fmt::format(",{},", line.substr(first + 1, second - first - 1));
    if (controller.empty() ? names != ",," : names.find(fmt::format(",{},", controller)) == std::string::npos) continue;
    for (fs::path path = fs::path(line.substr(second + 1)).relative_path(); !path.empty(); path = path.parent_path())
      folders.push_back(mount / path);
  }
  folders.push_back(mount);
  return folders;
}

void apply_limit(HostMemory& memory, const fs::path& folder, const char* limit_file, const char* usage_file,
                 const char* stat_prefix) {
  const auto limit = parse(read_text(folder / limit_file)), usage = parse(read_text(folder / usage_file));
  if (!limit || !usage) return;  // "max", or no such file
  const std::string stat = read_text(folder / "memory.stat");
  const std::string prefix = stat_prefix;
  const std::uint64_t cache = number_after(stat, prefix + "active_file ") + number_after(stat, prefix + "inactive_file ");
  const std::uint64_t used = *usage - std::min(*usage, cache);
  memory.total_bytes = std::min(memory.total_bytes, *limit);
  memory.free_bytes = std::min(memory.free_bytes, *limit - std::min(*limit, used));
}

// What is plugged in and online, block by block; 0 if the system does not say.
std::uint64_t online_bytes(const fs::path& root) {
  const fs::path folder = root / "sys/devices/system/memory";
  const std::string text = read_text(folder / "block_size_bytes");  // hexadecimal
  std::uint64_t block = 0, blocks = 0;
  std::from_chars(text.data(), text.data() + text.size(), block, 16);
  if (block == 0) return 0;
  std::error_code status;
  for (fs::directory_iterator each(folder, status), end; !status && each != end; each.increment(status))
    if (each->path().filename().string().starts_with("memory")) blocks += read_text(each->path() / "state").starts_with("online");
  return block * blocks;
}

// Online memory that the kernel has not handed to its allocator yet, as in virtual machines where it does so page by page when it
// is first needed: MemTotal and MemAvailable are without it, and grow as memory is used. Not what a balloon has taken back. A
// kernel keeps some for itself, less than a sixteenth.
std::uint64_t not_handed_out_yet(const std::string& meminfo, std::uint64_t online, const fs::path& root) {
  const std::string vmstat = read_text(root / "proc/vmstat");
  const std::uint64_t inflated = number_after(vmstat, "balloon_inflate "), deflated = number_after(vmstat, "balloon_deflate ");
  const std::uint64_t balloon =
      std::max(number_after(meminfo, "Balloon:") * 1024, (inflated - std::min(inflated, deflated)) * 4096);
  const std::uint64_t known = number_after(meminfo, "MemTotal:") * 1024 + balloon + online / 16;
  return online - std::min(online, known);
}

}  // namespace

HostMemory host_memory(const fs::path& root) {
  const std::string meminfo = read_text(root / "proc/meminfo");
  HostMemory memory{number_after(meminfo, "MemTotal:") * 1024, number_after(meminfo, "MemAvailable:") * 1024};
  static const std::uint64_t own_online = online_bytes("/");  // some hundred files
  const std::uint64_t later = not_handed_out_yet(meminfo, root == "/" ? own_online : online_bytes(root), root);
  memory.total_bytes += later;
  memory.free_bytes += later;
  for (const fs::path& folder : cgroup_folders(root, "")) apply_limit(memory, folder, "memory.max", "memory.current", "");
  for (const fs::path& folder : cgroup_folders(root, "memory"))
    apply_limit(memory, folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_");
  return memory;
}

std::uint64_t anonymous_bytes(const fs::path& root) {
  return number_after(read_text(root / "proc/self/status"), "RssAnon:") * 1024;
}

std::uint64_t heap_bytes() {
  const struct mallinfo2 heap = mallinfo2();
  return heap.uordblks + heap.hblkhd;
}

std::uint64_t generated_code_bytes(const fs::path& root) {
  std::istringstream lines(read_text(root / "proc/self/smaps"));
  std::uint64_t bytes = 0;
  bool counts = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("Rss:")) {
      if (counts) bytes += number_after(line, "Rss:") * 1024;
      continue;
    }
    // "7f0000000000-7f0000040000 rwxp 00000000 00:00 0 [name]"; all other lines begin with a word and a colon.
    std::istringstream words(line);
    std::string range, permissions, offset, device, inode;
    if (words >> range >> permissions >> offset >> device >> inode && range.find('-') != std::string::npos)
      counts = permissions.find('x') != std::string::npos && inode == "0" && line.find("[v") == std::string::npos;
  }
  return bytes;
}

int usable_threads(const fs::path& root) {
  std::uint64_t threads = 1024;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) threads = static_cast<std::uint64_t>(CPU_COUNT(&set));
  // A quota of 1.5 CPUs is worth two threads.
  const auto apply = [&threads](std::optional<std::uint64_t> quota, std::optional<std::uint64_t> period) {
    if (quota && period && *quota > 0 && *period > 0) threads = std::min(threads, (*quota + *period - 1) / *period);
  };
  for (const fs::path& folder : cgroup_folders(root, "")) {
    const std::string text = read_text(folder / "cpu.max");  // "150000 100000", "max 100000"
    apply(parse(text), parse(std::string_view(text).substr(std::min(text.find(' '), text.size()))));
  }
  for (const fs::path& folder : cgroup_folders(root, "cpu"))
    apply(parse(read_text(folder / "cpu.cfs_quota_us")), parse(read_text(folder / "cpu.cfs_period_us")));
  return static_cast<int>(std::max<std::uint64_t>(threads, 1));
}

std::uint64_t last_level_cache_bytes(const fs::path& root) {
  std::uint64_t bytes = 0;
  for (int index = 0;; ++index) {  // "32768K", innermost level first
    const std::string size = read_text(root / fmt::format("sys/devices/system/cpu/cpu0/cache/index{}/size", index));
    if (size.empty()) return bytes;
    const std::uint64_t unit = size.find('M') != std::string::npos ? 1 << 20 : size.find('K') != std::string::npos ? 1 << 10 : 1;
    bytes = std::max(bytes, parse(size).value_or(0) * unit);
  }
}

std::string cpu_name(const fs::path& root) {
  const std::string text = read_text(root / "proc/cpuinfo");
  const auto line = line_after(text, "model name");
  const std::size_t begin = line ? line->find_first_not_of(" \t:") : std::string_view::npos;
  return begin == std::string_view::npos ? "unknown CPU" : std::string(line->substr(begin));
}

namespace {

// With a blank in front of each and behind.
std::string flags_of(const fs::path& root) {
  return fmt::format(" {} ", line_after(read_text(root / "proc/cpuinfo"), "flags").value_or(""));
}

}  // namespace

bool cpu_multiplies_bf16(const fs::path& root) {
  const std::string flags = flags_of(root);
  return flags.find(" avx512_bf16 ") != std::string::npos || flags.find(" amx_bf16 ") != std::string::npos;
}

std::string cpu_features(const fs::path& root) {
  const std::string flags = flags_of(root);
  std::string features;
  for (const char* flag : {"sse4_1", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16",
                           "avx_vnni", "amx_bf16", "amx_int8"})
    if (flags.find(fmt::format(" {} ", flag)) != std::string::npos)
      features += fmt::format("{}{}", features.empty() ? "" : " ", flag);
  return features;
}

}  // namespace zoe::cpu
