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
constexpr Suffix kSuffixes[] = {{".mp4", VideoFormat::mp4},   {".mov", VideoFormat::mov}, {".mkv", VideoFormat::mkv},
                                {".webm", VideoFormat::webm}, {".gif", VideoFormat::gif}, {".png", VideoFormat::png}};

bool is_h264(VideoFormat format) { return format == VideoFormat::mp4 || format == VideoFormat::mov || format == VideoFormat::mkv; }

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
  if (settings.crf) {
    const int most = is_h264(format) ? 51 : 63;
    check(is_h264(format) || format == VideoFormat::webm, kInvalid, kWhere,
          "a crf is for .mp4, .mov, .mkv and .webm only: got {} for pictures that lose nothing. Leave it out.", *settings.crf);
    check(*settings.crf >= 0 && *settings.crf <= most, kInvalid, kWhere,
          "bad crf: got {}, expected 0 (best) to {}. Leave it out for {}.", *settings.crf, most, default_crf(format));
  }
  switch (format) {
    case VideoFormat::mp4:
    case VideoFormat::mov:
    case VideoFormat::mkv:
      check(width % 2 == 0 && height % 2 == 0, kInvalid, kWhere,
            "bad size for H.264: got {}x{}, expected even numbers. Choose a .webm, .gif or .png output, or another size.", width,
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
    case VideoFormat::mov:
    case VideoFormat::mkv:
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
  check(path != "-", ErrorKind::invalid_argument, kWhere,
        "a video is not written to the standard output: got \"-\". Name a file, as ./- for one of that name.");
  const auto lower = [](std::string text) {
    std::ranges::transform(text, text.begin(),
                           [](unsigned char c) { return static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c); });
    return text;
  };
  const std::string name = lower(path.filename().string()), suffix = lower(path.extension().string());
  for (const Suffix& known : kSuffixes) {
    check(known.text != name, ErrorKind::invalid_argument, kWhere, "no name before the suffix in {}. Write one, as out{}.",
          in_quotes(path.string()), known.text);
    if (known.text == suffix) return known.format;
  }
  // No suffix is a number, alone or before a sign: that is part of a name, as a version is.
  const std::size_t digits = suffix.empty() ? 0 : std::min(suffix.find_first_not_of("0123456789", 1), suffix.size());
  const bool is_number = digits > 1 && (digits == suffix.size() || !((suffix[digits] >= 'a' && suffix[digits] <= 'z')));
  std::error_code status;
  if (suffix.empty() || is_number || std::filesystem::is_directory(path, status)) return VideoFormat::folder;
  fail(ErrorKind::invalid_argument, kWhere,
       "unknown suffix of {}: got {}, expected .mp4, .mov, .mkv, .webm, .gif, .png, or none for a folder of frames. Choose one of "
       "them, or end a folder's name with a slash.",
       in_quotes(path.string()), in_quotes(path.extension().string()));
}

std::filesystem::path numbered_output(const std::filesystem::path& path, std::size_t number) {
  const std::filesystem::path plain = path.has_filename() ? path : path.parent_path();
  const bool has_suffix = video_format(path) != VideoFormat::folder;
  const std::string stem = has_suffix ? plain.stem().string() : plain.filename().string();
  return plain.parent_path() / fmt::format("{}-{:04}{}", stem, number, has_suffix ? plain.extension().string() : "");
}

int default_crf(VideoFormat format) { return format == VideoFormat::webm ? 30 : 21; }

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

// Fitted to the growth of RssAnon (build/bench_encode) of writers of 128x128 to 1280x720 pixels, 5 to 81 frames, 1 to 16 threads,
// with the encoder options of movie.cpp; within 10% of each measurement from 4 MiB up.
std::size_t encoder_bytes(VideoFormat format, const VideoSettings& settings) {
  const double width = settings.width, height = settings.height;
  constexpr double kMiB = 1024 * 1024;
  const auto image = [](double w, double h) { return 0.4 * kMiB + 3 * w * h; };  // compressed row by row
  // x264 holds a frame until its lookahead (20) and B-frames (3) are full, then its references, too, and the pictures that each
  // thread but the first works with, as far as there are frames for them; it pads each by 32 pixels on each side, libvpx by 80. Row
  // threads of libvpx have tables each.
  constexpr int kHeld = 23;
  const double padded = (width + 64) * (height + 64), held = std::min(settings.frames, kHeld);
  const double threads = encoder_threads(format, settings), at_work = std::clamp((settings.frames - 5) / 1.8, 0.0, threads - 1);
  double bytes = 0;
  switch (format) {
    case VideoFormat::mp4:
    case VideoFormat::mov:
    case VideoFormat::mkv: bytes = (0.3 + 0.2 * threads + 0.09 * held) * kMiB + (33 + 2.88 * held + 8.6 * at_work) * padded; break;
    case VideoFormat::webm: bytes = 2.1 * kMiB + 6.1 * kMiB * threads + 78 * (width + 160) * (height + 160); break;
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

int encoder_threads(VideoFormat format, const VideoSettings& settings) {
  constexpr int kRows = 32, kMostOfLibvpx = 8;
  return std::clamp(format == VideoFormat::webm ? kMostOfLibvpx : settings.height / kRows, 1, settings.threads);
}

MetadataText metadata_text(const VideoSettings& settings) {
  auto object = nlohmann::ordered_json::object();
  for (const auto& [key, value] : settings.metadata) object[key] = value;
  // Bytes that are not UTF-8 become U+FFFD; what is parsed back is valid text throughout.
  MetadataText text{object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace), ""};
  if (object.contains("prompt")) text.title = nlohmann::ordered_json::parse(text.json)["prompt"].get<std::string>();
  return text;
}

OutputFile::OutputFile(const SinkTarget& target, const char* mode)
    : name_(target.name), file_(std::fopen(target.path.c_str(), mode)) {
  check_system(file_ != nullptr);
}

void OutputFile::check_system(bool ok) const {
  const int error = errno;
  check(ok, ErrorKind::io, kWhere, "cannot write {}: {}. Free some space or choose another place with -o.", name_.string(),
        std::generic_category().message(error));
}

void OutputFile::write(std::span<const std::uint8_t> bytes) {
  check_system(std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) == bytes.size());
}

void OutputFile::seek_from_end(long offset) { check_system(std::fseek(file_.get(), offset, SEEK_END) == 0); }

void OutputFile::close() { check_system(std::fclose(file_.release()) == 0); }

}  // namespace zoe
