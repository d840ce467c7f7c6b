// A recipe: what one member of the Wan family does with its components to answer a request.
//
//   recipe.plan(request, context)   -> Work: the request's defaults and sizes settled, and a Program (stages, plans, tensors)
//   work.run(stage, video, run)     -> does one stage: uploads, runs plans, hands out frames
//
// A session compiles the program's plans (or has them), states the memory, loads weights, allocates, and calls run() for each
// stage. A recipe never allocates and never loads: what it uses, its stages name.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/callbacks.h"
#include "pipeline/model.h"
#include "pipeline/program.h"
#include "pipeline/request.h"
#include "pipeline/statement.h"
#include "platform/platform.h"
#include "text/tokenizer.h"

namespace zoe {

class StageRun;

struct RecipeContext {
  const ModelConfig& model;
  const Tokenizer& tokenizer;
  DType dtype;
  Platform& platform;
  std::size_t free_bytes;  // of the device, with what the session holds counted as free
  // What the caller needs while frames are decoded, asked once the sizes are settled; may throw to refuse them. May be empty.
  const std::function<std::size_t(const Settled&)>& caller_bytes;
  Spelling spelling;                   // of fields in errors
  Parallel parallel = Parallel::none;  // how devices of the platform's group may share the work
};

class Work {
 public:
  virtual ~Work() = default;
  const Settled& settled() const { return settled_; }
  virtual Program program() const = 0;
  virtual void run(std::size_t stage, std::size_t video, StageRun& run) = 0;
  // Whether a stage has anything left to do that takes weights: one that lies before callbacks.resume has not.
  virtual bool takes_weights(std::size_t /*stage*/, std::size_t /*video*/, const Callbacks& /*callbacks*/) const { return true; }
  // Plans that other requests of this size will want, for a session to have them compiled in the same go.
  virtual std::vector<ProgramPlan> companions() const { return {}; }
  // Where the memory statement says no: turns to another program that needs less, and says in a notice what it does differently.
  // Empty: there is none.
  virtual std::string need_less(const MemoryStatement& /*memory*/) { return {}; }
  // What a user may change so that it fits: "Lower --width, --height or --num-frames".
  virtual std::string advice() const { return "Lower --width, --height or --num-frames"; }

 protected:
  Settled settled_;
};

class Recipe {
 public:
  virtual ~Recipe() = default;
  virtual std::string_view name() const = 0;                // "text to video"
  virtual Members member() const = 0;                       // one bit: which fields it takes
  virtual std::vector<std::string> components() const = 0;  // whose weights its stages use
  // invalid_argument names a field that makes no sense, out_of_memory what cannot fit by any plan.
  virtual std::unique_ptr<Work> plan(const Request& request, const RecipeContext& context) const = 0;
};

// The recipe of a model, by its configurations; unsupported if there is none.
std::unique_ptr<Recipe> make_recipe(const ModelConfig& model);

}  // namespace zoe
