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
  // With `emphasis` their parentheses are weights (text/emphasis.h; its errors): parts become tokens on their own, and the state of
  // a token of weight w goes w times as far from what the encoder makes of the empty prompt, as in ComfyUI.
  void take(const std::vector<std::string>& prompts, const std::optional<std::string>& negative, bool emphasis, Spelling spelling);

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
  const std::vector<float>& negative_states() const { return states_[negative_]; }

 private:
  struct Text {
    std::vector<std::int32_t> ids;
    std::vector<float> weights;  // of each; empty: all are 1
  };
  Text tokenize(const std::string& text, std::string_view what, std::string_view field, bool emphasis) const;
  void weigh(const Text& text, std::vector<float>& states) const;

  const ModelConfig& model_;
  const Tokenizer& tokenizer_;
  DType dtype_;
  std::int64_t tokens_ = 0, rows_ = 0;
  std::vector<Text> texts_;                 // with weights, the last is the empty prompt
  std::vector<std::size_t> of_video_;       // its text
  std::size_t negative_ = 0;                // the negative prompt's text
  std::vector<std::vector<float>> states_;  // of each text
};

}  // namespace zoe
