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

namespace zoe {

namespace {

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

// The one GGUF file of a folder without other weights, or "".
std::string gguf_file(const fs::path& folder, std::string_view where) {
  std::set<std::string> names;
  std::error_code status;
  for (fs::directory_iterator it(folder, status), end; !status && it != end; it.increment(status))
    if (const std::string name = it->path().filename().string(); name.ends_with(".gguf")) names.insert(name);
  check(names.size() <= 1, ErrorKind::invalid_argument, where,
        "several GGUF files in {}: got {} and {}, expected one. Keep only one.", folder.string(),
        names.empty() ? "" : in_quotes(*names.begin()), names.empty() ? "" : in_quotes(*names.rbegin()));
  return names.empty() ? "" : *names.begin();
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
    if (found.empty()) found = gguf_file(path, where_);
    check(!found.empty(), ErrorKind::invalid_argument, where_,
          "no weights in {}: got {}, expected diffusion_pytorch_model.safetensors, model.safetensors, or one of them with "
          ".index.json and its shards, or a .gguf file. Check the path.",
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
}

void Checkpoint::add_file(const fs::path& path, std::string_view where) {
  const auto file = std::make_shared<const MappedFile>(path);
  const std::span<const std::byte> bytes = file->bytes();
  file->fetch(0, sizeof(std::uint64_t));  // what is looked at must be there
  const auto fetch = [&](std::size_t begin, std::size_t count) { file->fetch(begin, count); };
  std::vector<TensorEntry> tensors;
  if (is_gguf(bytes)) {
    tensors = parse_gguf(bytes, where, fetch).tensors;
  } else if (is_zip(bytes)) {
    tensors = parse_pytorch(bytes, where, fetch);
  } else {
    if (bytes.size() >= sizeof(std::uint64_t)) {
      std::uint64_t header_bytes;
      std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
      file->fetch(sizeof header_bytes, std::min<std::uint64_t>(header_bytes, bytes.size()));
    }
    tensors = parse_safetensors(bytes, where).tensors;
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

std::int64_t Checkpoint::size_bytes() const {
  std::int64_t sum = 0;
  for (const TensorEntry& tensor : tensors_) sum += static_cast<std::int64_t>(tensor.bytes.size());
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

std::string_view first_word(std::string_view name) { return name.substr(0, name.find('.')); }

}  // namespace

std::vector<const TensorEntry*> match_tensors(const Checkpoint& checkpoint, std::span<const ExpectedTensor> expected,
                                              std::span<const TensorAlias> aliases) {
  std::unordered_multimap<std::string_view, const TensorAlias*> aliases_of;
  for (const TensorAlias& alias : aliases) aliases_of.emplace(alias.name, &alias);

  std::vector<const TensorEntry*> out;
  std::vector<std::string> missing;
  std::unordered_set<std::string_view> used, words;
  for (const ExpectedTensor& tensor : expected) {
    words.insert(first_word(tensor.name));
    const auto find = [&](std::string_view name) {
      const TensorEntry* entry = checkpoint.find(name);
      if (!entry) return entry;
      check(entry->shape == tensor.shape, ErrorKind::invalid_argument, checkpoint.where(),
            "bad shape of {}: got {}, expected {}. Check that the weights belong to the config.", in_quotes(name),
            entry->shape.str(), tensor.shape.str());
      weight_of(*entry, checkpoint.where());
      used.insert(entry->name);
      return entry;
    };
    const TensorEntry* taken = find(tensor.name);
    const auto [first, last] = aliases_of.equal_range(tensor.name);
    for (auto it = first; it != last; ++it) {
      const TensorEntry* const other = find(it->second->alias);
      if (!other) continue;
      const TensorEntry* const before = taken;
      if (!taken || it->second->first) taken = other;
      if (before && !look_alike(*before, *other))
        log(LogLevel::notice,
            fmt::format("{}: {} and {} differ; {} is taken.", checkpoint.where(), before->name, other->name, taken->name));
    }
    if (!taken) missing.push_back(tensor.name);
    out.push_back(taken);
  }
  std::vector<std::string> unknown, passed_over;
  for (const TensorEntry& tensor : checkpoint.tensors())
    if (!used.contains(tensor.name)) (words.contains(first_word(tensor.name)) ? unknown : passed_over).push_back(tensor.name);
  const std::string counts = fmt::format("{} missing, {} unknown", missing.size(), unknown.size() + passed_over.size());
  if (!missing.empty()) {
    std::vector<std::string> others = unknown;
    others.insert(others.end(), passed_over.begin(), passed_over.end());
    const std::string near = nearest(missing.front(), others);
    fail(ErrorKind::invalid_argument, checkpoint.where(),
         "missing tensor {}: got {}, expected {} tensors ({}). Check that the weights belong to the config.",
         in_quotes(missing.front()), near.empty() ? "no similar unknown name" : in_quotes(near) + " as the nearest unknown name",
         expected.size(), counts);
  }
  if (!unknown.empty()) {
    std::vector<std::string> known;
    for (const ExpectedTensor& tensor : expected) known.push_back(tensor.name);
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
