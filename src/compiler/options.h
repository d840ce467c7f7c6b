// What a caller may ask of the compiler. The command, the pipeline, the benchmarks and the tests fill the same struct.
#pragma once

#include <string>
#include <vector>

#include "platform/override_rules.h"

namespace zoe {

// Compiling (fusing nodes into generated kernels) is off for nodes of this op on this platform and device.
struct PolicyRow {
  std::string platform = "*";  // "*": every one
  std::string device = "*";    // a part of its name (DeviceInfo::name)
  std::string op = "*";        // of src/ops
  std::string reason;          // the measurement that compiling loses there
};

struct CompileOptions {
  bool compile = true;                         // fuse and generate code; false: every node by itself, nothing is generated
  OverrideRules overrides = {};                // which rows of the platform's table may run
  std::vector<std::string> excluded_ops = {};  // ops of src/ops whose nodes are not fused
  std::vector<PolicyRow> policy = {};          // of a file
  bool keep_stored = true;                     // weights in 8 bits and blocks stay so in memory (passes/keep_stored.h)
  bool keep_passes = false;                    // the graph's text after every pass, in Plan::passes
};

}  // namespace zoe
