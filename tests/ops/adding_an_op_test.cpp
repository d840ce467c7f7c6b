// The worked example of docs/adding-an-op.md: its op runs, and the page shows the code that runs.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <string>

#include "gated_rms.h"
#include "ops/op_case.h"

namespace zoe {
namespace {

using testing::Argument;
using testing::Arguments;
using testing::kEps;
using testing::kTokens;
using testing::kWidth;
using testing::Row;
using testing::row_of;

class AddingAnOp : public testing::OpTest {};
INSTANTIATE_TEST_SUITE_P(Runners, AddingAnOp, ::testing::ValuesIn(testing::op_cases()), testing::op_case_name);

// [the case]
TEST_P(AddingAnOp, GatedRms) {
  for (const Shape& form : testing::modulation_forms()) {
    Arguments arguments;
    const Argument x = arguments.add(p.dtype, kTokens), gate = arguments.add(p.modulation_dtype, form);
    const Argument weight = arguments.add(p.modulation_dtype, {kWidth});
    const Value y = gated_rms(x.value, gate.value, weight.value, kEps);
    formulas.add(arguments, {y}, [=](std::int64_t b, std::int64_t l, const auto&) {
      Row row = testing::formula_of_norm(Norm::rms, row_of(x.tensor, b, l));
      for (std::int64_t c = 0; c < kWidth; ++c) {
        const double g = gate.at(kTokens, b, l, c);
        row[static_cast<std::size_t>(c)] *= weight.at(kTokens, b, l, c) * g / (1 + std::exp(-g));
      }
      return std::vector<Row>{row};
    });
  }
  formulas.check(p.runner);
}
// [the end]

std::string read_source(const std::string& path) {
  std::ifstream file(std::string(ZOE_SOURCE) + "/" + path);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(AddingAnOpPage, ShowsTheCodeThatIsCompiled) {
  const std::string page = read_source("docs/adding-an-op.md");
  for (const char* file : {"examples/adding_an_op/gated_rms.h", "examples/adding_an_op/gated_rms.cpp"})
    EXPECT_NE(page.find("```cpp\n" + read_source(file) + "```\n"), std::string::npos) << "the page shows another " << file;
  const std::string test = read_source("tests/ops/adding_an_op_test.cpp"), begin = "// [the case]\n";
  const std::size_t from = test.find(begin) + begin.size();
  EXPECT_NE(page.find("```cpp\n" + test.substr(from, test.find("// [the end]\n", from) - from) + "```\n"), std::string::npos)
      << "the page shows another test";
}

}  // namespace
}  // namespace zoe
