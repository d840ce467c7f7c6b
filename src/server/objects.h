// What the server's answers hold, as JSON (docs/serve.md).
#pragma once

#include <string>
#include <vector>

#include "pipeline/statement.h"
#include "server/jobs.h"
#include "server/models.h"

namespace zoe::server {

std::string video_object(const JobView& view, double keep_seconds);
std::string list_object(const std::vector<JobView>& videos, bool has_more, double keep_seconds);

struct LoadedModel {
  const ServedModel* model;
  std::vector<std::string> devices;  // that have it
};
std::string model_object(const LoadedModel& model, double created_at);
std::string models_object(const std::vector<LoadedModel>& all, const RequestLimits& limits, double created_at);

struct PlanAnswer {
  std::string model, device, seconds;
  Settled settled;
  MemoryStatement memory;
  std::string refusal;
  std::optional<double> estimate;
  bool same_size = false;
  std::int64_t queue_length = 0;
  std::optional<double> queue_seconds;
  std::vector<std::string> notes;
};
std::string plan_object(const PlanAnswer& plan);

// Seconds of a video of so many frames, as text: "5" of 81 at 16.
std::string seconds_text(std::int64_t num_frames, double fps);

}  // namespace zoe::server
