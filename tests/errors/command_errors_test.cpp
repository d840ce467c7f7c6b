// Every mistake a user of the command can make: one line that says where and what, the right exit code, soon, and nothing left
// behind.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "platform/platform.h"
#include "testing/image_to_video_folder.h"
#include "testing/run_command.h"
#include "testing/temporary_folder.h"
#include "testing/vace_folder.h"
#include "testing/write_safetensors.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using namespace std::string_view_literals;
using nlohmann::json;
using testing::safetensors_bytes;
using testing::TensorToWrite;
using testing::write_bytes;

const std::string kToy = std::string(ZOE_MODELS) + "/toy-wan";
const std::string kVae = "vae/diffusion_pytorch_model.safetensors", kText = "text_encoder/model.safetensors";
const std::string kShards = "transformer/diffusion_pytorch_model.safetensors.index.json";
const std::string kSpiece = "tokenizer/spiece.model";

using Edit = std::function<void(const fs::path& folder)>;

struct Case {
  std::string name;
  std::vector<std::string> arguments;  // "@" in front stands for the case's folder
  std::vector<std::string> pieces;     // of the one line on stderr, in this order
  int code = 2;
  Edit prepare = {};  // puts files into the folder
  rlim_t max_file_bytes = RLIM_INFINITY;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

std::string read_bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// --- A copy of the embedded model: links, but for the files that a case replaces -----------------------------------------------

void replace(const fs::path& path, std::string_view bytes) {
  fs::remove_all(path);
  write_bytes(path, bytes);
}

void link_model(const fs::path& model) {
  for (const auto& entry : fs::recursive_directory_iterator(kToy)) {
    const fs::path place = model / fs::relative(entry.path(), kToy);
    if (!entry.is_directory() && place.string().find("/training/") == std::string::npos) {
      fs::create_directories(place.parent_path());
      fs::create_symlink(fs::absolute(entry.path()), place);
    }
  }
}

// Cases run in the order given here: the model is linked, then edited.
Edit edited(const std::function<void(const fs::path& model)>& edit) {
  return [edit](const fs::path& folder) {
    link_model(folder / "model");
    edit(folder / "model");
  };
}

Edit with_text(const std::string& file, const std::string& text) {
  return edited([=](const fs::path& model) { replace(model / file, text); });
}

Edit without(const std::string& file) {
  return edited([=](const fs::path& model) { fs::remove_all(model / file); });
}

// The key of a JSON file set to a value, which is written as JSON.
Edit with_value(const std::string& file, const std::string& key, const std::string& value) {
  return edited([=](const fs::path& model) {
    json object = json::parse(read_bytes(model / file));
    object[key] = json::parse(value);
    replace(model / file, object.dump(1));
  });
}

Edit without_key(const std::string& file, const std::string& key) {
  return edited([=](const fs::path& model) {
    json object = json::parse(read_bytes(model / file));
    object.erase(key);
    replace(model / file, object.dump(1));
  });
}

// A weights file written anew with changed tensors.
Edit with_tensors(const std::string& file, const std::function<void(std::vector<TensorToWrite>&)>& change) {
  return edited([=](const fs::path& model) {
    std::vector<TensorToWrite> tensors;
    {
      const Checkpoint checkpoint(model / file);
      for (const TensorEntry& tensor : checkpoint.tensors())
        tensors.push_back({std::string(tensor.name),
                           std::string(tensor.dtype()),
                           tensor.shape,
                           {reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()}});
    }
    change(tensors);
    fs::remove(model / file);
    testing::write_safetensors(model / file, tensors);
  });
}

TensorToWrite& tensor_named(std::vector<TensorToWrite>& tensors, const std::string& name) {
  return *std::find_if(tensors.begin(), tensors.end(), [&](const TensorToWrite& tensor) { return tensor.name == name; });
}

// A weights file with its header changed and its data as it was.
Edit with_header(const std::string& file, const std::function<void(json&)>& change) {
  return edited([=](const fs::path& model) {
    const std::string bytes = read_bytes(model / file);
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof length);
    json header = json::parse(bytes.substr(8, length));
    change(header);
    replace(model / file, safetensors_bytes(header.dump(), std::string_view(bytes).substr(8 + length)));
  });
}

Edit with_data(const std::string& file, const std::function<void(std::string&)>& change) {
  return edited([=](const fs::path& model) {
    std::string bytes = read_bytes(model / file);
    change(bytes);
    replace(model / file, bytes);
  });
}

std::string random_bytes(std::size_t count) {
  std::mt19937 generator(1);
  std::string bytes(count, '\0');
  for (char& byte : bytes) byte = static_cast<char>(generator());
  return bytes;
}

// --- The cases -----------------------------------------------------------------------------------------------------------------

