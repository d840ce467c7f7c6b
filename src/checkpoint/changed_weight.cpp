#include "checkpoint/changed_weight.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/nearest.h"
#include "checkpoint/thin_product.h"

namespace zoe {

namespace {

void fetch_all(const ChangeTensor& tensor) { tensor.weight->fetch(0, tensor.weight->count()); }

std::vector<float> read_all(const ChangeTensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.weight->count()));
  tensor.weight->read(0, tensor.weight->count(), DType::f32, values.data());
  return values;
}

// A piece at a time: large differences are not held.
void check_finite(const ChangeTensor& tensor) {
  constexpr std::int64_t kPiece = 1 << 14;
  std::vector<float> values(kPiece);
  const std::int64_t count = tensor.weight->count();
  for (std::int64_t begin = 0; begin < count; begin += kPiece) {
    const std::int64_t now = std::min(kPiece, count - begin);
    tensor.weight->read(begin, now, DType::f32, values.data());
    for (std::int64_t i = 0; i < now; ++i)
      if (const float value = values[static_cast<std::size_t>(i)]; !std::isfinite(value))
        fail(ErrorKind::invalid_argument, tensor.where,
             "bad value of {}: got {} as element {}, expected finite numbers. The file is broken; download or make it again.",
             in_quotes(tensor.key), value, begin + i);
  }
}

class ChangedWeight : public WeightReader {
 public:
  explicit ChangedWeight(WeightPtr base)
      : base_(std::move(base)), rows_(base_->shape().rank() > 1 ? base_->shape().dim(0) : 1), columns_(base_->count() / rows_) {}

  const Shape& shape() const override { return base_->shape(); }
  std::size_t stored_bytes() const override { return base_->stored_bytes(); }
  const void* place() const override { return base_->place(); }
  void read_ahead(std::int64_t begin, std::int64_t count) const override { base_->read_ahead(begin, count); }
  void drop(std::int64_t begin, std::int64_t count) const override { base_->drop(begin, count); }
  void fetch(std::int64_t begin, std::int64_t count) const override {
    base_->fetch(begin, count);
    made();
  }

  void read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const override {
    made();
    // Tiles: what a change multiplies with for some columns serves several rows, and blocks of stored encodings are whole.
    constexpr std::int64_t kRows = 16, kColumns = 256;
    const std::int64_t end = begin + count, last_row = (end - 1) / columns_;
    for (std::int64_t row0 = begin / columns_; count > 0 && row0 <= last_row; row0 += kRows) {
      const std::int64_t row1 = std::min(last_row, row0 + kRows - 1);
      const bool is_one = row0 == row1;
      const std::int64_t from = is_one ? std::max(begin - row0 * columns_, std::int64_t{0}) / kColumns * kColumns : 0;
      const std::int64_t until = is_one ? std::min(end - row0 * columns_, columns_) : columns_;
      for (std::int64_t column = from; column < until; column += kColumns)
        for (std::int64_t row = row0; row <= row1; ++row) {
          const std::int64_t first = std::max(begin, row * columns_ + column),
                             last = std::min(end, row * columns_ + std::min(columns_, column + kColumns));
          if (first >= last) continue;
          alignas(64) std::array<float, kColumns> values;
          read_piece(row, first - row * columns_, last - first, values.data());
          convert(values.data(), DType::f32,
                  static_cast<std::byte*>(out) + static_cast<std::size_t>(first - begin) * size_of(dtype), dtype,
                  static_cast<std::size_t>(last - first));
        }
    }
  }

 protected:
  // Elements [column, column + count) of a row, at most 256.
  virtual void read_piece(std::int64_t row, std::int64_t column, std::int64_t count, float* out) const = 0;
  virtual void make() const = 0;

  void read_base(std::int64_t row, std::int64_t column, std::int64_t count, float* out) const {
    base_->read(row * columns_ + column, count, DType::f32, out);
  }

  const WeightPtr base_;
  const std::int64_t rows_, columns_;

 private:
  void made() const {
    std::call_once(once_, [this] { make(); });
  }
  mutable std::once_flag once_;
};

