#include "platform/group.h"

#include <algorithm>

#include "base/error.h"

namespace zoe {

void Exchange::run(std::size_t member, Stream& stream, Slot from, std::size_t step, Slot to, std::size_t piece_bytes) {
  Post& own = posts_[member];
  own.from = from, own.step = step, own.made = stream.record_event();
  meet(member);
  for (std::size_t k = 0; k < posts_.size(); ++k) {
    // Each begins with itself and goes on with the next one, so that no device is asked by all at a time.
    const std::size_t i = (member + k) % posts_.size();
    const Post& of = posts_[i];
    const Slot piece{of.from.buffer, of.from.offset + member * of.step}, place{to.buffer, to.offset + i * piece_bytes};
    if (i == member) {
      own.device->copy(stream, piece, place, piece_bytes);
      continue;
    }
    stream.wait_for(*of.made);
    own.device->pull(stream, place, *of.device, piece, piece_bytes);
  }
  own.taken = stream.record_event();
  meet(member);  // from here on `made` may be another's, and `taken` stays until all have met again
  for (std::size_t i = 0; i < posts_.size(); ++i)  // what was handed out may be overwritten from here on
    if (i != member) stream.wait_for(*posts_[i].taken);
}

std::unique_ptr<Event> Exchange::start(std::size_t member, Stream& stream, Slot from, std::size_t step, Slot to,
                                       std::size_t piece_bytes) {
  std::unique_ptr<Stream>& beside = posts_[member].beside;
  if (!beside) beside = posts_[member].device->make_stream();
  try {
    beside->wait_for(*stream.record_event());
    run(member, *beside, from, step, to, piece_bytes);
    return beside->record_event();
  } catch (...) {
    try {  // nobody else waits for what it was given, and its memory may go next
      beside->synchronize();
    } catch (const Error&) {  // what failed first is what is told
    }
    throw;
  }
}

void Exchange::give_up() noexcept {
  const std::lock_guard lock(mutex_);
  given_up_ = true;
  changed_.notify_all();
}

void Exchange::recover() {
  const std::lock_guard lock(mutex_);
  given_up_ = false;
  waiting_ = 0;
  for (Post& post : posts_) post.is_here = false, post.made = nullptr, post.taken = nullptr;
}

void Exchange::meet(std::size_t member) {
  std::unique_lock lock(mutex_);
  const std::string platform = posts_[member].device->info().platform;
  const auto check_on = [&] {
    check(!given_up_, ErrorKind::device, platform, "device {} waits for no other: one of its group has failed.",
          posts_[member].device->rank());
  };
  check_on();
  posts_[member].is_here = true;
  if (++waiting_ == posts_.size()) {
    waiting_ = 0;
    ++meetings_;
    for (Post& post : posts_) post.is_here = false;
    changed_.notify_all();
    return;
  }
  const bool came = changed_.wait_for(lock, patience_, [&, before = meetings_] { return given_up_ || meetings_ != before; });
  check_on();
  if (came) return;
  const auto missing = std::find_if(posts_.begin(), posts_.end(), [](const Post& post) { return !post.is_here; });
  fail(ErrorKind::device, platform,
       "device {} did not come to an exchange within {} s, device {} waited. It hangs or is lost; try without it (--platform).",
       missing->device->rank(), std::chrono::duration<double>(patience_).count(), posts_[member].device->rank());
}

namespace {

constexpr std::chrono::minutes kPatience{10};  // a device's share between two exchanges, on slow cores, takes seconds

class ExchangeKernel : public Kernel {
 public:
  ExchangeKernel(const Node& node, std::shared_ptr<Exchange> exchange, std::size_t member)
      : exchange_(std::move(exchange)),
        member_(member),
        piece_bytes_(node.types[0].size_bytes() / static_cast<std::size_t>(node.types[0].shape.dim(0))),
        step_(node.opcode == Opcode::all_gather ? 0 : piece_bytes_) {}
  std::string_view implementation() const override { return "copies"; }
  bool can_capture() const override { return false; }  // what other devices hand out is known when they come
  void run(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot) const override {
    exchange_->run(member_, stream, inputs[0], step_, outputs[0], piece_bytes_);
  }
  bool works_beside() const override { return true; }
  std::unique_ptr<Event> start(Stream& stream, std::span<const Slot> inputs, std::span<const Slot> outputs) const override {
    return exchange_->start(member_, stream, inputs[0], step_, outputs[0], piece_bytes_);
  }

 private:
  const std::shared_ptr<Exchange> exchange_;
  const std::size_t member_, piece_bytes_, step_;
};

std::unique_ptr<Kernel> make_exchange_kernel(const Node& node, Platform& device) {
  const auto size = static_cast<int>(node.types[0].shape.dim(0));
  DeviceGroup* const group = device.group();
  check(group && group->size() % static_cast<std::size_t>(size) == 0, ErrorKind::unsupported, device.info().platform,
        "an exchange of {} devices: got {}, expected a group of them.", size, group ? group->size() : 1);
  return std::make_unique<ExchangeKernel>(node, group->among(device.rank(), size), static_cast<std::size_t>(device.rank() % size));
}

}  // namespace

Implementation exchange_row(Platform& device) {
  return {.name = "exchange", .of = is_exchange, .make = [&device](const Node& node, Making&) {
            return make_exchange_kernel(node, device);
          }};
}

std::unique_ptr<Platform> DeviceGroup::form(std::vector<std::unique_ptr<Platform>> devices) {
  ZOE_INTERNAL_CHECK(!devices.empty());
  std::unique_ptr<Platform> first = std::move(devices.front());
  if (devices.size() == 1) return first;
  const auto group = std::make_shared<DeviceGroup>();
  group->devices_.push_back(first.get());
  for (std::size_t i = 1; i < devices.size(); ++i) {
    group->devices_.push_back(devices[i].get());
    group->others_.push_back(std::move(devices[i]));
  }
  for (std::size_t rank = 0; rank < group->devices_.size(); ++rank) {
    group->devices_[rank]->group_ = group.get();
    group->devices_[rank]->rank_ = static_cast<int>(rank);
  }
  first->owned_group_ = group;
  return first;
}

std::shared_ptr<Exchange> DeviceGroup::among(int rank, int size) {
  const std::lock_guard lock(mutex_);
  const int first = rank / size * size;
  std::shared_ptr<Exchange>& exchange = exchanges_[{first, size}];
  if (!exchange) {
    const auto members = std::span(devices_).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(size));
    exchange = std::make_shared<Exchange>(members, kPatience);
  }
  return exchange;
}

void DeviceGroup::give_up() noexcept {
  const std::lock_guard lock(mutex_);
  for (const auto& [ranks, exchange] : exchanges_) exchange->give_up();
}

void DeviceGroup::recover() {
  const std::lock_guard lock(mutex_);
  for (const auto& [ranks, exchange] : exchanges_) exchange->recover();
}

}  // namespace zoe
