#include "compiler/passes/simplify.h"

#include "compiler/passes/inline_calls.h"
#include "ir/trace.h"
#include "ops/mul_add.h"
#include "ops/scale_residual_norm_scale_shift.h"
#include "passes/passes.h"

namespace zoe {
namespace {

struct Case {
  const char *name, *before, *after;
};

// Graphs of one result, without their head.
const Case kCases[] = {
    {"UnitGate", R"(
%x = input : f32[2,3]
%one = constant 1 : f32[]
%a = mul %x %one : f32[2,3]
%b = mul %one %a : f32[2,3]
%c = div %b %one : f32[2,3]
%y = exp %c : f32[2,3]
return %y
)",
     R"(
%0 = input : f32[2,3]
%1 = exp %0 : f32[2,3]
return %1
)"},
    {"ZeroModulation", R"(
%x = input : f32[2,3]
%k = constant 1 : f32[]
%scale = constant 0 : f32[]
%shift = constant -0 : f32[]
%factor = add %k %scale : f32[]
%a = mul %x %factor : f32[2,3]
%b = add %a %scale : f32[2,3]
%c = add %shift %b : f32[2,3]
%d = sub %c %scale : f32[2,3]
%y = exp %d : f32[2,3]
return %y
)",
     R"(
%0 = input : f32[2,3]
%1 = exp %0 : f32[2,3]
return %1
)"},
    {"AUnitOnTheLeftOfSubAndDivStays", R"(
%x = input : f32[3]
%zero = constant 0 : f32[]
%one = constant 1 : f32[]
%a = sub %zero %x : f32[3]
%y = div %one %a : f32[3]
return %y
)",
     R"(
%0 = input : f32[3]
%1 = constant 0 : f32[]
%2 = constant 1 : f32[]
%3 = sub %1 %0 : f32[3]
%4 = div %2 %3 : f32[3]
return %4
)"},
    {"ProductsWithZeroStay", R"(
%x = input : f32[3]
%zero = constant 0 : f32[]
%y = mul %x %zero : f32[3]
return %y
)",
     R"(
%0 = input : f32[3]
%1 = constant 0 : f32[]
%2 = mul %0 %1 : f32[3]
return %2
)"},
    {"NumbersRoundToTheirDtype", R"(
%x = input : bf16[2]
%third = constant 0.3333333333333333 : f32[]
%tenth = constant 0.1 : f32[]
%sum = add %third %tenth : f32[]
%narrow = cast %sum : bf16[]
%square = square %narrow : bf16[]
%y = mul %x %square : bf16[2]
return %y
)",  // f32(1/3) + f32(0.1) = 0.43333334; bf16: 0.43359375; squared 0.18800354, bf16: 0.1884765625
     R"(
%0 = input : bf16[2]
%1 = constant 0.1884765625 : bf16[]
%2 = mul %0 %1 : bf16[2]
return %2
)"},
    {"EveryFoldedOpcode", R"(
%x = input : f32[2]
%three = constant 3 : f32[]
%four = constant 4 : f32[]
%neg = neg %three : f32[]
%sqrt = sqrt %four : f32[]
%rsqrt = rsqrt %four : f32[]
%max = max %neg %sqrt : f32[]
%min = min %max %rsqrt : f32[]
%sub = sub %three %min : f32[]
%mul = mul %sub %four : f32[]
%div = div %mul %three : f32[]
%y = mul %x %div : f32[2]
return %y
)",  // max(-3, 2) = 2, min(2, 0.5) = 0.5, 3 - 0.5 = 2.5, 10, 10/3 in f32
     R"(
%0 = input : f32[2]
%1 = constant 3.3333332538604736 : f32[]
%2 = mul %0 %1 : f32[2]
return %2
)"},
    {"WhatPlatformsSpellThemselvesAndNoNumberStay", R"(
%x = input : f32[2]
%a = constant 0.5 : f32[]
%zero = constant 0 : f32[]
%tanh = tanh %a : f32[]
%nan = div %zero %zero : f32[]
%b = mul %x %tanh : f32[2]
%y = mul %b %nan : f32[2]
return %y
)",
     R"(
%0 = input : f32[2]
%1 = constant 0.5 : f32[]
%2 = constant 0 : f32[]
%3 = tanh %1 : f32[]
%4 = div %2 %2 : f32[]
%5 = mul %0 %3 : f32[2]
%6 = mul %5 %4 : f32[2]
return %6
)"},
    {"ANumberWithARankGivesTheResultItsShape", R"(
%x = input : f32[3]
%y = input : f32[2,3]
%one = constant 1 : f32[]
%ranked = reshape %one : f32[1,1]
%two = add %ranked %ranked : f32[1,1]
%a = mul %x %ranked : f32[1,3]
%b = max %y %two : f32[2,3]
%c = add %a %b : f32[2,3]
return %c
)",
     R"(
