// SPDX-License-Identifier: Apache-2.0
#include "plan_cache_registry.h"

#include <atomic>

namespace rsvheat {
namespace {

std::atomic<const CudaPlanCache*> registered{nullptr};

}  // namespace

void register_cuda_plan_cache(const CudaPlanCache* cache) { registered = cache; }

const CudaPlanCache* cuda_plan_cache() { return registered; }

}  // namespace rsvheat
