#include "base/json.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/nearest.h"
#include "testing/temporary_folder.h"
#include "testing/write_safetensors.h"

namespace zoe {
namespace {

template <class Body>
std::string message_of(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
    return error.what();
  }
  return "no error";
}

std::string parse_error(std::string_view text) {
  return message_of([&] { parse_json_object(text, "c.json"); });
}

TEST(Json, ReadsEveryTypeOfAConfig) {
  const JsonObject config =
      parse_json_object(R"({"layers": 30, "eps": 1e-6, "whole": 2, "bias": true, "name": "wan \u00e9 \ud83c\udfac",
      "patch": [1, 2, 2], "mean": [0.5, -1, 2e3], "down": [false, true], "parts": ["diffusers", null], "none": null,
      "inner": {"deeper": {"x": -7}}, "min": -9223372036854775808, "max": 9223372036854775807})",
                        "c.json");
  EXPECT_EQ(config.integer("layers", 1, 512), 30);
  EXPECT_EQ(config.integer("min", JsonObject::kMin, 0), JsonObject::kMin);
  EXPECT_EQ(config.integer("max", 0, JsonObject::kMax), JsonObject::kMax);
  EXPECT_EQ(config.number("eps", 0, 1), 1e-6);
  EXPECT_EQ(config.number("whole", 0, 2), 2.0);
  EXPECT_TRUE(config.boolean("bias"));
  EXPECT_EQ(config.string("name"), "wan \u00e9 \U0001F3AC");
  EXPECT_EQ(config.integers("patch", 1, 16, 3, 3), (std::vector<std::int64_t>{1, 2, 2}));
  EXPECT_EQ(config.numbers("mean", -10, 1e4, 1, 100), (std::vector<double>{0.5, -1, 2000}));
  EXPECT_EQ(config.booleans("down", 0, 4), (std::vector<bool>{false, true}));
  EXPECT_EQ(config.strings("parts", 2, 2), (std::vector<std::string>{"diffusers", ""}));
  EXPECT_EQ(config.object("inner").object("deeper").integer("x", -10, 10), -7);
  EXPECT_EQ(config.keys().size(), 13u);
  EXPECT_EQ(config.keys().front(), "bias");
}

TEST(Json, FallsBackOnlyForWhatIsAbsentOrNull) {
  const JsonObject config = parse_json_object(R"({"none": null, "text": "x", "zero": 0})", "c.json");
  EXPECT_FALSE(config.has("none"));
  EXPECT_TRUE(config.is_null("none"));
  EXPECT_FALSE(config.has("absent"));
  EXPECT_FALSE(config.is_null("absent"));
  EXPECT_TRUE(config.has("zero"));
  EXPECT_EQ(config.integer("absent", 1, 9, 5), 5);
  EXPECT_EQ(config.integer("none", 1, 9, 5), 5);
  EXPECT_EQ(config.number("absent", 0, 1, 0.5), 0.5);
  EXPECT_EQ(config.boolean("none", false), false);
  EXPECT_EQ(config.string("absent", "y"), "y");
  EXPECT_EQ(config.choice("none", {"a", "b"}, "a"), "a");
  EXPECT_EQ(message_of([&] { config.integer("text", 1, 9, 5); }),
            "[c.json] bad text: got the string \"x\", expected an integer from 1 to 9. Check the file.");
  EXPECT_EQ(message_of([&] { config.integer("zero", 1, 9, 5); }),
            "[c.json] bad zero: got 0, expected an integer from 1 to 9. Check the file.");
}

