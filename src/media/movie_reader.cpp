// Files of videos through FFmpeg's demuxers and decoders, to RGB by swscale.
extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libswscale/swscale.h>
}

#include <cmath>
#include <string>
#include <vector>

#include "media/ffmpeg.h"
#include "media/video_reader.h"

namespace zoe {

namespace {

struct CloseInput {
  void operator()(AVFormatContext* context) const { avformat_close_input(&context); }
};

// EIO is what demuxers say of a file that is cut, too.
std::string reason(int result) {
  if (result == AVERROR(EIO)) return "it ends too soon or cannot be read";
  char text[AV_ERROR_MAX_STRING_SIZE] = "unknown error";
  av_strerror(result, text, sizeof text);
  return text;
}

// Clockwise, by `turns` quarters.
Image turned(const Image& image, int turns) {
  const bool upright = turns == 2;
  Image out = black_image(upright ? image.width : image.height, upright ? image.height : image.width);
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x) {
      const int to_x = turns == 1 ? image.height - 1 - y : turns == 2 ? image.width - 1 - x : y;
      const int to_y = turns == 1 ? x : turns == 2 ? image.height - 1 - y : image.width - 1 - x;
      std::copy_n(image.row(y) + 3 * x, 3, out.row(to_y) + 3 * to_x);
    }
  return out;
}

class MovieReader : public VideoReader {
 public:
  MovieReader(const std::filesystem::path& path, std::string_view where) : name_(path.string()), where_(where) {
    capture_log();
    AVDictionary* options = nullptr;
    av_dict_set(&options, "protocol_whitelist", "file", 0);  // a playlist is not to reach for the network
    AVFormatContext* opened = nullptr;
    const int result = avformat_open_input(&opened, ("file:" + name_).c_str(), nullptr, &options);
    av_dict_free(&options);
    require(result, "is no video that FFmpeg reads");
    file_.reset(opened);
    const std::string_view format = file_->iformat->name;
    check(format != "hls" && format != "dash" && format != "concat", ErrorKind::unsupported, where_,
          "{} is a playlist ({}), which may have no end: expected a video. Give the file itself.", name_, format);
    find_streams();
    const AVCodec* codec = nullptr;
    stream_ = av_find_best_stream(file_.get(), AVMEDIA_TYPE_VIDEO, -1, -1, &codec, 0);
    check(stream_ != AVERROR_DECODER_NOT_FOUND, ErrorKind::unsupported, where_,
          "FFmpeg has no decoder for {} here. Give another file, or a folder of pictures.", name_);
    require(stream_, "holds no video");
    const AVStream& stream = *file_->streams[stream_];
    check(std::int64_t{stream.codecpar->width} * stream.codecpar->height <= kMaxImagePixels, ErrorKind::invalid_argument, where_,
          "{} is too large: got {}x{}, expected at most {} million pixels a frame.", name_, stream.codecpar->width,
          stream.codecpar->height, kMaxImagePixels / 1'000'000);
    turns_ = turns_of(stream);
    context_.reset(avcodec_alloc_context3(codec));
    frame_.reset(av_frame_alloc());
    packet_.reset(av_packet_alloc());
    check(context_ && frame_ && packet_, ErrorKind::out_of_memory, where_, "cannot allocate the decoder of {}.", name_);
    require(avcodec_parameters_to_context(context_.get(), stream.codecpar), "cannot be decoded");
    context_->max_pixels = kMaxImagePixels;
    require(avcodec_open2(context_.get(), codec, nullptr), "cannot be decoded");
  }

  std::optional<Image> next() override {
    for (;;) {
      const int result = avcodec_receive_frame(context_.get(), frame_.get());
      if (result == AVERROR_EOF) {
        check(frames_ > 0, ErrorKind::invalid_argument, where_, "{} has no frames: got none, expected a video.", name_);
        return {};
      }
      if (result != AVERROR(EAGAIN)) {
        require(result, "is damaged");
        // Decoders hide what is missing behind something grey or older.
        check(frame_->decode_error_flags == 0 && (frame_->flags & AV_FRAME_FLAG_CORRUPT) == 0, ErrorKind::invalid_argument, where_,
              "{} is damaged at frame {}: got one that FFmpeg cannot decode whole. Give another copy of it, or make one of what is "
              "good "
              "(ffmpeg -i {} NEW).",
              name_, frames_ + 1, name_);
        Image image = rgb();
        av_frame_unref(frame_.get());
        ++frames_;
        return turns_ == 0 ? std::move(image) : turned(image, turns_);
      }
      feed();
    }
  }

 private:
  void require(int result, std::string_view what) const {
    if (result >= 0) return;
    fail(result == AVERROR(ENOMEM)   ? ErrorKind::out_of_memory
         : result == AVERROR(EACCES) ? ErrorKind::io
                                     : ErrorKind::invalid_argument,
         where_, "{} {}{}: {}. Give a video, or a folder of pictures.", name_, what,
         frames_ ? fmt::format(" behind frame {}", frames_) : "", reason(result));
  }

