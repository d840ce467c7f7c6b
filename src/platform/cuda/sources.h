// The text of kernels/*.cu, embedded by CMake.
#pragma once

namespace zoe::cuda {

extern const char* const kMovementSource;
extern const char* const kTilesSource;  // in front of those that follow
extern const char* const kProductSource;
extern const char* const kHopperSource;  // behind them, in front of the next, of flash attention and of that over wide heads
extern const char* const kImplicitGemmSource;
extern const char* const kAttentionSource;
extern const char* const kFlashAttentionSource;
extern const char* const kWideAttentionSource;
extern const char* const kConvLayoutSource;
extern const char* const kSixteenSource;  // in front of the text of base/blocks.inc
extern const char* const kWidenSource;    // by itself, behind the prelude and that text

}  // namespace zoe::cuda
