#include "checkpoint/scaling.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/nearest.h"

namespace zoe {

namespace {

constexpr std::int64_t kPiece = 1024;  // columns at a time: a multiple of every block, and of every rotation
constexpr std::int64_t kTileRows = 128, kTileColumns = 4;

std::int64_t round_up(std::int64_t value, std::int64_t step) { return (value + step - 1) / step * step; }

// A block scale by its bits. An e8m0 of 0 counts as 0, as in ComfyUI's kernels.
float e8m0_value(std::uint8_t bits) { return bits == 0 ? 0.0f : std::ldexp(1.0f, static_cast<int>(bits) - 127); }

void rotate(float* group, std::int64_t size) {
  for (std::int64_t step = 1; step < size; step *= 4)
    for (std::int64_t base = 0; base < size; base += step * 4)
      for (std::int64_t i = base; i < base + step; ++i) {
        const float a = group[i], b = group[i + step], c = group[i + 2 * step], d = group[i + 3 * step];
        group[i] = 0.5f * (((a + b) + c) - d);
        group[i + step] = 0.5f * (((a + b) - c) + d);
        group[i + 2 * step] = 0.5f * (((a - b) + c) + d);
        group[i + 3 * step] = 0.5f * (((b - a) + c) + d);
      }
}

class ScaledWeight : public WeightReader {
 public:
  ScaledWeight(const TensorEntry& tensor, WeightPtr numbers, std::string_view where)
      : scaling_(tensor.scaling),
        name_(tensor.name),
        where_(where),
        shape_(tensor.shape),
        numbers_(std::move(numbers)),
        rows_(shape_.rank() < 2 ? 1 : shape_.dim(0)),
        width_(rows_ > 0 ? shape_.count() / rows_ : 0),
        step_(std::max<std::int64_t>({scaling_->block, scaling_->rotation, 2})) {}

  const Shape& shape() const override { return shape_; }

  void read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const override {
    ZOE_INTERNAL_CHECK(begin >= 0 && count >= 0 && count <= shape_.count() - begin);
    auto* to = static_cast<std::byte*>(out);
    alignas(64) std::array<float, kPiece> piece;
    while (count > 0) {
      const std::int64_t row = begin / width_, column = begin % width_;
      const std::int64_t first = column / step_ * step_, skipped = column - first;
      const std::int64_t now = std::min({count, width_ - column, kPiece - skipped});
      const std::int64_t whole = std::min(round_up(skipped + now, step_), width_ - first);
      widen(row, first, whole, piece.data());
      convert(piece.data() + skipped, DType::f32, to, dtype, static_cast<std::size_t>(now));
      begin += now;
      count -= now;
      to += static_cast<std::size_t>(now) * size_of(dtype);
    }
  }

  // As numbers with a scale for each row, where that is all there is to them.
  Storage storage() const override {
    const bool by_rows = scaling_->block == 0 && scaling_->rotation == 0 && scaling_->column_factors.empty() && shape_.rank() == 2;
    return by_rows ? Storage{numbers_->storage().encoding, true} : Storage{};
  }
  const std::byte* blocks() const override { return numbers_->blocks(); }
  void read_scales(std::int64_t begin, std::int64_t count, float* out) const override {
    const std::vector<float>& factors = scaling_->factors;
    for (std::int64_t i = 0; i < count; ++i)
      out[i] = factors.size() == 1 ? factors[0] : factors[static_cast<std::size_t>(begin + i)];
  }

