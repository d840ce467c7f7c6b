// Chains run by row blocks on the cpu platform, against the same graphs run node by node there: the results must be the same
// bytes, for any number of threads, at any address, and where results take the place of operands.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <functional>
#include <limits>
#include <random>

#include "compiler/compile.h"
#include "compiler/passes/inline_calls.h"
#include "compiler/run.h"
#include "ops/channel_norm.h"
#include "ops/instruction_sets.h"
#include "ops/mul_add.h"
#include "ops/norm_scale_shift.h"
#include "ops/rms_norm.h"
#include "ops/rotary_interleaved.h"
#include "ops/rotary_split.h"
#include "ops/scale_residual_norm_scale_shift.h"
#include "ops/scale_shift.h"
#include "platform/cpu/kernels.h"

namespace zoe {
namespace {

using Bytes = std::vector<std::byte>;

constexpr int kThreads[] = {1, 2, 3};

DeviceInfo device(int threads) {
  DeviceInfo info{};
  info.threads = threads;
  info.cache_bytes = threads == 2 ? 1 : 0;  // one of the runs writes its results past the caches
  return info;
}

// Values of both signs over several binades, zeros of both signs among them.
Bytes random_bytes(const Type& type, std::mt19937& random) {
  Bytes bytes(type.size_bytes());
  for (std::int64_t i = 0; i < type.shape.count(); ++i) {
    const float unit = static_cast<float>(random()) / 4294967296.0f;
    float value = (random() % 2 ? 4.0f : -4.0f) * unit * unit;
    if (random() % 64 == 0) value = random() % 2 ? 0.0f : -0.0f;
    convert(&value, DType::f32, bytes.data() + static_cast<std::size_t>(i) * size_of(type.dtype), type.dtype, 1);
  }
  return bytes;
}

std::vector<Bytes> random_inputs(const std::vector<Type>& types, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<Bytes> inputs;
  for (const Type& type : types) inputs.push_back(random_bytes(type, random));
  return inputs;
}

std::vector<Bytes> run_node_by_node(const Graph& graph, const std::vector<Bytes>& inputs) {
  const auto platform = open_platform("cpu", {.threads = 1});
  const auto stream = platform->make_stream();
  const Plan plan = compile(graph, *platform, {.compile = false});
  WeightStore store(*platform, [](const std::string&) { return WeightPtr(); });
  std::vector<Tensor> given, results;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    given.push_back(make_tensor(*platform, graph.inputs[i].type(), "input"));
    platform->upload(*stream, inputs[i].data(), given.back().slot(), inputs[i].size());
  }
  for (const Value& output : graph.outputs) results.push_back(make_tensor(*platform, output.type(), "output"));
  const Plan* const plans[] = {&plan};
  run(plan, *stream, store, given, results, make_workspace(*platform, plans));
  std::vector<Bytes> outputs;
  for (const Tensor& result : results) {
    outputs.emplace_back(result.type.size_bytes());
    platform->download(*stream, result.slot(), outputs.back().data(), outputs.back().size());
  }
  return outputs;
}

// Every operand and result one element behind an aligned address, with guards around the results and the scratch.
// `shared`: (operand, result) that lie in one place.
std::vector<Bytes> run_kernel(const Kernel& kernel, const Chain& chain, const std::vector<Bytes>& inputs, int threads,
                              std::pair<int, int> shared = {-1, -1}) {
  constexpr std::size_t kGuard = 64;
  constexpr auto kMark = std::byte{0xa5};
  const auto platform = open_platform("cpu", {.threads = threads});
  const auto stream = platform->make_stream();
  std::vector<std::shared_ptr<Buffer>> buffers;
  std::vector<Slot> operands, results;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const std::size_t size = size_of(chain.operands[i].dtype);
    buffers.push_back(platform->allocate(size + inputs[i].size() + kGuard, "operand"));
    std::memset(buffers.back()->data, 0xa5, buffers.back()->size_bytes);
    operands.push_back({buffers.back().get(), size});
    std::memcpy(operands.back().data(), inputs[i].data(), inputs[i].size());
  }
  for (std::size_t o = 0; o < chain.outputs.size(); ++o) {
    const std::size_t size = size_of(chain.outputs[o].dtype);
    if (shared.second == static_cast<int>(o)) {
      results.push_back(operands[static_cast<std::size_t>(shared.first)]);
      continue;
    }
    buffers.push_back(platform->allocate(size + chain.outputs[o].size_bytes() + kGuard, "result"));
    std::memset(buffers.back()->data, 0xa5, buffers.back()->size_bytes);
    results.push_back({buffers.back().get(), size});
  }
  const auto scratch = platform->allocate(kernel.scratch_bytes() + kGuard, "scratch");
  std::memset(scratch->data, 0xa5, scratch->size_bytes);
  kernel.run(*stream, operands, results, {scratch.get(), 0});
  std::vector<Bytes> outputs;
  for (std::size_t o = 0; o < results.size(); ++o) {
    const std::size_t count = chain.outputs[o].size_bytes();
    outputs.emplace_back(results[o].data(), results[o].data() + count);
    for (std::size_t i = 0; i < kGuard; ++i) EXPECT_EQ(results[o].data()[count + i], kMark) << "written behind result " << o;
    EXPECT_EQ(*(results[o].data() - 1), kMark) << "written before result " << o;
  }
  for (std::size_t i = 0; i < kGuard; ++i) {
    const auto* behind = static_cast<const std::byte*>(scratch->data) + kernel.scratch_bytes();
    EXPECT_EQ(behind[i], kMark) << "written behind the scratch";
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (shared.first == static_cast<int>(i)) continue;
    EXPECT_EQ(std::memcmp(operands[i].data(), inputs[i].data(), inputs[i].size()), 0) << "written to operand " << i;
  }
  return outputs;
}

