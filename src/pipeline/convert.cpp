#include "pipeline/convert.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <exception>
#include <mutex>
#include <nlohmann/json.hpp>
#include <system_error>
#include <thread>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/nearest.h"
#include "checkpoint/quantize.h"
#include "checkpoint/tensor_file.h"
#include "models/wan_dit/names.h"
#include "pipeline/component.h"
#include "pipeline/lora_shelf.h"
#include "pipeline/model_files.h"

namespace zoe {

namespace {

namespace fs = std::filesystem;

// How a tensor is stored.
struct Stored {
  std::string_view name;       // as options call it; "": only made here
  std::string_view type;       // as the files call it
  std::optional<DType> dtype;  // dense
  std::uint32_t gguf = 0;      // a block type
  bool is_scaled_f8 = false;   // with a scale beside it
  std::int64_t block = 1, bytes = 0;
};
constexpr Stored kStored[] = {
    {.name = "bf16", .type = "BF16", .dtype = DType::bf16, .bytes = 2},
    {.name = "f16", .type = "F16", .dtype = DType::f16, .bytes = 2},
    {.name = "f32", .type = "F32", .dtype = DType::f32, .bytes = 4},
    {.name = "fp8_scaled", .type = "F8_E4M3", .dtype = {}, .is_scaled_f8 = true, .bytes = 1},
    {.name = "q8_0", .type = "Q8_0", .dtype = {}, .gguf = 8, .block = 32, .bytes = 34},
    {.name = "q5_0", .type = "Q5_0", .dtype = {}, .gguf = 6, .block = 32, .bytes = 22},
    {.name = "q4_0", .type = "Q4_0", .dtype = {}, .gguf = 2, .block = 32, .bytes = 18},
    {.name = "q6_k", .type = "Q6_K", .dtype = {}, .gguf = 14, .block = 256, .bytes = 210},
    {.name = "q4_k", .type = "Q4_K", .dtype = {}, .gguf = 12, .block = 256, .bytes = 144},
};
const Stored& stored(std::string_view name) {
  const auto* const found =
      std::find_if(std::begin(kStored), std::end(kStored), [&](const Stored& row) { return row.name == name; });
  const std::vector<std::string_view> names = convert_types();
  check(found != std::end(kStored), ErrorKind::invalid_argument, "--type", "got {}, expected one of {}.", in_quotes(name),
        fmt::join(names, ", "));
  return *found;
}

enum class Output : std::uint8_t { folder, safetensors, gguf };

Output output_of(const fs::path& path) {
  const std::string suffix = path.extension().string();
  if (suffix == ".safetensors") return Output::safetensors;
  if (suffix == ".gguf") return Output::gguf;
  // A folder's name may have a dot in it: Wan2.1-T2V-14B.
  const bool is_word =
      suffix.size() > 1 && std::all_of(suffix.begin() + 1, suffix.end(), [](unsigned char c) { return std::isalpha(c) != 0; });
  check(!is_word, ErrorKind::invalid_argument, "output",
        "unknown suffix: got {}, expected .safetensors, .gguf, or a folder's name without one.",
        in_quotes(path.filename().string()));
  return Output::folder;
}

// config.json of a transformer, as Diffusers has it.
std::string config_text(const WanDitConfig& config) {
  const auto or_null = [](std::int64_t value) { return value ? nlohmann::json(value) : nlohmann::json(); };
  const nlohmann::ordered_json json{{"_class_name", "WanTransformer3DModel"},
                                    {"patch_size", config.patch_size},
                                    {"num_attention_heads", config.num_heads},
                                    {"attention_head_dim", config.head_dim},
                                    {"in_channels", config.in_channels},
                                    {"out_channels", config.out_channels},
                                    {"text_dim", config.text_dim},
                                    {"freq_dim", config.freq_dim},
                                    {"ffn_dim", config.ffn_dim},
                                    {"num_layers", config.num_layers},
                                    {"cross_attn_norm", config.cross_attn_norm},
                                    {"qk_norm", "rms_norm_across_heads"},
                                    {"eps", config.eps},
                                    {"image_dim", or_null(config.image_dim)},
                                    {"added_kv_proj_dim", or_null(config.image_dim ? config.dim() : 0)},
                                    {"rope_max_seq_len", config.rope_max_seq_len},
                                    {"pos_embed_seq_len", or_null(config.image_positions)}};
  return json.dump();
}

bool is_transformer(std::string_view part) { return part.starts_with("transformer"); }

// The tensors of one part, one behind the other, into one file.
class PartWriter {
 public:
  PartWriter(const ModelConfig& model, const std::string& part, const WeightChanges& changes, const ConvertOptions& options,
             Converted& converted)
      : weights_(open_weights(model, part)), changes_(changes), options_(options), converted_(converted), part_(part) {
    for (const ExpectedTensor& tensor : tensors_of(model, part)) tensors_.push_back({tensor.name, tensor.shape, nullptr, {}});
  }

