// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdio>

#include "core/cpu/dispatch.h"

// ctest runs this once for each RSVHEAT_CPU_CAPABILITY; a CPU without it skips the run.
constexpr int kSkipped = 77;

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (const char* warning = rsvheat::cpu_capability_warning()) {
    std::fprintf(stderr, "%s\n", warning);
    return kSkipped;
  }
  return RUN_ALL_TESTS();
}
