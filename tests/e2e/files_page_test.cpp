// docs/files.md: every command that the page prints runs, on files of the kind beside it at the toy's size; and what it says is
// refused is refused by name. A row or a command that is not in the list below fails the test, so none is printed that was not run.
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <regex>
#include <string>
#include <vector>

#include "testing/image_to_video_folder.h"
#include "testing/run_command.h"
#include "testing/toy_files.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using testing::kToy;
using testing::TensorToWrite;
using Files = testing::ToyFiles;
using Arguments = std::vector<std::string>;

const fs::path kRecorded = fs::path(ZOE_FIXTURES) / "models", kPage = fs::path(ZOE_FIXTURES) / "../../docs/files.md";
const std::string kPicture = (kRecorded / "image_to_video/circle.png").string(), kModels = ZOE_MODELS;

struct PageRow {
  std::string files, command;  // its two cells
};

std::vector<PageRow> rows_of_page() {
  std::ifstream page(kPage);
  std::vector<PageRow> rows;
  bool is_in = false;
  for (std::string line; std::getline(page, line);) {
    if (line.starts_with("| Files | Command")) is_in = true;
    else if (is_in && !line.starts_with("|")) break;
    else if (is_in && !line.starts_with("|---")) {
      const std::size_t middle = line.rfind(" | ");
      rows.push_back({line.substr(2, middle - 2), line.substr(middle + 3, line.size() - middle - 5)});
    }
  }
  return rows;
}

// The options that a cell prints: `--vae FILE`.
std::vector<std::string> printed(const std::string& cell) {
  static const std::regex options("`(--[^`]+)`");
  std::vector<std::string> found;
  for (std::sregex_iterator match(cell.begin(), cell.end(), options), end; match != end; ++match) found.push_back((*match)[1]);
  return found;
}

// A printed command with what its capitals (and the two names of files that it prints) stand for, in order.
Arguments filled(const std::string& command, const Arguments& words) {
  static const std::regex names("^(FOLDER|FILE(\\[=STRENGTH\\])?|HIGH|LOW|PICTURE|ComfyUI/models|spiece\\.model)$");
  Arguments arguments;
  std::istringstream text(command);
  std::size_t next = 0;
  for (std::string word; text >> word;) arguments.push_back(std::regex_match(word, names) ? words.at(next++) : word);
  EXPECT_EQ(next, words.size()) << command;
  return arguments;
}

