#include "compiler/profile.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "ir/cost.h"

namespace zoe {

namespace {

using nlohmann::ordered_json;

constexpr int kPhaseTrack = 1, kStepTrack = 2, kBesideTrack = 3;

double microseconds(StepClock::duration duration) { return std::chrono::duration<double, std::micro>(duration).count(); }

// An event has no place for a value that says nothing: a rate per no time.
void add_rate(ordered_json& arguments, const char* name, double amount, double us) {
  if (us > 0) arguments[name] = amount / us / 1e3;  // per us to 10^9 per s
}

// What is the same each time a step runs.
struct StepInfo {
  std::string name;
  ordered_json arguments;
  double bytes, operations;
};

StepInfo info_of(const Step& step) {
  const Node& node = *step.node;
  StepInfo info;
  info.name = node.opcode == Opcode::fused || node.opcode == Opcode::call ? node.name
              : node.name.empty()                                         ? std::string(name(node.opcode))
                                                                          : fmt::format("{}: {}", node.name, name(node.opcode));
  const double read = bytes_read(node), written = bytes_written(node);
  info.bytes = read + written;
  info.operations = operations(node);
  ordered_json operands = ordered_json::array(), results = ordered_json::array();
  for (const Value& operand : node.inputs) operands.push_back(operand.type().str());
  for (const Type& type : node.types) results.push_back(type.str());
  info.arguments = {{"implementation", step.kernel->implementation()},
                    {"block", node.block},
                    {"operands", std::move(operands)},
                    {"results", std::move(results)},
                    {"bytes_read", read},
                    {"bytes_written", written},
                    {"operations", info.operations}};
  return info;
}

ordered_json event(std::string name, int track, double begin_us, double duration_us) {
  return {{"ph", "X"}, {"name", std::move(name)}, {"pid", 1}, {"tid", track}, {"ts", begin_us}, {"dur", duration_us}};
}

ordered_json track_name(int track, const char* name) {
  return {{"ph", "M"}, {"name", "thread_name"}, {"pid", 1}, {"tid", track}, {"args", {{"name", name}}}};
}

}  // namespace

void Profile::step(const StepTime& time) { steps_.push_back({&time.plan, time.step, time.begin, time.end, time.waited}); }

void Profile::phase(std::string name, StepClock::time_point begin, StepClock::time_point end) {
  phases_.push_back({std::move(name), begin, end});
}

StepTimer Profile::timer() {
  return [this](const StepTime& time) { step(time); };
}

double Profile::seconds(bool (*of)(Opcode opcode)) const {
  double total = 0;
  for (const StepEvent& event : steps_)
    if (of(event.plan->steps[event.step].node->opcode)) total += std::chrono::duration<double>(event.end - event.begin).count();
  return total;
}

double Profile::waited_seconds() const {
  double total = 0;
  for (const StepEvent& event : steps_) total += std::chrono::duration<double>(event.waited).count();
  return total;
}

void Profile::write(const std::filesystem::path& path) const {
  errno = 0;
  std::ofstream file(path, std::ios::binary);
  auto start = StepClock::time_point::max();
  for (const StepEvent& step : steps_) start = std::min(start, step.begin);
  for (const PhaseEvent& phase : phases_) start = std::min(start, phase.begin);

  file << "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n";
  file << track_name(kPhaseTrack, "phases").dump() << ",\n" << track_name(kStepTrack, "plan steps").dump();
  const auto works_beside = [](const StepEvent& step) { return step.plan->steps[step.step].kernel->works_beside(); };
  if (std::any_of(steps_.begin(), steps_.end(), works_beside)) file << ",\n" << track_name(kBesideTrack, "beside them").dump();
  for (const PhaseEvent& phase : phases_)
    file << ",\n"
         << event(phase.name, kPhaseTrack, microseconds(phase.begin - start), microseconds(phase.end - phase.begin)).dump();
  std::map<std::pair<const Plan*, std::size_t>, StepInfo> infos;
  for (const StepEvent& step : steps_) {
    const Step& planned = step.plan->steps[step.step];
    auto found = infos.find({step.plan, step.step});
    if (found == infos.end()) found = infos.emplace(std::pair(step.plan, step.step), info_of(planned)).first;
    const StepInfo& info = found->second;
    const double us = microseconds(step.end - step.begin);
    ordered_json line = event(info.name, works_beside(step) ? kBesideTrack : kStepTrack, microseconds(step.begin - start), us);
    line["cat"] = name(kind_of_work(*planned.node));
    line["args"] = info.arguments;
    line["args"]["plan"] = step.plan->graph.name;
    line["args"]["step"] = step.step;
    if (step.waited.count() > 0) line["args"]["waited_us"] = microseconds(step.waited);
    add_rate(line["args"], "GB/s", info.bytes, us);
    add_rate(line["args"], "GFLOP/s", info.operations, us);
    file << ",\n" << line.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  }
  file << "\n]}\n";
  file.close();
  check(file.good(), ErrorKind::io, "--profile", "cannot write the trace: {}. Check the folder and the space on its disk.",
        std::strerror(errno));
}

}  // namespace zoe
