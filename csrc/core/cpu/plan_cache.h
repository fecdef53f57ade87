// SPDX-License-Identifier: Apache-2.0
// What may be seen of the cache of transform plans (twiddle tables, by size and precision), which
// are built on first use and kept.
#pragma once

#include <cstddef>

#include "../export.h"

namespace rsvheat {

struct PlanCacheInfo {
  size_t plans, bytes;
};
RSVHEAT_API PlanCacheInfo cpu_plan_cache_info();

// Safe at any time; plans in use are freed when their call ends.
RSVHEAT_API void clear_cpu_plan_cache();

}  // namespace rsvheat
