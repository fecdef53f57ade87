// SPDX-License-Identifier: Apache-2.0
// Plain types shared by every kernel: no torch, no Python, no allocation.
#pragma once

#include <cstdint>

namespace rsvheat {

// Storage type of an operand. Arithmetic is float32, or float64 for kFloat64.
enum class DType : int { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };

// kNhwc: (B, H, W, C), kNchw: (B, C, H, W); both dense and row-major.
enum class Layout : int { kNhwc = 0, kNchw = 1 };

struct Shape {
  int64_t batch, height, width, channels;
};

// Largest extent of a transformed axis.
inline constexpr int64_t kMaxTransformSize = 4096;

// A per-coefficient parameter of logical shape (height, width, channels): the diffusivity k or a
// prepared filter. float64 for a float64 operand, float32 otherwise. Strides are in elements;
// stride_c is 0 or 1, stride_h and stride_w are 0 (broadcast) or positive.
struct Coefficients {
  const void* data;
  int64_t stride_h, stride_w, stride_c;
};

// How a kernel asks its host (torch, or a test) for threads. `run` calls body(context, begin, end)
// on disjoint ranges covering [0, count), at most one range a thread, and returns when all are
// done. No kernel result depends on num_threads or on how the range is cut.
struct ParallelFor {
  void (*run)(int64_t count, void (*body)(void* context, int64_t begin, int64_t end),
              void* context);
  int num_threads;
};

// One thread: the caller's.
inline constexpr ParallelFor kSerial{[](int64_t count, void (*body)(void*, int64_t, int64_t),
                                        void* context) { body(context, 0, count); },
                                     1};

}  // namespace rsvheat