// The first element that differs.
std::string difference(const Bytes& got, const Bytes& expected, const Type& type) {
  const std::size_t size = size_of(type.dtype);
  for (std::size_t i = 0; i < expected.size(); i += size)
    if (std::memcmp(got.data() + i, expected.data() + i, size) != 0) {
      float a = 0, b = 0;
      convert(got.data() + i, type.dtype, &a, DType::f32, 1);
      convert(expected.data() + i, type.dtype, &b, DType::f32, 1);
      return fmt::format("element {} of {}: got {:a}, expected {:a}", i / size, type.str(), a, b);
    }
  return {};
}

using Build = std::function<std::vector<Value>(const std::vector<Value>&)>;

using Pairs = std::vector<std::pair<int, int>>;

struct Compared {
  Pairs in_place;  // (operand, result): those that could lie in one place
};

// Lowers what `build` traces on operands of these types, and compares.
Compared compare(const std::string& what, const std::vector<Type>& types, const Build& build) {
  SCOPED_TRACE(what);
  std::vector<Value> arguments;
  for (std::size_t i = 0; i < types.size(); ++i)
    arguments.push_back(input("x" + std::to_string(i), types[i].dtype, types[i].shape));
  const Graph body = inline_calls(make_graph("case", arguments, build(arguments)));
  const Lowered lowered = lower(body);
  Compared compared;
  if (!lowered.chain) {
    ADD_FAILURE() << "not a chain: " << lowered.reason << "\n" << print(body);
    return compared;
  }
  const Chain& chain = *lowered.chain;
  SCOPED_TRACE(print(chain));
  const std::vector<Bytes> inputs = random_inputs(types, 11);
  const std::vector<Bytes> expected = run_node_by_node(body, inputs);
  for (const int threads : kThreads) {
    const auto kernel = cpu::make_row_blocks(chain, device(threads));
    const auto check = [&](const std::string& how, std::pair<int, int> shared) {
      const std::vector<Bytes> got = run_kernel(*kernel, chain, inputs, threads, shared);
      for (std::size_t o = 0; o < expected.size(); ++o)
        EXPECT_EQ(difference(got[o], expected[o], chain.outputs[o]), "") << how << ", " << threads << " threads, result " << o;
    };
    check("apart", {-1, -1});
    compared.in_place.clear();
    for (int i = 0; i < static_cast<int>(types.size()); ++i)
      for (int o = 0; o < static_cast<int>(chain.outputs.size()); ++o) {
        const std::size_t size = types[static_cast<std::size_t>(i)].size_bytes();
        if (!kernel->can_overwrite(i, o) || size != chain.outputs[static_cast<std::size_t>(o)].size_bytes()) continue;
        compared.in_place.emplace_back(i, o);
        check(fmt::format("result {} in operand {}", o, i), {i, o});
      }
  }
  return compared;
}