  std::size_t stored_bytes() const override { return numbers_->stored_bytes() + scaling_->size_bytes(); }
  const void* place() const override { return numbers_->place(); }
  void read_ahead(std::int64_t begin, std::int64_t count) const override {
    numbers_->read_ahead(begin, count);
    if (scaling_->block == 0 || !scaling_->blocks.file || count == 0) return;
    const auto [first, bytes] = tiles(begin, count);
    scaling_->blocks.file->read_ahead(place_of_blocks() + first, bytes);
  }
  void drop(std::int64_t begin, std::int64_t count) const override { numbers_->drop(begin, count); }
  void fetch(std::int64_t begin, std::int64_t count) const override {
    numbers_->fetch(begin, count);
    if (scaling_->block == 0 || count == 0) return;
    const auto [first, bytes] = tiles(begin, count);
    if (scaling_->blocks.file) scaling_->blocks.file->fetch(place_of_blocks() + first, bytes);
    const bool is_e8m0 = scaling_->block == 32;
    const auto scales = scaling_->blocks.bytes.subspan(first, bytes);
    const auto bad = std::find_if(scales.begin(), scales.end(), [&](std::byte scale) {
      const auto bits = static_cast<std::uint8_t>(scale);
      return is_e8m0 ? bits == 0xff : (bits & 0x7f) == 0x7f;
    });
    check(bad == scales.end(), ErrorKind::invalid_argument, where_,
          "bad block scale in {}: got a byte that is no number, expected finite scales. Download the file again.",
          in_quotes(scaling_->blocks.name));
  }

 private:
  // Columns [first, first + count) of a row; `first` is a multiple of step_.
  void widen(std::int64_t row, std::int64_t first, std::int64_t count, float* out) const {
    numbers_->read(row * width_ + first, count, DType::f32, out);
    const float factor = scaling_->factors.size() == 1 ? scaling_->factors[0] : scaling_->factors[static_cast<std::size_t>(row)];
    if (const std::int64_t block = scaling_->block; block > 0) {
      for (std::int64_t i = 0; i < count; i += block) {
        const float scale = factor * block_scale(row, (first + i) / block);
        for (std::int64_t j = i; j < std::min(i + block, count); ++j) out[j] = scale * out[j];
      }
    } else {
      for (std::int64_t i = 0; i < count; ++i) out[i] = factor * out[i];
    }
    if (!scaling_->column_factors.empty())
      for (std::int64_t i = 0; i < count; ++i) out[i] *= scaling_->column_factors[static_cast<std::size_t>(first + i)];
    if (const std::int64_t size = scaling_->rotation; size > 0)
      for (std::int64_t i = 0; i < count; i += size) rotate(out + i, size);
  }

  float block_scale(std::int64_t row, std::int64_t column) const {
    const std::int64_t tiles_a_row = (width_ / scaling_->block + kTileColumns - 1) / kTileColumns;
    const std::int64_t tile = row / kTileRows * tiles_a_row + column / kTileColumns, r = row % kTileRows;
    const std::byte* const at =
        scaling_->blocks.bytes.data() + tile * kTileRows * kTileColumns + r % 32 * 16 + r / 32 * 4 + column % kTileColumns;
    if (scaling_->block == 32) return e8m0_value(static_cast<std::uint8_t>(*at));
    float value;
    decode(*safetensors_encoding("F8_E4M3"), at, 0, 1, DType::f32, &value);
    return value;
  }

  std::size_t place_of_blocks() const {
    return static_cast<std::size_t>(scaling_->blocks.bytes.data() - scaling_->blocks.file->bytes().data());
  }
  // The bytes of the block scales' tiles that belong to the rows of some elements.
  std::pair<std::size_t, std::size_t> tiles(std::int64_t begin, std::int64_t count) const {
    const std::int64_t bytes = round_up(width_ / scaling_->block, kTileColumns) * kTileRows;  // of a row of tiles
    const std::int64_t first = begin / width_ / kTileRows, last = (begin + count - 1) / width_ / kTileRows + 1;
    return {static_cast<std::size_t>(first * bytes), static_cast<std::size_t>((last - first) * bytes)};
  }

