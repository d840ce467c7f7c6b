// A timeline of plan runs, written as a trace that Perfetto (ui.perfetto.dev) and Chrome open: one track of phases, one of plan
// steps with what each read, wrote and computed, and one of those that work beside the others.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "compiler/run.h"

namespace zoe {

class Profile {
 public:
  void step(const StepTime& time);  // its plan must live until write()
  void phase(std::string name, StepClock::time_point begin, StepClock::time_point end);
  StepTimer timer();
  double seconds(bool (*of)(Opcode opcode)) const;  // of all steps of such nodes
  double waited_seconds() const;                    // that steps waited for those that work beside them

  // Times count from the first event. io error if the file cannot be written.
  void write(const std::filesystem::path& path) const;

 private:
  struct StepEvent {
    const Plan* plan;
    std::size_t step;
    StepClock::time_point begin, end;
    StepClock::duration waited;
  };
  struct PhaseEvent {
    std::string name;
    StepClock::time_point begin, end;
  };

  std::vector<StepEvent> steps_;
  std::vector<PhaseEvent> phases_;
};

}  // namespace zoe
