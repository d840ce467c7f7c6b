// The prompts of a request through the text encoder: a stage that recipes share.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/recipe.h"

namespace zoe {

inline constexpr std::int64_t kMaxTokens = 512;  // of the pipeline, whatever the tokenizer allows

class TextPrompts {
 public:
  explicit TextPrompts(const RecipeContext& context);

  // Cleans and tokenizes: of each video its prompt (equal ones are encoded once), and a negative prompt for all where there is one.
  void take(const std::vector<std::string>& prompts, const std::optional<std::string>& negative);

  // Lengths are padded to a few sizes and the padding masked, so that requests with other prompts run the same plans. `tokens`: of
  // the encoder; `rows`: of what cross-attention sees, with a row for all that is padded up to kMaxTokens.
  std::int64_t tokens() const { return tokens_; }
  std::int64_t rows() const { return rows_; }
  static std::vector<std::int64_t> lengths();  // all sizes, rising

  ProgramPlan plan() const { return plan(tokens_); }
  ProgramPlan plan(std::int64_t tokens) const;
  Stage stage() const;
  void encode(StageRun& run);

  // f32 [tokens of the prompt, d_model], after encode().
  const std::vector<float>& states(std::size_t video) const { return states_[of_video_[video]]; }
  const std::vector<float>& negative_states() const { return states_.back(); }

 private:
  const ModelConfig& model_;
  const Tokenizer& tokenizer_;
  DType dtype_;
  std::int64_t tokens_ = 0, rows_ = 0;
  std::vector<std::vector<std::int32_t>> ids_;  // of each text
  std::vector<std::size_t> of_video_;           // its text
  std::vector<std::vector<float>> states_;      // of each text
};

}  // namespace zoe
