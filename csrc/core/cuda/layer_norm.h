// SPDX-License-Identifier: Apache-2.0
// CUDA counterpart of ../layer_norm.h; pointers, workspace and stream as in heat_conduction.h.
// Accesses are 16 bytes wide where addresses and strides are multiples of that.
#pragma once

#include <cstddef>

#include "../layer_norm.h"
#include "status.h"

namespace rsvheat {

// Rows are `x_stride` and `other_stride` elements apart, so halves of the channels of one tensor
// are taken as they are; y and gradients are dense. With kAdd, `other` and y may be of another
// type than x, float32, where that is bfloat16 or float16, and y may be a dense `other`.
struct NormRows {
  int64_t rows, channels, x_stride, other_stride;
};

Status layer_norm_cuda(NormStep step, const void* x, DType dtype, const void* other,
                       DType other_dtype, NormParameters norm, void* y, NormRows rows,
                       cudaStream_t stream);

// grad_y is dense and of the type of y. Sums are taken in an order that depends on the number of
// rows alone.
size_t layer_norm_backward_cuda_workspace(DType dtype, int64_t rows, int64_t channels);
Status layer_norm_backward_cuda(NormStep step, const void* grad_y, const void* x, DType dtype,
                                const void* other, DType other_dtype, NormParameters norm,
                                void* grad_x, void* grad_other, void* grad_weight, void* grad_bias,
                                NormRows rows, void* workspace, cudaStream_t stream);

}  // namespace rsvheat
