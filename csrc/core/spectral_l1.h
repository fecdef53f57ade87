// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "export.h"
#include "types.h"

namespace rsvheat {

// With d = pred - target, both NCHW: sums[0] = sum |d|, sums[1] = sum |dct2d(d)|, in float64.
// If grad is not null it receives idct2d(sign(dct2d(d))) in pred's dtype, the gradient of sums[1]
// with respect to pred. The sums are taken in a fixed order: they do not depend on the number of
// threads. grad must not overlap the inputs. Memory and thread-safety as for dct2d_cpu.
RSVHEAT_API void spectral_l1_cpu(const void* pred, const void* target, double* sums, void* grad,
                                 DType dtype, Shape shape, const ParallelFor& parallel);

}  // namespace rsvheat
