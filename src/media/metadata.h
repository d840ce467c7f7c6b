// What Zoetrope wrote of a run into a video or picture.
#pragma once

#include <filesystem>
#include <string>

namespace zoe {

// The JSON object of texts that VideoSettings::metadata became, from an .mp4, .mov, .mkv, .webm, .gif or .png, or the first picture
// of a folder of frames. `where` names the argument in errors: invalid_argument if it is no such file or holds no such text, io if
// it cannot be read; unsupported for videos in a build without FFmpeg. The text comes from outside: nothing of it is checked but
// that it is an object.
std::string read_video_metadata(const std::filesystem::path& path, std::string_view where);

}  // namespace zoe
