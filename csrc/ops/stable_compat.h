// SPDX-License-Identifier: Apache-2.0
// What torch's stable ABI (as of 2.10) leaves to its users.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <new>

#include "core/types.h"

namespace rsvheat {

// torch's thread pool as the core's ParallelFor. Bodies of the core never throw, as they must not
// inside torch's.
inline ParallelFor torch_threads() {
  const auto run = [](int64_t count, void (*body)(void*, int64_t, int64_t), void* context) {
    torch::stable::parallel_for(0, count, /*grain_size=*/1,
                                [=](int64_t begin, int64_t end) { body(context, begin, end); });
  };
  return {run, static_cast<int>(torch::stable::get_num_threads())};
}

// Calls a kernel of the core. Its one exception would reach Python as a bare "std::bad_alloc".
template <class Kernel>
auto run_kernel(const char* op, const Kernel& kernel) {
  try {
    return kernel(torch_threads());
  } catch (const std::bad_alloc&) {
    STD_TORCH_CHECK(false, op, ": not enough memory for the work space of the transform");
  }
}

}  // namespace rsvheat
