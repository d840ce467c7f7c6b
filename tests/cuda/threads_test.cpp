// Several sessions on one device, on the fake driver: every handle, bound and order of calls is checked there.
#include <gtest/gtest.h>

#include "cuda/fake.h"
#include "testing/temporary_folder.h"
#include "testing/use_from_threads.h"

namespace zoe::testing {
namespace {

TEST(VendorThreads, UseOneDevice) {
  for (const cuda::Vendor* vendor : {&cuda::kCuda, &cuda::kRocm}) {
    const FakeVendor& fake = fake_of(*vendor);
    const TemporaryFolder cache;
    for (int i = 0; i < 2; ++i) {  // programs are built, then found
      fake.order("");
      use_from_threads(*open_platform(vendor->platform, fake.options(cache.path())), false);
      EXPECT_STREQ(fake.problems(), "");
      EXPECT_STREQ(fake.alive(), "");
    }
  }
}

}  // namespace
}  // namespace zoe::testing