%0 = input : f32[3]
%1 = input : f32[2,3]
%2 = constant 2 : f32[]
%3 = reshape %0 : f32[1,3]
%4 = max %1 %2 : f32[2,3]
%5 = add %3 %4 : f32[2,3]
return %5
)"},
    {"WideningAndNarrowingBack", R"(
%x = input : bf16[4]
%wide = cast %x : f32[4]
%back = cast %wide : bf16[4]
%y = exp %back : bf16[4]
return %y
)",
     R"(
%0 = input : bf16[4]
%1 = exp %0 : bf16[4]
return %1
)"},
    {"BytesThereAndBack", R"(
%x = input : f32[4]
%narrow = cast %x : u8[4]
%wide = cast %narrow : f32[4]
%again = cast %wide : u8[4]
%n = constant 300 : f32[]
%m = cast %n : u8[]
%l = cast %m : f32[]
%back = cast %again : f32[4]
%y = mul %l %back : f32[4]
return %y
)",
     R"(
%0 = input : f32[4]
%1 = cast %0 : u8[4]
%2 = constant 300 : f32[]
%3 = cast %2 : u8[]
%4 = cast %3 : f32[]
%5 = cast %1 : f32[4]
%6 = mul %4 %5 : f32[4]
return %6
)"},
    {"NarrowingRounds", R"(
%x = input : f32[4]
%narrow = cast %x : bf16[4]
%wide = cast %narrow : f32[4]
%y = exp %wide : f32[4]
return %y
)",
     R"(
%0 = input : f32[4]
%1 = cast %0 : bf16[4]
%2 = cast %1 : f32[4]
%3 = exp %2 : f32[4]
return %3
)"},
    {"TwiceIsNothing", R"(
%x = input : f32[2,4]
%a = neg %x : f32[2,4]
%b = neg %a : f32[2,4]
%c = swap_pairs %b : f32[2,4]
%d = swap_pairs %c : f32[2,4]
%e = flip %d axis=1 : f32[2,4]
%f = flip %e axis=1 : f32[2,4]
%y = exp %f : f32[2,4]
return %y
)",
     R"(
%0 = input : f32[2,4]
%1 = exp %0 : f32[2,4]
return %1
)"},
    {"FlipsOfTwoAxesStayOfOneElementGo", R"(
%x = input : f32[2,1,4]
%a = flip %x axis=0 : f32[2,1,4]
%b = flip %a axis=1 : f32[2,1,4]
%c = flip %b axis=2 : f32[2,1,4]
return %c
)",
     R"(
%0 = input : f32[2,1,4]
%1 = flip %0 axis=0 : f32[2,1,4]
%2 = flip %1 axis=2 : f32[2,1,4]
return %2
)"},
    {"Reshapes", R"(
%x = input : f32[2,6]
%a = reshape %x : f32[12]
%b = reshape %a : f32[3,4]
%c = exp %b : f32[3,4]
%d = reshape %c : f32[12]
%e = reshape %d : f32[3,4]
%y = exp %e : f32[3,4]
return %y
)",
     R"(
%0 = input : f32[2,6]
%1 = reshape %0 : f32[3,4]
%2 = exp %1 : f32[3,4]
%3 = exp %2 : f32[3,4]
return %3
)"},
    {"Permutes", R"(
%x = input : f32[2,3,4]
%a = permute %x axes=1,2,0 : f32[3,4,2]
%b = permute %a axes=0,2,1 : f32[3,2,4]
%y = exp %b : f32[3,2,4]
return %y
)",
     R"(
%0 = input : f32[2,3,4]
%1 = permute %0 axes=1,0,2 : f32[3,2,4]
%2 = exp %1 : f32[3,2,4]
return %2
)"},
    {"PermutesThatUndoEachOther", R"(
%x = input : f32[2,3,4]
%a = permute %x axes=1,2,0 : f32[3,4,2]
%b = permute %a axes=2,0,1 : f32[2,3,4]
%y = exp %b : f32[2,3,4]
return %y
)",
     R"(
%0 = input : f32[2,3,4]
%1 = exp %0 : f32[2,3,4]
return %1
)"},
    {"APermuteOfNarrowAxesIsAReshape", R"(
%x = input : f32[1,3,4]
%a = permute %x axes=1,0,2 : f32[3,1,4]
%y = exp %a : f32[3,1,4]
return %y
)",
     R"(