// Arguments of a run that would work, and be short.
std::vector<std::string> tiny(std::vector<std::string> more) {
  std::vector<std::string> arguments{"generate",      "--prompt", "a red circle",          "--width", "64",        "--height", "64",
                                     "--num-frames",  "1",        "--num-inference-steps", "1",       "--threads", "1",        "-o",
                                     "@out/video.mp4"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

Case model(const std::string& name, Edit prepare, std::vector<std::string> pieces, int code = 2) {
  return {name, tiny({"--model-path", "@model"}), std::move(pieces), code, std::move(prepare)};
}

// A value of a config that is refused.
Case config(const std::string& file, const std::string& key, const std::string& value, std::vector<std::string> pieces,
            int code = 2) {
  static int number = 0;
  std::string name = "Config" + std::to_string(++number) + "_";
  for (const char c : key) name += std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return model(name, with_value(file, key, value), std::move(pieces), code);
}

// An option's value that is refused.
Case option(const std::string& name, const std::string& flag, const std::string& value, std::vector<std::string> pieces,
            int code = 2) {
  pieces.insert(pieces.begin(), "[" + flag + "]");
  return {name, tiny({flag + "=" + value}), std::move(pieces), code};
}

Case output(const std::string& name, const std::string& path, std::vector<std::string> pieces, Edit prepare = {}) {
  pieces.insert(pieces.begin(), "[output]");
  return {name, tiny({"-o", path}), std::move(pieces), 2, std::move(prepare)};
}

Case prompt_file(const std::string& name, const std::string& text, std::vector<std::string> pieces) {
  return {name,
          {"generate", "--prompt-file", "@prompts.txt", "-o", "@out/video.mp4"},
          std::move(pieces),
          2,
          [=](const fs::path& folder) { write_bytes(folder / "prompts.txt", text); }};
}

// A square video that the device could nearly hold if it were only the tokens, which is less than any plan needs.
Case larger_than_its_plan() {
  const auto memory = static_cast<double>(open_platform("cpu")->info().memory_bytes);
  const double tokens = 0.8 * memory / (256 * 4 * 4);  // four f32 activations, 256 wide
  const auto side = static_cast<int>(16 * std::sqrt(tokens / 256));
  return {"MemoryOfThePlan",
          tiny({"--dtype", "f32", "--num-frames", "1021", "--width", std::to_string(side), "--height", std::to_string(side)}),
          {"[memory]", "does not fit", "needs", "to denoise", "are free", "Lower --width, --height or --num-frames"},
          3};
}

std::vector<Case> argument_cases() {
  return {
      {"NoCommand", {}, {"[arguments]", "subcommand is required", "--help"}},
      {"UnknownCommand",
       {"generat"},
       {"[arguments]", "unknown command", "got \"generat\"",
        "expected generate, plan, resume, serve, convert, info, platforms, bench, explain, verify, completion, man.",
        "Did you mean generate?", "zoe --help"}},
      {"UnknownCommandOfManyBytes",
       {std::string(100'000, 'x')},
       {"[arguments]", "unknown command", "got \"xxx", "...", "zoe --help"}},
      {"UnknownOption",
       tiny({"--widht", "64"}),
       {"[arguments]", "unexpected \"--widht\"", "Did you mean --width?", "zoe generate --help"}},
      {"UnknownOptionOfManyBytes",
       tiny({"--" + std::string(100'000, 'x')}),
       {"[arguments]", "unexpected \"--xxx", "...", "zoe generate --help"}},
      {"UnknownOptionOfACommandWithoutAny", {"man", "--json"}, {"[arguments]", "unexpected \"--json\"", "zoe man --help"}},
      {"OptionWithoutValue", {"generate", "--prompt"}, {"[arguments]", "--prompt", "zoe generate --help"}},
      {"UnexpectedWord", tiny({"of", "words"}), {"[arguments]", "unexpected \"of\"", "zoe generate --help"}},
      {"NewlineInAnOption", tiny({"--wi\ndth"}), {"[arguments]", "--wi\\ndth"}},
      {"NoPrompt", {"generate", "-o", "@out/video.mp4"}, {"[generate]", "no prompt given", "--prompt", "--prompt-file"}},
      {"PromptAndPromptFile", tiny({"--prompt-file", "@prompts.txt"}), {"[generate]", "got both", "expected one"}},
      option("WidthZero", "--width", "0", {"got \"0\"", "expected a whole number from 1 to 65536"}),
      option("WidthNegative", "--width", "-64", {"got \"-64\"", "expected a whole number from 1"}),
      option("WidthBeyondRange", "--width", "65537", {"got \"65537\"", "to 65536"}),
      option("WidthOf64Bits", "--width", "18446744073709551680", {"got \"18446744073709551680\"", "expected a whole number"}),
      option("WidthFraction", "--width", "64.5", {"got \"64.5\"", "expected a whole number"}),
      option("WidthHex", "--width", "0x40", {"got \"0x40\"", "expected a whole number"}),
      option("WidthExponent", "--width", "1e2", {"got \"1e2\"", "expected a whole number"}),
      {"WidthEmpty", tiny({"--width", ""}), {"[--width]", "got \"\"", "expected a whole number"}},
      option("WidthNothingBehindTheEqualsSign", "--width", "", {"got \"\"", "expected a whole number"}),
      option("WidthWithUnit", "--width", "64px", {"got \"64px\"", "expected a whole number"}),
      {"WidthNegativeAsTwoWords", tiny({"--width", "-64"}), {"[--width]", "got \"-64\"", "expected a whole number"}},
      {"WidthBelowOnePatch", tiny({"--width", "15"}), {"[--height, --width]", "too small: got 15x64", "expected at least 16x16"}},
      option("HeightZero", "--height", "0", {"got \"0\"", "expected a whole number from 1"}),
      option("HeightNotANumber", "--height", "tall", {"got \"tall\"", "expected a whole number"}),
      option("HeightSpaces", "--height", " 64", {"got \" 64\"", "expected a whole number"}),
      option("FramesZero", "--num-frames", "0", {"got \"0\"", "expected a whole number from 1 to 65536"}),
      option("FramesNegative", "--num-frames", "-1", {"got \"-1\"", "expected a whole number from 1"}),
      option("FramesNan", "--num-frames", "nan", {"got \"nan\"", "expected a whole number"}),
      option("StepsZero", "--num-inference-steps", "0", {"got \"0\"", "expected a whole number from 1 to 1000"}),
      option("StepsBeyondRange", "--num-inference-steps", "1001", {"got \"1001\"", "to 1000"}),
      option("GuidanceNan", "--guidance-scale", "nan", {"got \"nan\"", "expected a number from 0 to 1000"}),
      option("GuidanceInfinite", "--guidance-scale", "inf", {"got \"inf\"", "expected a number"}),
      option("GuidanceNegative", "--guidance-scale", "-1", {"got \"-1\"", "expected a number from 0"}),
      option("GuidanceBeyondDouble", "--guidance-scale", "1e999", {"got \"1e999\"", "expected a number"}),
      option("GuidanceWithComma", "--guidance-scale", "4,5", {"got \"4,5\"", "expected a number"}),
      option("GuidanceBatchUnknown", "--guidance-batch", "both", {"got \"both\"", "expected auto, on or off"}),
      option("FlowShiftZero", "--flow-shift", "0", {"got \"0\"", "expected a number from 0.001 to 1000"}),
      option("FlowShiftNegative", "--flow-shift", "-3", {"got \"-3\"", "expected a number from 0.001"}),
      option("FlowShiftNan", "--flow-shift", "-nan", {"got \"-nan\"", "expected a number"}),
      option("FpsZero", "--fps", "0", {"got \"0\"", "expected a number from 0.1 to 240"}),
      option("FpsBeyondRange", "--fps", "1000", {"got \"1000\"", "to 240"}),
      {"FpsEmpty", tiny({"--fps", ""}), {"[--fps]", "got \"\"", "expected a number"}},
      option("SeedNegative", "--seed", "-2",
             {"got \"-2\"", "expected a whole number from 0 to 18446744073709551615, or -1 for a random one"}),
      option("SeedOfAList", "--seed", "1,x,2", {"got \"x\"", "expected a whole number"}),
      option("SeedOfNothingBetweenCommas", "--seed", "1,,2", {"got \"\"", "expected a whole number"}),
      option("SigmasRising", "--sigmas", "0.5,1", {"got \"1\"", "expected a level below the one before, 0.5"}),
      option("SigmasZero", "--sigmas", "1,0", {"got \"0\"", "expected a number from 1e-06 to 1"}),
      option("SigmasOfMoreThanTheSteps", "--sigmas", "1,0.5", {"got 2 levels and 1 steps", "Leave out --num-inference-steps"}),
      option("SizeOfOneNumber", "--size", "832", {"got \"832\"", "expected width and height from 1 to 65536, as 832x480"}),
      option("GuidanceOfASecondExpert", "--guidance-scale-2", "3", {"is not taken by this model", "t2v_a14b"}),
      {"AliasesNameTheField", tiny({"--steps", "x"}), {"[--num-inference-steps]", "got \"x\""}},
      {"AliasesWithAnUnderscore", tiny({"--sample_shift=x"}), {"[--flow-shift]", "got \"x\""}},
      option("SeedBeyond64Bits", "--seed", "18446744073709551616", {"got \"18446744073709551616\"", "to 18446744073709551615"}),
      option("SeedWord", "--seed", "random", {"got \"random\"", "expected a whole number"}),
      option("SeedVeryLong", "--seed", std::string(100'000, '9'), {"got \"999", "...", "expected a whole number"}),
      option("ThreadsZero", "--threads", "0", {"got \"0\"", "expected a whole number from 1 to 1024"}),
      option("ThreadsBeyondRange", "--threads", "4096", {"got \"4096\"", "to 1024"}),
      option("UnknownScheduler", "--scheduler", "ddim", {"got \"ddim\"", "expected unipc, euler, lcm, dpm++ or rcm"}),
      option("UnknownDType", "--dtype", "fp8", {"got \"fp8\"", "expected auto, f32 or bf16"}),
      {"UnknownPlatform",
       tiny({"--platform", "gpu"}),
       {"[platform]", "got \"gpu\"", "expected one of auto, cpu", "Did you mean cpu?"}},
      {"CudaWithoutNumber", tiny({"--platform", "cuda:x"}), {"[platform]", "got \"cuda:x\"", "expected cuda:0"}},
      {"Npu", tiny({"--platform", "npu"}), {"[npu]", "no NPU runs Zoetrope", "--platform cpu"}, 3},
      option("UnknownCompile", "--compile", "maybe", {"got \"maybe\"", "expected on or off"}),
      option("UnknownOverride", "--override", "always", {"got \"always\"", "expected rows of its table"}),
      {"NoCompilePolicy", tiny({"--compile-policy", "@none.json"}), {"[--compile-policy]", "cannot open", "none.json"}},
      option("UnknownOpToExclude", "--compile-exclude", "rms_norm,norm_scale_shif",
             {"unknown op: got \"norm_scale_shif\"", "expected one of channel_norm, mul_add", "Did you mean norm_scale_shift?"}),
      option("NoOpToExclude", "--compile-exclude", "", {"unknown op: got \"\""}),
      option("UnknownKeepingOfWeights", "--weights", "shrink", {"got \"shrink\"", "expected keep or widen"}),
      {"ProfileInNoFolder", tiny({"--profile", "@none/trace.json"}), {"[--profile]", "cannot write", "none is not a folder"}},
      {"PreviewIsTheState",
       tiny({"--preview", "@x.png", "--save-state", "@x.png"}),
       {"[--preview]", "is the file of --save-state, too"}},
      {"LimitOfOpenCl", tiny({"--platform", "opencl", "--memory-limit", "4GiB"}), {"[--memory-limit]", "nobody counts"}, 3},
      {"ProfileIsAFolder", tiny({"--profile", "@out"}), {"[--profile]", "out is a folder, expected a file"}},
      {"ExplainUnknownModel",
       {"explain", "wan2.1-t2v-13b"},
       {"[MODEL]", "unknown model: got \"wan2.1-t2v-13b\"", "wan2.1-t2v-14b", "Did you mean wan2.1-t2v-1.3b?"}},
      {"ExplainUnknownPart",
       {"explain", "--part", "vae", "--platform", "null"},
       {"[part]", "unknown part: got \"vae\"", "expected one of transformer, text-keys, text-encoder, vae-decode"}},
      {"ExplainBlockBeyondTheLast",
       {"explain", "--block", "99", "--platform", "null"},
       {"[--block]", "got 99", "expected 0 (what is outside blocks) to 9"}},
      {"ExplainBlockOfAPartWithoutBlocks",
       {"explain", "--part", "vae-decode", "--block", "1", "--platform", "null"},
       {"[--block]", "got 1", "expected 0: vae-decode has no blocks of layers"}},
      {"ExplainOddWidth",
       {"explain", "--width", "100", "--platform", "null"},
       {"[--height, --width]", "got 100x128", "multiples of 16 and 16"}},
      {"VerifyWithCompilingOff", {"verify", "--compile", "off"}, {"[--compile]", "nothing to compare"}},
      {"VerifyOfNoModel", {"verify", "@none"}, {"none"}},
      {"BenchWithoutPart", {"bench"}, {"[arguments]", "PART", "zoe bench --help"}},
      {"BenchOfUnknownPart",
       {"bench", "everything"},
       {"[part]", "got", "everything", "expected one of transformer, text-keys, text-encoder, vae-decode"}},
      {"BenchOfUnknownEncoding",
       {"bench", "transformer", "--stored", "Q8_0,Q9_0"},
       {"[--stored]", "got \"Q9_0\"", "expected an encoding narrower than bf16, such as Q8_0, Q4_K"}},
      {"BenchOfWideEncoding", {"bench", "transformer", "--stored", "bf16"}, {"[--stored]", "got \"BF16\"", "narrower than bf16"}},
      {"BenchOfUnknownSize", {"bench", "transformer", "--size", "70b"}, {"[arguments]", "70b", "14b"}},
      {"BenchOfOddHeight",
       {"bench", "vae-decode", "--size", "toy", "--height", "100"},
       {"[--height, --width]", "480x100", "multiples of 16"}},
      {"BenchGuidanceOfAnotherPart",
       {"bench", "vae-decode", "--size", "toy", "--guidance"},
       {"[--guidance]", "got part \"vae-decode\" and --batch 1", "expected transformer"}},
      {"BenchGuidanceOfABatch",
       {"bench", "transformer", "--size", "toy", "--guidance", "--batch", "2"},
       {"[--guidance]", "--batch 2"}},
      {"BenchBatchZero",
       {"bench", "transformer", "--batch", "0"},
       {"[--batch]", "got \"0\"", "expected a whole number from 1 to 8"}},
      {"BenchLoraBesideNothingStored",
       {"bench", "transformer", "--size", "toy", "--lora-rank", "64"},
       {"[--lora-rank]", "got it without --stored", "expected --stored"}},
      {"BenchLoraBesideWidenedWeights",
       {"bench", "transformer", "--size", "toy", "--lora-rank", "64", "--stored", "Q8_0", "--weights", "widen"},
       {"[--lora-rank]", "got it with --weights widen", "expected --stored"}},
      {"BenchPerOpOfStreamedBlocks",
       {"bench", "transformer", "--size", "toy", "--streamed", "--per-op"},
       {"[--per-op]", "got it with --streamed", "Leave the other out"}},
      {"BenchPlanOfStoredWeights",
       {"bench", "transformer", "--size", "toy", "--stored", "Q8_0", "--plan"},
       {"[--plan]", "got it with --stored"}},
      {"BenchLoadStreamed",
       {"bench", "load", "--streamed"},
       {"[--streamed]", "got it for load", "expected transformer, text-keys"}},
      {"BenchStoredWeightsOfTheVae", {"bench", "vae-decode", "--stored", "Q8_0"}, {"[--stored]", "got it for vae-decode"}},
      {"BenchModelOfAPart", {"bench", "transformer", "--model-path", "x"}, {"[--model-path]", "got it for transformer", "session"}},
      {"BenchLoadOfWhatNoFileIsWrittenIn",
       {"bench", "load", "--stored", "Q4_1"},
       {"[--stored]", "got Q4_1", "expected an encoding that files can be written in"}},
      {"BenchRepeatZero", {"bench", "transformer", "--repeat", "0"}, {"[--repeat]", "got \"0\"", "expected a whole number from 1"}},
  };
}

std::vector<Case> prompt_cases() {
  const auto negative = tiny({"-n", "\xc3("});
  return {
      {"PromptInLatin1",
       tiny({"--prompt", "caf\xe9"}),
       {"[prompt]", "not valid UTF-8", "got byte 0xe9 at offset 3", "expected UTF-8"}},
      {"NegativePromptNotUtf8", negative, {"[prompt]", "not valid UTF-8", "got byte 0xc3", "expected UTF-8"}},
      {"PromptFileMissing",
       {"generate", "--prompt-file", "@none.txt"},
       {"[--prompt-file]", "cannot open", "none.txt", "No such file"}},
      {"PromptFileIsAFolder",
       {"generate", "--prompt-file", "@out"},
       {"[--prompt-file]", "out is a folder", "expected a regular file"}},
      {"PromptFileIsADevice",
       {"generate", "--prompt-file", "/dev/zero"},
       {"[--prompt-file]", "/dev/zero is a special file", "expected a regular file"}},
      {"PromptFileBeyondItsLimit",
       {"generate", "--prompt-file", "@prompts.txt"},
       {"[--prompt-file]", "too large", "got 17000000 bytes", "expected at most 16777216"},
       2,
       [](const fs::path& folder) {
         write_bytes(folder / "prompts.txt", "");
         fs::resize_file(folder / "prompts.txt", 17'000'000);
       }},
      prompt_file("PromptFileEmpty", "", {"[--prompt-file]", "got 0", "expected 1 to 9999 lines"}),
      prompt_file("PromptFileOfBlankLines", "\n \r\n\t\n", {"[--prompt-file]", "got 0", "expected 1 to 9999 lines"}),
      prompt_file("PromptFileOf10000Lines",
                  [] {
                    std::string text;
                    for (int i = 0; i < 10'000; ++i) text += "a\n";
                    return text;
                  }(),
                  {"[--prompt-file]", "got 10000", "expected 1 to 9999 lines"}),
      prompt_file("PromptFileOfRandomBytes", random_bytes(4096), {"[--prompt-file]", "line 1 of"}),
      prompt_file("PromptFileWithANul", std::string("a cat\na\0b\n", 10), {"[--prompt-file]", "line 2 of", "holds a NUL byte"}),
      prompt_file("PromptFileInUtf16",
                  std::string("\xff\xfe"
                              "a\0\n\0",
                              6),
                  {"[--prompt-file]", "is UTF-16, expected UTF-8"}),
      prompt_file("PromptFileWhoseSecondLineIsLatin1", "a cat\ncaf\xe9\n",
                  {"[--prompt-file]", "line 2 of", "not valid UTF-8", "expected UTF-8"}),
      prompt_file("PromptBeyondOneMebibyte", std::string((1 << 20) + 1, 'a'),
                  {"[--prompt-file]", "line 1 of", "too long", "got 1048577 bytes", "at most 1048576"}),
  };
}

std::vector<Case> output_cases() {
  return {
      output("OutputSuffixUnknown", "@out/video.avi", {"unknown suffix", ".avi", ".mp4, .mov, .mkv, .webm, .gif, .png"}),
      output("OutputEmpty", "", {"empty"}),
      output("OutputWithoutFileName", "/", {"no file name"}),
      output("OutputFolderMissing", "@out/none/video.mp4", {"is not a folder", "Create it"}),
      output("OutputParentIsAFile", "@file/video.mp4", {"is not a folder", "Create it"},
             [](const fs::path& folder) { write_bytes(folder / "file", "x"); }),
      {"OutputIntoProc", tiny({"-o", "/proc/video.mp4"}), {"[output]", "cannot", "/proc", "No such file"}, 4},
      {"OutputFramesIntoProc", tiny({"-o", "/proc/frames"}), {"[output]", "cannot", "/proc", "No such file"}, 4},
      output("OutputIsAFolder", "@folder.mp4", {"is a folder", "expected a file"},
             [](const fs::path& folder) { fs::create_directory(folder / "folder.mp4"); }),
      output("OutputFramesNotEmpty", "@frames", {"is not empty"},
             [](const fs::path& folder) {
               fs::create_directory(folder / "frames");
               write_bytes(folder / "frames/0001.png", "x");
             }),
      output("OutputFramesOverAFile", "@frames", {"is not a folder"},
             [](const fs::path& folder) { write_bytes(folder / "frames", "x"); }),
      output("OutputIsAFifo", "@pipe.mp4", {"not a regular file"},
             [](const fs::path& folder) { ::mkfifo((folder / "pipe.mp4").c_str(), 0600); }),
      output("OutputIsADevice", "/dev/null", {"/dev/null", "is not a folder"}),
      output("OutputNameTooLong", "@out/" + std::string(300, 'a') + ".mp4", {"is too long: got 304 bytes"}),
      {"OutputGifTooFast",
       tiny({"--fps", "60", "-o", "@out/video.gif"}),
       {"[output]", "frame rate", "got 60", "expected at most 50"}},
      {"OutputSheetTooLarge",
       tiny({"--num-frames", "1001", "--width", "1024", "--height", "1024", "-o", "@out/video.png"}),
       {"[output]", "too many for one .png"}},
      {"OutputSecondOfTwoExists",
       {"generate", "--prompt-file", "@prompts.txt", "-o", "@frames"},
       {"[output]", "frames-0002", "is not empty"},
       2,
       [](const fs::path& folder) {
         write_bytes(folder / "prompts.txt", "one\ntwo\n");
         fs::create_directory(folder / "frames-0002");
         write_bytes(folder / "frames-0002/0001.png", "x");
       }},
      {"DiskFullMp4", tiny({}), {"[output]", "cannot write", "File too large"}, 4, {}, 512},
      {"DiskFullGif", tiny({"-o", "@out/video.gif"}), {"[output]", "cannot write", "File too large"}, 4, {}, 512},
      {"DiskFullPng", tiny({"-o", "@out/video.png"}), {"[output]", "cannot write", "File too large"}, 4, {}, 512},
      {"DiskFullFrames", tiny({"-o", "@out/frames"}), {"[output]", "cannot write", "File too large"}, 4, {}, 512},
  };
}

std::vector<Case> memory_cases() {
  const std::vector<std::string> pieces{"[memory]", "does not fit", "needs more than", "GiB",
                                        "Lower --width, --height or --num-frames"};
  return {
      {"MemoryFarBeyond", tiny({"--width", "16384", "--height", "16384", "--num-frames", "1025"}), pieces, 3},
      {"MemoryOfTheLargestRequest", tiny({"--width", "65536", "--height", "65536", "--num-frames", "65536"}), pieces, 3},
      larger_than_its_plan(),
      {"MoreFramesThanTheModel",
       tiny({"--num-frames", "4101"}),
       {"[--height, --width, --num-frames]", "too large for the model", "4101 frames",
        "expected at most 16384x16384 and 4093 frames"}},
      {"WiderThanTheModel",
       tiny({"--width", "20000"}),
       {"[--height, --width, --num-frames]", "too large for the model", "got 20000x64", "expected at most 16384x16384"}},
  };
}

// Broken weights are refused before the first step, whichever part they are of.
std::vector<Case> weight_cases() {
  const std::string vae = "[vae", text = "[text_encoder", transformer = "[transformer";
  return {
      model("VaeTruncated", with_data(kVae, [](std::string& bytes) { bytes.resize(bytes.size() / 2); }),
            {vae, "data_offsets", "expected begin <= end"}),
      model("VaeEmpty", with_text(kVae, ""), {kVae, "is empty", "got 0 bytes"}),
      model("VaeRandomBytes", with_text(kVae, random_bytes(100'000)), {vae, "header beyond the end", "expected at most"}),
      model("VaeHeaderLengthBeyondFile", with_data(kVae, [](std::string& bytes) { bytes.replace(0, 8, 8, '\x7f'); }),
            {vae, "header beyond the end", "got a header of 9187201950435737471", "expected at most"}),
      model("VaeMissing", without(kVae), {vae, "no weights", "expected diffusion_pytorch_model.safetensors"}),
      model("VaeIsAPickle", with_text(kVae, std::string("PK\x03\x04", 4) + std::string(1000, 'x')), {vae, "expected"}),
      model("VaeHeaderNestedDeeply", with_text(kVae, safetensors_bytes(R"({"a":)" + std::string(1'000'000, '['), "")),
            {vae, "broken JSON", "64 levels"}),
      model("VaeOffsetsReversed",
            with_header(kVae,
                        [](json& header) {
                          header["decoder.conv_in.bias"]["data_offsets"] = {128, 0};
                        }),
            {vae, "bad data_offsets of \"decoder.conv_in.bias\"", "got [128,0]", "expected begin <= end"}),
      model("VaeOffsetsBeyondTheEnd",
            with_header(kVae,
                        [](json& header) {
                          header["decoder.conv_in.bias"]["data_offsets"] = {0, 1'000'000'000};
                        }),
            {vae, "bad data_offsets of \"decoder.conv_in.bias\"", "got [0,1000000000]", "expected begin <= end"}),
      model("VaeOverlap",
            with_header(kVae,
                        [](json& header) {
                          header["decoder.conv_in.bias"]["data_offsets"] =
                              header["decoder.mid_block.resnets.0.conv1.bias"]["data_offsets"];
                        }),
            {vae, "in the data before", "got its begin at", "expected"}),
      model("VaeShapeThatOverflows",
            with_header(kVae,
                        [](json& header) {
                          header["decoder.conv_in.bias"]["shape"] = {4294967296, 4294967296};
                        }),
            {vae, "bad shape of \"decoder.conv_in.bias\"", "got [4294967296,4294967296]", "expected fewer than 2^63 bytes"}),
      model("VaeShapeNegative", with_header(kVae, [](json& header) { header["decoder.conv_in.bias"]["shape"] = {-64}; }),
            {vae, "decoder.conv_in.bias", "got -64", "expected an integer of at least 0"}),
      model("VaeUnknownDType", with_header(kVae, [](json& header) { header["decoder.conv_in.bias"]["dtype"] = "F99"; }),
            {vae, "bad dtype of \"decoder.conv_in.bias\"", "got \"F99\"", "expected a safetensors type"}),
      model(
          "VaeKeyMissing",
          with_tensors(
              kVae, [](auto& tensors) { std::erase_if(tensors, [](const auto& t) { return t.name == "decoder.conv_in.bias"; }); }),
          {vae, "missing tensor \"decoder.conv_in.bias\"", "expected", "1 missing, 0 unknown"}),
      model(
          "VaeKeyRenamed",
          with_tensors(kVae, [](auto& tensors) { tensor_named(tensors, "decoder.conv_in.bias").name = "decoder.conv_in.bais"; }),
          {vae, "missing tensor \"decoder.conv_in.bias\"", "got \"decoder.conv_in.bais\" as the nearest", "1 missing, 1 unknown"}),
      model("VaeKeyUnknown",
            with_tensors(kVae,
                         [](auto& tensors) {
                           tensors.push_back({"decoder.extra", "F32", {1}, std::string(4, '\0')});
                         }),
            {vae, "unknown tensor \"decoder.extra\"", "0 missing, 1 unknown", "expected"}),
      model("VaeShapeOfAnotherModel",
            with_tensors(kVae,
                         [](auto& tensors) {
                           tensor_named(tensors, "decoder.conv_in.weight").shape = Shape{16, 64, 3, 3, 3};
                         }),
            {vae, "bad shape of \"decoder.conv_in.weight\"", "got [16,64,3,3,3]", "expected [64,16,3,3,3]"}),
      model("TextDTypeOfNoWeight",
            with_tensors(kText,
                         [](auto& tensors) {
                           TensorToWrite& norm = tensor_named(tensors, "encoder.final_layer_norm.weight");
                           norm = {norm.name, "I64", norm.shape, std::string(8 * 128, '\0')};
                         }),
            {text, "encoder.final_layer_norm.weight", "got I64", "expected"}, 3),
      model("TextKeyRenamed",
            with_tensors(kText, [](auto& tensors) { tensor_named(tensors, "shared.weight").name = "embed.weight"; }),
            {text, "missing tensor \"shared.weight\"", "1 missing, 1 unknown"}),
      model("TextTruncated", with_data(kText, [](std::string& bytes) { bytes.resize(bytes.size() - 1); }), {text, "expected"}),
      model("TransformerShardMissing", without("transformer/diffusion_pytorch_model-00003-of-00003.safetensors"),
            {transformer, "missing shard", "diffusion_pytorch_model-00003-of-00003.safetensors"}),
      model("TransformerShardTruncated",
            with_data("transformer/diffusion_pytorch_model-00003-of-00003.safetensors",
                      [](std::string& bytes) { bytes.resize(bytes.size() - 2); }),
            {transformer, "00003-of-00003", "expected begin <= end"}),
      model("TransformerShardClimbsOut", with_text(kShards, R"({"weight_map":{"proj_out.bias":"../../../etc/passwd"}})"),
            {transformer, "bad shard of \"proj_out.bias\"", "got \"../../../etc/passwd\"",
             "expected the name of a .safetensors file"}),
      model("TransformerShardAbsolute", with_text(kShards, R"({"weight_map":{"proj_out.bias":"/tmp/x.safetensors"}})"),
            {transformer, "bad shard of \"proj_out.bias\"", "got \"/tmp/x.safetensors\"",
             "expected the name of a .safetensors file"}),
      model("TransformerIndexBroken", with_text(kShards, "{"), {transformer, "broken JSON", "got the end of the text"}),
      model("TransformerKeyOfAnotherShard", edited([](const fs::path& folder) {
              json index = json::parse(read_bytes(folder / kShards));
              index["weight_map"]["proj_out.bias"] = "diffusion_pytorch_model-00001-of-00003.safetensors";
              replace(folder / kShards, index.dump());
            }),
            {transformer, "proj_out.bias", "diffusion_pytorch_model-0000"}),
      model("TransformerOfMoreLayers", with_value("transformer/config.json", "num_layers", "9"),
            {transformer, "missing tensor \"blocks.8.", "expected"}),
      model("TransformerOfFewerLayers", with_value("transformer/config.json", "num_layers", "7"),
            {transformer, "unknown tensor \"blocks.7.", "expected"}),
      model("TransformerOfAnotherWidth", with_value("transformer/config.json", "num_attention_heads", "5"),
            {transformer, "bad shape of", "got [", "expected ["}),
  };
}

std::vector<Case> model_folder_cases() {
  const std::string index = "model_index.json", transformer = "transformer/config.json";
  std::vector<Case> cases{
      {"ModelMissing", tiny({"--model-path", "@none"}), {"[--model-path]", "none is not a folder or file", "model_index.json"}},
      {"ModelIsAFile",
       tiny({"--model-path", "@file"}),
       {"[file]", "no safetensors file", "got 1 bytes"},
       2,
       [](const fs::path& folder) { write_bytes(folder / "file", "x"); }},
      {"ModelFolderEmpty",
       tiny({"--model-path", "@model"}),
       {"[--model-path]", "holds no model", "neither model_index.json nor weights"},
       2,
       [](const fs::path& folder) { fs::create_directory(folder / "model"); }},
      {"ModelPathWithANewline", tiny({"--model-path", "a\nb"}), {"[--model-path]", "a\\nb is not a folder"}},
      {"InfoOfMissingModel", {"info", "@none"}, {"[MODEL]", "none is not a folder"}},
      {"InfoOfBrokenWeights", {"info", "@model"}, {"vae", "is empty"}, 2, with_text(kVae, "")},
      model("IndexOfAnotherPipeline", with_value(index, "_class_name", R"("StableDiffusionPipeline")"),
            {"[model_index.json]", "got StableDiffusionPipeline", "expected WanPipeline"}, 3),
      model("IndexWithoutClass", without_key(index, "_class_name"),
            {"[model_index.json]", "got none", "expected WanPipeline or WanImageToVideoPipeline"}, 3),
      model("IndexOfAnimate", with_value(index, "_class_name", R"("WanAnimatePipeline")"),
            {"[model_index.json]", "got WanAnimatePipeline",
             "expected WanPipeline or WanImageToVideoPipeline or WanVACEPipeline or WanVideoToVideoPipeline"},
            3),
      model("IndexOfTwoTransformers", with_value(index, "transformer_2", R"(["diffusers", "WanTransformer3DModel"])"),
            {"[model_index.json]", "no boundary_ratio", "two transformers"}),
      model("IndexOfAnotherTransformer", with_value(index, "transformer", R"(["diffusers", "UNet2DModel"])"),
            {"[model_index.json]", "got UNet2DModel", "expected WanTransformer3DModel"}, 3),
      model("IndexOfAWordAsPart", with_value(index, "vae", R"("AutoencoderKLWan")"),
            {"[model_index.json]", "bad vae", "expected an array"}),
      model("TokenizerMissing", without(kSpiece), {"[tokenizer]", "cannot open", "spiece.model"}),
      model("TokenizerEmpty", with_text(kSpiece, ""), {"[tokenizer]", "spiece.model", "expected a SentencePiece model"}),
      model("TokenizerOfRandomBytes", with_text(kSpiece, random_bytes(200'000)),
            {"[tokenizer]", "spiece.model", "expected a SentencePiece model"}),
      model("TokenizerTruncated", with_data(kSpiece, [](std::string& bytes) { bytes.resize(bytes.size() / 2); }),
            {"[tokenizer]", "spiece.model", "expected a SentencePiece model"}),
      model("TokenizerIsJson", with_text(kSpiece, R"({"version":"1.0"})"),
            {"[tokenizer]", "spiece.model", "expected a SentencePiece model"}),
      model("TokenizerLargerThanTheVocabulary",
            [](const fs::path& folder) {
              with_tensors(kText, [](auto& tensors) {
                TensorToWrite& table = tensor_named(tensors, "shared.weight");
                const std::size_t row = table.bytes.size() / 640;
                table.shape = Shape{100, 128};
                table.bytes.resize(100 * row);
              })(folder);
              json object = json::parse(read_bytes(folder / "model/text_encoder/config.json"));
              object["vocab_size"] = 100;
              replace(folder / "model/text_encoder/config.json", object.dump());
            },
            {"[tokenizer]", "pieces", "expected at most the encoder's vocabulary of 100"}),
      model("VaeIsResidual", with_value("vae/config.json", "is_residual", "true"),
            {"[vae]", "bad shape of", "Check that the weights belong to the config"}, 2),
      model("ImageDimWithoutAddedKeys", with_value(transformer, "image_dim", "1280"),
            {"[transformer/config.json]", "bad added_kv_proj_dim", "got none", "expected 256"}, 3),
      model("AddedKeysWithoutImageDim", with_value(transformer, "added_kv_proj_dim", "256"),
            {"[transformer/config.json]", "bad added_kv_proj_dim", "got 256", "expected none"}, 3),
      model("ImagePositionsWithoutImageDim", with_value(transformer, "pos_embed_seq_len", "514"),
            {"[transformer/config.json]", "bad pos_embed_seq_len", "got 514", "expected none"}),
      model("ImageDimWithoutAnEncoder", edited([](const fs::path& folder) {
              json config = json::parse(read_bytes(folder / "transformer/config.json"));
              config["image_dim"] = 1280, config["added_kv_proj_dim"] = 256;
              replace(folder / "transformer/config.json", config.dump());
            }),
            {"[model_index.json]", "unsupported image_encoder", "got none", "expected CLIPVisionModel"}, 3),
      model("ChannelsOfNoMember", with_value(transformer, "in_channels", "48"),
            {"[transformer/config.json]", "in_channels 48", "a VAE of z_dim 16",
             "16 and 16 (text to video) or 36 and 16 (image to video)"},
            3),
      model("FewerChannelsInThanOut", with_value(transformer, "in_channels", "8"),
            {"[transformer/config.json]", "bad in_channels", "got 8", "at least out_channels, 16"}),
      model("PartsOfDifferentModels", with_value(transformer, "text_dim", "4096"),
            {"[transformer/config.json]", "text_dim", "got 4096", "expected the text encoder's d_model 128"}),
      model("SchedulerOfAnotherClass", with_value("scheduler/scheduler_config.json", "_class_name", R"("DDIMScheduler")"),
            {"[scheduler/scheduler_config.json]", "DDIMScheduler", "expected UniPCMultistepScheduler"}, 3),
      model("SchedulerOfEpsilon", with_value("scheduler/scheduler_config.json", "prediction_type", R"("epsilon")"),
            {"[scheduler/scheduler_config.json]", "prediction_type", "epsilon", "flow_prediction"}, 3),
      {"MoreStepsThanTheModelHas",
       tiny({"--num-inference-steps", "11", "--model-path", "@model"}),
       {"[scheduler]", "got 11", "expected 1 to 10"},
       2,
       with_value("scheduler/scheduler_config.json", "num_train_timesteps", "10")},
  };
  // Every JSON file: gone, broken, of another kind, deep, in another encoding.
  for (const auto& [name, file] : {std::pair<std::string, std::string>{"Index", index},
                                   {"TextConfig", "text_encoder/config.json"},
                                   {"TransformerConfig", transformer},
                                   {"VaeConfig", "vae/config.json"},
                                   {"SchedulerConfig", "scheduler/scheduler_config.json"},
                                   {"Defaults", "zoetrope.json"}}) {
    const std::string where = "[" + file + "]";
    if (name == "Index") {  // a folder without one may be of another layout, which this is not
      cases.push_back(model("IndexMissing", without(file), {"[--model-path]", "missing to run", "--transformer FILE"}));
    } else if (name != "Defaults") {
      cases.push_back(model(name + "Missing", without(file), {where, "cannot open", "No such file"}));
    }
    cases.push_back(model(name + "Empty", with_text(file, ""), {where, "got", "expected"}));
    cases.push_back(model(name + "Broken", with_text(file, "{\n \"a\": 1,,\n}"), {where, "line 2", "expected"}));
    cases.push_back(model(name + "IsAnArray", with_text(file, "[1, 2]"), {where, "got", "expected"}));
    cases.push_back(
        model(name + "NestedDeeply", with_text(file, R"({"a":)" + std::string(100'000, '[')), {where, "levels", "expected"}));
    cases.push_back(model(name + "OfRandomBytes", with_text(file, random_bytes(5000)), {where, "got", "expected"}));
    cases.push_back(
        model(name + "HasAKeyTwice", with_text(file, R"({"a": 1, "a": 2})"), {where, "\"a\" twice", "expected every key once"}));
    cases.push_back(model(name + "TooLarge", with_text(file, "{\"a\": \"" + std::string(2'000'000, 'x') + "\"}"),
                          {where, "too large", "got 2000009 bytes", "expected at most 1048576"}));
  }
  return cases;
}

std::vector<Case> config_cases() {
  const std::string text = "text_encoder/config.json", dit = "transformer/config.json", vae = "vae/config.json",
                    scheduler = "scheduler/scheduler_config.json", defaults = "zoetrope.json";
  const auto bad = [](const std::string& file, const std::string& key, const std::string& value, const std::string& got,
                      int code = 2) {
    return config(file, key, value, {"[" + file + "]", key, "got " + got, "expected"}, code);
  };
  return {
      bad(text, "vocab_size", "0", "0"),
      bad(text, "vocab_size", "9007199254740993", "9007199254740993"),
      bad(text, "d_model", "-128", "-128"),
      bad(text, "d_model", "1e9", "1000000000.0"),
      bad(text, "d_ff", "[256]", "an array"),
      bad(text, "d_kv", "\"32\"", "the string \"32\""),
      bad(text, "num_heads", "4.5", "4.5"),
      bad(text, "num_heads", "1000000000", "1000000000"),
      bad(text, "num_layers", "2147483648", "2147483648"),
      bad(text, "num_layers", "true", "true"),
      bad(text, "relative_attention_num_buckets", "0", "0"),
      bad(text, "relative_attention_num_buckets", "31", "31"),
      bad(text, "layer_norm_epsilon", "-1", "-1"),
      bad(text, "feed_forward_proj", "\"relu\"", "\"relu\"", 3),
      bad(text, "model_type", "\"llama\"", "\"llama\"", 3),
      bad(dit, "num_attention_heads", "0", "0"),
      bad(dit, "num_attention_heads", "-4", "-4"),
      bad(dit, "num_attention_heads", "\"four\"", "the string \"four\""),
      bad(dit, "attention_head_dim", "63", "63"),
      bad(dit, "attention_head_dim", "9223372036854775807", "9223372036854775807"),
      bad(dit, "ffn_dim", "0", "0"),
      bad(dit, "ffn_dim", "{}", "an object"),
      bad(dit, "freq_dim", "255", "255"),
      bad(dit, "num_layers", "0", "0"),
      bad(dit, "num_layers", "1000000", "1000000"),
      bad(dit, "in_channels", "-16", "-16"),
      bad(dit, "patch_size", "[1, 2]", "an array of 2"),
      bad(dit, "patch_size", "[1, 0, 2]", "0"),
      bad(dit, "patch_size", "2", "2"),
      bad(dit, "rope_max_seq_len", "0", "0"),
      bad(dit, "eps", "\"tiny\"", "the string \"tiny\""),
      bad(dit, "cross_attn_norm", "1", "1"),
      bad(dit, "qk_norm", "\"layer_norm\"", "\"layer_norm\"", 3),
      bad(vae, "base_dim", "0", "0"),
      bad(vae, "base_dim", "100000000", "100000000"),
      bad(vae, "z_dim", "-16", "-16"),
      bad(vae, "dim_mult", "[1, 2, 4, -4]", "-4"),
      bad(vae, "dim_mult", "[]", "an array of 0"),
      bad(vae, "dim_mult", "\"1244\"", "the string \"1244\""),
      bad(vae, "num_res_blocks", "0", "0"),
      bad(vae, "num_res_blocks", "1000000", "1000000"),
      bad(vae, "latents_mean", "[0.0]", "an array of 1"),
      bad(vae, "latents_std", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,0]", "0"),
      bad(vae, "temperal_downsample", "[1, 1, 0]", "1"),
      bad(vae, "scale_factor_spatial", "16", "16"),
      bad(scheduler, "num_train_timesteps", "0", "0"),
      bad(scheduler, "num_train_timesteps", "1.5", "1.5"),
      bad(scheduler, "num_train_timesteps", "18446744073709551615", "18446744073709551615"),
      bad(scheduler, "flow_shift", "\"3\"", "the string \"3\""),
      config(scheduler, "flow_shift", "0", {"[" + scheduler + "]", "flow_shift", "got 0", "expected"}),
      config(scheduler, "flow_shift", "-3", {"[" + scheduler + "]", "flow_shift", "got -3", "expected"}),
      bad(scheduler, "solver_order", "4", "4"),
      bad(scheduler, "solver_type", "\"rk4\"", "the string \"rk4\""),
      bad(defaults, "height", "0", "0"),
      bad(defaults, "width", "\"wide\"", "the string \"wide\""),
      bad(defaults, "num_frames", "1e3", "1"),
      bad(defaults, "fps", "0", "0"),
      bad(defaults, "num_inference_steps", "100000", "100000"),
      bad(defaults, "guidance_scale", "-1", "-1"),
  };
}

// --- Pictures ------------------------------------------------------------------------------------------------------------------

const std::string kImages = std::string(ZOE_FIXTURES) + "/images/";

// Arguments of a run of image to video that would work with a picture.
std::vector<std::string> of_image(const std::string& path, std::vector<std::string> more = {}) {
  std::vector<std::string> arguments = tiny({"--model-path", std::string(ZOE_MODELS) + "/toy-wan-i2v", "--image", path});
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

// A picture that is refused: its bytes, in a file.
Case picture(const std::string& name, const std::string& bytes, std::vector<std::string> pieces, int code = 2) {
  pieces.insert(pieces.begin(), "[--image]");
  return {name, of_image("@picture"), std::move(pieces), code,
          [=](const fs::path& folder) { write_bytes(folder / "picture", bytes); }};
}

std::string image_bytes(const std::string& name, std::size_t size = std::string::npos) {
  return read_bytes(kImages + name).substr(0, size);
}

std::string with_bytes(std::string bytes, std::size_t at, std::string_view changed) {
  return bytes.replace(at, changed.size(), changed);
}

// A PNG's beginning, of this size: its first chunk says it.
std::string png_header(std::uint32_t width, std::uint32_t height) {
  std::string chunk = "IHDR";
  const auto add = [](std::string& text, std::uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) text += static_cast<char>(value >> shift & 255);
  };
  add(chunk, width);
  add(chunk, height);
  chunk += std::string("\x08\x02\0\0\0", 5);
  std::uint32_t crc = 0xffffffff;
  for (const char c : chunk) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
  }
  std::string bytes("\x89PNG\r\n\x1a\n\0\0\0\x0d", 12);
  bytes += chunk;
  add(bytes, ~crc);
  return bytes + std::string("\0\0\0\0IDAT\x35\xaf\x06\x1e", 12);  // an empty chunk of pixels
}

std::vector<Case> image_cases() {
  const std::string jpeg = image_bytes("colour.jpg"), circle = std::string(ZOE_FIXTURES) + "/models/image_to_video/circle.png";
  const std::size_t frame = jpeg.find(std::string("\xff\xc0\0\x11\x08", 5)) + 5;  // height and width follow
  const auto text_only = [](const std::string& name, std::vector<std::string> more, const std::string& flag) {
    return Case{name, tiny(std::move(more)), {"[" + flag + "]", "is not taken by this model", "It is of i2v, i2v_a14b"}};
  };
  const auto parts = [](const std::string& value, std::vector<std::string> pieces) {
    return config("zoetrope.json", "parts", value, std::move(pieces));
  };
  const auto loras = [](const std::string& value, std::vector<std::string> pieces) {
    return config("zoetrope.json", "loras", value, std::move(pieces));
  };
  std::vector<Case> cases{
      {"ImageNone",
       tiny({"--model-path", std::string(ZOE_MODELS) + "/toy-wan-i2v"}),
       {"[--image]", "no image given", "--image FILE"}},
      text_only("ImageForATextOnlyModel", {"--model-path", std::string(ZOE_MODELS) + "/toy-wan", "--image", circle}, "--image"),
      text_only("LastImageForATextOnlyModel", {"--last-image", circle}, "--last-image"),
      {"FitOfNoPicture", tiny({"--fit", "pad"}), {"[--fit]", "is of no picture", "got pad", "expected an image or a video"}},
      {"ImageMissing", of_image("@none.png"), {"[--image]", "cannot open", "none.png", "No such file"}},
      {"ImageIsAFolder", of_image("@out"), {"[--image]", "out is a folder", "expected a regular file"}},
      {"ImageIsAPipe",
       of_image("@pipe"),
       {"[--image]", "pipe is a special file", "expected a regular file"},
       2,
       [](const fs::path& folder) { ::mkfifo((folder / "pipe").c_str(), 0600); }},
      {"ImageWithoutAPath", of_image(""), {"[--image]", "got \"\"", "expected the path of a file"}},
      {"ImageWithALongPath", of_image(std::string(5000, 'x')), {"[--image]", "expected the path of a file, of at most 4095 bytes"}},
      {"ImageWithANewline", of_image("a\nb.png"), {"[--image]", "a\\nb.png"}},
      {"ImageAsAnotherProgramSaysIt", of_image(circle, {"--img", circle}), {"[arguments]", "--img", "--image"}},
      {"LastImageMissing", of_image(circle, {"--num-frames", "5", "--last-image", "@none.png"}), {"[--last-image]", "cannot open"}},
      {"LastImageOfAnotherKind",
       of_image(circle, {"--num-frames", "5", "--last-image", kImages + "animated.gif"}),
       {"[--last-image]", "is a GIF"},
       3},
      {"LastImageOfOneFrame",
       of_image(circle, {"--last-image", circle}),
       {"[--last-image]", "got 1 frame", "expected at least 5", "Raise --num-frames"}},
      {"FitUnknown", of_image(circle, {"--fit", "cover"}), {"[--fit]", "got \"cover\"", "expected crop, stretch or pad"}},
      {"OutputIsTheImage",
       of_image("@picture.png", {"-o", "@picture.png"}),
       {"[output]", "is the file of --image"},
       2,
       [=](const fs::path& folder) { write_bytes(folder / "picture.png", read_bytes(circle)); }},
      option("PresetUnknown", "--preset", "turbo",
             {"got \"turbo\"", "expected none, lightx2v-4step, dmd-3step, rcm-4step or rcm-4step-i2v"}),
      {"PresetWithOtherSteps",
       tiny({"--preset", "dmd-3step", "--num-inference-steps", "4"}),
       {"[--sigmas]", "got 3 levels and 4 steps"}},
      {"SecondScaleForOneTransformer",
       of_image(circle, {"--guidance-scale-2", "3"}),
       {"[--guidance-scale-2]", "is not taken by this model", "t2v_a14b, i2v_a14b"}},
      picture("ImageEmpty", "", {"picture is no picture", "got 0 bytes"}),
      picture("ImageOfText", "a red circle", {"picture is no picture", "expected a PNG, JPEG or WebP picture"}),
      picture("ImageOfRandomBytes", random_bytes(100'000), {"is no picture"}),
      picture("ImageIsAGif", image_bytes("animated.gif"), {"is a GIF", "expected a PNG, JPEG or WebP picture"}, 3),
      picture("ImageIsABmp", image_bytes("other.bmp"), {"is a BMP"}, 3),
      picture("ImageIsATiff", image_bytes("other.tif"), {"is a TIFF"}, 3),
      picture("ImageIsAnAvif",
              std::string("\0\0\0\x20"
                          "ftypavif",
                          12),
              {"is an AVIF"}, 3),
      picture("ImageIsAHeic",
              std::string("\0\0\0\x20"
                          "ftypheic",
                          12),
              {"is a HEIC"}, 3),
      picture("ImageIsAVideo",
              std::string("\0\0\0\x20"
                          "ftypisom",
                          12),
              {"is a video"}, 3),
      picture("ImageIsAMatroska", "\x1a\x45\xdf\xa3", {"is a video"}, 3),
      picture("ImageIsAnSvg", "<svg width=\"5\"/>", {"is an SVG"}, 3),
      picture("ImageIsAJpegXl", "\xff\x0a", {"is a JPEG XL"}, 3),
      picture("ImageIsAnAnimatedPng", image_bytes("animated.png"), {"is animated", "expected one"}),
      picture("ImageIsAnAnimatedWebp", image_bytes("animated.webp"), {"is animated", "expected one"}),
      picture("PngCut", image_bytes("rgb.png", 900), {"cannot be read", "cut off"}),
      picture("PngOfASignature", image_bytes("rgb.png", 8), {"cannot be read", "cut off"}),
      picture("PngDamaged", with_bytes(image_bytes("rgb.png"), 200, "damage"), {"cannot be read"}),
      picture("PngWithoutPixels", png_header(0, 5), {"cannot be read", "IHDR"}),
      picture("PngOfTooManyPixels", png_header(100'000, 100'000), {"is too large", "got 100000x100000", "at most 100 million"}),
      picture("PngOfTwoGigapixelsInARow", png_header(0x7fffffff, 1), {"is too large", "got 2147483647x1"}),
      picture("JpegCut", jpeg.substr(0, jpeg.size() / 2), {"cannot be read", "Premature end"}),
      picture("JpegOfThreeBytes", jpeg.substr(0, 3), {"cannot be read"}),
      picture("JpegDamaged", with_bytes(jpeg, jpeg.size() / 2, "\xff\xd9\xff\xd9"), {"cannot be read"}),
      picture("JpegWithoutPixels", with_bytes(jpeg, frame, std::string_view("\0\x1d\0\0", 4)), {"cannot be read"}),
      picture("JpegOfTooManyPixels", with_bytes(jpeg, frame, "\xff\x00\xff\x00"sv), {"is too large", "got 65280x65280"}),
      picture("WebpCut", image_bytes("lossy.webp", 100), {"cannot be read", "cut off"}),
      picture("WebpOfAHeader", image_bytes("lossy.webp", 12), {"cannot be read"}),
      picture("WebpDamaged", with_bytes(image_bytes("lossy.webp"), 23, "xyz"), {"cannot be read", "damaged"}),
      picture("WebpOfTooManyPixels", with_bytes(image_bytes("lossy.webp"), 26, "\xff\x3f\xff\x3f"),
              {"is too large", "got 16383x16383"}),
      parts("{\"unet\": \"x\"}", {"[zoetrope.json]", "unknown part", "\"unet\"", "expected one of"}),
      parts("{\"vae\": \"nowhere\"}", {"[zoetrope.json]", "no folder for the part vae", "\"nowhere\""}),
      loras("{\"vae\": [\"x\"]}", {"[zoetrope.json]", "unknown part in loras", "\"vae\"", "expected transformer"}),
      loras("{\"transformer\": [\"nowhere\"]}", {"[zoetrope.json]", "no LoRA of the transformer", "\"nowhere\""}),
      loras("{\"transformer\": \"x\"}", {"[zoetrope.json]", "transformer", "expected an array"}),
      parts("[\"vae\"]", {"[zoetrope.json]", "parts", "expected an object"}),
      parts("{\"vae\": 1}", {"[zoetrope.json]", "vae", "expected a string"}),
      model("TwoGgufFiles", edited([](const fs::path& folder) {
              fs::remove_all(folder / "vae");
              fs::create_directory(folder / "vae");
              write_bytes(folder / "vae/a.gguf", "GGUF");
              write_bytes(folder / "vae/b.gguf", "GGUF");
              fs::copy_file(fs::path(kToy) / "vae/config.json", folder / "vae/config.json");
            }),
            {"[vae]", "no weights in", "got no .safetensors file"}),
  };
  return cases;
}

// --- Videos --------------------------------------------------------------------------------------------------------------------

const std::string kRecorded = std::string(ZOE_FIXTURES) + "/models/", kVideo = kRecorded + "vace/video",
                  kMask = kRecorded + "vace/mask";

// Nine frames of a small model that takes videos, masks and reference images, with what is said besides.
Case led(const std::string& name, std::vector<std::string> more, std::vector<std::string> pieces, int code = 2, Edit prepare = {}) {
  std::vector<std::string> arguments{"--model-path", "@model", "--num-frames", "9"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return {name, tiny(std::move(arguments)), std::move(pieces), code, [=](const fs::path& folder) {
            testing::make_vace(folder / "model", false);
            if (prepare) prepare(folder);
          }};
}

// A video that text to video refuses: its bytes, in a file.
Case video(const std::string& name, const std::string& bytes, std::vector<std::string> pieces, int code = 2) {
  pieces.insert(pieces.begin(), "[--video]");
  return {name, tiny({"--video", "@video", "--strength", "1", "--num-frames", "9"}), std::move(pieces), code,
          [=](const fs::path& folder) { write_bytes(folder / "video", bytes); }};
}

// A folder of frames that is refused: what is copied into it, by name.
Case frames(const std::string& name, const std::vector<std::pair<std::string, std::string>>& files,
            std::vector<std::string> pieces) {
  pieces.insert(pieces.begin(), "[--video]");
  return {name, tiny({"--video", "@video", "--strength", "1", "--num-frames", "9"}), std::move(pieces), 2,
          [=](const fs::path& folder) {
            fs::create_directory(folder / "video");
            for (const auto& [to, from] : files) fs::copy_file(from, folder / "video" / to);
          }};
}

std::vector<Case> video_cases() {
  const std::string gif = image_bytes("animated.gif"), circle = kRecorded + "image_to_video/circle.png";
  const std::string first = kVideo + "/000.png", other_size = circle;
  std::vector<std::string> many;
  for (int i = 0; i < 17; ++i) many.insert(many.end(), {"--reference-image", circle});
  const auto of_others = [&](const std::string& name, std::vector<std::string> more, const std::string& flag,
                             const std::string& members) {
    return Case{name, tiny(std::move(more)), {"[" + flag + "]", "is not taken by this model", "It is of " + members}};
  };
  return {
      of_others("MaskForTextToVideo", {"--video", kVideo, "--mask", kMask}, "--mask", "vace, vace_a14b"),
      of_others("ReferenceForTextToVideo", {"--reference-image", circle}, "--reference-image", "vace, vace_a14b"),
      of_others("ConditioningScaleForTextToVideo", {"--conditioning-scale", "0.5"}, "--conditioning-scale", "vace, vace_a14b"),
      of_others("VideoForImageToVideo",
                {"--model-path", std::string(ZOE_MODELS) + "/toy-wan-i2v", "--image", circle, "--video", kVideo}, "--video",
                "t2v, t2v_a14b, ti2v_5b, vace, vace_a14b"),
      led("ImageForVace", {"--image", circle}, {"[--image]", "is not taken by this model", "It is of i2v"}),
      led("StrengthForVace", {"--video", kVideo, "--strength", "0.5"},
          {"[--strength]", "is not taken", "It is of t2v, t2v_a14b, ti2v_5b"}),
      led("SecondScaleForOneVace", {"--guidance-scale-2", "3"}, {"[--guidance-scale-2]", "is not taken", "vace_a14b"}),
      {"StrengthWithoutVideo", tiny({"--strength", "0.5"}), {"[--strength]", "is of no video", "got 0.5", "expected --video"}},
      {"StrengthAboveOne",
       tiny({"--video", kVideo, "--strength", "1.5"}),
       {"[--strength]", "got \"1.5\"", "expected a number from 0 to 1"}},
      {"StrengthOfNoStep",
       tiny({"--video", kVideo, "--strength", "0.2"}),
       {"[--strength]", "leaves no step", "got 0.2 of 1 steps", "expected at least 1", "--num-inference-steps"}},
      {"VideoAndImage",
       tiny({"--model-path", "@model", "--video", kVideo, "--image", circle}),
       {"[--video]", "got a video and an image", "expected one"},
       2,
       [](const fs::path& folder) { testing::make_image_to_video(folder / "model", "text_image_to_video"); }},
      {"VideoAsAnotherProgramSaysIt", tiny({"--init-video", kVideo}), {"[arguments]", "--init-video", "--video"}},
      {"VideoMissing", tiny({"--video", "@none.mp4"}), {"[--video]", "no file or folder", "none.mp4"}},
      {"VideoIsAPipe",
       tiny({"--video", "@pipe"}),
       {"[--video]", "pipe is no file", "expected a video"},
       2,
       [](const fs::path& folder) { ::mkfifo((folder / "pipe").c_str(), 0600); }},
      {"OutputIsTheVideo",
       tiny({"--video", "@video.gif", "-o", "@video.gif"}),
       {"[output]", "is the file of --video"},
       2,
       [=](const fs::path& folder) { write_bytes(folder / "video.gif", gif); }},
      video("VideoEmpty", "", {"is no video that FFmpeg reads"}),
      video("VideoOfText", "a red circle moving right", {"is no video that FFmpeg reads"}),
      video("VideoOfRandomBytes", random_bytes(100'000), {"video"}),
      video("VideoIsAPlaylist", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
            {"video"}),
      video("VideoCut", gif.substr(0, 20), {"video"}),
      video("VideoTooShort", gif, {"is too short", "got 2 frames", "expected at least 9", "Lower --num-frames to 1"}),
      frames("VideoFolderEmpty", {}, {"no pictures in", "expected the frames of a video"}),
      frames("VideoFolderOfOtherFiles", {{"a.txt", first}}, {"no pictures in"}),
      frames("VideoFolderOfSeveralSizes", {{"1.png", first}, {"2.png", other_size}},
             {"2.png is of another size than 1.png", "got 96x80", "expected 48x32"}),
      frames("VideoFolderWithABadFrame", {{"1.png", first}, {"2.png", kVideo + "/../cases.json"}}, {"2.png is no picture"}),
      frames("VideoFolderTooShort", {{"1.png", first}, {"2.png", first}},
             {"is too short", "got 2 frames", "Lower --num-frames to 1"}),
      led("MaskWithoutVideo", {"--mask", kMask}, {"[--mask]", "is of no video", "expected --video"}),
      led("MaskMissing", {"--video", kVideo, "--mask", "@none"}, {"[--mask]", "no file or folder"}),
      led("MaskOfAnotherSize", {"--video", kVideo, "--mask", circle},
          {"[--mask]", "is of another size than the video", "got 96x80", "expected 48x32"}),
      led("MaskTooShort", {"--video", kVideo, "--mask", "@mask"},
          {"[--mask]", "is too short", "got 2 frames", "expected at least 9"}, 2,
          [=](const fs::path& folder) {
            fs::create_directory(folder / "mask");
            for (const char* name : {"000.png", "001.png"}) fs::copy_file(fs::path(kMask) / name, folder / "mask" / name);
          }),
      led("ReferenceMissing", {"--reference-image", "@none.png"}, {"[--reference-image]", "cannot open"}),
      led("ReferenceIsAGif", {"--reference-image", kImages + "animated.gif"}, {"[--reference-image]", "is a GIF"}, 3),
      led("TooManyReferences", many, {"[--reference-image]", "too many", "got 17", "expected at most 16"}),
      led("ConditioningScaleOfText", {"--conditioning-scale", "strong"},
          {"[--conditioning-scale]", "got \"strong\"", "expected a number"}),
      {"VaceWithoutItsClass",
       tiny({"--model-path", "@model"}),
       {"[model_index.json]", "unsupported transformer", "got WanVACETransformer3DModel", "expected WanTransformer3DModel"},
       3,
       [](const fs::path& folder) {
         const fs::path model = testing::make_vace(folder / "model", false);
         json index = json::parse(read_bytes(model / "model_index.json"));
         index["_class_name"] = "WanPipeline";
         replace(model / "model_index.json", index.dump(1));
       }},
  };
}

// --- The test ------------------------------------------------------------------------------------------------------------------

std::vector<std::string> names_below(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) names.push_back(fs::relative(entry.path(), folder).string());
  std::sort(names.begin(), names.end());
  return names;
}

class CommandErrors : public ::testing::TestWithParam<Case> {};

TEST_P(CommandErrors, IsOneLineSoonWithNothingLeft) {
  const Case& c = GetParam();
  const testing::TemporaryFolder temporary;
  const fs::path folder = temporary.path();
  fs::create_directory(folder / "out");
  if (c.prepare) c.prepare(folder);
  const std::vector<std::string> before = names_below(folder);
  std::vector<std::string> arguments{ZOE_COMMAND};
  for (const std::string& argument : c.arguments)
    arguments.push_back(argument.starts_with('@') ? (folder / argument.substr(1)).string() : argument);
  const testing::CommandResult result = testing::run_command(arguments, {.folder = folder, .max_file_bytes = c.max_file_bytes});
  RecordProperty("message", result.err);  // all of them are worth reading: --gtest_output=json
  EXPECT_EQ(result.code, c.code) << result.line;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_TRUE(result.err.starts_with("zoe: [") && result.err.ends_with('\n')) << result.err;
  EXPECT_LT(result.err.size(), 1000u) << result.err;
  std::size_t at = 0;
  for (const std::string& piece : c.pieces) {
    const std::size_t found = result.err.find(piece, at);
    if (found == std::string::npos) {
      ADD_FAILURE() << "lacks " << piece << " behind character " << at << ": " << result.err << result.line;
      break;
    }
    at = found;
  }
  // Of the two the smaller: neither a busy machine nor many threads make a case slow.
  EXPECT_LT(std::min(result.seconds, result.cpu_seconds), 5) << result.line;
  EXPECT_EQ(names_below(folder), before) << result.line;
}

const auto kName = [](const ::testing::TestParamInfo<Case>& test) { return test.param.name; };
INSTANTIATE_TEST_SUITE_P(Arguments, CommandErrors, ::testing::ValuesIn(argument_cases()), kName);
INSTANTIATE_TEST_SUITE_P(Prompts, CommandErrors, ::testing::ValuesIn(prompt_cases()), kName);
INSTANTIATE_TEST_SUITE_P(Outputs, CommandErrors, ::testing::ValuesIn(output_cases()), kName);
INSTANTIATE_TEST_SUITE_P(Memory, CommandErrors, ::testing::ValuesIn(memory_cases()), kName);
INSTANTIATE_TEST_SUITE_P(Weights, CommandErrors, ::testing::ValuesIn(weight_cases()), kName);
INSTANTIATE_TEST_SUITE_P(Models, CommandErrors, ::testing::ValuesIn(model_folder_cases()), kName);
INSTANTIATE_TEST_SUITE_P(Images, CommandErrors, ::testing::ValuesIn(image_cases()), kName);
INSTANTIATE_TEST_SUITE_P(Videos, CommandErrors, ::testing::ValuesIn(video_cases()), kName);
INSTANTIATE_TEST_SUITE_P(Configs, CommandErrors, ::testing::ValuesIn(config_cases()), kName);

}  // namespace
}  // namespace zoe
