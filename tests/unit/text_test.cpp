// HTML references, prompt cleaning and token ids against recorded ones of Python's html module, Diffusers and Transformers.
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "testing/temporary_folder.h"
#include "testing/write_safetensors.h"
#include "text/html.h"
#include "text/prompt.h"
#include "text/tokenizer.h"

namespace zoe {
namespace {

using nlohmann::json;

constexpr std::pair<std::string_view, std::string_view> kEntities[] = {
#include "text/html_entities.inc"
};

constexpr const char* kSpieceModel = ZOE_MODELS "/toy-wan/tokenizer/spiece.model";

json fixture(const std::string& name) { return json::parse(std::ifstream(ZOE_FIXTURES "/text/" + name)); }

std::string read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::uint32_t crc32(std::string_view bytes) {
  std::uint32_t crc = ~0u;
  for (const char byte : bytes) {
    crc ^= static_cast<std::uint8_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1u) != 0 ? 0xedb88320u : 0u);
  }
  return ~crc;
}

template <class F>
void expect_error(F&& run, ErrorKind kind, const std::vector<std::string>& words) {
  try {
    run();
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), kind) << e.what();
    for (const std::string& word : words)
      EXPECT_NE(std::string(e.what()).find(word), std::string::npos) << word << " in: " << e.what();
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
  }
}

TEST(HtmlUnescape, EveryNameInFourForms) {
  const json expected = fixture("unescape.json");
  ASSERT_EQ(std::size(kEntities), expected["names"].get<std::size_t>());
  std::string whole, cut, run_on, twice;
  for (const auto& [name, value] : kEntities) {
    const std::string bare(name.substr(0, name.size() - (name.ends_with(';') ? 1 : 0)));
    const std::string separator = whole.empty() ? "" : "\n";
    whole += separator + html_unescape("&" + bare + ";");
    cut += separator + html_unescape("&" + std::string(name.substr(0, name.size() - 1)));
    run_on += separator + html_unescape("&" + bare + "xyz;");
    twice += separator + html_unescape("&" + bare + "&" + bare + ";");
  }
  EXPECT_EQ(crc32(whole), expected["whole"].get<std::uint32_t>());
  EXPECT_EQ(crc32(cut), expected["cut"].get<std::uint32_t>());
  EXPECT_EQ(crc32(run_on), expected["run_on"].get<std::uint32_t>());
  EXPECT_EQ(crc32(twice), expected["twice"].get<std::uint32_t>());
}

TEST(HtmlUnescape, NumbersAndOddCases) {
  const json expected = fixture("unescape.json");
  ASSERT_GT(expected["odd"].size(), 600u);
  for (const auto& pair : expected["odd"])
    EXPECT_EQ(html_unescape(pair[0].get<std::string>()), pair[1].get<std::string>()) << pair[0];
  EXPECT_EQ(html_unescape("&#" + std::string(100000, '9') + ";"), "\xef\xbf\xbd");
}

std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    for (std::size_t k = 0; k < 3; ++k) group = group << 8 | (i + k < bytes.size() ? static_cast<std::uint8_t>(bytes[i + k]) : 0u);
    for (std::size_t k = 0; k < 4; ++k) out.push_back(i + k > bytes.size() ? '=' : kDigits[group >> (18 - 6 * k) & 63]);
  }
  return out;
}

// What transformers wrote for the toy model's spiece.model; the character map, the greater part of it, is taken from there.
json tokenizer_json() {
  json value = fixture("tokenizer.json");
  const std::string model = read(kSpieceModel);
  value["tokenizer"]["normalizer"]["precompiled_charsmap"] =
      base64(std::string_view(model).substr(value["map"][0].get<std::size_t>(), value["map"][1].get<std::size_t>()));
  return value["tokenizer"];
}

