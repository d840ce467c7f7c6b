// docs/images/architecture.svg shows what the code is: its arrows are the links of the CMake targets, and what a folder of src/
// includes lies along them.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>

#include "base/error.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;

using Arrows = std::map<std::string, std::map<std::string, bool>>;  // from, to, whether public

const fs::path kSource = ZOE_SOURCE;

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

template <class Visit>
void each_match(const std::string& text, const char* pattern, Visit visit) {
  const std::regex expression(pattern);
  for (auto match = std::sregex_iterator(text.begin(), text.end(), expression); match != std::sregex_iterator(); ++match)
    visit(*match);
}

std::set<std::string> folders() {
  std::set<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(kSource / "src"))
    if (fs::exists(entry.path() / "CMakeLists.txt")) names.insert(entry.path().filename().string());
  return names;
}

// Every target of another folder that a folder's CMakeLists.txt names, by the word PUBLIC or PRIVATE before it.
Arrows links() {
  const std::set<std::string> all = folders();
  Arrows arrows;
  for (const std::string& folder : all) {
    std::string keyword;
    each_match(text_of(kSource / "src" / folder / "CMakeLists.txt"), "[A-Za-z0-9_:]+", [&](const std::smatch& match) {
      const std::string word = match.str();
      if (word == "PUBLIC" || word == "PRIVATE" || word == "SOURCES") keyword = word;
      const std::string name = word.starts_with("zoe_") ? word.substr(4) : "";
      if (name != folder && all.count(name)) arrows[folder][name] = keyword == "PUBLIC";
    });
  }
  return arrows;
}

struct Picture {
  std::set<std::string> boxes;
  Arrows arrows;
};

Picture picture() {
  const std::string svg = text_of(kSource / "docs/images/architecture.svg");
  Picture result;
  each_match(svg, R"re(<rect id="([a-z_]+)")re", [&](const std::smatch& match) { result.boxes.insert(match[1]); });
  each_match(svg, R"re(<line id="([a-z_]+)-([a-z_]+)" class="(public|private)")re",
             [&](const std::smatch& match) { result.arrows[match[1]][match[2]] = match[3] == "public"; });
  return result;
}

// What a folder may include: whatever it has an arrow to, and what public arrows lead to from there.
std::set<std::string> reached_from(const Arrows& arrows, const std::string& folder) {
  std::set<std::string> reached{folder};
  const auto follow = [&](const auto& self, const std::string& from) -> void {
    if (const auto found = arrows.find(from); found != arrows.end())
      for (const auto& [to, is_public] : found->second)
        if ((is_public || from == folder) && reached.insert(to).second) self(self, to);
  };
  follow(follow, folder);
  return reached;
}

// The folders whose headers a file includes.
std::set<std::string> included_by(const fs::path& path) {
  std::set<std::string> names;
  each_match(text_of(path), R"re((^|\n)[ \t]*#[ \t]*include[ \t]*["<]([a-z_]+)/)re",
             [&](const std::smatch& match) { names.insert(match[2]); });
  return names;
}

TEST(Architecture, ArrowsAreTheLinksOfTheTargets) {
  const Picture drawn = picture();
  EXPECT_EQ(drawn.boxes, folders()) << "Run docs/architecture.py.";
  const auto list = [](const Arrows& arrows) {
    std::set<std::string> texts;
    for (const auto& [from, all] : arrows)
      for (const auto& [to, is_public] : all)
        texts.insert(fmt::format("{} -> {} ({})", from, to, is_public ? "public" : "private"));
    return texts;
  };
  EXPECT_EQ(list(drawn.arrows), list(links())) << "The picture (left) is not what CMake has (right). Run docs/architecture.py.";
}

TEST(Architecture, IncludesFollowTheArrows) {
  const std::set<std::string> all = folders();
  const Arrows arrows = picture().arrows;
  const fs::path src = kSource / "src";
  std::size_t followed = 0;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(src)) {
    if (!entry.is_regular_file()) continue;
    const fs::path file = fs::relative(entry.path(), src);
    // zoetrope.h, beside the folders, is the face of pipeline.
    const std::string folder = file.has_parent_path() ? file.begin()->string() : "pipeline";
    const std::set<std::string> allowed = reached_from(arrows, folder);
    for (const std::string& name : included_by(entry.path())) {
      if (!all.count(name)) continue;  // of a library outside
      EXPECT_TRUE(allowed.count(name)) << file.string() << " includes " << name << "/, to which no arrows lead from " << folder
                                       << ".";
      followed += name != folder;
    }
  }
  EXPECT_GT(followed, 100u);  // there is something to hold to the picture
}

TEST(Architecture, ThePageNamesFilesThatAreThere) {
  std::size_t named = 0;
  each_match(text_of(kSource / "docs/architecture.md"), R"re(`((src|tests|docs|apps)/[^` ]+)`)re", [&](const std::smatch& match) {
    EXPECT_TRUE(fs::exists(kSource / match[1].str())) << "docs/architecture.md names " << match[1] << ".";
    ++named;
  });
  EXPECT_GT(named, 20u);
}

TEST(Architecture, AnArrowAgainstTheOrderWouldBeSeen) {
  const Arrows arrows = picture().arrows;
  EXPECT_TRUE(reached_from(arrows, "models").count("base"));
  EXPECT_FALSE(reached_from(arrows, "models").count("platform"));
  EXPECT_FALSE(reached_from(arrows, "base").count("ir"));
  // A private arrow leads only those who have it.
  EXPECT_EQ(reached_from({{"a", {{"b", true}}}, {"b", {{"c", false}, {"d", true}}}}, "a"), (std::set<std::string>{"a", "b", "d"}));
}

}  // namespace
}  // namespace zoe
