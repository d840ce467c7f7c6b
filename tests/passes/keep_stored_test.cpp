#include "compiler/passes/keep_stored.h"

#include <optional>

#include "base/encoding.h"
#include "base/error.h"
#include "compiler/passes/merge_products.h"
#include "passes/passes.h"

namespace zoe {
namespace {

// Tensors are stored as their names say: "a.Q4_K", "b.F8_E4M3*scale".
Storage storage_of(const std::string& name) {
  const std::size_t at = name.find('.'), star = name.find('*');
  return {find_encoding(name.substr(at + 1, star == std::string::npos ? star : star - at - 1)), star != std::string::npos};
}

Graph keep_all(const Graph& graph) {
  return keep_stored(graph, storage_of, [](const Encoding&) { return Support::yes(); });
}

TEST(KeepStored, MatricesOfLinearsStayAsTheyAreStored) {
  testing::expect_pass(keep_all, R"(graph g
%0 = input : bf16[3,256]
%1 = parameter block=2 : bf16[32,256]  # a.Q4_K
%2 = linear %0 %1 : bf16[3,32]
%3 = parameter stored=32,8,2,2 : bf16[32,32]  # b.F8_E5M2
%4 = linear %2 %3 : bf16[3,32]
%5 = parameter : bf16[8,32]  # c.F8_E4M3*scale
%6 = linear %4 %5 : bf16[3,8]
return %6
)",
                       R"(graph g
%0 = input : bf16[3,256]
%1 = parameter kept=Q4_K block=2 : bf16[32,256]  # a.Q4_K
%2 = linear %0 %1 : bf16[3,32]
%3 = parameter stored=32,8,2,2 kept=F8_E5M2 : bf16[32,32]  # b.F8_E5M2
%4 = linear %2 %3 : bf16[3,32]
%5 = parameter kept=F8_E4M3*scale : bf16[8,32]  # c.F8_E4M3*scale
%6 = linear %4 %5 : bf16[3,8]
return %6
)");
}

// What is no narrower than bf16, what something else reads as well, rows that end inside a block, biases, and scales of other rows
// than the product's.
TEST(KeepStored, AllOthersAreWidenedAsTheyAreLoaded) {
  const std::string text = R"(graph g
%0 = input : f32[3,128]
%1 = parameter : f32[64,128]  # a.F16
%2 = parameter : f32[64]  # b.Q8_0
%3 = linear %0 %1 %2 +bias : f32[3,64]
%4 = parameter : f32[64,64]  # c.Q8_0
%5 = linear %3 %4 : f32[3,64]
%6 = exp %4 : f32[64,64]
%7 = parameter : f32[64,128]  # d.Q6_K
%8 = linear %0 %7 : f32[3,64]
%9 = parameter : f32[64,64]  # e.F64
%10 = linear %8 %9 : f32[3,64]
%11 = parameter stored=4,16,64 : f32[64,64]  # f.F8_E4M3*scale
%12 = linear %10 %11 : f32[3,64]
return %5 %6 %12
)";
  testing::expect_pass(keep_all, text, text);
}

TEST(KeepStored, WhatBecomesCodesIsRead) {
  const std::string text = R"(graph g
%0 = input : bf16[3,256]
%1 = parameter : bf16[32,256]  # a.Q4_K
%2 = linear %0 %1 codes=i8 : bf16[3,32]
return %2
)";
  testing::expect_pass(keep_all, text, text);
}

TEST(KeepStored, WhatAPlatformDoesNotTakeIsWidened) {
  const std::string text = R"(graph g
%0 = input : bf16[3,256]
%1 = parameter : bf16[32,256]  # a.Q4_K
%2 = linear %0 %1 : bf16[3,32]
return %2
)";
  testing::expect_pass(
      [](const Graph& graph) {
        return keep_stored(graph, storage_of, [](const Encoding& encoding) {
          return encoding.name == "Q8_0" ? Support::yes() : Support::no("only Q8_0");
        });
      },
      text, text);
}