constexpr DType kDTypes[] = {DType::f32, DType::bf16};

TEST(RowBlocks, NormScaleShiftInEveryForm) {
  constexpr std::int64_t kBatch = 2, kLength = 6, kFrames = 3;
  for (const std::int64_t width : {1, 2, 31, 40, 64, 240, 333, 1536, 5000})
    for (const DType dtype : kDTypes) {
      const Shape forms[] = {{},
                             {width},
                             {1, width},
                             {kBatch, width},
                             {1, 1, width},
                             {kBatch, 1, width},
                             {kBatch, kLength, width},
                             {1, kLength, width},
                             {kBatch, kFrames, 1, width}};
      for (const Shape& form : forms)
        for (const Norm kind : {Norm::layer, Norm::rms})
          compare(fmt::format("width {} {} {}", width, name(dtype), form.str()),
                  {{dtype, {kBatch, kLength, width}}, {DType::f32, form}, {dtype, form}},
                  [&](const auto& x) { return std::vector<Value>{norm_scale_shift(x[0], x[1], x[2], {.kind = kind})}; });
    }
}

// Rows of one frame share a modulation: pieces of threads begin and end inside frames, tiles do not cross them.
TEST(RowBlocks, SegmentsOfManyTiles) {
  for (const auto& [batch, frames, tokens, width] :
       {std::tuple{2, 3, 100, 64}, {1, 5, 77, 96}, {2, 21, 5, 33}, {1, 3, 401, 16}, {3, 2, 3, 1500}})
    for (const DType dtype : kDTypes)
      compare(fmt::format("{} x {} x {} x {} {}", batch, frames, tokens, width, name(dtype)),
              {{dtype, {batch, frames * tokens, width}},
               {DType::f32, {batch, frames, 1, width}},
               {dtype, {batch, width}},
               {DType::f32, {width}}},
              [](const auto& x) {
                const Value y = norm_scale_shift(x[0], x[1], x[2]);
                return std::vector<Value>{y, cast(scale_shift(y, x[3], x[1], 1), DType::f32)};
              });
}

TEST(RowBlocks, ResidualAndNormMakeTwoResults) {
  for (const auto& [length, width] : {std::pair{5, 48}, {37, 100}, {700, 16}, {9, 1536}, {64, 3072}, {3, 5000}})
    for (const DType dtype : kDTypes) {
      const Type tokens{dtype, {1, length, width}}, vector{DType::f32, {width}}, modulation{DType::f32, {1, 1, width}};
      const auto plain = compare(fmt::format("{} x {} {}", length, width, name(dtype)),
                                 {tokens, tokens, modulation, modulation, modulation}, [](const auto& x) {
                                   const auto [y, r] = scale_residual_norm_scale_shift(x[0], x[1], x[2], x[3], x[4]);
                                   return std::vector<Value>{y, r};
                                 });
      EXPECT_EQ(plain.in_place, (Pairs{{0, 0}, {0, 1}, {1, 0}, {1, 1}}));
      compare(fmt::format("affine, {} x {} {}", length, width, name(dtype)), {tokens, tokens, modulation, vector, vector},
              [](const auto& x) {
                const auto [y, r] = scale_residual_norm_scale_shift(x[0], x[1], x[2], {}, {}, {.weight = x[3], .bias = x[4]});
                return std::vector<Value>{r, y};
              });
    }
}

TEST(RowBlocks, RmsNormAndRotary) {
  for (const auto& [batch, length, heads, width] :
       {std::tuple{1, 7, 2, 6}, {2, 33, 3, 32}, {1, 20, 12, 128}, {2, 5, 40, 128}, {2, 300, 4, 32}})
    for (const DType dtype : kDTypes) {
      const std::string what = fmt::format("[{},{},{},{}] {}", batch, length, heads, width, name(dtype));
      const Type q{dtype, {batch, length, heads * width}}, table{DType::f32, {length, 1, width}};
      const Type split{dtype, {batch, length, heads, width}};
      compare(what, {q, {dtype, {heads * width}}, table, table}, [&](const auto& x) {
        return std::vector<Value>{rotary_interleaved(reshape(rms_norm(x[0], x[1], 1e-6), split.shape), x[2], x[3])};
      });
      compare(what + " alone", {split, table, table},
              [](const auto& x) { return std::vector<Value>{rotary_interleaved(x[0], x[1], x[2])}; });
      compare(what + " by head", {split, table, table}, [](const auto& x) {
        return std::vector<Value>{permute(rotary_interleaved(x[0], x[1], x[2]), {0, 2, 1, 3})};
      });
    }
}