  std::size_t source_bytes() const { return static_cast<std::size_t>(weights_.stored_bytes()); }

  void write(const fs::path& path, Output output, const std::map<std::string, std::string>& metadata,
             const std::function<void(std::size_t)>& progress) {
    const Stored& asked = stored(options_.type);
    std::vector<TensorToStore> list;
    std::size_t odd = 0;
    if (asked.is_scaled_f8) list.push_back({"scaled_fp8", std::string(asked.type), {0}, 0});
    for (Tensor& tensor : tensors_) {
      tensor.stored = &choose(asked, tensor, odd);
      tensor.key = output == Output::folder || !is_transformer(part_) ? tensor.name : original_name(tensor.name);
      const auto count = static_cast<std::size_t>(tensor.shape.count());
      list.push_back({tensor.key, std::string(tensor.stored->type), tensor.shape,
                      count / static_cast<std::size_t>(tensor.stored->block) * static_cast<std::size_t>(tensor.stored->bytes)});
      if (tensor.stored->is_scaled_f8)
        list.push_back({tensor.key.substr(0, tensor.key.size() - std::string_view("weight").size()) + "scale_weight",
                        "F32",
                        {},
                        sizeof(float)});
    }
    if (odd)
      converted_.notes.push_back(fmt::format("{}: {} tensors with rows that are no multiple of {} are stored otherwise than as {}",
                                             part_, odd, asked.block, asked.name));
    for (const TensorToStore& tensor : list) converted_.bytes += tensor.size_bytes;
    converted_.tensors += tensors_.size();
    TensorFile file(path, output == Output::gguf ? TensorFile::Format::gguf : TensorFile::Format::safetensors, std::move(list),
                    metadata);
    for (const Tensor& tensor : tensors_) {
      write_tensor(file, tensor);
      progress(weights_(tensor.name)->stored_bytes());
    }
    file.close();
  }

 private:
  struct Tensor {
    std::string name;
    Shape shape;
    const Stored* stored;
    std::string key;
  };

  static std::string original_name(const std::string& name) {
    const auto found = wan_dit_original_names().stored_of(name);
    return found && found->rule->parts == 1 ? found->key : name;
  }

  static const Stored& choose(const Stored& asked, const Tensor& tensor, std::size_t& odd) {
    if (asked.dtype) return asked;
    constexpr std::int64_t kSmall = 1024;  // elements, not worth blocks
    const bool is_matrix = tensor.shape.rank() == 2,
               is_of_block = tensor.name.find("blocks.") != std::string::npos || tensor.name.starts_with("encoder.block.");
    if (!is_matrix) return stored("f32");
    if (!is_of_block || tensor.shape.count() <= kSmall || tensor.name.ends_with("bias.weight")) return stored("bf16");
    if (tensor.shape.dim(1) % asked.block == 0) return asked;
    ++odd;
    return tensor.shape.dim(1) % stored("q8_0").block == 0 ? stored("q8_0") : stored("bf16");
  }

