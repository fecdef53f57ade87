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
  constexpr int kTiles = 2;  // the filter has its own
  return launch(kernels().heat_conduction, job, dtype, shape, Layout::kNhwc, kTiles, parallel);
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
  const int tiles = grad_coefficients ? 4 : 2;  // grad_y, the filter, x and the sums
  launch(kernels().heat_conduction_backward, job, dtype, shape, Layout::kNhwc, tiles, parallel);
}

}  // namespace rsvheat
