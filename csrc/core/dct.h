// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "export.h"
#include "types.h"

namespace rsvheat {

// Orthonormal DCT-II (inverse: DCT-III) over the height and width of every channel.
// x and y hold shape's elements densely in `layout`; they may be the same pointer, otherwise they
// must not overlap. No alignment is required beyond the element's. Extents are at most
// kMaxTransformSize; any extent may be 0. Thread-safe. Throws std::bad_alloc before it starts a
// thread if its work space cannot be had, and nothing else.
RSVHEAT_API void dct2d_cpu(const void* x, void* y, DType dtype, Shape shape, Layout layout,
                           bool inverse, const ParallelFor& parallel);

}  // namespace rsvheat
