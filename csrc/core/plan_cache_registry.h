// SPDX-License-Identifier: Apache-2.0
// How rsvheat._native, which must import without CUDA, reaches the cuFFT plan cache: the CUDA
// library registers it here when torch loads it.
#pragma once

#include <cstddef>

#include "export.h"

namespace rsvheat {

struct CudaPlanCache {
  size_t (*size)();      // plans held now, over all devices
  size_t (*capacity)();  // plans held at most, beside those of captured graphs
  void (*clear)();       // safe at any time; a plan in use goes when its call has been enqueued
};

// `cache` must live as long as the process.
RSVHEAT_API void register_cuda_plan_cache(const CudaPlanCache* cache);

// Null until the CUDA library is loaded.
RSVHEAT_API const CudaPlanCache* cuda_plan_cache();

}  // namespace rsvheat