TEST(RowBlocks, ChannelNormAndSilu) {
  for (const std::int64_t width : {1, 3, 16, 24, 96, 384})
    for (const DType dtype : kDTypes) {
      const Type pixels{dtype, {2, 9, 11, width}};
      compare(fmt::format("width {} {}", width, name(dtype)), {pixels, {dtype, {width}}},
              [](const auto& x) { return std::vector<Value>{silu(channel_norm(x[0], x[1]))}; });
      compare(fmt::format("rows in channels-first order, width {} {}", width, name(dtype)),
              {{dtype, {width, 9, 11}}, {dtype, {width}}}, [](const auto& x) {
                return std::vector<Value>{silu(channel_norm(permute(x[0], {1, 2, 0}), x[1]))};
              });
    }
}

TEST(RowBlocks, FlatChains) {
  for (const std::int64_t count : {1, 2, 3, 15, 16, 17, 100, 4095, 4097, 5000, 100001})
    for (const DType dtype : kDTypes) {
      const Type flat{dtype, {count}};
      const auto unary = compare(fmt::format("gelu {} {}", count, name(dtype)), {flat},
                                 [](const auto& x) { return std::vector<Value>{gelu_tanh(x[0] * 0.5 + 1.0)}; });
      EXPECT_EQ(unary.in_place.size(), count > 1 ? 1 : 0);
      const auto casts =
          compare(fmt::format("casts {} {}", count, name(dtype)), {flat, {DType::f32, {count}}, {dtype, {}}}, [](const auto& x) {
            const Value wide = cast(x[0], DType::f32) * zoe::tanh(x[1]);
            const Value narrow = cast(wide, DType::bf16);
            return std::vector<Value>{neg(narrow) / (narrow + 1.5), wide + cast(x[2], DType::f32), max(x[0], x[2])};
          });
      EXPECT_EQ(casts.in_place.empty(), count == 1);  // one element is one value for all rows, and has no place
    }
}

// u8 in and out: dense, swapped, in runs, by the element, as values of rows; rounded on the way.
TEST(RowBlocks, Bytes) {
  for (const std::int64_t width : {1, 2, 6, 31, 64, 130, 1000, 4097}) {
    const Type x{DType::f32, {3, 7, width}}, h{DType::bf16, {3, 7, width}}, bytes{DType::u8, {3, 7, width}},
        row{DType::u8, {3, 7, 1}};
    const auto narrow = [](const Value& value) { return cast(value * 60.0 + 100.0, DType::u8); };
    const auto wide = [](const Value& value) { return cast(value, DType::f32); };
    const std::string of = fmt::format(" of {}", width);
    compare("flat" + of, {x, bytes}, [&](const auto& v) { return std::vector<Value>{narrow(v[0] - wide(v[1])), wide(v[1])}; });
    compare("in place" + of, {bytes}, [&](const auto& v) { return std::vector<Value>{cast(255.0 + neg(wide(v[0])), DType::u8)}; });
    compare("sums" + of, {bytes, h, row}, [&](const auto& v) {
      const Value d = wide(v[0]) - mean(wide(v[0])), y = d * rsqrt(mean(square(d)) + 1e-3) + wide(v[1]);
      return std::vector<Value>{narrow(y), narrow(mean(y)), cast(y + wide(v[2]), DType::bf16), wide(v[2])};
    });
    compare("rounded on the way" + of, {x}, [&](const auto& v) {
      const Value y = wide(narrow(v[0]));
      return std::vector<Value>{cast(y / (1.0 + sum(y)), DType::bf16), cast(y, DType::u8)};
    });
    compare("permuted" + of, {bytes}, [](const auto& v) { return std::vector<Value>{permute(v[0], {0, 2, 1})}; });
    compare("moved" + of, {bytes, {DType::u8, {3, 7, 3 * width}}}, [&](const auto& v) {
      return std::vector<Value>{flip(v[0], 2), slice(v[1], 2, width, 2 * width)};
    });
    compare("planes" + of, {{DType::f32, {3, 7, width}}}, [&](const auto& v) {
      return std::vector<Value>{permute(narrow(v[0]), {1, 2, 0})};
    });
    if (width % 2 == 0)
      compare("swapped" + of, {bytes, x}, [&](const auto& v) {
        return std::vector<Value>{swap_pairs(wide(v[0])) * v[1], narrow(swap_pairs(v[1]))};
      });
  }
}

