// A configuration worked out from the shapes of a file's tensors.
#pragma once

#include <string>

namespace zoe {

struct InferredConfig {
  std::string json;     // config.json as Diffusers or Transformers would write it
  std::string assumed;  // what shapes do not tell: "heads of 128, eps 1e-6"
};

}  // namespace zoe
