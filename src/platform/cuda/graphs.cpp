// Events of a stream, and graphs captured from it.

#include <fmt/format.h>

#include "base/error.h"
#include "platform/cuda/device.h"

namespace zoe::cuda {
namespace {

class DeviceEvent : public Event {
 public:
  DeviceEvent(DevicePtr device, StreamHandle stream) : device_(std::move(device)) {
    device_->make_current();
    device_->check_status(device_->api.event_create(&event_, 0), "making an event");
    const Status status = device_->api.event_record(event_, stream);
    if (status != kSuccess) device_->api.event_destroy(event_);
    device_->check_status(status, "queueing an event");
  }
  ~DeviceEvent() override { device_->api.event_destroy(event_); }
  bool reached() override {
    device_->make_current();
    const Status status = device_->api.event_query(event_);
    if (status == kNotReady) return false;
    device_->check_status(status, "asking for an event");
    return true;
  }
  void wait() override {
    device_->make_current();
    device_->check_status(device_->api.event_synchronize(event_), "waiting for the device");
  }
  double seconds_since(Event& earlier) override {
    float milliseconds = 0;
    device_->make_current();
    device_->check_status(device_->api.event_elapsed(&milliseconds, static_cast<DeviceEvent&>(earlier).event_, event_),
                          "asking for the time between events");
    return static_cast<double>(milliseconds) * 1e-3;
  }
  EventHandle handle() const { return event_; }

 private:
  const DevicePtr device_;
  EventHandle event_ = nullptr;
};

struct DriverGraph : CapturedGraph {
  explicit DriverGraph(DevicePtr device_) : device(std::move(device_)) {}
  ~DriverGraph() override {
    if (exec) device->api.graph_exec_destroy(exec);
  }
  const DevicePtr device;
  GraphExecHandle exec = nullptr;
  std::shared_ptr<Buffer> fault;  // of the stream that captured it, where some kernel in it may report
};

}  // namespace

std::unique_ptr<Event> DeviceStream::record_event() { return std::make_unique<DeviceEvent>(device_, handle_); }

void DeviceStream::wait_for(Event& event) {
  device_->make_current();
  device_->check_status(device_->api.stream_wait_event(handle_, static_cast<DeviceEvent&>(event).handle(), 0),
                        "waiting for an event");
}

void DeviceStream::capture_begin() {
  device_->make_current();
  fault_captured_ = false;
  // Of this thread only: other threads may allocate and free meanwhile. Frees wait for what was queued before the capture.
  const std::lock_guard lock(device_->streams_mutex_);
  device_->check_status(device_->api.event_record(queued_, handle_), "recording an event");
  capturing = true;
  const Status status = device_->api.capture_begin(handle_, kCaptureThreadLocal);
  capturing = status == kSuccess;
  device_->check_status(status, "capturing a stream");
}

std::unique_ptr<CapturedGraph> DeviceStream::capture_end(std::string* why) {
  device_->make_current();
  auto made = std::make_unique<DriverGraph>(device_);
  if (fault_captured_) made->fault = fault_;
  GraphHandle graph = nullptr;
  Status status = kSuccess;
  {
    const std::lock_guard lock(device_->streams_mutex_);
    status = device_->api.capture_end(handle_, &graph);
    capturing = false;
  }
  if (status == kSuccess) status = device_->api.graph_instantiate(&made->exec, graph, 0);
  if (graph) device_->api.graph_destroy(graph);
  if (status == kSuccess) return made;
  const char* name = nullptr;
  device_->api.error_name(status, &name);
  *why = fmt::format("{} ({})", name ? name : "unknown", status);
  made->exec = nullptr;
  return nullptr;
}

void DeviceStream::launch(const CapturedGraph& kept) {
  const auto& graph = static_cast<const DriverGraph&>(kept);
  if (graph.fault) to_look_at_.insert(graph.fault);
  device_->make_current();
  device_->check_status(device_->api.graph_launch(graph.exec, handle_), "launching a captured graph");
}

}  // namespace zoe::cuda
