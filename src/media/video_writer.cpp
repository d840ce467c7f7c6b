#include "media/video_writer.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <system_error>

#include "base/error.h"
#include "base/nearest.h"
#include "media/ffmpeg.h"
#include "media/frame_sink.h"

namespace zoe {

namespace {

constexpr std::string_view kWhere = "output";

struct Suffix {
  std::string_view text;
  VideoFormat format;
};
constexpr Suffix kSuffixes[] = {
    {".mp4", VideoFormat::mp4}, {".webm", VideoFormat::webm}, {".gif", VideoFormat::gif}, {".png", VideoFormat::png}};

PendingOutput::Kind output_kind(VideoFormat format) {
  return format == VideoFormat::folder ? PendingOutput::Kind::folder : PendingOutput::Kind::file;
}

void check_settings(VideoFormat format, const VideoSettings& settings) {
  constexpr int kMaxSize = 16384, kMaxFrames = 100'000, kMaxThreads = 64;
  constexpr auto kInvalid = ErrorKind::invalid_argument;
  const auto [width, height, frames, fps, threads] =
      std::tuple(settings.width, settings.height, settings.frames, settings.fps, settings.threads);
  check(width >= 1 && width <= kMaxSize && height >= 1 && height <= kMaxSize, kInvalid, kWhere,
        "bad video size: got {}x{}, expected 1 to {} each way. Choose another --width and --height.", width, height, kMaxSize);
  check(frames >= 1 && frames <= kMaxFrames, kInvalid, kWhere,
        "bad frame count: got {}, expected 1 to {}. Choose another --num-frames.", frames, kMaxFrames);
  check(std::isfinite(fps) && fps >= 0.1 && fps <= 1000, kInvalid, kWhere,
        "bad frame rate: got {}, expected 0.1 to 1000 frames a second. Choose another --fps.", fps);
  check(threads >= 1 && threads <= kMaxThreads, kInvalid, kWhere, "bad encoder thread count: got {}, expected 1 to {}.", threads,
        kMaxThreads);
  switch (format) {
    case VideoFormat::mp4:
      check(width % 2 == 0 && height % 2 == 0, kInvalid, kWhere,
            "bad size for .mp4: got {}x{}, expected even numbers. Choose a .webm, .gif or .png output, or another size.", width,
            height);
      require_encoder("libx264");
      break;
    case VideoFormat::webm: require_encoder("libvpx-vp9"); break;
    case VideoFormat::gif:
      check(fps <= 50, kInvalid, kWhere,
            "bad frame rate for .gif: got {}, expected at most 50, as players slow down shorter delays. Choose a smaller --fps or "
            ".mp4.",
            fps);
      require_encoder("gif");
      break;
    case VideoFormat::png:
    case VideoFormat::folder: break;
  }
  if (format == VideoFormat::png && frames > 1) {
    const SheetLayout sheet = sheet_layout(settings);
    // The largest image that FFmpeg reads (av_image_check_size), and with it most that show pictures.
    check((sheet.width + 128LL) * (sheet.height + 128LL) < INT32_MAX / 8, kInvalid, kWhere,
          "{} frames of {}x{} are too many for one .png: got {}x{} pixels, expected at most 268 million. Choose a folder (a path "
          "without "
          "suffix).",
          frames, width, height, sheet.width, sheet.height);
  }
}

std::unique_ptr<FrameSink> make_sink(VideoFormat format, const SinkTarget& target, const VideoSettings& settings) {
  switch (format) {
    case VideoFormat::mp4:
    case VideoFormat::webm: return movie_sink(format, target, settings);
    case VideoFormat::gif: return gif_sink(target, settings);
    case VideoFormat::png:
    case VideoFormat::folder: break;
  }
  return png_sink(format, target, settings);
}

}  // namespace

VideoFormat video_format(const std::filesystem::path& path) {
  check(!path.empty(), ErrorKind::invalid_argument, kWhere, "the path is empty, expected a file or a folder. Choose one with -o.");
  std::string suffix = path.extension().string();
  if (suffix.empty()) return VideoFormat::folder;
  std::ranges::transform(suffix, suffix.begin(),
                         [](unsigned char c) { return static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c); });
  for (const Suffix& known : kSuffixes)
    if (known.text == suffix) return known.format;
  fail(ErrorKind::invalid_argument, kWhere,
       "unknown suffix of {}: got {}, expected .mp4, .webm, .gif, .png, or none for a folder of frames. Choose one of them.",
       in_quotes(path.string()), in_quotes(suffix));
}

