// A model from the files people have: single files, repositories of Wan's own layout, ComfyUI trees and GGUF files give the very
// frames of the Diffusers folder that their tensors are from; and what is wrong or missing is said in one line.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "models/clip_vision/names.h"
#include "models/umt5/names.h"
#include "models/wan_dit/names.h"
#include "models/wan_vae/names.h"
#include "pipeline/model_files.h"
#include "pipeline/session.h"
#include "platform/platform.h"
#include "testing/image_to_video_folder.h"
#include "testing/recorded_videos.h"
#include "testing/run_command.h"
#include "testing/sparse_checkpoint.h"
#include "testing/stored_tensors.h"
#include "testing/temporary_folder.h"
#include "testing/toy_files.h"
#include "testing/two_experts_folder.h"
#include "testing/write_gguf.h"
#include "testing/write_pytorch.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::TemporaryFolder;
using testing::TensorToWrite;

using testing::gguf_tokenizer;
using testing::kToy;
using testing::vae_names;
using Files = testing::ToyFiles;

std::vector<std::uint8_t> frames_of(const ModelConfig& model, const fs::path& image = {}) {
  Session session(model, open_platform("cpu", {.threads = 1}), {.dtype = DType::f32, .single_request = true});
  Request request;
  request.prompts = {"a big green triangle moving right"};
  request.height = 64, request.width = 64, request.num_frames = 5, request.num_inference_steps = 2;
  request.guidance_scale = 4;
  request.seeds = {3};
  request.image = image;
  return testing::frames_of(session, request);
}

const std::vector<std::uint8_t>& toy_frames() {
  static const std::vector<std::uint8_t> frames = frames_of(read_model_config(kToy));
  return frames;
}

TEST(Files, SingleFilesOfThreeKindsGiveTheSameFrames) {
  const Files files;
  EXPECT_EQ(frames_of(read_model(ModelFiles{.model_path = files.transformer("dit/toy.safetensors", "model.diffusion_model."),
                                            .vae = files.vae("vae/toy.pth"),
                                            .text_encoder = files.text_encoder("text/toy.gguf", &umt5_llama_names(), false),
                                            .tokenizer = (kToy / "tokenizer").string()})),
            toy_frames());
}

TEST(Files, TheTokenizerOfAGgufFileGivesTheSameTokens) {
  const Files files;
  std::map<std::string, std::string> tokenizer = gguf_tokenizer();
  const std::vector<TensorToWrite> tensors = testing::renamed(testing::stored_tensors(kToy / "text_encoder"), umt5_llama_names());
  const std::map<std::string, std::string> metadata{{"general.architecture", "t5encoder"}, {"tokenizer.ggml.model", "t5"}};
  testing::write_gguf(files.at("t.gguf"), tensors, metadata, tokenizer);
  const Tokenizer expected(kToy / "tokenizer"),
      got = Tokenizer::of_sentencepiece(Checkpoint(files.at("t.gguf")).sentencepiece(), "t.gguf");
  EXPECT_EQ(got.vocab_size(), expected.vocab_size());
  EXPECT_EQ(got.eos_id(), expected.eos_id());
  EXPECT_EQ(got.unk_id(), expected.unk_id());
  for (const std::string text : {"a big green triangle", "\uff21 \ufb01ne  day</s> <pad>", "[PAD403] \u00e9\u4e2d", ""})
    EXPECT_EQ(got.encode(text, 100), expected.encode(text, 100)) << text;
  const auto model = [&] {
    return read_model(ModelFiles{.model_path = (kToy / "transformer").string(),
                                 .vae = (kToy / "vae").string(),
                                 .text_encoder = files.at("t.gguf").string()});
  };
  EXPECT_EQ(frames_of(model()), toy_frames());
  tokenizer.erase("tokenizer.ggml.precompiled_charsmap");
  testing::write_gguf(files.at("t.gguf"), tensors, metadata, tokenizer);
  std::vector<std::string> notices;
  const LogScope scope([&](LogLevel, std::string_view line) { notices.emplace_back(line); });
  open_tokenizer(model());
  EXPECT_NE(std::find(notices.begin(), notices.end(),
                      "tokenizer: its tokenizer has no map of characters: unusual ones give other tokens than spiece.model does."),
            notices.end());
}

