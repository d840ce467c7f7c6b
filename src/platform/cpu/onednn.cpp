#include "platform/cpu/onednn.h"

#include <fmt/ranges.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "platform/cpu/kernels.h"
#include "platform/cpu/parallel.h"
#include "platform/cpu/team.h"

namespace zoe::cpu {

namespace {

using dnnl::memory;

std::string describe(const Node& node) {
  std::string text = fmt::format("{} of {}", name(node.opcode), node.inputs[0].type().str());
  for (std::size_t i = 1; i < node.inputs.size(); ++i) text += ", " + node.inputs[i].type().str();
  return text;
}

void convert_in_parallel(const void* src, DType src_dtype, void* dst, DType dst_dtype, std::int64_t count, int threads) {
  parallel_ranges(count, 64, count, threads, [&](std::int64_t begin, std::int64_t end) {
    convert(static_cast<const std::byte*>(src) + static_cast<std::size_t>(begin) * size_of(src_dtype), src_dtype,
            static_cast<std::byte*>(dst) + static_cast<std::size_t>(begin) * size_of(dst_dtype), dst_dtype,
            static_cast<std::size_t>(end - begin));
  });
}

// Where index i of an axis lies in a blocked layout, in elements: the offset of an element is the sum over its axes.
std::vector<std::int64_t> axis_offsets(const memory::desc& desc, int axis) {
  const auto& blocking = desc.data.format_desc.blocking;
  std::vector<std::int64_t> offsets(static_cast<std::size_t>(desc.data.dims[axis]));
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    auto rest = static_cast<std::int64_t>(i);
    std::int64_t inner_stride = 1, offset = 0;
    for (int block = blocking.inner_nblks - 1; block >= 0; --block) {
      const std::int64_t extent = blocking.inner_blks[block];
      if (blocking.inner_idxs[block] == axis) {
        offset += rest % extent * inner_stride;
        rest /= extent;
      }
      inner_stride *= extent;
    }
    offsets[i] = offset + rest * blocking.strides[axis];
  }
  return offsets;
}

class ProductKernel : public Kernel {
 public:
  ProductKernel(const Node& node, const DeviceInfo& device, const ProductGeometry& geometry)
      : what_(describe(node)), dtype_(node.types[0].dtype), threads_(device.threads), attributes_(node.as<ProductAttributes>()) {
    use_team(threads_);  // a primitive splits its work when it is made
    // oneDNN 2.6's fastest convolution takes a sum with what its result held before, but no full-sized binary operand (and its
    // gemm convolution, on cores without AVX2, reads one in the wrong order). The copy that this needs costs far less.
    residual_is_copied_ = attributes_.has_residual && node.opcode == Opcode::conv;
    const bool native_bf16 = dtype_ == DType::bf16 && device.bf16_products && build_fast(geometry, memory::data_type::bf16);
    if (!native_bf16) {
      with_onednn_errors(what_, [&] { build(geometry, memory::data_type::f32); });
    }
    widened_ = dtype_ == DType::bf16 && !native_bf16;
    fill_layout(geometry.row_axis);

    weight_is_computed_ = node.inputs[1].node().opcode != Opcode::parameter;
    scratch_bytes_ = aligned(scratchpad_.get_size());
    const auto reserve = [&](std::size_t bytes) { return std::exchange(scratch_bytes_, scratch_bytes_ + aligned(bytes)); };
    if (widened_) {
      x_place_ = reserve(src_.get_size());
      if (attributes_.has_bias) bias_place_ = reserve(bias_.get_size());
      dst_place_ = reserve(dst_.get_size());
      if (attributes_.has_residual) residual_place_ = residual_is_copied_ ? dst_place_ : reserve(dst_.get_size());
    }
    if (weight_is_computed_) {
      weight_type_ = node.inputs[1].type();
      weight_place_ = reserve(weights_.get_size());
    }
  }

  std::string_view implementation() const override { return implementation_; }
  std::size_t scratch_bytes() const override { return scratch_bytes_; }
  std::string weight_layout(int input) const override { return input == 1 ? layout_ : Kernel::weight_layout(input); }
  std::size_t packed_bytes(int input, const Type& type) const override {
    return input == 1 ? weights_.get_size() : Kernel::packed_bytes(input, type);
  }

