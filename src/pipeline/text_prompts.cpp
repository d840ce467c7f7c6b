#include "pipeline/text_prompts.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/log.h"
#include "models/umt5/model.h"
#include "pipeline/stage_run.h"
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

void TextPrompts::take(const std::vector<std::string>& prompts, const std::optional<std::string>& negative) {
  std::int64_t longest = 0;
  const auto tokenize = [&](const std::string& text, std::string_view what) {
    std::size_t total = 0;
    ids_.push_back(tokenizer_.encode(prompt_clean(text), kMaxTokens, &total));
    if (total > static_cast<std::size_t>(kMaxTokens))
      log(LogLevel::notice, fmt::format("{} has {} tokens: the last {} are cut off", what, total,
                                        total - static_cast<std::size_t>(kMaxTokens)));
    longest = std::max(longest, static_cast<std::int64_t>(ids_.back().size()));
  };
  std::map<std::string_view, std::size_t> seen;
  for (const std::string& prompt : prompts) {
    const auto [found, is_new] = seen.try_emplace(prompt, ids_.size());
    if (is_new) tokenize(prompt, "the prompt");
    of_video_.push_back(found->second);
  }
  if (negative) tokenize(*negative, "the negative prompt");
  tokens_ = padded(longest);
  rows_ = padded(longest + 1);
}

ProgramPlan TextPrompts::plan(std::int64_t tokens) const {
  return {"text", fmt::format("text {}", tokens),
          [this, tokens] { return NamedGraph{trace_umt5(model_.text_encoder, dtype_, tokens), {"last_hidden_state"}}; }};
}

Stage TextPrompts::stage() const {
  return {.name = "encode", .phase = Phase::encode, .uses = {{"text", "text", "text_encoder"}}, .may_stream = true};
}

void TextPrompts::encode(StageRun& run) {
  const BoundPlan plan = run.bind("text");
  const std::int64_t width = model_.text_encoder.d_model;
  run.upload(run.tensor("buckets"), relative_position_buckets(model_.text_encoder, tokens_));
  states_.clear();
  for (const std::vector<std::int32_t>& ids : ids_) {
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
    run.progress(states_.size(), ids_.size());
  }
}

}  // namespace zoe
