// Leaves out what changes nothing, and works out what is known: the rules are listed here, a node at a time, operands first.
//
//   numbers      an element-wise opcode or cast of numbers is a number, rounded to its dtype as a platform rounds. Not folded:
//                exp, tanh, silu and gelu_tanh, whose last bit is each platform's affair, and what is no number (NaN)
//   units        x * 1, x / 1, x + 0, x - 0 are x. With x + 0 a zero may keep its minus sign; every other bit is the same
//   casts        bf16 -> f32 -> bf16 is nothing; f32 -> bf16 -> f32 is a rounding and stays
//   twice        neg, swap_pairs, and flip of the same axis
//   reshape      of a reshape is one; to the same shape is nothing
//   permute      of a permute is one; if it only moves axes of extent 1 it is a reshape
//   slice        of a slice of the same axis is one; of everything is nothing; of a concat, if within one part, is of that part
//   concat       neighbouring slices of one value are one slice
//   sum          over one element is that element
// A unit gate or zero modulation given as constants disappears by these: norm(x) * (1 + 0) + 0 is norm(x).
//
// Runs whether or not kernels are generated, so both kinds of plans compute the same numbers. Applying it again changes nothing.
#pragma once

#include "ir/graph.h"

namespace zoe {

Graph simplify(const Graph& graph);

}  // namespace zoe
