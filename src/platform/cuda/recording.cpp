// Marks are events; recordings are graphs captured from a stream.

#include <fmt/format.h>

#include "base/error.h"
#include "platform/cuda/device.h"

namespace zoe::cuda {
namespace {

class EventMark : public Mark {
 public:
  EventMark(DevicePtr device, StreamHandle stream) : device_(std::move(device)) {
    device_->make_current();
    device_->check_status(device_->api.event_create(&event_, 0), "making an event");
    const Status status = device_->api.event_record(event_, stream);
    if (status != kSuccess) device_->api.event_destroy(event_);
    device_->check_status(status, "queueing an event");
  }
  ~EventMark() override { device_->api.event_destroy(event_); }
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
  double seconds_since(Mark& earlier) override {
    float milliseconds = 0;
    device_->make_current();
    device_->check_status(device_->api.event_elapsed(&milliseconds, static_cast<EventMark&>(earlier).event_, event_),
                          "asking for the time between events");
    return static_cast<double>(milliseconds) * 1e-3;
  }
  EventHandle handle() const { return event_; }

 private:
  const DevicePtr device_;
  EventHandle event_ = nullptr;
};

struct GraphRecording : Recording {
  explicit GraphRecording(DevicePtr device_) : device(std::move(device_)) {}
  ~GraphRecording() override {
    if (exec) device->api.graph_exec_destroy(exec);
  }
  const DevicePtr device;
  GraphExecHandle exec = nullptr;
  std::shared_ptr<Buffer> fault;  // of the stream that recorded it, where some kernel in it may report
};

}  // namespace

std::unique_ptr<Mark> DeviceStream::mark() { return std::make_unique<EventMark>(device_, handle_); }

void DeviceStream::wait_for(Mark& mark) {
  device_->make_current();
  device_->check_status(device_->api.stream_wait_event(handle_, static_cast<EventMark&>(mark).handle(), 0), "waiting for an event");
}

void DeviceStream::record_begin() {
  device_->make_current();
  fault_recorded_ = false;
  // Of this thread only: other threads may allocate and free meanwhile. Frees wait for what was queued before the recording.
  const std::lock_guard lock(device_->streams_mutex_);
  device_->check_status(device_->api.event_record(queued_, handle_), "recording an event");
  recording = true;
  const Status status = device_->api.capture_begin(handle_, kCaptureThreadLocal);
  recording = status == kSuccess;
  device_->check_status(status, "recording a stream");
}

std::unique_ptr<Recording> DeviceStream::record_end(std::string* why) {
  device_->make_current();
  auto made = std::make_unique<GraphRecording>(device_);
  if (fault_recorded_) made->fault = fault_;
  GraphHandle graph = nullptr;
  Status status = kSuccess;
  {
    const std::lock_guard lock(device_->streams_mutex_);
    status = device_->api.capture_end(handle_, &graph);
    recording = false;
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

void DeviceStream::replay(const Recording& kept) {
  const auto& graph = static_cast<const GraphRecording&>(kept);
  if (graph.fault) to_look_at_.insert(graph.fault);
  device_->make_current();
  device_->check_status(device_->api.graph_launch(graph.exec, handle_), "replaying a recording");
}

}  // namespace zoe::cuda
