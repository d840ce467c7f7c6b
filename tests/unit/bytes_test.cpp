#include "base/bytes.h"

#include <gtest/gtest.h>

namespace zoe {
namespace {

using Texts = std::pair<std::string, std::string>;
constexpr std::size_t kMiB = 1 << 20, kGiB = 1 << 30;

TEST(BytesApart, HaveOneUnitThatTellsThemApart) {
  EXPECT_EQ(bytes_apart(3 * kGiB, kGiB / 2), (Texts{"3.0 GiB", "0.5 GiB"}));
  EXPECT_EQ(bytes_apart(kGiB, kGiB - 1 * kMiB), (Texts{"1024.0 MiB", "1023.0 MiB"}));
  EXPECT_EQ(bytes_apart(310 * kMiB, 300 * kMiB), (Texts{"310.0 MiB", "300.0 MiB"}));
  EXPECT_EQ(bytes_apart(kMiB + 1024, kMiB), (Texts{"1025.0 KiB", "1024.0 KiB"}));
  EXPECT_EQ(bytes_apart(kGiB + 1, kGiB), (Texts{"1073741825 bytes", "1073741824 bytes"}));
  EXPECT_EQ(bytes_apart(kGiB, kGiB), (Texts{"1.0 GiB", "1.0 GiB"}));
  EXPECT_EQ(bytes_apart(0, 0), (Texts{"0 bytes", "0 bytes"}));
}

}  // namespace
}  // namespace zoe