class LowRank : public ChangedWeight {
 public:
  LowRank(WeightPtr base, ChangeTensor up, ChangeTensor down, double scale)
      : ChangedWeight(std::move(base)), up_(std::move(up)), down_(std::move(down)), scale_(scale) {}

 private:
  void make() const override {
    for (const ChangeTensor* tensor : {&up_, &down_}) {
      fetch_all(*tensor);
      check_finite(*tensor);
    }
    product_.emplace(*up_.weight, *down_.weight, scale_);
    ZOE_INTERNAL_CHECK(product_->rows() * product_->columns() == rows_ * columns_);
  }
  void read_piece(std::int64_t row, std::int64_t column, std::int64_t count, float* out) const override {
    read_base(row, column, count, out);
    product_->add(row, column, count, out);
  }

  ChangeTensor up_, down_;
  double scale_;
  mutable std::optional<ThinProduct> product_;
};

class LowRankFactor : public WeightReader {
 public:
  LowRankFactor(std::vector<LowRankChange> changes, bool is_up, Shape shape)
      : changes_(std::move(changes)), is_up_(is_up), shape_(std::move(shape)) {}

  const Shape& shape() const override { return shape_; }
  std::size_t stored_bytes() const override {
    std::size_t sum = 0;
    for (const LowRankChange& each : changes_) sum += tensor(each).weight->stored_bytes();
    return sum;
  }
  const void* place() const override { return changes_.empty() ? nullptr : tensor(changes_.front()).weight->place(); }
  void fetch(std::int64_t, std::int64_t) const override { values(); }
  void read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const override {
    convert(values().data() + begin, DType::f32, out, dtype, static_cast<std::size_t>(count));
  }

 private:
  const ChangeTensor& tensor(const LowRankChange& change) const { return is_up_ ? change.up : change.down; }
  const std::vector<float>& values() const {
    std::call_once(once_, [this] { make(); });
    return values_;
  }
  void make() const {
    const std::int64_t lines = shape_.dim(0), width = shape_.dim(1);
    values_.resize(static_cast<std::size_t>(lines * width));
    std::int64_t first = 0;
    for (const LowRankChange& each : changes_) {
      fetch_all(tensor(each));
      check_finite(tensor(each));
      const std::vector<float> stored = read_all(tensor(each));
      const std::int64_t rank = each.rank();
      ZOE_INTERNAL_CHECK(std::ssize(stored) == lines * rank && first + rank <= width);
      const float by = is_up_ ? static_cast<float>(each.scale) : 1.0f;
      for (std::int64_t line = 0; line < lines; ++line)
        for (std::int64_t k = 0; k < rank; ++k)
          values_[static_cast<std::size_t>(line * width + first + k)] =
              by * stored[static_cast<std::size_t>(is_up_ ? line * rank + k : k * lines + line)];
      first += rank;
    }
  }

  std::vector<LowRankChange> changes_;
  bool is_up_;
  Shape shape_;
  mutable std::once_flag once_;
  mutable std::vector<float> values_;
};

class Hadamard : public ChangedWeight {
 public:
  Hadamard(WeightPtr base, std::array<ChangeTensor, 4> factors, double scale)
      : ChangedWeight(std::move(base)), factors_(std::move(factors)), scale_(scale) {}

 private:
  void make() const override {
    for (const ChangeTensor& tensor : factors_) {
      fetch_all(tensor);
      check_finite(tensor);
    }
    first_.emplace(*factors_[0].weight, *factors_[1].weight, scale_);
    second_.emplace(*factors_[2].weight, *factors_[3].weight, 1.0);
  }
  void read_piece(std::int64_t row, std::int64_t column, std::int64_t count, float* out) const override {
    std::array<float, 256> first, second;
    first_->write(row, column, count, first.data());
    second_->write(row, column, count, second.data());
    read_base(row, column, count, out);
    for (std::int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      out[i] += first[at] * second[at];
    }
  }

  std::array<ChangeTensor, 4> factors_;
  double scale_;
  mutable std::optional<ThinProduct> first_, second_;
};

