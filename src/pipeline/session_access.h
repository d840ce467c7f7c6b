// For what looks into a session: its plans, and how they are run. Internal to this folder.
#pragma once

#include "pipeline/session.h"
#include "pipeline/stage_run.h"

namespace zoe {

struct SessionAccess {
  static PlanRunner& runner(Session& session);
  static const BoundProgram& program(const Job& job);
};

}  // namespace zoe