void check_output(const std::filesystem::path& path, const VideoSettings& settings) {
  const VideoFormat format = video_format(path);
  check_settings(format, settings);
  const PendingOutput probe(path, output_kind(format));
}

VideoWriter::VideoWriter(const std::filesystem::path& path, VideoFormat format, const VideoSettings& settings)
    : frames_(settings.frames),
      frame_bytes_(3 * static_cast<std::size_t>(settings.width) * static_cast<std::size_t>(settings.height)),
      output_(path, output_kind(format)),
      sink_(make_sink(format, {output_.path(), output_.final_path()}, settings)) {}

VideoWriter::~VideoWriter() = default;

std::unique_ptr<VideoWriter> VideoWriter::open(const std::filesystem::path& path, const VideoSettings& settings) {
  const VideoFormat format = video_format(path);
  check_settings(format, settings);
  return std::unique_ptr<VideoWriter>(new VideoWriter(path, format, settings));
}

void VideoWriter::write(std::span<const std::uint8_t> rgb) {
  check(sink_ != nullptr && written_ < frames_, ErrorKind::invalid_argument, kWhere,
        "one frame too many: got frame {}, expected {} as announced.", written_ + 1, frames_);
  check(rgb.size() == frame_bytes_, ErrorKind::invalid_argument, kWhere,
        "bad frame: got {} bytes, expected {} (height x width x 3).", rgb.size(), frame_bytes_);
  sink_->write(rgb);
  ++written_;
}

void VideoWriter::finish() {
  check(sink_ != nullptr, ErrorKind::invalid_argument, kWhere, "the video is finished already. Call finish() once.");
  check(written_ == frames_, ErrorKind::invalid_argument, kWhere,
        "the video is not complete: got {} frames, expected {} as announced.", written_, frames_);
  sink_->finish();
  sink_.reset();
  output_.commit();
}

// Fitted to the growth of RssAnon (/proc/self/status) of writers of 128x128 to 832x480 pixels, 17 to 81 frames, 1 to 4 threads,
// with the encoder options of movie.cpp; within 8% of each measurement from 4 MiB up.
std::size_t encoder_bytes(VideoFormat format, const VideoSettings& settings) {
  const double width = settings.width, height = settings.height;
  constexpr double kMiB = 1024 * 1024;
  const auto image = [](double w, double h) {
    // The picture and its compressed bytes, which are never more.
    return 0.5 * kMiB + 3 * w * h * 2;
  };
  double bytes = 0;
  switch (format) {
    // x264 pads its reference and lookahead frames by 32 pixels on each side, libvpx by 80; row threads of libvpx have tables each.
    case VideoFormat::mp4: bytes = 2.4 * kMiB + 0.2 * kMiB * settings.threads + 67 * (width + 64) * (height + 64); break;
    case VideoFormat::webm: bytes = 2.1 * kMiB + 6.1 * kMiB * settings.threads + 78 * (width + 160) * (height + 160); break;
    case VideoFormat::gif: bytes = 8.3 * kMiB + 3 * width * height * settings.frames; break;  // histogram, and the frames
    case VideoFormat::png:
      if (settings.frames > 1) {
        const SheetLayout sheet = sheet_layout(settings);
        bytes = image(sheet.width, sheet.height);
      } else {
        bytes = image(width, height);
      }
      break;
    case VideoFormat::folder: bytes = image(width, height); break;
  }
  return static_cast<std::size_t>(bytes);
}

MetadataText metadata_text(const VideoSettings& settings) {
  auto object = nlohmann::ordered_json::object();
  for (const auto& [key, value] : settings.metadata) object[key] = value;
  // Bytes that are not UTF-8 become U+FFFD; what is parsed back is valid text throughout.
  MetadataText text{object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace), ""};
  if (object.contains("prompt")) text.title = nlohmann::ordered_json::parse(text.json)["prompt"].get<std::string>();
  return text;
}

void write_file(const SinkTarget& target, const char* mode, std::initializer_list<Bytes> parts, int replace_last) {
  const auto check_system = [&](bool ok) {
    const int error = errno;
    check(ok, ErrorKind::io, kWhere, "cannot write {}: {}. Free some space or choose another place with -o.", target.name.string(),
          std::generic_category().message(error));
  };
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::unique_ptr<std::FILE, Close> file(std::fopen(target.path.c_str(), mode));
  check_system(file != nullptr);
  if (replace_last > 0) check_system(std::fseek(file.get(), -replace_last, SEEK_END) == 0);
  for (const Bytes part : parts) check_system(std::fwrite(part.data(), 1, part.size(), file.get()) == part.size());
  check_system(std::fclose(file.release()) == 0);  // what was still buffered is written here
}

}  // namespace zoe
