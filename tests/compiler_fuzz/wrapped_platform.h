// A platform that is another one but for what a derived class changes.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "platform/platform.h"

namespace zoe::fuzz {

class WrappedPlatform : public Platform {
 public:
  explicit WrappedPlatform(std::unique_ptr<Platform> platform) : platform_(std::move(platform)) {}
  const DeviceInfo& info() const override { return platform_->info(); }
  std::uint64_t free_bytes() const override { return platform_->free_bytes(); }
  bool host_addressable() const override { return platform_->host_addressable(); }
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
  bool takes_epilogue(const Node& product) const override { return platform_->takes_epilogue(product); }
  Support merges_products(const Node& merged) const override { return platform_->merges_products(merged); }
  Support keeps_stored(const Encoding& encoding) const override { return platform_->keeps_stored(encoding); }
  std::unique_ptr<Kernel> make_kernel(const Node& node) override { return platform_->make_kernel(node); }
  std::vector<std::unique_ptr<Kernel>> make_kernels(std::span<const Node* const> nodes) override {
    return platform_->make_kernels(nodes);
  }

 private:
  const std::unique_ptr<Platform> platform_;
};

}  // namespace zoe::fuzz
