#include "server/metrics.h"

#include <fmt/format.h>

#include <algorithm>

namespace zoe::server {

namespace {

// What each number is, a line of help; a name that is not here is ours to add.
constexpr std::pair<std::string_view, std::string_view> kHelp[] = {
    {"zoe_http_requests_total", "Requests answered, by route and status"},
    {"zoe_http_request_seconds", "From the whole request to its answer, by route"},
    {"zoe_http_connections", "Connections that are open"},
    {"zoe_jobs_total", "Jobs that ended, by how"},
    {"zoe_jobs_accepted_total", "Jobs that were taken"},
    {"zoe_jobs_resumed_total", "Jobs that went on from a saved state"},
    {"zoe_queue_length", "Jobs that wait"},
    {"zoe_jobs_running", "Jobs on devices"},
    {"zoe_queue_seconds", "From a job's acceptance to its begin"},
    {"zoe_job_seconds", "From a job's begin to its end"},
    {"zoe_stage_seconds", "Seconds of a completed job by stage"},
    {"zoe_first_step_seconds", "From a job's begin to the end of its first step"},
    {"zoe_step_seconds", "One step of the denoising"},
    {"zoe_steps_total", "Steps of the denoising done"},
    {"zoe_frames_total", "Frames decoded"},
    {"zoe_models_loaded_total", "Models opened on a device"},
    {"zoe_models_dropped_total", "Models that left a device to make room"},
    {"zoe_model_hits_total", "Jobs whose model was on the device"},
    {"zoe_plans_compiled_total", "Plans that jobs had to compile"},
    {"zoe_plan_hits_total", "Jobs that compiled no plan"},
    {"zoe_weight_bytes_loaded_total", "Bytes of weights read for jobs"},
    {"zoe_device_memory_bytes", "Memory of a device: peak taken, free now, total"},
    {"zoe_data_bytes", "Bytes of finished videos on the disk"},
};

std::string braces(std::string_view labels, std::string_view more = {}) {
  if (labels.empty() && more.empty()) return {};
  return fmt::format("{{{}{}{}}}", labels, labels.empty() || more.empty() ? "" : ",", more);
}

void head(std::string& text, std::string_view name, std::string_view type) {
  const auto* const help = std::find_if(std::begin(kHelp), std::end(kHelp), [&](const auto& row) { return row.first == name; });
  if (help != std::end(kHelp)) text += fmt::format("# HELP {} {}\n", name, help->second);
  text += fmt::format("# TYPE {} {}\n", name, type);
}

}  // namespace

void Metrics::count(std::string_view name, std::string_view labels, double by) {
  const std::lock_guard lock(mutex_);
  counters_[std::string(name)][std::string(labels)] += by;
}

void Metrics::observe(std::string_view name, double seconds, std::string_view labels) {
  const std::lock_guard lock(mutex_);
  Histogram& histogram = histograms_[std::string(name)][std::string(labels)];
  const auto bound = std::lower_bound(kBounds.begin(), kBounds.end(), seconds);
  ++histogram.counts[static_cast<std::size_t>(bound - kBounds.begin())];
  histogram.sum += seconds;
  ++histogram.count;
}

double Metrics::value(std::string_view name, std::string_view labels) const {
  const std::lock_guard lock(mutex_);
  const auto found = counters_.find(name);
  if (found == counters_.end()) return 0;
  const auto of = found->second.find(labels);
  return of == found->second.end() ? 0 : of->second;
}

std::string Metrics::text(const std::vector<Gauge>& now) const {
  std::string text;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, rows] : counters_) {
      head(text, name, "counter");
      for (const auto& [labels, value] : rows) text += fmt::format("{}{} {}\n", name, braces(labels), value);
    }
    for (const auto& [name, rows] : histograms_) {
      head(text, name, "histogram");
      for (const auto& [labels, histogram] : rows) {
        std::uint64_t below = 0;
        for (std::size_t i = 0; i < kBounds.size(); ++i) {
          below += histogram.counts[i];
          text += fmt::format("{}_bucket{} {}\n", name, braces(labels, fmt::format("le=\"{}\"", kBounds[i])), below);
        }
        text += fmt::format("{}_bucket{} {}\n", name, braces(labels, "le=\"+Inf\""), histogram.count);
        text +=
            fmt::format("{}_sum{} {}\n{}_count{} {}\n", name, braces(labels), histogram.sum, name, braces(labels), histogram.count);
      }
    }
  }
  std::string_view last;
  for (const Gauge& gauge : now) {
    if (gauge.name != last) head(text, gauge.name, "gauge");
    last = gauge.name;
    text += fmt::format("{}{} {}\n", gauge.name, braces(gauge.labels), gauge.value);
  }
  return text;
}

}  // namespace zoe::server
