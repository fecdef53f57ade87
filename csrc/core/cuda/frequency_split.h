// SPDX-License-Identifier: Apache-2.0
// CUDA counterpart of ../frequency_split.h; pointers, workspace and stream as in heat_conduction.h.
#pragma once

#include <cstddef>

#include "../types.h"
#include "status.h"

namespace rsvheat {

Status frequency_split_cuda_workspace(Shape shape, DType dtype, cudaStream_t stream, size_t* bytes);

// radius and angles are device memory and are not checked, as that would synchronize.
Status frequency_split_cuda(const void* x, const double* radius, const double* angles, void* low,
                            void* high, DType dtype, Shape shape, void* workspace,
                            cudaStream_t stream);

}  // namespace rsvheat