TEST(Files, AComfyTreeGivesWhatIsMissing) {
  const Files files;
  const std::string transformer = files.transformer("models/diffusion_models/toy.safetensors");
  files.vae("models/vae/toy.safetensors");
  files.text_encoder("models/text_encoders/toy.safetensors", nullptr, true);
  testing::write_safetensors(files.at("models/vae/other.safetensors"), {{"something", "F32", {1}, std::string(4, '\0')}});
  const std::string tree = (files.folder / "models").string();
  std::vector<std::string> notices;
  const LogScope scope([&](LogLevel level, std::string_view text) {
    if (level == LogLevel::notice) notices.emplace_back(text);
  });
  const ModelConfig model = read_model(ModelFiles{.model_path = transformer, .models_dir = tree});
  EXPECT_EQ(frames_of(model), toy_frames());
  EXPECT_EQ(model.name, "toy");
  EXPECT_NE(std::find(notices.begin(), notices.end(), "vae: " + tree + "/vae/toy.safetensors is taken."), notices.end());
  // The transformer, too, if it is the only one.
  EXPECT_EQ(read_model(ModelFiles{.models_dir = tree}).transformer, model.transformer);
}

TEST(Files, ARepositoryOfWansOwnLayout) {
  const Files files;
  testing::write_safetensors(files.at("Wan/diffusion_pytorch_model.safetensors"),
                             testing::renamed(testing::stored_tensors(kToy / "transformer"), wan_dit_original_names()));
  std::ofstream(files.at("Wan/config.json"))
      << R"({"_class_name": "WanModel", "model_type": "t2v", "dim": 256, "num_heads": 4, "num_layers": 8,
    "in_dim": 16, "out_dim": 16, "ffn_dim": 1024, "freq_dim": 256, "text_len": 512, "eps": 1e-06})";
  files.text_encoder("Wan/models_t5.pth", &umt5_original_names(), false);
  fs::create_directories(files.folder / "Wan/google");
  fs::create_directory_symlink(kToy / "tokenizer", files.folder / "Wan/google/umt5-xxl");
  testing::write_pytorch(files.at("Wan/Wan2.1_VAE.pth"), testing::renamed(testing::stored_tensors(kToy / "vae"), *vae_names()));
  const std::string folder = (files.folder / "Wan").string();
  // The toy's VAE has other means and deviations of latents than the published one, which nothing in such a folder says.
  const ModelConfig whole = read_model(ModelFiles{.model_path = folder});
  EXPECT_EQ(whole.vae.num_res_blocks, 1);
  EXPECT_NE(frames_of(whole), toy_frames());
  EXPECT_EQ(frames_of(read_model(ModelFiles{.model_path = folder, .vae = files.vae("vae/toy.pth")})), toy_frames());
}

TEST(Files, OneFileMayHoldAllParts) {
  const Files files;
  std::vector<TensorToWrite> all =
      testing::renamed(testing::stored_tensors(kToy / "transformer"), wan_dit_original_names(), "model.diffusion_model.");
  for (TensorToWrite& tensor : testing::stored_tensors(kToy / "text_encoder")) {
    tensor.name = "text_encoders.umt5xxl.transformer." + tensor.name;
    all.push_back(std::move(tensor));
  }
  for (TensorToWrite& tensor : testing::renamed(testing::stored_tensors(kToy / "vae"), *vae_names(), "vae."))
    all.push_back(std::move(tensor));
  testing::write_safetensors(files.at("all/toy.safetensors"), all);
  files.config("transformer", "all/toy.safetensors");
  EXPECT_EQ(frames_of(read_model(ModelFiles{.model_path = files.at("all/toy.safetensors").string(),
                                            .vae = files.vae("vae/toy.safetensors"),
                                            .tokenizer = (kToy / "tokenizer/spiece.model").string()})),
            toy_frames());
}

TEST(Files, APartReplacesTheFoldersOwn) {
  const Files files;
  EXPECT_EQ(
      frames_of(read_model(ModelFiles{.model_path = kToy.string(), .transformer = files.transformer("toy.safetensors", "net.")})),
      toy_frames());
  EXPECT_EQ(frames_of(read_model(ModelFiles{.vae = files.vae("vae/toy.pth")})), toy_frames());
  EXPECT_EQ(
      frames_of(read_model(ModelFiles{.text_encoder = files.text_encoder("t/toy.safetensors", &umt5_original_names(), true)})),
      toy_frames());
}

