// Pictures and videos read with FFmpeg, and how near two of them are.
#pragma once

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libswscale/swscale.h>
}

#include <cctype>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace zoe::testing {

struct ReadVideo {
  int width = 0, height = 0;
  double fps = 0, seconds = 0;
  std::string codec;
  AVColorSpace colorspace{};
  AVColorRange color_range{};
  std::map<std::string, std::string> tags;        // of the file and of its pictures, keys in lower case
  std::vector<std::vector<std::uint8_t>> frames;  // [height, width, 3]; exact where stored as RGB, else by BT.709
  std::vector<double> times;                      // of each frame, in seconds
};

// The first stream of a file.
inline ReadVideo read_video(const std::filesystem::path& path) {
  ReadVideo video;
  const auto read_tags = [&](const AVDictionary* from) {
    const AVDictionaryEntry* entry = nullptr;
    while ((entry = av_dict_get(from, "", entry, AV_DICT_IGNORE_SUFFIX))) {
      std::string key = entry->key;
      for (char& c : key) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      video.tags[key] = entry->value;
    }
  };
  AVFormatContext* file = nullptr;
  if (avformat_open_input(&file, path.c_str(), nullptr, nullptr) < 0) throw std::runtime_error("cannot open " + path.string());
  avformat_find_stream_info(file, nullptr);
  const AVStream* stream = file->streams[0];
  read_tags(file->metadata);
  const AVCodec* codec = avcodec_find_decoder(stream->codecpar->codec_id);
  AVCodecContext* context = avcodec_alloc_context3(codec);
  avcodec_parameters_to_context(context, stream->codecpar);
  avcodec_open2(context, codec, nullptr);
  video.codec = avcodec_get_name(stream->codecpar->codec_id);
  video.fps = av_q2d(stream->avg_frame_rate);
  video.seconds = static_cast<double>(file->duration) / AV_TIME_BASE;
  AVPacket* packet = av_packet_alloc();
  AVFrame* frame = av_frame_alloc();
  const auto receive = [&] {
    while (avcodec_receive_frame(context, frame) >= 0) {
      video.width = frame->width, video.height = frame->height;
      video.colorspace = frame->colorspace, video.color_range = frame->color_range;
      SwsContext* to_rgb =
          sws_getContext(frame->width, frame->height, static_cast<AVPixelFormat>(frame->format), frame->width, frame->height,
                         AV_PIX_FMT_RGB24, SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT, nullptr, nullptr, nullptr);
      const int* bt709 = sws_getCoefficients(SWS_CS_ITU709);
      sws_setColorspaceDetails(to_rgb, bt709, 0, bt709, 1, 0, 1 << 16, 1 << 16);
      std::vector<std::uint8_t> rgb(3 * static_cast<std::size_t>(frame->width) * static_cast<std::size_t>(frame->height));
      std::uint8_t* const planes[] = {rgb.data()};
      const int strides[] = {3 * frame->width};
      sws_scale(to_rgb, frame->data, frame->linesize, 0, frame->height, planes, strides);
      sws_freeContext(to_rgb);
      video.frames.push_back(std::move(rgb));
      video.times.push_back(static_cast<double>(frame->best_effort_timestamp) * av_q2d(stream->time_base));
      read_tags(frame->metadata);
    }
  };
  while (av_read_frame(file, packet) >= 0) {
    avcodec_send_packet(context, packet);
    av_packet_unref(packet);
    receive();
  }
  avcodec_send_packet(context, nullptr);
  receive();
  av_packet_free(&packet);
  av_frame_free(&frame);
  avcodec_free_context(&context);
  avformat_close_input(&file);
  return video;
}

// The frames 0001.png, 0002.png ... of a folder, in order.
inline std::vector<std::vector<std::uint8_t>> read_frames(const std::filesystem::path& folder) {
  std::vector<std::vector<std::uint8_t>> frames;
  for (int number = 1;; ++number) {
    const std::string digits = std::to_string(10'000 + number);
    const std::filesystem::path path = folder / (digits.substr(1) + ".png");
    if (!std::filesystem::exists(path)) return frames;
    frames.push_back(read_video(path).frames.at(0));
  }
}

// Peak signal-to-noise ratio over all values of both videos, in dB; infinite if they are equal.
inline double psnr(const std::vector<std::vector<std::uint8_t>>& a, const std::vector<std::vector<std::uint8_t>>& b) {
  if (a.size() != b.size() || a.empty())
    throw std::runtime_error("got " + std::to_string(a.size()) + " frames, expected " + std::to_string(b.size()));
  double squares = 0, count = 0;
  for (std::size_t f = 0; f < a.size(); ++f) {
    if (a[f].size() != b[f].size()) throw std::runtime_error("frames of different sizes");
    for (std::size_t i = 0; i < a[f].size(); ++i, ++count) squares += (a[f][i] - b[f][i]) * (a[f][i] - b[f][i]);
  }
  return squares == 0 ? std::numeric_limits<double>::infinity() : 10 * std::log10(255.0 * 255.0 * count / squares);
}

}  // namespace zoe::testing
