// Compiled against uncompiled, on a real request: every value that both have is compared where it is made.
//
// Each plan of the request runs twice on the same arguments, every node by itself and compiled. After each step of the compiled
// plan its results are compared with the other run's and replaced by those, so that every chain is judged by what it does itself
// and not by what came before. Then the request runs twice from end to end, on its own values, and the final latents are compared.
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

struct LatentDifference {
  std::size_t values = 0, different = 0;
  double max_absolute = 0, relative_rms = 0;
};

struct VerifyReport {
  std::vector<ChainDifference> chains;  // in the order they first ran
  LatentDifference latents;
  // What the platform promises: 0 is the same bits everywhere.
  double allowed_ulps = 0, allowed_relative_rms = 0;

  bool passes(const ChainDifference& chain) const;
  bool latents_pass() const;
  bool passed() const;
};

// `options` are those of the compiled run; the other one differs in `compile` alone.
VerifyReport verify(const ModelConfig& model, std::shared_ptr<Platform> platform, DType dtype, const Request& request,
                    const CompileOptions& options);

}  // namespace zoe
