// Compiled against uncompiled, on a real request: every value that both have is compared where it is made.
//
// Each plan of the request runs twice on the same arguments, every node by itself and compiled. After each step of the compiled
// plan its results are compared with the other run's and replaced by those, so that every chain is judged by what it does itself
// and not by what came before. Then the request runs twice from end to end, on its own values, and the final latents are compared.
//
// What runs from 8-bit codes runs so both times. It is held to plain loops on the host, too, from the bits of its operands
// (verify_codes.h): sums of products are the same integers, attention is what f64 makes of the same codes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "pipeline/session.h"

namespace zoe {

// All steps of one plan that run the same chain (or library call).
struct ChainDifference {
  std::string plan, what, implementation;
  bool fused = false;
  std::size_t runs = 0, values = 0, different = 0;  // `different`: in any bit
  std::size_t unmatched = 0;                        // results that the uncompiled plan has nowhere
  double max_absolute = 0;
  // In units of the last place, of the larger of the value and the root mean square of its tensor.
  double max_ulps = 0;
};

// All products, or attentions, of one plan that run from codes by the same implementation, beside plain loops.
struct CodesDifference {
  std::string plan, what, implementation;
  std::size_t runs = 0, values = 0;
  std::size_t different = 0;  // products: results that are not of the integers of plain loops
  std::size_t unseen = 0;     // of `runs`: their operands are nowhere to be seen
  // Attention: the length of the difference as a share of the result's, and the largest as one of the larger of the value and the
  // root mean square of the results.
  double relative_rms = 0, largest = 0;
};

struct LatentDifference {
  std::size_t values = 0, different = 0;
  double max_absolute = 0, relative_rms = 0;
};

struct VerifyReport {
  std::vector<ChainDifference> chains;  // in the order they first ran
  std::vector<CodesDifference> codes;
  LatentDifference latents;
  // What the platform promises: 0 is the same bits everywhere.
  double allowed_ulps = 0, allowed_relative_rms = 0;

  bool passes(const ChainDifference& chain) const;
  bool passes(const CodesDifference& codes) const;
  bool latents_pass() const;
  bool passed() const;
};

// `options` are those of the compiled run; the other one differs in `compile` alone.
VerifyReport verify(const ModelConfig& model, std::shared_ptr<Platform> platform, DType dtype, const Request& request,
                    const CompileOptions& options);

}  // namespace zoe