TEST(Files, TwoExpertsInTheirFolders) {
  const Files files;
  const fs::path experts = fs::path(ZOE_FIXTURES) / "models/two_experts";
  const ModelConfig diffusers = read_model_config(testing::make_two_experts(files.folder / "diffusers"));
  for (const auto& [part, name] :
       {std::pair<std::string, std::string>{"transformer", "high_noise_model"}, {"transformer_2", "low_noise_model"}}) {
    const std::string path = "Wan/" + name + "/diffusion_pytorch_model.safetensors";
    testing::write_safetensors(files.at(path), testing::renamed(testing::stored_tensors(experts / part), wan_dit_original_names()));
    fs::copy_file(experts / part / "config.json", files.at("Wan/" + name + "/config.json"));
  }
  ModelFiles said{.model_path = (files.folder / "Wan").string(),
                  .vae = files.vae("vae/toy.pth"),
                  .text_encoder = (kToy / "text_encoder").string(),
                  .tokenizer = (kToy / "tokenizer").string()};
  const ModelConfig original = read_model(said);
  EXPECT_EQ(original.boundary_ratio, 0.875);
  const std::vector<std::uint8_t> expected = frames_of(diffusers);
  EXPECT_EQ(frames_of(original), expected);
  // And one by one.
  said.transformer = (files.folder / "Wan/high_noise_model").string(),
  said.transformer_2 = (files.folder / "Wan/low_noise_model").string();
  said.model_path = "";
  EXPECT_EQ(frames_of(read_model(said)), expected);
}

const fs::path kPicture = fs::path(ZOE_FIXTURES) / "models/image_to_video/circle.png";

// Wan 2.1's image to video, its image encoder as open_clip has it: q, k and v in one tensor, behind "visual.", beside a text tower.
TEST(Files, AnImageEncoderOfOpenClip) {
  const Files files;
  const fs::path recorded = fs::path(ZOE_FIXTURES) / "models/image_to_video_clip";
  std::vector<TensorToWrite> tensors;
  for (TensorToWrite& tensor : testing::stored_tensors(recorded / "image_encoder")) {
    const auto stored = clip_vision_open_clip_names().stored_of("vision_model." + tensor.name).value();
    const std::string key = "visual." + stored.key;
    const auto same = std::find_if(tensors.begin(), tensors.end(), [&](const TensorToWrite& other) { return other.name == key; });
    if (stored.rule->parts == 1) {
      tensors.push_back({key, tensor.dtype, tensor.shape, tensor.bytes});
    } else if (same == tensors.end()) {
      std::vector<std::int64_t> dims(tensor.shape.dims().begin(), tensor.shape.dims().end());
      dims[0] *= 3;
      tensors.push_back({key, tensor.dtype, Shape(dims), std::string(tensor.bytes.size() * 3, '\0')});
      tensors.back().bytes.replace(static_cast<std::size_t>(stored.rule->part) * tensor.bytes.size(), tensor.bytes.size(),
                                   tensor.bytes);
    } else {
      same->bytes.replace(static_cast<std::size_t>(stored.rule->part) * tensor.bytes.size(), tensor.bytes.size(), tensor.bytes);
    }
  }
  for (TensorToWrite& tensor : tensors) {
    if (tensor.name == "visual.cls_embedding") tensor.shape = Shape{1, 1, 24};
    if (tensor.name == "visual.pos_embedding") tensor.shape = Shape{1, 10, 24};
  }
  tensors.push_back({"textual.token_embedding.weight", "F32", {1}, std::string(4, '\0')});
  tensors.push_back({"visual.head", "F32", {1}, std::string(4, '\0')});
  testing::write_pytorch(files.at("clip/clip.pth"), tensors);
  fs::copy_file(recorded / "image_encoder/config.json", files.at("clip/config.json"));
  const ModelConfig diffusers = read_model_config(testing::make_image_to_video(files.folder / "diffusers", "image_to_video_clip"));
  ModelFiles said{.model_path = (recorded / "transformer").string(),
                  .vae = (kToy / "vae").string(),
                  .text_encoder = (kToy / "text_encoder").string(),
                  .image_encoder = files.at("clip/clip.pth").string(),
                  .tokenizer = (kToy / "tokenizer").string()};
  EXPECT_EQ(frames_of(read_model(said), kPicture), frames_of(diffusers, kPicture));
  said.image_encoder = "";
  try {
    read_model(said);
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "[--model-path] missing to run: a CLIP image encoder (--image-encoder FILE). Give what is missing, or "
                 "--models-dir with a ComfyUI "
                 "models tree that has it.");
  }
}

