// Repair of prompts against recorded results of ftfy. The strings are made here as tests/fixtures/record_prompts.py makes them.
#include "text/repair.h"

#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "text/prompt.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace zoe {
namespace {

using nlohmann::json;

constexpr std::pair<std::string_view, std::string_view> kEntities[] = {
#include "text/html_entities.inc"
};

#define ZOE_CODE_PAGE(name, ...) std::array<char16_t, 128>{__VA_ARGS__},
const std::array<char16_t, 128> kPages[] = {
#include "text/mojibake_tables.inc"
};
#undef ZOE_CODE_PAGE
constexpr std::size_t kWindowsPages = 6;

const json& fixture() {
  static const json value = json::parse(std::ifstream(ZOE_FIXTURES "/text/repair.json"));
  return value;
}

class Crc32 {
 public:
  void add(std::string_view line) {
    for (const char byte : line) add(byte);
    add('\n');
  }
  std::uint32_t value() const { return ~crc_; }

 private:
  void add(char byte) {
    crc_ ^= static_cast<std::uint8_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc_ = (crc_ >> 1) ^ ((crc_ & 1u) != 0 ? 0xedb88320u : 0u);
  }
  std::uint32_t crc_ = ~0u;
};

std::uint32_t crc_of(std::string_view line) {
  Crc32 crc;
  crc.add(line);
  return crc.value();
}

class Numbers {
 public:
  explicit Numbers(std::uint64_t seed) : state_(seed) {}
  std::size_t below(std::size_t n) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::size_t>(state_ >> 33) % n;
  }

 private:
  std::uint64_t state_;
};

std::vector<std::u32string> strings(const char* key) {
  std::vector<std::u32string> all;
  for (const auto& text : fixture()[key]) all.push_back(from_utf8(text.get<std::string>()));
  return all;
}

std::u32string alphabet() { return from_utf8(fixture()["alphabet"].get<std::string>()); }

// Its UTF-8 read as windows-1252 (page 0) and so on; Latin-1 comes last.
std::u32string misread(const std::u32string& text, std::size_t page) {
  std::u32string out;
  for (const char c : to_utf8(text)) {
    const auto byte = static_cast<std::uint8_t>(c);
    const bool lost = byte == 0x1a && page < kWindowsPages;
    out.push_back(lost ? U'\ufffd' : byte < 0x80 || page == std::size(kPages) ? char32_t{byte} : kPages[page][byte - 0x80u]);
  }
  return out;
}

// A prompt with one to four damages.
std::u32string generate(std::size_t number) {
  static const std::vector<std::u32string> phrases = strings("phrases"), separators = strings("separators");
  static const std::u32string letters = alphabet();
  Numbers numbers(number);
  const auto phrase = [&] { return phrases[numbers.below(phrases.size())]; };
  std::u32string text = phrase();
  for (std::size_t left = 1 + numbers.below(4); left > 0; --left) {
    const std::size_t kind = numbers.below(16);
    std::u32string made;
    if (kind < 5) {
      text = misread(text, numbers.below(std::size(kPages) + 1));
    } else if (kind == 5) {
      text.erase(numbers.below(text.size() + 1), 1);
    } else if (kind == 6) {
      const std::size_t at = numbers.below(text.size() + 1);
      text.insert(at, 1, letters[numbers.below(letters.size())]);
    } else if (kind == 7) {
      text += separators[numbers.below(separators.size())];
      text += phrase();
    } else if (kind == 8) {
      for (char32_t& c : text) c = c == 0xa0 ? U' ' : c;
    } else if (kind == 9) {
      const std::size_t at = numbers.below(text.size() + 1);
      text.replace(at, 1, 1, std::u32string_view(U"?\ufffd\x1a")[numbers.below(3)]);
    } else if (kind == 10) {
      text = U'\u201c' + text + U'\u201d';
    } else if (kind == 11) {
      for (const char32_t c : text) {
        if (c < 0x10000) made.push_back(c);
        else made += {0xd800 + ((c - 0x10000) >> 10), 0xdc00 + (c & 0x3ff)};
      }
      text = made;
    } else if (kind == 12) {
      for (const char32_t c : text) {
        if (c < 0x80) made.push_back(c);
        else made += from_utf8("&#" + std::to_string(static_cast<std::uint32_t>(c)) + ";");
      }
      text = made;
    } else if (kind == 13) {
      for (char32_t& c : text) c += c >= 0x21 && c < 0x7f ? 0xfee0 : 0;
    } else if (kind == 14) {
      text = misread(text, 0);
      for (char32_t& c : text) c = c >= 0x80 && c < 0xa0 ? U'\ufffd' : c;
    } else {
      const std::size_t at = numbers.below(text.size() + 1);
      text.insert(at, phrase().substr(0, 3));
    }
    text = text.substr(0, 160);
  }
  return text;
}

TEST(Repair, Examples) {
  ASSERT_EQ(fixture()["examples"].size(), 200u);
  for (const auto& pair : fixture()["examples"])
    EXPECT_EQ(repair_text(pair[0].get<std::string>()), pair[1].get<std::string>()) << pair[0];
}

