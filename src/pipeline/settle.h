// From what a request says and a model's defaults to what is done: the parts that recipes have in common.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "models/precision.h"
#include "pipeline/model.h"
#include "pipeline/program.h"
#include "pipeline/request.h"
#include "platform/platform.h"
#include "schedulers/scheduler.h"

namespace zoe {

std::int64_t round_up(std::int64_t value, std::int64_t step);

// Sizes and frames: rounded down to what the model makes with a notice (or up, then cropped, with exact_size). invalid_argument for
// one out of range.
void settle_size(const Request& request, const ModelConfig& model, Spelling spelling, Settled& settled);
// Prompts and seeds of each video, steps, guidance, fps and the scheduler's configuration.
void settle_sampling(const Request& request, const ModelConfig& model, Spelling spelling, Settled& settled,
                     SchedulerConfig& scheduler);

// What products and attention of the transformer are computed from, by precision, attention and exact_blocks, or by the quality
// where these are open. `unsupported` where a device cannot do what was named; a notice where quality means less on it. `tokens`:
// of a video.
void settle_arithmetic(const Request& request, const ModelConfig& model, DType dtype, std::int64_t tokens, const Platform& platform,
                       Spelling spelling, Settled& settled);
// Which of `steps` steps are exact all the same; if all of them are, the request is.
void settle_exact_steps(const Request& request, int steps, Spelling spelling, Settled& settled);
// Of an exact step, or of any other.
ComponentPrecision precision_of(const Settled& settled, DType dtype, bool exact_step = false);

// Refuses what cannot fit by any plan before time is spent on planning: a few activations of every token, and one full-size
// activation of the decoder's last stage for the frames of one latent frame.
void check_fits_at_all(const Settled& settled, const ModelConfig& model, const DeviceInfo& device, DType dtype);
// The transformer numbers its tokens along each axis up to rope_max_seq_len.
void check_positions(const Settled& settled, const ModelConfig& model, Spelling spelling);

// Input values; result finite f32[1]: 0 if all of them are finite, else NaN.
NamedGraph trace_finite(const Type& values);
Value finite_flag(const Value& values);
// Floats from one flag of a table to the next: a cache line, so that each is aligned.
inline constexpr std::int64_t kFiniteRow = 16;

}  // namespace zoe