TEST(RowBlocks, MovementInsideChains) {
  for (const DType dtype : kDTypes) {
    const auto one = [&](const std::string& what, const std::vector<Type>& types, const Build& build) {
      compare(what + " " + std::string(name(dtype)), types, build);
    };
    for (const std::int64_t width : {2, 6, 34, 130, 1000}) {
      const Type x{dtype, {5, 7, width}};
      one("swap", {x, x}, [](const auto& v) { return std::vector<Value>{swap_pairs(v[0]) * v[1]}; });
      one("swap of the result", {x, x}, [](const auto& v) { return std::vector<Value>{swap_pairs(v[0] * v[1])}; });
      for (int axis = 0; axis < 3; ++axis)
        one("flip", {x, x}, [&](const auto& v) { return std::vector<Value>{flip(v[0] + v[1], axis) - v[0]}; });
      one("flipped and swapped", {x}, [](const auto& v) { return std::vector<Value>{neg(swap_pairs(flip(v[0], 2)))}; });
      for (const auto& axes : {std::vector<int>{0, 2, 1}, {1, 0, 2}, {2, 1, 0}, {1, 2, 0}, {2, 0, 1}})
        one("permute", {x, {dtype, {width}}}, [&](const auto& v) { return std::vector<Value>{permute(v[0] * v[1], axes) + 1.0}; });
      one("slices", {{dtype, {5, 7, 3 * width}}}, [&](const auto& v) {
        return std::vector<Value>{slice(v[0], 2, 0, width) * silu(slice(v[0], 2, width, 2 * width)) -
                                  slice(v[0], 2, 2 * width, 3 * width)};
      });
      one("sum of a slice", {{DType::f32, {5, 7, 3 * width}}}, [&](const auto& v) {
        const Value part = slice(v[0], 2, width, 2 * width);
        return std::vector<Value>{part / (1.0 + sum(square(part))), sum(part)};
      });
    }
  }
}

TEST(RowBlocks, RowsAndTables) {
  for (const DType dtype : kDTypes) {
    // A value of each row, and one of each column: an outer product.
    compare("outer", {{dtype, {300, 1}}, {dtype, {1, 70}}}, [](const auto& x) { return std::vector<Value>{x[0] * x[1]}; });
    compare("vectors along all axes", {{dtype, {4, 1, 1, 80}}, {dtype, {1, 5, 1, 1}}, {dtype, {6, 1}}, {dtype, {4, 5, 6, 80}}},
            [](const auto& x) { return std::vector<Value>{(x[0] + x[1]) * (x[2] - x[3])}; });
    compare("row sums only", {{dtype, {45, 50}}, {dtype, {45, 1}}}, [](const auto& x) {
      const Value s = sum(cast(x[0], DType::f32));
      return std::vector<Value>{s, s * s + cast(x[1], DType::f32)};
    });
    compare("sums of sums' results", {{dtype, {2, 300, 20}}}, [](const auto& x) {
      const Value wide = cast(x[0], DType::f32);
      const Value once = wide - mean(wide);
      const Value twice = once * rsqrt(mean(square(once)) + 1e-6);
      return std::vector<Value>{cast(twice, x[0].dtype()), cast(twice - mean(zoe::exp(twice)), x[0].dtype())};
    });
    compare("gated residual", {{dtype, {2, 30, 64}}, {DType::f32, {2, 1, 64}}, {dtype, {2, 30, 64}}},
            [](const auto& x) { return std::vector<Value>{mul_add(x[0], x[1], x[2], 0)}; });
  }
}