TEST(Repair, PromptsOfManyLanguagesAndDamages) {
  const Tokenizer tokenizer(ZOE_MODELS "/toy-wan/tokenizer");
  const std::string expected = fixture()["cleaned"].get<std::string>(), expected_ids = fixture()["ids"].get<std::string>();
  constexpr std::size_t kGroup = 4;  // prompts whose checksums have one together
  const std::size_t groups = expected.size() / 8;
  ASSERT_EQ(groups * kGroup, 9000u);
  ASSERT_EQ(expected_ids.size(), expected.size());
  ASSERT_GT(fixture()["changed"].get<std::size_t>(), groups * kGroup * 3 / 4);
  for (std::size_t group = 0; group < groups; ++group) {
    Crc32 crc, crc_of_ids;
    std::string all;
    for (std::size_t i = group * kGroup; i < (group + 1) * kGroup; ++i) {
      const std::string cleaned = prompt_clean(to_utf8(generate(i)));
      const std::vector<std::int32_t> ids = tokenizer.encode(cleaned, 512);
      crc.add(fmt::format("{:08x}", crc_of(cleaned)));
      crc_of_ids.add(fmt::format("{:08x}", crc_of(fmt::format("{}", fmt::join(ids, " ")))));
      all += fmt::format("\n{}: {} -> {}", i, json(cleaned).dump(), fmt::join(ids, ", "));
    }
    ASSERT_EQ(crc.value(), std::stoul(expected.substr(8 * group, 8), nullptr, 16))
        << "record_prompts.py NUMBER prints what should become of one; here:" << all;
    ASSERT_EQ(crc_of_ids.value(), std::stoul(expected_ids.substr(8 * group, 8), nullptr, 16))
        << "record_prompts.py NUMBER prints what should become of one; here:" << all;
  }
}

TEST(Repair, NeighboursThatTellOfMojibake) {
  const std::u32string letters = alphabet();
  ASSERT_GT(letters.size(), 450u);
  ASSERT_EQ(fixture()["pairs"].size(), letters.size());
  for (std::size_t i = 0; i < letters.size(); ++i) {
    Crc32 crc;
    for (std::size_t k = 0; k < 100; ++k)
      crc.add(repair_text(to_utf8(std::u32string{U'a', letters[i], letters[(i * 7 + k * 11) % letters.size()], U'z'})));
    EXPECT_EQ(crc.value(), fixture()["pairs"][i].get<std::uint32_t>()) << json(to_utf8({&letters[i], 1}));
  }
}

TEST(Repair, RandomSequences) {
  const std::u32string letters = alphabet();
  Numbers numbers(1);
  ASSERT_EQ(fixture()["random"].size(), 100u);
  for (const auto& expected : fixture()["random"]) {
    Crc32 crc;
    for (int i = 0; i < 400; ++i) {
      std::u32string text(1 + numbers.below(12), U' ');
      for (char32_t& c : text) c = letters[numbers.below(letters.size())];
      crc.add(repair_text(to_utf8(text)));
    }
    EXPECT_EQ(crc.value(), expected.get<std::uint32_t>());
  }
}

TEST(Repair, EveryCharacterAlone) {
  ASSERT_EQ(fixture()["characters"].size(), 0x110u);
  for (char32_t block = 0; block < 0x110; ++block) {
    Crc32 crc;
    for (char32_t c = block << 12; c < (block + 1) << 12; ++c)
      if (c < 0xd800 || c >= 0xe000) crc.add(repair_text(to_utf8({&c, 1})));
    EXPECT_EQ(crc.value(), fixture()["characters"][block].get<std::uint32_t>()) << "block " << static_cast<std::uint32_t>(block);
  }
}

TEST(Repair, HtmlReferences) {
  Crc32 names, capitals, numbers;
  for (const auto& [name, value] : kEntities) {
    std::string upper(name);
    for (char& c : upper) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    names.add(repair_text("&" + std::string(name)));
    capitals.add(repair_text("&" + upper));
  }
  for (int n = 0; n < 0x400; ++n) numbers.add(repair_text(fmt::format("&#{};&#x{:X};&#{}&#{}z;", n, n, n, n)));
  EXPECT_EQ(names.value(), fixture()["names"].get<std::uint32_t>());
  EXPECT_EQ(capitals.value(), fixture()["capitals"].get<std::uint32_t>());
  EXPECT_EQ(numbers.value(), fixture()["numbers"].get<std::uint32_t>());
}

TEST(Repair, WhatDoesNotEndIsRefused) {
  // Each pass takes one "amp;" away.
  std::string nested = "&";
  while (nested.size() < kMaxPromptBytes - 4) nested += "amp;";
  const auto start = std::chrono::steady_clock::now();
  try {
    prompt_clean(nested);
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::invalid_argument);
    EXPECT_NE(std::string(e.what()).find("[prompt] cannot be repaired"), std::string::npos) << e.what();
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));  // a second, without sanitizers
}

}  // namespace
}  // namespace zoe
