// What a component computes in, by use: one dtype for all, or others for products, attention and single blocks.
//
// The fourth use, how weights lie in memory, is a weight's own (StoredAttributes of ir/graph.h); what is f32 whatever the precision
// (norms, modulation, embedders of time) is written where a model is traced. docs/design.md says which option sets which.
#pragma once

#include <utility>
#include <vector>

#include "base/dtype.h"
#include "ir/value.h"

namespace zoe {

struct Precision {
  DType stream;     // activations between products, and results of products and attention
  DType product;    // operands of linears; no wider than the stream
  DType attention;  // queries, keys and values; no wider than the stream
  // What becomes codes of that: operands of a block's linears, and of the attention of tokens to one another.
  Codes product_codes = Codes::none, attention_codes = Codes::none;

  Precision without_codes() const { return {stream, product, attention}; }
};

class ComponentPrecision {
 public:
  struct Blocks {
    int begin, end;  // [begin, end) of the component's blocks
    Precision precision;
  };

  ComponentPrecision(DType all) : all_{all, all, all} {}  // implicit: most components have one
  // The stream is one for all blocks. The last of `blocks` that holds a block says; others are as `all`.
  ComponentPrecision(const Precision& all, std::vector<Blocks> blocks = {}) : all_(all), blocks_(std::move(blocks)) {
    for (Blocks& each : blocks_) each.precision.stream = all.stream;
  }

  DType stream() const { return all_.stream; }
  Precision outside_blocks() const { return all_.without_codes(); }
  const Precision& of_block(int block) const {
    const Precision* found = &all_;
    for (const Blocks& each : blocks_)
      if (block >= each.begin && block < each.end) found = &each.precision;
    return *found;
  }

 private:
  Precision all_;
  std::vector<Blocks> blocks_;
};

}  // namespace zoe
