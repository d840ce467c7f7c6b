#include "media/video_reader.h"

#include <algorithm>
#include <cctype>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"

namespace zoe {

namespace {

namespace fs = std::filesystem;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// frame_2 before frame_10.
struct ByNumbers {
  bool operator()(const std::string& a, const std::string& b) const {
    std::size_t i = 0, j = 0;
    const auto digits = [](const std::string& text, std::size_t& at) {
      const std::size_t begin = std::min(text.find_first_not_of('0', at), text.size());
      at = begin;
      while (at < text.size() && is_digit(text[at])) ++at;
      return std::string_view(text).substr(begin, at - begin);
    };
    while (i < a.size() && j < b.size()) {
      if (is_digit(a[i]) && is_digit(b[j])) {
        const std::string_view x = digits(a, i), y = digits(b, j);
        if (x.size() != y.size()) return x.size() < y.size();
        if (x != y) return x < y;
      } else if (a[i] != b[j]) {
        return a[i] < b[j];
      } else {
        ++i, ++j;
      }
    }
    return a.size() - i != b.size() - j ? a.size() - i < b.size() - j : a < b;
  }
};

bool is_picture(const fs::path& path) {
  std::string suffix = path.extension().string();
  for (char& c : suffix) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return suffix == ".png" || suffix == ".jpg" || suffix == ".jpeg" || suffix == ".webp";
}

class FolderReader : public VideoReader {
 public:
  FolderReader(const fs::path& folder, std::string_view where) : folder_(folder), where_(where) {
    std::set<std::string, ByNumbers> names;
    std::error_code status;
    for (fs::directory_iterator it(folder, status), end; !status && it != end; it.increment(status))
      if (is_picture(it->path())) names.insert(it->path().filename().string());
    check(!status, ErrorKind::io, where_, "cannot read the folder {}: {}.", folder.string(), status.message());
    check(!names.empty(), ErrorKind::invalid_argument, where_,
          "no pictures in {}: got none, expected the frames of a video as PNG, JPEG or WebP files.", folder.string());
    names_.assign(names.begin(), names.end());
  }

  std::optional<Image> next() override {
    if (at_ == names_.size()) return {};
    Image image = read_image(folder_ / names_[at_], where_);
    if (at_ == 0) width_ = image.width, height_ = image.height;
    check(image.width == width_ && image.height == height_, ErrorKind::invalid_argument, where_,
          "{} is of another size than {}: got {}x{}, expected {}x{}. Frames of a video are of one size.", names_[at_], names_[0],
          image.width, image.height, width_, height_);
    ++at_;
    return image;
  }

 private:
  fs::path folder_;
  std::string where_;
  std::vector<std::string> names_;
  std::size_t at_ = 0;
  int width_ = 0, height_ = 0;
};

}  // namespace

std::unique_ptr<VideoReader> open_video(const fs::path& path, std::string_view where) {
  std::error_code status;
  const fs::file_status file = fs::status(path, status);
  check(!status || file.type() == fs::file_type::not_found, ErrorKind::io, where, "cannot read {}: {}.", path.string(),
        status.message());
  check(fs::exists(file), ErrorKind::invalid_argument, where, "no file or folder {}. Check the path.", path.string());
  if (fs::is_directory(file)) return std::make_unique<FolderReader>(path, where);
  check(fs::is_regular_file(file), ErrorKind::invalid_argument, where, "{} is no file: expected a video or a folder of pictures.",
        path.string());
  return open_movie(path, where);
}

}  // namespace zoe