TEST(Prompt, CleaningAndIdsOfDiffusers) {
  const Tokenizer tokenizer(kSpieceModel);
  const json cases = fixture("prompts.json");
  ASSERT_GT(cases.size(), 150u);
  std::size_t cut = 0;
  for (const auto& c : cases) {
    SCOPED_TRACE(c["prompt"].dump().substr(0, 200));
    const std::string cleaned = prompt_clean(c["prompt"].get<std::string>());
    EXPECT_EQ(cleaned, c["cleaned"].get<std::string>());
    std::size_t total = 0;
    EXPECT_EQ(tokenizer.encode(cleaned, 512, &total), c["ids"].get<std::vector<std::int32_t>>());
    EXPECT_EQ(total, c["total"].get<std::size_t>());
    cut += total > 512 ? 1 : 0;
  }
  EXPECT_GE(cut, 4u);
}

TEST(Prompt, RefusesWhatIsNotUtf8) {
  const auto kind = ErrorKind::invalid_argument;
  const std::pair<std::string, int> cases[] = {{"abc\xff", 3},          {"\x80", 0},
                                               {"a\xc0\xaf", 1},        {"\xc3", 0},
                                               {"ab\xe4\xb8", 2},       {"\xed\xa0", 0},
                                               {"\xf4\x90\x80\x80", 0}, {"\xf8\x88\x80\x80\x80", 0},
                                               {"\xe0\x80\x80", 0},     {"\xf0\x80\x80\x80", 0},
                                               {"\xe4\xb8\xad\xe4", 3}};
  for (const auto& [text, offset] : cases)
    expect_error([&] { prompt_clean(text); }, kind, {"[prompt]", "UTF-8", "offset " + std::to_string(offset) + ","});
}

TEST(Prompt, LongOnesAreQuickOrRefused) {
  const Tokenizer tokenizer(kSpieceModel);
  for (const std::string& unit :
       {std::string("a red circle "), std::string("x"), std::string("<"), std::string("&amp;amp;"), std::string("\xf0\x9f\x98\x80"),
        std::string("</s>"), std::string("&"), std::string("&NotEqualTild")}) {
    std::string text;
    while (text.size() + unit.size() <= kMaxPromptBytes) text += unit;
    const auto start = std::chrono::steady_clock::now();
    EXPECT_LE(tokenizer.encode(prompt_clean(text), 512).size(), 512u);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30)) << unit;  // a second or two, without sanitizers
  }
  expect_error([] { prompt_clean(std::string(10000000, 'a')); }, ErrorKind::invalid_argument, {"[prompt]", "10000000", "1048576"});
}

TEST(Tokenizer, LimitsAndIds) {
  const Tokenizer tokenizer(kSpieceModel);
  EXPECT_EQ(tokenizer.eos_id(), 1);
  EXPECT_EQ(tokenizer.pad_id(), 0);
  EXPECT_EQ(tokenizer.unk_id(), 2);
  EXPECT_EQ(tokenizer.vocab_size(), 403);
  const auto all = tokenizer.encode("a red circle moves left", 512);
  std::size_t total = 0;
  const auto three = tokenizer.encode("a red circle moves left", 3, &total);
  EXPECT_EQ(three, (std::vector<std::int32_t>{all[0], all[1], 1}));
  EXPECT_EQ(total, all.size());
  EXPECT_EQ(tokenizer.encode("a red circle", 1), std::vector<std::int32_t>{1});
  expect_error([&] { tokenizer.encode("a", 0); }, ErrorKind::invalid_argument, {"[tokenizer]", "got 0"});
}

TEST(Tokenizer, ATokenizerJsonGivesTheSameIds) {
  testing::TemporaryFolder folder;
  testing::write_bytes(folder.path() / "tokenizer.json", tokenizer_json().dump());
  const Tokenizer of_file(folder.path() / "tokenizer.json"), of_folder(folder.path());
  const Tokenizer of_bytes = Tokenizer::of_sentencepiece(read(kSpieceModel), "spiece_model");
  for (const Tokenizer* tokenizer : {&of_file, &of_folder, &of_bytes}) {
    EXPECT_EQ(tokenizer->eos_id(), 1);
    EXPECT_EQ(tokenizer->pad_id(), 0);
    EXPECT_EQ(tokenizer->unk_id(), 2);
    EXPECT_EQ(tokenizer->vocab_size(), 403);
    for (const auto& c : fixture("prompts.json"))
      ASSERT_EQ(tokenizer->encode(c["cleaned"].get<std::string>(), 512), c["ids"].get<std::vector<std::int32_t>>()) << c["cleaned"];
  }
}