  std::shared_ptr<const Scaling> scaling_;
  std::string name_, where_;
  Shape shape_;
  WeightPtr numbers_;
  std::int64_t rows_, width_, step_;
};

// --- Finding them

constexpr std::string_view kMark = ".comfy_quant", kMarkOfFile = "scaled_fp8", kOldScale = ".scale_weight",
                           kScale = ".weight_scale", kScale2 = ".weight_scale_2", kColumns = ".pre_quant_scale",
                           kWeight = ".weight", kMetadata = "_quantization_metadata";
// Of the input of a layer: without a meaning for weights.
constexpr std::string_view kOfInputs[] = {".scale_input", ".input_scale"};
// Of conventions that are not read: what their tensors are called, and what it is.
constexpr std::pair<std::string_view, std::string_view> kForeign[] = {
    {".qweight", "int4 of AWQ or SVDQuant (qweight)"},
    {".weight_packed", "packed int4 of compressed-tensors (weight_packed)"},
    {".weight_global_scale", "nvfp4 in LightX2V's own packing (weight_global_scale)"},
    {".absmax", "bitsandbytes' NF4 (absmax)"},
};

std::optional<std::string> layer_of(std::string_view name, std::string_view suffix) {
  if (!name.ends_with(suffix)) return {};
  return std::string(name.substr(0, name.size() - suffix.size()));
}

class Folding {
 public:
  Folding(std::vector<TensorEntry>& tensors, std::string_view where) : tensors_(tensors), where_(where) {
    for (TensorEntry& tensor : tensors) by_name_.emplace(tensor.name, &tensor);
  }

  void run(const std::map<std::string, std::string>& metadata) {
    std::map<std::string, JsonObject> marks;  // by layer
    for (const TensorEntry& tensor : tensors_)
      if (const auto layer = layer_of(tensor.name, kMark)) {
        taken_.insert(tensor.name);
        marks.emplace(*layer, parse_json_object(text_of(tensor), in_quotes(tensor.name)));
      }
    if (const auto found = metadata.find(std::string(kMetadata)); found != metadata.end()) {
      const JsonObject layers = parse_json_object(found->second, kMetadata).object("layers");
      const std::string prefix = prefix_of(layers.keys());
      for (const std::string& layer : layers.keys()) marks.emplace(prefix + layer, layers.object(layer));
    }
    for (const auto& [layer, mark] : marks) fold(layer, mark);
    if (!unknown_.empty())
      log(LogLevel::notice, fmt::format("{}: {} in the marks of quantised layers has no known meaning and is passed over.", where_,
                                        in_quotes(unknown_)));
    for (const TensorEntry& tensor : tensors_) {
      if (taken_.contains(tensor.name)) continue;
      if (const auto layer = layer_of(tensor.name, kOldScale)) fold_plain(*layer, tensor);
      if (const auto layer = layer_of(tensor.name, kScale)) fold_plain(*layer, tensor);
      for (const std::string_view suffix : kOfInputs)
        if (tensor.name.ends_with(suffix)) taken_.insert(tensor.name);
      const std::string_view name = tensor.name;
      if (name == kMarkOfFile || name.ends_with("." + std::string(kMarkOfFile))) taken_.insert(tensor.name);
    }
    std::erase_if(tensors_, [&](const TensorEntry& tensor) { return taken_.contains(tensor.name); });
  }

 private:
  TensorEntry* find(const std::string& name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : found->second;
  }

  static std::string_view text_of(const TensorEntry& tensor) {
    if (tensor.file)
      tensor.file->fetch(static_cast<std::size_t>(tensor.bytes.data() - tensor.file->bytes().data()), tensor.bytes.size());
    return {reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()};
  }

  // Layers of the metadata may be named without what stands in front of the tensors' names.
  std::string prefix_of(const std::vector<std::string>& layers) const {
    if (layers.empty() || find(layers.front() + std::string(kWeight))) return {};
    const std::string behind = "." + layers.front() + std::string(kWeight);
    for (const TensorEntry& tensor : tensors_)
      if (tensor.name.ends_with(behind)) return tensor.name.substr(0, tensor.name.size() - behind.size() + 1);
    return {};
  }

  TensorEntry& weight_of_layer(const std::string& layer, const std::string& what) const {
    TensorEntry* const weight = find(layer + std::string(kWeight));
    check(weight, ErrorKind::invalid_argument, where_,
          "{} has no weight: got no tensor {}, expected it beside. Download the file again.", in_quotes(what),
          in_quotes(layer + std::string(kWeight)));
    check(!weight->scaling, ErrorKind::invalid_argument, where_,
          "two scales for {}: {} is the second, expected one. Check the file.", in_quotes(weight->name), in_quotes(what));
    return *weight;
  }

  const TensorEntry& required(const std::string& name, std::string_view format) {
    const TensorEntry* const tensor = find(name);
    check(tensor, ErrorKind::invalid_argument, where_,
          "missing tensor {}: got none, expected the scale of {}. Download the file again.", in_quotes(name), format);
    taken_.insert(name);
    return *tensor;
  }