  static constexpr std::int64_t kPiece = 1 << 16,
                                kChunk = 1 << 22;  // elements that a thread takes at a time, that are held at once

  // Calls body(begin, count) for pieces of [begin, end), side by side.
  template <class Body>
  void each_piece(std::int64_t begin, std::int64_t end, const Body& body) const {
    const std::int64_t pieces = (end - begin + kPiece - 1) / kPiece;
    std::atomic<std::int64_t> next{0};
    std::exception_ptr failure;
    std::mutex mutex;
    const auto work = [&] {
      try {
        for (std::int64_t i; (i = next++) < pieces;) body(begin + i * kPiece, std::min(kPiece, end - begin - i * kPiece));
      } catch (...) {
        const std::lock_guard lock(mutex);
        failure = std::current_exception();
        next = pieces;
      }
    };
    std::vector<std::thread> threads;
    const std::int64_t most = std::min<std::int64_t>(pieces, std::max(1u, std::thread::hardware_concurrency()));
    try {
      while (static_cast<std::int64_t>(threads.size()) + 1 < most) threads.emplace_back(work);
    } catch (const std::system_error&) {
      // Those that run do it.
    }
    work();
    for (std::thread& thread : threads) thread.join();
    if (failure) std::rethrow_exception(failure);
  }

  void read_finite(const WeightReader& weight, const Tensor& tensor, std::int64_t begin, std::int64_t count, float* out) const {
    weight.read(begin, count, DType::f32, out);
    for (std::int64_t i = 0; i < count; ++i)
      if (!std::isfinite(out[i]))
        fail(ErrorKind::invalid_argument, part_, "bad value of {}: got {} as element {}, expected finite numbers.",
             in_quotes(tensor.name), out[i], begin + i);
  }

  template <class Body>
  void each_chunk(const WeightReader& weight, const Body& body) const {
    const std::int64_t count = weight.count();
    for (std::int64_t begin = 0; begin < count; begin += kChunk) {
      if (options_.cancel && options_.cancel->load(std::memory_order_relaxed))
        fail(ErrorKind::cancelled, "convert", "was cancelled.");
      const std::int64_t now = std::min(kChunk, count - begin);
      weight.fetch(begin, now);
      if (begin + now < count) weight.read_ahead(begin + now, std::min(kChunk, count - begin - now));
      body(begin, now);
    }
  }

  void write_tensor(TensorFile& file, const Tensor& tensor) const {
    const WeightPtr weight = changed(weights_(tensor.name), changes_, tensor.name);
    const Stored& as = *tensor.stored;
    float largest = 0;
    if (as.is_scaled_f8)
      each_chunk(*weight, [&](std::int64_t begin, std::int64_t count) {
        std::mutex mutex;
        each_piece(begin, begin + count, [&](std::int64_t first, std::int64_t n) {
          std::vector<float> values(static_cast<std::size_t>(n));
          read_finite(*weight, tensor, first, n, values.data());
          float own = 0;
          for (const float value : values) own = std::max(own, std::abs(value));
          const std::lock_guard lock(mutex);
          largest = std::max(largest, own);
        });
      });
    constexpr float kLargestF8 = 448;
    const float scale = largest > 0 ? largest / kLargestF8 : 1;
    std::vector<std::byte> bytes;
    each_chunk(*weight, [&](std::int64_t begin, std::int64_t count) {
      bytes.resize(static_cast<std::size_t>(count / as.block * as.bytes));
      each_piece(begin, begin + count, [&](std::int64_t first, std::int64_t n) {
        std::byte* const to = bytes.data() + (first - begin) / as.block * as.bytes;
        if (as.dtype) return weight->read(first, n, *as.dtype, to);
        std::vector<float> values(static_cast<std::size_t>(n));
        read_finite(*weight, tensor, first, n, values.data());
        if (as.is_scaled_f8)
          for (std::int64_t i = 0; i < n; ++i)
            to[i] = static_cast<std::byte>(f32_to_f8_e4m3(values[static_cast<std::size_t>(i)] / scale));
        else gguf_encoder(as.gguf)(values.data(), n, to);
      });
      file.write(bytes);
    });
    if (as.is_scaled_f8) file.write(std::as_bytes(std::span(&scale, 1)));
  }

