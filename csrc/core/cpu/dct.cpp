// SPDX-License-Identifier: Apache-2.0
#include "../dct.h"

#include "launch.h"

namespace rsvheat {

void dct2d_cpu(const void* x, void* y, DType dtype, Shape shape, Layout layout, bool inverse,
               const ParallelFor& parallel) {
  if (is_empty(shape)) return;
  DctJob job{};
  job.x = x;
  job.y = y;
  job.inverse = inverse;
  const auto& by_dtype = layout == Layout::kNhwc ? kernels().dct2d_nhwc : kernels().dct2d_nchw;
  launch(by_dtype, job, dtype, shape, layout, {1}, parallel);
}

}  // namespace rsvheat