  // Values of a scale: one, or one for each of `count`.
  std::vector<float> values(const TensorEntry& scale, std::int64_t count, std::string_view of_each) const {
    const std::int64_t got = scale.shape.count();
    check(scale.encoding->dtype.has_value() && (got == 1 || (got == count && !of_each.empty())), ErrorKind::invalid_argument,
          where_, "bad scale {}: got {} {}, expected one float{}. Check the file.", in_quotes(scale.name), scale.dtype(),
          scale.shape.str(), of_each.empty() ? "" : fmt::format(" or one of each of {} {}", count, of_each));
    const WeightPtr reader = zoe::weight_of(scale, where_);
    reader->fetch(0, got);
    std::vector<float> out(static_cast<std::size_t>(got));
    reader->read(0, got, DType::f32, out.data());
    for (std::size_t i = 0; i < out.size(); ++i)
      check(std::isfinite(out[i]), ErrorKind::invalid_argument, where_,
            "bad scale {}: got {} at {}, expected a finite number. Download the file again.", in_quotes(scale.name), out[i], i);
    return out;
  }

  static std::int64_t rows_of(const TensorEntry& weight) { return weight.shape.rank() < 2 ? 1 : weight.shape.dim(0); }

  // A scale without a mark: the numbers say what it is.
  void fold_plain(const std::string& layer, const TensorEntry& scale) {
    taken_.insert(scale.name);
    TensorEntry& weight = weight_of_layer(layer, scale.name);
    Scaling scaling;
    if (weight.encoding->name == "I8") {
      weight.encoding = scaled_encoding("I8");
      scaling.name = "int8";
    } else {
      check(weight.encoding->is_weight(), ErrorKind::unsupported, where_,
            "{} is stored in an unknown way: got {} with a scale, expected fp8 or int8. Convert the checkpoint to one of these.",
            in_quotes(weight.name), weight.dtype());
      scaling.name = fmt::format("{} scaled", weight.encoding->name);
    }
    scaling.factors = values(scale, rows_of(weight), "rows");
    weight.scaling = std::make_shared<const Scaling>(std::move(scaling));
  }

