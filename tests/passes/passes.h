// What the tests of passes share.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "ir/parse.h"

namespace zoe::testing {

// Text in, text out; the verifier looks at what goes in and what comes out.
template <class Pass>
void expect_pass(Pass&& pass, const std::string& text, const std::string& expected) {
  const Graph before = parse(text);
  verify(before);
  const Graph after = pass(before);
  verify(after);
  EXPECT_EQ(print(after), expected) << "from\n" << text;
  EXPECT_EQ(print(pass(after)), expected) << "applied again";
}

}  // namespace zoe::testing
