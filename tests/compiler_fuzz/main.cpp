// fuzz_compiler [COUNT [SEED [PLATFORM]]]: COUNT random graphs (default 20000) from SEED on, on every platform of this machine, or
// those whose names begin so. Without a name the compilers take turns: each build of 64 graphs is by one of them.
// Up to 64 graphs meet all of them.
// A failure prints how to run its graph alone, and saves a shrunken one in the folder `found` beside the program.
// fuzz_compiler FILE: the graph in that file, as a failure saved it.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "compiler_fuzz/fuzz.h"
#include "ir/parse.h"
#include "testing/random_graph.h"

namespace {

using namespace zoe;
using namespace zoe::fuzz;

constexpr std::size_t kGraphsPerBuild = 64;

// In a long run each build is by one compiler: OpenCL's, which is slow, takes every sixteenth, the others take turns.
std::vector<Runner> runners_of_build(const std::vector<Runner>& all, std::size_t build) {
  constexpr std::size_t kOpenCLTurns = 16;
  std::vector<Runner> chosen, generated, opencl;
  for (const Runner& each : all)
    (each.name.starts_with("opencl") ? opencl : each.name.starts_with("cpu generated") ? generated : chosen).push_back(each);
  if (!opencl.empty() && build % kOpenCLTurns == kOpenCLTurns - 1) chosen.push_back(opencl[build / kOpenCLTurns % opencl.size()]);
  else if (!generated.empty()) chosen.push_back(generated[build % generated.size()]);
  return chosen;
}

// Prints, shrinks and saves.
void report_failure(const Graph& graph, const Failure& failure, const std::vector<Runner>& runners, const std::string& rerun) {
  fmt::print("FAILED {} on {}: {}\n  alone: ./dev fuzz-compiler {}\n", graph.name, failure.runner, failure.what, rerun);
  const auto runner = std::find_if(runners.begin(), runners.end(), [&](const Runner& each) { return each.name == failure.runner; });
  if (runner == runners.end()) return;
  std::vector<Runner> needed{*runner};
  if (runner->is_exact && runner->name != runners.front().name) needed.insert(needed.begin(), runners.front());
  std::string last;
  const auto fails = [&](const Graph& smaller) {
    const Report again = check({smaller}, needed, !runner->is_exact || needed.size() == 1);
    for (const Failure& each : again.failures)
      if (each.runner == failure.runner) {
        last = each.what;
        return true;
      }
    return false;
  };
  if (!fails(graph)) {
    fmt::print("  not alone: only beside the other graphs of its build\n");
    return;
  }
  std::string what = last;
  const Graph small = shrink(graph, [&](const Graph& smaller) { return fails(smaller) && (what = last, true); });
  const std::filesystem::path folder = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "found";
  std::filesystem::create_directories(folder);
  const std::filesystem::path file = folder / (graph.name + ".txt");
  std::ofstream(file) << print(small);
  fmt::print("  shrunken: ./dev fuzz-compiler {}\n  {}\n{}", file.string(), what, print(small));
}

int run(int argc, char** argv) {
  const auto all = all_runners();
  if (argc == 2 && std::filesystem::is_regular_file(argv[1])) {
    std::ifstream in(argv[1]);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    const Report report = check({parse(text)}, all);
    for (const Failure& each : report.failures) fmt::print("FAILED on {}: {}\n", each.runner, each.what);
    if (report.failures.empty()) fmt::print("passes\n");
    return report.failures.empty() ? 0 : 1;
  }
  const std::uint64_t count = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 20000;
  const std::uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
  if (count == 0) {
    fmt::print(stderr, "fuzz_compiler [COUNT [SEED [PLATFORM]]] | fuzz_compiler FILE\n");
    return 2;
  }
  const std::string platform = argc > 3 ? argv[3] : "";
  std::vector<Runner> runners;
  for (const Runner& each : all)
    if (runners.empty() || each.name.starts_with(platform)) runners.push_back(each);
  Report total;
  std::map<std::string, std::pair<double, std::size_t>> times;  // seconds and graphs
  const auto start = std::chrono::steady_clock::now();
  std::size_t build = 0;
  for (std::uint64_t done = 0; done < count;) {
    std::vector<Graph> graphs;
    for (; graphs.size() < kGraphsPerBuild && done < count; ++done)
      graphs.push_back(testing::RandomGraph(seed + done, testing::GraphKind::wide).graph());
    const bool is_long = platform.empty() && count > kGraphsPerBuild;
    const std::vector<Runner> now = is_long ? runners_of_build(runners, build++) : runners;
    const Report report = check(graphs, now);
    for (const Failure& failure : report.failures)
      report_failure(graphs[failure.graph], failure, runners, fmt::format("1 {}", graphs[failure.graph].name.substr(5)));
    total.failures.insert(total.failures.end(), report.failures.begin(), report.failures.end());
    total.steps += report.steps, total.chains += report.chains;
    total.elements += report.elements, total.bounded += report.bounded;
    total.reference_seconds += report.reference_seconds;
    for (std::size_t i = 0; i < report.seconds.size(); ++i)
      times[now[i].name].first += report.seconds[i], times[now[i].name].second += graphs.size();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    fmt::print("{} graphs, {:.0f} s\n", done, seconds);
    std::fflush(stdout);
  }
  fmt::print(
      "{} failures; {} steps, {} of them chains; {:.1f} % of {} elements bounded\nseconds for 1000 graphs:", total.failures.size(),
      total.steps, total.chains,
      100 * static_cast<double>(total.bounded) / static_cast<double>(std::max<std::size_t>(total.elements, 1)), total.elements);
  for (const auto& [name, time] : times) fmt::print(" {} {:.1f},", name, time.first / static_cast<double>(time.second) * 1000);
  fmt::print(" reference {:.1f}\n", 1000 * total.reference_seconds / static_cast<double>(count));
  return total.failures.empty() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  ::setenv("POCL_KERNEL_CACHE", "0", 0);  // its own cache on disk would grow by all kernels
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
