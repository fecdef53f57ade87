// SPDX-License-Identifier: Apache-2.0
// CUDA counterpart of ../spatial_correction.h; pointers, workspace and stream as in
// heat_conduction.h. Accesses are 16 bytes wide where addresses and channels are multiples of that.
#pragma once

#include <cstddef>

#include "../spatial_correction.h"
#include "status.h"

namespace rsvheat {

size_t spatial_correction_conv_cuda_workspace(DType dtype, Shape shape);
Status spatial_correction_conv_cuda(const void* x, CorrectionParameters parameters, void* y,
                                    DType dtype, Shape shape, void* workspace, cudaStream_t stream);

// Sums are taken in an order that depends on the shape alone.
size_t spatial_correction_conv_backward_cuda_workspace(DType dtype, Shape shape);
Status spatial_correction_conv_backward_cuda(const void* grad_y, const void* x,
                                             CorrectionParameters parameters,
                                             CorrectionGradients gradients, DType dtype,
                                             Shape shape, void* workspace, cudaStream_t stream);

}  // namespace rsvheat
