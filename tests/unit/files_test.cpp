// Output that appears whole or not at all: names of its own, what dead processes leave, what two outputs may not share.
#include "base/files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <functional>
#include <optional>
#include <set>
#include <thread>
#include <vector>

#include "base/error.h"
#include "testing/temporary_folder.h"

namespace zoe {
namespace {

namespace fs = std::filesystem;
using Kind = PendingOutput::Kind;

class Files : public ::testing::Test {
 protected:
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& entry : fs::directory_iterator(folder_)) all.push_back(entry.path().filename().string());
    std::sort(all.begin(), all.end());
    return all;
  }
  std::string bytes(const fs::path& path) const {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  static void write(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

  const testing::TemporaryFolder temporary_;
  const fs::path folder_ = temporary_.path();
};

// Runs in a process of its own; the exit code, or 128 + the signal that ended it.
int in_child(const std::function<void()>& run) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      run();
    } catch (...) {
      ::_exit(99);
    }
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string refusal(const fs::path& path, Kind kind, ErrorKind expected = ErrorKind::invalid_argument) {
  try {
    const PendingOutput output(path, kind, "test");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), expected) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "taken: " << path;
  return "";
}

// For a handler of SIGBUS: which file an address is of, while it is mapped.
TEST_F(Files, AnAddressInAMapIsOfItsFile) {
  write(folder_ / "a", std::string(5000, 'a'));
  write(folder_ / "b", std::string(10, 'b'));
  const std::byte* inside = nullptr;
  {
    MappedFile a(folder_ / "a");
    const MappedFile b(folder_ / "b");
    inside = a.bytes().data();
    const MappedFile moved = std::move(a);
    EXPECT_EQ(mapped_file_at(inside), (folder_ / "a").string());
    EXPECT_EQ(mapped_file_at(inside + 4999), (folder_ / "a").string());
    EXPECT_EQ(mapped_file_at(inside + 5000), (folder_ / "a").string());  // the rest of its last page
    EXPECT_EQ(mapped_file_at(b.bytes().data()), (folder_ / "b").string());
    EXPECT_EQ(mapped_file_at(&b), nullptr);
  }
  EXPECT_EQ(mapped_file_at(inside), nullptr);
  EXPECT_EQ(mapped_file_at(nullptr), nullptr);
}

TEST_F(Files, AppearWhenCommittedWithTheModeOfTheMask) {
  for (const mode_t mask : {0022, 0077, 0027}) {
    const mode_t before = ::umask(mask);
    {
      PendingOutput output(folder_ / "a.txt", Kind::file);
      write(output.path(), "text");
      EXPECT_FALSE(fs::exists(folder_ / "a.txt"));
      output.commit();
    }
    ::umask(before);
    struct stat info {};
    ASSERT_EQ(::stat((folder_ / "a.txt").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0666 & ~mask);
    EXPECT_EQ(bytes(folder_ / "a.txt"), "text");
    EXPECT_EQ(names(), std::vector<std::string>{"a.txt"});
    fs::remove(folder_ / "a.txt");
  }
}

TEST_F(Files, NamesOfTemporariesAreShortAndEachTimeOthers) {
  std::set<std::string> seen;
  const std::string longest(255, 'n');
  for (int i = 0; i < 100; ++i) {
    const PendingOutput output(folder_ / longest, i % 2 ? Kind::file : Kind::folder);
    ASSERT_EQ(names().size(), 1u);
    EXPECT_LT(names()[0].size(), 60u);
    seen.insert(names()[0]);
  }
  EXPECT_EQ(seen.size(), 100u);
  PendingOutput output(folder_ / longest, Kind::file);
  output.commit();
  EXPECT_EQ(names(), std::vector<std::string>{longest});
  EXPECT_NE(refusal(folder_ / (longest + "n"), Kind::file).find("is too long: got 256 bytes"), std::string::npos);
  EXPECT_EQ(names(), std::vector<std::string>{longest});
}

TEST_F(Files, TwoOutputsOfAProcessAreNotOneFile) {
  fs::create_directory(folder_ / "below");
  fs::create_directory_symlink(folder_, folder_ / "link");
  std::optional<PendingOutput> first(std::in_place, folder_ / "a", Kind::file, "--profile");
  for (const fs::path& same : {folder_ / "a", folder_ / "below/../a", folder_ / "link/a", folder_ / "." / "a"})
    EXPECT_NE(refusal(same, Kind::file).find("is being written already, for [--profile]"), std::string::npos);
  EXPECT_NE(refusal(folder_ / "a/", Kind::folder).find("is being written already"), std::string::npos);
  EXPECT_NO_THROW(PendingOutput(folder_ / "below/a", Kind::file));
  EXPECT_NO_THROW(PendingOutput(folder_ / "b", Kind::file));
  first->commit();
  PendingOutput second(folder_ / "a", Kind::file);  // the first is done
  second.commit();
  first.reset();
  EXPECT_TRUE(fs::exists(folder_ / "a"));
}

// Many at once, each whole: temporaries of one process never meet, not even for names that begin alike.
TEST_F(Files, ManyThreadsWriteSideBySide) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 25; ++i) {
        PendingOutput output(folder_ / fmt::format("same.{}", t), Kind::file);
        write(output.path(), std::to_string(t));
        if (i % 3 != 1) output.commit();
      }
    });
  for (std::thread& thread : threads) thread.join();
  ASSERT_EQ(names().size(), 8u);
  for (int t = 0; t < 8; ++t) EXPECT_EQ(bytes(folder_ / fmt::format("same.{}", t)), std::to_string(t));
}