// Wan 2.2 TI2V, its VAE in the original names: each level a list of its own.
TEST(Files, TheVaeOfWan22InTheOriginalNames) {
  const Files files;
  const fs::path recorded = fs::path(ZOE_FIXTURES) / "models";
  const auto names = wan_vae_original_names([](std::string_view key) {
    return key == "decoder.upsamples.0.upsamples.0.residual.2.weight" ||
           key == "encoder.downsamples.0.downsamples.0.residual.2.weight";
  });
  testing::write_safetensors(files.at("vae/vae.safetensors"),
                             testing::renamed(testing::stored_tensors(recorded / "wan_vae_residual"), *names));
  fs::copy_file(recorded / "wan_vae_residual/config.json", files.at("vae/config.json"));
  testing::write_safetensors(
      files.at("dit/dit.safetensors"),
      testing::renamed(testing::stored_tensors(recorded / "text_image_to_video/transformer"), wan_dit_original_names()));
  fs::copy_file(recorded / "text_image_to_video/transformer/config.json", files.at("dit/config.json"));
  const ModelConfig model = read_model(ModelFiles{.model_path = files.at("dit/dit.safetensors").string(),
                                                  .vae = files.at("vae/vae.safetensors").string(),
                                                  .text_encoder = (kToy / "text_encoder").string(),
                                                  .tokenizer = (kToy / "tokenizer").string()});
  EXPECT_TRUE(model.expand_timesteps);
  const ModelConfig diffusers = read_model_config(testing::make_image_to_video(files.folder / "diffusers", "text_image_to_video"));
  EXPECT_EQ(frames_of(model, kPicture), frames_of(diffusers, kPicture));
  EXPECT_EQ(frames_of(model), frames_of(diffusers));
}

TEST(Files, StoredScalesGiveTheFramesOfWhatTheyMean) {
  const Files files;
  std::vector<TensorToWrite> scaled, widened;
  int matrices = 0;
  for (TensorToWrite& tensor : testing::renamed(testing::stored_tensors(kToy / "transformer"), wan_dit_original_names())) {
    if (tensor.shape.rank() != 2 || !tensor.name.starts_with("blocks.")) {
      scaled.push_back(tensor);
      widened.push_back(std::move(tensor));
      continue;
    }
    ++matrices;
    const std::int64_t rows = tensor.shape.dim(0), width = tensor.shape.dim(1);
    std::vector<float> values(static_cast<std::size_t>(rows * width)), scales(static_cast<std::size_t>(rows));
    std::string numbers(values.size(), '\0');
    convert(tensor.bytes.data(), DType::bf16, values.data(), DType::f32, values.size());
    for (std::size_t row = 0; row < scales.size(); ++row) {
      float* const first = values.data() + row * static_cast<std::size_t>(width);
      float largest = 1e-6f;
      for (std::int64_t i = 0; i < width; ++i) largest = std::max(largest, std::fabs(first[i]));
      scales[row] = largest / 127;
      for (std::int64_t i = 0; i < width; ++i) {
        const float number = std::nearbyint(first[i] / scales[row]);
        numbers[row * static_cast<std::size_t>(width) + static_cast<std::size_t>(i)] =
            static_cast<char>(static_cast<std::int8_t>(number));
        first[i] = scales[row] * number;
      }
    }
    const std::string layer = tensor.name.substr(0, tensor.name.size() - 7),
                      mark = R"({"format": "int8_tensorwise", "per_row": true})";
    const auto bytes = [](const std::vector<float>& from) {
      return std::string(reinterpret_cast<const char*>(from.data()), from.size() * 4);
    };
    scaled.push_back({tensor.name, "I8", tensor.shape, numbers});
    scaled.push_back({layer + ".weight_scale", "F32", {rows, 1}, bytes(scales)});
    scaled.push_back({layer + ".comfy_quant", "U8", {static_cast<std::int64_t>(mark.size())}, mark});
    widened.push_back({tensor.name, "F32", tensor.shape, bytes(values)});
  }
  ASSERT_EQ(matrices, 80);
  testing::write_safetensors(files.at("scaled/x.safetensors"), scaled);
  testing::write_safetensors(files.at("widened/x.safetensors"), widened);
  std::vector<std::vector<std::uint8_t>> frames;
  for (const std::string kind : {"scaled/x.safetensors", "widened/x.safetensors"}) {
    files.config("transformer", kind);
    frames.push_back(frames_of(read_model(ModelFiles{.model_path = kToy.string(), .transformer = files.at(kind).string()})));
  }
  EXPECT_EQ(frames[0], frames[1]);
  EXPECT_NE(frames[0], toy_frames());
}