TEST(Tokenizer, AFolderWithBothFilesTakesSpieceModel) {
  testing::TemporaryFolder folder;
  expect_error([&] { Tokenizer t(folder.path()); }, ErrorKind::invalid_argument,
               {"[tokenizer]", "neither spiece.model nor tokenizer.json"});
  testing::write_bytes(folder.path() / "tokenizer.json", "{}");
  expect_error([&] { Tokenizer t(folder.path()); }, ErrorKind::invalid_argument, {"tokenizer.json]", "model"});
  testing::write_bytes(folder.path() / "spiece.model", read(kSpieceModel));
  EXPECT_EQ(Tokenizer(folder.path()).vocab_size(), 403);
}

TEST(Tokenizer, JsonAsOtherVersionsWriteIt) {
  testing::TemporaryFolder folder;
  const auto path = folder.path() / "tokenizer.json";
  json value = tokenizer_json();
  const auto ids = [&] {
    testing::write_bytes(path, value.dump());
    return Tokenizer(path).encode("a red  circle </s> moves", 512);
  };
  const std::vector<std::int32_t> expected = ids();
  value["normalizer"] = {{"type", "Sequence"},
                         {"normalizers",
                          {value["normalizer"],
                           {{"type", "Strip"}, {"strip_left", false}, {"strip_right", true}},
                           {{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", "\u2581"}}}}};
  EXPECT_EQ(ids(), expected);
  value["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"add_prefix_space", true}};
  EXPECT_EQ(ids(), expected);
  value["normalizer"] = nullptr;
  EXPECT_EQ(ids(), expected);
  // Tokens beyond the pieces, of which the longest counts.
  value["added_tokens"].push_back({{"id", 500}, {"content", "a red"}});
  value["added_tokens"].push_back({{"id", 501}, {"content", "a re"}});
  EXPECT_EQ(ids()[0], 500);
  EXPECT_EQ(Tokenizer(path).vocab_size(), 502);
}

TEST(Tokenizer, OtherKindsOfJsonAreRefusedByName) {
  testing::TemporaryFolder folder;
  const auto path = folder.path() / "tokenizer.json";
  const json good = tokenizer_json();
  const auto refused = [&](const std::string& place, const json& value, ErrorKind kind, const std::vector<std::string>& words) {
    json bad = good;
    bad[json::json_pointer(place)] = value;
    testing::write_bytes(path, bad.dump());
    SCOPED_TRACE(place + " " + value.dump());
    expect_error([&] { Tokenizer t(path); }, kind, words);
  };
  const auto other = ErrorKind::unsupported, broken = ErrorKind::invalid_argument;
  refused("/model/type", "BPE", other, {"tokenizer.json]", "\"BPE\"", "expected Unigram"});
  refused("/model/type", "WordPiece", other, {"\"WordPiece\""});
  refused("/normalizer", {{"type", "BertNormalizer"}}, other, {"normalizer", "\"BertNormalizer\"", "Precompiled"});
  refused("/normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", "a"}}}}, other, {"normalizer", "\"Replace\""});
  refused("/pre_tokenizer", {{"type", "ByteLevel"}}, other, {"pre_tokenizer", "\"ByteLevel\"", "Metaspace"});
  refused("/pre_tokenizer", nullptr, other, {"pre_tokenizer", "none"});
  refused("/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "_"}}, other, {"replacement", "\"_\""});
  refused("/pre_tokenizer", {{"type", "Metaspace"}, {"prepend_scheme", "never"}}, other, {"prepend_scheme", "\"never\""});
  refused("/post_processor", nullptr, other, {"post_processor", "none"});
  refused("/post_processor", {{"type", "RobertaProcessing"}}, other, {"\"RobertaProcessing\""});
  refused("/post_processor/single", json::array(), other, {"another template"});
  refused("/added_tokens/0/single_word", true, other, {"single_word", "\"<pad>\""});
  refused("/model/vocab", json::array(), broken, {"vocab", "an array"});
  refused("/model/vocab/5", {"a"}, broken, {"model.vocab[5]", "a pair"});
  refused("/model/vocab/5/1", "x", broken, {"model.vocab[5]"});
  refused("/model/vocab/5/1", 1e300, broken, {"model.vocab[5]"});
  refused("/model/vocab/5/0", "", broken, {"an empty piece"});
  refused("/model/vocab/5/0", std::string(1, '\0'), broken, {"an empty piece"});
  refused("/model/vocab/5/0", "<pad>", broken, {"[tokenizer]", "\"<pad>\" twice"});
  refused("/model/unk_id", 403, broken, {"unk_id", "403"});
  refused("/model/unk_id", nullptr, broken, {"unk_id"});
  refused("/post_processor/special_tokens/<~1s>/ids", {403}, broken, {"end piece 403"});
  refused("/post_processor/special_tokens/<~1s>/ids", {-1}, broken, {"ids"});
  refused("/added_tokens/0/id", -1, broken, {"id", "-1"});
  refused("/added_tokens/0/content", "", other, {"no content"});
  refused("/normalizer/precompiled_charsmap", "a?b", broken, {"base64", "\"?\""});
  refused("/normalizer/precompiled_charsmap", base64(std::string(100, '\1')), broken, {"a damaged character map"});
  std::string loop("\x04\0\0\0\xff\xff\xff\x7f\0", 9);
  refused("/normalizer/precompiled_charsmap", base64(loop), broken, {"a damaged character map"});
  testing::write_bytes(path, "[1]");
  expect_error([&] { Tokenizer t(path); }, broken, {"tokenizer.json]"});
}

// Bytes are pieces like others where they are written out, as in transformers; and a model of another kind is no tokenizer of T5.
TEST(Tokenizer, KindsOfPieces) {
  const Tokenizer tokenizer(kSpieceModel);
  EXPECT_EQ(tokenizer.encode("<0x41>", 512), (std::vector<std::int32_t>{319, 68, 1}));
  EXPECT_EQ(tokenizer.encode("a \xf0\x9f\x98\x80 b", 512), (std::vector<std::int32_t>{259, 319, 2, 375, 1}));
  EXPECT_EQ(tokenizer.encode("\xef\xac\x81\xcc\x81", 512), (std::vector<std::int32_t>{319, 381, 398, 1}));
  std::string bpe = read(kSpieceModel) + std::string("\x12\x02\x18\x02", 4);  // the trainer's model_type
  expect_error([&] { Tokenizer::of_sentencepiece(bpe, "spiece_model"); }, ErrorKind::unsupported,
               {"[tokenizer]", "spiece_model", "BPE"});
}

TEST(Tokenizer, BrokenModelsAreOneSilentError) {
  testing::TemporaryFolder folder;
  const auto path = folder.path() / "spiece.model";
  const std::string good = read(kSpieceModel);
  std::mt19937 random(1);
  std::string noise(5000, '\0');
  for (char& c : noise) c = static_cast<char>(random());
  ::testing::internal::CaptureStderr();
  expect_error([&] { Tokenizer t(path); }, ErrorKind::invalid_argument, {"[tokenizer]", "spiece.model"});
  for (const std::string& bytes :
       {std::string(), std::string("x"), std::string("{\"version\": \"1.0\"}"), noise, good.substr(0, 1000),
        good.substr(0, good.size() / 2), good.substr(100), std::string(5000, '\0')}) {
    testing::write_bytes(path, bytes);
    expect_error([&] { Tokenizer t(path); }, ErrorKind::invalid_argument, {"[tokenizer]", "spiece.model"});
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace zoe
