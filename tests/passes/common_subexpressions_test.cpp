#include "compiler/passes/common_subexpressions.h"

#include "passes/passes.h"

namespace zoe {
namespace {

using testing::expect_pass;

TEST(CommonSubexpressions, EqualNodesOfEqualOperandsAreOne) {
  expect_pass(common_subexpressions, R"(graph g
%x = input : f32[2,3]
%y = input : f32[2,3]
%a = add %x %y : f32[2,3]  # first
%b = add %y %x : f32[2,3]  # second
%c = exp %a : f32[2,3]
%d = exp %b : f32[2,3]
%e = sub %c %d : f32[2,3]
return %e
)",
              R"(graph g
%0 = input : f32[2,3]
%1 = input : f32[2,3]
%2 = add %0 %1 : f32[2,3]  # first
%3 = exp %2 : f32[2,3]
%4 = sub %3 %3 : f32[2,3]
return %4
)");
}

TEST(CommonSubexpressions, OrderAttributesTypesAndInputsMatter) {
  const std::string text = R"(graph g
%0 = input : f32[4,4]  # x
%1 = input : f32[4,4]  # x
%2 = sub %0 %1 : f32[4,4]
%3 = sub %1 %0 : f32[4,4]
%4 = max %0 %1 : f32[4,4]
%5 = max %1 %0 : f32[4,4]
%6 = slice %0 axis=0 [0,2) : f32[2,4]
%7 = slice %0 axis=0 [2,4) : f32[2,4]
%8 = slice %0 axis=1 [0,2) : f32[4,2]
%9 = reshape %0 : f32[2,8]
%10 = reshape %0 : f32[8,2]
%11 = linear %0 %1 : f32[4,4]
%12 = linear %0 %1 +silu : f32[4,4]
%13 = permute %0 axes=1,0 : f32[4,4]
return %2 %3 %4 %5 %6 %7 %8 %9 %10 %11 %12 %13
)";
  expect_pass(common_subexpressions, text, text);
}

TEST(CommonSubexpressions, NumbersByBitsAndDtypeWeightsByNameTypeAndBlock) {
  expect_pass(common_subexpressions, R"(graph g
%x = input : f32[2]
%h = input : bf16[2]
%a = constant 0 : f32[]
%b = constant 0 : f32[]
%c = constant -0 : f32[]
%d = constant 0 : bf16[]
%w = parameter : f32[2]  # w
%v = parameter : f32[2]  # w
%u = parameter block=1 : f32[2]  # w
%t = parameter : f32[2]  # t
%xa = div %x %a : f32[2]
%xb = div %xa %b : f32[2]
%xc = div %xb %c : f32[2]
%hd = div %h %d : bf16[2]
%xw = mul %xc %w : f32[2]
%xv = mul %xw %v : f32[2]
%xt = mul %xv %t : f32[2]
%xu = mul %xt %u : f32[2]
return %xu %hd
)",
              R"(graph g
%0 = input : f32[2]
%1 = input : bf16[2]
%2 = constant 0 : f32[]
%3 = constant -0 : f32[]
%4 = constant 0 : bf16[]
%5 = parameter : f32[2]  # w
%6 = parameter block=1 : f32[2]  # w
%7 = parameter : f32[2]  # t
%8 = div %0 %2 : f32[2]
%9 = div %8 %2 : f32[2]
%10 = div %9 %3 : f32[2]
%11 = div %1 %4 : bf16[2]
%12 = mul %10 %5 : f32[2]
%13 = mul %12 %5 : f32[2]
%14 = mul %13 %7 : f32[2]
%15 = mul %14 %6 : f32[2]
return %15 %11
)");
}

TEST(CommonSubexpressions, WideningCastsStayAndWhatIsMadeOfThemIsOne) {
  expect_pass(common_subexpressions, R"(graph g
%h = input : bf16[2]
%a = cast %h : f32[2]
%b = cast %h : f32[2]
%c = exp %a : f32[2]
%d = exp %b : f32[2]
%e = tanh %b : f32[2]
%f = add %c %d : f32[2]
%g = add %e %f : f32[2]
%i = cast %g : bf16[2]
%j = cast %g : bf16[2]
%k = add %i %j : bf16[2]
return %k
)",
              R"(graph g
%0 = input : bf16[2]
%1 = cast %0 : f32[2]
%2 = cast %0 : f32[2]
%3 = exp %1 : f32[2]
%4 = tanh %2 : f32[2]
%5 = add %3 %3 : f32[2]
%6 = add %4 %5 : f32[2]
%7 = cast %6 : bf16[2]
%8 = add %7 %7 : bf16[2]
return %8
)");
}

TEST(CommonSubexpressions, AValueOfALaterBlockStandsForNoEarlierOne) {
  expect_pass(common_subexpressions, R"(graph g
%x = input : f32[2]
%late = exp %x block=2 : f32[2]
%early = exp %x block=1 : f32[2]
%again = exp %x block=2 : f32[2]
%a = neg %early : f32[2]
%b = add %late %again : f32[2]
%c = add %a %b : f32[2]
return %c
)",
              R"(graph g
%0 = input : f32[2]
%1 = exp %0 block=2 : f32[2]
%2 = exp %0 block=1 : f32[2]
%3 = neg %2 : f32[2]
%4 = add %1 %2 : f32[2]
%5 = add %3 %4 : f32[2]
return %5
)");
}

TEST(CommonSubexpressions, CallsOfEqualOpAndDefinitionAreOne) {
  expect_pass(common_subexpressions, R"(graph g
%x = input : f32[2]
%a = call %x op="pair" : f32[2] f32[2]
  graph pair
  %x = input : f32[2]  # a0
  %two = constant 2 : f32[]
  %p = add %x %two : f32[2]
  %q = mul %x %two : f32[2]
  return %p %q
%b = call %x op="pair" : f32[2] f32[2]
  graph pair
  %x = input : f32[2]  # other
  %two = constant 2 : f32[]
  %p = add %x %two : f32[2]
  %q = mul %x %two : f32[2]
  return %p %q
%c = call %x op="pair" : f32[2] f32[2]
  graph pair
  %x = input : f32[2]
  %three = constant 3 : f32[]
  %p = add %x %three : f32[2]
  %q = mul %x %three : f32[2]
  return %p %q
%d = add %a.1 %b.0 : f32[2]
%e = add %d %c.1 : f32[2]
return %e
)",
              R"(graph g
%0 = input : f32[2]
%1 = call %0 op="pair" : f32[2] f32[2]
  graph pair
  %0 = input : f32[2]  # a0
  %1 = constant 2 : f32[]
  %2 = add %0 %1 : f32[2]
  %3 = mul %0 %1 : f32[2]
  return %2 %3
%2 = call %0 op="pair" : f32[2] f32[2]
  graph pair
  %0 = input : f32[2]
  %1 = constant 3 : f32[]
  %2 = add %0 %1 : f32[2]
  %3 = mul %0 %1 : f32[2]
  return %2 %3
%3 = add %1.1 %1.0 : f32[2]
%4 = add %3 %2.1 : f32[2]
return %4
)");
}

TEST(CommonSubexpressions, TwoEqualResultsAreAStepAndACopy) {
  expect_pass(common_subexpressions, R"(graph g
%x = input : f32[2]
%a = exp %x : f32[2]
%b = exp %x : f32[2]
%c = tanh %b : f32[2]
return %a %b %c
)",
              R"(graph g
%0 = input : f32[2]
%1 = exp %0 : f32[2]
%2 = reshape %1 : f32[2]
%3 = tanh %1 : f32[2]
return %1 %2 %3
)");
}

}  // namespace
}  // namespace zoe
