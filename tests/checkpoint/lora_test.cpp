// LoRA files of every layout against merges in f64, recorded by fixtures/record_loras.py.
#include "checkpoint/lora.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/thin_product.h"
#include "models/wan_dit/names.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kFolder = fs::path(ZOE_FIXTURES) / "loras";

struct Model {
  Checkpoint checkpoint{kFolder / "base.safetensors"};
  std::vector<ExpectedTensor> tensors;
  std::vector<TensorAlias> names;

  explicit Model(bool sees_image = true) {
    for (const TensorEntry& tensor : checkpoint.tensors()) {
      if (!sees_image && tensor.name.find(".add_") != std::string::npos) continue;
      tensors.push_back({tensor.name, tensor.shape});
      if (const auto stored = wan_dit_original_names().stored_of(tensor.name)) names.push_back({tensor.name, stored->key});
    }
  }
  WeightPtr weight(const std::string& name) const { return weight_of(*checkpoint.find(name), "base"); }
};

std::vector<float> read(const WeightReader& weight, std::int64_t begin, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  weight.fetch(begin, count);
  weight.read(begin, count, DType::f32, values.data());
  return values;
}
std::vector<float> read(const WeightReader& weight) { return read(weight, 0, weight.count()); }

WeightChanges changes_of(const Model& model, const json& loras) {
  WeightChanges all;
  for (const json& each : loras) {
    LoraFit fit = LoraFile(kFolder / each.at(0).get<std::string>()).fit("transformer", model.tensors, model.names, each.at(1));
    EXPECT_TRUE(fit.unknown.empty()) << each << " " << (fit.unknown.empty() ? "" : fit.unknown.front());
    for (auto& [tensor, of] : fit.changes) {
      std::vector<WeightChange>& list = all[tensor];
      list.insert(list.end(), of.begin(), of.end());
    }
  }
  return all;
}

class Lora : public ::testing::TestWithParam<json> {};

TEST_P(Lora, IsMergedAsInF64) {
  const Model model;
  const Checkpoint expected(kFolder / "expected.safetensors");
  const std::string prefix = GetParam().at("name").get<std::string>() + "/";
  const WeightChanges changes = changes_of(model, GetParam().at("loras"));
  std::size_t compared = 0;
  double worst = 0;
  for (const TensorEntry& entry : expected.tensors()) {
    if (!entry.name.starts_with(prefix)) continue;
    const std::string name = entry.name.substr(prefix.size());
    const WeightPtr merged = changed(model.weight(name), changes, name);
    const std::vector<float> want = read(*weight_of(entry, "expected")), got = read(*merged);
    double squares = 0;
    for (const float value : want) squares += static_cast<double>(value) * static_cast<double>(value);
    const double rms = std::sqrt(squares / static_cast<double>(want.size()));
    for (std::size_t i = 0; i < want.size(); ++i) {
      const double error = std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i])) /
                           std::max(std::abs(static_cast<double>(want[i])), rms);
      worst = std::max(worst, error);
      ASSERT_LE(error, 1e-6) << name << " " << i << ": " << got[i] << " " << want[i];
    }
    // In bf16 the f32 values are rounded once; in pieces the bits are the same.
    std::vector<std::uint16_t> rounded(got.size());
    merged->read(0, merged->count(), DType::bf16, rounded.data());
    for (std::size_t i = 0; i < got.size(); ++i) ASSERT_EQ(rounded[i], f32_to_bf16(got[i]));
    const std::int64_t count = merged->count();
    for (const std::int64_t piece : {1, 3, 64, 257})
      for (std::int64_t begin = count % 7; begin < count; begin += piece * 5 + 1) {
        const std::int64_t now = std::min(piece, count - begin);
        const std::vector<float> part = read(*merged, begin, now);
        ASSERT_EQ(std::memcmp(part.data(), got.data() + begin, part.size() * sizeof(float)), 0) << name << " " << begin;
      }
    ++compared;
  }
  EXPECT_EQ(compared, changes.size());
  std::printf("%s %zu tensors, worst %.2g\n", prefix.c_str(), compared, worst);
}

std::vector<json> cases() {
  std::ifstream file(kFolder / "cases.json");
  return json::parse(file).at("cases").get<std::vector<json>>();
}
INSTANTIATE_TEST_SUITE_P(Recorded, Lora, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.at("name").template get<std::string>(); });

TEST(LoraFit, SaysWhichKeysMeanNothing) {
  const Model model(false);  // has no k_img
  const LoraFit fit = LoraFile(kFolder / "musubi.safetensors").fit("transformer", model.tensors, model.names, 1);
  EXPECT_EQ(fit.unknown.size(), 6u);
  EXPECT_EQ(fit.unknown.at(0), "lora_unet_blocks_0_cross_attn_k_img.alpha");
  EXPECT_EQ(fit.changes.size(), 2u);
  EXPECT_FALSE(fit.nearest.empty());
}