Arguments operator+(Arguments a, const Arguments& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// --- Files of each kind

// The parts beside a transformer.
Arguments others(const Files& files) {
  return {"--vae", files.vae("others/vae.pth"), "--text-encoder", files.text_encoder("others/t.safetensors", nullptr, true)};
}

std::string comfy_tree(const Files& files) {
  files.vae("ComfyUI/models/vae/vae.safetensors");
  files.text_encoder("ComfyUI/models/text_encoders/t.safetensors", nullptr, true);
  return (files.folder / "ComfyUI/models").string();
}

// A recorded transformer in the original names, with its configuration beside it.
std::string original(const Files& files, const std::string& recorded, const std::string& name) {
  testing::write_safetensors(files.at(name),
                             testing::renamed(testing::stored_tensors(kRecorded / recorded), wan_dit_original_names()));
  const fs::path config = files.at(name).parent_path() / "config.json";
  if (!fs::exists(config)) fs::copy_file(kRecorded / recorded / "config.json", config);
  return files.at(name).string();
}

std::string converted(const Files& files, const std::string& name, const std::string& type) {
  const testing::CommandResult result =
      testing::run_command({ZOE_COMMAND, "convert", kToy.string(), "-o", files.at(name).string(), "--type", type});
  EXPECT_EQ(result.code, 0) << result.err;
  return files.at(name).string();
}

// The toy's transformer with the matrices of its blocks in one of Comfy's marked formats: numbers without a meaning, every scale 1.
std::string marked(const Files& files, const std::string& name, const std::string& mark) {
  std::vector<TensorToWrite> tensors;
  for (TensorToWrite& tensor : testing::renamed(testing::stored_tensors(kToy / "transformer"), wan_dit_original_names())) {
    if (tensor.shape.rank() != 2 || !tensor.name.starts_with("blocks.")) {
      tensors.push_back(std::move(tensor));
      continue;
    }
    const std::int64_t rows = tensor.shape.dim(0), width = tensor.shape.dim(1);
    const std::string layer = tensor.name.substr(0, tensor.name.size() - std::string(".weight").size());
    const auto ones = [](std::int64_t count) {
      const float one = 1.0f / 64;
      std::string bytes;
      for (std::int64_t i = 0; i < count; ++i) bytes.append(reinterpret_cast<const char*>(&one), sizeof one);
      return bytes;
    };
    const auto tiles = [&](std::int64_t block, char scale) {
      return std::string(static_cast<std::size_t>((rows + 127) / 128 * 128 * ((width / block + 3) / 4 * 4)), scale);
    };
    const std::string numbers(static_cast<std::size_t>(rows * width), '\1');
    if (mark.find("int8") != mark.npos) {
      tensors.push_back({tensor.name, "I8", tensor.shape, numbers});
      tensors.push_back({layer + ".weight_scale", "F32", {rows, 1}, ones(rows)});
    } else if (mark.find("mxfp8") != mark.npos) {
      tensors.push_back({tensor.name, "F8_E4M3", tensor.shape, numbers});
      tensors.push_back({layer + ".weight_scale", "U8", {(rows + 127) / 128 * 128, (width / 32 + 3) / 4 * 4}, tiles(32, '\x7f')});
    } else {
      tensors.push_back({tensor.name, "U8", {rows, width / 2}, numbers.substr(0, numbers.size() / 2)});
      tensors.push_back(
          {layer + ".weight_scale", "F8_E4M3", {(rows + 127) / 128 * 128, (width / 16 + 3) / 4 * 4}, tiles(16, '\x38')});
      tensors.push_back({layer + ".weight_scale_2", "F32", {}, ones(1)});
    }
    tensors.push_back({layer + ".comfy_quant", "U8", {static_cast<std::int64_t>(mark.size())}, mark});
  }
  testing::write_safetensors(files.at(name), tensors);
  files.config("transformer", name);
  return files.at(name).string();
}

// A repository of Wan's own layout without its transformer.
std::string original_repository(const Files& files) {
  files.text_encoder("Wan/models_t5_umt5-xxl-enc-bf16.pth", &umt5_original_names(), false);
  testing::write_pytorch(files.at("Wan/Wan2.1_VAE.pth"),
                         testing::renamed(testing::stored_tensors(kToy / "vae"), *testing::vae_names()));
  fs::create_directories(files.folder / "Wan/google");
  fs::create_directory_symlink(kToy / "tokenizer", files.folder / "Wan/google/umt5-xxl");
  return (files.folder / "Wan").string();
}

// With a tensor that tells another network, or another way to store, beside the toy's.
std::string with_tensor(const Files& files, const std::string& name, const std::string& key) {
  std::vector<TensorToWrite> tensors = testing::renamed(testing::stored_tensors(kToy / "transformer"), wan_dit_original_names());
  tensors.push_back({key, "F32", {1}, std::string(4, '\0')});
  testing::write_safetensors(files.at(name), tensors);
  files.config("transformer", name);
  return files.at(name).string();
}

// --- What the page prints

struct Case {
  std::string row;      // the begin of its first cell
  std::string command;  // as it is printed; "" where the row refers to another one's
  std::function<Arguments(const Files&, const std::string& command)> arguments;
  std::string refused = {};  // what its error says, of what does not run
};

std::vector<Case> cases() {
  const auto folder = [](auto make) {
    return [make](const Files& files, const std::string& command) { return filled(command, {make(files)}); };
  };
  const auto file_alone = [](auto make) {
    return [make](const Files& files, const std::string&) { return Arguments{"--model-path", make(files)} + others(files); };
  };
  const auto experts = [](const Files& files, const std::string& recorded) {
    return Arguments{"--transformer", original(files, recorded + "/transformer", "high/x.safetensors"), "--transformer-2",
                     original(files, recorded + "/transformer_2", "low/x.safetensors")};
  };
  const auto refused = [](const std::string& row, const std::string& key, const std::string& name) {
    return Case{row, "",
                [key](const Files& files, const std::string&) {
                  return Arguments{"--model-path", with_tensor(files, "other/x.safetensors", key)} + others(files);
                },
                name};
  };
  return {
      {"Diffusers folder", "--model-path FOLDER", folder([](const Files&) { return kToy.string(); })},
      {"the Hugging Face cache's", "--model-path FOLDER", folder([](const Files& files) {
         const fs::path cached = files.folder / "models--OWNER--NAME";
         fs::create_directories(cached / "snapshots");
         fs::create_directory_symlink(kToy, cached / "snapshots/0123456789abcdef");
         testing::write_bytes(files.at("models--OWNER--NAME/refs/main"), "0123456789abcdef");
         return cached.string();
       })},
      {"original repository (", "--model-path FOLDER", folder([](const Files& files) {
         files.transformer("Wan/diffusion_pytorch_model.safetensors");
         return original_repository(files);
       })},
      {"original repository of two experts", "--model-path FOLDER", folder([](const Files& files) {
         original(files, "two_experts/transformer", "Wan/high_noise_model/diffusion_pytorch_model.safetensors");
         original(files, "two_experts/transformer_2", "Wan/low_noise_model/diffusion_pytorch_model.safetensors");
         return original_repository(files);
       })},
      {"Comfy's single files", "--model-path FILE --models-dir ComfyUI/models",
       [](const Files& files, const std::string& command) {
         return filled(command, {converted(files, "fp8/x.safetensors", "fp8_scaled"), comfy_tree(files)});
       }},
      {"Comfy's single files", "--model-path FILE --text-encoder FILE --vae FILE --tokenizer spiece.model",
       [](const Files& files, const std::string& command) {
         return filled(command, {files.transformer("x/x.safetensors"), files.text_encoder("t.safetensors", nullptr, false),
                                 files.vae("vae/v.safetensors"), (kToy / "tokenizer/spiece.model").string()});
       }},
      {"a pair of experts", "--transformer HIGH --transformer-2 LOW",
       [](const Files& files, const std::string& command) {
         return filled(command, {original(files, "two_experts/transformer", "high/x.safetensors"),
                                 original(files, "two_experts/transformer_2", "low/x.safetensors")}) +
                Arguments{"--models-dir", comfy_tree(files)};
       }},
      {"int8 with ConvRot", "", file_alone([](const Files& files) {
         return marked(files, "x/x.safetensors", R"({"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 256})");
       })},
      {"mxfp8 and nvfp4", "",
       file_alone([](const Files& files) { return marked(files, "x/x.safetensors", R"({"format": "mxfp8"})"); })},
      {"mxfp8 and nvfp4", "",
       file_alone([](const Files& files) { return marked(files, "x/x.safetensors", R"({"format": "nvfp4"})"); })},
      {"GGUF transformers", "--model-path FILE",
       [](const Files& files, const std::string& command) {
         return filled(command, {converted(files, "x.gguf", "q4_k")}) + others(files);
       }},
      {"GGUF transformers", "",
       [](const Files& files, const std::string&) {
         return Arguments{"--transformer", converted(files, "high.gguf", "q8_0"), "--transformer-2",
                          converted(files, "low.gguf", "q6_k")} +
                others(files);
       }},
      {"GGUF text encoders", "--text-encoder FILE",
       [](const Files& files, const std::string& command) {
         const std::string encoder = files.at("t.gguf").string();
         testing::write_gguf(encoder, testing::renamed(testing::stored_tensors(kToy / "text_encoder"), umt5_llama_names()),
                             {{"general.architecture", "t5encoder"}, {"tokenizer.ggml.model", "t5"}}, testing::gguf_tokenizer());
         return filled(command, {encoder}) +
                Arguments{"--model-path", files.transformer("x/x.safetensors"), "--vae", files.vae("vae/v.safetensors")};
       }},
      // Of Wan 2.2, a pair; of Wan 2.1, with an image encoder; TI2V with its VAE.
      {"image to video", "--image PICTURE",
       [=](const Files& files, const std::string& command) {
         return filled(command, {kPicture}) + experts(files, "image_to_video_experts") + others(files);
       }},
      {"image to video", "--image-encoder",
       [](const Files& files, const std::string&) {
         return Arguments{"--image",         kPicture,
                          "--model-path",    original(files, "image_to_video_clip/transformer", "x/x.safetensors"),
                          "--image-encoder", (kRecorded / "image_to_video_clip/image_encoder").string()} +
                others(files);
       }},
      {"image to video", "",
       [](const Files& files, const std::string&) {
         return Arguments{"--image",        kPicture,
                          "--model-path",   original(files, "text_image_to_video/transformer", "x/x.safetensors"),
                          "--vae",          (kRecorded / "wan_vae_residual").string(),
                          "--text-encoder", files.text_encoder("t.safetensors", nullptr, true)};
       }},
      {"VACE", "--video",
       [](const Files& files, const std::string&) {
         return Arguments{"--model-path", original(files, "vace/transformer", "x/x.safetensors"), "--video",
                          (kRecorded / "vace/video").string()} +
                others(files);
       }},
      {"VACE", "--mask",
       [](const Files& files, const std::string&) {
         return Arguments{"--model-path", original(files, "vace/transformer", "x/x.safetensors"),
                          "--video",      (kRecorded / "vace/video").string(),
                          "--mask",       (kRecorded / "vace/mask").string()} +
                others(files);
       }},
      {"VACE", "--reference-image",
       [](const Files& files, const std::string&) {
         return Arguments{"--model-path", original(files, "vace/transformer", "x/x.safetensors"), "--reference-image", kPicture} +
                others(files);
       }},
      {"VACE", "--transformer HIGH --transformer-2 LOW",
       [](const Files& files, const std::string& command) {
         return filled(command, {original(files, "vace/transformer", "high/x.safetensors"),
                                 original(files, "vace/transformer", "low/x.safetensors")}) +
                Arguments{"--reference-image", kPicture} + others(files);
       }},
      {"Fun-InP", "",
       [](const Files& files, const std::string&) {
         return Arguments{"--model-path",    original(files, "image_to_video_clip/transformer", "x/x.safetensors"),
                          "--image-encoder", (kRecorded / "image_to_video_clip/image_encoder").string(),
                          "--image",         kPicture,
                          "--last-image",    kPicture} +
                others(files);
       }},
      {"Fun-InP", "",
       [=](const Files& files, const std::string&) {
         return Arguments{"--image", kPicture, "--last-image", kPicture} + experts(files, "image_to_video_experts") + others(files);
       }},
      {"models distilled to four steps", "--preset lightx2v-4step",
       [=](const Files& files, const std::string& command) {
         return filled(command, {}) + Arguments{"--image", kPicture} + experts(files, "image_to_video_experts") + others(files);
       }},
      {"LoRAs", "--lora FILE[=STRENGTH]",
       [](const Files&, const std::string& command) {
         return filled(command, {kModels + "/toy-wan-i2v/loras/gathering_speed.safetensors=0.8"}) +
                Arguments{"--model-path", kModels + "/toy-wan-i2v", "--image", kPicture};
       }},
      {"LoRAs", "--lora-high FILE --lora-low FILE",
       [](const Files&, const std::string& command) {
         return filled(command, {kModels + "/toy-wan-i2v/loras/gathering_speed.safetensors",
                                 kModels + "/toy-wan-i2v-experts/loras/low_noise.safetensors"}) +
                Arguments{"--model-path", kModels + "/toy-wan-i2v-experts", "--image", kPicture};
       }},
      {"LoRAs", "--preset lightx2v-4step",
       [](const Files&, const std::string& command) {
         return filled(command, {}) + Arguments{"--lora",       kModels + "/toy-wan-i2v/loras/four_steps.safetensors",
                                                "--model-path", kModels + "/toy-wan-i2v",
                                                "--image",      kPicture};
       }},
      {"all parts in one file", "--model-path FILE",
       [](const Files& files, const std::string& command) {
         std::vector<TensorToWrite> all =
             testing::renamed(testing::stored_tensors(kToy / "transformer"), wan_dit_original_names(), "model.diffusion_model.");
         for (TensorToWrite& tensor : testing::stored_tensors(
                  testing::fs::path(files.text_encoder("t.safetensors", nullptr, true)))) {  // with its tokenizer
           tensor.name = "text_encoders." + std::string(tensor.name == "spiece_model" ? "" : "umt5xxl.transformer.") + tensor.name;
           all.push_back(std::move(tensor));
         }
         for (TensorToWrite& tensor : testing::renamed(testing::stored_tensors(kToy / "vae"), *testing::vae_names(), "vae."))
           all.push_back(std::move(tensor));
         testing::write_safetensors(files.at("x/x.safetensors"), all);
         files.config("transformer", "x/x.safetensors");
         return filled(command, {files.at("x/x.safetensors").string()});
       }},
      {"a part to put in the place", "--model-path FOLDER --transformer FILE",
       [](const Files& files, const std::string& command) {
         return filled(command, {kToy.string(), files.transformer("x/x.safetensors")});
       }},
      {"a part to put in the place", "--vae",
       [](const Files& files, const std::string&) {
         return Arguments{"--model-path", kToy.string(), "--vae", files.vae("vae/v.pth")};
       }},
      {"a part to put in the place", "--text-encoder",
       [](const Files& files, const std::string&) {
         return Arguments{"--model-path", kToy.string(), "--text-encoder",
                          files.text_encoder("t.pth", &umt5_original_names(), false)};
       }},
      {"a part to put in the place", "--tokenizer",
       [](const Files&, const std::string&) {
         return Arguments{"--model-path", kToy.string(), "--tokenizer", (kToy / "tokenizer/spiece.model").string()};
       }},
      refused("Animate, S2V, Fun Control", "audio_injector.injector.0.q.weight", "S2V"),
      refused("Animate, S2V, Fun Control", "casual_audio_encoder.weights", "S2V"),
      refused("Animate, S2V, Fun Control", "ref_conv.weight", "Fun Control"),
      refused("Animate, S2V, Fun Control", "control_adapter.conv.weight", "Fun Camera Control"),
      refused("Animate, S2V, Fun Control", "pose_patch_embedding.weight", "Animate"),
      refused("LightX2V's own nvfp4", "blocks.0.ffn.0.weight_global_scale", "LightX2V"),
      refused("LightX2V's own nvfp4", "blocks.0.ffn.0.qweight", "AWQ"),
      refused("LightX2V's own nvfp4", "blocks.0.ffn.0.weight.absmax", "NF4"),
  };
}

