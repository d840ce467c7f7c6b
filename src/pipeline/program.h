// What one request runs, as data: stages, the plans each of them runs, and the named tensors that the plans' arguments are.
//
// A recipe lists them. Everything else follows from the list: arguments are bound to tensors by name; a tensor lives from the
// first stage that names it to the last; which weights are needed when; and the memory statement is worked out from what is
// allocated, not beside it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/block_stream.h"
#include "compiler/compile.h"
#include "pipeline/statement.h"

namespace zoe {

// A graph whose results have names; its inputs have them already.
struct NamedGraph {
  Graph graph;
  std::vector<std::string> outputs;
  // Tensors that belong to it though no argument is one: states that only the graph of later groups reads.
  std::vector<std::pair<std::string, Type>> tensors = {};
};

// A compiled one.
struct NamedPlan {
  Plan plan;
  std::vector<std::string> outputs;
  std::vector<std::pair<std::string, Type>> tensors;
};

struct ProgramPlan {
  std::string name;  // within the program: "step"
  // All that the graph follows from, beside the model and its dtype: plans of equal keys are one, also those of other requests.
  std::string key;
  std::function<NamedGraph()> trace;
  // Whose weights it runs with, where it follows from them, too: those that stay as they are stored. Filled in by a session.
  std::string component = {};
  int device = 0;  // of a group, by rank, that it is compiled for; all that its uses name lies there
};

// What belongs to another device of a group than the first has its name behind this: "@1.latents".
std::string device_prefix(int device);

// A plan as a stage runs it.
struct PlanUse {
  std::string name;       // within the stage
  std::string plan;       // of the program
  std::string component;  // whose weights it runs with; "": it has none
  // The tensor that an argument is, by the argument's name, where it has another: {"latent", "latents"}. A name that ends in * is
  // that of all arguments that begin so: {"state_*", "decoder.state_*"}.
  std::map<std::string, std::string> tensors = {};
};

struct ProgramTensor {
  std::string name;
  Type type;
  bool zeroed = false;  // when its first stage begins; else it holds anything
  int device = 0;       // where it lies
};

struct Stage {
  std::string name;  // "denoise, low noise"
  Phase phase;
  std::vector<PlanUse> uses;
  std::vector<ProgramTensor> tensors = {};  // beyond the plans' arguments
  std::size_t caller_bytes = 0;             // what the caller needs meanwhile: a video encoder
  bool may_stream = false;                  // its weights may come and go block by block: they are one component's
};

struct Program {
  std::vector<ProgramPlan> plans;
  std::vector<Stage> stages;
  std::size_t repeated_from = 0;  // stages from here on run once for each of `repeats` videos
  std::size_t repeats = 1;
};

// How long weights and tensors stay. `last_use`: until the last stage that uses them; `repeats`: weights of repeated stages until
// the last video is done; `always`: all of them, for the next request.
enum class Residency : std::uint8_t { last_use, repeats, always };

// How the weights of a stage come and go; nothing: they are loaded before it.
using StageStreaming = std::optional<Streaming>;

// From which stage on a component that first runs later may be on the device.
using Ahead = std::map<std::string, std::size_t, std::less<>>;

// A program with its compiled plans: who needs what, when. Checked when made: every use names a plan, an argument in two uses of
// one name has one type, and what is updated in place may be (Plan::can_update_in_place).
class BoundProgram {
 public:
  // `plans`: of each of the program's, in its order; they must outlive this.
  BoundProgram(Program program, std::vector<const NamedPlan*> plans);

  const Program& program() const { return program_; }
  const NamedPlan& plan(std::string_view name) const { return *plans_[number(name)]; }

  struct Argument {
    std::string name, tensor;
    Type type;
  };
  struct Use {
    const PlanUse* use;
    const NamedPlan* plan;
    std::vector<Argument> inputs, outputs;
    int device = 0;
    bool exchanges = false;  // with other devices: it is stopped before it begins, or not at all
  };
  const std::vector<Use>& uses(std::size_t stage) const { return uses_[stage]; }
  // How many devices run a stage with weights: the first of a group.
  std::size_t devices(std::size_t stage) const;

  struct Lifetime {
    Type type;
    bool zeroed;
    std::size_t first, last;  // stages
    int device;
  };
  const std::map<std::string, Lifetime>& tensors() const { return tensors_; }

  // Whether `component` is used by `stage`, or again by one that comes after it (with `more_videos`: in the next video's stages).
  bool uses_component(std::size_t stage, std::string_view component) const;
  bool needs_component_after(std::size_t stage, std::string_view component, bool more_videos) const;

  // Those of a stage, each once, whose weights are of this component.
  std::vector<const Plan*> plans_of(std::size_t stage, std::string_view component) const;
  // The component that the stage behind this one denoises with, where it is another: its weights are prepared meanwhile. Else "".
  std::string prepares(std::size_t stage) const;
  // Of a component that is loaded as a whole: how many bytes have to be made of what is stored. All, if nobody says.
  void say_made_bytes(const std::string& component, std::size_t bytes) { made_bytes_[component] = bytes; }
  // Of the first device: no other of a group takes more. `streaming`: of each stage; `slots`: see block_slots(); `host_bytes`: for
  // packed weights of a component beside the device's;
  MemoryStatement memory(Residency residency, const std::vector<StageStreaming>& streaming, std::size_t slots,
                         std::size_t host_bytes, std::size_t always, const Ahead& ahead = {}) const;

 private:
  std::size_t number(std::string_view plan) const;
  void bind(std::size_t stage);
  void add_tensor(std::size_t stage, const std::string& name, const Type& type, bool zeroed, int device);

  Program program_;
  std::vector<const NamedPlan*> plans_;
  std::vector<std::vector<Use>> uses_;  // of each stage
  std::map<std::string, Lifetime> tensors_;
  std::map<std::string, std::size_t> made_bytes_;  // by component
};

}  // namespace zoe