TEST(Json, WrongValuesAreNamed) {
  const JsonObject config = parse_json_object(
      R"({"n": -1, "f": 30.0, "huge": 18446744073709551616, "u": 18446744073709551615, "s": "abc",
      "a": [1, [2]], "o": {"k": [1, 2.5]}, "b": false})",
      "c.json");
  EXPECT_EQ(message_of([&] { config.integer("n", 1, 512); }),
            "[c.json] bad n: got -1, expected an integer from 1 to 512. Check the file.");
  EXPECT_EQ(message_of([&] { config.integer("f", 1, 512); }),
            "[c.json] bad f: got 30.0, expected an integer from 1 to 512. Check the file.");
  EXPECT_EQ(message_of([&] { config.integer("u", 0, JsonObject::kMax); }),
            "[c.json] bad u: got 18446744073709551615, expected an integer of at least 0. Check the file.");
  EXPECT_EQ(config.number("u", 0, 1e30), 18446744073709551615.0);
  EXPECT_EQ(config.number("huge", 0, 1e30), 18446744073709551616.0);
  EXPECT_EQ(message_of([&] { config.integer("gone", 7, 7); }),
            "[c.json] missing gone: got no such key, expected 7. Check the file.");
  EXPECT_EQ(message_of([&] { config.number("s", 0, 0.5); }),
            "[c.json] bad s: got the string \"abc\", expected a number from 0 to 0.5. Check the file.");
  EXPECT_EQ(message_of([&] { config.number("n", 0, 1); }),
            "[c.json] bad n: got -1, expected a number from 0 to 1. Check the file.");
  EXPECT_EQ(message_of([&] { config.boolean("n"); }), "[c.json] bad n: got -1, expected true or false. Check the file.");
  EXPECT_EQ(message_of([&] { config.string("a"); }), "[c.json] bad a: got an array of 2, expected a string. Check the file.");
  EXPECT_EQ(message_of([&] { config.string("b"); }), "[c.json] bad b: got false, expected a string. Check the file.");
  EXPECT_EQ(message_of([&] {
              config.choice("s", {"x", "y"});
            }),
            "[c.json] bad s: got the string \"abc\", expected \"x\" or \"y\". Check the file.");
  EXPECT_EQ(message_of([&] { config.integers("a", 0, 9, 2, 2); }),
            "[c.json] bad a[1]: got an array of 1, expected an integer from 0 to 9. Check the file.");
  EXPECT_EQ(message_of([&] { config.integers("a", 0, 9, 3, 3); }),
            "[c.json] bad a: got an array of 2, expected an array of 3, each an integer from 0 to 9. Check the file.");
  EXPECT_EQ(message_of([&] { config.object("o").integers("k", 0, 9, 1, 4); }),
            "[c.json] bad o.k[1]: got 2.5, expected an integer from 0 to 9. Check the file.");
  EXPECT_EQ(message_of([&] { config.object("n"); }), "[c.json] bad n: got -1, expected an object. Check the file.");
  EXPECT_EQ(message_of([&] { config.strings("a", 0, 9); }), "[c.json] bad a[0]: got 1, expected a string or null. Check the file.");
}

