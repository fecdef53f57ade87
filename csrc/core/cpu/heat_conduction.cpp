// SPDX-License-Identifier: Apache-2.0
#include "../heat_conduction.h"

#include "launch.h"

namespace rsvheat {

bool heat_conduction_cpu(const void* x, Coefficients coefficients, Conduction kind, void* y,
                         DType dtype, Shape shape, const ParallelFor& parallel) {
  if (is_empty(shape)) return true;
  HeatJob job{};
  job.x = x;
  job.coefficients = coefficients;
  job.kind = kind;
  job.y = y;
  // The filter has a tile of its own. In strips, the plane lies in y if its type can hold it.
  const TileNeeds needs{.whole = 2, .strips = 1, .planes = is_half(dtype) ? 1 : 0};
  return launch(kernels().heat_conduction, job, dtype, shape, Layout::kNhwc, needs, parallel);
}

void heat_conduction_backward_cpu(const void* grad_y, const void* x, Coefficients coefficients,
                                  Conduction kind, void* grad_x, void* grad_coefficients,
                                  DType dtype, Shape shape, const ParallelFor& parallel) {
  if (is_empty(shape)) {
    if (grad_coefficients) {
      fill_zeros(grad_coefficients,
                 shape.height * shape.width * shape.channels * compute_bytes(dtype));
    }
    return;
  }
  HeatBackwardJob job{};
  job.grad_y = grad_y;
  job.x = x;
  job.coefficients = coefficients;
  job.kind = kind;
  job.grad_x = grad_x;
  job.grad_coefficients = grad_coefficients;
  // Whole: grad_y, the filter, x and the sums. In strips: grad_y and x, whose planes lie in the
  // gradients where these can hold them.
  TileNeeds needs{.whole = 2, .strips = 1, .planes = grad_x && !is_half(dtype) ? 0 : 1};
  if (grad_coefficients) {
    needs.whole = 4;
    needs.strips = 2;
    if (shape.batch > 1) ++needs.planes;
  }
  launch(kernels().heat_conduction_backward, job, dtype, shape, Layout::kNhwc, needs, parallel);
}

}  // namespace rsvheat
