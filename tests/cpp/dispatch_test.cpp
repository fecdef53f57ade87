// SPDX-License-Identifier: Apache-2.0
#include "core/cpu/dispatch.h"
#include "core/cpu/plan_cache.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "core/dct.h"
#include "support.h"

namespace rsvheat::testing {
namespace {

constexpr CpuCapability kAllCapabilities[] = {CpuCapability::kGeneric, CpuCapability::kAvx2,
                                              CpuCapability::kAvx512};

void transform(int64_t length) {
  const Array x(DType::kFloat32, Values(length, 1.0));
  Array y(DType::kFloat32, length);
  dct2d_cpu(x.data(), y.data(), DType::kFloat32, {1, length, 1, 1}, Layout::kNhwc, false, kSerial);
}

TEST(Dispatch, TheEnvironmentIsObeyed) {
  const char* asked = std::getenv("RSVHEAT_CPU_CAPABILITY");
  if (asked == nullptr) GTEST_SKIP() << "RSVHEAT_CPU_CAPABILITY is not set";
  EXPECT_STREQ(cpu_capability_name(cpu_capability()), asked);
  EXPECT_EQ(cpu_capability_warning(), nullptr);
}

TEST(Dispatch, NamesAreParsedAndNothingElseIs) {
  for (CpuCapability capability : kAllCapabilities) {
    CpuCapability parsed{};
    ASSERT_TRUE(parse_cpu_capability(cpu_capability_name(capability), &parsed));
    EXPECT_EQ(parsed, capability);
  }
  for (const char* name : {"", "AVX2", "avx", "avx5123", "sse2"}) {
    CpuCapability parsed{};
    EXPECT_FALSE(parse_cpu_capability(name, &parsed)) << name;
  }
}

TEST(Dispatch, SettingChangesTheChoiceIfItIsAvailable) {
  const CpuCapability before = cpu_capability();
  EXPECT_TRUE(cpu_capability_available(CpuCapability::kGeneric));
  for (CpuCapability capability : kAllCapabilities) {
    const CpuCapability current = cpu_capability();
    const bool available = cpu_capability_available(capability);
    EXPECT_EQ(set_cpu_capability(capability), available);
    EXPECT_EQ(cpu_capability(), available ? capability : current);
  }
  EXPECT_TRUE(set_cpu_capability(before));
}

TEST(PlanCache, PlansAreKeptOnceAndCleared) {
  clear_cpu_plan_cache();
  EXPECT_EQ(cpu_plan_cache_info().plans, 0U);
  EXPECT_EQ(cpu_plan_cache_info().bytes, 0U);
  transform(61);
  const PlanCacheInfo first = cpu_plan_cache_info();
  EXPECT_GT(first.plans, 0U);
  EXPECT_GT(first.bytes, 0U);
  transform(61);
  EXPECT_EQ(cpu_plan_cache_info().plans, first.plans);
  transform(67);
  EXPECT_GT(cpu_plan_cache_info().plans, first.plans);
  clear_cpu_plan_cache();
  EXPECT_EQ(cpu_plan_cache_info().plans, 0U);
}

TEST(PlanCache, ItsSizeIsBounded) {
  clear_cpu_plan_cache();
  for (int64_t length = 1501; length < 3500; length += 2 * 37)
    transform(length);  // odd: dense tables
  EXPECT_LT(cpu_plan_cache_info().bytes, size_t{128} << 20);
  clear_cpu_plan_cache();
}

}  // namespace
}  // namespace rsvheat::testing