// Products that become one keep each part as it is; a part that is not kept is dense among the others.
TEST(KeepStored, PartsOfOneProductMayBeStoredInDifferentWays) {
  testing::expect_pass(
      [](const Graph& graph) {
        std::vector<std::string> notes;
        return merge_products(
            keep_all(graph), [](const Node&) { return Support::yes(); }, notes);
      },
      R"(graph g
%0 = input : bf16[3,256]
%1 = parameter : bf16[32,256]  # a.Q4_K
%2 = linear %0 %1 : bf16[3,32]
%3 = parameter : bf16[32,256]  # b.BF16
%4 = linear %0 %3 : bf16[3,32]
%5 = parameter : bf16[32,256]  # c.F8_E5M2*scale
%6 = linear %0 %5 : bf16[3,32]
%7 = add %2 %4 : bf16[3,32]
%8 = add %7 %6 : bf16[3,32]
return %8
)",
      R"(graph g
%0 = input : bf16[3,256]
%1 = parameter parts=32,32,32 kept=Q4_K,BF16,F8_E5M2*scale : bf16[96,256]  # a.Q4_K + b.BF16 + c.F8_E5M2*scale
%2 = linear %0 %1 : bf16[3,96]
%3 = slice %2 axis=1 [0,32) : bf16[3,32]
%4 = slice %2 axis=1 [32,64) : bf16[3,32]
%5 = slice %2 axis=1 [64,96) : bf16[3,32]
%6 = add %3 %4 : bf16[3,32]
%7 = add %6 %5 : bf16[3,32]
return %7
)");
}

// What is beside a matrix is added where it is used: also of one that is dense, and zeros for a product of the same operand, so
// that products which become one without it do so with it.
TEST(KeepStored, ChangesBesideAreAddedWhereMatricesAreUsed) {
  const auto pass = [](const Graph& graph) {
    const auto rank_of = [](const std::string& name) { return name == "a.Q4_K" ? 32 : name == "d.BF16" ? 16 : 0; };
    return keep_stored(
        graph, [](const std::string& name) { return name == "d.BF16" ? Storage{} : storage_of(name); },
        [](const Encoding&) { return Support::yes(); }, rank_of);
  };
  const std::string text = R"(graph g
%0 = input : bf16[3,256]
%1 = parameter block=2 : bf16[32,256]  # a.Q4_K
%2 = linear %0 %1 : bf16[3,32]
%3 = parameter block=2 : bf16[32,256]  # b.Q8_0
%4 = linear %0 %3 : bf16[3,32]
%5 = parameter block=2 : bf16[16,256]  # c.Q8_0
%6 = linear %0 %5 : bf16[3,16]
%7 = parameter block=2 : bf16[8,32]  # d.BF16
%8 = linear %2 %7 : bf16[3,8]
%9 = exp %4 : bf16[3,32]
return %6 %8 %9
)";
  testing::expect_pass(pass, text, R"(graph g
%0 = input : bf16[3,256]
%1 = parameter kept=Q4_K block=2 : bf16[32,256]  # a.Q4_K
%2 = parameter block=2 : bf16[32,32]  # a.Q4_K, up of rank 32
%3 = parameter block=2 : bf16[256,32]  # a.Q4_K, down of rank 32
%4 = linear %2 %3 : bf16[32,256]  # lora
%5 = linear %0 %1 %4 +change : bf16[3,32]
%6 = parameter kept=Q8_0 block=2 : bf16[32,256]  # b.Q8_0
%7 = parameter block=2 : bf16[32,16]  # b.Q8_0, up of rank 16
%8 = parameter block=2 : bf16[256,16]  # b.Q8_0, down of rank 16
%9 = linear %7 %8 : bf16[32,256]  # lora
%10 = linear %0 %6 %9 +change : bf16[3,32]
%11 = parameter kept=Q8_0 block=2 : bf16[16,256]  # c.Q8_0
%12 = linear %0 %11 : bf16[3,16]
%13 = parameter kept=BF16 block=2 : bf16[8,32]  # d.BF16
%14 = parameter block=2 : bf16[8,16]  # d.BF16, up of rank 16
%15 = parameter block=2 : bf16[32,16]  # d.BF16, down of rank 16
%16 = linear %14 %15 : bf16[8,32]  # lora
%17 = linear %5 %13 %16 +change : bf16[3,8]
%18 = exp %10 : bf16[3,32]
return %12 %17 %18
)");
  const std::optional<ChangeFactor> up = parse_factor_name("a.Q4_K, up of rank 32"), none = parse_factor_name("a.Q4_K");
  ASSERT_TRUE(up);
  EXPECT_TRUE(up->is_up && up->rank == 32 && up->tensor == "a.Q4_K");
  EXPECT_FALSE(none);
  EXPECT_EQ(factor_name({"a", false, 16}), "a, down of rank 16");
}

