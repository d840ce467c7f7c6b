// Values with a row a token are made in pieces of some rows, from block to block, so that what lies between two blocks takes the
// memory of one piece: the wide middle of a feed-forward, queries, what norms return.
//
//   x_1 in pieces -> for each text: k, v of all rows -> for each piece: queries, attention, feed-forward -> x_2 in pieces -> ...
//
// Cut are the values [B,L,..] that go from one block to the next. Of what an attention sees, its keys and values, all rows are made
// first, text by text, each piece in its place in the whole; each piece of a cut value is then made from pieces of the one before.
// What is on the way there (a norm in front of several products) is made again where it would have to wait: pieces of earlier
// blocks are read behind borders (passes/rebuild.h), which neither fusing nor the search for equal nodes crosses. A row is computed
// by the same operations in the same order as without this pass; bits are the same where a kernel's are the same for any number of
// rows.
#pragma once

#include <cstdint>

#include "ir/graph.h"

namespace zoe {

struct RowSplit {
  std::int64_t rows;          // L
  std::int64_t pieces = 1;    // of L
  bool texts_apart = false;   // each of the B entries by itself
  std::int64_t multiple = 1;  // pieces begin at multiples of it: of a frame's rows, where frames differ
};

Graph split_rows(const Graph& graph, const RowSplit& split);

}  // namespace zoe
