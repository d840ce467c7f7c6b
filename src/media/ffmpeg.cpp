#include "media/ffmpeg.h"

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/log.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>
}

#include <cstring>
#include <deque>
#include <mutex>
#include <string>

namespace zoe {

namespace {

constexpr std::string_view kEncoderAdvice = "Choose another output suffix";
constexpr std::string_view kFileAdvice = "Free some space or choose another place with -o";

// The last warnings and errors of FFmpeg and of the encoders below it, whichever thread they came from.
class CapturedLog {
 public:
  static CapturedLog& instance() {
    static CapturedLog log;
    return log;
  }
  void add(std::string line) {
    const std::lock_guard lock(mutex_);
    lines_.push_back(std::move(line));
    if (lines_.size() > 3) lines_.pop_front();
  }
  std::string take() {
    const std::lock_guard lock(mutex_);
    std::string all;
    for (const std::string& line : lines_) all += (all.empty() ? "" : "; ") + line;
    lines_.clear();
    return all;
  }

 private:
  std::mutex mutex_;
  std::deque<std::string> lines_;
};

void capture(void* object, int level, const char* format, va_list arguments) {
  if (level > AV_LOG_WARNING) return;
  char line[300];
  int print_prefix = 1;
  if (av_log_format_line2(object, level, format, arguments, line, sizeof line, &print_prefix) < 0) return;
  std::string text = line;
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ' || text.back() == '.')) text.pop_back();
  if (!text.empty()) CapturedLog::instance().add(std::move(text));
}

}  // namespace

void capture_log() { [[maybe_unused]] static const bool once = (av_log_set_callback(capture), true); }

namespace {

template <class T>
T* not_null(T* pointer) {
  if (!pointer) check_ffmpeg(AVERROR(ENOMEM), ErrorKind::out_of_memory, "prepare the encoder", kEncoderAdvice);
  return pointer;
}

// An AVDictionary that frees itself.
struct Dictionary {
  AVDictionary* entries = nullptr;
  explicit Dictionary(const FfmpegOptions& options) {
    for (const auto& [key, value] : options)
      check_ffmpeg(av_dict_set(&entries, std::string(key).c_str(), value.c_str(), 0), ErrorKind::out_of_memory,
                   "prepare the encoder", kEncoderAdvice);
  }
  Dictionary(const Dictionary&) = delete;
  Dictionary& operator=(const Dictionary&) = delete;
  ~Dictionary() { av_dict_free(&entries); }
  // FFmpeg takes what it knows out of the dictionary and says nothing about the rest.
  void check_all_used() const {
    const AVDictionaryEntry* left = av_dict_get(entries, "", nullptr, AV_DICT_IGNORE_SUFFIX);
    check(!left, ErrorKind::unsupported, "output", "FFmpeg does not know the option {}. {}.", left ? left->key : "",
          kEncoderAdvice);
  }
};

}  // namespace

void FfmpegDelete::operator()(AVCodecContext* context) const { avcodec_free_context(&context); }
void FfmpegDelete::operator()(AVFormatContext* context) const {
  avio_closep(&context->pb);
  avformat_free_context(context);
}
void FfmpegDelete::operator()(AVFrame* frame) const { av_frame_free(&frame); }
void FfmpegDelete::operator()(AVPacket* packet) const { av_packet_free(&packet); }
void FfmpegDelete::operator()(SwsContext* context) const { sws_freeContext(context); }

int check_ffmpeg(int result, ErrorKind kind, std::string_view doing, std::string_view advice) {
  if (result >= 0) return result;
  char reason[AV_ERROR_MAX_STRING_SIZE] = "unknown error";
  av_strerror(result, reason, sizeof reason);
  const std::string lines = CapturedLog::instance().take();
  fail(result == AVERROR(ENOMEM) ? ErrorKind::out_of_memory : kind, "output", "cannot {}: {}{}{}{}. {}.", doing, reason,
       lines.empty() ? "" : " (", lines, lines.empty() ? "" : ")", advice);
}

FfmpegPtr<AVFrame> make_frame(int pixel_format, int width, int height) {
  FfmpegPtr<AVFrame> frame(not_null(av_frame_alloc()));
  frame->format = pixel_format;
  frame->width = width;
  frame->height = height;
  check_ffmpeg(av_frame_get_buffer(frame.get(), 0), ErrorKind::out_of_memory, "allocate a frame", kEncoderAdvice);
  // Libraries read what lies behind a row's end, if only to multiply it by zero: defined, so that a memory checker has nothing to
  // say.
  for (const AVBufferRef* const buffer : frame->buf)
    if (buffer) std::memset(buffer->data, 0, buffer->size);
  return frame;
}

void require_encoder(const char* codec) {
  check(avcodec_find_encoder_by_name(codec) != nullptr, ErrorKind::unsupported, "output", "FFmpeg has no encoder {} here. {}.",
        codec, kEncoderAdvice);
}

Encoder::Encoder(const EncoderSettings& settings) {
  capture_log();
  CapturedLog::instance().take();  // lines of an earlier writer
  require_encoder(settings.codec);
  context_.reset(not_null(avcodec_alloc_context3(avcodec_find_encoder_by_name(settings.codec))));
  context_->width = settings.width;
  context_->height = settings.height;
  context_->pix_fmt = static_cast<AVPixelFormat>(settings.pixel_format);
  context_->time_base = {settings.rate_den, settings.rate_num};
  context_->framerate = {settings.rate_num, settings.rate_den};
  context_->sample_aspect_ratio = {1, 1};  // square; left unset, PNGs would state 0:1
  context_->thread_count = settings.threads;
  if (context_->pix_fmt == AV_PIX_FMT_YUV420P) {
    context_->colorspace = AVCOL_SPC_BT709;
    context_->color_primaries = AVCOL_PRI_BT709;
    context_->color_trc = AVCOL_TRC_BT709;
    context_->color_range = AVCOL_RANGE_MPEG;
    context_->chroma_sample_location = AVCHROMA_LOC_LEFT;
    context_->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;  // parameter sets once in the container, as mp4 and webm want them
  }
  Dictionary options(settings.options);
  check_ffmpeg(avcodec_open2(context_.get(), nullptr, &options.entries), ErrorKind::unsupported,
               fmt::format("open FFmpeg's encoder {} for {}x{}", settings.codec, settings.width, settings.height), kEncoderAdvice);
  options.check_all_used();

  frame_ = make_frame(context_->pix_fmt, settings.width, settings.height);
  frame_->colorspace = context_->colorspace;
  frame_->color_range = context_->color_range;
  packet_.reset(not_null(av_packet_alloc()));
}

AVFrame& Encoder::frame() {
  check_ffmpeg(av_frame_make_writable(frame_.get()), ErrorKind::out_of_memory, "allocate a frame", kEncoderAdvice);
  return *frame_;
}

void Encoder::encode(std::int64_t timestamp, const PacketSink& sink) {
  frame_->pts = timestamp;
  check_ffmpeg(avcodec_send_frame(context_.get(), frame_.get()), ErrorKind::unsupported, "encode a frame", kEncoderAdvice);
  receive(sink);
}

void Encoder::flush(const PacketSink& sink) {
  check_ffmpeg(avcodec_send_frame(context_.get(), nullptr), ErrorKind::unsupported, "encode the last frames", kEncoderAdvice);
  receive(sink);
}

void Encoder::receive(const PacketSink& sink) {
  for (;;) {
    const int result = avcodec_receive_packet(context_.get(), packet_.get());
    if (result == AVERROR(EAGAIN) || result == AVERROR_EOF) return;
    check_ffmpeg(result, ErrorKind::unsupported, "encode a frame", kEncoderAdvice);
    sink(*packet_);
    av_packet_unref(packet_.get());
  }
}

EncodedFile::EncodedFile(const char* container, const SinkTarget& target, const EncoderSettings& settings,
                         const FfmpegOptions& tags, const std::string& encoder_tag, const FfmpegOptions& options)
    : name_(target.name), encoder_(settings) {
  // "file:" because FFmpeg would read a colon in the name as the end of a protocol.
  const std::string url = "file:" + target.path.string();
  AVFormatContext* made = nullptr;
  const int result = avformat_alloc_output_context2(&made, nullptr, container, url.c_str());
  container_.reset(made);
  check_ffmpeg(result, ErrorKind::unsupported, fmt::format("make a {} file", container), kEncoderAdvice);

  stream_ = not_null(avformat_new_stream(container_.get(), nullptr));
  const AVCodecContext& context = encoder_.context();
  check_ffmpeg(avcodec_parameters_from_context(stream_->codecpar, &context), ErrorKind::out_of_memory, "prepare the file",
               kFileAdvice);
  stream_->time_base = context.time_base;
  stream_->avg_frame_rate = context.framerate;
  Dictionary tag_entries(tags);
  std::swap(container_->metadata, tag_entries.entries);

  check_written(avio_open(&container_->pb, url.c_str(), AVIO_FLAG_WRITE));
  Dictionary option_entries(options);
  check_written(avformat_init_output(container_.get(), &option_entries.entries));
  // FFmpeg has just put its own name there.
  check_ffmpeg(av_dict_set(&container_->metadata, "encoder", encoder_tag.empty() ? nullptr : encoder_tag.c_str(), 0),
               ErrorKind::out_of_memory, "prepare the file", kFileAdvice);
  check_written(avformat_write_header(container_.get(), &option_entries.entries));
  option_entries.check_all_used();
}

int EncodedFile::check_written(int result) const {
  return result >= 0 ? result : check_ffmpeg(result, ErrorKind::io, fmt::format("write {}", name_.string()), kFileAdvice);
}

void EncodedFile::write(AVPacket& packet) {
  packet.stream_index = stream_->index;
  av_packet_rescale_ts(&packet, encoder_.context().time_base, stream_->time_base);
  check_written(av_write_frame(container_.get(), &packet));
  check_written(container_->pb->error);
}

void EncodedFile::encode(std::int64_t timestamp) {
  encoder_.encode(timestamp, [this](AVPacket& packet) { write(packet); });
}

void EncodedFile::finish() {
  encoder_.flush([this](AVPacket& packet) { write(packet); });
  check_written(av_write_trailer(container_.get()));
  avio_flush(container_->pb);
  check_written(container_->pb->error);
  check_written(avio_closep(&container_->pb));
}

}  // namespace zoe
