#include "media/metadata.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <vector>

#include "base/error.h"
#include "media/read_comment.h"

namespace zoe {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPngSignature = "\x89PNG\r\n\x1a\n";
constexpr std::size_t kMaxCommentBytes = 64 << 20;  // prompts of 1 MiB, escaped

// The text of a PNG's iTXt chunk "Comment", as ours: not compressed, no language. "" if there is none before the end.
std::string png_comment(std::ifstream& file, std::string_view where, const fs::path& path) {
  const auto whole_number = [](const unsigned char* bytes) {
    return std::size_t{bytes[0]} << 24 | std::size_t{bytes[1]} << 16 | std::size_t{bytes[2]} << 8 | bytes[3];
  };
  constexpr std::string_view kKeyword("Comment\0\0\0\0\0", 12);
  std::array<unsigned char, 8> head{};
  while (file.read(reinterpret_cast<char*>(head.data()), head.size())) {
    const std::size_t length = whole_number(head.data());
    const std::string_view type(reinterpret_cast<const char*>(head.data()) + 4, 4);
    if (type == "IEND") break;
    if (type == "iTXt" && length >= kKeyword.size() && length <= kMaxCommentBytes) {
      std::string text(length, '\0');
      check(static_cast<bool>(file.read(text.data(), static_cast<std::streamsize>(length))), ErrorKind::invalid_argument, where,
            "{} is cut off within its text. Choose another file.", path.string());
      if (text.starts_with(kKeyword)) return text.substr(kKeyword.size());
      file.seekg(4, std::ios::cur);
    } else {
      file.seekg(static_cast<std::streamoff>(length) + 4, std::ios::cur);  // the checksum
    }
  }
  return {};
}

fs::path first_picture(const fs::path& folder, std::string_view where) {
  std::vector<fs::path> pictures;
  std::error_code status;
  for (const auto& entry : fs::directory_iterator(folder, status))
    if (entry.path().extension() == ".png") pictures.push_back(entry.path());
  check(!pictures.empty(), ErrorKind::invalid_argument, where, "{} holds no .png. Choose a folder of frames, or a video.",
        folder.string());
  return *std::min_element(pictures.begin(), pictures.end());
}

}  // namespace

std::string read_video_metadata(const fs::path& path, std::string_view where) {
  std::error_code status;
  const fs::path source = fs::is_directory(path, status) ? first_picture(path, where) : path;
  std::ifstream file(source, std::ios::binary);
  check(file.is_open(), ErrorKind::io, where, "cannot open {}. Choose a video or picture that Zoetrope made.", source.string());
  std::array<char, 8> signature{};
  file.read(signature.data(), signature.size());
  const bool is_png = std::string_view(signature.data(), signature.size()) == kPngSignature;
  const std::string text = is_png ? png_comment(file, where, source) : movie_comment(source, where);
  check(text.starts_with('{'), ErrorKind::invalid_argument, where,
        "{} holds no settings of a run. Choose a video or picture that Zoetrope made.", source.string());
  return text;
}

}  // namespace zoe
