// One tensor of weights in whatever encoding it is stored. All that packs or uploads weights sees them through this, so that an
// encoding is known in one place (src/checkpoint).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/dtype.h"
#include "base/shape.h"

namespace zoe {

struct Encoding;  // base/encoding.h

// How a tensor is stored, where a device may keep it so and widen it when it is used.
struct Storage {
  const Encoding* encoding = nullptr;  // of its elements, in their order; null: it is stored in no such way
  bool is_scaled = false;              // an element is its f32 value in the encoding times the f32 scale of its row (first axis)
  explicit operator bool() const { return encoding != nullptr; }
};

// Immutable, and usable from any thread. Elements are numbered in row-major order.
class WeightReader {
 public:
  virtual ~WeightReader() = default;
  virtual const Shape& shape() const = 0;

  // Elements [begin, begin + count) as f32, bf16 or f16, rounded once from what the stored bytes mean. Encodings in blocks and
  // sums of products are cheapest in whole rows. Throws nothing where fetch() did not.
  virtual void read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const = 0;
  // The stored bytes if they are the elements in `dtype` already, else null. At any alignment.
  virtual const std::byte* dense(DType) const { return nullptr; }

  // Whether it can be had as it is stored, by what follows; read() gives the same numbers.
  virtual Storage storage() const { return {}; }
  // The bytes of elements [begin, begin + count), whole blocks.
  virtual void read_blocks(std::int64_t begin, std::int64_t count, std::byte* out) const;
  // Those of all elements if they lie in memory one behind the other, else null. At any alignment.
  virtual const std::byte* blocks() const { return nullptr; }
  // Scales of rows [begin, begin + count), where the storage has them.
  virtual void read_scales(std::int64_t begin, std::int64_t count, float* out) const;

  // What is behind it, in a file perhaps.
  virtual std::size_t stored_bytes() const = 0;
  // Where its bytes begin: readers are best used in this order. Null: anywhere.
  virtual const void* place() const { return nullptr; }
  // Lets the system begin to read the bytes of these elements; does not wait, and fails silently.
  virtual void read_ahead(std::int64_t /*begin*/, std::int64_t /*count*/) const {}
  // They are not wanted again soon: the system may take the memory back that it has them in.
  virtual void drop(std::int64_t /*begin*/, std::int64_t /*count*/) const {}
  // Waits until they are in memory, so that reading them finds them there. Error of kind io where they cannot be read.
  virtual void fetch(std::int64_t /*begin*/, std::int64_t /*count*/) const {}

  std::int64_t count() const { return shape().count(); }
};
using WeightPtr = std::shared_ptr<const WeightReader>;

// A dense tensor in memory that somebody else owns, at any alignment.
class DenseWeight : public WeightReader {
 public:
  DenseWeight(DType dtype, Shape shape, const std::byte* data) : dtype_(dtype), shape_(std::move(shape)), data_(data) {}
  const Shape& shape() const override { return shape_; }
  void read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const override;
  const std::byte* dense(DType dtype) const override { return dtype == dtype_ ? data_ : nullptr; }
  std::size_t stored_bytes() const override { return static_cast<std::size_t>(shape_.count()) * size_of(dtype_); }
  const void* place() const override { return data_; }

 private:
  DType dtype_;
  Shape shape_;
  const std::byte* data_;
};

inline WeightPtr dense_weight(DType dtype, Shape shape, const void* data) {
  return std::make_shared<DenseWeight>(dtype, std::move(shape), static_cast<const std::byte*>(data));
}

// Several tensors as the rows of one, in their order; their extents behind the first agree with those of `shape`.
class JoinedWeight : public WeightReader {
 public:
  JoinedWeight(Shape shape, std::vector<WeightPtr> parts);
  const Shape& shape() const override { return shape_; }
  void read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const override;
  std::size_t stored_bytes() const override;
  const void* place() const override { return parts_.front()->place(); }
  void read_ahead(std::int64_t begin, std::int64_t count) const override;
  void drop(std::int64_t begin, std::int64_t count) const override;
  void fetch(std::int64_t begin, std::int64_t count) const override;

 private:
  // Calls body(part, begin, count, behind) for each part that has some of the elements; `behind` is how many came before.
  template <class Body>
  void each(std::int64_t begin, std::int64_t count, const Body& body) const;

  Shape shape_;
  std::vector<WeightPtr> parts_;
};

}  // namespace zoe
