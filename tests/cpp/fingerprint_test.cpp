// SPDX-License-Identifier: Apache-2.0
#include "core/fingerprint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <set>

#include "core/cpu/dispatch.h"
#include "support.h"

namespace rsvheat::testing {
namespace {

// Less than a block, whole ones, a chunk and several with rests.
constexpr size_t kSizes[] = {1, 3, 4, 255, 256, 257, 5000, 262144, 262145, 800003};

std::vector<std::byte> random_bytes(size_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<std::byte> bytes(count);
  for (auto& byte : bytes) byte = static_cast<std::byte>(generator());
  return bytes;
}

uint64_t of(const std::vector<std::byte>& bytes) {
  return fingerprint_cpu(bytes.data(), bytes.size(), kSerial);
}

TEST(Fingerprint, EveryFlippedBitShows) {
  for (const size_t size : kSizes) {
    auto bytes = random_bytes(size, 1);
    const uint64_t before = of(bytes);
    for (size_t i = 0; i < size; i += 1 + size / 60) {
      for (int bit = 0; bit < 8; ++bit) {
        bytes[i] ^= std::byte{1} << bit;
        EXPECT_NE(of(bytes), before) << "bit " << bit << " of byte " << i << " of " << size;
        bytes[i] ^= std::byte{1} << bit;
      }
    }
    EXPECT_EQ(of(bytes), before);
  }
}

TEST(Fingerprint, ChangesThatSumsDoNotSeeShow) {
  for (const size_t size : {size_t{1024}, size_t{4096}, size_t{1} << 20}) {
    const auto bytes = random_bytes(size, 2);
    std::set<uint64_t> seen{of(bytes)};
    auto signs = bytes;  // of every float
    for (size_t i = 3; i < size; i += 4) signs[i] ^= std::byte{0x80};
    EXPECT_TRUE(seen.insert(of(signs)).second);
    auto reversed = bytes;
    std::reverse(reversed.begin(), reversed.end());
    EXPECT_TRUE(seen.insert(of(reversed)).second);
    auto rotated = bytes;  // by a whole block of lanes
    std::rotate(rotated.begin(), rotated.begin() + 256, rotated.end());
    EXPECT_TRUE(seen.insert(of(rotated)).second);
    auto swapped = bytes;
    std::swap_ranges(swapped.begin(), swapped.begin() + size / 2, swapped.begin() + size / 2);
    EXPECT_TRUE(seen.insert(of(swapped)).second);
    auto shorter = bytes;
    shorter.pop_back();
    EXPECT_TRUE(seen.insert(of(shorter)).second);
    auto zeros = std::vector<std::byte>(size);
    EXPECT_TRUE(seen.insert(of(zeros)).second);
    zeros.push_back(std::byte{0});
    EXPECT_TRUE(seen.insert(of(zeros)).second);
  }
}

TEST(Fingerprint, RandomBytesDoNotCollide) {
  std::set<uint64_t> seen;
  for (uint32_t seed = 0; seed < 20000; ++seed) seen.insert(of(random_bytes(64, seed)));
  EXPECT_EQ(seen.size(), 20000u);
}

TEST(Fingerprint, IsTheSameForThreadsAlignmentsAndInstructionSets) {
  const CpuCapability used = cpu_capability();
  for (const size_t size : kSizes) {
    const auto bytes = random_bytes(size, 3);
    const uint64_t expected = of(bytes);
    EXPECT_EQ(fingerprint_cpu(bytes.data(), size, kCutIn<2>), expected);
    EXPECT_EQ(fingerprint_cpu(bytes.data(), size, kCutIn<3>), expected);
    std::vector<std::byte> shifted(size + 1);
    std::memcpy(shifted.data() + 1, bytes.data(), size);
    EXPECT_EQ(fingerprint_cpu(shifted.data() + 1, size, kSerial), expected);
    for (auto capability :
         {CpuCapability::kGeneric, CpuCapability::kAvx2, CpuCapability::kAvx512}) {
      if (!set_cpu_capability(capability)) continue;
      EXPECT_EQ(of(bytes), expected) << size << ", " << cpu_capability_name(capability);
    }
    set_cpu_capability(used);
  }
}

TEST(Fingerprint, OfNothingIsANumber) {
  EXPECT_EQ(fingerprint_cpu(nullptr, 0, kSerial), fingerprint_cpu(nullptr, 0, kCutIn<2>));
}

}  // namespace
}  // namespace rsvheat::testing
