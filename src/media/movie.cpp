// .mp4, .mov, .mkv and .webm: RGB to yuv420p by swscale, then x264 or libvpx.
extern "C" {
#include <libavutil/frame.h>
#include <libavutil/opt.h>
#include <libavutil/pixfmt.h>
#include <libavutil/rational.h>
#include <libswscale/swscale.h>
}

#include <cstring>

#include "media/ffmpeg.h"
#include "media/frame_sink.h"

namespace zoe {

namespace {

// RGB (full range) to yuv420p of BT.709 in limited range, chroma sited left as H.264 and VP9 players assume.
FfmpegPtr<SwsContext> yuv_converter(int width, int height) {
  constexpr std::string_view kAdvice = "Choose another output suffix";
  FfmpegPtr<SwsContext> context(sws_alloc_context());
  check(context != nullptr, ErrorKind::out_of_memory, "output", "cannot allocate FFmpeg's colour conversion. {}.", kAdvice);
  const std::pair<const char*, std::int64_t> options[] = {
      {"srcw", width},
      {"srch", height},
      {"dstw", width},
      {"dsth", height},
      {"src_format", AV_PIX_FMT_RGB24},
      {"dst_format", AV_PIX_FMT_YUV420P},
      {"src_range", 1},
      {"dst_range", 0},
      {"dst_h_chr_pos", 0},
      {"dst_v_chr_pos", 128},
      {"sws_flags", SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INP | SWS_FULL_CHR_H_INT},
  };
  for (const auto& [name, value] : options)
    check_ffmpeg(av_opt_set_int(context.get(), name, value, 0), ErrorKind::unsupported, "prepare the colour conversion", kAdvice);
  const int* coefficients = sws_getCoefficients(SWS_CS_ITU709);
  check_ffmpeg(sws_setColorspaceDetails(context.get(), coefficients, 1, coefficients, 0, 0, 1 << 16, 1 << 16),
               ErrorKind::unsupported, "prepare the colour conversion", kAdvice);
  check_ffmpeg(sws_init_context(context.get(), nullptr, nullptr), ErrorKind::unsupported, "prepare the colour conversion", kAdvice);
  return context;
}

// What x264 is asked beside its preset. Its AVX-512 routines do not always give the same file (mb-tree with B-frames and the loop
// filter, x264 164): which bits come out depends on where buffers lie. So they are left out; a set named here is used unasked, so
// it is only named where the processor has all of it. Its threads take a frame each and wait for the rows that they look back at,
// which always gives the same file; the lookahead stays in the thread that hands frames over.
std::string x264_params() {
  std::string params = "rc-lookahead=20:sync-lookahead=0";
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) params += ":asm=avx2,fma3,lzcnt,bmi2";
#endif
  return params;
}

EncoderSettings encoder_settings(VideoFormat format, const VideoSettings& settings) {
  const AVRational rate = av_d2q(settings.fps, 100'000);
  const bool is_vp9 = format == VideoFormat::webm;
  EncoderSettings encoder{.codec = is_vp9 ? "libvpx-vp9" : "libx264",
                          .pixel_format = AV_PIX_FMT_YUV420P,
                          .width = settings.width,
                          .height = settings.height,
                          .rate_num = rate.num,
                          .rate_den = rate.den,
                          .threads = encoder_threads(format, settings)};
  const std::string crf = fmt::format("{}", settings.crf.value_or(default_crf(format)));
  // Short lookaheads: each frame in one costs about ten bytes a pixel (encoder_bytes counts on these numbers).
  if (is_vp9) encoder.options = {{"deadline", "good"}, {"cpu-used", "4"}, {"lag-in-frames", "10"}, {"crf", crf}, {"b", "0"}};
  else encoder.options = {{"preset", "medium"}, {"crf", crf}, {"x264-params", x264_params()}};
  return encoder;
}

struct Container {
  const char* name;
  FfmpegOptions options;
};
Container container(VideoFormat format) {
  switch (format) {
    case VideoFormat::webm: return {"webm", {}};
    case VideoFormat::mkv: return {"matroska", {}};
    case VideoFormat::mov: return {"mov", {{"movflags", "+faststart"}}};
    default: return {"mp4", {{"movflags", "+faststart"}}};
  }
}

class MovieSink : public FrameSink {
 public:
  MovieSink(VideoFormat format, const SinkTarget& target, const VideoSettings& settings, const MetadataText& text)
      : width_(settings.width),
        height_(settings.height),
        rgb_(make_frame(AV_PIX_FMT_RGB24, width_, height_)),
        converter_(yuv_converter(width_, height_)),
        file_(container(format).name, target, encoder_settings(format, settings),
              {{"title", text.title}, {"comment", text.json}, {"encoding_tool", settings.software}}, settings.software,
              container(format).options) {}

  void write(std::span<const std::uint8_t> rgb) override {
    const auto row_bytes = 3 * static_cast<std::size_t>(width_);
    for (int y = 0; y < height_; ++y)
      std::memcpy(rgb_->data[0] + static_cast<std::ptrdiff_t>(y) * rgb_->linesize[0],
                  rgb.data() + static_cast<std::size_t>(y) * row_bytes, row_bytes);
    AVFrame& frame = file_.frame();
    check_ffmpeg(sws_scale(converter_.get(), rgb_->data, rgb_->linesize, 0, height_, frame.data, frame.linesize),
                 ErrorKind::unsupported, "convert a frame", "Choose another output suffix");
    file_.encode(index_++);
  }
  void finish() override { file_.finish(); }

 private:
  int width_, height_;
  std::int64_t index_ = 0;
  FfmpegPtr<AVFrame> rgb_;
  FfmpegPtr<SwsContext> converter_;
  EncodedFile file_;
};

}  // namespace

std::unique_ptr<FrameSink> movie_sink(VideoFormat format, const SinkTarget& target, const VideoSettings& settings) {
  return std::make_unique<MovieSink>(format, target, settings, metadata_text(settings));
}

}  // namespace zoe
