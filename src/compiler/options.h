// What a caller may ask of the compiler. The command, the pipeline, the benchmarks and the tests fill the same struct.
#pragma once

#include <string>
#include <vector>

namespace zoe {

enum class OverrideChoice {
  allow,    // an override runs where the platform has one that says yes
  native,   // no override is asked
  require,  // where the platform has one it must say yes; its no is an error
};

struct CompileOptions {
  bool compile = true;  // fuse and generate code; false: every node by itself, nothing is generated
  OverrideChoice overrides = OverrideChoice::allow;
  std::vector<std::string> excluded_ops = {};  // ops of src/ops whose nodes are not fused
  bool keep_stored = true;                     // weights in 8 bits and blocks stay so in memory (passes/keep_stored.h)
  bool keep_passes = false;                    // the graph's text after every pass, in Plan::passes
};

}  // namespace zoe
