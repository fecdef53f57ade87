// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "export.h"
#include "types.h"

namespace rsvheat {

// A layer norm of rows of `channels` values and the pointwise step after it:
//   kGate: y = norm(x) * silu(other)        kAdd: y = other + norm(x)
enum class NormStep : int { kGate = 0, kAdd = 1 };

// weight and bias: (channels,), float64 for a float64 operand, float32 otherwise.
struct NormParameters {
  const void *weight, *bias;
  double eps;
};

// All operands are dense (rows, channels) of `dtype`; y overlaps none of them. Thread-safety as for
// dct2d_cpu; no work space.
RSVHEAT_API void layer_norm_cpu(NormStep step, const void* x, const void* other,
                                NormParameters norm, void* y, DType dtype, int64_t rows,
                                int64_t channels, const ParallelFor& parallel);

// Gradients with respect to x, other (kGate; for kAdd it is grad_y, and grad_other is not used),
// weight and bias. The last two, (channels,) in the type of the parameters, are summed in an order
// that does not depend on the number of threads. Uses work space of a few kilobytes a row block.
RSVHEAT_API void layer_norm_backward_cpu(NormStep step, const void* grad_y, const void* x,
                                         const void* other, NormParameters norm, void* grad_x,
                                         void* grad_other, void* grad_weight, void* grad_bias,
                                         DType dtype, int64_t rows, int64_t channels,
                                         const ParallelFor& parallel);

}  // namespace rsvheat