// Around the blocks of eight, four and one vectors of any instruction set, with sums, kept values and results of both dtypes.
TEST(RowBlocks, PartsOfBlocks) {
  testing::for_each_instruction_set([](const std::string& set) {
    for (const std::int64_t width :
         {3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 47, 48, 49, 63, 65, 79, 127, 129, 160, 191, 193, 223, 321})
      for (const DType dtype : kDTypes)
        compare(fmt::format("{}, width {} {}", set, width, name(dtype)),
                {{dtype, {11, width}}, {DType::f32, {width}}, {dtype, {11, 1}}}, [](const auto& x) {
                  const Value wide = cast(x[0], DType::f32);
                  const Value centred = wide - mean(wide);
                  const Value twice = cast(centred * x[1], DType::bf16);
                  const Value sums = sum(square(cast(twice, DType::f32)));
                  return std::vector<Value>{cast(centred * rsqrt(sums + 1e-6) + cast(x[2], DType::f32), x[0].dtype()), twice,
                                            silu(cast(twice, DType::f32)) - wide};
                });
  });
}

// Every binary opcode with its operands in every place: in registers on either side, numbers, rows, dense, swapped and in runs.
TEST(RowBlocks, OperandsOfBinaryOpcodes) {
  using Binary = Value (*)(const Value&, const Value&);
  const Binary opcodes[] = {
      [](const Value& a, const Value& b) { return a + b; },     [](const Value& a, const Value& b) { return a - b; },
      [](const Value& a, const Value& b) { return a * b; },     [](const Value& a, const Value& b) { return a / b; },
      [](const Value& a, const Value& b) { return max(a, b); }, [](const Value& a, const Value& b) { return min(a, b); }};
  testing::for_each_instruction_set([&](const std::string& set) {
    for (const DType dtype : kDTypes)
      for (std::size_t opcode = 0; opcode < std::size(opcodes); ++opcode) {
        const Binary op = opcodes[opcode];
        compare(fmt::format("{}, opcode {} {}", set, opcode, name(dtype)),
                {{dtype, {6, 3, 128}}, {dtype, {6, 1, 128}}, {dtype, {6, 3, 1}}, {dtype, {}}}, [&](const auto& x) {
                  const Value computed = neg(x[0]), other = square(x[0]);
                  std::vector<Value> results = {op(computed, other), op(other, other)};
                  for (const Value& operand : {x[0], x[1], x[2], x[3], swap_pairs(x[0])}) {
                    results.push_back(op(computed, operand));
                    results.push_back(op(operand, computed));
                  }
                  return results;
                });
      }
  });
}

// Heads whose halves are runs of whole blocks, and heads whose halves are not.
TEST(RowBlocks, RunsOfColumns) {
  testing::for_each_instruction_set([](const std::string& set) {
    for (const std::int64_t width : {64, 96, 128, 192, 256, 24})
      for (const DType dtype : kDTypes) {
        const Type x{dtype, {2, 9, 5, width}}, table{DType::f32, {9, 1, width}};
        const auto rotated = compare(fmt::format("{}, width {} {}", set, width, name(dtype)), {x, table, table},
                                     [](const auto& v) { return std::vector<Value>{rotary_split(v[0], v[1], v[2])}; });
        EXPECT_EQ(rotated.in_place, Pairs{});  // a half is read behind the other's result
        compare(fmt::format("{}, by head, width {} {}", set, width, name(dtype)), {x, table, {dtype, {5, 1}}}, [](const auto& v) {
          const Value scaled = cast(v[0] * v[2], DType::f32) * v[1];
          return std::vector<Value>{permute(cast(scaled, v[0].dtype()), {0, 2, 1, 3})};
        });
        compare(fmt::format("{}, norms by head, width {} {}", set, width, name(dtype)), {x, table}, [](const auto& v) {
          const Value wide = cast(v[0], DType::f32);
          return std::vector<Value>{cast(wide * rsqrt(mean(square(wide)) + 1e-6) * v[1], v[0].dtype())};
        });
      }
  });
}