TEST(FilesPage, EveryRowAndCommandIsTried) {
  const std::vector<Case> known = cases();
  const std::vector<PageRow> rows = rows_of_page();
  EXPECT_GE(rows.size(), 15u);
  for (const PageRow& row : rows) {
    const auto has = [&](const std::string& command) {
      return std::any_of(known.begin(), known.end(), [&](const Case& each) {
        return row.files.starts_with(each.row) && (command.empty() || each.command == command);
      });
    };
    EXPECT_TRUE(has("")) << "no case for the row: " << row.files;
    for (const std::string& command : printed(row.command)) EXPECT_TRUE(has(command)) << row.files << ": " << command;
    for (const std::string& command : printed(row.files)) EXPECT_TRUE(has(command)) << row.files << ": " << command;
  }
  for (const Case& each : known)
    EXPECT_TRUE(std::any_of(rows.begin(), rows.end(), [&](const PageRow& row) { return row.files.starts_with(each.row); }))
        << "the page has no row " << each.row;
}

const Arguments kTiny{"-p",         "a red circle", "--size",    "32x32", "--num-frames", "5",
                      "--platform", "cpu",          "--threads", "1",     "--compile",    "off"};

class FilesPageRow : public ::testing::TestWithParam<Case> {};

TEST_P(FilesPageRow, RunsAsPrinted) {
  const Case& c = GetParam();
  const Files files;
  const std::string video = files.at("out.mp4").string();
  Arguments arguments = Arguments{ZOE_COMMAND, "generate"} + c.arguments(files, c.command) + kTiny + Arguments{"-o", video};
  if (c.command.find("--preset") == std::string::npos) arguments = arguments + Arguments{"--steps", "1"};
  const testing::CommandResult result = testing::run_command(arguments);
  if (c.refused.empty()) {
    EXPECT_EQ(result.code, 0) << result.line << "\n" << result.err;
    EXPECT_TRUE(fs::exists(video));
  } else {
    EXPECT_TRUE(result.code == 2 || result.code == 3) << result.code << " " << result.line << "\n" << result.err;
    EXPECT_NE(result.err.find(c.refused), std::string::npos) << "lacks " << c.refused << ": " << result.err;
    EXPECT_FALSE(fs::exists(video));
  }
}