  // Decodes a few frames, so that their size has its bound before anything says it.
  void find_streams() {
    std::vector<AVDictionary*> each(file_->nb_streams, nullptr);
    for (AVDictionary*& options : each) av_dict_set_int(&options, "max_pixels", kMaxImagePixels, 0);
    const int result = avformat_find_stream_info(file_.get(), each.data());
    for (AVDictionary*& options : each) av_dict_free(&options);
    require(result, "is no video that FFmpeg reads");
  }

  // One more packet of the stream to the decoder, or the end. Empty ones, which some files have in place of a frame that is shown
  // again, would mean the end to it.
  void feed() {
    for (;;) {
      const int result = av_read_frame(file_.get(), packet_.get());
      if (result == AVERROR_EOF) return require(avcodec_send_packet(context_.get(), nullptr), "is damaged");
      require(result, "is damaged");
      const bool ours = packet_->stream_index == stream_ && packet_->size > 0;
      const int sent = ours ? avcodec_send_packet(context_.get(), packet_.get()) : 0;
      av_packet_unref(packet_.get());
      require(sent, "is damaged");
      if (ours) return;
    }
  }

  static int turns_of(const AVStream& stream) {
    const auto* const matrix =
        reinterpret_cast<const std::int32_t*>(av_stream_get_side_data(&stream, AV_PKT_DATA_DISPLAYMATRIX, nullptr));
    if (!matrix) return 0;
    const double angle = av_display_rotation_get(matrix);  // counterclockwise, degrees
    return std::isfinite(angle) ? ((-static_cast<int>(std::lround(angle / 90)) % 4) + 4) % 4 : 0;
  }

  Image rgb() {
    const AVFrame& frame = *frame_;
    if (frames_ == 0) width_ = frame.width, height_ = frame.height;
    check(frame.width == width_ && frame.height == height_ && width_ > 0 && height_ > 0, ErrorKind::invalid_argument, where_,
          "{} changes its size at frame {}: got {}x{}, expected {}x{}.", name_, frames_ + 1, frame.width, frame.height, width_,
          height_);
    constexpr int kFlags = SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INP | SWS_FULL_CHR_H_INT;
    converter_.reset(sws_getCachedContext(converter_.release(), width_, height_, static_cast<AVPixelFormat>(frame.format), width_,
                                          height_, AV_PIX_FMT_RGB24, kFlags, nullptr, nullptr, nullptr));
    check(converter_ != nullptr, ErrorKind::unsupported, where_, "{} has pixels that FFmpeg does not convert to RGB.", name_);
    // Where chroma lies stays unsaid: as the command ffmpeg and Python's readers do it, it is taken for the middle of its pixels.
    const bool named = frame.colorspace != AVCOL_SPC_UNSPECIFIED && frame.colorspace != AVCOL_SPC_RGB;
    const int matrix = named ? static_cast<int>(frame.colorspace) : height_ >= 720 ? SWS_CS_ITU709 : SWS_CS_ITU601;
    const int range = frame.color_range == AVCOL_RANGE_JPEG || frame.format == AV_PIX_FMT_YUVJ420P ||
                              frame.format == AV_PIX_FMT_YUVJ422P || frame.format == AV_PIX_FMT_YUVJ444P
                          ? 1
                          : 0;
    // Refused for pixels that are RGB already, which need none.
    static_cast<void>(sws_setColorspaceDetails(converter_.get(), sws_getCoefficients(matrix), range,
                                               sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, 1 << 16, 1 << 16));
    const FfmpegPtr<AVFrame> made = make_frame(AV_PIX_FMT_RGB24, width_, height_);
    require(sws_scale(converter_.get(), frame.data, frame.linesize, 0, height_, made->data, made->linesize), "cannot be converted");
    Image image = black_image(width_, height_);
    for (int y = 0; y < height_; ++y)
      std::copy_n(made->data[0] + static_cast<std::ptrdiff_t>(y) * made->linesize[0], image.row_bytes(), image.row(y));
    return image;
  }

  std::string name_, where_;
  std::unique_ptr<AVFormatContext, CloseInput> file_;
  FfmpegPtr<AVCodecContext> context_;
  FfmpegPtr<AVFrame> frame_;
  FfmpegPtr<AVPacket> packet_;
  FfmpegPtr<SwsContext> converter_;
  int stream_ = -1, turns_ = 0, width_ = 0, height_ = 0;
  std::int64_t frames_ = 0;
};

}  // namespace

std::unique_ptr<VideoReader> open_movie(const std::filesystem::path& path, std::string_view where) {
  return std::make_unique<MovieReader>(path, where);
}

}  // namespace zoe
