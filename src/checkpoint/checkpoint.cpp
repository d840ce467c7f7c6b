#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/nearest.h"
#include "checkpoint/gguf.h"
#include "checkpoint/pytorch.h"
#include "checkpoint/scaling.h"

namespace zoe {

namespace {

// In a file of all parts it stands behind the text encoders' prefix: "text_encoders.spiece_model".
bool is_tokenizer(std::string_view name) {
  return name.ends_with(kTokenizerTensor) &&
         (name.size() == kTokenizerTensor.size() || name[name.size() - kTokenizerTensor.size() - 1] == '.');
}

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 4> kCandidates = {"diffusion_pytorch_model.safetensors.index.json",
                                                         "diffusion_pytorch_model.safetensors", "model.safetensors",
                                                         "model.safetensors.index.json"};

// "a", "a and 1 more", or "nothing": the safetensors files of a folder that holds none of the expected names.
std::string other_weights(const fs::path& folder) {
  std::set<std::string> names;
  std::error_code status;
  for (fs::directory_iterator it(folder, status), end; !status && it != end; it.increment(status))
    if (const std::string name = it->path().filename().string(); name.ends_with(".safetensors")) names.insert(name);
  if (names.empty()) return "no .safetensors file";
  return names.size() == 1 ? in_quotes(*names.begin()) : fmt::format("{} and {} more", in_quotes(*names.begin()), names.size() - 1);
}

// The file or index of a variant ("fp16"), as tools write them beside or instead of the plain ones: model.fp16.safetensors,
// model.safetensors.index.fp16.json. Empty if there is none; of several variants none is better than another.
std::string variant_file(const fs::path& folder, std::string_view where) {
  std::map<std::string, std::string> file_of;  // by variant; an index before a single file
  std::error_code status;
  for (fs::directory_iterator it(folder, status), end; !status && it != end; it.increment(status)) {
    const std::string name = it->path().filename().string();
    for (const std::string_view stem : {"diffusion_pytorch_model.", "model."})
      for (const auto& [before, behind] :
           {std::pair<std::string_view, std::string_view>{"safetensors.index.", ".json"}, {"", ".safetensors"}}) {
        const std::string begin = std::string(stem).append(before);
        if (!name.starts_with(begin) || !name.ends_with(behind) || name.size() <= begin.size() + behind.size()) continue;
        const std::string variant = name.substr(begin.size(), name.size() - begin.size() - behind.size());
        if (variant.find_first_of(".-") != std::string::npos) continue;  // a shard, or something else
        std::string& file = file_of[variant];
        if (file.empty() || !before.empty()) file = name;
      }
  }
  if (file_of.empty()) return {};
  check(file_of.size() == 1, ErrorKind::invalid_argument, where,
        "several variants of the weights in {}: got {} and {}, expected one. Keep only the files of one.", folder.string(),
        in_quotes(file_of.begin()->second), in_quotes(std::next(file_of.begin())->second));
  log(LogLevel::notice, fmt::format("{}: {} is read, as there are no weights of the plain name.", where, file_of.begin()->second));
  return file_of.begin()->second;
}

// The one file of weights of whatever kind in a folder: a GGUF file, a file of PyTorch, a safetensors file of another name.
// Empty: there is none, or more than one.
std::string only_weights_file(const fs::path& folder, std::string_view where) {
  std::vector<std::string> names;
  std::error_code status;
  for (fs::directory_iterator it(folder, status), end; !status && it != end; it.increment(status)) {
    const std::string extension = it->path().extension().string();
    for (const std::string_view known : {".safetensors", ".gguf", ".pth", ".pt", ".bin", ".ckpt"})
      if (extension == known) names.push_back(it->path().filename().string());
  }
  if (names.size() != 1) return {};
  log(LogLevel::notice, fmt::format("{}: {} is read, the one file of weights in its folder.", where, names.front()));
  return names.front();
}

bool is_plain_file_name(std::string_view name) {
  return name.ends_with(".safetensors") && name.size() <= 255 &&
         std::none_of(name.begin(), name.end(), [](unsigned char c) { return c == '/' || c == '\\' || c < 0x20 || c == 0x7f; });
}

// weight_map of an index: tensor -> shard.
std::map<std::string, std::string> read_index(const fs::path& path, std::string_view where) {
  constexpr std::size_t kMaxIndexBytes = 64 << 20;
  const JsonObject weight_map = read_json_object(path, where, kMaxIndexBytes).object("weight_map");
  std::map<std::string, std::string> shard_of;
  for (const std::string& name : weight_map.keys()) {
    const std::string shard = weight_map.string(name);
    check(is_plain_file_name(shard), ErrorKind::invalid_argument, where,
          "bad shard of {}: got {}, expected the name of a .safetensors file in the same folder. Check the file.", in_quotes(name),
          in_quotes(shard));
    shard_of.emplace_hint(shard_of.end(), name, shard);
  }
  check(!shard_of.empty(), ErrorKind::invalid_argument, where,
        "empty weight_map: got 0 tensors, expected at least 1. Check the file.");
  return shard_of;
}

}  // namespace

Checkpoint::Checkpoint(const fs::path& path)
    : Checkpoint(path, (path.has_filename() ? path : path.parent_path()).filename().string()) {}

Checkpoint::Checkpoint(const fs::path& path, std::string where) : where_(std::move(where)) {
  std::error_code status;
  if (fs::is_regular_file(path, status)) {
    add_file(path, where_);
  } else {
    check(fs::is_directory(path, status), ErrorKind::invalid_argument, where_,
          "no weights: got {}, which is no folder, expected a folder with safetensors files. Check the path.", path.string());
    const auto* const plain = std::find_if(kCandidates.begin(), kCandidates.end(),
                                           [&](std::string_view name) { return fs::exists(path / name, status); });
    std::string found = plain != kCandidates.end() ? std::string(*plain) : variant_file(path, where_);
    if (found.empty()) found = only_weights_file(path, where_);
    check(!found.empty(), ErrorKind::invalid_argument, where_,
          "no weights in {}: got {}, expected diffusion_pytorch_model.safetensors, model.safetensors, or one of them with "
          ".index.json and its shards. Check the path.",
          path.string(), other_weights(path));
    const std::string file_where = fmt::format("{}/{}", where_, found);
    if (!found.ends_with(".json")) {
      add_file(path / found, file_where);
    } else {
      const auto shard_of = read_index(path / found, file_where);
      std::set<std::string> shards;
      for (const auto& [name, shard] : shard_of) shards.insert(shard);
      for (const std::string& shard : shards) {
        check(fs::exists(path / shard, status), ErrorKind::invalid_argument, file_where,
              "missing shard: got no file {} in {}, expected {} shards. Download or copy it again.", in_quotes(shard),
              path.string(), shards.size());
        const std::string shard_where = fmt::format("{}/{}", where_, shard);
        const std::size_t first = tensors_.size();
        add_file(path / shard, shard_where);
        for (std::size_t i = first; i < tensors_.size(); ++i) {
          const auto indexed = shard_of.find(tensors_[i].name);
          check(indexed != shard_of.end(), ErrorKind::invalid_argument, shard_where,
                "tensor {} is not in the index: got it in this shard, expected every tensor in {}. Download both again.",
                in_quotes(tensors_[i].name), found);
          check(indexed->second == shard, ErrorKind::invalid_argument, shard_where,
                "tensor {} is in the wrong shard: got it in {}, expected it in {} by the index. Download both again.",
                in_quotes(tensors_[i].name), shard, indexed->second);
        }
      }
      std::sort(tensors_.begin(), tensors_.end(), [](const TensorEntry& a, const TensorEntry& b) { return a.name < b.name; });
      for (const auto& [name, shard] : shard_of)
        check(find(name), ErrorKind::invalid_argument, file_where,
              "tensor {} is missing: got no such tensor in {}, expected it there by the index. Download both again.",
              in_quotes(name), shard);
    }
  }
  fold_scales(tensors_, metadata_, where_);
}

void Checkpoint::add_file(const fs::path& path, std::string_view where) {
  const auto file = std::make_shared<const MappedFile>(path);
  const std::span<const std::byte> bytes = file->bytes();
  file->fetch(0, sizeof(std::uint64_t));  // what is looked at must be there
  const auto fetch = [&](std::size_t begin, std::size_t count) { file->fetch(begin, count); };
  std::vector<TensorEntry> tensors;
  if (is_gguf(bytes)) {
    Gguf parsed = parse_gguf(bytes, where, fetch);
    tensors = std::move(parsed.tensors);
    metadata_.merge(parsed.metadata);
  } else if (is_zip(bytes)) {
    tensors = parse_pytorch(bytes, where, fetch);
  } else {
    if (bytes.size() >= sizeof(std::uint64_t)) {
      std::uint64_t header_bytes;
      std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
      file->fetch(sizeof header_bytes, std::min<std::uint64_t>(header_bytes, bytes.size()));
    }
    Safetensors parsed = parse_safetensors(bytes, where);
    tensors = std::move(parsed.tensors);
    metadata_.merge(parsed.metadata);
  }
  for (TensorEntry& tensor : tensors) {
    tensor.file = file;
    tensors_.push_back(std::move(tensor));
  }
  file_names_.push_back(path.filename().string());
}

const TensorEntry* Checkpoint::find(std::string_view name) const {
  const auto found = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                      [](const TensorEntry& tensor, std::string_view wanted) { return tensor.name < wanted; });
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

bool Checkpoint::has_tokenizer() const {
  return std::any_of(tensors_.begin(), tensors_.end(), [](const TensorEntry& tensor) { return is_tokenizer(tensor.name); }) ||
         metadata_.contains("tokenizer.ggml.model");
}

std::string Checkpoint::sentencepiece() const {
  const auto tensor =
      std::find_if(tensors_.begin(), tensors_.end(), [](const TensorEntry& each) { return is_tokenizer(each.name); });
  if (tensor != tensors_.end()) {
    if (tensor->file)
      tensor->file->fetch(static_cast<std::size_t>(tensor->bytes.data() - tensor->file->bytes().data()), tensor->bytes.size());
    return {reinterpret_cast<const char*>(tensor->bytes.data()), tensor->bytes.size()};
  }
  if (!has_tokenizer() || tensors_.empty() || !tensors_.front().file) return {};
  const MappedFile& file = *tensors_.front().file;
  return sentencepiece_of_gguf(file.bytes(), where_, [&](std::size_t begin, std::size_t count) { file.fetch(begin, count); });
}

std::int64_t Checkpoint::size_bytes() const {
  std::int64_t sum = 0;
  for (const TensorEntry& tensor : tensors_)
    sum += static_cast<std::int64_t>(tensor.bytes.size() + (tensor.scaling ? tensor.scaling->size_bytes() : 0));
  return sum;
}

std::int64_t Checkpoint::parameter_count() const {
  std::int64_t sum = 0;
  for (const TensorEntry& tensor : tensors_) sum += tensor.shape.count();
  return sum;
}

namespace {

// Whether two entries hold the same bytes, as far as a look at their begin, middle and end tells.
bool look_alike(const TensorEntry& a, const TensorEntry& b) {
  if (a.encoding != b.encoding || a.bytes.size() != b.bytes.size()) return false;
  const std::size_t size = a.bytes.size(), piece = std::min<std::size_t>(size, 1 << 14);
  for (const std::size_t begin : {std::size_t{0}, (size - piece) / 2, size - piece}) {
    for (const TensorEntry* entry : {&a, &b})
      if (entry->file)
        entry->file->fetch(static_cast<std::size_t>(entry->bytes.data() - entry->file->bytes().data()) + begin, piece);
    if (piece > 0 && std::memcmp(a.bytes.data() + begin, b.bytes.data() + begin, piece) != 0) return false;
  }
  return true;
}

// What some files of known models hold and no graph reads: Diffusers passes them over, too.
bool is_never_read(std::string_view name) {
  constexpr std::string_view kWords[] = {".norm_added_q.", ".position_ids"};
  return std::any_of(std::begin(kWords), std::end(kWords), [&](std::string_view word) { return name.find(word) != name.npos; });
}

std::string_view first_word(std::string_view name) { return name.substr(0, name.find('.')); }

// Whether two shapes have the same elements in the same order up to how extents are written: each is the other with extents of 1
// put in or left out, or with neighbours multiplied.
bool same_in_other_words(const Shape& a, const Shape& b) {
  if (a.count() != b.count()) return false;
  const auto strides = [](const Shape& shape) {
    std::set<std::int64_t> out;
    std::int64_t product = 1;
    for (std::size_t i = shape.dims().size(); i-- > 0;) out.insert(product *= shape.dims()[i]);
    return out;
  };
  const std::set<std::int64_t> of_a = strides(a), of_b = strides(b);
  const auto contains = [](const std::set<std::int64_t>& large, const std::set<std::int64_t>& small) {
    return std::all_of(small.begin(), small.end(), [&](std::int64_t each) { return each == 1 || large.contains(each); });
  };
  return contains(of_a, of_b) || contains(of_b, of_a);
}

// A tensor in another shape, or some of its rows.
class PartOfWeight : public WeightReader {
 public:
  PartOfWeight(WeightPtr whole, Shape shape, std::int64_t first)
      : whole_(std::move(whole)), shape_(std::move(shape)), first_(first) {}
  const Shape& shape() const override { return shape_; }
  void read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const override {
    ZOE_INTERNAL_CHECK(begin >= 0 && count >= 0 && count <= shape_.count() - begin);
    whole_->read(first_ + begin, count, dtype, out);
  }
  const std::byte* dense(DType dtype) const override {
    const std::byte* const bytes = whole_->dense(dtype);
    return bytes ? bytes + static_cast<std::size_t>(first_) * size_of(dtype) : nullptr;
  }
  std::size_t stored_bytes() const override {
    return whole_->count() == 0
               ? 0
               : whole_->stored_bytes() / static_cast<std::size_t>(whole_->count() / std::max<std::int64_t>(1, count()));
  }
  const void* place() const override { return whole_->place(); }
  void read_ahead(std::int64_t begin, std::int64_t count) const override { whole_->read_ahead(first_ + begin, count); }
  void drop(std::int64_t begin, std::int64_t count) const override { whole_->drop(first_ + begin, count); }
  void fetch(std::int64_t begin, std::int64_t count) const override { whole_->fetch(first_ + begin, count); }

