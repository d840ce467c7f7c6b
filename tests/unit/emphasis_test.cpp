// Weights of a prompt's parts.
#include "text/emphasis.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace zoe {
namespace {

using Parts = std::vector<WeightedText>;

Parts parse(std::string_view text) { return parse_emphasis(text, "--prompt"); }

std::string error_of(std::string_view text) {
  try {
    parse(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
    return error.what();
  }
  return "none";
}

// What ComfyUI's token_weights gives.
TEST(Emphasis, PartsAndWeights) {
  EXPECT_EQ(parse("a red circle"), (Parts{{"a red circle", 1}}));
  EXPECT_EQ(parse("a (red:1.3) circle"), (Parts{{"a ", 1}, {"red", 1.3}, {" circle", 1}}));
  EXPECT_EQ(parse("(red)"), (Parts{{"red", 1.1}}));
  EXPECT_EQ(parse("((red))"), (Parts{{"red", 1.1 * 1.1}}));
  EXPECT_EQ(parse("(a (red:0.5) one:1.5)"), (Parts{{"a ", 1.5}, {"red", 0.5}, {" one", 1.5}}));
  EXPECT_EQ(parse("(a (red) one:2)"), (Parts{{"a ", 2}, {"red", 2 * 1.1}, {" one", 2}}));
  EXPECT_EQ(parse("(time: noon)"), (Parts{{"time: noon", 1.1}}));
  EXPECT_EQ(parse("(portrait: Nancy)"), (Parts{{"portrait: Nancy", 1.1}}));
  EXPECT_EQ(parse("(style:infinite space:2)"), (Parts{{"style:infinite space", 2}}));
  EXPECT_EQ(parse("(a: b: 1.2 )"), (Parts{{"a: b", 1.2}}));
  EXPECT_EQ(parse("(red:-1)"), (Parts{{"red", -1}}));
  EXPECT_EQ(parse("(red:0)"), (Parts{{"red", 0}}));
  EXPECT_EQ(parse(R"(a smile \(wide\) (\(red\):2))"), (Parts{{"a smile (wide) ", 1}, {"(red)", 2}}));
  EXPECT_EQ(parse(R"(a \ b)"), (Parts{{R"(a \ b)", 1}}));
  EXPECT_EQ(parse(""), Parts{});
}

TEST(Emphasis, SaysWhatIsWrong) {
  const std::string advice = R"( Write \( and \) for plain parentheses.)";
  EXPECT_EQ(error_of("a (red circle"), "[--prompt] emphasis at byte 3: a parenthesis that is not closed." + advice);
  EXPECT_EQ(error_of("a red) circle"), "[--prompt] emphasis at byte 6: a parenthesis that was not opened." + advice);
  EXPECT_EQ(error_of("a () circle"), "[--prompt] emphasis at byte 3: nothing in the parentheses." + advice);
  EXPECT_EQ(error_of("(:1.2)"), "[--prompt] emphasis at byte 1: nothing in the parentheses." + advice);
  EXPECT_EQ(
      error_of("(red:1.2x)"),
      "[--prompt] emphasis at byte 6: got \"1.2x\" as a weight, expected a number from -10 to 10, as in (word:1.2)." + advice);
  EXPECT_NE(error_of("(red:11)").find("got \"11\" as a weight"), std::string::npos);
  EXPECT_NE(error_of("(red:)").find("got \"\" as a weight"), std::string::npos);
  EXPECT_NE(error_of("((a)").find("byte 1: a parenthesis that is not closed"), std::string::npos);
  EXPECT_NE(error_of(std::string(40, '(') + "a" + std::string(40, ')')).find("more than 32 parentheses"), std::string::npos);
}

}  // namespace
}  // namespace zoe
