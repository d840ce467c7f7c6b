#include "models/layouts.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/nearest.h"
#include "models/clip_vision/names.h"
#include "models/umt5/names.h"
#include "models/wan_dit/names.h"
#include "models/wan_vae/names.h"

namespace zoe {

namespace {

// Maps that live as long as the program.
template <const NameMap& (*map)()>
std::shared_ptr<const NameMap> fixed(const HasKey&) {
  return {std::shared_ptr<const NameMap>(), &map()};
}

constexpr std::array kLayouts{
    Layout{"transformer", "Diffusers", "condition_embedder.time_embedder.linear_1.weight", nullptr},
    Layout{"transformer", "original Wan", "head.modulation", fixed<wan_dit_original_names>},
    Layout{"text_encoder", "Transformers", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", nullptr},
    Layout{"text_encoder", "original umT5", "blocks.0.pos_embedding.embedding.weight", fixed<umt5_original_names>},
    Layout{"text_encoder", "llama.cpp", "enc.blk.0.attn_rel_b.weight", fixed<umt5_llama_names>},
    Layout{"vae", "Diffusers", "decoder.mid_block.attentions.0.to_qkv.weight", nullptr},
    Layout{"vae", "original Wan", "decoder.middle.1.to_qkv.weight", wan_vae_original_names},
    Layout{"image_encoder", "Transformers", "pre_layrnorm.weight", fixed<clip_vision_transformers_names>},
    Layout{"image_encoder", "open_clip", "cls_embedding", fixed<clip_vision_open_clip_names>},
};

// Networks of the family that are not built: what their transformers have beside a plain one's tensors. Without it they would run,
// and give something else than they were trained for.
struct OtherNetwork {
  std::string_view begin, name;
};
constexpr OtherNetwork kOthers[] = {
    {"pose_patch_embedding.", "Animate"},
    {"ref_conv.", "Fun Control"},
    {"control_adapter.", "Fun Camera Control"},
    {"audio_injector.", "S2V"},
    {"casual_audio_encoder.", "S2V"},
    {"audio_proj.", "a model that takes sound (MultiTalk, InfiniteTalk, FantasyTalking)"},
};

void check_network(const Checkpoint& checkpoint, std::string_view prefix) {
  for (const TensorEntry& tensor : checkpoint.tensors()) {
    const std::string_view name = tensor.name;
    if (!name.starts_with(prefix)) continue;
    for (const OtherNetwork& other : kOthers)
      check(!name.substr(prefix.size()).starts_with(other.begin), ErrorKind::unsupported, checkpoint.where(),
            "is of {}, which is not supported: got {}, expected a transformer of text, image or control to video. "
            "docs/files.md has the kinds of files that run.",
            other.name, in_quotes(tensor.name));
  }
}

}  // namespace

std::vector<FoundLayout> find_layouts(const Checkpoint& checkpoint) {
  std::vector<FoundLayout> found;
  for (const Layout& layout : kLayouts)
    for (const TensorEntry& tensor : checkpoint.tensors()) {
      const std::string_view name = tensor.name;
      if (!name.ends_with(layout.telltale)) continue;
      const std::string prefix(name.substr(0, name.size() - layout.telltale.size()));
      if (!prefix.empty() && !prefix.ends_with('.')) continue;
      if (layout.part == "transformer") check_network(checkpoint, prefix);
      const HasKey has = [&](std::string_view key) { return checkpoint.find(prefix + std::string(key)) != nullptr; };
      found.push_back({&layout, {prefix, layout.names ? layout.names(has) : nullptr}});
    }
  return found;
}

KeyMap keys_of_part(const Checkpoint& checkpoint, std::string_view part) {
  const std::vector<FoundLayout> all = find_layouts(checkpoint);
  const FoundLayout* found = nullptr;
  for (const FoundLayout& each : all) {
    if (each.layout->part != part) continue;
    check(!found, ErrorKind::invalid_argument, checkpoint.where(),
          "holds the {} twice: got {} beside {}, expected one. Take a file with one.", part,
          in_quotes(found ? found->keys.prefix + std::string(found->layout->telltale) : ""),
          in_quotes(each.keys.prefix + std::string(each.layout->telltale)));
    found = &each;
  }
  return found ? found->keys : KeyMap();
}

FoundConfig infer_config(const Checkpoint& checkpoint, const FoundLayout& found, const JsonObject* original) {
  const NamedTensors tensors{checkpoint, found.keys};
  const auto made = [&](InferredConfig config) {
    return FoundConfig{parse_json_object(config.json, checkpoint.where()), std::move(config.assumed)};
  };
  if (found.layout->part == "transformer") return made(infer_wan_dit_config(tensors, original));
  if (found.layout->part == "text_encoder") return made(infer_umt5_config(tensors));
  if (found.layout->part == "vae") return made(infer_wan_vae_config(tensors));
  ZOE_INTERNAL_CHECK(found.layout->part == "image_encoder");
  return made(infer_clip_vision_config(tensors));
}

bool is_original_config(const JsonObject& json) { return json.has("num_layers") && json.has("dim") && json.has("in_dim"); }

bool is_config_of(const JsonObject& json, std::string_view part) {
  const auto text = [&](std::string_view key) {
    try {
      return json.string(key, "");
    } catch (const Error&) {  // of another type
      return std::string();
    }
  };
  const std::string name = text("_class_name");
  if (part == "transformer") return (name.starts_with("Wan") && name.ends_with("3DModel")) || is_original_config(json);
  if (part == "vae") return name == "AutoencoderKLWan";
  if (part == "image_encoder") return text("model_type") == "clip_vision_model";
  return part == "text_encoder" && text("model_type") == "umt5";
}

}  // namespace zoe