TEST_F(Files, WhatAKilledProcessLeftIsRemovedByTheNextForThatPath) {
  for (const Kind kind : {Kind::file, Kind::folder}) {
    EXPECT_EQ(in_child([&] {
                const PendingOutput output(folder_ / "a", kind);
                write(kind == Kind::file ? output.path() : output.path() / "0001.png", "half");
                ::raise(SIGKILL);
              }),
              128 + SIGKILL);
    ASSERT_EQ(names().size(), 1u);
    { const PendingOutput other(folder_ / "b", kind); }
    EXPECT_EQ(names().size(), 1u);  // not meant for that path
    { const PendingOutput next(folder_ / "a", Kind::file); }
    EXPECT_TRUE(names().empty());
  }
}

TEST_F(Files, WhatALivingProcessWritesStays) {
  int ready[2], go[2];
  ASSERT_EQ(::pipe2(ready, O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(go, O_CLOEXEC), 0);
  std::thread child([&] {
    EXPECT_EQ(in_child([&] {
                PendingOutput output(folder_ / "a", Kind::file);
                write(output.path(), "from the child");
                char byte = 0;
                if (::write(ready[1], &byte, 1) != 1 || ::read(go[0], &byte, 1) != 1) ::_exit(98);
                output.commit();
              }),
              0);
  });
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  { const PendingOutput mine(folder_ / "a", Kind::file); }
  EXPECT_EQ(names().size(), 1u);
  ASSERT_EQ(::write(go[1], &byte, 1), 1);
  child.join();
  EXPECT_EQ(bytes(folder_ / "a"), "from the child");
  EXPECT_EQ(names(), std::vector<std::string>{"a"});
}

// Files that only look like ours, and are not ours to remove.
TEST_F(Files, OthersFilesStay) {
  std::string mine;
  {
    const PendingOutput output(folder_ / "a", Kind::file);
    mine = names()[0];
  }
  write(folder_ / mine.substr(0, 13), "x");                           // no end
  write(folder_ / (mine.substr(0, 13) + "-0.partial.txt"), "x");      // another end
  fs::create_symlink("/etc/passwd", folder_ / (mine + "x.partial"));  // a link
  { const PendingOutput output(folder_ / "a", Kind::file); }
  EXPECT_EQ(names().size(), 3u);
}

TEST_F(Files, RemovingAllOfThemLeavesTheCommittedOnes) {
  EXPECT_EQ(in_child([&] {
              PendingOutput done(folder_ / "done", Kind::file);
              done.commit();
              const PendingOutput file(folder_ / "file", Kind::file), pictures(folder_ / "pictures", Kind::folder);
              write(file.path(), "half");
              for (int i = 0; i < 1000; ++i) write(pictures.path() / fmt::format("{}.png", i), "x");
              remove_pending_outputs();
              ::_exit(7);
            }),
            7);
  EXPECT_EQ(names(), std::vector<std::string>{"done"});
}

// Whatever the other threads are at: making, committing, removing, or writing pictures into a folder.
TEST_F(Files, RemovingAllOfThemWhileThreadsWrite) {
  for (int round = 0; round < 40; ++round) {
    EXPECT_EQ(in_child([&] {
                std::vector<std::thread> threads;
                for (int t = 0; t < 4; ++t)
                  threads.emplace_back([&, t] {
                    for (int i = 0;; ++i) {
                      const fs::path path = folder_ / fmt::format("{}-{}", t, i);
                      try {
                        PendingOutput output(path, t % 2 ? Kind::file : Kind::folder);
                        if (t % 2 == 0) write(output.path() / "1", "x"), write(output.path() / "2", "x");
                        else write(output.path(), "whole");
                        if (i % 2) output.commit();
                      } catch (const Error&) {  // its folder was removed while it wrote there
                      }
                    }
                  });
                ::usleep(static_cast<useconds_t>(1000 + 700 * round));
                remove_pending_outputs();
                ::_exit(0);
              }),
              0);
    for (const std::string& name : names()) {
      EXPECT_NE(name[0], '.') << name;
      if (fs::is_directory(folder_ / name)) EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / name), {}), 2) << name;
      else EXPECT_EQ(bytes(folder_ / name), "whole") << name;
      fs::remove_all(folder_ / name);
    }
  }
}

