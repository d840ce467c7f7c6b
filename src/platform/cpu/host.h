// What the operating system says about the machine and this process's share of it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace zoe::cpu {

struct HostMemory {
  // Of the machine, or of the cgroup if that is less; with what a virtual machine has and its kernel will only hand out when it is
  // needed, by which MemTotal grows.
  std::uint64_t total_bytes;
  std::uint64_t free_bytes;  // what may still be touched without swapping; page cache counts as free
};

// The functions read below `root`, which only tests set.
HostMemory host_memory(const std::filesystem::path& root = "/");
std::uint64_t anonymous_bytes(const std::filesystem::path& root = "/");         // of this process, resident
std::uint64_t heap_bytes();                                                     // of this process, allocated and not freed
std::uint64_t generated_code_bytes(const std::filesystem::path& root = "/");    // of this process, resident, of no file
int usable_threads(const std::filesystem::path& root = "/");                    // by affinity and cgroup quota, at least 1
std::uint64_t last_level_cache_bytes(const std::filesystem::path& root = "/");  // 0 if the system does not say
std::string cpu_name(const std::filesystem::path& root = "/");                  // "unknown CPU" if the system does not say
// The flags that matter to kernels, in a fixed order, separated by blanks; may be empty.
std::string cpu_features(const std::filesystem::path& root = "/");
bool cpu_multiplies_bf16(const std::filesystem::path& root = "/");  // AVX-512 or AMX

}  // namespace zoe::cpu