TEST(LoraFit, ChangesOfOneFileAndStrengthAreEqual) {
  const Model model;
  const LoraFile file(kFolder / "kohya.safetensors"), again(kFolder / "kohya.safetensors");
  const WeightChanges a = file.fit("transformer", model.tensors, model.names, 0.5).changes;
  EXPECT_EQ(a, file.fit("transformer", model.tensors, model.names, 0.5).changes);
  EXPECT_NE(a, file.fit("transformer", model.tensors, model.names, 0.25).changes);
  EXPECT_NE(a, again.fit("transformer", model.tensors, model.names, 0.5).changes);
}

TEST(LoraFit, TakesAFolderOfDiffusersOrPeft) {
  const Model model;
  const fs::path folder = fs::temp_directory_path() / "zoe_lora_folder";
  fs::create_directories(folder);
  fs::copy_file(kFolder / "diffsynth.safetensors", folder / "adapter_model.safetensors", fs::copy_options::overwrite_existing);
  std::ofstream(folder / "adapter_config.json") << R"({"r": 4, "lora_alpha": 8, "peft_type": "LORA"})";
  const LoraFit fit = LoraFile(folder).fit("transformer", model.tensors, model.names, 0.5);
  // alpha / r = 2, strength 0.5: what the file says without a configuration.
  const LoraFit plain = LoraFile(kFolder / "diffsynth.safetensors").fit("transformer", model.tensors, model.names, 1);
  const std::string name = "blocks.1.attn1.to_q.weight";
  EXPECT_EQ(read(*changed(model.weight(name), fit.changes, name)), read(*changed(model.weight(name), plain.changes, name)));
  fs::remove_all(folder);
}

// Ranks one behind the other, up scaled, down transposed, zeros behind them.
TEST(LowRankFactor, HasAllRanksSideBySide) {
  const std::vector<float> up{1, 2, 3}, down{4, 5}, up2{1, 2, 3, 4, 5, 6}, down2{1, 2, 3, 4};
  const auto tensor = [](const std::vector<float>& values, Shape shape) {
    return ChangeTensor{dense_weight(DType::f32, std::move(shape), values.data()), "file", "key"};
  };
  const std::vector<LowRankChange> changes{{tensor(up, {3, 1}), tensor(down, {1, 2}), 2},
                                           {tensor(up2, {3, 2}), tensor(down2, {2, 2}), -0.5}};
  EXPECT_EQ(read(*low_rank_factor(changes, true, 3, 4)), (std::vector<float>{2, -0.5, -1, 0, 4, -1.5, -2, 0, 6, -2.5, -3, 0}));
  EXPECT_EQ(read(*low_rank_factor(changes, false, 2, 4)), (std::vector<float>{4, 1, 3, 0, 5, 2, 4, 0}));
  EXPECT_EQ(read(*low_rank_factor({}, true, 2, 1)), (std::vector<float>{0, 0}));
}

TEST(LowRankFactor, RefusesWhatIsNoNumber) {
  const float values[] = {1, std::nanf("")};
  const ChangeTensor bad{dense_weight(DType::f32, {2, 1}, values), "style.safetensors", "q.lora_up.weight"},
      good{dense_weight(DType::f32, {1, 1}, values), "style.safetensors", "q.lora_down.weight"};
  const WeightPtr up = low_rank_factor({{bad, good, 1}}, true, 2, 16);
  EXPECT_EQ(read(*low_rank_factor({{bad, good, 1}}, false, 1, 2)), (std::vector<float>{1, 0}));
  try {
    up->fetch(0, up->count());
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::invalid_argument);
    EXPECT_NE(std::string(error.what()).find("[style.safetensors] bad value of \"q.lora_up.weight\": got nan as element 1"),
              std::string::npos)
        << error.what();
  }
}