class Kronecker : public ChangedWeight {
 public:
  Kronecker(WeightPtr base, ChangeMatrix w1, ChangeMatrix w2, double scale)
      : ChangedWeight(std::move(base)), w1_(std::move(w1)), w2_(std::move(w2)), scale_(static_cast<float>(scale)) {}

 private:
  static std::vector<float> values_of(const ChangeMatrix& matrix) {
    for (const ChangeTensor* tensor : {&matrix.first, &matrix.second})
      if (tensor->weight) {
        fetch_all(*tensor);
        check_finite(*tensor);
      }
    if (!matrix.second.weight) return read_all(matrix.first);
    const ThinProduct product(*matrix.first.weight, *matrix.second.weight, 1.0);
    std::vector<float> values(static_cast<std::size_t>(product.rows() * product.columns()));
    for (std::int64_t row = 0; row < product.rows(); ++row)
      product.write(row, 0, product.columns(), values.data() + row * product.columns());
    return values;
  }
  void make() const override {
    first_ = values_of(w1_);
    for (float& value : first_) value *= scale_;
    second_ = values_of(w2_);
  }
  void read_piece(std::int64_t row, std::int64_t column, std::int64_t count, float* out) const override {
    const std::int64_t rows = w2_.rows(), columns = w2_.columns();
    const float* const outer = first_.data() + row / rows * w1_.columns();
    const float* const inner = second_.data() + row % rows * columns;
    read_base(row, column, count, out);
    for (std::int64_t i = 0; i < count; ++i) out[i] += outer[(column + i) / columns] * inner[(column + i) % columns];
  }

  ChangeMatrix w1_, w2_;
  float scale_;
  mutable std::vector<float> first_, second_;
};

class Difference : public ChangedWeight {
 public:
  Difference(WeightPtr base, ChangeTensor difference, double scale)
      : ChangedWeight(std::move(base)), difference_(std::move(difference)), scale_(static_cast<float>(scale)) {}

 private:
  void make() const override {
    fetch_all(difference_);
    check_finite(difference_);
  }
  void read_piece(std::int64_t row, std::int64_t column, std::int64_t count, float* out) const override {
    std::array<float, 256> values;
    difference_.weight->read(row * columns_ + column, count, DType::f32, values.data());
    read_base(row, column, count, out);
    for (std::int64_t i = 0; i < count; ++i) out[i] += scale_ * values[static_cast<std::size_t>(i)];
  }

  ChangeTensor difference_;
  float scale_;
};

class NewValue : public ChangedWeight {
 public:
  NewValue(WeightPtr base, ChangeTensor value, double strength)
      : ChangedWeight(std::move(base)), value_(std::move(value)), strength_(static_cast<float>(strength)) {}

 private:
  void make() const override {
    fetch_all(value_);
    check_finite(value_);
  }
  void read_piece(std::int64_t row, std::int64_t column, std::int64_t count, float* out) const override {
    if (strength_ == 1) return value_.weight->read(row * columns_ + column, count, DType::f32, out);
    std::array<float, 256> values;
    value_.weight->read(row * columns_ + column, count, DType::f32, values.data());
    read_base(row, column, count, out);
    for (std::int64_t i = 0; i < count; ++i) out[i] += strength_ * (values[static_cast<std::size_t>(i)] - out[i]);
  }

  ChangeTensor value_;
  float strength_;
};

class Magnitude : public ChangedWeight {
 public:
  Magnitude(WeightPtr base, WeightPtr changed, ChangeTensor magnitude, bool of_columns, double strength)
      : ChangedWeight(std::move(base)),
        changed_(std::move(changed)),
        magnitude_(std::move(magnitude)),
        of_columns_(of_columns),
        strength_(static_cast<float>(strength)),
        squares_(static_cast<std::size_t>(of_columns ? columns_ : rows_)) {}

  // With each piece its part of the sums: they take long, and who fetches may stop between two pieces.
  void fetch(std::int64_t begin, std::int64_t count) const override {
    std::call_once(checked_, [this] {
      fetch_all(magnitude_);
      check_finite(magnitude_);
    });
    base_->fetch(begin, count);
    add_rows((begin + count) / columns_);
  }

