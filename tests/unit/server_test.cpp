// The parts of the server that need no connection; tests/serve has the rest.
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "base/error.h"
#include "server/api_keys.h"
#include "server/jobs.h"
#include "server/metrics.h"
#include "server/pace.h"
#include "server/range.h"
#include "server/submission.h"
#include "testing/temporary_folder.h"

namespace zoe::server {
namespace {

TEST(Server, RangesLieInTheFile) {
  using Kind = ByteRange::Kind;
  const auto is = [](std::string_view header, Kind kind, std::uint64_t begin, std::uint64_t bytes) {
    const ByteRange range = parse_range(header, 100);
    EXPECT_EQ(range.kind, kind) << header;
    EXPECT_EQ(range.begin, begin) << header;
    EXPECT_EQ(range.bytes, bytes) << header;
  };
  is("bytes=0-0", Kind::part, 0, 1);
  is("bytes=10-", Kind::part, 10, 90);
  is("bytes=-10", Kind::part, 90, 10);
  is("bytes=-1000", Kind::part, 0, 100);
  is("bytes=90-99999999999999999999999", Kind::part, 90, 10);
  is("bytes= 3 - 4 ", Kind::part, 3, 2);
  is("bytes=100-", Kind::none, 0, 0);
  is("bytes=-0", Kind::none, 0, 0);
  for (const char* const other :
       {"", "bytes", "bytes=", "bytes=-", "bytes=5-4", "bytes=1-2,3-4", "bytes=a-b", "items=1-2", "bytes=--1"})
    is(other, Kind::whole, 0, 100);
  EXPECT_EQ(parse_range("bytes=-5", 0).kind, Kind::none);
}

TEST(Server, Base64) {
  EXPECT_EQ(decode_base64(""), "");
  EXPECT_EQ(decode_base64("Zg=="), "f");
  EXPECT_EQ(decode_base64("Zm8="), "fo");
  EXPECT_EQ(decode_base64("Zm9v"), "foo");
  EXPECT_EQ(decode_base64("AP/+"), std::string("\0\xff\xfe", 3));
  for (const char* const none : {"Z", "Zg", "Zg=", "====", "Zm9v\n", "Z=g=", "Zm-v"}) EXPECT_FALSE(decode_base64(none)) << none;
}

TEST(Server, KeysAreKeptAsDigests) {
  const testing::TemporaryFolder folder;
  const auto file = folder.path() / "keys";
  const std::string ann = add_api_key(file, "ann"), bob = add_api_key(file, "bob");
  EXPECT_NE(ann, bob);
  const ApiKeys keys(file);
  EXPECT_EQ(keys.owner(ann), "ann");
  EXPECT_EQ(keys.owner(bob), "bob");
  EXPECT_FALSE(keys.owner("zoe-"));
  EXPECT_FALSE(keys.owner(""));
  EXPECT_THROW(add_api_key(file, "two words"), Error);
  std::ofstream(file, std::ios::app) << "carl " << ann << "\n";
  EXPECT_THROW(ApiKeys{file}, Error);
}

TEST(Server, PaceIsOfTheNearestSize) {
  Pace pace;
  EXPECT_FALSE(pace.guess("m", "cpu", {10, 10, 1}));
  pace.learn("m", "cpu", {10, 10, 1}, {.before = 1, .step = 2, .after = 3});
  pace.learn("m", "cpu", {100, 100, 1}, {.before = 1, .step = 200, .after = 300});
  const auto same = pace.guess("m", "cpu", {10, 10, 1});
  EXPECT_TRUE(same->same_size);
  EXPECT_EQ(same->total(10), 1 + 20 + 3);
  const auto scaled = pace.guess("m", "", {100, 50, 1});
  EXPECT_FALSE(scaled->same_size);
  EXPECT_EQ(scaled->step, 100);
  EXPECT_FALSE(pace.guess("m", "cuda:0", {10, 10, 1}));
  EXPECT_FALSE(pace.guess("n", "cpu", {10, 10, 1}));
}

TEST(Server, HistogramsAreCumulative) {
  Metrics metrics;
  metrics.observe("zoe_step_seconds", 0.02);
  metrics.observe("zoe_step_seconds", 3);
  metrics.observe("zoe_step_seconds", 1e9);
  const std::string text = metrics.text({{"zoe_queue_length", {}, 2}});
  for (const char* const line : {"zoe_step_seconds_bucket{le=\"0.01\"} 0\n", "zoe_step_seconds_bucket{le=\"0.025\"} 1\n",
                                 "zoe_step_seconds_bucket{le=\"5\"} 2\n", "zoe_step_seconds_bucket{le=\"+Inf\"} 3\n",
                                 "zoe_step_seconds_count 3\n", "# TYPE zoe_queue_length gauge\nzoe_queue_length 2\n"})
    EXPECT_NE(text.find(line), text.npos) << line << text;
}

// The device's thread writes into its record while others ask what waits and runs.
TEST(Server, WhoAsksMeanwhileSeesAJobAsItWasTaken) {
  const testing::TemporaryFolder temporary;
  const Folders folders{temporary.path()};
  JobStore store(folders.jobs());
  Jobs jobs(store, folders, {});
  jobs.describe = [](const JobView&) { return std::string("{}"); };
  JobRecord record;
  record.id = "video_1";
  jobs.add(std::move(record), [](const std::string&) {});
  const std::shared_ptr<RunningJob> job = jobs.take("cpu");
  std::atomic<bool> ends{false};
  std::thread worker([&] {
    for (int i = 0; !ends || i < 1000; ++i) {
      job->record.error_message = std::string(static_cast<std::size_t>(100 + i % 7), 'x');
      job->record.started_at = i;
    }
  });
  for (int i = 0; i < 1000; ++i) {
    const std::vector<JobRecord> all = jobs.waiting();
    ASSERT_EQ(all.size(), 1u);
    EXPECT_EQ(all[0].error_message, "");
    EXPECT_EQ(all[0].device, "cpu");
    const std::optional<JobView> view = jobs.find("video_1");
    ASSERT_TRUE(view && view->progress);
    EXPECT_EQ(view->record.started_at, job->taken.started_at);
  }
  ends = true;
  worker.join();
  job->record.status = JobStatus::failed;
  jobs.finish(job);
  EXPECT_TRUE(jobs.waiting().empty());
  EXPECT_EQ(jobs.find("video_1")->record.error_message.front(), 'x');
}

}  // namespace
}  // namespace zoe::server