  ComponentWeights weights_;
  const WeightChanges& changes_;
  const ConvertOptions& options_;
  Converted& converted_;
  std::string part_;
  std::vector<Tensor> tensors_;
};

// The text of config.json: the model's own, or made from what is known; empty where neither is there.
std::string config_of(const ModelConfig& model, const std::string& part) {
  constexpr std::size_t kMost = 1 << 20;
  std::error_code status;
  if (const fs::path beside = model.path.empty() ? fs::path() : model.part(part) / "config.json"; fs::exists(beside, status)) {
    const auto json = nlohmann::ordered_json::parse(read_file(beside, part + "/config.json", kMost), nullptr, false);
    if (json.is_object() && (json.contains("_class_name") || json.contains("architectures"))) return json.dump();
  }
  return is_transformer(part) ? config_text(model.transformer) : std::string();
}

void copy_all(const fs::path& from, const fs::path& to) {
  std::error_code status;
  fs::copy(from, to, fs::copy_options::recursive, status);
  check(!status, ErrorKind::io, "convert", "cannot copy {} to {}: {}.", from.string(), to.string(), status.message());
}

}  // namespace

std::vector<std::string_view> convert_types() {
  std::vector<std::string_view> names;
  for (const Stored& row : kStored) names.push_back(row.name);
  return names;
}

ModelConfig read_model_to_convert(const std::string& spec, std::string_view where) {
  std::error_code status;
  if (spec.empty() || spec.starts_with("random:") || !fs::exists(spec, status) ||
      fs::exists(resolve_snapshot(spec) / "model_index.json", status))
    return read_model({.model_path = spec}, where);
  ModelConfig model;
  model.path = spec;
  model.name = model.path.filename().string();
  for (const HeldPart& held : look_into(model.path).parts)
    if (is_transformer(held.part)) model.parts[held.part] = held.path;
  check(model.parts.contains("transformer"), ErrorKind::invalid_argument, where,
        "{} holds no transformer of Wan. Give a model's folder, or the file of a transformer.", spec);
  model.transformer = parse_wan_dit_config(config_of_part(model, "transformer"));
  if (model.parts.contains("transformer_2")) model.boundary_ratio = 1;  // there are two; where one ends does not matter here
  return model;
}

Converted convert(const ModelConfig& model, const ConvertOptions& options) {
  const Output output = output_of(options.output);
  const Stored& type = stored(options.type);
  std::error_code status;
  check(!fs::exists(fs::symlink_status(options.output, status)), ErrorKind::invalid_argument, "output",
        "{} exists already. Choose another name; nothing is overwritten.", options.output.string());
  check(model.path.empty() || !is_inside(options.output, model.path), ErrorKind::invalid_argument, "output",
        "{} lies in the model folder {}. Choose a path outside of it.", options.output.string(), model.path.string());
  check(type.dtype || (output == Output::gguf && type.gguf) || (output == Output::safetensors && type.is_scaled_f8),
        ErrorKind::invalid_argument, "--type", "got {} for {}, expected {}.", in_quotes(options.type),
        options.output.filename().string(),
        output == Output::gguf          ? "bf16, f16, f32, q8_0, q5_0, q4_0, q6_k or q4_k"
        : output == Output::safetensors ? "bf16, f16, f32 or fp8_scaled; blocks are for .gguf"
                                        : "bf16, f16 or f32; a folder of Diffusers has no other");
  std::vector<std::string> transformers{"transformer"};
  if (model.boundary_ratio) transformers.emplace_back("transformer_2");
  std::vector<std::string> parts = transformers;
  if (output != Output::folder) {
    if (output == Output::safetensors && (model.random_seed || fs::exists(model.path / "model_index.json", status)))
      parts.insert(parts.end(), {"vae", "text_encoder"});
    check(std::find(parts.begin(), parts.end(), options.part) != parts.end(), ErrorKind::invalid_argument, "--part",
          "got {} for {} of {}, expected {}.", in_quotes(options.part), options.output.filename().string(), model.name,
          fmt::join(parts, " or "));
    parts = {options.part};
  }
  LoraShelf shelf;
  const Request& request = options.loras;
  for (const auto& [field, loras] : {std::pair("lora_high", &request.loras_high), std::pair("lora_low", &request.loras_low)})
    check(model.boundary_ratio || loras->empty(), ErrorKind::invalid_argument, spelled(field, options.spelling),
          "is not taken by this model: got a LoRA for one of two experts, and it has one transformer. Give it with {}.",
          spelled("lora", options.spelling));
  std::map<std::string, WeightChanges> changes = shelf.changes(request, model, transformers, options.spelling);
  Converted converted;
  std::vector<PartWriter> writers;
  std::size_t total = 0, done = 0;
  for (const std::string& part : parts) {
    writers.emplace_back(model, part, changes[part], options, converted);
    total += writers.back().source_bytes();
  }
  const auto progress = [&](std::size_t bytes) {
    done += bytes;
    if (options.progress) options.progress(done, total);
  };
  std::string merged;
  for (const auto* loras : {&request.loras, &request.loras_high, &request.loras_low})
    for (const LoraChoice& each : *loras)
      merged += fmt::format("{}{}={}", merged.empty() ? "" : ",", fs::path(each.path).filename().string(), each.strength);
  if (output != Output::folder) {
    PendingOutput pending(options.output, PendingOutput::Kind::file);
    std::map<std::string, std::string> metadata;
    if (const std::string config = config_of(model, options.part); !config.empty()) metadata["config"] = config;
    if (!merged.empty() && is_transformer(options.part)) metadata["zoetrope.loras"] = merged;
    if (output == Output::gguf) metadata["general.architecture"] = "wan";
    writers.front().write(pending.path(), output, metadata, progress);
    pending.commit();
    return converted;
  }
  check(
      fs::exists(model.path / "model_index.json", status), ErrorKind::invalid_argument, "output",
      "a folder gets all parts of a model: got {}, which is no folder in the Diffusers layout. Give one, or an output that ends in "
      ".safetensors or .gguf.",
      model.path.empty() ? model.name : model.path.string());
  PendingOutput pending(options.output, PendingOutput::Kind::folder);
  try {
    for (const char* const name :
         {"model_index.json", "zoetrope.json", "scheduler", "tokenizer", "text_encoder", "vae", "image_encoder", "image_processor"})
      if (fs::exists(model.path / name, status)) copy_all(model.path / name, pending.path() / name);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      fs::create_directory(pending.path() / parts[i], status);
      copy_all(model.part(parts[i]) / "config.json", pending.path() / parts[i] / "config.json");
      std::map<std::string, std::string> metadata{{"format", "pt"}};
      if (!merged.empty()) metadata["zoetrope.loras"] = merged;
      writers[i].write(pending.path() / parts[i] / "diffusion_pytorch_model.safetensors", output, metadata, progress);
    }
  } catch (...) {
    // A pending output takes away what lies in it, but for folders.
    for (const fs::directory_entry& entry : fs::directory_iterator(pending.path(), status)) fs::remove_all(entry.path(), status);
    throw;
  }
  pending.commit();
  return converted;
}

}  // namespace zoe
