// What the portable program has of FFmpeg (ZOE_PORTABLE): the muxers, encoders and the one protocol below, linked from Debian's
// static libraries.
//
// FFmpeg finds its parts through lists, each in an object file of its own (allformats.c, allcodecs.c, ...); the whole library, and
// the hundred libraries that it is built with, hang on them. The functions of those files are defined here instead, over short
// lists, so the linker takes what these need and nothing else: 6 MB that depend on libc and libm. The names are internal to FFmpeg
// 5.1; with another version the link fails.
extern "C" {
#include <libavcodec/avcodec.h>
#include <libavcodec/bsf.h>
#include <libavformat/avformat.h>
#include <libavutil/mem.h>
}

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string_view>

extern "C" {

struct URLProtocol;
extern const AVInputFormat ff_mov_demuxer, ff_matroska_demuxer;  // for the settings in a file
extern const AVOutputFormat ff_mp4_muxer, ff_mov_muxer, ff_matroska_muxer, ff_webm_muxer, ff_gif_muxer;
extern const AVCodec ff_libx264_encoder, ff_libvpx_vp9_encoder, ff_gif_encoder;
extern const AVBitStreamFilter ff_vp9_superframe_bsf;  // webm asks for it
extern const URLProtocol ff_file_protocol;

}  // extern "C"

namespace {

constexpr const AVOutputFormat* kMuxers[] = {&ff_mp4_muxer, &ff_mov_muxer, &ff_matroska_muxer, &ff_webm_muxer, &ff_gif_muxer};
constexpr const AVInputFormat* kDemuxers[] = {&ff_mov_demuxer, &ff_matroska_demuxer};
constexpr const AVCodec* kEncoders[] = {&ff_libx264_encoder, &ff_libvpx_vp9_encoder, &ff_gif_encoder};
constexpr const AVBitStreamFilter* kFilters[] = {&ff_vp9_superframe_bsf};

// FFmpeg's iterators: `state` is the caller's, null at first.
template <class T, std::size_t N>
const T* next(const T* const (&list)[N], void** state) {
  const auto i = reinterpret_cast<std::uintptr_t>(*state);
  if (i >= N) return nullptr;
  *state = reinterpret_cast<void*>(i + 1);
  return list[i];
}

template <class T, std::size_t N>
const T* named(const T* const (&list)[N], const char* name) {
  for (const T* const each : list)
    if (name && std::string_view(each->name) == name) return each;
  return nullptr;
}

}  // namespace

extern "C" {

// allformats.c
const AVOutputFormat* av_muxer_iterate(void** state) { return next(kMuxers, state); }
const AVInputFormat* av_demuxer_iterate(void** state) { return next(kDemuxers, state); }
void avpriv_register_devices(const AVOutputFormat* const[], const AVInputFormat* const[]) {}

// allcodecs.c
const AVCodec* av_codec_iterate(void** state) { return next(kEncoders, state); }
const AVCodec* avcodec_find_encoder_by_name(const char* name) { return named(kEncoders, name); }
const AVCodec* avcodec_find_encoder(AVCodecID id) {
  for (const AVCodec* const encoder : kEncoders)
    if (encoder->id == id) return encoder;
  return nullptr;
}
const AVCodec* avcodec_find_decoder(AVCodecID) { return nullptr; }
const AVCodec* avcodec_find_decoder_by_name(const char*) { return nullptr; }

// h264dec.c: whether a decoder that is not here said how far frames are out of order.
int avpriv_h264_has_num_reorder_frames(AVCodecContext*) { return 0; }

// bitstream_filters.c, parsers.c
const AVBitStreamFilter* av_bsf_iterate(void** state) { return next(kFilters, state); }
const AVBitStreamFilter* av_bsf_get_by_name(const char* name) { return named(kFilters, name); }
const AVClass* ff_bsf_child_class_iterate(void**) { return nullptr; }
const AVCodecParser* av_parser_iterate(void**) { return nullptr; }

// protocols.c: files only
const char* avio_enum_protocols(void**, int) { return nullptr; }
const AVClass* avio_protocol_get_class(const char*) { return nullptr; }
const AVClass* ff_urlcontext_child_class_iterate(void**) { return nullptr; }
const URLProtocol** ffurl_get_protocols(const char*, const char*) {
  auto** const list = static_cast<const URLProtocol**>(av_calloc(2, sizeof(const URLProtocol*)));  // ends with null
  if (list) list[0] = &ff_file_protocol;
  return list;
}

// hwcontext_*.c, tls_gnutls.c: devices and connections that are never opened. Tables of functions, all null.
#define ZOE_NO_DEVICE(name)     \
  extern const char name[1024]; \
  const char name[1024] = {};
ZOE_NO_DEVICE(ff_hwcontext_type_cuda)
ZOE_NO_DEVICE(ff_hwcontext_type_drm)
ZOE_NO_DEVICE(ff_hwcontext_type_opencl)
ZOE_NO_DEVICE(ff_hwcontext_type_qsv)
ZOE_NO_DEVICE(ff_hwcontext_type_vaapi)
ZOE_NO_DEVICE(ff_hwcontext_type_vdpau)
ZOE_NO_DEVICE(ff_hwcontext_type_vulkan)
#undef ZOE_NO_DEVICE
// libbz2: tracks of Matroska files that are compressed with it; ours never are. BZ_CONFIG_ERROR.
int BZ2_bzDecompressInit(void*, int, int) { return -9; }
int BZ2_bzDecompress(void*) { return -9; }
int BZ2_bzDecompressEnd(void*) { return -9; }
int ff_gnutls_init() { return 0; }
void ff_gnutls_deinit() {}

}  // extern "C"
