// The text of kernels/*.cu, embedded by CMake.
#pragma once

namespace zoe::cuda {

extern const char* const kMovementSource;
extern const char* const kTilesSource;  // in front of those that follow
extern const char* const kProductSource;
extern const char* const kHopperSource;  // behind them, in front of what multiplies by wgmma
extern const char* const kImplicitGemmSource;
extern const char* const kAttentionSource;
extern const char* const kFlashAttentionSource;
extern const char* const kWideAttentionSource;
extern const char* const kCodesSource;
extern const char* const kCodedLinearSource;
extern const char* const kCodedAttentionSource;
extern const char* const kConvLayoutSource;
extern const char* const kSixteenSource;  // in front of the text of base/blocks.inc
extern const char* const kWidenSource;    // by itself, behind the prelude and that text

}  // namespace zoe::cuda
