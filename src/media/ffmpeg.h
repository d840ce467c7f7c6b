// FFmpeg's objects with owners, and its failures as Errors. Internal to this folder.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "media/frame_sink.h"

struct AVCodecContext;
struct AVDictionary;
struct AVFormatContext;
struct AVFrame;
struct AVPacket;
struct AVStream;
struct SwsContext;

namespace zoe {

struct FfmpegDelete {
  void operator()(AVCodecContext* context) const;
  void operator()(AVFormatContext* context) const;  // closes its file too
  void operator()(AVFrame* frame) const;
  void operator()(AVPacket* packet) const;
  void operator()(SwsContext* context) const;
};
template <class T>
using FfmpegPtr = std::unique_ptr<T, FfmpegDelete>;

// From the first call on FFmpeg's log is kept for errors, and nothing of it reaches stderr.
void capture_log();

// Throws for a negative result: `[output] cannot <doing>: <FFmpeg's text> (<last log lines>). <advice>`; else returns it.
// No memory is out_of_memory, whatever the kind.
int check_ffmpeg(int result, ErrorKind kind, std::string_view doing, std::string_view advice);

// A picture with memory of its own, rows aligned and padded as FFmpeg's code wants to read and write them: it works in vectors and
// goes beyond what was asked for. Nothing of a caller may be handed to it directly.
FfmpegPtr<AVFrame> make_frame(int pixel_format, int width, int height);

using FfmpegOptions = std::vector<std::pair<std::string_view, std::string>>;

struct EncoderSettings {
  const char* codec;  // FFmpeg's name of the encoder
  int pixel_format;   // AVPixelFormat
  int width, height;
  int rate_num, rate_den;  // time stamps count in units of rate_den / rate_num seconds
  int threads = 1;
  FfmpegOptions options = {};
};

// unsupported, unless FFmpeg has this encoder.
void require_encoder(const char* codec);

// An encoder and the one frame it is fed with.
class Encoder {
 public:
  explicit Encoder(const EncoderSettings& settings);
  // To be filled before encode(); still holds the previous content.
  AVFrame& frame();
  using PacketSink = std::function<void(AVPacket&)>;
  // Encodes frame(); calls `sink` for each packet that comes out, none or several.
  void encode(std::int64_t timestamp, const PacketSink& sink);
  void flush(const PacketSink& sink);
  const AVCodecContext& context() const { return *context_; }

 private:
  void receive(const PacketSink& sink);

  FfmpegPtr<AVCodecContext> context_;
  FfmpegPtr<AVFrame> frame_;
  FfmpegPtr<AVPacket> packet_;
};

// An encoder and the container file its packets go to.
class EncodedFile {
 public:
  // encoder_tag: who made the file, in place of FFmpeg's name, where the container has a tag for it.
  EncodedFile(const char* container, const SinkTarget& target, const EncoderSettings& settings, const FfmpegOptions& tags,
              const std::string& encoder_tag, const FfmpegOptions& options);
  AVFrame& frame() { return encoder_.frame(); }
  void encode(std::int64_t timestamp);
  void finish();

 private:
  void write(AVPacket& packet);
  int check_written(int result) const;

  std::filesystem::path name_;
  Encoder encoder_;
  FfmpegPtr<AVFormatContext> container_;
  AVStream* stream_ = nullptr;  // owned by container_
};

}  // namespace zoe