// A result is rounded as it is stored, unless the rounded value is used once more; NaNs, infinities and subnormals too.
TEST(RowBlocks, Rounding) {
  const Type wide{DType::f32, {4, 70}};
  std::vector<float> special = {std::numeric_limits<float>::quiet_NaN(),
                                std::numeric_limits<float>::infinity(),
                                -std::numeric_limits<float>::infinity(),
                                std::numeric_limits<float>::denorm_min(),
                                -std::numeric_limits<float>::min(),
                                std::numeric_limits<float>::max(),
                                0x1.008p0f,
                                0x1.018p0f,
                                0x1.00800002p0f,
                                -0.0f};
  testing::for_each_instruction_set([&](const std::string& set) {
    compare(set, {wide}, [](const auto& x) {
      const Value once = cast(neg(x[0]), DType::bf16), again = cast(x[0] * 3.0, DType::bf16);
      return std::vector<Value>{once, again, cast(again, DType::f32), again * again};
    });
    const Value x = input("x", DType::f32, {static_cast<std::int64_t>(special.size())});
    const Graph graph = make_graph("special", {x}, {cast(x, DType::bf16), cast(cast(x, DType::bf16), DType::f32)});
    const Chain chain = *lower(graph).chain;
    Bytes bytes(special.size() * sizeof(float));
    std::memcpy(bytes.data(), special.data(), bytes.size());
    const auto got = run_kernel(*cpu::make_row_blocks(chain, device(1)), chain, {bytes}, 1);
    for (std::size_t i = 0; i < special.size(); ++i) {
      std::uint16_t narrow = 0;
      float widened = 0;
      std::memcpy(&narrow, got[0].data() + i * sizeof narrow, sizeof narrow);
      std::memcpy(&widened, got[1].data() + i * sizeof widened, sizeof widened);
      EXPECT_EQ(narrow, f32_to_bf16(special[i])) << set << " " << special[i];
      EXPECT_EQ(std::bit_cast<std::uint32_t>(widened), std::uint32_t{f32_to_bf16(special[i])} << 16) << set << " " << special[i];
    }
  });
}

// An operand is read again behind the step that makes the first result: that must not come into its place too early.
TEST(RowBlocks, OperandsAreNotOverwrittenBeforeTheirLastRead) {
  const Type x{DType::f32, {3, 50}};
  const auto late = compare("read again", {x, x}, [](const auto& v) {
    const Value first = v[0] + v[1];
    return std::vector<Value>{first, first * v[0], neg(v[0])};
  });
  EXPECT_EQ(late.in_place, (Pairs{{0, 0}, {0, 1}, {0, 2}, {1, 0}, {1, 1}, {1, 2}}));
  const auto passed = compare("used by a later sum", {x, x}, [](const auto& v) {
    const Value first = v[0] + v[1];
    return std::vector<Value>{first, v[0] * sum(square(first))};
  });
  EXPECT_EQ(passed.in_place, (Pairs{{0, 1}, {1, 0}, {1, 1}}));
  // Of one size in bytes, and at the same indices, but not at the same addresses.
  const auto wider = compare("half of a bf16", {{DType::bf16, {2, 3000}}},
                             [](const auto& v) { return std::vector<Value>{cast(slice(v[0], 0, 0, 1), DType::f32)}; });
  EXPECT_EQ(wider.in_place, Pairs{});
}

// Chains that lowering would not make: a bf16 sum of f32 values (rounded once), and a store of a plain load.
TEST(RowBlocks, ChainsWrittenByHand) {
  Chain chain;
  chain.axes = {6, 10};
  chain.row_axes = 1;
  const Type f32{DType::f32, {6, 10}}, bf16{DType::bf16, {6, 10}};
  chain.operands = {f32, f32};
  chain.outputs = {bf16, f32};
  const View dense{0, {10, 1}};
  Instruction a{.opcode = Opcode::input, .operand = 0, .view = dense}, b{.opcode = Opcode::input, .operand = 1, .view = dense};
  Instruction total{.opcode = Opcode::add, .dtype = DType::bf16, .arguments = {0, 1}};
  for (Instruction* instruction : {&a, &b, &total}) {
    instruction->place = Instruction::Place::column;
    chain.instructions.push_back(*instruction);
  }
  chain.stores = {{0, 2, dense}, {1, 1, dense}};
  chain.passes = 1;
  const auto inputs = random_inputs(chain.operands, 3);
  const auto got = run_kernel(*cpu::make_row_blocks(chain, device(1)), chain, inputs, 1);
  Bytes expected(bf16.size_bytes());
  for (std::size_t i = 0; i < 60; ++i) {
    float x = 0, y = 0;
    std::memcpy(&x, inputs[0].data() + 4 * i, 4);
    std::memcpy(&y, inputs[1].data() + 4 * i, 4);
    const std::uint16_t sum = f32_to_bf16(x + y);
    std::memcpy(expected.data() + 2 * i, &sum, 2);
  }
  EXPECT_EQ(difference(got[0], expected, bf16), "");
  EXPECT_EQ(difference(got[1], inputs[1], f32), "");
}

