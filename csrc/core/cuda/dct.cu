// SPDX-License-Identifier: Apache-2.0
#include "dct.h"

#include "transform.h"

namespace rsvheat {

Status dct2d_cuda_workspace(Shape shape, DType dtype, Layout layout, cudaStream_t stream,
                            size_t* bytes) {
  return cuda::transform_workspace(shape, dtype, layout, /*round_trip=*/false, stream, bytes);
}

Status dct2d_cuda(const void* x, void* y, DType dtype, Shape shape, Layout layout, bool inverse,
                  void* workspace, cudaStream_t stream) {
  return cuda::run_transform({x, dtype, y, dtype, shape, layout, !inverse, inverse}, workspace,
                             stream);
}

}  // namespace rsvheat