%0 = input : f32[1,3,4]
%1 = reshape %0 : f32[3,1,4]
%2 = exp %1 : f32[3,1,4]
return %2
)"},
    {"Slices", R"(
%x = input : f32[8,6]
%a = slice %x axis=0 [2,8) : f32[6,6]
%b = slice %a axis=0 [1,3) : f32[2,6]
%c = slice %b axis=1 [0,6) : f32[2,6]
%d = slice %c axis=1 [1,2) : f32[2,1]
return %d
)",
     R"(
%0 = input : f32[8,6]
%1 = slice %0 axis=0 [3,5) : f32[2,6]
%2 = slice %1 axis=1 [1,2) : f32[2,1]
return %2
)"},
    {"SlicesOfAConcat", R"(
%x = input : f32[2,4]
%y = input : f32[3,4]
%joined = concat %x %y axis=0 : f32[5,4]
%first = slice %joined axis=0 [0,2) : f32[2,4]
%inside = slice %joined axis=0 [3,5) : f32[2,4]
%across = slice %joined axis=0 [1,3) : f32[2,4]
%other = slice %joined axis=1 [0,1) : f32[5,1]
%a = add %first %inside : f32[2,4]
%b = add %a %across : f32[2,4]
return %b %other
)",
     R"(
%0 = input : f32[2,4]
%1 = input : f32[3,4]
%2 = concat %0 %1 axis=0 : f32[5,4]
%3 = slice %1 axis=0 [1,3) : f32[2,4]
%4 = slice %2 axis=0 [1,3) : f32[2,4]
%5 = slice %2 axis=1 [0,1) : f32[5,1]
%6 = add %0 %3 : f32[2,4]
%7 = add %6 %4 : f32[2,4]
return %7 %5
)"},
    {"SumOverOneElement", R"(
%x = input : f32[3,1]
%a = sum %x : f32[3,1]
%y = exp %a : f32[3,1]
return %y
)",
     R"(
%0 = input : f32[3,1]
%1 = exp %0 : f32[3,1]
return %1
)"},
    {"ConcatOfNeighbours", R"(
%x = input : f32[6,2]
%y = input : f32[1,2]
%a = slice %x axis=0 [0,2) : f32[2,2]
%b = slice %x axis=0 [2,3) : f32[1,2]
%c = slice %x axis=0 [4,5) : f32[1,2]
%joined = concat %y %a %b %c axis=0 : f32[5,2]
return %joined
)",
     R"(
%0 = input : f32[6,2]
%1 = input : f32[1,2]
%2 = slice %0 axis=0 [4,5) : f32[1,2]
%3 = slice %0 axis=0 [0,3) : f32[3,2]
%4 = concat %1 %3 %2 axis=0 : f32[5,2]
return %4
)"},
    {"ConcatOfAllPartsIsTheWhole", R"(
%x = input : f32[6,2]
%a = slice %x axis=0 [0,2) : f32[2,2]
%b = slice %x axis=0 [2,6) : f32[4,2]
%joined = concat %a %b axis=0 : f32[6,2]
%y = exp %joined : f32[6,2]
return %y
)",
     R"(
%0 = input : f32[6,2]
%1 = exp %0 : f32[6,2]
return %1
)"},
    {"ConcatOfSlicesInAnotherOrderStays", R"(
%x = input : f32[6,2]
%a = slice %x axis=0 [0,3) : f32[3,2]
%b = slice %x axis=0 [3,6) : f32[3,2]
%joined = concat %b %a axis=0 : f32[6,2]
return %joined
)",
     R"(
%0 = input : f32[6,2]
%1 = slice %0 axis=0 [0,3) : f32[3,2]
%2 = slice %0 axis=0 [3,6) : f32[3,2]
%3 = concat %2 %1 axis=0 : f32[6,2]
return %3
)"},
    {"RulesMeet", R"(
%x = input : bf16[2,4]
%wide = cast %x : f32[2,4]
%one = constant 1 : f32[]
%a = mul %wide %one : f32[2,4]
%b = reshape %a : f32[8]
%c = reshape %b : f32[2,4]
%narrow = cast %c : bf16[2,4]
%y = exp %narrow : bf16[2,4]
return %y
)",
     R"(
