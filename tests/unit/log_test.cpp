#include "base/log.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

namespace zoe {
namespace {

LogSink into(std::string& text) {
  return [&text](LogLevel level, std::string_view message) {
    text += (level == LogLevel::notice ? "notice " : "detail ") + std::string(message) + ";";
  };
}

TEST(Log, DropsMessagesOutsideOfAScope) {
  log(LogLevel::notice, "before");
  std::string text;
  {
    const LogScope scope(into(text));
    log(LogLevel::detail, "within");
  }
  log(LogLevel::notice, "behind");
  EXPECT_EQ(text, "detail within;");
}

TEST(Log, AnInnerScopeHidesTheOuter) {
  std::string outer, inner;
  const LogScope scope(into(outer));
  log(LogLevel::notice, "1");
  {
    const LogScope nested(into(inner));
    log(LogLevel::notice, "2");
    const LogScope silent{LogSink()};
    log(LogLevel::notice, "3");
  }
  log(LogLevel::notice, "4");
  EXPECT_EQ(outer, "notice 1;notice 4;");
  EXPECT_EQ(inner, "notice 2;");
}

// Two uses of the library in one process hear of nothing but their own.
TEST(Log, ThreadsHaveTheirOwnSinks) {
  std::string here;
  const LogScope scope(into(here));
  std::vector<std::string> texts(4);
  {
    std::vector<std::jthread> threads;
    for (std::string& text : texts)
      threads.emplace_back([&] {
        log(LogLevel::notice, "to nobody");
        const LogScope own(into(text));
        for (int i = 0; i < 100; ++i) log(LogLevel::notice, "x");
      });
  }
  EXPECT_EQ(here, "");
  for (const std::string& text : texts) EXPECT_EQ(text.size(), 100 * std::string("notice x;").size());
}

TEST(Log, ThreadsThatWorkForOneAnotherShareASinkOneCallAtATime) {
  std::string text;  // no lock of its own
  const LogScope scope(into(text));
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([target = log_target()] {
        const LogScope inherited(target);
        for (int i = 0; i < 1000; ++i) log(LogLevel::notice, "x");
      });
  }
  EXPECT_EQ(text.size(), 4000 * std::string("notice x;").size());
}

}  // namespace
}  // namespace zoe
