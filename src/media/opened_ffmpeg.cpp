// FFmpeg's functions in a build that opens its libraries when a video is written or read (ZOE_OPEN_FFMPEG), and so neither needs
// them where none is, nor carries them: each is looked up when it is first called.
//
// The headers are FFmpeg 5's, and structures differ from one major version to the next: only libraries of these versions are
// opened.
extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>
}

#include <dlfcn.h>

#include <string>

#include "base/error.h"

namespace {

struct Library {
  const char* name;
  int version;
};
constexpr Library kUtil{"libavutil", LIBAVUTIL_VERSION_MAJOR}, kCodec{"libavcodec", LIBAVCODEC_VERSION_MAJOR},
    kFormat{"libavformat", LIBAVFORMAT_VERSION_MAJOR}, kScale{"libswscale", LIBSWSCALE_VERSION_MAJOR};

void* symbol(const Library& library, const char* function) {
  const std::string file = fmt::format("{}.so.{}", library.name, library.version);
  void* const opened = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);  // never closed
  void* const found = opened ? dlsym(opened, function) : nullptr;
  if (!found) {
    const char* const why = dlerror();
    zoe::fail(
        zoe::ErrorKind::unsupported, "ffmpeg",
        "FFmpeg 5's {} is not on this machine ({}). Install it (Debian 12: libavformat59, libswscale6), or choose .png or a folder "
        "of pictures.",
        file, why ? why : "no reason given");
  }
  return found;
}

}  // namespace