INSTANTIATE_TEST_SUITE_P(Page, FilesPageRow, ::testing::ValuesIn(cases()), [](const auto& test) {
  std::string name = std::to_string(test.index) + "_";
  for (const char c : test.param.row + "_" + test.param.command)
    if (std::isalnum(static_cast<unsigned char>(c))) name += c;
  return name;
});

// The lines above the table, by a shell, in a folder that has what they name.
TEST(FilesPage, ItsFirstLinesRun) {
  const Files files;
  files.transformer("wan2.1_t2v_14B_fp8_scaled.safetensors");
  fs::remove(files.folder / "config.json");
  comfy_tree(files);
  std::ifstream page(kPage);
  int ran = 0;
  for (std::string line; std::getline(page, line) && !line.starts_with("| Files");) {
    if (!line.starts_with("    zoe ")) continue;
    std::string command = std::string("\"") + ZOE_COMMAND + "\"" + line.substr(7);
    const bool makes = line.find("zoe generate") != std::string::npos;
    if (makes) command += " --size 32x32 --num-frames 5 --steps 1 --platform cpu --threads 1 --compile off";
    const testing::CommandResult result = testing::run_command({"/bin/sh", "-c", command}, {.folder = files.folder});
    // `info` of a transformer alone says what is missing.
    EXPECT_EQ(result.code, makes ? 0 : 2) << command << "\n" << result.out << result.err;
    EXPECT_TRUE(makes || result.out.find("original Wan names") != std::string::npos) << result.out;
    ++ran;
  }
  EXPECT_EQ(ran, 2);
}

}  // namespace
}  // namespace zoe