// --- What shapes say

TEST(Files, SettingsAreThoseOfThePublishedMemberOfTheShapes) {
  const TemporaryFolder folder;
  std::vector<std::string> notices;
  const LogScope scope([&](LogLevel level, std::string_view text) {
    if (level == LogLevel::notice) notices.emplace_back(text);
  });
  const fs::path lists = fs::path(ZOE_FIXTURES) / "checkpoints";
  const auto sparse = [&](const std::string& name, const fs::path& list, const NameMap* names) {
    auto tensors = testing::read_checkpoint_list(lists / list / "keys.txt");
    if (names)
      for (testing::ListedTensor& tensor : tensors) tensor.name = names->stored_of(tensor.name).value().key;
    testing::write_sparse_safetensors(folder.path() / name, tensors);
    return (folder.path() / name).string();
  };
  ModelFiles files{.model_path = sparse("14b.safetensors", "wan2.1-t2v-14b/transformer", &wan_dit_original_names()),
                   .vae = sparse("vae.safetensors", "wan2.1-vae", nullptr),
                   .text_encoder = sparse("umt5.safetensors", "umt5-xxl", nullptr),
                   .tokenizer = (kToy / "tokenizer").string()};
  ModelConfig model = read_model(files);
  EXPECT_EQ(model.transformer, published_model("wan2.1-t2v-14b")->transformer);
  EXPECT_EQ(model.defaults.num_inference_steps, 50);
  EXPECT_FALSE(model.boundary_ratio);
  const auto told = [&](const std::string& text) {
    return std::any_of(notices.begin(), notices.end(),
                       [&](const std::string& line) { return line.find(text) != std::string::npos; });
  };
  EXPECT_TRUE(
      told("transformer: original Wan names, no config.json: its sizes are those of its tensors; taken by default: heads of 128, "
           "eps 1e-6"));
  EXPECT_TRUE(told("steps, guidance and shift are those of wan2.1-t2v-14b"));
  files.transformer_2 = files.model_path;
  model = read_model(files);
  EXPECT_EQ(model.boundary_ratio, 0.875);
  EXPECT_EQ(model.defaults.num_inference_steps, 40);
  EXPECT_EQ(model.defaults.guidance_scale_2, 3.0);
}

// FastVideo's folders: Wan's model, made for three steps.
TEST(Files, AFolderOfWanDMDPipelineRunsAndNamesItsPreset) {
  const TemporaryFolder folder;
  for (const char* part : {"tokenizer", "text_encoder", "transformer", "vae", "scheduler", "zoetrope.json"})
    fs::create_symlink(kToy / part, folder.path() / part);
  std::ifstream file(kToy / "model_index.json");
  nlohmann::json index = nlohmann::json::parse(file);
  index["_class_name"] = "WanDMDPipeline";
  std::ofstream(folder.path() / "model_index.json") << index.dump();
  std::string notices;
  const LogScope scope([&](LogLevel level, std::string_view text) {
    if (level == LogLevel::notice) notices += text;
  });
  EXPECT_EQ(read_model_config(folder.path()).transformer, read_model_config(kToy).transformer);
  EXPECT_EQ(notices, "model_index.json names WanDMDPipeline: models of it are made for --preset dmd-3step.");
}

TEST(Files, InfoSaysWhatAFileHoldsAndWhatIsMissing) {
  const Files files;
  const std::string path = files.transformer("dit/toy.safetensors", "diffusion_model.");
  testing::CommandResult result = testing::run_command({ZOE_COMMAND, "info", path});
  EXPECT_EQ(result.code, 2);
  for (const char* text : {"original Wan names behind \"diffusion_model.\"", "BF16 (", "Wan: 8 layers, 256 wide, 4 heads of 64",
                           "does not run: [MODEL]", "an umT5 text encoder (--text-encoder FILE)", "a Wan VAE (--vae FILE)",
                           "a tokenizer (--tokenizer FILE)"})
    EXPECT_NE(result.out.find(text), std::string::npos) << "lacks " << text << ": " << result.out;
  result = testing::run_command({ZOE_COMMAND, "info", path, "--vae", files.vae("vae/toy.pth"), "--text-encoder",
                                 files.text_encoder("t/toy.gguf", &umt5_llama_names(), false), "--tokenizer",
                                 (kToy / "tokenizer").string(), "--json"});
  EXPECT_EQ(result.code, 0) << result.err;
  const json info = json::parse(result.out);
  EXPECT_EQ(info.at("runs"), true);
  EXPECT_EQ(info.at("parts").at("text_encoder").at("layout"), "llama.cpp names");
  EXPECT_EQ(info.at("parts").at("vae").at("layout"), "original Wan names");
}