// Two copies that change places: the first would overwrite what the second reads.
TEST(RowBlocks, ResultsThatChangePlacesDoNotOverwriteOperands) {
  Chain chain;
  chain.axes = {6, 10};
  chain.row_axes = 1;
  const View dense{0, {10, 1}};
  for (int operand = 0; operand < 2; ++operand) {
    chain.operands.push_back({DType::f32, {6, 10}});
    chain.outputs.push_back({DType::f32, {6, 10}});
    chain.instructions.push_back({.opcode = Opcode::input, .place = Instruction::Place::column, .operand = operand, .view = dense});
  }
  chain.stores = {{0, 1, dense}, {1, 0, dense}};
  chain.passes = 1;
  const auto kernel = cpu::make_row_blocks(chain, device(1));
  EXPECT_FALSE(kernel->can_overwrite(0, 0));
  const auto inputs = random_inputs(chain.operands, 3);
  for (const auto& shared : Pairs{{-1, -1}, {0, 1}, {1, 0}, {1, 1}}) {
    EXPECT_TRUE(shared.first < 0 || kernel->can_overwrite(shared.first, shared.second));
    const auto got = run_kernel(*kernel, chain, inputs, 1, shared);
    EXPECT_EQ(difference(got[0], inputs[1], chain.outputs[0]), "");
    EXPECT_EQ(difference(got[1], inputs[0], chain.outputs[1]), "");
  }
}

TEST(RowBlocks, OtherDTypesAreRefused) {
  Chain chain;
  chain.axes = {4};
  chain.operands = {{DType::i32, {4}}};
  chain.outputs = {{DType::f32, {4}}};
  EXPECT_THROW(cpu::make_row_blocks(chain, device(1)), std::exception);
}

// Single nodes: what says that it may overwrite an operand makes the same bytes there.
TEST(InPlace, ElementwiseKernels) {
  std::mt19937 random(5);
  for (const DType dtype : kDTypes)
    for (const std::int64_t count : {1, 2, 3, 7, 15, 16, 17, 31, 33, 47, 100, 4097, 40001}) {
      const Value x = input("x", dtype, {3, count}), y = input("y", dtype, {3, count}), row = input("row", dtype, {count}),
                  scalar = input("scalar", dtype, {}), column = input("column", dtype, {3, 1});
      const std::vector<Value> nodes = {
          zoe::exp(x), neg(x),     x * y,      x - row,   row / x,
          scalar + x,  x - scalar, x * column, max(x, y), cast(x, dtype == DType::f32 ? DType::bf16 : DType::f32)};
      for (const Value& node : nodes)
        for (const int threads : kThreads) {
          const auto platform = open_platform("cpu", {.threads = threads});
          const auto stream = platform->make_stream();
          const auto kernel = platform->make_kernel(node.node());
          std::vector<std::shared_ptr<Buffer>> buffers;
          std::vector<Bytes> given;
          std::vector<Slot> slots;
          for (const Value& operand : node.node().inputs) {
            given.push_back(random_bytes(operand.type(), random));
            buffers.push_back(platform->allocate(given.back().size() + 64, "operand"));
            slots.push_back({buffers.back().get(), size_of(dtype)});
            std::memcpy(slots.back().data(), given.back().data(), given.back().size());
          }
          const auto apart = platform->allocate(node.type().size_bytes() + 64, "result");
          const Slot result{apart.get(), 0};
          kernel->run(*stream, slots, {&result, 1}, {});
          for (std::size_t i = 0; i < slots.size(); ++i) {
            const Value& operand = node.node().inputs[i];
            const bool fits = operand.shape() == node.shape() && size_of(operand.dtype()) == size_of(node.dtype());
            EXPECT_EQ(kernel->can_overwrite(static_cast<int>(i), 0), fits);
            if (!fits) continue;
            const Slot taken = slots[i];
            kernel->run(*stream, slots, {&taken, 1}, {});
            EXPECT_EQ(std::memcmp(taken.data(), result.data(), node.type().size_bytes()), 0)
                << name(node.node().opcode) << " of " << operand.type().str() << " in operand " << i << ", " << threads
                << " threads";
            std::memcpy(taken.data(), given[i].data(), given[i].size());
          }
        }
    }
}

}  // namespace
}  // namespace zoe
