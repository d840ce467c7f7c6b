#include "media/read_comment.h"

extern "C" {
#include <libavformat/avformat.h>
}

#include "base/error.h"
#include "media/ffmpeg.h"

namespace zoe {

std::string movie_comment(const std::filesystem::path& path, std::string_view where) {
  capture_log();
  AVFormatContext* opened = nullptr;
  // "file:" so that no name is taken for a protocol's.
  const std::string name = "file:" + path.string();
  const int result = avformat_open_input(&opened, name.c_str(), nullptr, nullptr);
  check(result >= 0, ErrorKind::invalid_argument, where, "{} is no video. Choose a video or picture that Zoetrope made.",
        path.string());
  std::string text;
  const auto take = [&](const AVDictionary* tags) {
    const AVDictionaryEntry* const entry = av_dict_get(tags, "comment", nullptr, 0);  // in any case
    if (entry && text.empty()) text = entry->value;
  };
  take(opened->metadata);
  for (unsigned int i = 0; i < opened->nb_streams; ++i) take(opened->streams[i]->metadata);
  avformat_close_input(&opened);
  return text;
}

}  // namespace zoe