%0 = input : bf16[2,4]
%1 = exp %0 : bf16[2,4]
return %1
)"},
    // Results are steps of their own.
    {"AResultThatWouldBeAnArgumentIsACopy", R"(
%x = input : f32[2]
%one = constant 1 : f32[]
%y = mul %x %one : f32[2]
return %y
)",
     R"(
%0 = input : f32[2]
%1 = reshape %0 : f32[2]
return %1
)"},
    {"AResultThatWouldBeANumberIsACopy", R"(
%one = constant 1 : f32[]
%y = add %one %one : f32[]
return %y
)",
     R"(
%0 = constant 2 : f32[]
%1 = reshape %0 : f32[]
return %1
)"},
    {"AResultTakesTheLastStepOfWhatItComesTo", R"(
%x = input : f32[2]
%one = constant 1 : f32[]
%a = exp %x : f32[2]
%y = mul %a %one : f32[2]
return %y
)",
     R"(
%0 = input : f32[2]
%1 = exp %0 : f32[2]
return %1
)"},
    {"AResultIsWrittenNoEarlierThanItWas", R"(
%state = input : f32[2,4]
%x = input : f32[2,4]
%new = exp %x : f32[2,4]
%joined = concat %state %new axis=0 : f32[4,4]
%y = exp %joined : f32[4,4]
%next = slice %joined axis=0 [2,4) : f32[2,4]
return %y %next
)",
     R"(
%0 = input : f32[2,4]
%1 = input : f32[2,4]
%2 = exp %1 : f32[2,4]
%3 = concat %0 %2 axis=0 : f32[4,4]
%4 = exp %3 : f32[4,4]
%5 = reshape %2 : f32[2,4]
return %4 %5
)"},
    {"TwoResultsThatAreOneValue", R"(
%x = input : f32[2]
%one = constant 1 : f32[]
%a = exp %x : f32[2]
%b = mul %a %one : f32[2]
%c = div %a %one : f32[2]
return %b %c %a
)",
     R"(
%0 = input : f32[2]
%1 = exp %0 : f32[2]
%2 = reshape %1 : f32[2]
%3 = reshape %1 : f32[2]
return %2 %3 %1
)"},
    {"BlocksAndOpsStay", R"(
%x = input : f32[2,4]
%w = parameter block=2 : f32[4,4]  # blocks.1.weight
%a = linear %x %w : f32[2,4]
%b = permute %x axes=1,0 block=2 : f32[4,2]  # turn
%c = permute %b axes=0,1 : f32[4,2]  # turn
%d = reshape %c : f32[2,4]  # turn
%y = add %a %d : f32[2,4]
return %y
)",
     R"(
%0 = input : f32[2,4]
%1 = parameter block=2 : f32[4,4]  # blocks.1.weight
%2 = linear %0 %1 : f32[2,4]
%3 = permute %0 axes=1,0 block=2 : f32[4,2]  # turn
%4 = reshape %3 : f32[2,4]  # turn
%5 = add %2 %4 : f32[2,4]
return %5
)"},
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class SimplifyRule : public ::testing::TestWithParam<Case> {};

TEST_P(SimplifyRule, TextInTextOut) {
  const std::string head = "graph g";
  testing::expect_pass(simplify, head + GetParam().before, head + GetParam().after);
}

INSTANTIATE_TEST_SUITE_P(Simplify, SimplifyRule, ::testing::ValuesIn(kCases),
                         [](const auto& c) { return std::string(c.param.name); });

// Wan's norm behind the self-attention has no modulation, the one behind the cross-attention no gate.
TEST(Simplify, UnitGatesAndZeroModulationAsConstantsAreAsIfAbsent) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Value x = input("x", dtype, {1, 6, 8}), residual = input("residual", dtype, {1, 6, 8});
    const auto graph = [&](const Value& gate, const Value& scale, const Value& shift) {
      const NormedResidual normed = scale_residual_norm_scale_shift(residual, x, gate, scale, shift);
      return simplify(inline_calls(make_graph("g", {x, residual}, {normed.y, normed.residual})));
    };
    const Value one = constant(1), zero = constant(0), narrow_zero = constant(0, DType::bf16);
    EXPECT_EQ(print(graph(one, zero, narrow_zero)), print(graph({}, {}, {})));
    const Value gated = mul_add(x, constant(0, DType::bf16), residual, 1);
    const Graph sum = simplify(inline_calls(make_graph("g", {x, residual}, {gated})));
    EXPECT_EQ(sum.nodes.size(), dtype == DType::f32 ? 3u : 6u) << print(sum);  // the sum, and in bf16 the casts around it
  }
}

}  // namespace
}  // namespace zoe
