#include "pipeline/text_prompts.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/log.h"
#include "models/umt5/model.h"
#include "pipeline/stage_run.h"
#include "text/emphasis.h"
#include "text/prompt.h"

namespace zoe {

namespace {

std::int64_t padded(std::int64_t length) {
  const std::vector<std::int64_t> lengths = TextPrompts::lengths();
  return *std::lower_bound(lengths.begin(), lengths.end() - 1, length);
}

}  // namespace

std::vector<std::int64_t> TextPrompts::lengths() { return {32, 64, 128, 256, kMaxTokens}; }

TextPrompts::TextPrompts(const RecipeContext& context)
    : model_(context.model), tokenizer_(context.tokenizer), dtype_(context.dtype) {}

TextPrompts::Text TextPrompts::tokenize(const std::string& text, std::string_view what, std::string_view field,
                                        bool emphasis) const {
  Text tokens;
  std::size_t total = 0;
  const std::string cleaned = prompt_clean(text);
  if (!emphasis) {
    tokens.ids = tokenizer_.encode(cleaned, kMaxTokens, &total);
  } else {
    for (const WeightedText& part : parse_emphasis(cleaned, field)) {
      std::size_t of_part = 0;
      std::vector<std::int32_t> ids = tokenizer_.encode(part.text, kMaxTokens, &of_part);
      ids.pop_back();  // the end, which comes once
      total += of_part - 1;
      tokens.ids.insert(tokens.ids.end(), ids.begin(), ids.end());
      tokens.weights.resize(tokens.ids.size(), static_cast<float>(part.weight));
    }
    ++total;
    tokens.ids.resize(std::min(tokens.ids.size(), static_cast<std::size_t>(kMaxTokens) - 1));
    tokens.ids.push_back(tokenizer_.eos_id());
    tokens.weights.resize(tokens.ids.size() - 1);
    tokens.weights.push_back(1);
    if (std::all_of(tokens.weights.begin(), tokens.weights.end(), [](float weight) { return weight == 1; })) tokens.weights.clear();
  }
  if (total > static_cast<std::size_t>(kMaxTokens))
    log(LogLevel::notice,
        fmt::format("{} has {} tokens: the last {} are cut off", what, total, total - static_cast<std::size_t>(kMaxTokens)));
  return tokens;
}

void TextPrompts::take(const std::vector<std::string>& prompts, const std::optional<std::string>& negative, bool emphasis,
                       Spelling spelling) {
  std::map<std::string_view, std::size_t> seen;
  for (const std::string& prompt : prompts) {
    const auto [found, is_new] = seen.try_emplace(prompt, texts_.size());
    if (is_new) texts_.push_back(tokenize(prompt, "the prompt", spelled("prompt", spelling), emphasis));
    of_video_.push_back(found->second);
  }
  negative_ = texts_.size();
  if (negative) texts_.push_back(tokenize(*negative, "the negative prompt", spelled("negative_prompt", spelling), emphasis));
  if (std::any_of(texts_.begin(), texts_.end(), [](const Text& text) { return !text.weights.empty(); }))
    texts_.push_back({{tokenizer_.eos_id()}, {}});
  std::size_t longest = 0;
  for (const Text& text : texts_) longest = std::max(longest, text.ids.size());
  tokens_ = padded(static_cast<std::int64_t>(longest));
  rows_ = padded(static_cast<std::int64_t>(longest) + 1);
}

// The empty prompt is its end and padding, whose states are zeros.
void TextPrompts::weigh(const Text& text, std::vector<float>& states) const {
  const std::vector<float>& empty = states_.back();
  const auto width = static_cast<std::size_t>(model_.text_encoder.d_model);
  for (std::size_t row = 0; row < text.weights.size(); ++row)
    for (std::size_t i = 0; text.weights[row] != 1 && i < width; ++i) {
      const float from = row == 0 ? empty[i] : 0.0f;
      float& state = states[row * width + i];
      state = (state - from) * text.weights[row] + from;
    }
}

ProgramPlan TextPrompts::plan(std::int64_t tokens) const {
  return {"text", fmt::format("text {}", tokens), [this, tokens] {
            return NamedGraph{trace_umt5(model_.text_encoder, dtype_, tokens), {"last_hidden_state"}};
          }};
}

Stage TextPrompts::stage() const {
  return {.name = "encode", .phase = Phase::encode, .uses = {{"text", "text", "text_encoder"}}, .may_stream = true};
}

void TextPrompts::encode(StageRun& run) {
  const BoundPlan plan = run.bind("text");
  const std::int64_t width = model_.text_encoder.d_model;
  run.upload(run.tensor("buckets"), relative_position_buckets(model_.text_encoder, tokens_));
  states_.clear();
  for (const Text& text : texts_) {
    const std::vector<std::int32_t>& ids = text.ids;
    std::vector<float> rows(static_cast<std::size_t>(tokens_ * width));  // beyond the prompt they stay zero and are masked
    for (std::size_t i = 0; i < ids.size(); ++i)
      run.read_stored("text_encoder", kUmt5Embedding, ids[i] * width, width, rows.data() + static_cast<std::int64_t>(i) * width);
    std::vector<float> mask(static_cast<std::size_t>(tokens_), -INFINITY);
    std::fill_n(mask.begin(), ids.size(), 0.0f);
    run.upload(run.tensor("embedded"), rows);
    run.upload(run.tensor("key_bias"), mask);
    run.run(plan, false);
    std::vector<float> states = run.download(plan.outputs[0]);
    states.resize(ids.size() * static_cast<std::size_t>(width));
    check(std::all_of(states.begin(), states.end(), [](float value) { return std::isfinite(value); }), ErrorKind::invalid_argument,
          "text_encoder",
          "not a number: the states of a prompt are not finite. A weight of text_encoder is damaged or does not fit {}: check its "
          "files, or try --dtype f32.",
          name(dtype_));
    states_.push_back(std::move(states));
    run.progress(states_.size(), texts_.size());
  }
  for (std::size_t i = 0; i < texts_.size(); ++i) weigh(texts_[i], states_[i]);
}

}  // namespace zoe