  void pack_weight(int input, const Type& type, const WeightReader& source, std::byte* packed) const override {
    if (input != 1) return Kernel::pack_weight(input, type, source, packed);
    const auto rows = static_cast<std::int64_t>(row_offsets_.size()), columns = static_cast<std::int64_t>(column_offsets_.size());
    const std::size_t element = weights_.data_type() == memory::data_type::f32 ? 4 : 2;
    if (static_cast<std::size_t>(rows * columns) * element != weights_.get_size()) std::memset(packed, 0, weights_.get_size());
    // Tiles of 64 rows stay in the cache while a blocked layout interleaves them.
    parallel_ranges(rows, 64, rows * columns, threads_, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t row = first; row < last; row += kTileRows)
        for (std::int64_t column = 0; column < columns; column += kTileColumns)
          pack_tile(source, row, std::min(kTileRows, last - row), column, std::min(kTileColumns, columns - column), packed);
    });
  }

  void run(Stream&, std::span<const Slot> inputs, std::span<const Slot> outputs, Slot scratch) const override {
    const auto place = [&](std::size_t offset) { return scratch.data() + offset; };
    std::size_t next = 2;
    std::byte* x = inputs[0].data();
    std::byte* weight = inputs[1].data();
    std::byte* bias = attributes_.has_bias ? inputs[next++].data() : nullptr;
    std::byte* residual = attributes_.has_residual ? inputs[next].data() : nullptr;
    std::byte* dst = outputs[0].data();
    if (weight_is_computed_) {
      pack_weight(1, weight_type_, DenseWeight(weight_type_.dtype, weight_type_.shape, weight), place(weight_place_));
      weight = place(weight_place_);
    }
    if (widened_) {
      const auto widen = [&](const memory::desc& desc, std::byte*& operand, std::size_t offset) {
        if (!operand) return;
        convert_in_parallel(operand, DType::bf16, place(offset), DType::f32, static_cast<std::int64_t>(desc.get_size() / 4),
                            threads_);
        operand = place(offset);
      };
      widen(src_, x, x_place_);
      widen(bias_, bias, bias_place_);
      widen(dst_, residual, residual_place_);
      dst = place(dst_place_);
    }
    if (residual_is_copied_) {
      const std::byte* before = std::exchange(residual, nullptr);
      const DType type = dst_.data_type() == memory::data_type::f32 ? DType::f32 : DType::bf16;
      if (before != dst)
        convert_in_parallel(before, type, dst, type, static_cast<std::int64_t>(dst_.get_size() / size_of(type)), threads_);
    }
    use_team(threads_);
    with_onednn_errors(what_, [&] {
      const dnnl::engine& engine = onednn_engine();
      std::unordered_map<int, memory> arguments{{DNNL_ARG_SRC, memory(src_, engine, x)},
                                                {DNNL_ARG_WEIGHTS, memory(weights_, engine, weight)},
                                                {DNNL_ARG_DST, memory(dst_, engine, dst)},
                                                {DNNL_ARG_SCRATCHPAD, memory(scratchpad_, engine, place(0))}};
      if (bias) arguments.emplace(DNNL_ARG_BIAS, memory(bias_, engine, bias));
      if (residual)
        arguments.emplace(DNNL_ARG_ATTR_MULTIPLE_POST_OP(residual_post_op_) | DNNL_ARG_SRC_1, memory(dst_, engine, residual));
      dnnl::stream stream(engine);
      primitive_.execute(stream, arguments);
      stream.wait();
    });
    if (widened_)
      convert_in_parallel(dst, DType::f32, outputs[0].data(), DType::bf16, static_cast<std::int64_t>(dst_.get_size() / 4),
                          threads_);
  }

 private:
  static constexpr std::int64_t kTileRows = 64, kTileColumns = 128;

  // False if oneDNN has no optimised kernel for this data type.
  bool build_fast(const ProductGeometry& geometry, memory::data_type type) {
    try {
      build(geometry, type);
    } catch (const dnnl::error& error) {
      if (error.status == dnnl_unimplemented) return false;
      fail_onednn(error, what_);
    }
    return implementation_.find("ref") == std::string::npos;
  }

  void build(const ProductGeometry& geometry, memory::data_type type) {
    src_ = memory::desc(geometry.src, type, geometry.activations);
    dst_ = memory::desc(geometry.dst, type, geometry.activations);
    if (attributes_.has_bias)
      bias_ = memory::desc(geometry.bias, type, geometry.bias.size() == 1 ? memory::format_tag::a : memory::format_tag::ab);
    dnnl::post_ops post_ops;
    if (attributes_.activation == Activation::gelu_tanh)
      post_ops.append_eltwise(1.0f, dnnl::algorithm::eltwise_gelu_tanh, 0.0f, 0.0f);
    if (attributes_.activation == Activation::silu) post_ops.append_eltwise(1.0f, dnnl::algorithm::eltwise_swish, 1.0f, 0.0f);
    residual_post_op_ = post_ops.len();
    if (residual_is_copied_) post_ops.append_sum();
    else if (attributes_.has_residual) post_ops.append_binary(dnnl::algorithm::binary_add, dst_);
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    attr.set_post_ops(post_ops);
    const memory::desc open(geometry.weights, type, memory::format_tag::any);
    auto [description, primitive] = geometry.build({src_, open, bias_, dst_}, attr);
    weights_ = description.query_md(dnnl::query::weights_md, 0);
    scratchpad_ = description.query_md(dnnl::query::scratchpad_md, 0);
    implementation_ = fmt::format("onednn {}", description.impl_info_str());
    primitive_ = primitive;
  }

  void fill_layout(int row_axis) {
    const auto& data = weights_.data;
    const auto& blocking = data.format_desc.blocking;
    ZOE_INTERNAL_CHECK(data.format_kind == dnnl_blocked && data.extra.flags == dnnl_memory_extra_flag_none && data.offset0 == 0);
    row_offsets_ = axis_offsets(weights_, row_axis);
    column_offsets_ = {0};
    for (int axis = 0; axis < data.ndims; ++axis) {
      if (axis == row_axis) continue;
      const std::vector<std::int64_t> inner = axis_offsets(weights_, axis);
      std::vector<std::int64_t> product;
      product.reserve(column_offsets_.size() * inner.size());
      for (const std::int64_t outer : column_offsets_)
        for (const std::int64_t offset : inner) product.push_back(outer + offset);
      column_offsets_ = std::move(product);
    }
    // The descriptor in words: plans of equal layout share the packed bytes.
    layout_ = fmt::format("{}{} rows {} padded {} strides {} blocks {} of {}",
                          weights_.data_type() == memory::data_type::f32 ? "f32" : "bf16", widened_ ? " rounded to bf16" : "",
                          row_axis, fmt::join(data.padded_dims, data.padded_dims + data.ndims, ","),
                          fmt::join(blocking.strides, blocking.strides + data.ndims, ","),
                          fmt::join(blocking.inner_blks, blocking.inner_blks + blocking.inner_nblks, ","),
                          fmt::join(blocking.inner_idxs, blocking.inner_idxs + blocking.inner_nblks, ","));
  }

  void pack_tile(const WeightReader& source, std::int64_t row0, std::int64_t rows, std::int64_t column0, std::int64_t columns,
                 std::byte* packed) const {
    alignas(64) std::array<std::uint16_t, kTileRows * kTileColumns> narrow;
    alignas(64) std::array<float, kTileRows * kTileColumns> wide;
    const auto all = static_cast<std::int64_t>(column_offsets_.size());
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t begin = (row0 + row) * all + column0, at = row * kTileColumns;
      if (dtype_ == DType::bf16) source.read(begin, columns, DType::bf16, narrow.data() + at);
      else source.read(begin, columns, DType::f32, wide.data() + at);
      if (widened_) convert(narrow.data() + at, DType::bf16, wide.data() + at, DType::f32, static_cast<std::size_t>(columns));
    }
    const std::int64_t* const to_row = row_offsets_.data() + row0;
    const std::int64_t* const to_column = column_offsets_.data() + column0;
    if (weights_.data_type() == memory::data_type::f32)
      return place(wide.data(), kTileColumns, to_row, rows, to_column, columns, reinterpret_cast<float*>(packed));
    // Two columns of a row lie in one word of 32 bits, in the layouts for bf16 products.
    std::int64_t paired = 0;
    while (paired + 1 < columns && to_column[paired] % 2 == 0 && to_column[paired + 1] == to_column[paired] + 1) paired += 2;
    if (std::any_of(to_row, to_row + rows, [](std::int64_t offset) { return offset % 2 != 0; })) paired = 0;
    if (paired > 0) {
      std::array<std::int64_t, kTileRows> word_of_row;
      std::array<std::int64_t, kTileColumns / 2> word_of_pair;
      std::transform(to_row, to_row + rows, word_of_row.begin(), [](std::int64_t offset) { return offset / 2; });
      for (std::int64_t pair = 0; pair < paired / 2; ++pair) word_of_pair[static_cast<std::size_t>(pair)] = to_column[2 * pair] / 2;
      place(reinterpret_cast<const Pair*>(narrow.data()), kTileColumns / 2, word_of_row.data(), rows, word_of_pair.data(),
            paired / 2, reinterpret_cast<Pair*>(packed));
    }
    place(narrow.data() + paired, kTileColumns, to_row, rows, to_column + paired, columns - paired,
          reinterpret_cast<std::uint16_t*>(packed));
  }

  struct Pair {
    std::uint16_t numbers[2];
  };

  // A tile's numbers, `stride` a row, to where their rows and columns lie. Rows are neighbours in most layouts.
  template <class T>
  static void place(const T* tile, std::int64_t stride, const std::int64_t* to_row, std::int64_t rows,
                    const std::int64_t* to_column, std::int64_t columns, T* packed) {
    constexpr std::int64_t kFew = 4;
    for (std::int64_t row = 0, end = 0; row < rows; row = end) {
      for (end = row + 1; end < rows && to_row[end] == to_row[end - 1] + 1;) ++end;
      if (end - row < kFew) {
        for (std::int64_t r = row; r < end; ++r)
          for (std::int64_t column = 0; column < columns; ++column)
            packed[to_row[r] + to_column[column]] = tile[r * stride + column];
        continue;
      }
      for (std::int64_t column = 0; column < columns; ++column) {
        T* const to = packed + to_row[row] + to_column[column];
        for (std::int64_t r = row; r < end; ++r) to[r - row] = tile[r * stride + column];
      }
    }
  }

  std::string what_;
  DType dtype_;
  int threads_;
  ProductAttributes attributes_;
  dnnl::primitive primitive_;
  memory::desc src_, weights_, bias_, dst_, scratchpad_;
  int residual_post_op_ = 0;
  std::string implementation_, layout_;
  bool widened_ = false;
  bool residual_is_copied_ = false;  // to the result, where the primitive adds to it
  bool weight_is_computed_ = false;  // not a parameter: packed in every run
  Type weight_type_;
  std::vector<std::int64_t> row_offsets_, column_offsets_;
  std::size_t scratch_bytes_ = 0, x_place_ = 0, bias_place_ = 0, residual_place_ = 0, dst_place_ = 0, weight_place_ = 0;
};

}  // namespace

const dnnl::engine& onednn_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

void fail_onednn(const dnnl::error& error, std::string_view what) {
  switch (error.status) {
    case dnnl_out_of_memory: fail(ErrorKind::out_of_memory, "cpu", "oneDNN ran out of memory in {}. Try a smaller size.", what);
    case dnnl_unimplemented: fail(ErrorKind::unsupported, "cpu", "oneDNN has no kernel for {}.", what);
    default: fail(ErrorKind::device, "cpu", "oneDNN failed in {}: {}.", what, error.message);
  }
}

std::unique_ptr<Kernel> make_product(const Node& node, const DeviceInfo& device, const ProductGeometry& geometry) {
  return std::make_unique<ProductKernel>(node, device, geometry);
}

}  // namespace zoe::cpu