// --- What is wrong

struct Wrong {
  std::string name;
  std::function<ModelFiles(const Files&)> make;
  std::vector<std::string> pieces;
  ErrorKind kind = ErrorKind::invalid_argument;
};
void PrintTo(const Wrong& c, std::ostream* out) { *out << c.name; }

std::string lora(const Files& files) {
  testing::write_safetensors(files.at("lora.safetensors"),
                             {{"diffusion_model.blocks.0.self_attn.q.lora_A.weight", "F32", {1}, std::string(4, '\0')}});
  return files.at("lora.safetensors").string();
}
std::string other(const Files& files) {
  testing::write_safetensors(files.at("other.safetensors"), {{"unet.down.0.weight", "F32", {1}, std::string(4, '\0')}});
  return files.at("other.safetensors").string();
}
std::string text(const Files& files, const std::string& name, const std::string& bytes) {
  testing::write_bytes(files.at(name), bytes);
  return files.at(name).string();
}

std::vector<Wrong> wrong() {
  const std::string toy = kToy.string(), vae = (kToy / "vae").string(), dit = (kToy / "transformer").string(),
                    encoder = (kToy / "text_encoder").string();
  const auto tree = [=](const Files& files) { return (files.folder / "models").string(); };
  return {
      {"NoSuchPath",
       [](const Files&) { return ModelFiles{.model_path = "/nowhere/x.gguf"}; },
       {"[--model-path]", "/nowhere/x.gguf is not a folder or file"}},
      {"NoSuchVae", [](const Files&) { return ModelFiles{.vae = "/nowhere"}; }, {"[--vae]", "no file or folder /nowhere"}},
      {"NoSuchTree",
       [=](const Files&) { return ModelFiles{.model_path = dit, .models_dir = "/nowhere"}; },
       {"[--models-dir]", "/nowhere"}},
      {"TreeIsAFile",
       [=](const Files& files) { return ModelFiles{.model_path = dit, .models_dir = other(files)}; },
       {"[--models-dir]", "is not a folder"}},
      {"EmptyFolder",
       [](const Files& files) { return ModelFiles{.model_path = files.folder.string()}; },
       {"[--model-path]", "holds no model", "neither model_index.json nor weights"}},
      {"LoraAsModel", [](const Files& files) { return ModelFiles{.model_path = lora(files)}; }, {"[--model-path]", "holds a LoRA"}},
      {"LoraAsTransformer",
       [](const Files& files) { return ModelFiles{.transformer = lora(files)}; },
       {"[--transformer]", "holds a LoRA"}},
      {"OtherModel",
       [](const Files& files) { return ModelFiles{.model_path = other(files)}; },
       {"[--model-path]", "\"unet.down.0.weight\""}},
      {"GarbageAsGguf",
       [](const Files& files) { return ModelFiles{.model_path = text(files, "x.gguf", "GGUF\x03")}; },
       {"x.gguf", "the file ends"}},
      {"GarbageAsPth",
       [](const Files& files) { return ModelFiles{.model_path = text(files, "x.pth", "PK\x03\x04" + std::string(100, 'x'))}; },
       {"x.pth", "archive"}},
      {"HostilePickle",
       [](const Files& files) {
         testing::write_bytes(files.at("x.pth"), testing::zip_bytes({{"archive/data.pkl",
                                                                      "\x80\x02"
                                                                      "cos\nsystem\nX\x02\0\0\0ls\x85R."}}));
         return ModelFiles{.vae = files.at("x.pth").string()};
       },
       {"x.pth", "the pickle", "\"os.system\""},
       ErrorKind::unsupported},
      {"ATextEncoderAsVae",
       [=](const Files&) { return ModelFiles{.vae = encoder}; },
       {"[--vae]", "holds an umT5 text encoder", "expected a Wan VAE", "--text-encoder"}},
      {"AVaeAsTransformer",
       [=](const Files&) { return ModelFiles{.transformer = vae}; },
       {"[--transformer]", "holds a Wan VAE", "Give it by --vae"}},
      {"AVaeAsModel",
       [=](const Files&) { return ModelFiles{.model_path = vae}; },
       {"[--model-path]", "missing to run: a Wan transformer (--transformer FILE)", "--models-dir"}},
      {"OnlyATransformer",
       [=](const Files&) { return ModelFiles{.model_path = dit}; },
       {"[--model-path]", "missing to run: an umT5 text encoder (--text-encoder FILE)", "(--vae FILE)", "(--tokenizer FILE)"}},
      {"NoTokenizer",
       [=](const Files& files) {
         return ModelFiles{.model_path = dit, .vae = vae, .text_encoder = files.text_encoder("t.safetensors", nullptr, false)};
       },
       {"missing to run: a tokenizer (--tokenizer FILE)"}},
      {"SecondExpertAlone",
       [=](const Files&) { return ModelFiles{.transformer_2 = dit, .models_dir = toy}; },
       {"[--transformer-2]", "got no first one"}},
      {"SecondExpertOfAnotherShape",
       [=](const Files&) { return ModelFiles{.transformer_2 = std::string(ZOE_FIXTURES) + "/models/two_experts/transformer_2"}; },
       {"[transformer_2]", "another shape"},
       ErrorKind::unsupported},
      {"AnImageEncoder",
       [=](const Files&) { return ModelFiles{.image_encoder = vae}; },
       {"[--image-encoder]", "holds a Wan VAE", "expected a CLIP image encoder", "Give it by --vae"}},
      {"AnImageEncoderForTextToVideo",
       [=](const Files&) {
         return ModelFiles{.transformer = dit,
                           .vae = vae,
                           .text_encoder = encoder,
                           .image_encoder = std::string(ZOE_FIXTURES) + "/models/image_to_video_clip/image_encoder",
                           .tokenizer = toy + "/tokenizer"};
       },
       {"[--image-encoder]", "is not taken by this transformer"}},
      {"ExpertsOfTwoShapes",
       [=](const Files&) {
         return ModelFiles{.transformer = dit,
                           .transformer_2 = std::string(ZOE_FIXTURES) + "/models/two_experts/transformer",
                           .vae = vae,
                           .text_encoder = encoder,
                           .tokenizer = toy + "/tokenizer"};
       },
       {"[transformer_2]", "another shape"},
       ErrorKind::unsupported},
      {"TwoFilesForOnePart",
       [](const Files& files) {
         files.transformer("m/a.safetensors");
         fs::copy_file(files.at("m/a.safetensors"), files.at("m/b.safetensors"));
         return ModelFiles{.model_path = (files.folder / "m").string()};
       },
       {"[--transformer]", "two files hold a Wan transformer", "a.safetensors and b.safetensors", "Choose with --transformer"}},
      {"TwoFitInTheTree",
       [=](const Files& files) {
         files.vae("models/vae/a.safetensors");
         fs::copy_file(files.at("models/vae/a.safetensors"), files.at("models/vae/b.safetensors"));
         return ModelFiles{.model_path = dit, .models_dir = tree(files)};
       },
       {"[--vae]", "several files", "a.safetensors and b.safetensors", "Choose with --vae"}},
      {"NoneFitsInTheTree",
       [=](const Files& files) {
         fs::create_directories(files.folder / "models/vae");
         return ModelFiles{.model_path = dit, .models_dir = tree(files)};
       },
       {"missing to run: an umT5 text encoder"}},
      {"RandomAndAVae",
       [=](const Files&) { return ModelFiles{.model_path = "random:wan2.1-t2v-1.3b", .vae = vae}; },
       {"[--model-path]", "makes all parts up"}},
      {"TokenizerOfWeights",
       [=](const Files& files) { return ModelFiles{.tokenizer = files.vae("v.safetensors")}; },
       {"[tokenizer]", "holds no tokenizer", "spiece_model"}},
      {"TokenizerOfGarbage",
       [](const Files& files) { return ModelFiles{.tokenizer = text(files, "spiece.model", "garbage")}; },
       {"[tokenizer]", "SentencePiece"}},
      {"TokenizerInsideIsGarbage",
       [=](const Files& files) {
         std::vector<TensorToWrite> tensors = testing::stored_tensors(kToy / "text_encoder");
         tensors.push_back({"spiece_model", "U8", {3}, "abc"});
         testing::write_safetensors(files.at("t.safetensors"), tensors);
         return ModelFiles{.model_path = dit, .vae = vae, .text_encoder = files.at("t.safetensors").string()};
       },
       {"[tokenizer]", "SentencePiece"}},
      {"TokenizerOfAnotherKind",
       [=](const Files& files) {
         testing::write_gguf(files.at("t.gguf"), testing::stored_tensors(kToy / "text_encoder"), {{"tokenizer.ggml.model", "gpt2"}},
                             gguf_tokenizer());
         return ModelFiles{.model_path = dit, .vae = vae, .text_encoder = files.at("t.gguf").string()};
       },
       {"[tokenizer]", "another kind", "\"gpt2\""},
       ErrorKind::unsupported},
      {"TokenizerWithoutScores",
       [=](const Files& files) {
         auto tokenizer = gguf_tokenizer();
         tokenizer["tokenizer.ggml.scores"] = tokenizer["tokenizer.ggml.precompiled_charsmap"];
         testing::write_gguf(files.at("t.gguf"), testing::stored_tensors(kToy / "text_encoder"), {{"tokenizer.ggml.model", "t5"}},
                             tokenizer);
         return ModelFiles{.model_path = dit, .vae = vae, .text_encoder = files.at("t.gguf").string()};
       },
       {"[tokenizer]", "bad tokenizer.ggml.scores"}},
      {"HalfAnEncoder",
       [=](const Files& files) {
         std::vector<TensorToWrite> tensors = testing::renamed(testing::stored_tensors(kToy / "text_encoder"), umt5_llama_names());
         std::erase_if(tensors, [](const TensorToWrite& tensor) { return tensor.name == "enc.blk.1.ffn_up.weight"; });
         testing::write_gguf(files.at("t.gguf"), tensors, {});
         return ModelFiles{.text_encoder = files.at("t.gguf").string()};
       },
       {"[text_encoder]", "missing tensor \"enc.blk.1.ffn_up.weight\""}},
      {"AnEncoderOfAnotherWidth",
       [=](const Files& files) {
         auto listed = testing::read_checkpoint_list(fs::path(ZOE_FIXTURES) / "checkpoints/umt5-xxl/keys.txt");
         testing::write_sparse_safetensors(files.at("t.safetensors"), listed);
         return ModelFiles{.text_encoder = files.at("t.safetensors").string()};
       },
       {"text_dim", "got 128", "d_model 4096"}},
      {"AVaeOfAnotherDepth",
       [=](const Files& files) {
         std::vector<TensorToWrite> tensors = testing::renamed(testing::stored_tensors(kToy / "vae"), *vae_names());
         std::erase_if(tensors, [](const TensorToWrite& tensor) { return tensor.name.starts_with("decoder.upsamples.10."); });
         testing::write_safetensors(files.at("v/v.safetensors"), tensors);
         files.config("vae", "v/v.safetensors");
         return ModelFiles{.vae = files.at("v/v.safetensors").string()};
       },
       {"[vae]", "missing tensor"}},
      {"AnInvalidScale",
       [=](const Files& files) {
         std::vector<TensorToWrite> tensors =
             testing::renamed(testing::stored_tensors(kToy / "transformer"), wan_dit_original_names());
         tensors.push_back({"blocks.0.self_attn.q.scale_weight", "F32", {1}, std::string("\0\0\xc0\x7f", 4)});
         testing::write_safetensors(files.at("d/d.safetensors"), tensors);
         files.config("transformer", "d/d.safetensors");
         return ModelFiles{.transformer = files.at("d/d.safetensors").string(),
                           .vae = vae,
                           .text_encoder = encoder,
                           .tokenizer = toy + "/tokenizer"};
       },
       {"bad scale \"blocks.0.self_attn.q.scale_weight\"", "got nan"}},
      {"APthThatIsCut",
       [=](const Files& files) {
         const std::string path = files.vae("v/v.pth");
         fs::resize_file(path, fs::file_size(path) / 2);
         return ModelFiles{.vae = path};
       },
       {"v.pth", "the archive is cut"}},
  };
}

class WrongFiles : public ::testing::TestWithParam<Wrong> {};

TEST_P(WrongFiles, IsOneLine) {
  const Files files;
  try {
    const ModelConfig model = read_model(GetParam().make(files));
    Session(model, open_platform("null"));
    FAIL() << "was accepted";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.kind(), GetParam().kind) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    for (const std::string& piece : GetParam().pieces)
      EXPECT_NE(message.find(piece), std::string::npos) << "lacks " << piece << ": " << message;
  }
}

INSTANTIATE_TEST_SUITE_P(Files, WrongFiles, ::testing::ValuesIn(wrong()), [](const auto& each) { return each.param.name; });

}  // namespace
}  // namespace zoe