// Only what is nothing but such sums may stand beside a weight.
TEST(LoraFit, SaysWhatIsLowRank) {
  const Model model;
  const auto kinds = [&](const char* file) {
    std::pair<std::size_t, std::size_t> counts;  // low-rank changes, others
    for (const auto& [tensor, of] : LoraFile(kFolder / file).fit("transformer", model.tensors, model.names, 0.5).changes)
      for (const WeightChange& change : of) ++(change.low_rank.empty() ? counts.second : counts.first);
    return counts;
  };
  using Counts = std::pair<std::size_t, std::size_t>;
  EXPECT_EQ(kinds("kohya.safetensors"), Counts(5, 12));  // pairs, and whole differences
  EXPECT_EQ(kinds("diffsynth.safetensors"), Counts(2, 0));
  EXPECT_EQ(kinds("loha.safetensors"), Counts(0, 2));
  EXPECT_EQ(kinds("lokr.safetensors"), Counts(0, 4));
  EXPECT_EQ(kinds("dora.safetensors"), Counts(0, 3));
  WeightChanges changes = LoraFile(kFolder / "kohya.safetensors").fit("transformer", model.tensors, model.names, 0.5).changes;
  for (const auto& [name, of] : changes) {
    if (of.at(0).low_rank.empty()) continue;
    const WeightPtr base = model.weight(name);
    const std::int64_t rows = base->shape().dim(0), columns = base->count() / rows, rank = of.at(0).low_rank.at(0).rank();
    const std::vector<float> up = read(*low_rank_factor(of[0].low_rank, true, rows, rank)),
                             down = read(*low_rank_factor(of[0].low_rank, false, columns, rank)),
                             merged = read(*changed(base, changes, name)), stored = read(*base);
    for (std::int64_t i = 0; i < rows * columns; ++i) {
      double sum = static_cast<double>(stored[static_cast<std::size_t>(i)]);
      for (std::int64_t k = 0; k < rank; ++k)
        sum += static_cast<double>(up[static_cast<std::size_t>(i / columns * rank + k)]) *
               static_cast<double>(down[static_cast<std::size_t>(i % columns * rank + k)]);
      ASSERT_NEAR(static_cast<double>(merged[static_cast<std::size_t>(i)]), sum, 1e-5) << name;
    }
  }
}

TEST(ThinProduct, IsTheSumInOrder) {
  constexpr std::int64_t kRows = 3, kRank = 5, kColumns = 150;
  std::vector<float> up(kRows * kRank), down(kRank * kColumns);
  for (std::size_t i = 0; i < up.size(); ++i) up[i] = std::sin(static_cast<float>(i));
  for (std::size_t i = 0; i < down.size(); ++i) down[i] = std::cos(static_cast<float>(3 * i));
  const ThinProduct product(*dense_weight(DType::f32, {kRows, kRank}, up.data()),
                            *dense_weight(DType::f32, {kRank, kColumns}, down.data()), 0.5);
  for (std::int64_t row = 0; row < kRows; ++row)
    for (const auto& [column, count] : {std::pair<std::int64_t, std::int64_t>{0, 150}, {63, 2}, {1, 64}, {128, 22}, {149, 1}}) {
      std::vector<float> got(static_cast<std::size_t>(count), 1.0f);
      product.add(row, column, count, got.data());
      for (std::int64_t i = 0; i < count; ++i) {
        volatile float sum = 0;  // no contraction
        for (std::int64_t k = 0; k < kRank; ++k) {
          volatile const float term =
              up[static_cast<std::size_t>(row * kRank + k)] * 0.5f * down[static_cast<std::size_t>(k * kColumns + column + i)];
          sum = sum + term;
        }
        ASSERT_EQ(got[static_cast<std::size_t>(i)], 1.0f + sum);
      }
    }
}

// Norms of a large matrix take long: each piece that is fetched adds its rows, so that who loads may stop between.
TEST(Magnitudes, AreSummedPieceByPiece) {
  struct Counted : DenseWeight {
    using DenseWeight::DenseWeight;
    void read(std::int64_t begin, std::int64_t count, DType dtype, void* out) const override {
      elements += count;
      DenseWeight::read(begin, count, dtype, out);
    }
    mutable std::int64_t elements = 0;
  };
  constexpr std::int64_t kRows = 12, kColumns = 40;
  std::vector<float> values(kRows * kColumns);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i * 37 % 101) / 50 - 1;
  for (const bool of_columns : {true, false}) {
    const std::vector<float> magnitude(of_columns ? kColumns : kRows, 1.5f);
    const auto make = [&](const WeightPtr& changed) {
      const WeightPtr base = dense_weight(DType::f32, {kRows, kColumns}, values.data());
      const Shape shape{static_cast<std::int64_t>(magnitude.size())};
      return set_magnitude(base, changed, {dense_weight(DType::f32, shape, magnitude.data()), "test", "magnitude"}, of_columns, 1);
    };
    const auto changed =
        std::make_shared<Counted>(DType::f32, Shape{kRows, kColumns}, reinterpret_cast<const std::byte*>(values.data()));
    const WeightPtr weight = make(changed);
    weight->fetch(0, 3 * kColumns + 5);
    EXPECT_EQ(changed->elements, 3 * kColumns);
    weight->fetch(3 * kColumns + 5, 6 * kColumns);
    EXPECT_EQ(changed->elements, 9 * kColumns);
    const std::vector<float> in_pieces = read(*weight, 40, 100), whole = read(*make(changed));
    EXPECT_TRUE(std::equal(in_pieces.begin(), in_pieces.end(), whole.begin() + 40));
    double squares = 0;
    for (std::int64_t i = 0; i < (of_columns ? kRows : kColumns); ++i) {
      const float value = whole[static_cast<std::size_t>(of_columns ? i * kColumns : i)];
      squares += static_cast<double>(value) * static_cast<double>(value);
    }
    EXPECT_NEAR(std::sqrt(squares), 1.5, 1e-6);
  }
}

}  // namespace
}  // namespace zoe