TEST(Json, BrokenTextIsRefusedWithLineAndColumn) {
  const std::pair<std::string_view, std::string_view> cases[] = {
      {"", "line 1, column 1: got the end of the text, expected more JSON"},
      {"{\n  \"a\": 1,\n  \"b\" 2\n}", "line 3, column 7: got \"  \"b\" 2\""},
      {"{\"a\": 1,}", "line 1, column 9: got \"{\"a\": 1,}\""},
      {"{\"a\": 1} x", "line 1, column 10: got \"{\"a\": 1} x\""},
      {"{\"a\": [1, 2", "got the end of the text"},
      {"{\"a\": \"b", "column 8: got the end of the text"},
      {"{\"a\": 01}", "got \"{\"a\": 01\""},
      {"{\"a\": NaN}", "got \"{\"a\": N\""},
      {"{\"a\": 1e999}", "got \"1e999\", expected a number in the range of a double"},
      {"{\"a\": \"\\ud800\"}", "expected valid JSON"},
      {"{\"a\": \"\xff\"}", "expected valid JSON"},
      {"{\"a\": \"tab\there\"}", "expected valid JSON"},
      {"{\"a\": /* no */ 1}", "expected valid JSON"},
      {"{\"a\": 1,\n \"a\": 2}", "line 2, column 4: got the key \"a\" twice, expected every key once"},
      {std::string_view("{}\0", 3), "line 1, column 3: got a zero byte"},
  };
  for (const auto& [text, piece] : cases) {
    const std::string message = parse_error(text);
    EXPECT_TRUE(message.starts_with("[c.json] broken JSON at line ")) << message;
    EXPECT_NE(message.find(piece), std::string::npos) << message << " lacks " << piece;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
  EXPECT_EQ(parse_error("[1]"), "[c.json] bad JSON: got an array of 1, expected an object. Check the file.");
}

TEST(Json, NestingAndCountAreBounded) {
  const auto nested = [](int depth) {
    return "{\"a\":" + std::string(static_cast<std::size_t>(depth - 1), '[') +
           std::string(static_cast<std::size_t>(depth - 1), ']') + "}";
  };
  EXPECT_EQ(parse_error(nested(64)), "no error");
  EXPECT_NE(parse_error(nested(65)).find("got more than 64 levels of nesting, expected fewer"), std::string::npos);
  EXPECT_NE(parse_error("{\"a\":" + std::string(10'000'000, '[')).find("more than 64 levels"), std::string::npos);
  EXPECT_NE(message_of([] { parse_json_object("{\"a\":[1,2,3]}", "c.json", 4); }).find("got too many values"), std::string::npos);
  EXPECT_EQ(parse_json_object("{\"a\":[1,2,3]}", "c.json", 5).integers("a", 1, 3, 3, 3).size(), 3u);
}

TEST(Json, FilesHaveASizeLimit) {
  const testing::TemporaryFolder folder;
  testing::write_bytes(folder.path() / "c.json", "{\"a\": 1}");
  EXPECT_EQ(read_json_object(folder.path() / "c.json", "c.json").integer("a", 0, 1), 1);
  EXPECT_NE(message_of([&] { read_json_object(folder.path() / "c.json", "c.json", 7); }).find("got 8 bytes, expected at most 7"),
            std::string::npos);
}

TEST(Json, AViewOutlivesTheObjectItCameFrom) {
  const JsonObject inner = parse_json_object(R"({"a": {"b": 3}})", "c.json").object("a");
  EXPECT_EQ(inner.integer("b", 0, 9), 3);
}

TEST(Nearest, FindsTheFirstOfTheClosestNames) {
  const std::vector<std::string> known = {"prompt", "negative-prompt", "height", "width", "weight", "num-frames"};
  EXPECT_EQ(nearest("promt", known), "prompt");
  EXPECT_EQ(nearest("hieght", known), "height");
  EXPECT_EQ(nearest("num_frames", known), "num-frames");
  EXPECT_EQ(nearest("height", known), "height");
  EXPECT_EQ(nearest("eight", known), "height");
  EXPECT_EQ(nearest("xyzzy", known), "");
  EXPECT_EQ(nearest("", known), "");
  EXPECT_EQ(nearest("a", {}), "");
  EXPECT_EQ(nearest(std::string(1000, 'a'), std::vector<std::string>{std::string(1000, 'a')}), "");
}

// The banded distance against the textbook recurrence on all pairs of short words over two letters.
TEST(Nearest, DistanceIsExact) {
  std::vector<std::string> words;
  for (int length = 1; length <= 6; ++length)
    for (int bits = 0; bits < 1 << length; ++bits) {
      std::string word;
      for (int i = 0; i < length; ++i) word += (bits >> i & 1) ? 'b' : 'a';
      words.push_back(word);
    }
  const auto distance = [](const std::string& a, const std::string& b) {
    std::vector<std::vector<std::size_t>> d(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
    for (std::size_t i = 0; i <= a.size(); ++i)
      for (std::size_t j = 0; j <= b.size(); ++j)
        d[i][j] = i == 0 ? j : j == 0 ? i : std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
    return d[a.size()][b.size()];
  };
  for (const std::string& a : words)
    for (const std::string& b : words) {
      const bool is_near = distance(a, b) < (std::max(a.size(), b.size()) + 1) / 2;
      ASSERT_EQ(nearest(a, std::vector<std::string>{b}) == b, is_near) << a << " " << b;
      const std::string other = "aab";
      const std::string found = nearest(a, std::vector<std::string>{other, b});
      if (is_near && distance(a, b) < distance(a, other)) {
        ASSERT_EQ(found, b) << a << " " << b;
      }
    }
}

TEST(Nearest, QuotesAreCutBetweenCharacters) {
  EXPECT_EQ(in_quotes("abc"), "\"abc\"");
  EXPECT_EQ(in_quotes(std::string(200, 'x')), "\"" + std::string(100, 'x') + "...\"");
  EXPECT_EQ(in_quotes(std::string(99, 'x') + "\u00e9" + std::string(50, 'y')), "\"" + std::string(99, 'x') + "...\"");
}

}  // namespace
}  // namespace zoe
