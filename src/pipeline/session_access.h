// For what looks into a session: its plans, and how they are run. Internal to this folder.
#pragma once

#include "pipeline/component.h"
#include "pipeline/session.h"
#include "pipeline/stage_run.h"

namespace zoe {

struct SessionAccess {
  static PlanRunner& runner(Session& session);
  static const BoundProgram& program(const Job& job);
  // Whose packed weights a runner is given.
  static const Component& component(const Session& session, const WeightStore& weights);
};

}  // namespace zoe