TEST_F(Files, AFolderBehindALinkIsFilled) {
  fs::create_directory(folder_ / "real");
  fs::create_directory_symlink("real", folder_ / "link");
  PendingOutput output(folder_ / "link/", Kind::folder);
  write(output.path() / "1.png", "x");
  output.commit();
  EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
  EXPECT_EQ(bytes(folder_ / "real/1.png"), "x");
}

TEST_F(Files, PathsThatNameNothing) {
  for (const char* path : {"", ".", "..", "/", "x/..", "./."})
    EXPECT_NE(refusal(path, Kind::folder).find("no file name in"), std::string::npos) << path;
}

TEST_F(Files, AFileThatWasPutInThePlaceOfATemporaryIsNotTaken) {
  PendingOutput output(folder_ / "a", Kind::file);
  write(output.path(), "mine");
  const fs::path temporary = folder_ / names()[0];
  fs::remove(temporary);
  write(temporary, "another's");
  try {
    output.commit();
    ADD_FAILURE() << "committed";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
    EXPECT_NE(std::string(error.what()).find("somebody else changed the folder"), std::string::npos) << error.what();
  }
  EXPECT_FALSE(fs::exists(folder_ / "a"));
}

TEST_F(Files, InsideAFolderThroughLinks) {
  fs::create_directories(folder_ / "model/vae");
  fs::create_directory_symlink("model", folder_ / "link");
  fs::create_directory(folder_ / "model-2");
  const fs::path model = folder_ / "model";
  for (const fs::path& path : {model / "a.mp4", model / "vae/a.mp4", folder_ / "link/a.mp4", folder_ / "link/vae/not/there.mp4",
                               model, model / "", folder_ / "model-2/../model/a.mp4"}) {
    EXPECT_TRUE(is_inside(path, model)) << path;
    EXPECT_TRUE(is_inside(path, folder_ / "link")) << path;
  }
  for (const fs::path& path :
       {folder_ / "a.mp4", folder_ / "model-2/a.mp4", model / "../a.mp4", folder_ / "model.mp4", fs::path("/")})
    EXPECT_FALSE(is_inside(path, model)) << path;
  EXPECT_FALSE(is_inside(folder_ / "a.mp4", folder_ / "missing"));
  write(folder_ / "one", "1");
  write(folder_ / "two", "1");
  fs::create_hard_link(folder_ / "one", folder_ / "hard");
  EXPECT_TRUE(same_file(folder_ / "one", folder_ / "hard"));
  EXPECT_TRUE(same_file(folder_ / "one", folder_ / "model/../one"));
  EXPECT_FALSE(same_file(folder_ / "one", folder_ / "two"));
  EXPECT_FALSE(same_file(folder_ / "one", folder_ / "missing"));
}

// The reason is that of the call that failed, not of one before it.
TEST_F(Files, APlaceThatMayNotBeWrittenSaysWhy) {
  if (::geteuid() != 0) {
    fs::permissions(folder_, fs::perms::owner_read | fs::perms::owner_exec);
    EXPECT_NE(refusal(folder_ / "a", Kind::file, ErrorKind::io).find(": Permission denied."), std::string::npos);
    fs::permissions(folder_, fs::perms::owner_all);
    return;
  }
  EXPECT_EQ(in_child([&] {
              if (::setresuid(65534, 65534, 65534) != 0) ::_exit(90);
              try {
                const PendingOutput output(folder_ / "a", Kind::file);
              } catch (const Error& error) {
                ::_exit(std::string(error.what()).find("Permission denied") != std::string::npos ? 0 : 91);
              }
              ::_exit(92);
            }),
            0);
}

}  // namespace
}  // namespace zoe