TEST(KeepStored, ProductsWithChangesBecomeOne) {
  const auto pass = [](const Graph& graph) {
    std::vector<std::string> notes;
    return merge_products(
        keep_stored(
            graph, storage_of, [](const Encoding&) { return Support::yes(); },
            [](const std::string& name) { return name == "b.Q8_0" ? 48 : 0; }),
        [](const Node&) { return Support::yes(); }, notes);
  };
  testing::expect_pass(pass, R"(graph g
%0 = input : bf16[3,256]
%1 = parameter : bf16[32,256]  # a.Q4_K
%2 = linear %0 %1 : bf16[3,32]
%3 = parameter : bf16[32,256]  # b.Q8_0
%4 = linear %0 %3 : bf16[3,32]
%5 = add %2 %4 : bf16[3,32]
return %5
)",
                       R"(graph g
%0 = input : bf16[3,256]
%1 = parameter : bf16[32,16]  # a.Q4_K, up of rank 16
%2 = parameter : bf16[256,16]  # a.Q4_K, down of rank 16
%3 = parameter : bf16[32,48]  # b.Q8_0, up of rank 48
%4 = parameter : bf16[256,48]  # b.Q8_0, down of rank 48
%5 = linear %1 %2 : bf16[32,256]  # lora
%6 = linear %3 %4 : bf16[32,256]  # lora
%7 = parameter parts=32,32 kept=Q4_K,Q8_0 : bf16[64,256]  # a.Q4_K + b.Q8_0
%8 = concat %5 %6 axis=0 : bf16[64,256]
%9 = linear %0 %7 %8 +change : bf16[3,64]
%10 = slice %9 axis=1 [0,32) : bf16[3,32]
%11 = slice %9 axis=1 [32,64) : bf16[3,32]
%12 = add %10 %11 : bf16[3,32]
return %12
)");
}

TEST(KeepStored, TextsThatAreNoneAreRefused) {
  const auto message_of = [](const std::string& kept) -> std::string {
    try {
      parse("graph g\n%0 = input : f32[3,256]\n%1 = parameter " + kept +
            " : f32[4,256]  # w\n%2 = linear %0 %1 : f32[3,4]\nreturn %2\n");
    } catch (const Error& error) {
      return error.what();
    }
    return "was accepted";
  };
  EXPECT_EQ(message_of("kept=Q4_K"), "was accepted");
  EXPECT_NE(message_of("kept=Q4_Z").find("expected an encoding of weights"), std::string::npos) << message_of("kept=Q4_Z");
  EXPECT_NE(message_of("kept=I16").find("expected an encoding of weights"), std::string::npos) << message_of("kept=I16");
  EXPECT_NE(message_of("parts=2,2 kept=Q4_K").find("expected"), std::string::npos);
}

}  // namespace
}  // namespace zoe