 private:
  WeightPtr whole_;
  Shape shape_;
  std::int64_t first_;
};

}  // namespace

const TensorEntry* NamedTensors::find(std::string_view name) const {
  const auto stored = keys.stored_of(name);
  return stored ? checkpoint.find(stored->key) : nullptr;
}

const TensorEntry& NamedTensors::at(std::string_view name) const {
  const TensorEntry* const tensor = find(name);
  const auto stored = keys.stored_of(name);
  check(tensor, ErrorKind::invalid_argument, checkpoint.where(),
        "missing tensor {}: got {} others, expected it in every file of this kind. Download the file again.",
        in_quotes(stored ? stored->key : keys.prefix + std::string(name)), checkpoint.tensors().size());
  return *tensor;
}

WeightPtr weight_of(const MatchedTensor& tensor, const Shape& shape, std::string_view where) {
  WeightPtr whole = weight_of(*tensor, where);
  if (tensor.parts == 1 && whole->shape() == shape) return whole;
  return std::make_shared<PartOfWeight>(std::move(whole), shape, tensor.part * shape.count());
}

std::vector<MatchedTensor> match_tensors(const Checkpoint& checkpoint, std::span<const ExpectedTensor> expected,
                                         std::span<const TensorAlias> aliases, const KeyMap& keys) {
  std::unordered_multimap<std::string_view, const TensorAlias*> aliases_of;
  for (const TensorAlias& alias : aliases) aliases_of.emplace(alias.name, &alias);
  const auto in_files = [&](std::string_view name) {
    const auto stored = keys.stored_of(name);
    return stored ? *stored : KeyMap::Stored{keys.prefix + std::string(name), 0, 1};
  };
  const auto first_word_of_key = [&](std::string_view key) {
    return key.starts_with(keys.prefix) ? first_word(key.substr(keys.prefix.size())) : std::string_view();
  };

  std::vector<MatchedTensor> out;
  std::vector<std::string> missing, known;
  std::unordered_set<std::string_view> used;
  std::unordered_set<std::string> words;
  for (const ExpectedTensor& tensor : expected) {
    const auto find = [&](const KeyMap::Stored& stored) -> MatchedTensor {
      const TensorEntry* const entry = checkpoint.find(stored.key);
      if (!entry) return {};
      Shape whole = tensor.shape;
      if (stored.parts > 1) {
        std::vector<std::int64_t> dims(whole.dims().begin(), whole.dims().end());
        dims[0] *= stored.parts;
        whole = Shape(std::move(dims));
      }
      check(entry->shape == whole || (keys.names && same_in_other_words(entry->shape, whole)), ErrorKind::invalid_argument,
            checkpoint.where(), "bad shape of {}: got {}, expected {}. Check that the weights belong to the config.",
            in_quotes(stored.key), entry->shape.str(), whole.str());
      weight_of(*entry, checkpoint.where());
      used.insert(entry->name);
      return {entry, stored.part, stored.parts};
    };
    const KeyMap::Stored stored = in_files(tensor.name);
    words.insert(std::string(first_word_of_key(stored.key)));
    known.push_back(stored.key);
    MatchedTensor taken = find(stored);
    const auto [first, last] = aliases_of.equal_range(tensor.name);
    for (auto it = first; it != last; ++it) {
      const MatchedTensor other = find(in_files(it->second->alias));
      if (!other.entry) continue;
      const MatchedTensor before = taken;
      if (!taken.entry || it->second->first) taken = other;
      if (before.entry && !look_alike(*before, *other))
        log(LogLevel::notice,
            fmt::format("{}: {} and {} differ; {} is taken.", checkpoint.where(), before->name, other->name, taken->name));
    }
    if (!taken.entry) missing.push_back(stored.key);
    out.push_back(taken);
  }
  std::vector<std::string> unknown, passed_over;
  for (const TensorEntry& tensor : checkpoint.tensors())
    if (!used.contains(tensor.name) && !is_tokenizer(tensor.name)) {
      const bool could_be_read = tensor.encoding->is_weight() && !is_never_read(tensor.name);
      (could_be_read && words.contains(std::string(first_word_of_key(tensor.name))) ? unknown : passed_over).push_back(tensor.name);
    }
  const std::string counts = fmt::format("{} missing, {} unknown", missing.size(), unknown.size() + passed_over.size());
  if (!missing.empty()) {
    std::vector<std::string> others = unknown;
    others.insert(others.end(), passed_over.begin(), passed_over.end());
    std::string near = nearest(missing.front(), others);
    // The same name behind another prefix is nearest of all, however long the prefix.
    const std::string behind = "." + missing.front().substr(std::min(keys.prefix.size(), missing.front().size()));
    for (const std::string& other : others)
      if (other.ends_with(behind)) near = other;
    fail(ErrorKind::invalid_argument, checkpoint.where(),
         "missing tensor {}: got {}, expected {} tensors ({}). Check that the weights belong to the config.",
         in_quotes(missing.front()), near.empty() ? "no similar unknown name" : in_quotes(near) + " as the nearest unknown name",
         expected.size(), counts);
  }
  if (!unknown.empty()) {
    const std::string near = nearest(unknown.front(), known);
    fail(ErrorKind::invalid_argument, checkpoint.where(),
         "unknown tensor {}: got {} tensors ({}), expected {}{}. Check that the weights belong to the config.",
         in_quotes(unknown.front()), checkpoint.tensors().size(), counts, expected.size(),
         near.empty() ? "" : ", the nearest being " + in_quotes(near));
  }
  if (!passed_over.empty())
    log(LogLevel::notice,
        fmt::format("{}: {}{} not read: the model has no such tensor.", checkpoint.where(), in_quotes(passed_over.front()),
                    passed_over.size() == 1 ? std::string(" is") : fmt::format(" and {} more are", passed_over.size() - 1)));
  return out;
}

fs::path resolve_snapshot(const fs::path& path) {
  std::error_code status;
  if (!fs::is_directory(path / "snapshots", status) || fs::exists(path / "model_index.json", status)) return path;
  if (fs::is_regular_file(path / "refs/main", status)) {
    std::string hash = read_file(path / "refs/main", "refs/main", 4096);
    while (!hash.empty() && (hash.back() == '\n' || hash.back() == ' ')) hash.pop_back();
    if (hash.find('/') == std::string::npos && !hash.empty() && hash != "." && hash != ".." &&
        fs::is_directory(path / "snapshots" / hash, status))
      return path / "snapshots" / hash;
  }
  std::set<fs::path> found;
  for (fs::directory_iterator it(path / "snapshots", status), end; !status && it != end; it.increment(status))
    if (it->is_directory(status)) found.insert(it->path());
  check(found.size() == 1, ErrorKind::invalid_argument, path.filename().string(),
        "got {} revisions in {}, expected one, or one that refs/main names. Give one of its folders.", found.size(),
        (path / "snapshots").string());
  return *found.begin();
}

}  // namespace zoe
