// The embedded model's tensors as the files people have: in other names, other containers, other places.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "models/umt5/names.h"
#include "models/wan_dit/names.h"
#include "models/wan_vae/names.h"
#include "testing/stored_tensors.h"
#include "testing/temporary_folder.h"
#include "testing/write_gguf.h"
#include "testing/write_pytorch.h"
#include "testing/write_safetensors.h"

namespace zoe::testing {

namespace fs = std::filesystem;

inline const fs::path kToy = fs::path(ZOE_MODELS) / "toy-wan";

inline std::shared_ptr<const NameMap> vae_names() {
  // Of a VAE with one block a level: two in the decoder, and an upsampler behind all but the last.
  return wan_vae_original_names([](std::string_view key) {
    for (const int block : {0, 1, 3, 4, 6, 7, 9, 10})
      if (key == fmt::format("decoder.upsamples.{}.residual.2.weight", block)) return true;
    for (const int resampling : {2, 5, 8})
      if (key == fmt::format("decoder.upsamples.{}.resample.1.weight", resampling)) return true;
    return false;
  });
}

// What a GGUF file's metadata has of the toy model's tokenizer: values as they are written.
inline std::map<std::string, std::string> gguf_tokenizer() {
  std::ifstream file(kToy / "tokenizer/spiece.model", std::ios::binary);
  const std::string model((std::istreambuf_iterator<char>(file)), {});
  std::size_t at = 0;
  const auto varint = [&](const std::string& from, std::size_t& place) {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<unsigned char>(from.at(place++));
      value |= std::uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
  };
  std::string tokens, scores, types, map;
  std::uint64_t count = 0;
  const auto number = [](std::string& to, auto value) { to.append(reinterpret_cast<const char*>(&value), sizeof value); };
  while (at < model.size()) {
    const std::uint64_t field = varint(model, at) >> 3, size = varint(model, at);
    const std::string part = model.substr(at, size);
    at += size;
    std::string piece, score(4, '\0');
    std::int32_t type = 1;
    for (std::size_t i = 0; (field == 1 || field == 3) && i < part.size();) {
      const std::uint64_t tag = varint(part, i);
      if ((tag & 7) == 5) {
        score = part.substr(i, 4);
        i += 4;
      } else if ((tag & 7) == 0) {
        const std::uint64_t value = varint(part, i);
        if (field == 1 && tag >> 3 == 3) type = static_cast<std::int32_t>(value);
      } else {
        const std::uint64_t length = varint(part, i);
        if (field == 1) piece = part.substr(i, length);
        if (field == 3 && tag >> 3 == 2) map = part.substr(i, length);
        i += length;
      }
    }
    if (field != 1) continue;
    ++count;
    number(tokens, std::uint64_t{piece.size()});
    tokens += piece;
    scores += score;
    number(types, type);
  }
  for (int padding = 0; padding < 3; ++padding, ++count) {  // as converters fill up the vocabulary
    const std::string piece = "[PAD" + std::to_string(count) + "]";
    number(tokens, std::uint64_t{piece.size()});
    tokens += piece;
    number(scores, -10000.0f);
    number(types, std::int32_t{5});
  }
  const auto array = [&](std::uint32_t type, std::uint64_t length, const std::string& values) {
    std::string out;
    number(out, std::uint32_t{9});
    number(out, type);
    number(out, length);
    return out + values;
  };
  std::string eos, unknown;
  for (const auto& [to, id] : {std::pair<std::string*, std::uint32_t>{&eos, 1}, {&unknown, 2}}) {
    number(*to, std::uint32_t{4});
    number(*to, id);
  }
  return {{"tokenizer.ggml.tokens", array(8, count, tokens)},
          {"tokenizer.ggml.scores", array(6, count, scores)},
          {"tokenizer.ggml.token_type", array(5, count, types)},
          {"tokenizer.ggml.precompiled_charsmap", array(0, map.size(), map)},
          {"tokenizer.ggml.eos_token_id", eos},
          {"tokenizer.ggml.unknown_token_id", unknown}};
}

// Files made of the toy model's own tensors.
struct ToyFiles {
  TemporaryFolder temporary;
  fs::path folder = temporary.path();

  fs::path at(const std::string& name) const {
    const fs::path path = folder / name;
    fs::create_directories(path.parent_path());
    return path;
  }
  // With the part's config.json beside it.
  void config(const std::string& part, const std::string& name) const {
    const fs::path beside = at(name).parent_path() / "config.json";
    if (!fs::exists(beside)) fs::copy_file(kToy / part / "config.json", beside);
  }
  std::string transformer(const std::string& name, const std::string& prefix = {}) const {
    write_safetensors(at(name), renamed(stored_tensors(kToy / "transformer"), wan_dit_original_names(), prefix));
    config("transformer", name);
    return at(name).string();
  }
  std::string vae(const std::string& name) const {
    const auto tensors = renamed(stored_tensors(kToy / "vae"), *vae_names());
    if (name.ends_with(".pth")) write_pytorch(at(name), tensors);
    else write_safetensors(at(name), tensors);
    config("vae", name);
    return at(name).string();
  }
  std::string text_encoder(const std::string& name, const NameMap* names, bool with_tokenizer) const {
    std::vector<TensorToWrite> tensors = stored_tensors(kToy / "text_encoder");
    if (names) tensors = renamed(tensors, *names);
    if (with_tokenizer) {
      std::ifstream file(kToy / "tokenizer/spiece.model", std::ios::binary);
      const std::string bytes((std::istreambuf_iterator<char>(file)), {});
      tensors.push_back({"spiece_model", "U8", {static_cast<std::int64_t>(bytes.size())}, bytes});
    }
    if (name.ends_with(".gguf")) write_gguf(at(name), tensors, {{"general.architecture", "t5encoder"}});
    else if (name.ends_with(".pth")) write_pytorch(at(name), tensors);
    else write_safetensors(at(name), tensors);
    return at(name).string();
  }
};

}  // namespace zoe::testing