  void fold(const std::string& layer, const JsonObject& mark) {
    const std::string format = mark.string("format", "");
    constexpr std::array<std::string_view, 7> kKnown{
        "format", "full_precision_matrix_mult", "convrot", "convrot_groupsize", "orig_dtype", "orig_shape", "per_row"};
    for (const std::string& key : mark.keys())
      if (std::find(kKnown.begin(), kKnown.end(), key) == kKnown.end()) unknown_ = key;
    TensorEntry& weight = weight_of_layer(layer, layer + std::string(kMark));
    for (const std::string_view suffix : kOfInputs) taken_.insert(layer + std::string(suffix));
    Scaling scaling;
    scaling.name = format;
    const auto expect = [&](std::string_view encoding) {
      check(weight.encoding->name == encoding, ErrorKind::invalid_argument, where_,
            "bad dtype of {}: got {}, expected {} by its format {}. Check the file.", in_quotes(weight.name), weight.dtype(),
            encoding, format);
    };
    const auto expect_rows_of = [&](std::int64_t multiple) {
      check(weight.shape.rank() == 2 && weight.shape.dim(1) % multiple == 0, ErrorKind::invalid_argument, where_,
            "bad shape of {}: got {}, expected a matrix with rows of a multiple of {} by its format {}. Check the file.",
            in_quotes(weight.name), weight.shape.str(), multiple, format);
    };
    const std::string scale = layer + std::string(kScale);
    if (format == "float8_e4m3fn" || format == "float8_e5m2") {
      expect(format == "float8_e5m2" ? "F8_E5M2" : "F8_E4M3");
      scaling.factors = values(required(scale, format), rows_of(weight), "rows");
    } else if (format == "int8_tensorwise") {
      expect("I8");
      weight.encoding = scaled_encoding("I8");
      scaling.factors = values(required(scale, format), rows_of(weight), "rows");
      if (mark.boolean("convrot", false)) {
        scaling.name = "int8_tensorwise with ConvRot";
        scaling.rotation = mark.integer("convrot_groupsize", 4, kPiece, 256);
        std::int64_t power = 4;
        while (power < scaling.rotation) power *= 4;
        check(power == scaling.rotation, ErrorKind::invalid_argument, where_,
              "bad convrot_groupsize of {}: got {}, expected a power of 4 up to {}. Check the file.", in_quotes(layer),
              scaling.rotation, kPiece);
        expect_rows_of(scaling.rotation);
      }
    } else if (format == "mxfp8") {
      expect("F8_E4M3");
      expect_rows_of(32);
      scaling.factors = {1.0f};
      take_blocks(scaling, weight, required(scale, format), 32, {"F8_E8M0", "U8"});
    } else if (format == "nvfp4") {
      expect("U8");
      expect_rows_of(8);
      weight.encoding = scaled_encoding("F4_E2M1");
      weight.shape = Shape{weight.shape.dim(0), weight.shape.dim(1) * 2};
      scaling.factors = values(required(layer + std::string(kScale2), format), 1, "");
      take_blocks(scaling, weight, required(scale, format), 16, {"F8_E4M3", "F8_E4M3"});
    } else {
      fail(ErrorKind::unsupported, where_,
           "{} is stored in a format that is not supported: got {}, expected float8_e4m3fn, float8_e5m2, int8_tensorwise, mxfp8 or "
           "nvfp4. Take a file of another quantisation.",
           in_quotes(weight.name), format.empty() ? "no name" : in_quotes(format));
    }
    if (const TensorEntry* const columns = find(layer + std::string(kColumns))) {
      check(scaling.rotation == 0 && weight.shape.rank() == 2, ErrorKind::unsupported, where_,
            "{} beside a rotation is not supported. Take a file of another quantisation.", in_quotes(columns->name));
      taken_.insert(columns->name);
      scaling.column_factors = values(*columns, weight.shape.dim(1), "columns");
      if (scaling.column_factors.size() == 1)
        scaling.column_factors.assign(static_cast<std::size_t>(weight.shape.dim(1)), scaling.column_factors[0]);
    }
    weight.scaling = std::make_shared<const Scaling>(std::move(scaling));
  }

  void take_blocks(Scaling& scaling, const TensorEntry& weight, const TensorEntry& blocks, std::int64_t block,
                   std::array<std::string_view, 2> encodings) {
    const std::int64_t rows = round_up(weight.shape.dim(0), kTileRows),
                       columns = round_up(weight.shape.dim(1) / block, kTileColumns);
    check(std::find(encodings.begin(), encodings.end(), blocks.encoding->name) != encodings.end() &&
              blocks.shape.count() == rows * columns,
          ErrorKind::invalid_argument, where_, "bad scale {}: got {} {}, expected {} [{},{}] for {}. Check the file.",
          in_quotes(blocks.name), blocks.dtype(), blocks.shape.str(), encodings[0], rows, columns, in_quotes(weight.name));
    scaling.block = block;
    scaling.blocks = blocks;
  }

  std::vector<TensorEntry>& tensors_;
  std::string_view where_;
  std::unordered_map<std::string, TensorEntry*> by_name_;
  std::unordered_set<std::string> taken_;
  std::string unknown_;  // a key of a mark
};

}  // namespace

void fold_scales(std::vector<TensorEntry>& tensors, const std::map<std::string, std::string>& metadata, std::string_view where) {
  for (const TensorEntry& tensor : tensors)
    for (const auto& [suffix, what] : kForeign)
      check(!tensor.name.ends_with(suffix), ErrorKind::unsupported, where,
            "{} is {}, which is not supported. Take a file of another quantisation: fp8, int8, mxfp8, nvfp4 or GGUF.",
            in_quotes(tensor.name), what);
  Folding(tensors, where).run(metadata);
}

WeightPtr scaled_weight_of(const TensorEntry& tensor, std::string_view where) {
  ZOE_INTERNAL_CHECK(tensor.scaling);
  TensorEntry numbers = tensor;
  numbers.scaling = nullptr;
  return std::make_shared<ScaledWeight>(tensor, weight_of(numbers, where), where);
}

}  // namespace zoe