 private:
  void make() const override {
    add_rows(rows_);
    scales_ = read_all(magnitude_);
    ZOE_INTERNAL_CHECK(scales_.size() == squares_.size());
    for (std::size_t i = 0; i < scales_.size(); ++i)
      scales_[i] = squares_[i] > 0 ? static_cast<float>(static_cast<double>(scales_[i]) / std::sqrt(squares_[i])) : 0.0f;
  }

  // Those before `end` that are not in the sums yet.
  void add_rows(std::int64_t end) const {
    const std::lock_guard lock(mutex_);
    if (next_row_ >= end) return;
    changed_->fetch(next_row_ * columns_, (end - next_row_) * columns_);
    std::vector<float> row(static_cast<std::size_t>(columns_));
    for (; next_row_ < end; ++next_row_) {
      changed_->read(next_row_ * columns_, columns_, DType::f32, row.data());
      for (std::size_t c = 0; c < row.size(); ++c)
        squares_[of_columns_ ? c : static_cast<std::size_t>(next_row_)] +=
            static_cast<double>(row[c]) * static_cast<double>(row[c]);
    }
  }

  void read_piece(std::int64_t row, std::int64_t column, std::int64_t count, float* out) const override {
    std::array<float, 256> values;
    changed_->read(row * columns_ + column, count, DType::f32, values.data());
    read_base(row, column, count, out);
    for (std::int64_t i = 0; i < count; ++i) {
      const float scaled = values[static_cast<std::size_t>(i)] * scales_[static_cast<std::size_t>(of_columns_ ? column + i : row)];
      out[i] = strength_ == 1 ? scaled : out[i] + strength_ * (scaled - out[i]);
    }
  }

  WeightPtr changed_;
  ChangeTensor magnitude_;
  bool of_columns_;
  float strength_;
  mutable std::once_flag checked_;
  mutable std::mutex mutex_;  // of squares_ and next_row_
  mutable std::vector<double> squares_;
  mutable std::int64_t next_row_ = 0;
  mutable std::vector<float> scales_;
};

}  // namespace

std::int64_t ChangeMatrix::rows() const { return first.weight->shape().dim(0); }

std::int64_t ChangeMatrix::columns() const {
  const WeightReader& last = second.weight ? *second.weight : *first.weight;
  return last.count() / std::max<std::int64_t>(1, last.shape().dim(0));
}

std::int64_t LowRankChange::rank() const { return down.weight->shape().dim(0); }

WeightPtr low_rank_factor(std::vector<LowRankChange> changes, bool is_up, std::int64_t rows_or_columns, std::int64_t rank) {
  return std::make_shared<LowRankFactor>(std::move(changes), is_up, Shape{rows_or_columns, rank});
}

WeightPtr add_low_rank(WeightPtr base, ChangeTensor up, ChangeTensor down, double scale) {
  return std::make_shared<LowRank>(std::move(base), std::move(up), std::move(down), scale);
}

WeightPtr add_hadamard(WeightPtr base, ChangeTensor a1, ChangeTensor b1, ChangeTensor a2, ChangeTensor b2, double scale) {
  return std::make_shared<Hadamard>(std::move(base),
                                    std::array<ChangeTensor, 4>{std::move(a1), std::move(b1), std::move(a2), std::move(b2)}, scale);
}

WeightPtr add_kronecker(WeightPtr base, ChangeMatrix w1, ChangeMatrix w2, double scale) {
  return std::make_shared<Kronecker>(std::move(base), std::move(w1), std::move(w2), scale);
}

WeightPtr add_difference(WeightPtr base, ChangeTensor difference, double scale) {
  return std::make_shared<Difference>(std::move(base), std::move(difference), scale);
}

WeightPtr set_value(WeightPtr base, ChangeTensor value, double strength) {
  return std::make_shared<NewValue>(std::move(base), std::move(value), strength);
}

WeightPtr set_magnitude(WeightPtr base, WeightPtr changed, ChangeTensor magnitude, bool of_columns, double strength) {
  return std::make_shared<Magnitude>(std::move(base), std::move(changed), std::move(magnitude), of_columns, strength);
}

}  // namespace zoe