// A definition that differs from the header's declaration does not compile.
#define ZOE_OPENED(library, result, name, parameters, arguments)                            \
  extern "C" result name parameters {                                                       \
    static const auto function = reinterpret_cast<decltype(&name)>(symbol(library, #name)); \
    return function arguments;                                                              \
  }

ZOE_OPENED(kUtil, AVRational, av_d2q, (double d, int max), (d, max))
ZOE_OPENED(kUtil, void, av_dict_free, (AVDictionary * *m), (m))
ZOE_OPENED(kUtil, AVDictionaryEntry*, av_dict_get,
           (const AVDictionary* m, const char* key, const AVDictionaryEntry* prev, int flags), (m, key, prev, flags))
ZOE_OPENED(kUtil, int, av_dict_set, (AVDictionary * *m, const char* key, const char* value, int flags), (m, key, value, flags))
ZOE_OPENED(kUtil, int, av_dict_set_int, (AVDictionary * *m, const char* key, int64_t value, int flags), (m, key, value, flags))
ZOE_OPENED(kUtil, double, av_display_rotation_get, (const int32_t matrix[9]), (matrix))
ZOE_OPENED(kUtil, AVFrame*, av_frame_alloc, (void), ())
ZOE_OPENED(kUtil, void, av_frame_free, (AVFrame * *frame), (frame))
ZOE_OPENED(kUtil, int, av_frame_get_buffer, (AVFrame * frame, int align), (frame, align))
ZOE_OPENED(kUtil, int, av_frame_make_writable, (AVFrame * frame), (frame))
ZOE_OPENED(kUtil, void, av_frame_unref, (AVFrame * frame), (frame))
ZOE_OPENED(kUtil, int, av_log_format_line2,
           (void* object, int level, const char* format, va_list values, char* line, int size, int* prefix),
           (object, level, format, values, line, size, prefix))
ZOE_OPENED(kUtil, void, av_log_set_callback, (void (*callback)(void*, int, const char*, va_list)), (callback))
ZOE_OPENED(kUtil, int, av_opt_set_int, (void* object, const char* name, int64_t value, int flags), (object, name, value, flags))
ZOE_OPENED(kUtil, int, av_strerror, (int error, char* text, size_t size), (error, text, size))

ZOE_OPENED(kCodec, AVPacket*, av_packet_alloc, (void), ())
ZOE_OPENED(kCodec, void, av_packet_free, (AVPacket * *packet), (packet))
ZOE_OPENED(kCodec, void, av_packet_rescale_ts, (AVPacket * packet, AVRational from, AVRational to), (packet, from, to))
ZOE_OPENED(kCodec, void, av_packet_unref, (AVPacket * packet), (packet))
ZOE_OPENED(kCodec, AVCodecContext*, avcodec_alloc_context3, (const AVCodec* codec), (codec))
ZOE_OPENED(kCodec, const AVCodec*, avcodec_find_encoder_by_name, (const char* name), (name))
ZOE_OPENED(kCodec, void, avcodec_free_context, (AVCodecContext * *context), (context))
ZOE_OPENED(kCodec, int, avcodec_open2, (AVCodecContext * context, const AVCodec* codec, AVDictionary** options),
           (context, codec, options))
ZOE_OPENED(kCodec, int, avcodec_parameters_from_context, (AVCodecParameters * to, const AVCodecContext* from), (to, from))
ZOE_OPENED(kCodec, int, avcodec_parameters_to_context, (AVCodecContext * to, const AVCodecParameters* from), (to, from))
ZOE_OPENED(kCodec, int, avcodec_receive_frame, (AVCodecContext * context, AVFrame* frame), (context, frame))
ZOE_OPENED(kCodec, int, avcodec_receive_packet, (AVCodecContext * context, AVPacket* packet), (context, packet))
ZOE_OPENED(kCodec, int, avcodec_send_frame, (AVCodecContext * context, const AVFrame* frame), (context, frame))
ZOE_OPENED(kCodec, int, avcodec_send_packet, (AVCodecContext * context, const AVPacket* packet), (context, packet))

ZOE_OPENED(kFormat, int, av_find_best_stream,
           (AVFormatContext * file, AVMediaType type, int wanted, int related, const AVCodec** decoder, int flags),
           (file, type, wanted, related, decoder, flags))
ZOE_OPENED(kFormat, int, av_read_frame, (AVFormatContext * file, AVPacket* packet), (file, packet))
ZOE_OPENED(kFormat, uint8_t*, av_stream_get_side_data, (const AVStream* stream, AVPacketSideDataType type, size_t* size),
           (stream, type, size))
ZOE_OPENED(kFormat, int, av_write_frame, (AVFormatContext * file, AVPacket* packet), (file, packet))
ZOE_OPENED(kFormat, int, av_write_trailer, (AVFormatContext * file), (file))
ZOE_OPENED(kFormat, int, avformat_alloc_output_context2,
           (AVFormatContext * *file, const AVOutputFormat* format, const char* name, const char* path), (file, format, name, path))
ZOE_OPENED(kFormat, void, avformat_close_input, (AVFormatContext * *file), (file))
ZOE_OPENED(kFormat, int, avformat_find_stream_info, (AVFormatContext * file, AVDictionary** options), (file, options))
ZOE_OPENED(kFormat, void, avformat_free_context, (AVFormatContext * file), (file))
ZOE_OPENED(kFormat, int, avformat_init_output, (AVFormatContext * file, AVDictionary** options), (file, options))
ZOE_OPENED(kFormat, AVStream*, avformat_new_stream, (AVFormatContext * file, const AVCodec* codec), (file, codec))
ZOE_OPENED(kFormat, int, avformat_open_input,
           (AVFormatContext * *file, const char* url, const AVInputFormat* format, AVDictionary** options),
           (file, url, format, options))
ZOE_OPENED(kFormat, int, avformat_write_header, (AVFormatContext * file, AVDictionary** options), (file, options))
ZOE_OPENED(kFormat, int, avio_closep, (AVIOContext * *io), (io))
ZOE_OPENED(kFormat, void, avio_flush, (AVIOContext * io), (io))
ZOE_OPENED(kFormat, int, avio_open, (AVIOContext * *io, const char* url, int flags), (io, url, flags))

ZOE_OPENED(kScale, SwsContext*, sws_alloc_context, (void), ())
ZOE_OPENED(kScale, void, sws_freeContext, (SwsContext * context), (context))
ZOE_OPENED(kScale, SwsContext*, sws_getCachedContext,
           (SwsContext * context, int from_width, int from_height, AVPixelFormat from, int to_width, int to_height,
            AVPixelFormat to, int flags, SwsFilter* from_filter, SwsFilter* to_filter, const double* parameters),
           (context, from_width, from_height, from, to_width, to_height, to, flags, from_filter, to_filter, parameters))
ZOE_OPENED(kScale, const int*, sws_getCoefficients, (int colorspace), (colorspace))
ZOE_OPENED(kScale, int, sws_init_context, (SwsContext * context, SwsFilter* from_filter, SwsFilter* to_filter),
           (context, from_filter, to_filter))
ZOE_OPENED(kScale, int, sws_scale,
           (SwsContext * context, const uint8_t* const from[], const int from_stride[], int y, int height, uint8_t* const to[],
            const int to_stride[]),
           (context, from, from_stride, y, height, to, to_stride))
ZOE_OPENED(kScale, int, sws_setColorspaceDetails,
           (SwsContext * context, const int from_table[4], int from_range, const int to_table[4], int to_range, int brightness,
            int contrast, int saturation),
           (context, from_table, from_range, to_table, to_range, brightness, contrast, saturation))
