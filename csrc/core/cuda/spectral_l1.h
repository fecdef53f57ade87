// SPDX-License-Identifier: Apache-2.0
// CUDA counterpart of ../spectral_l1.h; pointers, workspace and stream as in heat_conduction.h.
#pragma once

#include <cstddef>

#include "../types.h"
#include "status.h"

namespace rsvheat {

Status spectral_l1_cuda_workspace(Shape shape, DType dtype, cudaStream_t stream, size_t* bytes);

// spatial_sum and spectral_sum: one element each in device memory, float64 if dtype is, else
// float32; summed in float64 in a fixed order. grad may be null.
Status spectral_l1_cuda(const void* pred, const void* target, void* spatial_sum, void* spectral_sum,
                        void* grad, DType dtype, Shape shape, void* workspace, cudaStream_t stream);

}  // namespace rsvheat
