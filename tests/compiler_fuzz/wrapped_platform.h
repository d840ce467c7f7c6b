// A platform that is another one but for what a derived class changes.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "platform/implementation.h"

namespace zoe::fuzz {

class WrappedPlatform : public Platform {
 public:
  explicit WrappedPlatform(std::unique_ptr<Platform> platform) : device_info(platform->info()), platform_(std::move(platform)) {}
  const DeviceInfo& info() const override { return device_info; }
  std::uint64_t free_bytes() const override { return platform_->free_bytes(); }
  std::shared_ptr<Buffer> allocate(std::size_t size_bytes, std::string_view what) override {
    return platform_->allocate(size_bytes, what);
  }
  std::unique_ptr<Stream> make_stream() override { return platform_->make_stream(); }
  void upload(Stream& stream, const void* host, Slot device, std::size_t size_bytes) override {
    platform_->upload(stream, host, device, size_bytes);
  }
  void download(Stream& stream, Slot device, void* host, std::size_t size_bytes) override {
    platform_->download(stream, device, host, size_bytes);
  }
  std::span<const Implementation> implementations() const override { return platform_->implementations(); }
  std::vector<Implemented> implement(std::span<const Node* const> nodes, const OverrideRules& rules) override {
    return platform_->implement(nodes, rules);
  }

  DeviceInfo device_info;

 private:
  const std::unique_ptr<Platform> platform_;
};

}  // namespace zoe::fuzz
