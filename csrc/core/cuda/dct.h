// SPDX-License-Identifier: Apache-2.0
// CUDA counterpart of ../dct.h; pointers, workspace and stream as in heat_conduction.h.
#pragma once

#include <cstddef>

#include "../types.h"
#include "status.h"

namespace rsvheat {

Status dct2d_cuda_workspace(Shape shape, DType dtype, Layout layout, cudaStream_t stream,
                            size_t* bytes);
Status dct2d_cuda(const void* x, void* y, DType dtype, Shape shape, Layout layout, bool inverse,
                  void* workspace, cudaStream_t stream);

}  // namespace rsvheat
