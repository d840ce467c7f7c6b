// What routes and devices use alike. All of it is the server's, and outlives them.
#pragma once

#include "server/folders.h"
#include "server/job_store.h"
#include "server/jobs.h"
#include "server/metrics.h"
#include "server/models.h"
#include "server/pace.h"

namespace zoe::server {

struct Shared {
  const Models& models;
  const Folders& folders;
  JobStore& store;
  Jobs& jobs;
  Pace& pace;
  Metrics& metrics;
};

}  // namespace zoe::server
