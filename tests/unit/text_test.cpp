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
       {std::string("a red circle "), std::string("x"), std::string("&amp;amp;"), std::string("\xf0\x9f\x98\x80"),
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
